//! Single fields of an untrusted body, found by JSON pointer in its raw text.
//!
//! A key that occurs twice in an object on the path is refused: two readers may take a different one of them, and a signature
//! must not be checked over a field that another part of the hub does not see.

use std::borrow::Cow;

use crate::json::scan::{Document, verbatim};

/// Deepest pointer that a scheme may hold; the deepest real one has five steps.
pub(super) const MAX_POINTER_STEPS: usize = 16;
/// Most members of an object that are looked at; Keeta's envelope has seven.
const MAX_MEMBERS: usize = 1_000;
/// Most elements of an array: the sender is not verified yet, and a list of places is four times as large as a body of commas. Of a body
/// that is let in there may be no more either.
const MAX_ELEMENTS: usize = 10_000;

/// The body cannot be read the way the scheme needs it.
#[derive(Debug)]
pub(super) struct Unreadable;

/// An object's members.
type Members<'a> = Vec<(Cow<'a, str>, Document<'a>)>;

fn document(body: &[u8]) -> Result<Document<'_>, Unreadable> {
    Document::new(body).map_err(|_| Unreadable)
}

/// The elements of an array.
fn elements(array: Document<'_>) -> Result<Vec<Document<'_>>, Unreadable> {
    let elements: Vec<_> = array.elements().take(MAX_ELEMENTS + 1).collect();
    if elements.len() > MAX_ELEMENTS {
        return Err(Unreadable);
    }
    Ok(elements)
}

/// The members of an object, in their order.
fn all(object: Document<'_>) -> Result<Members<'_>, Unreadable> {
    let members = object.members().take(MAX_MEMBERS + 1);
    let members: Option<Members<'_>> = members.map(|(name, value)| Some((verbatim(name)?, value))).collect();
    members.filter(|members| members.len() <= MAX_MEMBERS).ok_or(Unreadable)
}

/// The members of a body that is an object, by name, each name once.
pub(super) fn members(body: &[u8]) -> Result<Members<'_>, Unreadable> {
    let object = document(body)?;
    if !object.is_object() {
        return Err(Unreadable);
    }
    let mut members = all(object)?;
    members.sort_by(|one, other| one.0.cmp(&other.0));
    let twice = members.windows(2).any(|two| two[0].0 == two[1].0);
    if twice { Err(Unreadable) } else { Ok(members) }
}

/// The value at a pointer; none if there is nothing, or `null`.
pub(super) fn find<'a>(body: &'a [u8], pointer: &str) -> Result<Option<Document<'a>>, Unreadable> {
    let mut at = document(body)?;
    for step in steps(pointer) {
        let next = if at.is_object() {
            let mut same = all(at)?.into_iter().filter(|(name, _)| *name == step);
            let found = same.next();
            if same.next().is_some() {
                return Err(Unreadable);
            }
            found.map(|(_, value)| value)
        } else {
            let elements = elements(at)?;
            step.parse::<usize>()
                .ok()
                .and_then(|place| elements.get(place).copied())
        };
        match next {
            Some(value) => at = value,
            None => return Ok(None),
        }
    }
    Ok(Some(at).filter(|value| value.text() != "null"))
}

/// The number of elements of the array at a pointer.
pub(super) fn count(body: &[u8], pointer: &str) -> Result<usize, Unreadable> {
    let array = find(body, pointer)?.filter(|value| value.is_array());
    Ok(elements(array.ok_or(Unreadable)?)?.len())
}

