//! A cursor over well-formed JSON text that builds nothing.
//!
//! The intake reads three or four fields of a body this way before the append; [`super::tree`] and [`crate::order::node`] are
//! built with it, and so is the look-up of signatures. serde_json decides whether the text is JSON: a [`Document`] exists
//! only of text that it accepted.

use std::{borrow::Cow, ops::Range};

use serde_json::value::RawValue;

use super::pointer::{Pointer, Segment};
use crate::json::surrogates::with_whole_surrogates;

/// Text that is one well-formed JSON value.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a>(&'a str);

impl<'a> Document<'a> {
    /// Checks the whole text.
    ///
    /// # Errors
    /// If it is no JSON; the error names a line and a column and quotes nothing.
    pub fn new(bytes: &'a [u8]) -> Result<Self, serde_json::Error> {
        Ok(Self(serde_json::from_slice::<&RawValue>(bytes)?.get()))
    }

    /// Its text, without white space around it.
    pub const fn text(self) -> &'a str {
        self.0
    }

    /// Whether it is an object.
    pub fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    /// Whether it is an array.
    pub fn is_array(self) -> bool {
        self.0.starts_with('[')
    }

    /// The members of an object, in their order, each with its name as it stands, quotes included; none of anything else.
    pub fn members(self) -> impl Iterator<Item = (&'a str, Self)> {
        let read = move |cursor: &mut Cursor<'_>| (&self.0[cursor.key()], Self(&self.0[cursor.value()]));
        self.is_object().then(|| self.inside(read)).into_iter().flatten()
    }

    /// The elements of an array; none of anything else.
    pub fn elements(self) -> impl Iterator<Item = Self> {
        let read = move |cursor: &mut Cursor<'_>| Self(&self.0[cursor.value()]);
        self.is_array().then(|| self.inside(read)).into_iter().flatten()
    }

    /// What is read between its brackets, from comma to comma.
    fn inside<T>(self, read: impl Fn(&mut Cursor<'_>) -> T) -> impl Iterator<Item = T> {
        let mut cursor = Cursor::new(self.0);
        cursor.enter();
        std::iter::from_fn(move || {
            if cursor.at_end() {
                return None;
            }
            let piece = read(&mut cursor);
            cursor.comma();
            Some(piece)
        })
    }

    /// The part of it that a pointer leads to; of two members with one name the last counts. A pointer with `*` leads
    /// nowhere here.
    pub fn part(self, pointer: &Pointer) -> Option<Self> {
        let mut segments = pointer.segments().iter();
        segments.try_fold(self, |part, segment| match segment {
            Segment::Name(name) if part.is_object() => {
                let (_, value) = part.members().filter(|(key, _)| unescape(key) == *name).last()?;
                Some(value)
            }
            Segment::Name(name) => part.elements().nth(name.parse().ok()?),
            Segment::Last => part.elements().last(),
            Segment::Each => None,
        })
    }

    /// The text of that part.
    pub fn find(self, pointer: &Pointer) -> Option<&'a str> {
        self.part(pointer).map(Self::text)
    }
}

/// What a JSON string, quotes included, says; nothing if half of a surrogate pair stands alone in it. For ids: no two
/// that differ may become one.
pub fn verbatim(quoted: &str) -> Option<Cow<'_, str>> {
    let inner = quoted.get(1..quoted.len().saturating_sub(1))?;
    if inner.contains('\\') {
        serde_json::from_str(quoted).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// What a JSON string, quotes included, says. A lone surrogate, which is JSON but no text, becomes U+FFFD: a broken emoji
/// in a name must not cost an order.
pub fn unescape(quoted: &str) -> Cow<'_, str> {
    let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    Cow::Owned(serde_json::from_str(&with_whole_surrogates(quoted)).unwrap_or_default())
}

