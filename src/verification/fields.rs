//! The fields of a JSON object as they are signed one by one: `a=1&b=x`, sorted, without escaping.
//!
//! Joined in this way, `{"a": "1&b=2"}` and `{"a": "1", "b": "2"}` give the same text. The fields that are read follow from the text only if it
//! can be read from left to right in one way. So these rules apply:
//!
//! - every field that is read is there once, of its type; names hold neither `&` nor `=`;
//! - a text or a number that is read holds no `&`: it ends at the next one;
//! - an object in a text may hold any `&`, as the remarks of customers do: it ends with its last bracket, wherever it is cut before
//!   that is no JSON, and nothing but white space may follow it;
//! - what is not read holds no `&name=` of a field that is read: it ends before the next one.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{json, location::Source};
use crate::json::scan::Document;

/// The type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A text.
    Text,
    /// A number.
    Number,
    /// Either.
    TextOrNumber,
    /// A JSON object in a text.
    Json,
}

/// One field: `text`, `number`, `text_or_number` or `json`, with `?` where it may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Field {
    /// Its type.
    pub holds: Type,
    /// Whether it must be there.
    pub is_required: bool,
}

impl TryFrom<String> for Field {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (name, is_required) = match text.strip_suffix('?') {
            Some(name) => (name, false),
            None => (&*text, true),
        };
        let holds = match name {
            "text" => Type::Text,
            "number" => Type::Number,
            "text_or_number" => Type::TextOrNumber,
            "json" => Type::Json,
            _ => {
                return Err(format!(
                    "fields: {text:?} is not a type; expected text, number, text_or_number or json, with ? where it may be missing"
                ));
            }
        };
        Ok(Self { holds, is_required })
    }
}

impl Field {
    fn fits(self, value: Document<'_>) -> bool {
        let first = value.text().bytes().next();
        let (is_text, is_number) = (first == Some(b'"'), matches!(first, Some(b'-' | b'0'..=b'9')));
        match self.holds {
            Type::Text | Type::Json => is_text,
            Type::Number => is_number,
            Type::TextOrNumber => is_text || is_number,
        }
    }
}

/// The fields that are read, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Fields(pub(super) BTreeMap<String, Field>);

impl Fields {
    /// Whether this is the JSON pointer of one of them.
    pub(super) fn has(&self, pointer: &str) -> bool {
        pointer.strip_prefix('/').is_some_and(|name| self.0.contains_key(name))
    }

    /// The members of the body, sorted, without the signature and what is `null`; none if they are ambiguous.
    pub(super) fn sorted(&self, body: &[u8], signature: &Source) -> Option<String> {
        let own = match signature {
            Source::Pointer(pointer) => pointer.strip_prefix('/').unwrap_or_default(),
            Source::Header(_) => "",
        };
        let mut text = String::with_capacity(body.len());
        let mut required = self.0.values().filter(|field| field.is_required).count();
        for (name, value) in json::members(body).ok()? {
            if name == own {
                continue;
            }
            let field = self.0.get(&*name);
            // A field that the scheme does not list counts as missing if it is `null`.
            if field.is_none() && value.text() == "null" {
                continue;
            }
            if field.is_some_and(|field| !field.fits(value)) || !is_name(&name) {
                return None;
            }
            required -= usize::from(field.is_some_and(|field| field.is_required));
            let value = json::text(value).ok()?;
            let is_one = match field {
                Some(field) if field.holds == Type::Json => json::is_object(&value),
                Some(_) => !value.contains('&'),
                None => !self.holds_another(&value),
            };
            if !is_one {
                return None;
            }
            if !text.is_empty() {
                text.push('&');
            }
            text.push_str(&name);
            text.push('=');
            text.push_str(&value);
        }
        (required == 0).then_some(text)
    }

    /// Whether a field that is read could begin in a text.
    fn holds_another(&self, text: &str) -> bool {
        text.split('&')
            .skip(1)
            .filter_map(|part| part.split_once('='))
            .any(|(name, _)| self.0.contains_key(name))
    }
}

