//! Schemes by name, and how a table adopts one.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value;

use super::scheme::Scheme;

/// The schemes, as they are written; a test reads every one.
const PRESETS: &str = include_str!("presets.toml");
/// Deepest that presets may stand in steps of a table.
const MAX_DEPTH: usize = 8;

static TABLES: LazyLock<BTreeMap<String, Value>> =
    LazyLock::new(|| toml::from_str(PRESETS).expect("a test reads the presets"));

/// All names, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLES.keys().map(String::as_str)
}

/// The scheme of this name.
pub(super) fn get(name: &str) -> Option<Scheme> {
    let table = TABLES.get(name)?.clone();
    Some(serde::Deserialize::deserialize(table).expect("a test reads the presets"))
}

/// A table with what its `preset` says in place of what it does not say itself, also in its steps.
pub(super) fn expand(table: Value) -> Result<Value, String> {
    expand_to(table, MAX_DEPTH)
}

fn expand_to(mut table: Value, depth: usize) -> Result<Value, String> {
    let Some(fields) = table.as_object_mut() else {
        return Ok(table);
    };
    if let Some(Value::Array(steps)) = fields.get_mut("steps") {
        let depth = depth.checked_sub(1).ok_or("steps: nested too deep")?;
        for step in steps {
            *step = expand_to(step.take(), depth)?;
        }
    }
    let Some(name) = fields.remove("preset") else {
        return Ok(table);
    };
    let known = name.as_str().and_then(|name| TABLES.get(name));
    let mut whole = known.cloned().ok_or_else(|| {
        let all: Vec<_> = names().collect();
        format!("preset: unknown scheme {name}; there are {}", all.join(", "))
    })?;
    if fields.contains_key("kind") {
        return Err(format!(
            "kind: that of the preset {name} cannot be changed; leave one of the two out"
        ));
    }
    merge(&mut whole, table);
    // The steps of a preset may name presets.
    expand_to(whole, depth.checked_sub(1).ok_or("preset: nested too deep")?)
}

/// Tables are merged field by field, everything else is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
