//! Reading a document by what a provider's file says.
//!
//! Each value that is read is taken (see [`Tree::take`]), so that what the file does not know is kept beside the order. A
//! value that is missing, `null` or empty counts as absent and is not taken, so that the three stay distinct there.

use std::{borrow::Cow, cell::RefCell, collections::HashMap, fmt, ptr};

use chrono::{DateTime, FixedOffset, Utc};
use rust_decimal::Decimal;
use serde_json::{Map, Value, value::RawValue};

use super::{
    clock::{self, Zone, iso, unix},
    lists::Lists,
    path::PathTemplate,
    pick::{Amount, Choice, Clock, Lookup, Pick, Source, Sources, Test, Time, Unit},
};
use crate::order::{
    fault::{Fault, Faults},
    money::{Currency, Money},
    tree::{Kind, Place, Tree},
};

/// Most elements of one list that are read: no basket has so many lines.
pub(super) const MAX_ELEMENTS: usize = 2_000;
/// Largest quantity or coordinate, either way: a million kilograms in grams. Beyond it a backend's integers end.
const MAX_DECIMAL: f64 = 1e9;
/// Fewest and most digits of a telephone number with its country's code (E.164).
const E164_DIGITS: std::ops::RangeInclusive<usize> = 8..=15;

/// How amounts and times are written in a file's documents.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits<'h> {
    pub(super) amounts: Unit,
    pub(super) times: Clock,
    pub(super) zone: Option<&'h Zone>,
}

/// What a webhook brought beside its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'r> {
    pub(super) headers: &'r Map<String, Value>,
    /// Below `/api/webhooks/{provider}`.
    pub(super) path: &'r str,
    pub(super) paths: &'r [PathTemplate],
}

pub(super) struct Reader<'t> {
    root: Place,
    pub(super) document: &'t Tree<'t>,
    pub(super) body: &'t Tree<'t>,
    pub(super) request: Request<'t>,
    pub(super) habits: Habits<'t>,
    faults: RefCell<Faults>,
    /// Lists that rows are looked up in, each indexed once.
    rows: RefCell<HashMap<*const Lookup, HashMap<String, Place>>>,
}

/// A value, and the document that it is of.
type At<'t> = (&'t Tree<'t>, Place);

/// A value that a source leads to.
enum Found<'t> {
    Value(&'t Tree<'t>, Place),
    Text(&'t str),
}

impl<'t> Reader<'t> {
    /// `part` is where pointers begin in the document.
    pub(super) fn new(
        (document, part): (&'t Tree<'t>, Place),
        body: &'t Tree<'t>,
        request: Request<'t>,
        habits: Habits<'t>,
    ) -> Self {
        Self {
            root: part,
            document,
            body,
            request,
            habits,
            faults: RefCell::default(),
            rows: RefCell::default(),
        }
    }

    /// Where pointers begin.
    pub(super) const fn root(&self) -> Place {
        self.root
    }

    pub(super) fn fault(&self, pointer: &str, message: impl fmt::Display) {
        self.faults.borrow_mut().add(pointer, message);
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, Vec<Fault>> {
        self.faults.into_inner().none_or(value)
    }

    /// Whether the document is not the body itself.
    pub(super) fn has_own_document(&self) -> bool {
        !ptr::eq(self.document, self.body)
    }

    /// Where a source leads to, for faults.
    pub(super) fn place_of(&self, source: &Source, at: Place) -> String {
        match source {
            Source::Here(pointer) => format!("{}{pointer}", self.document.pointer(at)),
            Source::Document(pointer) => format!("{}{pointer}", self.document.pointer(self.root)),
            Source::Body(pointer) if !self.has_own_document() => pointer.to_string(),
            source => source.to_string(),
        }
    }

    fn find(&self, source: &Source, at: Place) -> Option<Found<'t>> {
        match source {
            Source::Here(pointer) => Some(Found::Value(self.document, self.document.find(at, pointer)?)),
            Source::Document(pointer) => Some(Found::Value(self.document, self.document.find(self.root, pointer)?)),
            Source::Body(pointer) => Some(Found::Value(self.body, self.body.find(self.body.root(), pointer)?)),
            Source::Header(name) => Some(Found::Text(self.request.headers.get(name)?.as_str()?)),
            Source::Path(name) => {
                let path = self.request.path;
                self.request
                    .paths
                    .iter()
                    .find_map(|template| template.part(path, name))
                    .map(Found::Text)
            }
        }
    }

