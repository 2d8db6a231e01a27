//! What an instance that takes over a stage must know: which events were handed to the one before it and have no outcome.
//!
//! The server would hand them out again, but only after a while, and newer events of the same orders before. So the instance
//! before left with its lease which events were open and how far it had read (see [`super::progress`]); what came after that
//! is read from the log: events of the stage that the consumer has delivered, and what later events name as their cause.
//! Attempts that were made are on the log, too, and are counted on. Where there is no such floor, as an older hub leaves
//! none, or where it is not about this log, the consumer's acknowledgement floor stands in for it.
//!
//! What is parked is in the lanes. Where those are not whole (`LANES` was lost, or emptied) the whole log is read, and a
//! lane made for every order that has an event without an outcome.

use std::collections::{BTreeMap, HashMap, HashSet, btree_map, hash_map};

use anyhow::Context as _;
use async_nats::jetstream::consumer;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;

use super::{
    Stage,
    attempt::is_ours,
    floor::{self, LogState, id_of, is_taken, message_at},
    held::Item,
    names::{Acceptances, named, outcome_of},
    progress::Progress,
    tenure::Tenure,
};
use crate::{
    event::{EventId, Recorded},
    journal::{
        codec::{self, CodecError, Newer, OrderKey},
        connection::Connection,
        lanes::{Lane, Lanes, Read},
        lease::note::Floor,
        read::{End, Entry, Reader, end, event_at},
        settle::Parking,
        streams,
    },
};

/// How much the clocks of hub and NATS may differ before an outcome is looked for too late on the log.
const CLOCK_DIFFERENCE: TimeDelta = TimeDelta::seconds(60);
/// Lanes that are made at a time.
const LANES_AT_ONCE: usize = 400;
/// Single events that are read at a time.
const READS_AT_ONCE: usize = 64;

/// What was handed out and not acknowledged, and what is parked.
#[derive(Default)]
pub(super) struct Unsettled {
    /// Without an outcome and not parked, in the log's order.
    pub(super) open: Vec<Item>,
    /// The consumer's number of the last message that it handed to anybody.
    pub(super) handed_out: u64,
    /// Events of a newer version that were handed out.
    pub(super) left: Vec<(u64, Newer)>,
    /// Events in lanes that have an outcome, though their lane does not say so; by what outcomes name ([`outcome_of`]).
    pub(super) ended: HashSet<EventId>,
    /// Events that another instance is still asking about, and their orders.
    pub(super) elsewhere: HashMap<u64, OrderKey>,
    /// The end of the log up to which all of this is known.
    pub(super) end: u64,
    /// Messages of the log that were read to find it.
    pub(super) read: usize,
}

