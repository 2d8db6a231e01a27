//! What an instance that takes over a stage must know: which events were handed to the one before it and have no outcome.
//!
//! The server would hand them out again, but only after a while, and newer events of the same orders before. So they are
//! read from the log: between the consumer's acknowledgement floor and what it has delivered, everything of the stage
//! that no later event names as its cause. Attempts that were made are on the log, too, and are counted on.
//!
//! What is parked is in the lanes. Where those are not whole (`LANES` was lost, or emptied) the whole log is read, and a
//! lane made for every order that has an event without an outcome.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque, btree_map, hash_map};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{TryStreamExt, stream};
use serde::Deserialize;

use super::{Stage, attempt::is_ours, held::Item};
use crate::{
    event::{EventId, Recorded},
    journal::{
        codec::OrderKey,
        connection::Connection,
        lanes::{Lane, Lanes, Read},
        read::{Entry, Reader, end},
        settle::Parking,
        streams,
    },
};

/// How much the clocks of hub and NATS may differ before an outcome is looked for too late on the log.
const CLOCK_DIFFERENCE: TimeDelta = TimeDelta::seconds(60);
/// Lanes that are made at a time.
const LANES_AT_ONCE: usize = 400;

/// What was handed out and not acknowledged, and what is parked.
#[derive(Default)]
pub(super) struct Unsettled {
    /// Without an outcome and not parked, in the log's order.
    pub(super) open: Vec<Item>,
    /// With an outcome, or parked; the server will hand them out again, and they need no more than an acknowledgement.
    pub(super) closed: HashSet<u64>,
    /// The consumer's number of the last message that it handed to anybody.
    pub(super) handed_out: u64,
    /// Lanes that are due, the earliest first.
    pub(super) overdue: VecDeque<OrderKey>,
    /// Events that ended since the first of those was due.
    pub(super) ended: HashSet<EventId>,
}

/// Reads it from the log, and makes lanes where they are lost.
pub(super) async fn read<S: Stage>(
    connection: &Connection,
    parked: Option<(&Lanes, Read)>,
) -> anyhow::Result<Unsettled> {
    let mut consumer = streams::consumer(connection, super::EVENTS, S::NAME).await?;
    let info = consumer.info().await.context("cannot look up the consumer")?;
    let info = info.clone();
    let (floor, delivered) = (info.ack_floor.stream_sequence, info.delivered.stream_sequence);
    let whole = parked.as_ref().is_none_or(|(_, read)| read.is_whole);
    let mut found = Found::default();
    if delivered > floor || !whole && delivered > 0 {
        if !whole {
            tracing::warn!(
                stage = S::NAME,
                "LANES is new or was emptied, reading the whole log for what is open"
            );
        }
        let first = if whole { floor + 1 } else { 1 };
        let mut reader = Reader::from(connection, first).up_to(end(connection).await?);
        loop {
            let entries = reader.next_batch().await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                let Entry::Event(event) = entry else { continue };
                found.note_cause::<S>(&event);
                let is_new = event.sequence > floor;
                let is_open = is_ours::<S>(&event) && (is_new || !S::only_wakes(event.envelope.event_type));
                if is_open && event.sequence <= delivered {
                    found.note_open(*event, floor);
                }
            }
        }
    }
    let mut unsettled = Unsettled {
        handed_out: info.delivered.consumer_sequence,
        ..Unsettled::default()
    };
    if let Some((lanes, read)) = parked {
        take_lanes(connection, lanes, read, &mut found, &mut unsettled).await?;
    }
    unsettled.closed.extend(found.closed);
    let open = found.open.into_values().filter_map(|open| {
        Some(Item {
            event: open.event?,
            requests: open.requests,
            parked: open.parked,
            message: None,
        })
    });
    unsettled.open = open.collect();
    unsettled.open.sort_unstable_by_key(|item| item.event.sequence);
    Ok(unsettled)
}

