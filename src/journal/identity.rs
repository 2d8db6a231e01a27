//! The log's identity: whether the current log is the one that a position refers to.
//!
//! A log can go back while it is in use (NATS is restored from an older copy), or be replaced (it was set up anew). Then the sequences that a
//! reader remembers belong, or will belong, to other events. Nothing in the protocol says so. So every reader stores with its position when
//! the stream was created and some [`Mark`]s: fingerprints of the messages at earlier sequences. They are compared before the position is
//! used, after each reconnect, and every few seconds.
//!
//! The marks decide, not the creation: a promoted mirror, or a stream that was restored under a new name, has another creation and the same
//! messages at the same sequences, so every position on it stays valid. If the last mark does not match, the last one that does is the
//! common point: up to there both logs are the same.
//!
//! [`watch`] checks the log for the hub as a whole, [`finding`] keeps what was found last. The lease of a stage, the tables' cursor and the
//! memory of orders store a [`Trail`] each.

pub mod finding;
pub mod follow;
pub mod watch;

use std::fmt::Write as _;

use anyhow::Context as _;
use async_nats::jetstream::{message::StreamMessage, stream::RawMessageErrorKind};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};

use super::{EVENTS, codec::MESSAGE_ID, connection::Connection};

/// Most marks of a trail. They get fewer towards the past, so that with 16 of them the common point is found in a log that went back
/// by any part of its length, and what is read again from there is at most about as much as went missing.
const MAX_MARKS: usize = 16;

/// What stood at a sequence: 64 bits of the message's id and of the time when the server stored it. The id alone is not enough: it
/// is made of the webhook, so a provider that sends the same again on a new log makes the same ids, maybe at the same places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Place on the log.
    pub sequence: u64,
    print: u64,
}

impl Mark {
    /// Of a message: its `Nats-Msg-Id`, and when the server stored it, in nanoseconds since 1970.
    pub fn new(sequence: u64, id: &str, stored_at: i128) -> Self {
        let digest = Sha256::new()
            .chain_update(stored_at.to_be_bytes())
            .chain_update(id)
            .finalize();
        let print = digest
            .iter()
            .take(8)
            .fold(0, |print, byte| print << 8 | u64::from(*byte));
        Self { sequence, print }
    }

    /// Of a message as its leader has it.
    pub fn of(message: &StreamMessage) -> Self {
        Self::new(message.sequence, &id_of(message), message.time.unix_timestamp_nanos())
    }
}

/// Marks of one log, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trail(Vec<Mark>);

impl Trail {
    /// Without a mark.
    pub const EMPTY: Self = Self(Vec::new());

    /// Adds a mark behind the others.
    pub fn add(&mut self, mark: Mark) {
        if self.0.last().is_some_and(|last| last.sequence >= mark.sequence) {
            return;
        }
        self.0.push(mark);
        if self.0.len() > MAX_MARKS {
            self.thin();
        }
    }

    /// Removes the mark that is missed least: where the hole that it leaves is smallest beside its distance from the end.
    fn thin(&mut self) {
        let end = self.0.last().map_or(0, |last| last.sequence);
        let cost = |at: usize| {
            let hole = self.0[at + 1].sequence - self.0[at - 1].sequence;
            hole as f64 / (end - self.0[at - 1].sequence) as f64
        };
        let least = (1..self.0.len() - 1).min_by(|one, other| cost(*one).total_cmp(&cost(*other)));
        if let Some(least) = least {
            self.0.remove(least);
        }
    }

    /// Whether nothing is known.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The last mark.
    pub fn newest(&self) -> Option<Mark> {
        self.0.last().copied()
    }

    /// The part up to a sequence.
    #[must_use]
    pub fn up_to(&self, sequence: u64) -> Self {
        Self(
            self.0
                .iter()
                .copied()
                .filter(|mark| mark.sequence <= sequence)
                .collect(),
        )
    }
}

/// `4711:9f86d081884c7d65 4720:…`.
impl Serialize for Trail {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(self.0.len() * 28);
        for Mark { sequence, print } in &self.0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{sequence}:{print:x}", if text.is_empty() { "" } else { " " });
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Trail {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let read = |word: &str| {
            let (sequence, print) = word.split_once(':')?;
            Some(Mark {
                sequence: sequence.parse().ok()?,
                print: u64::from_str_radix(print, 16).ok()?,
            })
        };
        let marks: Option<Vec<_>> = text.split_whitespace().map(read).collect();
        let marks = marks.filter(|marks| marks.is_sorted_by(|one, next| one.sequence < next.sequence));
        marks
            .map(Self)
            .ok_or_else(|| D::Error::custom("marks of the event log that cannot be read"))
    }
}

