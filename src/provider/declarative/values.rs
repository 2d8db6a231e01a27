//! Turns the texts of a document into values: amounts, numbers, times, answers, words.

use std::{borrow::Cow, collections::HashMap, ptr};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::value::RawValue;

use super::{
    amount::{Amount, Lookup, Percent, Rows, Unit},
    choice::{Choice, ChoiceWhen},
    clock::{ParsedTime, decimal, iso, unix},
    pick::{Clock, Pick, Test, Time},
    reader::{Accepts, At, MAX_ELEMENTS, Need, OrderReader, Sought, Text, is_nothing},
};
use crate::{
    json::{pointer::Pointer, tree::ValueId},
    order::{
        flag::Flag,
        money::{AmountError, Currency, Money, ParsedAmount},
    },
};

/// Largest quantity or coordinate, either way: a million kilograms in grams. Beyond it a backend's integers end.
const MAX_DECIMAL: Decimal = Decimal::from_parts(1_000_000_000, 0, 0, false, 0);

/// Largest percentage, either way.
const MAX_PERCENT: Decimal = Decimal::from_parts(1_000, 0, 0, false, 0);

/// What a word of the provider's means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chosen<T> {
    /// This, by the file.
    Known(T),
    /// The file does not list the word; its value for other words.
    Unknown(Option<T>),
    /// There is no word; the file's value for that.
    Absent(Option<T>),
}

/// Amounts that are added up.
#[derive(Default)]
struct Sum<'t> {
    parts: Vec<(Text<'t>, ParsedAmount)>,
    /// Whether any of them cannot be read.
    is_broken: bool,
}

impl<'t> OrderReader<'t> {
    /// A decimal that is no money, as its JSON text.
    pub(super) fn decimal(&self, pick: &Option<Pick>, at: ValueId, need: Need) -> Option<Box<RawValue>> {
        let pick = pick.as_ref()?;
        let on_fault = (need, Flag::NumberUnreadable);
        let found = self
            .first((&pick.from, &pick.skip), at, Accepts::Text, on_fault)
            .found()?;
        match number(found.text.trim()) {
            Ok(number) => {
                self.take(&found);
                Some(number)
            }
            Err(expected) => {
                self.unread(&found, on_fault, expected);
                None
            }
        }
    }

    /// What cannot be read of a text.
    pub(super) fn unread(&self, found: &Text<'t>, (need, flag): (Need, Flag), expected: impl std::fmt::Display) {
        match found.at {
            Some(at) => self.unfit(at, need, flag, expected),
            None if need == Need::Essential => self.fault(&found.place, expected),
            None => self.flag(flag),
        }
    }

    /// An amount. Without one that is [`Need::Essential`] the order is not charged as it should be; every other one informs.
    pub(super) fn amount(&self, amount: &Option<Amount>, at: ValueId, currency: Currency, need: Need) -> Option<Money> {
        let first = amount.as_ref()?;
        let need = if first.required { Need::Essential } else { need };
        let mut forms = std::iter::successors(Some(first), |form| form.or.as_deref());
        forms.find_map(|form| self.amount_by(form, at, currency, need))
    }

    /// The same, by one of the forms that a document may have.
    fn amount_by(&self, amount: &Amount, at: ValueId, currency: Currency, need: Need) -> Option<Money> {
        if !amount.sum.is_empty() {
            return self.sum(amount, at, currency, need);
        }
        if let Some(rows) = &amount.rows {
            return self.rows(rows, amount, currency, need);
        }
        if let Some(percent) = &amount.percent {
            return self.percent(percent, at, currency);
        }
        let found = match &amount.lookup {
            Some(lookup) => self.look_up(lookup, at, need)?,
            None => {
                let on_fault = (need, Flag::AmountUnreadable);
                self.first((&amount.from, &[]), at, Accepts::Text, on_fault).found()?
            }
        };
        let reading = self.parse_amount(&found, amount, currency, need)?;
        self.take_amount(&found, reading, need);
        Some(reading.money)
    }

    /// Where an amount should be, for faults.
    pub(super) fn place_of_amount(&self, amount: &Amount, at: ValueId) -> String {
        match (amount.from.first().or(amount.sum.first()), &amount.lookup) {
            (Some(source), _) => self.place_of(source, at),
            (None, Some(lookup)) => format!("{}{}", self.document.pointer(self.root()), lookup.list),
            (None, None) => self.document.pointer(at),
        }
    }

