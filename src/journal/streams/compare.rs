//! Compares a stream or consumer on the server with its file: what differs, and whether events can be lost by it. Pure.

use std::fmt;

use serde_json::{Map, Value};

use super::restoring;

/// Settings that only describe or size; where the server's differ, nothing can be lost.
/// (A limit in bytes refuses new events, with `discard: new`, rather than lose old ones.)
const HARMLESS: [&str; 8] = [
    "description",
    "num_replicas",
    "max_waiting",
    "max_msg_size",
    "max_consumers",
    "compression",
    "ack_wait",
    "max_bytes",
];
/// Settings in nanoseconds of which more is never worse.
const LONGER_IS_FINE: [&str; 2] = ["max_age", "duplicate_window"];

/// A setting that is not as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The stream's or consumer's name.
    pub of: String,
    /// The setting; empty if the whole thing is missing.
    pub setting: String,
    /// The file's value, or the operator's choice.
    pub wanted: Value,
    /// The server's value.
    pub found: Value,
    /// Whether events or their order could be lost by it.
    pub dangerous: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.setting.is_empty() {
            return write!(f, "{} is missing", self.of);
        }
        if restoring::is_mark(self) {
            return write!(f, "{}: {}", self.of, restoring::advice(&self.found));
        }
        write!(
            f,
            "{}: {} is {} but should be {}",
            self.of, self.setting, self.found, self.wanted
        )
    }
}

/// Each wanted setting against the server's; what is not mentioned is the server's business. `needed`: whether events depend
/// on it.
pub(super) fn compare(of: &str, wanted: Map<String, Value>, found: &Value, needed: bool) -> Vec<Difference> {
    let differs = |setting: &str, wanted: &Value| {
        let found = found.get(setting).unwrap_or(&Value::Null);
        match (wanted, found) {
            // The server treats an absent text as empty, and an absent flag as false.
            (Value::String(text), Value::Null) => !text.is_empty(),
            (Value::Bool(flag), Value::Null) => *flag,
            // -1, 0 and an absent number all mean "no limit".
            (Value::Number(number), Value::Null) => number.as_i64() != Some(-1) && number.as_i64() != Some(0),
            _ => wanted != found && !(unlimited(wanted) && unlimited(found)),
        }
    };
    wanted
        .into_iter()
        .filter(|(setting, wanted)| differs(setting, wanted))
        .map(|(setting, wanted)| {
            let found = found.get(&setting).cloned().unwrap_or(Value::Null);
            let dangerous = needed && is_dangerous(&setting, &wanted, &found);
            Difference {
                of: of.to_owned(),
                setting,
                wanted,
                found,
                dangerous,
            }
        })
        .collect()
}

fn is_dangerous(setting: &str, wanted: &Value, found: &Value) -> bool {
    let longer =
        || matches!((wanted.as_i64(), found.as_i64()), (Some(wanted), Some(found)) if found == 0 || found > wanted);
    !(HARMLESS.contains(&setting) || LONGER_IS_FINE.contains(&setting) && longer())
}

fn unlimited(value: &Value) -> bool {
    matches!(value.as_i64(), Some(-1 | 0))
}