/// Reads it from the log, and makes lanes where they are lost. From then on the stage's progress is told.
pub(super) async fn read<S: Stage>(
    connection: &Connection,
    parked: Option<(&Lanes, Read)>,
    tenure: &Tenure,
) -> anyhow::Result<Unsettled> {
    let mut consumer = streams::consumer(connection, super::EVENTS, S::NAME).await?;
    let info = consumer.info().await.context("cannot look up the consumer")?.clone();
    let log = LogState::look(connection).await?;
    let whole = parked.as_ref().is_none_or(|(_, read)| read.is_whole);
    let left = floor::of_this_log(connection, log, tenure.inherited(), S::NAME).await?;
    let left = left.filter(|_| whole);
    let has_floor = left.is_some();
    let floor = left.unwrap_or_else(|| log.acknowledged(info.ack_floor.stream_sequence));
    let mut found = Found {
        settled: floor.settled,
        delivered: info.delivered.stream_sequence,
        whole,
        ..Found::default()
    };
    let reading = Reading { connection, log };
    if !whole {
        tracing::warn!(
            stage = S::NAME,
            "LANES is new or was emptied, reading the whole log for what is open"
        );
        reading.segment::<S>(&mut found, 0, log.last).await?;
    } else {
        if let Some((_, read)) = parked.as_ref().filter(|_| has_floor) {
            found.with_lanes = read.lanes.iter().map(|(key, _)| *key).collect();
        }
        reading.open::<S>(&mut found, &floor).await?;
        for (after, last) in segments(&floor, found.delivered, log.last, has_floor) {
            reading.segment::<S>(&mut found, after, last).await?;
        }
    }
    let mut unsettled = Unsettled {
        handed_out: info.delivered.consumer_sequence,
        end: log.last,
        read: found.read,
        ..Unsettled::default()
    };
    let busy: HashSet<u64> = tenure.at_work().into_iter().flat_map(|busy| busy.events).collect();
    let mut behind = Vec::new();
    if let Some((lanes, read)) = parked {
        let heads = read.lanes.iter().filter(|(_, lane)| busy.contains(&lane.head));
        unsettled.elsewhere.extend(heads.map(|(key, lane)| (lane.head, *key)));
        if has_floor {
            for (head, id) in reading.ended_in_lanes(&found, &read).await? {
                unsettled.ended.insert(id);
                behind.push((head, floor.recorded));
            }
        }
        take_lanes(connection, lanes, read, has_floor, &mut found, &mut unsettled).await?;
    }
    let mut progress = reading.progress(&found, &info.config, &mut unsettled.left).await?;
    for open in found.open.into_values() {
        let Some(event) = open.event else { continue };
        if busy.contains(&event.sequence) {
            unsettled.elsewhere.insert(event.sequence, open.key);
        }
        if open.parked.is_some() {
            behind.push((event.sequence, floor.recorded));
        }
        unsettled.open.push(Item {
            event,
            requests: open.requests,
            parked: open.parked,
            message: None,
        });
    }
    unsettled.open.sort_unstable_by_key(|item| item.event.sequence);
    behind.extend(unsettled.elsewhere.keys().map(|event| (*event, log.last)));
    behind
        .iter()
        .for_each(|(event, place)| progress.record_behind(*event, *place));
    busy.iter()
        .filter(|event| !unsettled.elsewhere.contains_key(event))
        .for_each(|event| tenure.has_ended(*event));
    tenure.begin(progress);
    Ok(unsettled)
}

/// Which parts of the log are to be read, each from behind one place up to another: what the consumer handed out beyond the
/// floor, and what was recorded since. They may overlap; between them nothing is of interest, however much it is.
fn segments(floor: &Floor, delivered: u64, last: u64, has_floor: bool) -> Vec<(u64, u64)> {
    let handed_out = (delivered > floor.settled).then_some((floor.settled, delivered));
    match handed_out {
        // Without a floor nothing is known of lanes either, and their outcomes are looked for elsewhere.
        None if !has_floor => Vec::new(),
        None => vec![(floor.recorded, last)],
        Some((settled, delivered)) if floor.recorded <= delivered => vec![(settled.min(floor.recorded), last)],
        Some(handed_out) => vec![handed_out, (floor.recorded, last)],
    }
}

/// The log, read for what is open.
struct Reading<'a> {
    connection: &'a Connection,
    log: LogState,
}

