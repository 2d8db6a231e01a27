//! Reads JSON with known fields, such as the backend's requests. Each value is kept as its text and its location, so that no
//! number passes through a float and every fault has its JSON pointer.
//!
//! Providers' webhooks, with fields that files name, are read by [`crate::json::tree`]. Both walk over the text with
//! [`crate::json::scan`], for different uses. There pointers of any length are looked up repeatedly, and values that were not read
//! are kept, so all values are in one list of limited size. Here the code descends once, field by field, also needs the location
//! of absent fields, and is finished with an object when it has read it.

use std::borrow::Cow;

use super::money::{Currency, Money};
use crate::json::{
    fault::{Fault, Faults},
    pointer::escape,
    scan::{self, Document, unescape},
    structure,
};

/// Most elements that are read from one array: no basket has so many lines.
const MAX_ELEMENTS: usize = 2_000;

/// A JSON value by its text, or its absence; `null` counts as absent.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    value: Option<Document<'a>>,
    pointer: String,
}

impl<'a> Node<'a> {
    fn at(pointer: String, value: Option<Document<'a>>) -> Self {
        Self {
            value: value.filter(|value| value.text() != "null"),
            pointer,
        }
    }

    /// The whole document.
    ///
    /// # Errors
    /// If the bytes are no JSON: a fault that holds no part of them.
    pub fn document(bytes: &'a [u8]) -> Result<Self, Vec<Fault>> {
        let not_json = |_| {
            vec![Fault {
                pointer: String::new(),
                message: "expected JSON".to_owned(),
            }]
        };
        let document = Document::new(bytes).map_err(not_json)?;
        Ok(Self::at(String::new(), Some(document)))
    }

    /// The whole document, if it is one object with each key once. [`document`](Self::document) takes the last of equal keys, and
    /// another reader may take the first.
    ///
    /// # Errors
    /// Its only fault.
    pub fn unambiguous(bytes: &'a [u8]) -> Result<Self, Vec<Fault>> {
        let document = Self::document(bytes)?;
        let fault = |why: structure::Malformed| {
            vec![Fault {
                pointer: String::new(),
                message: why.0,
            }]
        };
        structure::check_of_any_size(bytes).map_err(fault)?;
        Ok(document)
    }

    /// Its location.
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Whether there is anything.
    pub fn is_present(&self) -> bool {
        self.value.is_some()
    }

    /// Splits an object into its members, once; look them up with [`Object::get`]. Anything else than an object is a
    /// fault; an absent one is an object without members.
    pub fn object(&self, faults: &mut Faults) -> Object<'a> {
        if self.is_present() && !self.is_object() {
            faults.add(&self.pointer, "expected an object");
        }
        let members = self.value.into_iter().flat_map(Document::members);
        Object {
            members: members.map(|(name, value)| (unescape(name), value)).collect(),
            pointer: self.pointer.clone(),
        }
    }

    /// The elements of an array; absent means none.
    pub fn elements(&self, faults: &mut Faults) -> Vec<Self> {
        if self.value.is_some_and(|value| !value.is_array()) {
            faults.add(&self.pointer, "expected an array");
        }
        let elements = self.value.into_iter().flat_map(Document::elements).enumerate();
        let place = |(at, value)| Self::at(format!("{}/{at}", self.pointer), Some(value));
        let mut elements: Vec<_> = elements.map(place).take(MAX_ELEMENTS + 1).collect();
        if elements.len() > MAX_ELEMENTS {
            faults.add(&self.pointer, format_args!("more than {MAX_ELEMENTS} elements"));
            elements.truncate(MAX_ELEMENTS);
        }
        elements
    }

    /// Text; a number counts as text too, as it stands (providers send ids and phones either way). Empty is absent. Half
    /// of a surrogate pair becomes U+FFFD.
    pub fn text(&self, faults: &mut Faults) -> Option<String> {
        self.read_text(|quoted| Some(unescape(quoted)), faults)
    }

    /// Text as it was sent, for ids: no two that differ may become one.
    pub fn verbatim(&self, faults: &mut Faults) -> Option<String> {
        self.read_text(scan::verbatim, faults)
    }

    fn read_text(&self, unquote: impl Fn(&'a str) -> Option<Cow<'a, str>>, faults: &mut Faults) -> Option<String> {
        let json = self.value?.text();
        let text = match json.as_bytes().first() {
            Some(b'"') => unquote(json),
            Some(b'-' | b'0'..=b'9') => Some(Cow::Borrowed(json)),
            _ => None,
        };
        if text.is_none() {
            faults.add(&self.pointer, "expected text");
        }
        text.filter(|text| !text.trim().is_empty()).map(Cow::into_owned)
    }

    /// Text that must be there.
    pub fn required_text(&self, faults: &mut Faults) -> String {
        let text = self.text(faults);
        if text.is_none() {
            // Only the first fault of each location is reported.
            faults.add(&self.pointer, "missing");
        }
        text.unwrap_or_default()
    }

    /// An amount: a number, or a decimal in quotes.
    pub fn money(&self, currency: Currency, faults: &mut Faults) -> Option<Money> {
        let text = self.text(faults)?;
        Money::parse(text.trim(), currency)
            .map_err(|error| faults.add(&self.pointer, error))
            .ok()
    }

    /// Whether the value is an object.
    pub fn is_object(&self) -> bool {
        self.value.is_some_and(Document::is_object)
    }

    /// A whole number, also in quotes.
    pub fn whole(&self, faults: &mut Faults) -> Option<i64> {
        let text = self.text(faults)?;
        let number = text.trim().parse().ok();
        if number.is_none() {
            faults.add(&self.pointer, "expected a whole number");
        }
        number
    }

    /// True or false.
    pub fn flag(&self, faults: &mut Faults) -> Option<bool> {
        match self.value?.text() {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                faults.add(&self.pointer, "expected true or false");
                None
            }
        }
    }
}

