//! Reads the basket: lines, and the choices within them, at any depth.

use rust_decimal::{Decimal, prelude::ToPrimitive as _};
use serde_json::value::RawValue;

use super::{
    clock::decimal,
    file::{File, Modifiers, Names},
    pick::{Amount, Pick},
    reader::{Need, OrderReader},
};
use crate::{
    json::tree::ValueId,
    order::{
        flag::Flag,
        model::{Line, Modifier, Translation},
        money::{Currency, Money},
    },
};

/// How deep choices within choices are read; what lies deeper is kept with what has no field. The deepest that a provider
/// documents has four levels.
const MAX_MODIFIER_DEPTH: usize = 12;

/// The lines, and what they come to.
pub(super) struct Basket {
    pub(super) lines: Vec<Line>,
    pub(super) sum: Money,
    /// By how much rounding alone may have changed the sum, in the currency's smallest unit.
    pub(super) slack: i64,
}

struct Walk<'w, 't> {
    reader: &'w OrderReader<'t>,
    modifiers: Option<&'w Modifiers>,
    currency: Currency,
}

pub(super) fn basket(reader: &OrderReader<'_>, file: &File, currency: Currency) -> Basket {
    let table = &file.order.lines;
    let walk = Walk {
        reader,
        modifiers: file.order.modifiers.as_ref(),
        currency,
    };
    let mut basket = Basket {
        lines: Vec::new(),
        sum: Money::zero(currency),
        slack: 0,
    };
    for place in reader.each(&table.each, reader.root(), Need::Essential) {
        let rounded = reader.rounded.get();
        let id = reader.optional(&table.id, place);
        let merchant_ref = reader.optional(&table.merchant_ref, place);
        let names = walk.names(&table.names, place);
        let name = walk.name(&table.name, place, &names, [&merchant_ref, &id]);
        let total = reader.amount(&table.total_price, place, currency, Need::Essential);
        let unit = reader.amount(&table.unit_price, place, currency, Need::Essential);
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
        basket.slack = basket
            .slack
            .saturating_add(slack(&quantity, reader.rounded.get() - rounded));
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
    fn names(&self, names: &Names, place: ValueId) -> Vec<Translation> {
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
    fn name(&self, pick: &Pick, place: ValueId, names: &[Translation], codes: [&Option<String>; 2]) -> String {
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
                self.reader.flag(Flag::NameMissing);
                code.clone()
            }
            None => self.reader.required(pick, place),
        }
    }

    /// One, where nothing is said.
    fn quantity(&self, pick: &Option<Pick>, place: ValueId) -> Box<RawValue> {
        self.reader
            .decimal(pick, place, Need::Essential)
            .unwrap_or_else(|| RawValue::from_string("1".into()).expect("1 is JSON"))
    }

    /// The price of one and of all, as the provider says; one is worked out of the other where it says only that, and is
    /// flagged.
    fn prices(
        &self,
        unit: Option<Money>,
        total: Option<Money>,
        quantity: &RawValue,
        modifiers: &[Modifier],
        place: ValueId,
        (unit_source, total_source): (&Option<Amount>, &Option<Amount>),
    ) -> (Money, Money) {
        let count = count(quantity);
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
                    let place = self.reader.place_of_amount(source, place);
                    self.reader.missing(&place, "missing: the price of a line");
                }
                (Money::zero(self.currency), Money::zero(self.currency))
            }
        }
    }

    fn missing(&self, amount: &Option<Amount>, place: ValueId, flag: Flag) {
        match amount {
            Some(amount) if amount.required => {
                self.reader
                    .missing(&self.reader.place_of_amount(amount, place), "missing");
            }
            _ => self.reader.flag(flag),
        }
    }

    fn modifiers(&self, place: ValueId, depth: usize) -> Vec<Modifier> {
        let Some(table) = self.modifiers.filter(|_| depth < MAX_MODIFIER_DEPTH) else {
            return Vec::new();
        };
        let mut modifiers = Vec::new();
        let Some(groups) = &table.groups else {
            for place in self.reader.each(&table.each, place, Need::Essential) {
                let group = self.reader.optional(&table.group, place);
                modifiers.push(self.modifier(table, place, group, depth));
            }
            return modifiers;
        };
        for group in self.reader.each(groups, place, Need::Essential) {
            let name = self.reader.optional(&table.group, group);
            for place in self.reader.each(&table.each, group, Need::Essential) {
                modifiers.push(self.modifier(table, place, name.clone(), depth));
            }
        }
        modifiers
    }

    fn modifier(&self, table: &Modifiers, place: ValueId, group: Option<String>, depth: usize) -> Modifier {
        let id = self.reader.optional(&table.id, place);
        let merchant_ref = self.reader.optional(&table.merchant_ref, place);
        let names = self.names(&table.names, place);
        let name = self.name(&table.name, place, &names, [&merchant_ref, &id]);
        let quantity = self.quantity(&table.quantity, place);
        let amount = |amount| self.reader.amount(amount, place, self.currency, Need::Essential);
        let price = amount(&table.price).or_else(|| {
            let total = amount(&table.total_price)?;
            Decimal::ONE
                .checked_div(count(&quantity))
                .map(|share| total.times(share))
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

/// A quantity as a number; it was read as one.
fn count(quantity: &RawValue) -> Decimal {
    decimal(quantity.get()).unwrap_or(Decimal::ONE)
}

/// How much rounded prices may change a line: half a unit each, for each piece.
fn slack(quantity: &RawValue, rounded: u32) -> i64 {
    let pieces = count(quantity).abs().ceil().to_i64().unwrap_or(i64::MAX);
    pieces.max(1).saturating_mul(i64::from(rounded))
}

/// The price of an addition for one piece of its line.
fn cost(modifier: &Modifier) -> Money {
    let count = count(&modifier.quantity);
    let one = modifier.modifiers.iter().map(cost).fold(modifier.price, Money::plus);
    one.times(count)
}
