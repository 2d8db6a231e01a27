//! The content of the backend's answer. It is read from the front, so an id counts even if the body is larger than the limit,
//! or breaks off after it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The fields of the answer that count.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct BackendAnswer {
    /// The backend's id of the order: a text that is not blank, or a number as it stands there.
    pub(super) order_id: Option<String>,
    /// The order's status in the backend's words.
    pub(super) status: Option<String>,
}

/// Reads as far as the body goes, and as far as it is JSON.
pub(super) fn read(body: &[u8]) -> BackendAnswer {
    let mut found = AnswerFields::default();
    // An error ends the reading; the fields found before it count.
    let _ = Object {
        found: &mut found,
        is_data: false,
    }
    .deserialize(&mut serde_json::Deserializer::from_slice(body));
    let [top, data] = found.order_id;
    let [existing, existing_data] = found.existing;
    let [status, status_data] = found.status;
    BackendAnswer {
        order_id: top.or(data).or(existing).or(existing_data),
        status: status.or(status_data),
    }
}

/// Each field at the top, and within `data`.
#[derive(Default)]
struct AnswerFields {
    order_id: [Option<String>; 2],
    existing: [Option<String>; 2],
    status: [Option<String>; 2],
}

impl AnswerFields {
    fn field(&mut self, name: &str, is_data: bool) -> Option<&mut Option<String>> {
        let places = match name {
            "orderId" => &mut self.order_id,
            "existingOrderId" => &mut self.existing,
            "status" => &mut self.status,
            _ => return None,
        };
        Some(&mut places[usize::from(is_data)])
    }
}

/// An object with fields to read: the one in `data`, or the body itself.
struct Object<'f> {
    found: &'f mut AnswerFields,
    is_data: bool,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut last: Option<(String, &RawValue)> = None;
        loop {
            let key = map.next_key::<String>()?;
            // The next key shows that the previous value was complete: a number could have been truncated.
            if let Some((name, value)) = last.take()
                && let Some(field) = self.found.field(&name, self.is_data)
                && field.is_none()
            {
                *field = text(&name, value);
            }
            let Some(key) = key else { return Ok(()) };
            if key == "data" && !self.is_data {
                map.next_value_seed(Object {
                    found: &mut *self.found,
                    is_data: true,
                })?;
            } else if self.found.field(&key, self.is_data).is_some() {
                last = Some((key, map.next_value()?));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// A text, or a number's own digits; a status is a text alone.
fn text(name: &str, value: &RawValue) -> Option<String> {
    let value = value.get();
    if value.starts_with('"') {
        let text: String = serde_json::from_str(value).ok()?;
        return (!text.trim().is_empty()).then_some(text);
    }
    let is_number = value.starts_with(|first: char| first == '-' || first.is_ascii_digit());
    (is_number && name != "status").then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn id(body: &str) -> Option<String> {
        read(body.as_bytes()).order_id
    }

    #[test]
    fn ids_are_texts_and_numbers_in_their_places() {
        for (body, expected) in [
            (r#"{"orderId":"o-1"}"#, Some("o-1")),
            (r#"{"data":{"orderId":7}}"#, Some("7")),
            (r#"{"data":{"orderId":"inner"},"orderId":"outer"}"#, Some("outer")),
            (
                r#"{"orderId":123456789012345678901234567890}"#,
                Some("123456789012345678901234567890"),
            ),
            (r#"{"data":{"existingOrderId":"e"}}"#, Some("e")),
            (r#"{"data":[1,{"orderId":"no"}],"orderId":"yes"}"#, Some("yes")),
            (r#"{"data":"text","orderId":"yes"}"#, Some("yes")),
            (r#"{"orderId":" ","data":{"orderId":"yes"}}"#, Some("yes")),
            (r#"{"orderId":null}"#, None),
            (r#"{"orderId":true}"#, None),
            (r#"{"order":{"orderId":"deeper"}}"#, None),
            (r#"["orderId"]"#, None),
            ("", None),
            ("<html>", None),
        ] {
            assert_eq!(id(body).as_deref(), expected, "{body}");
        }
        let fields = read(br#"{"status":"pending","data":{"status":3}}"#);
        assert_eq!(fields.status.as_deref(), Some("pending"));
    }

    proptest! {
        /// Wherever the body ends: an id that is read is the whole one, and once the next field has begun it is read.
        #[test]
        fn a_body_that_breaks_off_gives_the_whole_id_or_none(number: u64, is_text: bool, cut in 0usize..80, in_data: bool) {
            let value = if is_text { json!(number.to_string()) } else { json!(number) };
            let fields = json!({ "orderId": value, "zzz": "x".repeat(40) });
            let body = if in_data { json!({ "data": fields }) } else { fields }.to_string();
            let cut = cut.min(body.len());
            let found = id(&body[..cut]);
            prop_assert!(found.is_none() || found == Some(number.to_string()));
            if cut >= body.find("\"zzz\"").unwrap() + 5 { prop_assert_eq!(found, Some(number.to_string())); }
        }

        #[test]
        fn nothing_panics(body in prop::collection::vec(any::<u8>(), 0..60)) {
            read(&body);
        }
    }
}
