//! A provider's JSON, read once into a flat list of values: each keeps its text and its position.
//!
//! Keeping the text means that no number passes through a float and that ids beyond 2^53 stay exact. Each value also knows
//! whether it was taken, so that values that the file does not name can be kept beside the order. [`crate::order::node`]
//! explains why formats of our own are read another way.

use std::{borrow::Cow, cell::Cell};

use super::{
    pointer::{Pointer, Segment, escape},
    scan::{Cursor, Document, pieces, unescape},
};

/// Most values of one document, 48 bytes each; the largest basket that was seen has three thousand.
pub const MAX_VALUES: usize = 100_000;
/// Deepest nesting that is read; the deepest that a provider documents has fourteen levels.
pub const MAX_DEPTH: usize = 64;
/// No value.
const NONE: u32 = u32::MAX;

/// Why a document is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Not JSON.
    #[error("not JSON")]
    NotJson,
    /// More than [`MAX_VALUES`].
    #[error("more than {MAX_VALUES} values")]
    TooMany,
    /// Deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// What kind of value it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    Text,
    /// Digits, kept as they stand.
    Number,
    /// `true` or `false`
    Flag,
    /// `null`
    Null,
}

#[derive(Debug)]
struct Entry {
    /// Where its text begins and ends.
    text: (u32, u32),
    /// The position of its name, quotes included; for elements of arrays their index and [`NONE`].
    key: (u32, u32),
    parent: u32,
    first: u32,
    last: u32,
    next: u32,
    kind: ValueKind,
    taken: Cell<bool>,
}

/// A document.
#[derive(Debug)]
pub struct Tree<'a> {
    text: &'a str,
    entries: Vec<Entry>,
}

/// A value of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValueId(u32);