    /// The text of a source, not taken yet.
    fn peek(&self, source: &Source, at: Place) -> Option<(Cow<'t, str>, Option<At<'t>>)> {
        let (text, place) = match self.find(source, at)? {
            Found::Text(text) => (Cow::Borrowed(text), None),
            Found::Value(tree, place) => {
                let Some(text) = tree.text(place) else {
                    if tree.kind(place) != Kind::Null {
                        self.fault(&self.place_of(source, at), "expected text or a number");
                    }
                    return None;
                };
                (text, Some((tree, place)))
            }
        };
        (!text.trim().is_empty()).then_some((text, place))
    }

    fn first(&self, sources: &[Source], at: Place, skip: &[String]) -> Option<(Cow<'t, str>, String)> {
        let (source, text) = self.first_source(sources, at, skip)?;
        Some((text, self.place_of(source, at)))
    }

    fn first_source<'s>(
        &self,
        sources: &'s [Source],
        at: Place,
        skip: &[String],
    ) -> Option<(&'s Source, Cow<'t, str>)> {
        sources.iter().find_map(|source| {
            let (text, place) = self.peek(source, at)?;
            if skip.iter().any(|skipped| skipped == text.trim()) {
                return None;
            }
            if let Some((tree, place)) = place {
                tree.take(place);
            }
            Some((source, text))
        })
    }

    /// Takes what is of no use to anybody.
    pub(super) fn leave_out(&self, sources: &[Source]) {
        for source in sources {
            if let Some(Found::Value(tree, place)) = self.find(source, self.root()) {
                tree.take(place);
            }
        }
    }

    /// A text.
    pub(super) fn text(&self, pick: &Pick, at: Place) -> Option<String> {
        let found = if pick.join.is_empty() {
            self.first_source(&pick.from, at, &pick.skip)
                .map(|(_, text)| text.into_owned())
        } else {
            let parts = pick.join.iter().filter_map(|part| {
                let (_, text) = self.first_source(std::slice::from_ref(&part.from), at, &pick.skip)?;
                Some(format!("{}{text}", part.label))
            });
            let joined = parts.collect::<Vec<_>>().join(&pick.with);
            (!joined.is_empty()).then_some(joined)
        };
        found.or_else(|| pick.fallback.clone())
    }

    /// The same, where the file says where it is at all.
    pub(super) fn optional(&self, pick: &Option<Pick>, at: Place) -> Option<String> {
        self.text(pick.as_ref()?, at)
    }

    /// The first text that is at one of these places.
    pub(super) fn text_at(&self, sources: &Sources, at: Place) -> Option<String> {
        let (_, text) = self.first_source(&sources.0, at, &[])?;
        Some(text.into_owned())
    }

    /// A text that must be there.
    pub(super) fn required(&self, pick: &Pick, at: Place) -> String {
        self.text(pick, at).unwrap_or_else(|| {
            let source = pick.from.first().or(pick.join.first().map(|part| &part.from));
            self.fault(
                &source.map_or_else(|| self.document.pointer(at), |source| self.place_of(source, at)),
                "missing",
            );
            String::new()
        })
    }

    /// A decimal that is no money, as its JSON text.
    pub(super) fn decimal(&self, pick: &Option<Pick>, at: Place) -> Option<Box<RawValue>> {
        let pick = pick.as_ref()?;
        let (text, place) = self.first(&pick.from, at, &pick.skip)?;
        let text = text.trim();
        let raw = RawValue::from_string(text.to_owned()).ok();
        let raw = raw.filter(|_| text.starts_with(|first: char| first.is_ascii_digit() || first == '-'));
        match raw.as_ref().map(|raw| raw.get().parse::<f64>()) {
            Some(Ok(value)) if value.abs() <= MAX_DECIMAL => return raw,
            Some(_) => self.fault(&place, "number out of range"),
            None => self.fault(&place, "expected a number"),
        }
        None
    }

    /// An amount.
    pub(super) fn amount(&self, amount: &Option<Amount>, at: Place, currency: Currency) -> Option<Money> {
        let amount = amount.as_ref()?;
        let unit = amount.unit.unwrap_or(self.habits.amounts);
        if !amount.sum.is_empty() {
            return self.sum(amount, unit, at, currency);
        }
        let Some(lookup) = &amount.lookup else {
            let (text, place) = self.first(&amount.from, at, &[])?;
            return self.parse_amount(&text, &place, unit, currency);
        };
        let (text, place) = self.look_up(lookup, at)?;
        self.parse_amount(&text, &place, unit, currency)
    }

    fn parse_amount(&self, text: &str, place: &str, unit: Unit, currency: Currency) -> Option<Money> {
        let text = text.trim();
        let parsed = match unit {
            Unit::Decimal => Money::parse(text, currency),
            Unit::Minor => Money::parse_units(text, currency.exponent(), currency),
            Unit::Exponent(decimals) => Money::parse_units(text, decimals, currency),
        };
        // Where all are wrong the file is, and not the webhook: it says how they were read.
        let told = |error| match unit {
            Unit::Decimal => self.fault(place, error),
            unit => self.fault(place, format_args!("{error}; by the file amounts are {unit}")),
        };
        parsed.map_err(told).ok()
    }

    /// The sum of all that is there; none where nothing is.
    fn sum(&self, amount: &Amount, unit: Unit, at: Place, currency: Currency) -> Option<Money> {
        let mut sum: Option<Money> = None;
        for source in &amount.sum {
            let (tree, from, pointer) = match source {
                Source::Here(pointer) => (self.document, at, pointer),
                Source::Document(pointer) => (self.document, self.root, pointer),
                Source::Body(pointer) => (self.body, self.body.root(), pointer),
                Source::Header(_) | Source::Path(_) => continue,
            };
            for place in tree.find_each(from, pointer, MAX_ELEMENTS) {
                let Some(text) = tree.text(place).filter(|text| !text.trim().is_empty()) else {
                    continue;
                };
                tree.take(place);
                if let Some(money) = self.parse_amount(&text, &tree.pointer(place), unit, currency) {
                    sum = Some(sum.map_or(money, |sum| sum.plus(money)));
                }
            }
        }
        sum
    }

    fn look_up(&self, lookup: &Lookup, at: Place) -> Option<(Cow<'t, str>, String)> {
        let wanted = match (&lookup.equals, &lookup.is) {
            (Some(text), _) => Cow::Borrowed(text.as_str()),
            (None, Some(pointer)) => self.document.text(self.document.find(at, pointer)?)?,
            (None, None) => return None,
        };
        let mut rows = self.rows.borrow_mut();
        let rows = rows.entry(ptr::from_ref(lookup)).or_insert_with(|| self.index(lookup));
        let row = *rows.get(&*wanted)?;
        let place = self.document.find(row, &lookup.take)?;
        let text = self.document.text(place)?;
        if let Some(key) = self.document.find(row, &lookup.key) {
            self.document.take(key);
        }
        self.document.take(place);
        Some((text, self.document.pointer(place)))
    }

    fn index(&self, lookup: &Lookup) -> HashMap<String, Place> {
        let list = self.document.find(self.root, &lookup.list);
        let rows = list.into_iter().flat_map(|list| self.document.children(list));
        let mut index = HashMap::new();
        for row in rows.take(MAX_ELEMENTS) {
            let key = self.document.find(row, &lookup.key);
            if let Some(key) = key.and_then(|key| self.document.text(key)) {
                index.entry(key.into_owned()).or_insert(row);
            }
        }
        index
    }

    /// A time.
    pub(super) fn time(&self, time: &Option<Time>, at: Place) -> Option<DateTime<Utc>> {
        let time = time.as_ref()?;
        let (text, place) = self.first(&time.from, at, &[])?;
        let read = match time.clock.unwrap_or(self.habits.times) {
            Clock::Iso => iso(text.trim(), || self.zone()),
            Clock::UnixS => unix(&text, 1).map_err(|()| "expected seconds since 1970"),
            Clock::UnixMs => unix(&text, 1000).map_err(|()| "expected milliseconds since 1970"),
        };
        read.unwrap_or_else(|expected| {
            self.fault(&place, expected);
            None
        })
    }

    /// The zone of a time that names none.
    fn zone(&self) -> Option<FixedOffset> {
        match self.habits.zone? {
            Zone::Fixed(offset) => Some(*offset),
            Zone::Minutes(sources) => {
                let (text, place) = self.first(&sources.0, self.root, &[])?;
                let offset = clock::offset(&text);
                if offset.is_none() {
                    self.fault(&place, "expected whole minutes from UTC, at most 840 either way");
                }
                offset
            }
        }
    }

    /// A yes or no.
    pub(super) fn test(&self, test: &Test, at: Place) -> bool {
        match self.first(&test.from, at, &[]) {
            Some((text, _)) => answer(test, &text),
            None => test.absent,
        }
    }

    /// One of our words; what the file says for every other, where it is none.
    pub(super) fn choice<T: Copy>(&self, choice: &Choice<T>, at: Place) -> Option<T> {
        for source in &choice.from.0 {
            let Some((text, place)) = self.peek(source, at) else {
                continue;
            };
            if let Some(meaning) = choice.words.get(&text) {
                if let Some((tree, place)) = place {
                    tree.take(place);
                }
                return Some(*meaning);
            }
        }
        choice.other
    }

    /// The elements of the first of these lists that has some; of all of them, where the file says so.
    pub(super) fn each(&self, lists: &Lists, at: Place) -> Vec<Place> {
        let mut places = Vec::new();
        for source in &lists.from {
            self.list(source, at, &mut places);
            if places.len() > MAX_ELEMENTS {
                let place = self.place_of(source, at);
                self.fault(&place, format_args!("more than {MAX_ELEMENTS} elements"));
                places.truncate(MAX_ELEMENTS);
                break;
            }
            if !lists.all && !places.is_empty() {
                break;
            }
        }
        places
    }

    fn list(&self, source: &Source, at: Place, places: &mut Vec<Place>) {
        let (from, pointer) = match source {
            Source::Here(pointer) => (at, pointer),
            Source::Document(pointer) => (self.root, pointer),
            Source::Body(_) | Source::Header(_) | Source::Path(_) => return,
        };
        for list in self.document.find_each(from, pointer, MAX_ELEMENTS) {
            match self.document.kind(list) {
                Kind::Null => {}
                Kind::Array => {
                    let before = places.len();
                    places.extend(self.document.children(list));
                    if places.len() == before {
                        // An empty list says that there is nothing: it has its place.
                        self.document.take(list);
                    }
                }
                _ => self.fault(&self.document.pointer(list), "expected an array"),
            }
        }
    }
}

