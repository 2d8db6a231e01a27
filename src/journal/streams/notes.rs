//! Acts of the user `provision`, noted in the metadata of `EVENTS`.
//!
//! That user may append no event, and a restore deletes the log that an event could be appended to. So the act is noted in the same
//! request that completes it, and a hub appends the event (`jobs::noted`). One note of each kind is kept.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::event::{EventId, operator::Acted};

/// Beginning of the keys; the kind of act follows.
const PREFIX: &str = "webhook-hub.act.";

/// An act that a hub is to record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActNote {
    /// Id of the event that records it.
    pub id: EventId,
    /// When it was done.
    pub at: DateTime<Utc>,
    /// What was done, with its result.
    #[serde(flatten)]
    pub acted: Acted,
}

impl ActNote {
    /// Of an act that is done now.
    pub fn new(acted: Acted) -> Self {
        Self {
            id: EventId(Uuid::new_v4()),
            at: Utc::now(),
            acted,
        }
    }
}

/// A stream's configuration with a note, which replaces an earlier one of the same kind.
pub fn with_note(mut config: Value, note: &ActNote) -> Value {
    config["metadata"][format!("{PREFIX}{}", note.acted.kind)] = json!(note).to_string().into();
    config
}

/// A stream's configuration without notes, as a restore takes it: they are of acts on the log that was backed up.
pub(super) fn without_notes(mut config: Value) -> Value {
    if let Some(metadata) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, _| !key.starts_with(PREFIX));
    }
    config
}

/// The notes in a stream's metadata, the oldest first. What this version cannot read is left out.
pub fn notes<'a>(metadata: impl IntoIterator<Item = (&'a String, &'a String)>) -> Vec<ActNote> {
    let noted = metadata.into_iter().filter(|(key, _)| key.starts_with(PREFIX));
    let mut notes: Vec<ActNote> = noted.filter_map(|(_, note)| serde_json::from_str(note).ok()).collect();
    notes.sort_by_key(|note| (note.at, note.id));
    notes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::event::operator::ActResult;

    fn note(kind: &str, reason: Option<&str>) -> ActNote {
        ActNote::new(Acted {
            kind: kind.to_owned(),
            by: "anna@desk".to_owned(),
            reason: reason.map(str::to_owned),
            arguments: json!({ "folder": "log" }),
            result: Some(ActResult {
                error: None,
                counts: json!({ "events": 7 }),
            }),
        })
    }

    #[test]
    fn a_note_of_each_kind_is_kept_and_read_again() {
        let before = json!({ "name": "EVENTS", "metadata": { "webhook-hub.max_age": "7" } });
        let (first, other, second) = (note("restore", None), note("promote", None), note("restore", Some("x")));
        let config = [&first, &other, &second].into_iter().fold(before, with_note);
        let mut metadata: BTreeMap<String, String> = serde_json::from_value(config["metadata"].clone()).unwrap();
        assert_eq!(notes(&metadata), [other.clone(), second]);
        assert_eq!(metadata["webhook-hub.max_age"], "7");
        metadata.insert(format!("{PREFIX}restore"), "of another version".to_owned());
        assert_eq!(notes(&metadata), [other]);
        // A stream without metadata.
        assert!(with_note(json!({}), &first)["metadata"].is_object());
        let bare = without_notes(config);
        assert_eq!(
            bare,
            json!({ "name": "EVENTS", "metadata": { "webhook-hub.max_age": "7" } })
        );
    }
}
