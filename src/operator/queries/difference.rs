//! The differences between two JSON documents, value by value.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::mask::{self, Masking};

/// A pointer at which two documents differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ValueChange {
    /// Its JSON pointer.
    pub pointer: String,
    /// The earlier value; none if there was none.
    pub before: Option<Value>,
    /// The later value; none if there is none.
    pub after: Option<Value>,
}

/// All differences, in the order of their pointers.
pub fn between(before: &Value, after: &Value, masking: Masking) -> Vec<ValueChange> {
    let (before, after) = (leaves(before, masking), leaves(after, masking));
    let places: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differs = |place: &&&String| before.get(**place).map(|leaf| leaf.0) != after.get(**place).map(|leaf| leaf.0);
    let change = |place: &String| ValueChange {
        pointer: place.clone(),
        before: before.get(place).map(|leaf| leaf.1.clone()),
        after: after.get(place).map(|leaf| leaf.1.clone()),
    };
    places.iter().filter(differs).map(|place| change(place)).collect()
}

/// Each scalar value, with what may be shown of it.
fn leaves(value: &Value, masking: Masking) -> BTreeMap<String, (&Value, Value)> {
    let shown = match masking {
        Masking::On => mask::masked(value),
        Masking::Off => value.clone(),
    };
    let mut leaves = BTreeMap::new();
    collect(value, &shown, String::new(), &mut leaves);
    leaves
}

fn collect<'a>(value: &'a Value, shown: &Value, pointer: String, leaves: &mut BTreeMap<String, (&'a Value, Value)>) {
    match (value, shown) {
        (Value::Object(members), Value::Object(shown)) if !members.is_empty() => {
            for (name, value) in members {
                let token = name.replace('~', "~0").replace('/', "~1");
                collect(value, &shown[name], format!("{pointer}/{token}"), leaves);
            }
        }
        (Value::Array(values), Value::Array(shown)) if !values.is_empty() => {
            for (at, (value, shown)) in values.iter().zip(shown).enumerate() {
                collect(value, shown, format!("{pointer}/{at}"), leaves);
            }
        }
        _ => {
            leaves.insert(pointer, (value, shown.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_listed_by_pointer() {
        let before =
            json!({ "status": "created", "customer": { "name": "Anna" }, "items": [{ "quantity": 1 }], "a/b": 1 });
        let after = json!({ "status": "ready", "customer": { "name": "Eva" }, "items": [{ "quantity": 1 }, {}] });
        let change = |pointer: &str, before: Option<Value>, after: Option<Value>| ValueChange {
            pointer: pointer.into(),
            before,
            after,
        };
        let expected = [
            change("/a~1b", Some(json!("***")), None),
            change("/customer/name", Some(json!("***")), Some(json!("***"))),
            change("/items/1", None, Some(json!({}))),
            change("/status", Some(json!("created")), Some(json!("ready"))),
        ];
        assert_eq!(between(&before, &after, Masking::On), expected);
        assert_eq!(between(&before, &before, Masking::On), []);
        let plain = between(&json!({ "code": "A" }), &json!({ "code": "B" }), Masking::Off);
        assert_eq!(plain, [change("/code", Some(json!("A")), Some(json!("B")))]);
    }
}