    /// A percentage of another amount. It only informs: without either there is none.
    fn percent(&self, percent: &Percent, at: ValueId, currency: Currency) -> Option<Money> {
        let told = (Need::Optional, Flag::AmountUnreadable);
        let found = self.first((&percent.rate, &[]), at, Accepts::Text, told).found()?;
        let Some(rate) = decimal(found.text.trim()).filter(|rate| rate.abs() <= MAX_PERCENT) else {
            self.unread(&found, told, "expected a percentage");
            return None;
        };
        self.take(&found);
        let whole = self.amount_by(&percent.of, at, currency, Need::Optional)?;
        let share = rate.checked_div(Decimal::ONE_HUNDRED)?;
        let exact = Decimal::from(whole.minor).checked_mul(share)?;
        if !exact.fract().is_zero() {
            // The provider may have rounded otherwise.
            self.rounded.set(self.rounded.get().saturating_add(1));
        }
        Some(whole.times(share))
    }

    fn parse_amount(&self, found: &Text<'t>, amount: &Amount, currency: Currency, need: Need) -> Option<ParsedAmount> {
        let unit = amount.unit.unwrap_or(self.unit.get());
        let parsed = match unit {
            Unit::Decimal => Money::read(found.text.trim(), currency),
            Unit::Money => Money::read_with_code(found.text.trim(), currency),
            Unit::Minor => Money::read_units(found.text.trim(), currency.exponent(), currency),
            Unit::Exponent(decimals) => Money::read_units(found.text.trim(), decimals, currency),
        };
        let on_fault = (need, Flag::AmountUnreadable);
        // If all amounts are unreadable, the file is wrong and not the webhook, so the fault says how they were read.
        let tell = |error: AmountError| match unit {
            Unit::Decimal => self.unread(found, on_fault, error),
            unit => self.unread(found, on_fault, format_args!("{error}; by the file amounts are {unit}")),
        };
        parsed.map_err(tell).ok()
    }

    /// One that was rounded is flagged, and its digits stay beside the order.
    fn take_amount(&self, found: &Text<'t>, reading: ParsedAmount, need: Need) {
        if !reading.is_rounded {
            return self.take(found);
        }
        self.rounded.set(self.rounded.get().saturating_add(1));
        self.flag(match need {
            Need::Essential => Flag::PriceRounded,
            Need::Optional => Flag::AmountRounded,
        });
    }

    /// The sum of all that is there; none if nothing is, or if a part cannot be read: a part of a sum is no sum.
    fn sum(&self, amount: &Amount, at: ValueId, currency: Currency, need: Need) -> Option<Money> {
        let mut sum = Sum::default();
        for source in &amount.sum {
            if let Some((tree, from, pointer)) = self.way(source, at) {
                self.add_up((tree, from), pointer, amount, (currency, need), &mut sum);
            }
        }
        self.summed(sum, need)
    }

    /// The same of rows that are chosen by one of their members.
    fn rows(&self, rows: &Rows, amount: &Amount, currency: Currency, need: Need) -> Option<Money> {
        let mut sum = Sum::default();
        let list = self.document.find(self.root(), &rows.list);
        let found = list.into_iter().flat_map(|list| self.document.children(list));
        for row in found.take(MAX_ELEMENTS) {
            let key = self.document.find(row, &rows.key);
            let text = key.and_then(|key| self.key((self.document, key), need));
            let is_among = |words: &[String]| {
                text.as_ref()
                    .is_some_and(|text| words.iter().any(|word| is_same(word, text)))
            };
            let is_one = if rows.is.is_empty() {
                !is_among(&rows.is_not)
            } else {
                is_among(&rows.is)
            };
            if is_one {
                // One that cannot be read stays beside the order, and is flagged.
                key.filter(|_| text.is_some())
                    .into_iter()
                    .for_each(|key| self.document.take(key));
                self.add_up((self.document, row), &rows.take, amount, (currency, need), &mut sum);
            }
        }
        self.summed(sum, need)
    }

    /// Adds what a pointer leads to.
    fn add_up(
        &self,
        (tree, from): At<'t>,
        pointer: &Pointer,
        amount: &Amount,
        (currency, need): (Currency, Need),
        sum: &mut Sum<'t>,
    ) {
        if let Some(place) = tree.obstacle(from, pointer) {
            self.unfit((tree, place), need, Flag::AmountUnreadable, "expected an object");
            sum.is_broken = true;
        }
        for place in tree.find_each(from, pointer, MAX_ELEMENTS) {
            let at = (tree, place);
            match self.text_of(at, Accepts::Text) {
                Ok(None) => {}
                Ok(Some(text)) => {
                    let place = self.pointer(at);
                    let found = Text {
                        text,
                        at: Some(at),
                        place,
                    };
                    match self.parse_amount(&found, amount, currency, need) {
                        Some(reading) => sum.parts.push((found, reading)),
                        None => sum.is_broken = true,
                    }
                }
                Err(expected) => {
                    self.unfit(at, need, Flag::AmountUnreadable, expected);
                    sum.is_broken = true;
                }
            }
        }
    }