/// A position on the log, and of which log it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remembered {
    /// When that log was created, in nanoseconds since 1970 by its server's clock; none if an older version did not keep it.
    pub created: Option<i64>,
    /// When the position was stored, in nanoseconds since 1970, if `created` is not known: a log that was created later is another one. The
    /// time is that of the reader's clock, so a difference between the clocks matters if the log was created just before.
    pub as_of: Option<i64>,
    /// The last sequence that is remembered; 0 where there is none.
    pub position: u64,
    /// The fingerprint of the message there.
    pub trail: Trail,
}

/// The log, as its leader describes it.
#[derive(Debug, Clone, Copy)]
pub struct LogState {
    /// When it was created, in nanoseconds since 1970.
    pub created: i64,
    /// Sequences of the first message that is left, and of the last one; 0 where there was none ever.
    pub first: u64,
    /// See `first`.
    pub last: u64,
}

impl LogState {
    /// Asks the leader.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn look(connection: &Connection) -> anyhow::Result<Self> {
        let stream = connection.context.get_stream(EVENTS).await;
        Self::of(stream.context("cannot look up EVENTS")?.cached_info())
    }

    fn of(info: &async_nats::jetstream::stream::Info) -> anyhow::Result<Self> {
        Ok(Self {
            created: i64::try_from(info.created.unix_timestamp_nanos())?,
            first: info.state.first_sequence,
            last: info.state.last_sequence,
        })
    }
}

/// The result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// It is the same log, or nothing speaks against that.
    Same,
    /// It was created at another time and holds the same messages: positions on it hold.
    Copy,
    /// It ended earlier once than what is remembered: up to the common point, where one is known, it is the same.
    WentBack(Option<u64>),
    /// It is another log.
    Another,
}

impl Compared {
    /// Whether what is remembered holds.
    pub const fn holds(self) -> bool {
        matches!(self, Self::Same | Self::Copy)
    }

    /// Up to where both logs are the same; none if that is not known.
    pub const fn common(self) -> Option<u64> {
        match self {
            Self::WentBack(common) => common,
            _ => None,
        }
    }

    /// The finding as text for people.
    pub const fn found(self) -> &'static str {
        match self {
            Self::Same => "the event log is the same",
            Self::Copy => "the event log is a copy of the previous one, with all of its events",
            Self::WentBack(_) => "the event log went back: events are missing, and others have their sequences",
            Self::Another => "the event log was replaced by another one",
        }
    }
}

/// Compares what is remembered with the log.
///
/// # Errors
/// If NATS does not answer.
pub async fn compare(connection: &Connection, log: &LogState, remembered: &Remembered) -> anyhow::Result<Compared> {
    let mut common = None;
    // The newest mark first: usually it matches.
    for mark in remembered.trail.0.iter().rev() {
        if mark.sequence > log.last {
            continue;
        }
        if mark.sequence < log.first {
            break;
        }
        let there = message_at(connection, mark.sequence).await?;
        if there.is_some_and(|there| Mark::of(&there) == *mark) {
            common = Some(mark.sequence);
            break;
        }
    }
    Ok(judge(log, remembered, common))
}

/// What follows from the last mark that the log has, if it has any.
fn judge(log: &LogState, remembered: &Remembered, common: Option<u64>) -> Compared {
    let Remembered {
        created,
        as_of,
        position,
        trail,
    } = remembered;
    let newest = trail.newest().map_or(0, |newest| newest.sequence);
    if *position == 0 && newest == 0 {
        return Compared::Same;
    }
    let is_other = match created {
        Some(created) => *created != log.created,
        None => as_of.is_some_and(|as_of| as_of < log.created),
    };
    let ends_before = *position > log.last || newest > log.last;
    // There are no marks, or all of them are older than the log's first message.
    let is_unmarked = newest == 0 || newest < log.first;
    match common {
        Some(common) if ends_before || common < newest => Compared::WentBack(Some(common)),
        Some(_) if is_other => Compared::Copy,
        Some(_) => Compared::Same,
        None if is_other => Compared::Another,
        None if is_unmarked && !ends_before => Compared::Same,
        None => Compared::WentBack(None),
    }
}

/// A message of the log as its leader has it.
///
/// # Errors
/// If NATS does not answer.
pub async fn message_at(connection: &Connection, sequence: u64) -> anyhow::Result<Option<StreamMessage>> {
    if sequence == 0 {
        // The log is empty, and the server would answer a request for sequence 0 with an error.
        return Ok(None);
    }
    let stream = connection.context.get_stream_no_info(EVENTS).await?;
    match stream.get_raw_message(sequence).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error).context("cannot read the event log"),
    }
}

/// The mark of the message at a sequence; none if there is none.
///
/// # Errors
/// If NATS does not answer.
pub async fn mark_at(connection: &Connection, sequence: u64) -> anyhow::Result<Option<Mark>> {
    Ok(message_at(connection, sequence).await?.as_ref().map(Mark::of))
}