/// Splits JSON text into quoted strings and the text between them. The pieces joined are the input, also when it is not valid JSON.
pub fn pieces(mut rest: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let end = match rest.strip_prefix('"') {
            Some(text) => 1 + end_of_text(text.as_bytes()),
            None => rest.find('"').unwrap_or(rest.len()),
        };
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// How long a text is behind its opening quote, with the closing one.
fn end_of_text(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += match byte {
            b'"' => return at + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    bytes.len()
}

/// A place in well-formed JSON text.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            bytes: text.as_bytes(),
            at: 0,
        }
    }

    pub(super) fn peek(&mut self) -> Option<u8> {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    pub(super) const fn position(&self) -> usize {
        self.at
    }

    /// Past the bracket that opens an object or array.
    pub(super) fn enter(&mut self) {
        self.peek();
        self.step();
    }

    pub(super) fn step(&mut self) {
        self.at = (self.at + 1).min(self.bytes.len());
    }

    /// Whether the object or array ends here.
    pub(super) fn at_end(&mut self) -> bool {
        matches!(self.peek(), None | Some(b'}' | b']'))
    }

    pub(super) fn comma(&mut self) {
        if self.peek() == Some(b',') {
            self.step();
        }
    }

    /// A key in its quotes, and its colon; where the key stands.
    pub(super) fn key(&mut self) -> Range<usize> {
        self.peek();
        let start = self.at;
        self.string();
        let end = self.at;
        if self.peek() == Some(b':') {
            self.step();
        }
        start..end
    }

    /// A whole value; where it stands.
    fn value(&mut self) -> Range<usize> {
        let first = self.peek();
        let start = self.at;
        match first {
            Some(b'{' | b'[') => self.container(),
            _ => self.scalar(),
        }
        start..self.at
    }

    /// A string, number, `true`, `false` or `null`.
    pub(super) fn scalar(&mut self) {
        if self.bytes.get(self.at) == Some(&b'"') {
            return self.string();
        }
        let start = self.at;
        while !matches!(
            self.bytes.get(self.at),
            None | Some(b',' | b'}' | b']' | b':' | b' ' | b'\n' | b'\r' | b'\t')
        ) {
            self.at += 1;
        }
        if self.at == start {
            self.step();
        }
    }

    fn string(&mut self) {
        self.step();
        self.at += end_of_text(self.bytes.get(self.at..).unwrap_or_default());
    }

    fn container(&mut self) {
        let mut depth = 0usize;
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.string();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.step();
            if depth == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find<'a>(json: &'a str, pointer: &str) -> Option<&'a str> {
        Document::new(json.as_bytes()).unwrap().find(&pointer.parse().unwrap())
    }

    #[test]
    fn finds_by_name_and_place() {
        let json = " {\"a\" : [1, {\"b\":\"}]\\\"\"} , [ ] ],\"c/d\":{\"\":9007199254740993}, \"a\\u0062\": true } ";
        assert_eq!(find(json, "/a/1/b"), Some("\"}]\\\"\""));
        assert_eq!(find(json, "/a/0"), Some("1"));
        assert_eq!(find(json, "/a/2"), Some("[ ]"));
        assert_eq!(find(json, "/a/3"), None);
        assert_eq!(find(json, "/a/-"), Some("[ ]"));
        assert_eq!(find(json, "/a/2/-"), None);
        assert_eq!(find(json, "/c~1d/"), Some("9007199254740993"));
        assert_eq!(find(json, "/ab"), Some("true"));
        assert_eq!(find(json, "/x/y"), None);
        assert_eq!(find(json, "/a/*"), None);
        assert_eq!(find(r#"{"a":1,"a":2}"#, "/a"), Some("2"), "the last one counts");
        assert!(Document::new(b"{\"a\":1").is_err());
    }

    #[test]
    fn lone_surrogates_cost_a_character_and_not_the_text() {
        assert_eq!(unescape(r#""a\ud83d\ude00b\ud83dc\n""#), "a😀b\u{fffd}c\n");
        assert_eq!(unescape(r#""\u0627""#), "ا");
    }

    proptest! {
        #[test]
        fn agrees_with_serde(value in any::<Vec<(String, i64)>>(), name in any::<String>()) {
            let map: serde_json::Map<_, _> = value.into_iter().map(|(key, value)| (key, value.into())).collect();
            let json = serde_json::to_string(&map).unwrap();
            let pointer = Pointer::from_name(&name);
            prop_assume!(name != "*" && name != "-");
            let found = Document::new(json.as_bytes()).unwrap().find(&pointer).map(str::to_owned);
            prop_assert_eq!(found, map.get(&name).map(ToString::to_string));
            for (key, value) in map.iter().filter(|(key, _)| *key != "*" && *key != "-") {
                let pointer = Pointer::from_name(key);
                prop_assert_eq!(Document::new(json.as_bytes()).unwrap().find(&pointer), Some(&*value.to_string()));
            }
        }

        #[test]
        fn never_panics(text in "\\PC{0,60}", json in r#"[\[\]{}",:\\ua0 ]{0,40}"#) {
            for text in [text, json] {
                if let Ok(document) = Document::new(text.as_bytes()) {
                    let _ = document.find(&"/a/0".parse().unwrap());
                }
                let _ = unescape(&serde_json::to_string(&text).unwrap());
                let _ = super::super::tree::Tree::parse(text.as_bytes());
                prop_assert_eq!(pieces(&text).collect::<String>(), text);
            }
        }
    }

    impl Pointer {
        fn from_name(name: &str) -> Self {
            format!("/{}", super::super::pointer::escape(name)).parse().unwrap()
        }
    }
}
