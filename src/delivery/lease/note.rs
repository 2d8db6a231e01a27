//! What the holder of a lease leaves for the next one: how far the stage is, and which requests are under way.
//!
//! The note is a header of the lease's message. The payload is the holder's id alone, as it was before notes existed: an
//! older hub compares it as text, takes an empty one for a free lease, and reads no header. A lease that an older hub wrote
//! has no note.

use std::{fmt::Write as _, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{delivery::lanes::checksum::LanesChecksum, journal::identity::Trail};

/// The header that holds the note, as JSON.
pub(super) const HEADER: &str = "Hub-Lease-Note";

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// How far the stage is; none if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    /// Requests under way on instances that gave the lease back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at_work: Vec<AtWork>,
    /// The holder starts nothing more, so no other instance needs to wait until the lease has run out. The payload still names it while
    /// requests are under way, so that an older hub, which reads no note, waits for their end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handed_over: bool,
}

/// Which events of a stage are settled: recorded, or in a lane. They need no more than an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Floor {
    /// When `EVENTS` was created by its server's clock, in nanoseconds since 1970: another stream has other sequences.
    pub created: i64,
    /// The last message of the log that the holder knew of.
    pub known: u64,
    /// Its `Nats-Msg-Id`. If the message there has another one, the note is about another log.
    pub known_id: String,
    /// Marks of earlier sequences; empty if an older hub wrote the note.
    #[serde(default, skip_serializing_if = "Trail::is_empty")]
    pub trail: Trail,
    /// Outcomes and attempts up to here are accounted for in `open` and in the lanes; later ones are to be read from the log.
    pub recorded: u64,
    /// Every event of the stage up to here is settled, but for those that are `open`.
    pub settled: u64,
    /// The others, each with the number of requests that were made.
    #[serde(
        default,
        serialize_with = "write_open",
        deserialize_with = "read_open",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub open: Vec<(u64, u32)>,
    /// The stage's lanes; none if an older hub wrote this, or the stage has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lanes: Option<LanesChecksum>,
}

/// Events with requests under way when an instance released the lease. That instance records their outcomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AtWork {
    /// The instance, as the lease named it.
    pub by: String,
    /// Their sequences.
    pub events: Vec<u64>,
    /// Milliseconds after the writing of the note, when none of its requests can still be under way.
    pub within_ms: u64,
}

impl AtWork {
    /// As [`Self::within_ms`].
    pub const fn within(&self) -> Duration {
        Duration::from_millis(self.within_ms)
    }
}

/// Differences instead of sequences, since the stream `LEASES` is small: `1200 1 3x2` for 1200, 1201 and, with two
/// requests, 1204.
fn write_open<S: Serializer>(open: &[(u64, u32)], serializer: S) -> Result<S::Ok, S::Error> {
    let (mut text, mut before) = (String::with_capacity(open.len() * 4), 0);
    for (sequence, requests) in open {
        if !text.is_empty() {
            text.push(' ');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{}", sequence - before);
        if *requests > 0 {
            let _ = write!(text, "x{requests}");
        }
        before = *sequence;
    }
    serializer.serialize_str(&text)
}

fn read_open<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(u64, u32)>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mut before = 0_u64;
    let read = |word: &str| {
        let (step, requests) = word.split_once('x').unwrap_or((word, "0"));
        before = before.checked_add(step.parse().ok()?)?;
        Some((before, requests.parse().ok()?))
    };
    let read: Option<Vec<_>> = text.split_whitespace().map(read).collect();
    read.ok_or_else(|| D::Error::custom("a list of open events that cannot be read"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn floor(open: Vec<(u64, u32)>) -> Floor {
        Floor {
            created: 1_764_345_600_123_456_789,
            known: 4711,
            known_id: "id".into(),
            trail: Trail::default(),
            recorded: 4700,
            settled: 4690,
            open,
            lanes: None,
        }
    }

    #[test]
    fn a_full_note_is_small() {
        let note = Note {
            floor: Some(floor((0..512).map(|number| (90_000_000 + 7 * number, 3)).collect())),
            at_work: vec![AtWork {
                by: "0".repeat(32),
                events: (0..1000).map(|number| 90_000_000 + number).collect(),
                within_ms: 11_000,
            }],
            handed_over: true,
        };
        let written = serde_json::to_string(&note).unwrap();
        // LEASES holds 64 KB for three stages; for a moment it holds a message and the one that replaces it.
        assert!(written.len() < 12_000, "{}", written.len());
    }

    #[test]
    fn an_empty_note_is_the_default_and_garbage_is_refused() {
        assert_eq!(serde_json::from_str::<Note>("{}").unwrap(), Note::default());
        assert_eq!(serde_json::to_string(&Note::default()).unwrap(), "{}");
        for wrong in ["1 x", "1 2x", "18446744073709551615 1", "-1"] {
            let mut json = serde_json::to_value(floor(vec![(1, 0)])).unwrap();
            json["open"] = wrong.into();
            assert!(serde_json::from_value::<Floor>(json).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn reads_back(open in prop::collection::btree_map(1u64..100_000, 0u32..20, 0..100)) {
            let note = Note { floor: Some(floor(open.into_iter().collect())), ..Note::default() };
            let written = serde_json::to_string(&note).unwrap();
            prop_assert_eq!(serde_json::from_str::<Note>(&written).unwrap(), note);
        }
    }
}
