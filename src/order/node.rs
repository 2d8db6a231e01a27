//! Reading JSON whose fields are known here, such as what the backend sends: each value is kept as its text and the place
//! where it stands, so that no number passes through a float and every fault is named with its JSON pointer.
//!
//! Providers' webhooks, whose fields stand in files, are read by [`super::tree`].

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    fault::Faults,
    money::{Currency, Money},
    sanitise::with_whole_surrogates,
};

/// Most elements that are read from one array: no basket has so many lines.
const MAX_ELEMENTS: usize = 2_000;

/// A JSON value by its text, or its absence; `null` counts as absent.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    text: Option<&'a str>,
    pointer: String,
}

impl<'a> Node<'a> {
    /// The whole document.
    ///
    /// # Errors
    /// Where the bytes are no JSON; the message holds no part of them.
    pub fn root(bytes: &'a [u8]) -> Result<Self, serde_json::Error> {
        let raw: &RawValue = serde_json::from_slice(bytes)?;
        Ok(Self {
            text: Some(raw.get()),
            pointer: String::new(),
        })
    }

    /// Where it stands.
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Whether there is anything.
    pub fn is_present(&self) -> bool {
        self.text.is_some_and(|text| text != "null")
    }

    fn present(&self) -> Option<&'a str> {
        self.text.filter(|text| *text != "null")
    }

    /// Splits an object into its members, once; look them up with [`Object::get`]. Anything else than an object is a
    /// fault; an absent one is an object without members.
    pub fn object(&self, faults: &mut Faults) -> Object<'a> {
        let members = match self.present().map(serde_json::from_str::<Members<'a>>) {
            None => Vec::new(),
            Some(Ok(members)) => members.0,
            Some(Err(_)) => {
                faults.add(&self.pointer, "expected an object");
                Vec::new()
            }
        };
        Object {
            members,
            pointer: self.pointer.clone(),
        }
    }

    /// The elements of an array; absent means none.
    pub fn elements(&self, faults: &mut Faults) -> Vec<Self> {
        let Some(text) = self.present() else { return Vec::new() };
        let Ok(elements) = serde_json::from_str::<Vec<&'a RawValue>>(text) else {
            faults.add(&self.pointer, "expected an array");
            return Vec::new();
        };
        if elements.len() > MAX_ELEMENTS {
            faults.add(&self.pointer, format_args!("more than {MAX_ELEMENTS} elements"));
        }
        let place = |(at, raw): (usize, &'a RawValue)| Self {
            text: Some(raw.get()),
            pointer: format!("{}/{at}", self.pointer),
        };
        elements.into_iter().take(MAX_ELEMENTS).enumerate().map(place).collect()
    }

    /// Text; a number counts as text too, as it stands (providers send ids and phones either way). Empty is absent. Half
    /// of a surrogate pair becomes U+FFFD.
    pub fn text(&self, faults: &mut Faults) -> Option<String> {
        let whole = with_whole_surrogates(self.present()?);
        self.read_text(&whole, faults)
    }

    /// Text as it was sent, for ids: no two that differ may become one.
    pub fn verbatim(&self, faults: &mut Faults) -> Option<String> {
        self.read_text(self.present()?, faults)
    }

    fn read_text(&self, json: &str, faults: &mut Faults) -> Option<String> {
        if json.starts_with('"') {
            match serde_json::from_str::<String>(json) {
                Ok(value) => return Some(value).filter(|value| !value.trim().is_empty()),
                Err(_) => faults.add(&self.pointer, "expected text"),
            }
        } else if json.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
            return Some(json.to_owned());
        } else {
            faults.add(&self.pointer, "expected text");
        }
        None
    }

    /// Text that must be there.
    pub fn required_text(&self, faults: &mut Faults) -> String {
        let text = self.text(faults);
        if text.is_none() {
            // Of one place the first fault counts.
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

    /// Whether an object stands here.
    pub fn is_object(&self) -> bool {
        self.present().is_some_and(|text| text.starts_with('{'))
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
        match self.present()? {
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
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    pointer: String,
}

impl<'a> Object<'a> {
    /// The member of that name; an absent node where there is none. Of two with one name the last counts, as for every
    /// JSON reader that builds a map.
    pub fn get(&self, name: &str) -> Node<'a> {
        let found = self.members.iter().rev().find(|(key, _)| key == name);
        let escaped = name.replace('~', "~0").replace('/', "~1");
        Node {
            text: found.map(|(_, raw)| raw.get()),
            pointer: format!("{}/{escaped}", self.pointer),
        }
    }
}

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(16);
                while let Some((Key(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// A key, borrowed where it holds no escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_fault_with_its_place() {
        let body = br#"{"id": 9007199254740993, "a/b": {"x": [1, {"price": "1.5"}, {"price": "cheap"}]}, "when": "soon", "n": null}"#;
        let mut faults = Faults::default();
        let root = Node::root(body).unwrap().object(&mut faults);
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
    fn half_a_character_is_no_reason_to_lose_an_order() {
        let mut faults = Faults::default();
        let root = Node::root(br#"{"a": "Pizza \ud83c"}"#);
        let root = root.unwrap().object(&mut faults);
        assert_eq!(root.get("a").text(&mut faults).as_deref(), Some("Pizza \u{fffd}"));
        assert!(faults.none_or(()).is_ok());
    }

    #[test]
    fn the_last_of_two_members_counts() {
        let mut faults = Faults::default();
        let root = Node::root(br#"{"a": "first", "\u0061": "second"}"#)
            .unwrap()
            .object(&mut faults);
        assert_eq!(root.get("a").text(&mut faults).as_deref(), Some("second"));
    }
}