/// A value as text: a string without its quotes, anything else as it stands.
pub(super) fn text(value: Document<'_>) -> Result<Cow<'_, str>, Unreadable> {
    let text = value.text();
    if text.starts_with('"') {
        verbatim(text).ok_or(Unreadable)
    } else {
        Ok(Cow::Borrowed(text))
    }
}

/// The same of a string, a number, `true` or `false`; a list or an object could have the text of a string.
pub(super) fn scalar(value: Document<'_>) -> Result<Cow<'_, str>, Unreadable> {
    if value.is_object() || value.is_array() || value.text() == "null" {
        return Err(Unreadable);
    }
    text(value)
}

/// Whether a text is a JSON object.
pub(super) fn is_object(text: &str) -> bool {
    document(text.as_bytes()).is_ok_and(Document::is_object)
}

/// The steps of a pointer (RFC 6901).
fn steps(pointer: &str) -> impl Iterator<Item = String> {
    pointer
        .split('/')
        .skip(1)
        .map(|step| step.replace("~1", "/").replace("~0", "~"))
}

/// The fault of a pointer, if any.
pub(super) fn pointer_fault(pointer: &str) -> Option<String> {
    if !pointer.starts_with('/') {
        return Some(format!("{pointer:?} is not a JSON pointer: it begins with /"));
    }
    (steps(pointer).count() > MAX_POINTER_STEPS).then(|| format!("{pointer:?} has more than {MAX_POINTER_STEPS} steps"))
}

/// The body with this text at a pointer: in place of what is there, else as the first member of the object that it
/// belongs to. Every other byte stays.
pub(super) fn put(body: &[u8], pointer: &str, text: &str) -> Result<Vec<u8>, Unreadable> {
    let quoted = serde_json::to_string(text).map_err(|_| Unreadable)?;
    let offset = |value: Document<'_>| value.text().as_ptr().addr() - body.as_ptr().addr();
    if let Some(there) = find(body, pointer)? {
        let from = offset(there);
        return Ok([&body[..from], quoted.as_bytes(), &body[from + there.text().len()..]].concat());
    }
    let (parent, name) = pointer.rsplit_once('/').ok_or(Unreadable)?;
    let object = find(body, parent)?
        .filter(|value| value.is_object())
        .ok_or(Unreadable)?;
    let comma = if object.members().next().is_none() { "" } else { "," };
    let name = name.replace("~1", "/").replace("~0", "~");
    let name = serde_json::to_string(&name).map_err(|_| Unreadable)?;
    let member = format!("{name}:{quoted}{comma}");
    let from = offset(object) + 1;
    Ok([&body[..from], member.as_bytes(), &body[from..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(body: &str, pointer: &str) -> Option<String> {
        let found = find(body.as_bytes(), pointer).unwrap()?;
        Some(text(found).unwrap().into_owned())
    }

    #[test]
    fn values_are_found_as_written() {
        let body = r#" {"a":{"b/c":[1.50,{"~":"\u00e4"}]},"n":null,"big":90071992547409931234} "#;
        assert_eq!(at(body, "/a/b~1c/0").as_deref(), Some("1.50"));
        assert_eq!(at(body, "/a/b~1c/1/~0").as_deref(), Some("ä"));
        assert_eq!(at(body, "/big").as_deref(), Some("90071992547409931234"));
        for nothing in ["/n", "/x", "/a/b~1c/2", "/big/x", "/a/b~1c/-1"] {
            assert_eq!(at(body, nothing), None, "{nothing}");
        }
    }

    #[test]
    fn ambiguous_json_is_refused() {
        assert!(find(br#"{"a":1,"a":2}"#, "/a").is_err());
        assert!(find(br#"{"a":{"b":1,"\u0062":2}}"#, "/a/b").is_err());
        assert!(members(br#"{"a":1,"b":1,"a":2}"#).is_err());
        assert!(find(b"{", "/a").is_err() && find(b"{} {}", "/a").is_err() && members(b"[]").is_err());
        // A repeated key outside the path is not checked here.
        assert!(find(br#"{"a":1,"b":{"c":1,"c":2}}"#, "/a").is_ok());
    }

    #[test]
    fn no_more_is_listed_than_a_body_may_have() {
        let list = |elements: usize| format!(r#"{{"a":[{}0]}}"#, "0,".repeat(elements - 1));
        assert_eq!(count(list(MAX_ELEMENTS).as_bytes(), "/a").unwrap(), MAX_ELEMENTS);
        assert_eq!(at(&list(MAX_ELEMENTS), "/a/9999").as_deref(), Some("0"));
        for pointer in ["/a/0", "/a/10000"] {
            assert!(find(list(MAX_ELEMENTS + 1).as_bytes(), pointer).is_err(), "{pointer}");
        }
        assert!(count(list(MAX_ELEMENTS + 1).as_bytes(), "/a").is_err());
    }

    #[test]
    fn inserting_a_text_changes_nothing_else() {
        let put = |body: &str, pointer: &str| String::from_utf8(put(body.as_bytes(), pointer, "s\"").unwrap()).unwrap();
        assert_eq!(
            put(r#"{ "a" : 1.10, "sig":"old" }"#, "/sig"),
            r#"{ "a" : 1.10, "sig":"s\"" }"#
        );
        assert_eq!(put(r#"{ "a" : 1.10 }"#, "/sig"), r#"{"sig":"s\"", "a" : 1.10 }"#);
        assert_eq!(put("{}", "/sig"), r#"{"sig":"s\""}"#);
        assert_eq!(put(r#"[{"x":{}}]"#, "/0/x/s"), r#"[{"x":{"s":"s\""}}]"#);
        assert!(super::put(b"[]", "/sig", "x").is_err() && super::put(b"{}", "/a/sig", "x").is_err());
    }
}
