//! Fields that several of the backend's requests have.

use std::ops::RangeInclusive;

use chrono::{DateTime, Utc};

use crate::{
    event::push::ReasonCode,
    json::fault::{Fault, Faults},
    order::node::{Node, Object},
};

/// Longest reason, in characters: it is read by people.
pub(super) const MAX_REASON_CHARS: usize = 500;
/// Longest preparation: a day.
pub(super) const MAX_PREPARATION_MINUTES: u32 = 24 * 60;

/// Reads a body, which is one object with each key once; `read` takes its fields.
///
/// # Errors
/// Every fault with its JSON pointer.
pub(super) fn body<T>(bytes: &[u8], read: impl FnOnce(&Object<'_>, &mut Faults) -> T) -> Result<T, Vec<Fault>> {
    let mut faults = Faults::default();
    let object = Node::unambiguous(bytes)?.object(&mut faults);
    let read = read(&object, &mut faults);
    faults.none_or(read)
}

/// A word of a list. `words`: those that a fault names.
fn word<T>(
    node: &Node<'_>,
    parse: impl Fn(&str) -> Option<T>,
    words: impl Iterator<Item = &'static str>,
    faults: &mut Faults,
) -> Option<T> {
    let text = node.text(faults)?;
    let word = parse(&text);
    if word.is_none() {
        let words: Vec<_> = words.collect();
        faults.add(node.pointer(), format_args!("expected {}", words.join(", ")));
    }
    word
}

/// The same, of a word that must be there.
pub(super) fn required_word<T>(
    node: &Node<'_>,
    parse: impl Fn(&str) -> Option<T>,
    words: impl Iterator<Item = &'static str>,
    faults: &mut Faults,
) -> Option<T> {
    node.required_text(faults);
    word(node, parse, words, faults)
}

/// The code of a reason.
pub(super) fn reason_code(object: &Object<'_>, faults: &mut Faults) -> Option<ReasonCode> {
    let codes = ReasonCode::ALL.into_iter().map(ReasonCode::as_str);
    word(&object.get("reasonCode"), ReasonCode::from_word, codes, faults)
}

/// A text of limited length.
pub(super) fn text(object: &Object<'_>, name: &str, max_chars: usize, faults: &mut Faults) -> Option<String> {
    let node = object.get(name);
    let text = node.text(faults)?;
    if text.chars().count() > max_chars || text.chars().any(char::is_control) {
        faults.add(
            node.pointer(),
            format_args!("expected at most {max_chars} characters, without control characters"),
        );
    }
    Some(text)
}

/// The minutes of preparation.
pub(super) fn minutes(object: &Object<'_>, range: RangeInclusive<u32>, faults: &mut Faults) -> Option<u32> {
    let node = object.get("preparationMinutes");
    let minutes = node.whole(faults)?;
    let fitting = u32::try_from(minutes).ok().filter(|count| range.contains(count));
    if fitting.is_none() {
        let (least, most) = range.into_inner();
        faults.add(
            node.pointer(),
            format_args!("expected a whole number from {least} to {most}"),
        );
    }
    fitting
}

/// A time with its offset. One that is over is taken: a repeat of the request must not be refused because it comes late.
pub(super) fn time(node: &Node<'_>, faults: &mut Faults) -> Option<DateTime<Utc>> {
    let text = node.text(faults)?;
    let time = DateTime::parse_from_rfc3339(&text).ok();
    if time.is_none() {
        faults.add(node.pointer(), "expected a time such as 2026-03-01T18:30:00Z");
    }
    time.map(|time| time.to_utc())
}