/// Whether a name ends where its `=` is.
fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !name.is_empty() && name.bytes().all(is_letter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn fields() -> Fields {
        serde_json::from_value(
            json!({ "event": "number", "id": "text_or_number", "message": "json", "shop": "number?" }),
        )
        .unwrap()
    }

    fn sorted(body: &Value) -> Option<String> {
        fields().sorted(body.to_string().as_bytes(), &Source::Pointer("/sig".into()))
    }

    /// The fields that are read from an object, by name.
    fn read(body: &Value) -> Vec<Value> {
        fields().0.keys().map(|name| body[name].clone()).collect()
    }

    #[test]
    fn ambiguous_or_missing_fields_are_refused() {
        let good = json!({ "sig": "x", "event": 1, "id": "m", "message": "{\"note\":\"salt & pepper & a=b\"}", "more": true, "no": null });
        assert_eq!(
            sorted(&good).as_deref(),
            Some("event=1&id=m&message={\"note\":\"salt & pepper & a=b\"}&more=true")
        );
        for (field, value) in [
            ("event", json!("1")),
            ("event", json!(null)),
            ("event", json!([1])),
            ("id", json!("m&shop=2")),
            ("id", json!("m&x")),
            ("id", json!(true)),
            ("message", json!({ "note": 1 })),
            ("message", json!("{\"note\":\"1")),
            ("message", json!("{\"note\":\"1\"}&shop=3")),
            ("message", json!("[]")),
            ("shop", json!("2")),
            ("more", json!("a&shop=2")),
            ("more", json!(["a&b=1&message={}"])),
            ("mo=re", json!(1)),
            ("mo&re", json!(1)),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            assert_eq!(sorted(&bad), None, "{bad}");
        }
        for missing in ["event", "id", "message"] {
            let mut bad = good.clone();
            bad.as_object_mut().unwrap().remove(missing);
            assert_eq!(sorted(&bad), None, "{missing}");
        }
    }

    #[test]
    fn customers_texts_are_accepted() {
        for note in [
            "no onions&timestamp=1",
            "https://maps.example/?id=1&shop=2&message={}&event=3",
            "&id=",
            "a & b\"&id=2}",
            "\\\"}&shop=1",
        ] {
            let body = json!({ "event": 1, "id": "m", "message": json!({ "note": note }).to_string(), "more": "see a&b & c=1&d" });
            assert!(sorted(&body).is_some(), "{body}");
        }
    }

    /// Every message that is taken and has this signed text, by every way to cut the text at its `&`.
    fn of_text(text: &str) -> Vec<Value> {
        let pieces: Vec<&str> = text.split('&').collect();
        let mut found = Vec::new();
        for cuts in 0_u32..1 << (pieces.len() - 1) {
            let (mut forged, mut field) = (serde_json::Map::new(), pieces[0].to_owned());
            let mut cut = |field: &str| {
                let Some((name, value)) = field.split_once('=') else {
                    return;
                };
                let is_number = name == "event" || name == "shop";
                let value = value.parse().ok().filter(|_| is_number).unwrap_or(json!(value));
                forged.insert(name.to_owned(), value);
            };
            for (at, piece) in pieces[1..].iter().enumerate() {
                if cuts & 1 << at == 0 {
                    field = format!("{field}&{piece}");
                } else {
                    cut(&field);
                    field = (*piece).to_owned();
                }
            }
            cut(&field);
            let forged = Value::Object(forged);
            if sorted(&forged).as_deref() == Some(text) {
                found.push(forged);
            }
        }
        found
    }

    proptest! {
        /// What is read of an object follows from the text that is signed: no two objects that are taken and differ in what is read
        /// give the same.
        #[test]
        fn one_text_is_one_object(
            note in "[a-c&=\"{}:,?]{0,4}(&(id|shop|event|message|zz)=[0-9{}\"]{0,2}){0,3}",
            id in "[a-c=]{0,3}(&shop=1)?",
            more in prop::option::of("[a-c{}\"=]{0,3}(&(id|shop|message|a|zz)?=?[{}0-9]{0,2}){0,2}"),
            shop in prop::option::of(0..9),
            name in "more|z|a|messagf",
        ) {
            let mut body = json!({ "event": 1, "id": id, "message": json!({ "note": note }).to_string() });
            if let Some(shop) = shop {
                body["shop"] = json!(shop);
            }
            if let Some(more) = more {
                body[name] = json!(more);
            }
            if let Some(text) = sorted(&body) {
                prop_assume!(text.matches('&').count() < 10);
                let all = of_text(&text);
                prop_assert!(!all.is_empty(), "{} is not found again", text);
                for one in &all {
                    prop_assert_eq!(read(one), read(&body), "{} {}", one, body);
                }
            }
        }

        /// Whatever a customer writes, the order goes.
        #[test]
        fn a_remark_is_never_refused(note in "\\PC{0,40}|([a-c&={}\"\\\\]|&(id|shop|event|message)=){0,12}") {
            let body = json!({ "event": 1, "id": "m", "message": json!({ "note": note }).to_string() });
            prop_assert!(sorted(&body).is_some(), "{}", body);
        }
    }
}
