//! The fields of a JSON object as they are signed one by one: `a=1&b=x`, sorted, without escaping.
//!
//! Joined so, `{"a": "1&b=2"}` and `{"a": "1", "b": "2"}` give the same text. One text is one object only where
//!
//! - every field that is read is there once, of its type, and
//! - no value holds a `&`, but for texts of JSON, which hold what customers write; those hold no `&name=` of a field that is read.
//!
//! Then each place in the text where such a field begins is known: at another place the name would stand inside of a value. A
//! text of JSON that is cut short at some other `&` is no JSON any more.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{json, place::Source};
use crate::order::scan::Document;

/// What a field holds.
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
    /// What it holds.
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
                    "fields: {text:?} is no type; expected text, number, text_or_number or json, with ? where it may be missing"
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

    /// The members of the body, sorted, without the signature and what is `null`; none where they are ambiguous.
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
            // What is not read may be missing in a third way.
            if field.is_none() && value.text() == "null" {
                continue;
            }
            if field.is_some_and(|field| !field.fits(value)) || !is_name(&name) {
                return None;
            }
            required -= usize::from(field.is_some_and(|field| field.is_required));
            let value = json::text(value).ok()?;
            let is_json = field.is_some_and(|field| field.holds == Type::Json);
            if is_json && (!json::is_object(&value) || self.holds_another(&value)) || !is_json && value.contains('&') {
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

    /// Whether a text could be read as several fields.
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

    #[test]
    fn what_is_ambiguous_or_missing_is_refused() {
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
            ("message", json!("{\"note\":\"a&id=2&shop=3\"}")),
            ("shop", json!("2")),
            ("more", json!("a&b")),
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

    proptest! {
        /// What is read of an object follows from the text that is signed: no two objects with different ones give the same.
        #[test]
        fn one_text_is_one_object(
            note in "[a-c&=\"{}:,?]{0,8}(&(id|shop|event|message|zz)=[0-9]{0,2}){0,3}",
            id in "[a-c&=]{0,3}(&shop=1)?",
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let body = json!({ "event": 1, "id": id, "message": json!({ "note": note }).to_string() });
            if let Some(text) = sorted(&body) {
                // Every other way to cut the same text into fields.
                let joints: Vec<_> = text.match_indices('&').map(|(at, _)| at).collect();
                let mut at: Vec<_> = cuts.iter().filter(|_| !joints.is_empty()).map(|cut| *cut.get(&joints)).collect();
                at.sort_unstable();
                at.dedup();
                let mut forged = serde_json::Map::new();
                let mut from = 0;
                for to in at.into_iter().chain([text.len()]) {
                    if let Some((name, value)) = text[from..to].trim_start_matches('&').split_once('=') {
                        let value = if name == "event" || name == "shop" { value.parse().unwrap_or(json!(value)) } else { json!(value) };
                        forged.insert(name.to_owned(), value);
                    }
                    from = to;
                }
                let forged = Value::Object(forged);
                if sorted(&forged).as_ref() == Some(&text) {
                    for read in ["event", "id", "message", "shop"] {
                        prop_assert_eq!(&forged[read], &body[read], "{} {}", forged, body);
                    }
                }
            }
        }
    }
}
