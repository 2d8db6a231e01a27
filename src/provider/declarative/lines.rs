//! Reads the basket: lines, and the choices within them, at any depth.

use rust_decimal::{Decimal, prelude::ToPrimitive as _};
use serde_json::value::RawValue;

use super::{
    amount::Amount,
    clock::decimal,
    file::{File, FreeLines, Lines, Modifiers, Names},
    pick::Pick,
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
        let line = walk.line(table, place, false);
        basket.sum = basket.sum.plus(line.total_price);
        basket.slack = basket
            .slack
            .saturating_add(slack(&line.quantity, reader.rounded.get() - rounded));
        basket.lines.push(line);
    }
    for free in &table.free {
        basket.lines.extend(walk.free(table, free));
    }
    basket
}

impl Walk<'_, '_> {
    /// A line; one that is given away costs nothing, whatever its price is elsewhere.
    fn line(&self, table: &Lines, place: ValueId, is_free: bool) -> Line {
        let reader = self.reader;
        let id = reader.optional(&table.id, place);
        let merchant_ref = reader.optional(&table.merchant_ref, place);
        let names = self.names(&table.names, place);
        let name = self.name(&table.name, place, &names, [&merchant_ref, &id]);
        let price = |amount: &Option<Amount>| match is_free {
            true => Some(Money::zero(self.currency)),
            false => reader.amount(amount, place, self.currency, Need::Essential),
        };
        let (total, unit) = (price(&table.total_price), price(&table.unit_price));
        let quantity = quantity(self.reader, &table.quantity, place);
        let modifiers = self.modifiers(place, 0);
        let sources = (&table.unit_price, &table.total_price);
        let (unit_price, total_price) = self.prices(unit, total, &quantity, &modifiers, place, sources);
        Line {
            external_id: id,
            merchant_ref,
            name,
            names,
            quantity,
            unit_price,
            total_price,
            tax: reader.amount(&table.tax, place, self.currency, Need::Optional),
            notes: reader.optional(&table.notes, place),
            modifiers,
        }
    }

    /// Lines that are given away: they are cooked, and stand in no list that is charged.
    fn free(&self, table: &Lines, free: &FreeLines) -> Vec<Line> {
        let reader = self.reader;
        let givers = reader.each(&free.each, reader.root(), Need::Essential);
        let gives = |place: &ValueId| !free.unless.as_ref().is_some_and(|test| reader.is_so(test, *place));
        let places = givers.into_iter().filter(gives);
        let places = places.flat_map(|place| reader.each(&free.lines, place, Need::Essential));
        let mut lines = Vec::new();
        for place in places {
            // Without a name and a code it cannot be made, and it costs nothing.
            if self.is_named(table, place) {
                lines.push(self.line(table, place, true));
            } else {
                reader.flag(Flag::NameMissing);
            }
        }
        lines
    }

    fn is_named(&self, table: &Lines, place: ValueId) -> bool {
        let picks = [Some(&table.name), table.merchant_ref.as_ref(), table.id.as_ref()];
        let names = table.names.values();
        let sources = picks.into_iter().flatten().chain(names).flat_map(|pick| &pick.from);
        sources
            .map(std::slice::from_ref)
            .any(|source| self.reader.look(source, place).is_some())
    }

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
        let quantity = quantity(self.reader, &table.quantity, place);
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

/// How many; one, where nothing is said.
pub(super) fn quantity(reader: &OrderReader<'_>, pick: &Option<Pick>, place: ValueId) -> Box<RawValue> {
    reader
        .decimal(pick, place, Need::Essential)
        .unwrap_or_else(|| RawValue::from_string("1".into()).expect("1 is JSON"))
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