impl Reading<'_> {
    /// Events that the floor lists.
    async fn open<S: Stage>(&self, found: &mut Found, floor: &Floor) -> anyhow::Result<()> {
        let (connection, first) = (self.connection, self.log.first);
        let left: Vec<_> = floor
            .open
            .iter()
            .copied()
            .filter(|(sequence, _)| *sequence >= first)
            .collect();
        let reads = left.into_iter().map(|(sequence, requests)| async move {
            let event = event_at(connection, sequence).await?;
            anyhow::Ok((sequence, requests, event))
        });
        let mut reads = stream::iter(reads).buffered(READS_AT_ONCE);
        while let Some((sequence, requests, event)) = reads.try_next().await? {
            found.read += 1;
            match event {
                Some(event) if is_ours::<S>(&event) => found.note_open(event, requests),
                Some(_) => {}
                None => found.unreadable.push(sequence),
            }
        }
        Ok(())
    }

    async fn segment<S: Stage>(&self, found: &mut Found, after: u64, last: u64) -> anyhow::Result<()> {
        if last <= after {
            return Ok(());
        }
        let end = End {
            sequence: last,
            time: Utc::now(),
        };
        let mut reader = Reader::from(self.connection, after + 1).up_to(end);
        loop {
            let entries = reader.next_batch().await?;
            let Some(newest) = entries.last().map(Entry::sequence) else {
                return Ok(());
            };
            for entry in entries {
                if entry.sequence() <= last {
                    found.note::<S>(entry);
                }
            }
            if newest >= last {
                return Ok(());
            }
        }
    }

    /// Lanes that do not say yet that the event at their head has ended.
    async fn ended_in_lanes(&self, found: &Found, read: &Read) -> anyhow::Result<Vec<(u64, EventId)>> {
        let lanes = read
            .lanes
            .iter()
            .filter(|(key, _)| found.ended_with_lane.contains_key(key));
        let mut ended = Vec::new();
        for (key, lane) in lanes {
            let head = event_at(self.connection, lane.head).await?;
            let names = head.as_ref().map(outcome_of).into_iter().flatten();
            let mut ended_there = names.filter(|name| found.ended_with_lane[key].contains(name));
            if let Some(name) = ended_there.next() {
                ended.push((lane.head, name));
            }
        }
        Ok(ended)
    }

    /// How far the stage is after all that was found; what is of a newer version is noted in `left`.
    async fn progress(
        &self,
        found: &Found,
        consumer: &consumer::Config,
        left: &mut Vec<(u64, Newer)>,
    ) -> anyhow::Result<Progress> {
        let newest = message_at(self.connection, self.log.last).await?;
        let mut open: Vec<_> = found
            .open
            .values()
            .filter(|open| open.event.is_some())
            .map(|open| (open.sequence, open.requests))
            .collect();
        for sequence in &found.unreadable {
            let message = message_at(self.connection, *sequence).await?;
            // It comes again, and is looked at then.
            let Some(message) = message.filter(|message| is_taken(consumer, &message.subject)) else {
                continue;
            };
            open.push((*sequence, 0));
            if let Err(CodecError::Newer(newer)) = codec::decode(Some(&message.headers), message.payload, *sequence) {
                left.push((*sequence, newer));
            }
        }
        Ok(Progress::of(Floor {
            created: self.log.created,
            known: newest.as_ref().map_or(0, |newest| newest.sequence),
            known_id: newest.as_ref().map(id_of).unwrap_or_default(),
            recorded: self.log.last,
            settled: found.settled.max(found.delivered),
            open,
        }))
    }
}

