//! Masks personal data in bodies: fields that are known to hold none are shown, all others are replaced.
//!
//! The lists name the fields that may be shown, so a new field of a provider is hidden until a list names it. Everything below a
//! person or an address is hidden, whatever its name is.

use serde_json::{Map, Value};

/// The replacement of a hidden value.
pub const HIDDEN: &str = "***";
/// Longest text that is shown. Identifiers, words and times are shorter.
const LONGEST_SHOWN_CHARS: usize = 64;

/// Names of the fields with values that are shown: lower case, letters and digits only.
const SHOWN: [&str; 74] = [
    "acceptby",
    "amount",
    "asnews",
    "attempts",
    "autoaccept",
    "automatic",
    "backendstatus",
    "branchid",
    "canonicalstatus",
    "changedat",
    "collectcash",
    "companyid",
    "confirmedby",
    "createdat",
    "currency",
    "customerredacted",
    "deliverby",
    "deliveryfee",
    "deliverytype",
    "discount",
    "displayid",
    "event",
    "eventid",
    "eventtype",
    "exponent",
    "externalid",
    "externalorderid",
    "flags",
    "forwardedat",
    "fulfillment",
    "fundedby",
    "id",
    "internalorderid",
    "isprepaid",
    "itemprice",
    "merchantid",
    "merchantpaytype",
    "merchantref",
    "method",
    "ok",
    "orderid",
    "ordernumber",
    "orderstatus",
    "ordertype",
    "otherfees",
    "paymentmethod",
    "placedat",
    "preparationminutes",
    "price",
    "provider",
    "providerid",
    "providerstate",
    "providerstatus",
    "quantity",
    "readyby",
    "receivedat",
    "ref",
    "scheduled",
    "servicefee",
    "status",
    "storeid",
    "storeref",
    "subtotal",
    "taxamount",
    "taxmode",
    "timestamp",
    "tip",
    "total",
    "totalprice",
    "totaltaxableprice",
    "transformedat",
    "unitprice",
    "updatedat",
    "version",
];
/// Parts of names: below a field with such a name nothing is shown.
const PERSONAL: [&str; 17] = [
    "address",
    "captain",
    "client",
    "consumer",
    "contact",
    "courier",
    "customer",
    "driver",
    "email",
    "guest",
    "location",
    "mobile",
    "person",
    "phone",
    "recipient",
    "rider",
    "user",
];
/// The only shown name with such a part. It says whether the provider withheld personal data.
const ABOUT_WITHHOLDING: &str = "customerredacted";
/// Below these a `name` is the name of a product.
const SOLD: [&str; 6] = ["discounts", "groups", "items", "modifiers", "options", "products"];
/// Fields with the name of a product.
const NAMES: [&str; 3] = ["name", "namear", "names"];

/// Whether values may be personal data that is to be hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Masking {
    /// They may be: only values of the listed fields are shown. A difference between hidden values shows only its pointer.
    #[default]
    On,
    /// They hold none, or an operator reveals them, which was recorded.
    Off,
}

/// The fields above a value.
#[derive(Clone, Copy, Default)]
struct FieldContext {
    is_personal: bool,
    is_sold: bool,
    is_shown: bool,
}

impl FieldContext {
    fn below(self, name: &str) -> Self {
        let name: String = name
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let name = name.as_str();
        let has_personal = PERSONAL.iter().any(|part| name.contains(part)) && name != ABOUT_WITHHOLDING;
        Self {
            is_personal: self.is_personal || has_personal,
            is_sold: self.is_sold || SOLD.contains(&name),
            is_shown: SHOWN.binary_search(&name).is_ok() || (self.is_sold && NAMES.contains(&name)),
        }
    }

    fn shows(self, value: &Value) -> bool {
        let is_harmless = match value {
            Value::String(text) => text.chars().count() <= LONGEST_SHOWN_CHARS && !text.contains('@'),
            _ => true,
        };
        self.is_shown && !self.is_personal && is_harmless
    }
}

/// The same document with all personal data replaced.
pub fn masked(value: &Value) -> Value {
    at(value, FieldContext::default())
}

fn at(value: &Value, place: FieldContext) -> Value {
    match value {
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(name, value)| (name.clone(), at(value, place.below(name))));
            Value::Object(members.collect::<Map<_, _>>())
        }
        Value::Array(values) => Value::Array(values.iter().map(|value| at(value, place)).collect()),
        Value::Null => Value::Null,
        value if place.shows(value) => value.clone(),
        _ => Value::from(HIDDEN),
    }
}

/// A body as a document. A masked one that is no JSON shows only its size.
pub fn body(body: &[u8], masking: Masking) -> Value {
    match (serde_json::from_slice::<Value>(body), masking) {
        (Ok(value), Masking::On) => masked(&value),
        (Ok(value), Masking::Off) => value,
        (Err(_), Masking::Off) => Value::from(String::from_utf8_lossy(body)),
        (Err(_), Masking::On) => Value::from(format!("{HIDDEN} ({} bytes that are not JSON)", body.len())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(SHOWN.is_sorted(), "it is searched by halves");
    }

    #[test]
    fn only_listed_fields_are_shown() {
        let document = json!({
            "id": "CR-1", "status": "created", "created_at": "2025-10-01T12:00:00Z", "name": "Anna", "note": "ring twice",
            "customer": { "id": "7", "status": "gold" }, "delivery_address": { "city": "Amman", "state": "x" },
            "customerName": "Anna", "customerRedacted": false, "order_id": "anna@example.com", "items": [
                { "id": "i1", "name": "Burger", "quantity": 2, "notes": "for Anna", "price": 5.5, "options": [{ "name": "Cheese" }] },
            ], "new_field": 962_791_234_567_u64, "nothing": null, "version": "x".repeat(65),
        });
        let expected = json!({
            "id": "CR-1", "status": "created", "created_at": "2025-10-01T12:00:00Z", "name": "***", "note": "***",
            "customer": { "id": "***", "status": "***" }, "delivery_address": { "city": "***", "state": "***" },
            "customerName": "***", "customerRedacted": false, "order_id": "***", "items": [
                { "id": "i1", "name": "Burger", "quantity": 2, "notes": "***", "price": 5.5, "options": [{ "name": "Cheese" }] },
            ], "new_field": "***", "nothing": null, "version": "***",
        });
        assert_eq!(masked(&document), expected);
        assert_eq!(masked(&json!("Anna")), "***");
        assert_eq!(body(b"Anna", Masking::On), "*** (4 bytes that are not JSON)");
        assert_eq!(body(b"Anna", Masking::Off), "Anna");
        assert_eq!(body(br#"{"name": "Anna"}"#, Masking::Off), json!({ "name": "Anna" }));
    }
}
