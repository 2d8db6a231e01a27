//! Reads a document as a provider's file says: locations and lists. [`super::texts`] reads texts for people, [`super::values`]
//! turns texts into amounts, times and words.
//!
//! Each value that is read is marked (see [`Tree::take`]), so that values that the file does not name are kept beside the
//! order. A value that is missing, `null` or empty counts as absent and is not marked, so that the three stay distinct there.
//!
//! An unreadable value is a fault only if it is [`Need::Essential`]: what identifies, prices or makes up the order. Any
//! other is left out, flagged, and, because it was not marked, kept beside the order as it came.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt, ptr,
};

use chrono::FixedOffset;
use serde_json::{Map, Value};

use super::{
    amount::{Lookup, Unit},
    clock::Zone,
    lists::Lists,
    path::PathTemplate,
    pick::{Clock, Source, Sources},
};
use crate::{
    json::{
        fault::{Fault, Faults},
        pointer::Pointer,
        tree::{Tree, ValueId, ValueKind},
    },
    order::flag::Flag,
};

/// Most elements of one list that are read: no basket has so many lines.
pub(super) const MAX_ELEMENTS: usize = 2_000;
/// Texts that programs make of what is no text. No name, note or address is one of them, in exactly these letters.
const NOT_TEXTS: [&str; 6] = ["null", "undefined", "true", "false", "NaN", "[object Object]"];

/// Whether a text says something to people.
pub(super) fn is_text(text: &str) -> bool {
    !NOT_TEXTS.contains(&text.trim())
}

/// How amounts and times are written in a file's documents.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits<'h> {
    pub(super) amounts: Unit,
    pub(super) times: Clock,
    pub(super) zone: Option<&'h Zone>,
    /// The zone of the branch, which goes before one that the file names for all.
    pub(super) branch_zone: Option<FixedOffset>,
}

/// The parts of a webhook beside its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct WebhookRequest<'r> {
    pub(super) headers: &'r Map<String, Value>,
    /// Below `/api/webhooks/{provider}`.
    pub(super) path: &'r str,
    pub(super) paths: &'r [PathTemplate],
}

/// What depends on a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Which order it is, what it is made of, what is charged for it: without it there is no order.
    Essential,
    /// All else: without it the order goes, with a flag.
    Optional,
}

/// The JSON types that are accepted for a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepts {
    /// Text and numbers: what is shown to people, or parsed.
    Text,
    /// `true` and `false`, too: what is compared with a file's words.
    Word,
}

pub(super) struct OrderReader<'t> {
    root: ValueId,
    pub(super) document: &'t Tree<'t>,
    pub(super) body: &'t Tree<'t>,
    pub(super) request: WebhookRequest<'t>,
    pub(super) habits: Habits<'t>,
    faults: RefCell<Faults>,
    /// What is to be known about the order, and of what could not be read where it is.
    flags: RefCell<Vec<(Flag, Option<At<'t>>)>>,
    /// How amounts are written where their place does not say.
    pub(super) unit: Cell<Unit>,
    /// How many amounts were rounded by now.
    pub(super) rounded: Cell<u32>,
    /// How many values could not be read by now.
    pub(super) unread: Cell<u32>,
    /// Whether a time needed a zone that neither it nor the document names.
    pub(super) has_local_times: Cell<bool>,
    /// Lists that rows are looked up in, each indexed once.
    pub(super) rows: RefCell<HashMap<*const Lookup, HashMap<String, ValueId>>>,
}

/// A value, and the document that it is of.
pub(super) type At<'t> = (&'t Tree<'t>, ValueId);

/// The value that a source leads to.
pub(super) enum SourceValue<'t> {
    Value(&'t Tree<'t>, ValueId),
    Text(&'t str),
}

/// A text that was found, and where it is; headers and paths have no place in a document.
pub(super) struct Text<'t> {
    pub(super) text: Cow<'t, str>,
    pub(super) at: Option<At<'t>>,
    /// For faults.
    pub(super) place: String,
}

/// The value at a place.
pub(super) enum Sought<'t> {
    /// A text, which is not taken yet.
    Found(Text<'t>),
    /// Something else than a text: it was reported as a fault or a flag.
    Unfit,
    /// Nothing.
    Absent,
}

