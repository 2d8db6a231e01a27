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

/// Settings that no file has and that may be there: names, labels, and where copies are.
const ALLOWED: [&str; 8] = [
    "name",
    "durable_name",
    "description",
    "metadata",
    "placement",
    "first_seq",
    "mirror_direct",
    // The server shows one filter in two places.
    "filter_subject",
];
/// With these the server writes messages by itself, past the rights of every user: into the stream, or out of it. They are
/// dangerous in streams that no order needs, too.
const PAST_RIGHTS: [&str; 4] = ["subject_transform", "republish", "sources", "mirror"];
/// Settings, where no file has them, by which the server removes, refuses or holds back messages, or acknowledges what it
/// does not have yet.
const HARMFUL: [&str; 21] = [
    "sealed",
    "no_ack",
    "persist_mode",
    "discard_new_per_subject",
    "deny_delete",
    "deny_purge",
    "allow_rollup_hdrs",
    "allow_msg_ttl",
    "allow_msg_counter",
    "subject_delete_marker_ttl",
    "consumer_limits",
    // Of consumers.
    "filter_subjects",
    "headers_only",
    "deliver_subject",
    "backoff",
    "inactive_threshold",
    "mem_storage",
    "pause_until",
    "opt_start_seq",
    "opt_start_time",
    "priority_policy",
];

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

impl Difference {
    /// Whether it is a setting that is there and should not be.
    pub fn is_unwanted(&self) -> bool {
        self.wanted.is_null() && !self.setting.is_empty() && !restoring::is_mark(self)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.setting.is_empty() {
            return write!(f, "{} is missing", self.of);
        }
        if restoring::is_mark(self) {
            return write!(f, "{}: {}", self.of, restoring::advice(&self.found));
        }
        if self.is_unwanted() {
            return write!(
                f,
                "{}: {} is {} but should not be set",
                self.of, self.setting, self.found
            );
        }
        write!(
            f,
            "{}: {} is {} but should be {}",
            self.of, self.setting, self.found, self.wanted
        )
    }
}

/// Each wanted setting against the server's, and what is set there beside them. `needed`: whether events depend on it.
pub(super) fn compare(of: &str, wanted: Map<String, Value>, found: &Value, needed: bool) -> Vec<Difference> {
    let beside = unwanted(of, &wanted, found, needed);
    // These come first, because other differences may follow from them.
    beside.into_iter().chain(different(of, wanted, found, needed)).collect()
}

/// What is set on the server and has no place in a file. What this version does not know is harmless until it does: a server
/// of a later version may show more than it did.
fn unwanted(of: &str, wanted: &Map<String, Value>, found: &Value, needed: bool) -> Vec<Difference> {
    let settings = found.as_object().into_iter().flatten();
    settings
        .filter(|(setting, found)| {
            !wanted.contains_key(*setting) && !ALLOWED.contains(&setting.as_str()) && !is_default(found)
        })
        .map(|(setting, found)| Difference {
            of: of.to_owned(),
            setting: setting.clone(),
            wanted: Value::Null,
            found: found.clone(),
            dangerous: PAST_RIGHTS.contains(&setting.as_str()) || needed && HARMFUL.contains(&setting.as_str()),
        })
        .collect()
}

/// Whether a value is as good as absent.
fn is_default(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(_) => unlimited(value),
        Value::String(text) => text.is_empty() || text == "default",
        Value::Array(all) => all.iter().all(is_default),
        Value::Object(all) => all.values().all(is_default),
    }
}

fn different(of: &str, wanted: Map<String, Value>, found: &Value, needed: bool) -> Vec<Difference> {
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