/// A message's `Nats-Msg-Id`; empty if it has none.
pub fn id_of(message: &StreamMessage) -> String {
    let id = message.headers.get(MESSAGE_ID);
    id.map(|id| id.as_str().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(sequence: u64, log: u32) -> Mark {
        Mark::new(sequence, "id", i128::from(log))
    }

    fn trail(sequences: impl IntoIterator<Item = u64>) -> Trail {
        let mut trail = Trail::default();
        sequences.into_iter().for_each(|sequence| trail.add(mark(sequence, 1)));
        trail
    }

    fn remembered(created: Option<i64>, position: u64, sequences: &[u64]) -> Remembered {
        Remembered {
            created,
            as_of: None,
            position,
            trail: trail(sequences.iter().copied()),
        }
    }

    #[test]
    fn positions_are_compared() {
        let log = LogState {
            created: 1,
            first: 50,
            last: 100,
        };
        let back = Compared::WentBack;
        for (created, position, marks, common, expected) in [
            // Nothing is remembered.
            (None, 0, &[][..], None, Compared::Same),
            (Some(1), 90, &[80, 90], Some(90), Compared::Same),
            (Some(2), 90, &[80, 90], Some(90), Compared::Copy),
            (Some(1), 90, &[80, 90], Some(80), back(Some(80))),
            (Some(2), 90, &[80, 90], Some(80), back(Some(80))),
            (Some(1), 90, &[80, 90], None, back(None)),
            (Some(2), 90, &[80, 90], None, Compared::Another),
            // The position is beyond the end of the log.
            (Some(1), 120, &[90, 120], Some(90), back(Some(90))),
            (Some(1), 120, &[90], Some(90), back(Some(90))),
            (None, 120, &[], None, back(None)),
            // Positions of older versions have no marks.
            (None, 90, &[], None, Compared::Same),
            (Some(1), 90, &[], None, Compared::Same),
            (Some(2), 90, &[], None, Compared::Another),
            // The marked messages are no longer on the log.
            (Some(1), 40, &[30, 40], None, Compared::Same),
            (Some(2), 40, &[30, 40], None, Compared::Another),
        ] {
            let found = judge(&log, &remembered(created, position, marks), common);
            assert_eq!(found, expected, "{created:?} {position} {marks:?} {common:?}");
        }
        // Without marks: when the position was remembered, and when the log was created.
        for (as_of, position, expected) in [
            (None, 90, Compared::Same),
            (Some(1), 90, Compared::Same),
            (Some(0), 90, Compared::Another),
            (Some(0), 120, Compared::Another),
            (Some(0), 0, Compared::Same),
        ] {
            let old = Remembered {
                as_of,
                ..remembered(None, position, &[])
            };
            assert_eq!(judge(&log, &old, None), expected, "{as_of:?} {position}");
            let known = Remembered {
                created: Some(1),
                ..old
            };
            assert_ne!(
                judge(&log, &known, None),
                Compared::Another,
                "what is known counts more"
            );
        }
        let empty = LogState {
            created: 1,
            first: 0,
            last: 0,
        };
        assert_eq!(judge(&empty, &remembered(Some(1), 9, &[9]), None), back(None));
    }

    #[test]
    fn a_print_is_of_id_and_time() {
        assert_eq!(Mark::new(7, "a", 1), Mark::new(7, "a", 1));
        assert_ne!(Mark::new(7, "a", 1), Mark::new(7, "a", 2));
        assert_ne!(Mark::new(7, "a", 1), Mark::new(7, "b", 1));
    }

    proptest! {
        /// However the marks came: a log that went back to any place shares one with it that is not much further back.
        #[test]
        fn a_common_point_is_near(steps in prop::collection::vec(1u64..50, 40..400), part in 0.05f64..0.999) {
            let mut sequence = 0;
            let trail = trail(steps.iter().map(|step| { sequence += step; sequence }));
            prop_assert!(trail.0.len() <= MAX_MARKS);
            prop_assert_eq!(trail.newest().unwrap().sequence, sequence);
            let end = (sequence as f64 * part) as u64;
            let common = trail.up_to(end).newest().map_or(0, |mark| mark.sequence);
            let (missing, again) = (sequence - end, end - common);
            prop_assert!(again <= 2 * missing + 150, "{missing} went missing, {again} are read again");
        }

        #[test]
        fn a_trail_reads_back(sequences in prop::collection::btree_set(1u64..u64::MAX, 0..16)) {
            let trail = trail(sequences);
            let text = serde_json::to_string(&trail).unwrap();
            prop_assert_eq!(serde_json::from_str::<Trail>(&text).unwrap(), trail);
        }
    }

    #[test]
    fn invalid_trails() {
        for wrong in ["7", "7:x", "9:1 7:1", "7:1 7:1"] {
            assert!(serde_json::from_value::<Trail>(wrong.into()).is_err(), "{wrong}");
        }
        assert!(serde_json::from_value::<Trail>("".into()).unwrap().is_empty());
    }
}