impl<'t> Sought<'t> {
    pub(super) fn found(self) -> Option<Text<'t>> {
        match self {
            Self::Found(text) => Some(text),
            Self::Unfit | Self::Absent => None,
        }
    }
}

impl<'t> OrderReader<'t> {
    /// `part` is where pointers begin in the document.
    pub(super) fn new(
        (document, part): (&'t Tree<'t>, ValueId),
        body: &'t Tree<'t>,
        request: WebhookRequest<'t>,
        habits: Habits<'t>,
    ) -> Self {
        Self {
            root: part,
            document,
            body,
            request,
            habits,
            faults: RefCell::default(),
            flags: RefCell::default(),
            unit: Cell::new(habits.amounts),
            rounded: Cell::new(0),
            unread: Cell::new(0),
            has_local_times: Cell::new(false),
            rows: RefCell::default(),
        }
    }

    /// Where pointers begin.
    pub(super) const fn root(&self) -> ValueId {
        self.root
    }

    pub(super) fn fault(&self, pointer: &str, message: impl fmt::Display) {
        self.faults.borrow_mut().add(pointer, message);
    }

    /// Something that must be there is not. When its error was reported already, above or below it, it is not reported as missing as well.
    pub(super) fn missing(&self, pointer: &str, message: impl fmt::Display) {
        let mut faults = self.faults.borrow_mut();
        if !faults.is_on_the_way(pointer) {
            faults.add(pointer, message);
        }
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, Vec<Fault>> {
        self.faults.into_inner().none_or(value)
    }

    /// Notes what is to be known about the order.
    pub(super) fn flag(&self, flag: Flag) {
        self.flags.borrow_mut().push((flag, None));
    }

    /// What cannot be read: a fault where it is essential, else a flag.
    pub(super) fn unfit(&self, (tree, place): At<'t>, need: Need, flag: Flag, expected: impl fmt::Display) {
        self.unread.set(self.unread.get().saturating_add(1));
        match need {
            Need::Essential => self.fault(&self.pointer((tree, place)), expected),
            Need::Optional => self.flags.borrow_mut().push((flag, Some((tree, place)))),
        }
    }

    /// All that is to be known, once. What one place of a file could not read and another one did is none of it.
    pub(super) fn flags(&self) -> Vec<Flag> {
        let flags = self.flags.borrow();
        let is_so = |at: &Option<At<'_>>| at.is_none_or(|(tree, place)| !tree.is_touched(place));
        let mut flags: Vec<_> = flags
            .iter()
            .filter(|(_, at)| is_so(at))
            .map(|(flag, _)| *flag)
            .collect();
        flags.sort_unstable();
        flags.dedup();
        flags
    }

    /// Takes the number of decimals of all amounts from the document, where it says that and the file where.
    pub(super) fn scale(&self, sources: Option<&Sources>) {
        let told = (Need::Essential, Flag::AmountUnreadable);
        let found = sources.and_then(|sources| self.first((&sources.0, &[]), self.root, Accepts::Text, told).found());
        let Some(found) = found else {
            return;
        };
        match found.text.trim().parse() {
            Ok(decimals @ 0..=9) => {
                self.take(&found);
                self.unit.set(Unit::Exponent(decimals));
            }
            _ => self.fault(&found.place, "expected a number of decimals, 0 to 9"),
        }
    }

    /// Whether the document is not the body itself.
    pub(super) fn has_own_document(&self) -> bool {
        !ptr::eq(self.document, self.body)
    }

    /// Where a source leads to, for faults.
    pub(super) fn place_of(&self, source: &Source, at: ValueId) -> String {
        match source {
            Source::Here(pointer) => format!("{}{pointer}", self.document.pointer(at)),
            Source::Document(pointer) => format!("{}{pointer}", self.document.pointer(self.root)),
            Source::Body(pointer) if !self.has_own_document() => pointer.to_string(),
            source => source.to_string(),
        }
    }

    /// The location of a value, for faults.
    pub(super) fn pointer(&self, (tree, place): At<'t>) -> String {
        let is_around = self.has_own_document() && ptr::eq(tree, self.body);
        format!("{}{}", if is_around { "body:" } else { "" }, tree.pointer(place))
    }

    /// The document that a source leads into, from where in it, and how.
    pub(super) fn way<'s>(&self, source: &'s Source, at: ValueId) -> Option<(&'t Tree<'t>, ValueId, &'s Pointer)> {
        match source {
            Source::Here(pointer) => Some((self.document, at, pointer)),
            Source::Document(pointer) => Some((self.document, self.root, pointer)),
            Source::Body(pointer) => Some((self.body, self.body.root(), pointer)),
            Source::Header(_) | Source::Path(_) => None,
        }
    }

