//! The basket: lines, and what was chosen within them, as deep as it goes.

use std::str::FromStr;

use rust_decimal::Decimal;
use serde_json::value::RawValue;

use super::{
    file::{File, Modifiers, Names},
    pick::{Amount, Pick},
    reader::Reader,
};
use crate::order::{
    model::{Flag, Line, Modifier, Translation},
    money::{Currency, Money},
    tree::Place,
};

/// How deep choices within choices are read; what lies deeper is kept with what has no field. The deepest that a provider
/// documents has four levels.
const MAX_MODIFIER_DEPTH: usize = 12;

/// The lines, and what they come to.
pub(super) struct Basket {
    pub(super) lines: Vec<Line>,
    pub(super) sum: Money,
}

struct Walk<'w, 't> {
    reader: &'w Reader<'t>,
    modifiers: Option<&'w Modifiers>,
    currency: Currency,
    flags: &'w mut Vec<Flag>,
}

pub(super) fn basket(reader: &Reader<'_>, file: &File, currency: Currency, flags: &mut Vec<Flag>) -> Basket {
    let table = &file.order.lines;
    let mut walk = Walk {
        reader,
        modifiers: file.order.modifiers.as_ref(),
        currency,
        flags,
    };
    let mut basket = Basket {
        lines: Vec::new(),
        sum: Money::zero(currency),
    };
    for place in reader.each(&table.each, reader.root()) {
        let id = reader.optional(&table.id, place);
        let merchant_ref = reader.optional(&table.merchant_ref, place);
        let names = walk.names(&table.names, place);
        let name = walk.name(&table.name, place, &names, [&merchant_ref, &id]);
        let total = reader.amount(&table.total_price, place, currency);
        let unit = reader.amount(&table.unit_price, place, currency);
        let quantity = walk.quantity(&table.quantity, place);
        let modifiers = walk.modifiers(place, 0);
        let (unit_price, total_price) = walk.prices(
            unit,
            total,
            &quantity,
            &modifiers,
            place,
            (&table.unit_price, &table.total_price),
        );
        basket.sum = basket.sum.plus(total_price);
        basket.lines.push(Line {
            external_id: id,
            merchant_ref,
            name,
            names,
            quantity,
            unit_price,
            total_price,
            notes: reader.optional(&table.notes, place),
            modifiers,
        });
    }
    basket
}

impl Walk<'_, '_> {
    fn flag(&mut self, flag: Flag) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
    }

    fn names(&self, names: &Names, place: Place) -> Vec<Translation> {
        let name = |(language, pick): (&String, &Pick)| {
            let text = self.reader.text(pick, place)?;
            Some(Translation {
                language: language.clone(),
                text,
            })
        };
        names.iter().filter_map(name).collect()
    }

    /// A line without a name is still something to cook: its name in another language, or its code, stands in for it.
    fn name(&mut self, pick: &Pick, place: Place, names: &[Translation], codes: [&Option<String>; 2]) -> String {
        if let Some(name) = self.reader.text(pick, place) {
            return name;
        }
        if pick.required {
            return self.reader.required(pick, place);
        }
        if let Some(name) = names.first() {
            return name.text.clone();
        }
        match codes.into_iter().flatten().next() {
            Some(code) => {
                self.flag(Flag::NameMissing);
                code.clone()
            }
            None => self.reader.required(pick, place),
        }
    }

    /// One, where nothing is said.
    fn quantity(&self, pick: &Option<Pick>, place: Place) -> Box<RawValue> {
        self.reader
            .decimal(pick, place)
            .unwrap_or_else(|| RawValue::from_string("1".into()).expect("1 is JSON"))
    }

    /// The price of one and of all, as the provider says; one is worked out of the other where it says only that, and is
    /// flagged.
    fn prices(
        &mut self,
        unit: Option<Money>,
        total: Option<Money>,
        quantity: &RawValue,
        modifiers: &[Modifier],
        place: Place,
        (unit_source, total_source): (&Option<Amount>, &Option<Amount>),
    ) -> (Money, Money) {
        let count = Decimal::from_str(quantity.get()).unwrap_or(Decimal::ONE);
        match (unit, total) {
            (Some(unit), Some(total)) => (unit, total),
            (Some(unit), None) => {
                self.missing(total_source, place, Flag::LineTotalComputed);
                let one = modifiers.iter().map(cost).fold(unit, Money::plus);
                (unit, one.times(count))
            }
            (None, Some(total)) => {
                self.missing(unit_source, place, Flag::UnitPriceComputed);
                let one = Decimal::ONE
                    .checked_div(count)
                    .map_or(total, |share| total.times(share));
                (one, total)
            }
            (None, None) => {
                for source in [unit_source, total_source].into_iter().flatten() {
                    let source = source.from.first().map(|source| self.reader.place_of(source, place));
                    self.reader
                        .fault(&source.unwrap_or_default(), "missing: the price of a line");
                }
                (Money::zero(self.currency), Money::zero(self.currency))
            }
        }
    }

    fn missing(&mut self, amount: &Option<Amount>, place: Place, flag: Flag) {
        match amount {
            Some(amount) if amount.required => {
                let source = amount.from.first().map(|source| self.reader.place_of(source, place));
                self.reader.fault(&source.unwrap_or_default(), "missing");
            }
            _ => self.flag(flag),
        }
    }

    fn modifiers(&mut self, place: Place, depth: usize) -> Vec<Modifier> {
        let Some(table) = self.modifiers.filter(|_| depth < MAX_MODIFIER_DEPTH) else {
            return Vec::new();
        };
        let mut modifiers = Vec::new();
        let Some(groups) = &table.groups else {
            for place in self.reader.each(&table.each, place) {
                let group = self.reader.optional(&table.group, place);
                modifiers.push(self.modifier(table, place, group, depth));
            }
            return modifiers;
        };
        for group in self.reader.each(groups, place) {
            let name = self.reader.optional(&table.group, group);
            for place in self.reader.each(&table.each, group) {
                modifiers.push(self.modifier(table, place, name.clone(), depth));
            }
        }
        modifiers
    }

    fn modifier(&mut self, table: &Modifiers, place: Place, group: Option<String>, depth: usize) -> Modifier {
        let id = self.reader.optional(&table.id, place);
        let merchant_ref = self.reader.optional(&table.merchant_ref, place);
        let names = self.names(&table.names, place);
        let name = self.name(&table.name, place, &names, [&merchant_ref, &id]);
        let quantity = self.quantity(&table.quantity, place);
        let price = self.reader.amount(&table.price, place, self.currency).or_else(|| {
            let total = self.reader.amount(&table.total_price, place, self.currency)?;
            let count = Decimal::from_str(quantity.get()).ok()?;
            Decimal::ONE.checked_div(count).map(|share| total.times(share))
        });
        Modifier {
            group,
            external_id: id,
            merchant_ref,
            name,
            names,
            quantity,
            price: price.unwrap_or(Money::zero(self.currency)),
            modifiers: self.modifiers(place, depth + 1),
        }
    }
}

/// What an addition adds to one of its line.
fn cost(modifier: &Modifier) -> Money {
    let count = Decimal::from_str(modifier.quantity.get()).unwrap_or(Decimal::ONE);
    let one = modifier.modifiers.iter().map(cost).fold(modifier.price, Money::plus);
    one.times(count)
}