/// The lanes that are there, and those that are to be made. `ended_is_known`: lanes whose head has ended were found already.
async fn take_lanes(
    connection: &Connection,
    lanes: &Lanes,
    read: Read,
    ended_is_known: bool,
    found: &mut Found,
    unsettled: &mut Unsettled,
) -> anyhow::Result<()> {
    let now = Utc::now();
    // Also of lanes that are not due yet by this clock: they were due by that of the instance before, where it was ahead.
    let first = read.lanes.iter().map(|(_, lane)| lane.due_at).min();
    if let Some(first) = first.filter(|_| !ended_is_known) {
        unsettled.ended = ended_since(connection, first - CLOCK_DIFFERENCE).await?;
    }
    let parked: HashSet<u64> = read.lanes.iter().flat_map(|(_, lane)| lane.sequences()).collect();
    found.open.retain(|_, open| !parked.contains(&open.sequence));
    if !read.is_whole {
        let lost = found.lost_lanes(now);
        if !lost.is_empty() {
            tracing::warn!(orders = lost.len(), "lanes made again from the log");
        }
        stream::iter(lost.iter().map(Ok))
            .try_for_each_concurrent(LANES_AT_ONCE, |(key, lane)| lanes.put(*key, lane))
            .await?;
        lanes.mark_whole().await?;
    }
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
                && !event.envelope.event_type.is_attempt()
            {
                ended.extend(named(&event.envelope));
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
    /// What is settled up to here but for what is listed, and what the consumer has handed out up to there.
    settled: u64,
    delivered: u64,
    /// The lanes are whole, so what is settled needs no lane.
    whole: bool,
    open: HashMap<EventId, Open>,
    acceptances: Acceptances,
    /// Orders that have a lane, and which of their events ended.
    with_lanes: HashSet<OrderKey>,
    ended_with_lane: HashMap<OrderKey, HashSet<EventId>>,
    /// Handed out, and no events that this version can read.
    unreadable: Vec<u64>,
    /// Messages that were read.
    read: usize,
}

impl Found {
    fn note<S: Stage>(&mut self, entry: Entry) {
        self.read += 1;
        let event = match entry {
            Entry::Event(event) => event,
            Entry::Unreadable { sequence, .. } => {
                if sequence > self.settled && sequence <= self.delivered {
                    self.unreadable.push(sequence);
                }
                return;
            }
        };
        self.note_cause::<S>(&event);
        let is_new = event.sequence > self.settled;
        let may_be_open = is_new || !self.whole && !S::only_wakes(event.envelope.event_type);
        if may_be_open && event.sequence <= self.delivered && is_ours::<S>(&event) {
            self.note_open(*event, 0);
        }
    }

    fn note_open(&mut self, event: Recorded, requests: u32) {
        // Where lanes are lost, what is older than the floor was acknowledged: it was in one.
        let needs_lane = !self.whole && event.sequence <= self.settled;
        let name = self.acceptances.note(&event);
        if let hash_map::Entry::Vacant(new) = self.open.entry(name) {
            new.insert(Open {
                sequence: event.sequence,
                key: OrderKey::of(&event),
                provider: event.envelope.provider.to_string(),
                requests,
                parked: None,
                event: (!needs_lane).then_some(event),
            });
        }
    }

    fn note_cause<S: Stage>(&mut self, event: &Recorded) {
        let Some(cause) = self.acceptances.named(event) else {
            return;
        };
        if event.envelope.event_type.is_attempt() {
            if let Some(open) = self.open.get_mut(&cause) {
                let attempt = serde_json::from_slice::<Attempt>(&event.payload).ok();
                open.requests = open.requests.max(attempt.as_ref().map_or(1, |attempt| attempt.attempt));
                let until = attempt.and_then(|attempt| attempt.next_attempt_at);
                let for_creation = S::waits_for_creation(event);
                open.parked = until.map(|until| Parking { until, for_creation });
            }
            return;
        }
        self.open.remove(&cause);
        if !self.with_lanes.is_empty() {
            let key = OrderKey::of(event);
            if self.with_lanes.contains(&key) {
                self.ended_with_lane.entry(key).or_default().insert(cause);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn floor(settled: u64, recorded: u64) -> Floor {
        Floor {
            created: 0,
            known: recorded,
            known_id: String::new(),
            recorded,
            settled,
            open: Vec::new(),
        }
    }

    #[test]
    fn only_what_is_new_is_read() {
        for (settled, recorded, delivered, has_floor, expected) in [
            // A stage that keeps up.
            (990, 991, 992, true, vec![(990, 1000)]),
            (990, 995, 992, true, vec![(990, 992), (995, 1000)]),
            (990, 980, 992, true, vec![(980, 1000)]),
            // One that is far behind: what waits in between is not read.
            (100, 990, 150, true, vec![(100, 150), (990, 1000)]),
            (150, 990, 150, true, vec![(990, 1000)]),
            // The consumer went back.
            (150, 990, 120, true, vec![(990, 1000)]),
            // No floor but the consumer's.
            (100, 100, 150, false, vec![(100, 1000)]),
            (150, 150, 150, false, vec![]),
        ] {
            let read = segments(&floor(settled, recorded), delivered, 1000, has_floor);
            assert_eq!(read, expected, "{settled} {recorded} {delivered}");
        }
    }
}