    fn summed(&self, sum: Sum<'t>, need: Need) -> Option<Money> {
        let parts = Some(sum.parts).filter(|_| !sum.is_broken)?;
        for (found, reading) in &parts {
            self.take_amount(found, *reading, need);
        }
        parts.into_iter().map(|(_, reading)| reading.money).reduce(Money::plus)
    }

    fn look_up(&self, lookup: &Lookup, at: ValueId, need: Need) -> Option<Text<'t>> {
        let wanted = match (&lookup.equals, &lookup.is) {
            (Some(text), _) => text.as_str().into(),
            (None, Some(pointer)) => self.key((self.document, self.document.find(at, pointer)?), need)?,
            (None, None) => return None,
        };
        let mut rows = self.rows.borrow_mut();
        let rows = rows
            .entry(ptr::from_ref(lookup))
            .or_insert_with(|| self.index(lookup, need));
        let row = *rows.get(&*wanted)?;
        let Some(place) = self.document.find(row, &lookup.take) else {
            self.note_obstacle(row, &lookup.take, need);
            return None;
        };
        let at = (self.document, place);
        match self.text_of(at, Accepts::Text) {
            Ok(text) => {
                if let Some(key) = self.document.find(row, &lookup.key) {
                    self.document.take(key);
                }
                let place = self.pointer(at);
                text.map(|text| Text {
                    text,
                    at: Some(at),
                    place,
                })
            }
            Err(expected) => {
                self.unfit(at, need, Flag::AmountUnreadable, expected);
                None
            }
        }
    }

    fn index(&self, lookup: &Lookup, need: Need) -> HashMap<String, ValueId> {
        let (list, root) = (self.document.find(self.root(), &lookup.list), self.root());
        self.note_obstacle(root, &lookup.list, need);
        let rows = list.into_iter().flat_map(|list| self.document.children(list));
        let mut index = HashMap::new();
        for row in rows.take(MAX_ELEMENTS).filter(|row| !is_nothing(self.document, *row)) {
            self.note_obstacle(row, &lookup.key, need);
            let key = self.document.find(row, &lookup.key);
            if let Some(key) = key.and_then(|key| self.key((self.document, key), need)) {
                index.entry(key.into_owned()).or_insert(row);
            }
        }
        index
    }

    /// Notes a value on the path that is not an object, so that the path ends there.
    fn note_obstacle(&self, from: ValueId, path: &Pointer, need: Need) {
        if let Some(place) = self.document.obstacle(from, path) {
            let at = (self.document, place);
            self.unfit(at, need, Flag::AmountUnreadable, "expected an object");
        }
    }

    /// The text by which a row is found; where it is none, so is the amount.
    fn key(&self, at: At<'t>, need: Need) -> Option<Cow<'t, str>> {
        self.text_of(at, Accepts::Text).unwrap_or_else(|expected| {
            self.unfit(at, need, Flag::AmountUnreadable, expected);
            None
        })
    }

    /// A time; none if it cannot be read, for no order hangs on one.
    pub(super) fn time(&self, time: &Option<Time>, at: ValueId) -> Option<DateTime<Utc>> {
        let time = time.as_ref()?;
        let on_fault = (Need::Optional, Flag::TimeUnreadable);
        let found = self.first((&time.from, &[]), at, Accepts::Text, on_fault).found()?;
        let said = match time.clock.unwrap_or(self.habits.times) {
            Clock::Iso => iso(&found.text, || self.zone()),
            Clock::UnixS => unix(&found.text, 1),
            Clock::UnixMs => unix(&found.text, 1000),
        };
        match said {
            ParsedTime::Time(time) => {
                self.take(&found);
                return Some(time);
            }
            ParsedTime::Nothing => self.unread(&found, (Need::Optional, Flag::TimeZero), ""),
            ParsedTime::Unreadable => self.unread(&found, on_fault, "expected a time"),
        }
        None
    }

    /// A yes or no; none if it is not said, by the document or for its absence by the file.
    pub(super) fn answer(&self, test: &Test, at: ValueId) -> Option<bool> {
        // `true` and `false` are answers only if the file gives them a meaning; otherwise they are unreadable.
        let is_flag = |word: &String| word.eq_ignore_ascii_case("true") || word.eq_ignore_ascii_case("false");
        let has_flags = test.is.iter().chain(&test.is_not).chain(&test.contains).any(is_flag);
        let accepts = if has_flags { Accepts::Word } else { Accepts::Text };
        match self.first((&test.from, &[]), at, accepts, (Need::Optional, Flag::AnswerUnreadable)) {
            Sought::Found(found) => {
                self.take(&found);
                Some(answer(test, &found.text))
            }
            Sought::Unfit => None,
            Sought::Absent => test.absent,
        }
    }

    /// The same, where what is not said is no.
    pub(super) fn is_so(&self, test: &Test, at: ValueId) -> bool {
        self.answer(test, at).unwrap_or(false)
    }

    /// Whether a condition holds; none if what it compares cannot be read, which is flagged. A word that it compares is taken by it;
    /// of a text that only has to be there it says nothing.
    fn holds<T>(&self, when: &ChoiceWhen<T>, at: ValueId, unknown: Flag) -> Option<bool> {
        if self.is_there(&when.without.0, at) {
            return Some(false);
        }
        if when.from.0.is_empty() {
            return Some(true);
        }
        let is_compared = !when.is.is_empty();
        let accepts = if is_compared { Accepts::Word } else { Accepts::Text };
        let mut unfit = Vec::new();
        let peek = |source| self.peek(source, at, accepts, &mut unfit);
        let Some(found) = when.from.0.iter().find_map(peek) else {
            if !is_compared || unfit.is_empty() {
                return Some(false);
            }
            let unfit = unfit.into_iter();
            unfit.for_each(|(at, expected)| self.unfit(at, Need::Optional, unknown, expected));
            return None;
        };
        let is_it = !is_compared || when.is.iter().any(|word| is_same(word, &found.text));
        if is_it && is_compared {
            self.take(&found);
        }
        Some(is_it)
    }

    /// One of our words. What the file does not know is flagged.
    pub(super) fn choice<T: Copy>(&self, choice: &Choice<T>, at: ValueId, unknown: Flag) -> Chosen<T> {
        let mut conditions = choice.when.iter().map(|when| (when, self.holds(when, at, unknown)));
        // Behind a condition that cannot be read the others hold only where it does not.
        let decisive = conditions.find(|(_, holds)| *holds != Some(false));
        if let Some((when, Some(true))) = decisive {
            return Chosen::Known(when.becomes);
        }
        let mut is_unknown = decisive.is_some();
        for source in &choice.from.0 {
            let sources = (std::slice::from_ref(source), [].as_slice());
            match self.first(sources, at, Accepts::Word, (Need::Optional, unknown)) {
                Sought::Found(found) => match choice.words.get(&found.text) {
                    Some(meaning) => {
                        self.take(&found);
                        return Chosen::Known(*meaning);
                    }
                    None => is_unknown = true,
                },
                Sought::Unfit => is_unknown = true,
                Sought::Absent => {}
            }
        }
        if is_unknown {
            self.flag(unknown);
            return Chosen::Unknown(choice.other);
        }
        Chosen::Absent(choice.absent.or(choice.other))
    }
}