/// The members of an object.
#[derive(Debug)]
pub struct Object<'a> {
    members: Vec<(Cow<'a, str>, Document<'a>)>,
    pointer: String,
}

impl<'a> Object<'a> {
    /// The member of that name; an absent node where there is none. Of two with one name the last counts, as for every
    /// JSON reader that builds a map.
    pub fn get(&self, name: &str) -> Node<'a> {
        let found = self.members.iter().rev().find(|(key, _)| key == name);
        let pointer = format!("{}/{}", self.pointer, escape(name));
        Node::at(pointer, found.map(|(_, value)| *value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_fault_with_its_place() {
        let body = br#"{"id": 9007199254740993, "a/b": {"x": [1, {"price": "1.5"}, {"price": "cheap"}]}, "when": "soon", "n": null}"#;
        let mut faults = Faults::default();
        let root = Node::document(body).unwrap().object(&mut faults);
        assert_eq!(root.get("id").text(&mut faults).as_deref(), Some("9007199254740993"));
        let jod: Currency = "JOD".parse().unwrap();
        let list = root.get("a/b").object(&mut faults).get("x").elements(&mut faults);
        assert_eq!(
            list[1]
                .object(&mut faults)
                .get("price")
                .money(jod, &mut faults)
                .unwrap()
                .minor,
            1500
        );
        assert!(
            list[2]
                .object(&mut faults)
                .get("price")
                .money(jod, &mut faults)
                .is_none()
        );
        list[0].object(&mut faults);
        assert_eq!(root.get("when").whole(&mut faults), None);
        assert_eq!(root.get("n").flag(&mut faults), None);
        assert_eq!(list[0].flag(&mut faults), None);
        assert_eq!(root.get("n").text(&mut faults), None);
        root.get("name").required_text(&mut faults);
        let faults = faults.none_or(()).unwrap_err();
        let places: Vec<_> = faults
            .iter()
            .map(|fault| (fault.pointer.as_str(), fault.message.as_str()))
            .collect();
        assert_eq!(
            places,
            [
                ("/a~1b/x/2/price", "expected a decimal number"),
                ("/a~1b/x/0", "expected an object"),
                ("/when", "expected a whole number"),
                ("/name", "missing"),
            ]
        );
    }

    #[test]
    fn half_a_surrogate_pair_loses_no_order() {
        let mut faults = Faults::default();
        let root = Node::document(br#"{"a": "Pizza \ud83c", "\ud83c": 1}"#);
        let root = root.unwrap().object(&mut faults);
        assert_eq!(root.get("a").text(&mut faults).as_deref(), Some("Pizza \u{fffd}"));
        assert!(faults.none_or(()).is_ok());
    }

    #[test]
    fn the_last_of_two_members_counts() {
        let mut faults = Faults::default();
        let root = Node::document(br#"{"a": "first", "\u0061": "second"}"#)
            .unwrap()
            .object(&mut faults);
        assert_eq!(root.get("a").text(&mut faults).as_deref(), Some("second"));
    }
}