/// The lanes that are there, and those that are to be made.
async fn take_lanes(
    connection: &Connection,
    lanes: &Lanes,
    read: Read,
    found: &mut Found,
    unsettled: &mut Unsettled,
) -> anyhow::Result<()> {
    let now = Utc::now();
    let mut due: Vec<_> = read
        .lanes
        .iter()
        .filter(|(_, lane)| lane.is_due(now, None))
        .map(|(key, lane)| (lane.due_at, *key))
        .collect();
    due.sort_unstable();
    if let Some((first, _)) = due.first() {
        unsettled.ended = ended_since(connection, *first - CLOCK_DIFFERENCE).await?;
    }
    let parked: HashSet<u64> = read.lanes.iter().flat_map(|(_, lane)| lane.sequences()).collect();
    found.open.retain(|_, open| {
        let is_parked = parked.contains(&open.sequence);
        if is_parked {
            unsettled.closed.insert(open.sequence);
        }
        !is_parked
    });
    if !read.is_whole {
        let lost = found.lost_lanes(now);
        if !lost.is_empty() {
            tracing::warn!(orders = lost.len(), "lanes made again from the log");
        }
        due.extend(
            lost.iter()
                .filter(|(_, lane)| lane.is_due(now, None))
                .map(|(key, lane)| (lane.due_at, *key)),
        );
        stream::iter(lost.iter().map(Ok))
            .try_for_each_concurrent(LANES_AT_ONCE, |(key, lane)| {
                lanes.put(*key, lane, !lane.is_due(now, None))
            })
            .await?;
        lanes.mark_whole().await?;
    }
    unsettled.overdue = due.into_iter().map(|(_, key)| key).collect();
    Ok(())
}

/// Events that have an outcome that was appended since then.
async fn ended_since(connection: &Connection, time: DateTime<Utc>) -> anyhow::Result<HashSet<EventId>> {
    let mut reader = Reader::since(connection, time).up_to(end(connection).await?);
    let mut ended = HashSet::new();
    loop {
        let entries = reader.next_batch().await?;
        if entries.is_empty() {
            return Ok(ended);
        }
        for entry in entries {
            if let Entry::Event(event) = entry
                && event.envelope.event_type.ends()
            {
                ended.extend(event.envelope.cause_id);
            }
        }
    }
}

/// What every event that tells of an attempt says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attempt {
    attempt: u32,
    next_attempt_at: Option<DateTime<Utc>>,
}

/// An event without an outcome, so far.
struct Open {
    sequence: u64,
    key: OrderKey,
    provider: String,
    /// None where it was acknowledged: it was parked.
    event: Option<Recorded>,
    requests: u32,
    parked: Option<Parking>,
}

/// What was read so far. An outcome stands behind its cause, so an event is let go as soon as its outcome is met.
#[derive(Default)]
struct Found {
    open: HashMap<EventId, Open>,
    closed: HashSet<u64>,
}

impl Found {
    fn note_open(&mut self, event: Recorded, floor: u64) {
        if let hash_map::Entry::Vacant(new) = self.open.entry(event.envelope.id) {
            new.insert(Open {
                sequence: event.sequence,
                key: OrderKey::of(&event),
                provider: event.envelope.provider.to_string(),
                requests: 0,
                parked: None,
                event: (event.sequence > floor).then_some(event),
            });
        }
    }

    fn note_cause<S: Stage>(&mut self, event: &Recorded) {
        let Some(cause) = event.envelope.cause_id else { return };
        if event.envelope.event_type.is_attempt() {
            if let Some(open) = self.open.get_mut(&cause) {
                let attempt = serde_json::from_slice::<Attempt>(&event.payload).ok();
                open.requests = open.requests.max(attempt.as_ref().map_or(1, |attempt| attempt.attempt));
                let until = attempt.and_then(|attempt| attempt.next_attempt_at);
                let for_creation = S::waits_for_creation(event);
                open.parked = until.map(|until| Parking { until, for_creation });
            }
        } else if let Some(open) = self.open.remove(&cause)
            && open.event.is_some()
        {
            self.closed.insert(open.sequence);
        }
    }

    /// A lane for each order with an event that was parked, by what the log says.
    fn lost_lanes(&mut self, now: DateTime<Utc>) -> Vec<(OrderKey, Lane)> {
        let lost: Vec<EventId> = self
            .open
            .iter()
            .filter(|(_, open)| open.event.is_none())
            .map(|(id, _)| *id)
            .collect();
        let by_place: BTreeMap<u64, Open> = lost
            .iter()
            .filter_map(|id| self.open.remove(id))
            .map(|open| (open.sequence, open))
            .collect();
        let mut lanes: BTreeMap<OrderKey, Lane> = BTreeMap::new();
        for open in by_place.into_values() {
            match lanes.entry(open.key) {
                btree_map::Entry::Occupied(lane) => {
                    let lane = lane.into_mut();
                    lane.waiting.push((open.sequence, open.requests));
                    // It may be the one that the head waits for, which is looked for when that is tried.
                    lane.for_creation = false;
                }
                btree_map::Entry::Vacant(new) => {
                    new.insert(Lane {
                        provider: open.provider,
                        head: open.sequence,
                        requests: open.requests,
                        due_at: open.parked.map_or(now, |parked| parked.until),
                        waiting: Vec::new(),
                        for_creation: open.parked.is_some_and(|parked| parked.for_creation),
                    });
                }
            }
        }
        lanes.into_iter().collect()
    }
}