    /// What a source leads to.
    pub(super) fn find(&self, source: &Source, at: ValueId) -> Option<SourceValue<'t>> {
        match source {
            Source::Header(name) => Some(SourceValue::Text(self.request.headers.get(name)?.as_str()?)),
            Source::Path(name) => {
                let path = self.request.path;
                let mut templates = self.request.paths.iter();
                templates
                    .find_map(|template| template.part(path, name))
                    .map(SourceValue::Text)
            }
            source => {
                let (tree, from, pointer) = self.way(source, at)?;
                Some(SourceValue::Value(tree, tree.find(from, pointer)?))
            }
        }
    }

    /// The text of a value; what the value is instead, where it is none.
    pub(super) fn text_of(
        &self,
        (tree, place): At<'t>,
        accepts: Accepts,
    ) -> Result<Option<Cow<'t, str>>, &'static str> {
        let is_fit = match tree.kind(place) {
            ValueKind::Null => return Ok(None),
            ValueKind::Text | ValueKind::Number => true,
            ValueKind::Flag => accepts == Accepts::Word,
            ValueKind::Object | ValueKind::Array => false,
        };
        let text = tree.text(place).filter(|_| is_fit).ok_or("expected text or a number")?;
        match text.trim() {
            "" => Ok(None),
            word if accepts == Accepts::Text && !is_text(word) => Err("expected text or a number"),
            _ => Ok(Some(text)),
        }
    }

    /// What is at a source; what cannot be read, or stands in the way, goes to `unfit`.
    pub(super) fn peek(
        &self,
        source: &Source,
        at: ValueId,
        accepts: Accepts,
        unfit: &mut Vec<(At<'t>, &'static str)>,
    ) -> Option<Text<'t>> {
        let (text, at_place) = match self.find(source, at) {
            Some(SourceValue::Text(text)) => (
                Some(text).filter(|text| !text.trim().is_empty()).map(Cow::Borrowed),
                None,
            ),
            Some(SourceValue::Value(tree, place)) => match self.text_of((tree, place), accepts) {
                Ok(text) => (text, Some((tree, place))),
                Err(expected) => {
                    unfit.push(((tree, place), expected));
                    return None;
                }
            },
            None => {
                if let Some((tree, from, pointer)) = self.way(source, at)
                    && let Some(place) = tree.obstacle(from, pointer)
                {
                    unfit.push(((tree, place), "expected an object"));
                }
                return None;
            }
        };
        Some(Text {
            text: text?,
            at: at_place,
            place: self.place_of(source, at),
        })
    }

    /// The first text that is at one of these places, not taken yet.
    pub(super) fn first(
        &self,
        (sources, skip): (&[Source], &[String]),
        at: ValueId,
        accepts: Accepts,
        (need, flag): (Need, Flag),
    ) -> Sought<'t> {
        let mut unfit = Vec::new();
        let found = sources.iter().find_map(|source| {
            let found = self.peek(source, at, accepts, &mut unfit)?;
            (!skip.iter().any(|skipped| skipped == found.text.trim())).then_some(found)
        });
        // If another source has the value, an unreadable one does not matter.
        let need = if found.is_some() { Need::Optional } else { need };
        let is_unfit = !unfit.is_empty();
        for (at, expected) in unfit {
            self.unfit(at, need, flag, expected);
        }
        match found {
            Some(found) => Sought::Found(found),
            None if is_unfit => Sought::Unfit,
            None => Sought::Absent,
        }
    }

    /// What is at the first of these places that has something; nothing is flagged, for the question is only whether it is there.
    pub(super) fn look(&self, sources: &[Source], at: ValueId) -> Option<Text<'t>> {
        let mut unfit = Vec::new();
        sources
            .iter()
            .find_map(|source| self.peek(source, at, Accepts::Word, &mut unfit))
    }

    /// Whether anything is at one of these places, readable or not.
    pub(super) fn is_there(&self, sources: &[Source], at: ValueId) -> bool {
        let mut unfit = Vec::new();
        let mut texts = sources
            .iter()
            .map(|source| self.peek(source, at, Accepts::Word, &mut unfit));
        texts.any(|text| text.is_some()) || !unfit.is_empty()
    }

    pub(super) fn take(&self, found: &Text<'t>) {
        if let Some((tree, place)) = found.at {
            tree.take(place);
        }
    }

    /// Takes what is of no use to anybody.
    pub(super) fn leave_out(&self, sources: &[Source]) {
        for source in sources {
            if let Some(SourceValue::Value(tree, place)) = self.find(source, self.root()) {
                tree.take(place);
            }
        }
    }

    /// The elements of the first of these lists that has some; of all of them, where the file says so.
    pub(super) fn each(&self, lists: &Lists, at: ValueId, need: Need) -> Vec<ValueId> {
        let mut places = Vec::new();
        for source in &lists.from {
            self.list(source, at, need, &mut places);
            if places.len() > MAX_ELEMENTS {
                match need {
                    Need::Essential => {
                        let place = self.place_of(source, at);
                        self.fault(&place, format_args!("more than {MAX_ELEMENTS} elements"));
                    }
                    Need::Optional => self.flag(Flag::ListUnreadable),
                }
                places.truncate(MAX_ELEMENTS);
                break;
            }
            if !lists.all && !places.is_empty() {
                break;
            }
        }
        places
    }

    fn list(&self, source: &Source, at: ValueId, need: Need, places: &mut Vec<ValueId>) {
        let (Source::Here(_) | Source::Document(_), Some((tree, from, pointer))) = (source, self.way(source, at))
        else {
            return;
        };
        if let Some(place) = tree.obstacle(from, pointer) {
            self.no_list((tree, place), need, "expected an object");
        }
        for list in tree.find_each(from, pointer, MAX_ELEMENTS) {
            match tree.kind(list) {
                ValueKind::Array => {
                    let elements: Vec<_> = tree.children(list).collect();
                    if elements.is_empty() {
                        // An empty list is a known value, so it is marked as taken.
                        tree.take(list);
                    }
                    let (nothing, elements): (Vec<_>, Vec<_>) =
                        elements.into_iter().partition(|element| is_nothing(tree, *element));
                    places.extend(elements);
                    let flagged = nothing.into_iter().map(|at| (Flag::ListUnreadable, Some((tree, at))));
                    self.flags.borrow_mut().extend(flagged);
                }
                ValueKind::Null => {}
                _ => self.no_list((tree, list), need, "expected an array"),
            }
        }
    }

    /// What stands where a list should be. Something empty means that there is nothing, also if the list is essential; what
    /// holds something may be what is to be cooked.
    fn no_list(&self, (tree, place): At<'t>, need: Need, expected: &str) {
        let is_nothing = is_nothing(tree, place);
        if is_nothing && tree.kind(place) == ValueKind::Text {
            return;
        }
        let need = if is_nothing { Need::Optional } else { need };
        self.unfit((tree, place), need, Flag::ListUnreadable, expected);
    }
}

/// Whether a value says that there is nothing: `null`, `{}`, `[]`, `false`, an empty text.
pub(super) fn is_nothing(tree: &Tree<'_>, place: ValueId) -> bool {
    match tree.kind(place) {
        ValueKind::Null => true,
        ValueKind::Object | ValueKind::Array => tree.children(place).next().is_none(),
        ValueKind::Flag => tree.raw(place) == "false",
        ValueKind::Text => tree.text(place).is_some_and(|text| text.trim().is_empty()),
        ValueKind::Number => false,
    }
}