/// A number as JSON writes it; one that is written otherwise (`02`, `1e2`) in plain digits, so that every reader gets the same number.
fn number(text: &str) -> Result<Box<RawValue>, &'static str> {
    let number = decimal(text).ok_or("expected a number")?;
    if number.abs() > MAX_DECIMAL {
        return Err("number out of range");
    }
    let is_plain = !text.contains(['e', 'E', '+']) && text.parse::<serde_json::Number>().is_ok();
    let raw = if is_plain {
        text.to_owned()
    } else {
        number.normalize().to_string()
    };
    RawValue::from_string(raw).map_err(|_| "expected a number")
}

pub(super) fn answer(test: &Test, text: &str) -> bool {
    let is_one = |words: &[String]| words.iter().any(|word| is_same(word, text));
    if !test.is.is_empty() {
        return is_one(&test.is);
    }
    if !test.contains.is_empty() {
        let text = text.to_lowercase();
        return test.contains.iter().any(|part| text.contains(&part.to_lowercase()));
    }
    !is_one(&test.is_not)
}

/// Whether a text is a word, in either case; numbers are compared as numbers.
fn is_same(word: &str, text: &str) -> bool {
    let text = text.trim();
    text.eq_ignore_ascii_case(word) || {
        let number = |text: &str| Decimal::from_str_exact(text).ok();
        number(text).is_some_and(|found| number(word) == Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_numbers_however_they_are_written() {
        let read = |text: &str| number(text).map(|number| number.get().to_owned());
        for (text, said) in [
            ("2", "2"),
            ("2.50", "2.50"),
            ("-1", "-1"),
            ("0.333", "0.333"),
            ("02", "2"),
            ("+2", "2"),
            (".5", "0.5"),
            ("1e1", "10"),
            ("1000000000", "1000000000"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(said), "{text}");
        }
        for text in ["", "two", "N/A", "2 pcs", "1,5", "1_0", "NaN", "--1", "1e", "1e99"] {
            assert_eq!(read(text), Err("expected a number"), "{text}");
        }
        assert_eq!(read("1000000001"), Err("number out of range"));
    }
}
