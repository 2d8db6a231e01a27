//! What an instance that takes over a stage must know: which events were handed to the one before it and have no outcome.
//!
//! The server would hand them out again, but only after a while, and newer events of the same orders before. So they are
//! read from the log: between the consumer's acknowledgement floor and what it has delivered, everything of the stage
//! that no later event names as its cause. Attempts that were made are on the log, too, and are counted on.

use std::collections::{HashMap, HashSet};

use anyhow::Context as _;

use super::Stage;
use crate::{
    event::{EventId, EventType, Recorded, outcome::ForwardFailed},
    journal::{
        connection::Connection,
        read::{Entry, Reader},
        streams,
    },
};

/// What was handed out and not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// Without an outcome, in the log's order, with the attempts that were made.
    pub(super) open: Vec<(Recorded, u32)>,
    /// With one; the server will hand them out again, and they need no more than an acknowledgement.
    pub(super) closed: HashSet<u64>,
    /// The consumer's number of the last message that it handed to anybody.
    pub(super) handed_out: u64,
}

/// Reads it from the log.
pub(super) async fn read<S: Stage>(connection: &Connection) -> anyhow::Result<Unsettled> {
    let mut consumer = streams::consumer(connection, S::NAME).await?;
    let info = consumer.info().await.context("cannot look up the consumer")?;
    let info = info.clone();
    let (floor, delivered) = (info.ack_floor.stream_sequence, info.delivered.stream_sequence);
    let mut found = Found::default();
    if delivered > floor {
        let mut reader = Reader::from(connection, floor + 1);
        loop {
            let entries = reader.next_batch().await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                let Entry::Event(event) = entry else { continue };
                found.note_cause(&event);
                if event.envelope.event_type == S::TAKES && event.sequence <= delivered {
                    found.open.insert(event.envelope.id, (*event, 0));
                }
            }
        }
    }
    let mut open: Vec<_> = found.open.into_values().collect();
    open.sort_unstable_by_key(|(event, _)| event.sequence);
    Ok(Unsettled {
        open,
        closed: found.closed,
        handed_out: info.delivered.consumer_sequence,
    })
}

/// What was read so far. An outcome stands behind its cause, so an event is let go as soon as its outcome is met.
#[derive(Default)]
struct Found {
    open: HashMap<EventId, (Recorded, u32)>,
    closed: HashSet<u64>,
}

impl Found {
    fn note_cause(&mut self, event: &Recorded) {
        let Some(cause) = event.envelope.cause_id else { return };
        if event.envelope.event_type == EventType::OrderForwardFailed {
            if let Some((_, attempts)) = self.open.get_mut(&cause) {
                let made = serde_json::from_slice::<ForwardFailed>(&event.payload).map_or(1, |failed| failed.attempt);
                *attempts = (*attempts).max(made);
            }
        } else if let Some((event, _)) = self.open.remove(&cause) {
            self.closed.insert(event.sequence);
        }
    }
}