pub(super) fn answer(test: &Test, text: &str) -> bool {
    let equal = |wanted: &String| {
        let text = text.trim();
        text.eq_ignore_ascii_case(wanted) || {
            let number = |text: &str| Decimal::from_str_exact(text).ok();
            number(text).is_some_and(|number_found| number(wanted) == Some(number_found))
        }
    };
    if test.is.is_empty() {
        !test.is_not.iter().any(equal)
    } else {
        test.is.iter().any(equal)
    }
}

/// The number as E.164, where it says its country.
pub(super) fn e164(phone: &str, is_international: bool) -> Option<String> {
    let phone = phone.trim();
    let (marked, rest) = match (phone.strip_prefix('+'), phone.strip_prefix("00")) {
        (Some(rest), _) | (None, Some(rest)) => (true, rest),
        (None, None) => (false, phone),
    };
    let is_separator = |c: char| matches!(c, ' ' | '-' | '(' | ')' | '.' | '\u{a0}');
    let digits: String = rest.chars().filter(|c| !is_separator(*c)).collect();
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit())
        && E164_DIGITS.contains(&digits.len())
        && !digits.starts_with('0');
    (is_number && (marked || is_international)).then(|| format!("+{digits}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phones_that_say_their_country() {
        assert_eq!(e164("+962 79-123 4567", false).as_deref(), Some("+962791234567"));
        assert_eq!(e164("00962791234567", false).as_deref(), Some("+962791234567"));
        assert_eq!(e164("971588371761", true).as_deref(), Some("+971588371761"));
        for phone in ["0791234567", "55555 113 000", "+1", "+0123456789", "+96279abc4567", ""] {
            assert_eq!(e164(phone, false), None, "{phone}");
        }
    }
}