impl<'a> Tree<'a> {
    /// Reads a document.
    ///
    /// # Errors
    /// If it is no JSON, or beyond what is read.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TreeError> {
        let text = Document::new(bytes).map_err(|_| TreeError::NotJson)?.text();
        if text.len() >= NONE as usize {
            return Err(TreeError::TooMany);
        }
        let mut tree = Self {
            text,
            entries: Vec::with_capacity((text.len() / 16).min(MAX_VALUES) + 1),
        };
        tree.build()?;
        Ok(tree)
    }

    fn build(&mut self) -> Result<(), TreeError> {
        let mut cursor = Cursor::new(self.text);
        let (mut parent, mut depth) = (NONE, 0usize);
        loop {
            if parent != NONE && cursor.at_end() {
                cursor.step();
                let ended = &mut self.entries[parent as usize];
                ended.text.1 = cursor.position() as u32;
                (parent, depth) = (ended.parent, depth - 1);
            } else {
                let index = self.add(&mut cursor, parent)?;
                if matches!(self.entries[index as usize].kind, ValueKind::Object | ValueKind::Array) {
                    (parent, depth) = (index, depth + 1);
                    if depth > MAX_DEPTH {
                        return Err(TreeError::TooDeep);
                    }
                    continue;
                }
            }
            if parent == NONE {
                return Ok(());
            }
            cursor.comma();
        }
    }

    /// Adds the value at the cursor; of an object or array only its opening bracket is read.
    fn add(&mut self, cursor: &mut Cursor<'_>, parent: u32) -> Result<u32, TreeError> {
        let index = self.entries.len();
        if index >= MAX_VALUES {
            return Err(TreeError::TooMany);
        }
        let index = index as u32;
        let mut key = (0, NONE);
        if parent != NONE {
            let before = self.entries[parent as usize].last;
            if self.entries[parent as usize].kind == ValueKind::Object {
                let name = cursor.key();
                key = (name.start as u32, name.end as u32);
            } else if before != NONE {
                key.0 = self.entries[before as usize].key.0 + 1;
            }
            match before {
                NONE => self.entries[parent as usize].first = index,
                before => self.entries[before as usize].next = index,
            }
            self.entries[parent as usize].last = index;
        }
        let kind = match cursor.peek() {
            Some(b'{') => ValueKind::Object,
            Some(b'[') => ValueKind::Array,
            Some(b'"') => ValueKind::Text,
            Some(b't' | b'f') => ValueKind::Flag,
            Some(b'n') => ValueKind::Null,
            _ => ValueKind::Number,
        };
        let start = cursor.position() as u32;
        match kind {
            ValueKind::Object | ValueKind::Array => cursor.enter(),
            _ => cursor.scalar(),
        }
        self.entries.push(Entry {
            text: (start, cursor.position() as u32),
            key,
            parent,
            first: NONE,
            last: NONE,
            next: NONE,
            kind,
            taken: Cell::new(false),
        });
        Ok(index)
    }

    /// The whole of it.
    pub const fn root(&self) -> ValueId {
        ValueId(0)
    }

    fn entry(&self, place: ValueId) -> &Entry {
        &self.entries[place.0 as usize]
    }

    /// What kind of value it is.
    pub fn kind(&self, place: ValueId) -> ValueKind {
        self.entry(place).kind
    }

    /// Its JSON text.
    pub fn raw(&self, place: ValueId) -> &'a str {
        let (start, end) = self.entry(place).text;
        &self.text[start as usize..end as usize]
    }

    /// The same, without white space between its tokens.
    pub fn compact(&self, place: ValueId) -> String {
        let raw = self.raw(place);
        let mut kept = String::with_capacity(raw.len());
        for piece in pieces(raw) {
            if piece.starts_with('"') {
                kept.push_str(piece);
            } else {
                kept.extend(piece.split_ascii_whitespace());
            }
        }
        kept
    }

    /// Its members or elements.
    pub fn children(&self, place: ValueId) -> impl Iterator<Item = ValueId> + '_ {
        let some = |index: u32| (index != NONE).then_some(ValueId(index));
        std::iter::successors(some(self.entry(place).first), move |before| {
            some(self.entry(*before).next)
        })
    }

    /// The value that a pointer leads to from here; of two members with one name the last counts.
    pub fn find(&self, from: ValueId, pointer: &Pointer) -> Option<ValueId> {
        pointer
            .segments()
            .iter()
            .try_fold(from, |place, segment| match segment {
                Segment::Name(name) => self.child(place, name),
                Segment::Last => self.last(place),
                Segment::Each => None,
            })
    }

    /// All values that a pointer leads to from here, at most `limit`.
    pub fn find_each(&self, from: ValueId, pointer: &Pointer, limit: usize) -> Vec<ValueId> {
        let mut places = vec![from];
        for segment in pointer.segments() {
            places = match segment {
                Segment::Name(name) => places.iter().filter_map(|place| self.child(*place, name)).collect(),
                Segment::Last => places.iter().filter_map(|place| self.last(*place)).collect(),
                Segment::Each => places
                    .iter()
                    .flat_map(|place| self.children(*place))
                    .take(limit)
                    .collect(),
            };
        }
        places
    }

    /// The first value on the way from here to what a pointer leads to that cannot hold the next step: a text where an object
    /// should be, a list where a member is named. An absent value, `null` or an empty text is no error.
    pub fn obstacle(&self, from: ValueId, pointer: &Pointer) -> Option<ValueId> {
        self.obstacle_to(from, pointer.segments())
    }

    fn obstacle_to(&self, place: ValueId, segments: &[Segment]) -> Option<ValueId> {
        let (segment, rest) = segments.split_first()?;
        let next = match (segment, self.kind(place)) {
            (_, ValueKind::Null) => return None,
            (_, ValueKind::Text) if self.raw(place).trim_matches('"').trim().is_empty() => return None,
            (Segment::Each, ValueKind::Object | ValueKind::Array) => {
                return self.children(place).find_map(|child| self.obstacle_to(child, rest));
            }
            (Segment::Name(name), ValueKind::Object) => match self.child(place, name) {
                None if name.parse::<usize>().is_ok() => return Some(place),
                child => child,
            },
            (Segment::Name(name), ValueKind::Array) => match name.parse() {
                Ok(at) => self.children(place).nth(at),
                // The elements of a list have no names.
                Err(_) => return Some(place),
            },
            (Segment::Last, ValueKind::Array) => self.last(place),
            _ => return Some(place),
        };
        self.obstacle_to(next?, rest)
    }

    fn last(&self, place: ValueId) -> Option<ValueId> {
        let entry = self.entry(place);
        (entry.kind == ValueKind::Array && entry.last != NONE).then_some(ValueId(entry.last))
    }

    fn child(&self, place: ValueId, name: &str) -> Option<ValueId> {
        match self.kind(place) {
            ValueKind::Object => {
                let is_it = |child: &ValueId| {
                    let (start, end) = self.entry(*child).key;
                    unescape(&self.text[start as usize..end as usize]) == name
                };
                self.children(place).filter(is_it).last()
            }
            ValueKind::Array => self.children(place).nth(name.parse().ok()?),
            _ => None,
        }
    }

    /// The text of a string, the digits of a number, or `true` and `false`; none for other values.
    pub fn text(&self, place: ValueId) -> Option<Cow<'a, str>> {
        match self.kind(place) {
            ValueKind::Text => Some(unescape(self.raw(place))),
            ValueKind::Number | ValueKind::Flag => Some(Cow::Borrowed(self.raw(place))),
            ValueKind::Object | ValueKind::Array | ValueKind::Null => None,
        }
    }

    /// Its location, as a JSON pointer.
    pub fn pointer(&self, place: ValueId) -> String {
        let mut parts = Vec::new();
        let mut at = place.0;
        while self.entries[at as usize].parent != NONE {
            let entry = &self.entries[at as usize];
            parts.push(match entry.key {
                (place, NONE) => place.to_string(),
                (start, end) => escape(&unescape(&self.text[start as usize..end as usize])),
            });
            at = entry.parent;
        }
        parts.iter().rev().flat_map(|part| ["/", part.as_str()]).collect()
    }

    /// Notes that it has a place in the order.
    pub fn take(&self, place: ValueId) {
        self.entry(place).taken.set(true);
    }

    /// Whether it was taken.
    pub fn is_taken(&self, place: ValueId) -> bool {
        self.entry(place).taken.get()
    }

    /// Whether it, or anything in it, was taken.
    pub fn is_touched(&self, place: ValueId) -> bool {
        self.is_taken(place) || self.children(place).any(|child| self.is_touched(child))
    }

    /// The topmost values of which nothing was taken, in the document's order.
    pub fn not_taken(&self) -> Vec<ValueId> {
        let mut touched = vec![false; self.entries.len()];
        // Parents come before their children.
        for (index, entry) in self.entries.iter().enumerate().rev() {
            touched[index] |= entry.taken.get();
            if touched[index] && entry.parent != NONE {
                touched[entry.parent as usize] = true;
            }
        }
        let mut left = Vec::new();
        let mut covered = vec![false; self.entries.len()];
        for (index, entry) in self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.parent != NONE)
        {
            let parent = entry.parent as usize;
            covered[index] = covered[parent] || self.entries[parent].taken.get();
            if !covered[index] && !touched[index] {
                left.push(ValueId(index as u32));
                covered[index] = true;
            }
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"id": 9007199254740993, "a/b": {"x": [1, {"price": "1.5"}, []]}, "n": null, "\u0061": "s\u0020t", "e": {}}"#;

    fn at(tree: &Tree<'_>, pointer: &str) -> Option<ValueId> {
        tree.find(tree.root(), &pointer.parse().unwrap())
    }

    #[test]
    fn values_keep_their_text_and_place() {
        let tree = Tree::parse(JSON.as_bytes()).unwrap();
        for (pointer, raw, kind) in [
            ("/id", "9007199254740993", ValueKind::Number),
            ("/a~1b", r#"{"x": [1, {"price": "1.5"}, []]}"#, ValueKind::Object),
            ("/a~1b/x/1/price", "\"1.5\"", ValueKind::Text),
            ("/a~1b/x/2", "[]", ValueKind::Array),
            ("/n", "null", ValueKind::Null),
            ("/a", r#""s\u0020t""#, ValueKind::Text),
        ] {
            let place = at(&tree, pointer).unwrap();
            assert_eq!((tree.raw(place), tree.kind(place)), (raw, kind), "{pointer}");
            assert_eq!(tree.pointer(place), pointer);
        }
        assert_eq!(
            tree.compact(at(&tree, "/a~1b").unwrap()),
            r#"{"x":[1,{"price":"1.5"},[]]}"#
        );
        assert_eq!(tree.compact(at(&tree, "/a").unwrap()), r#""s\u0020t""#);
        assert_eq!(tree.text(at(&tree, "/a").unwrap()).unwrap(), "s t");
        assert_eq!(at(&tree, "/a~1b/x/3"), None);
        assert_eq!(at(&tree, "/a~1b/x/-"), at(&tree, "/a~1b/x/2"));
        let each = tree.find_each(tree.root(), &"/a~1b/x/*".parse().unwrap(), 10);
        assert_eq!(each.len(), 3);
        let spaced = "{ \"a b\" :\t[ \"\\\" c\" ,\r\n1 , \"\\\\\" ] }";
        let tree = Tree::parse(spaced.as_bytes()).unwrap();
        assert_eq!(tree.compact(tree.root()), r#"{"a b":["\" c",1,"\\"]}"#);
    }

    #[test]
    fn find_reports_what_is_in_the_way() {
        let json = br#"{"a":"x","b":[],"c":[{"p":1},"y"],"d":null,"e":"","f":false,"g":{"h":{}}}"#;
        let tree = Tree::parse(json).unwrap();
        let obstacle = |pointer: &str| {
            let found = tree.obstacle(tree.root(), &pointer.parse().unwrap());
            found.map(|place| tree.pointer(place)).unwrap_or_default()
        };
        for (pointer, place) in [
            ("/a/name", "/a"),
            ("/b/name", "/b"),
            ("/b/0/name", ""),
            ("/c/*/p", "/c/1"),
            ("/c/-/p", "/c/1"),
            ("/c/0/p", ""),
            ("/d/x", ""),
            ("/e/x", ""),
            ("/f/x", "/f"),
            ("/g/h/0/x", "/g/h"),
            ("/g/h/x/y", ""),
            ("/none/x", ""),
            ("/a", ""),
        ] {
            assert_eq!(obstacle(pointer), place, "{pointer}");
        }
    }

    #[test]
    fn untaken_values_are_left() {
        let tree = Tree::parse(JSON.as_bytes()).unwrap();
        for pointer in ["/id", "/a~1b/x/1/price", "/e"] {
            tree.take(at(&tree, pointer).unwrap());
        }
        let left: Vec<_> = tree.not_taken().into_iter().map(|place| tree.pointer(place)).collect();
        assert_eq!(left, ["/a~1b/x/0", "/a~1b/x/2", "/n", "/a"]);
    }

    #[test]
    fn the_limits_hold() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Tree::parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert_eq!(
            Tree::parse(nested(MAX_DEPTH + 1).as_bytes()).unwrap_err(),
            TreeError::TooDeep
        );
        let many = format!("[{}1]", "1,".repeat(MAX_VALUES));
        assert_eq!(Tree::parse(many.as_bytes()).unwrap_err(), TreeError::TooMany);
        assert_eq!(Tree::parse(b"{").unwrap_err(), TreeError::NotJson);
        assert_eq!(Tree::parse(b" 7 ").unwrap().raw(ValueId(0)), "7");
    }
}
