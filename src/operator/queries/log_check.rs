//! Whether the log is whole: each accepted event has ended, is parked or still waits; each event has its cause; ids are what they follow
//! from; an order's webhooks were transformed in the order in which they were accepted. It reads the log once and keeps only what is open.

mod scan;

use std::collections::HashSet;

use anyhow::Context as _;
use futures_util::future::try_join_all;
use serde::Serialize;

use self::scan::Scan;
pub use self::scan::{Fault, Faults};
use crate::{
    delivery::lanes::Lane,
    event::{EventType, stage},
    journal::{
        EVENTS,
        connection::Connection,
        read::{Entry, LogReader, beginning, decoded_at, end},
        streams::{self, LANES},
    },
    projection::rebuild::{Progress, Tell},
};

/// Most causes that are looked up one by one, for events that follow the end of their webhook. Such events are rare: they come from
/// instances that were replaced.
const MOST_LOOK_UPS: usize = 10_000;

/// What was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogChecked {
    /// Nothing is wrong.
    pub is_whole: bool,
    /// The first event that was read, and the last.
    pub first_sequence: u64,
    /// See `first_sequence`.
    pub last_sequence: u64,
    /// How many were read.
    pub events: u64,
    /// Messages that are no events.
    pub unreadable: u64,
    /// Events of a later version. With any, what has no outcome counts as waiting, because one of them may be the outcome.
    pub newer: u64,
    /// Accepted events that a stage has not ended yet.
    pub waiting: u64,
    /// Accepted events that wait in a lane for a later attempt.
    pub parked: u64,
    /// What is wrong.
    pub faults: Faults,
    /// How many causes were not looked up, because there were too many.
    pub not_looked_up: u64,
}

/// Reads the log from a place on, or from its beginning, to its end.
///
/// # Errors
/// Where NATS does not answer.
pub async fn check(connection: &Connection, from: Option<u64>, tell: Tell<'_>) -> anyhow::Result<LogChecked> {
    let first = beginning(connection).await?.max(1).max(from.unwrap_or(1));
    let mut scan = Scan::from(first);
    let mut next = first;
    read(connection, &mut scan, &mut next, tell).await?;
    // In this order: an event is acknowledged after its outcome was recorded or its lane was written, and a lane ends after the outcome
    // was recorded. So what is acknowledged, in no lane and without an outcome after all that is lost.
    let acknowledged = try_join_all(stage::ALL.map(async |stage| {
        let floor = floor(connection, stage.name).await?;
        anyhow::Ok((stage.takes, floor))
    }))
    .await?;
    let in_lanes = if scan.has_open() {
        lanes(connection).await?
    } else {
        HashSet::new()
    };
    read(connection, &mut scan, &mut next, tell).await?;
    let is_acknowledged = |sequence: u64, event_type: EventType| {
        // A request to take something up again is for any stage.
        let mut stages = acknowledged
            .iter()
            .filter(|(takes, _)| takes.contains(&event_type) || event_type == EventType::OrderRetryRequested);
        stages.all(|(_, floor)| sequence <= *floor)
    };
    let (waiting, parked) = scan.judge_open(&in_lanes, is_acknowledged);
    let not_looked_up = look_up_causes(connection, &mut scan, first).await?;
    Ok(LogChecked {
        is_whole: scan.faults.is_empty(),
        first_sequence: first,
        last_sequence: next - 1,
        events: scan.events,
        unreadable: scan.unreadable,
        newer: scan.newer,
        waiting,
        parked,
        faults: scan.faults,
        not_looked_up,
    })
}

async fn read(connection: &Connection, scan: &mut Scan, next: &mut u64, tell: Tell<'_>) -> anyhow::Result<()> {
    let (began, end) = (*next, end(connection).await?);
    let mut reader = LogReader::from(connection, began).up_to(end);
    while *next <= end.sequence {
        let entries = reader.next_batch().await?;
        *next = entries.last().map_or(end.sequence, Entry::sequence) + 1;
        for entry in entries {
            match entry {
                Entry::Event(event) => scan.note(&event),
                Entry::Unreadable { newer: Some(_), .. } => scan.newer += 1,
                Entry::Unreadable { .. } => scan.unreadable += 1,
            }
        }
        tell(Progress {
            phase: "checking the log",
            done: *next - began,
            of: (end.sequence + 1).saturating_sub(began),
        });
    }
    Ok(())
}

/// Up to where a stage has acknowledged every event that it takes.
pub(super) async fn floor(connection: &Connection, stage: &str) -> anyhow::Result<u64> {
    let consumer = streams::consumer(connection, EVENTS, stage).await?;
    Ok(consumer.cached_info().ack_floor.stream_sequence)
}

/// The events in lanes.
pub(super) async fn lanes(connection: &Connection) -> anyhow::Result<HashSet<u64>> {
    let mut reader = LogReader::from(connection, 1).of_stream(LANES);
    let mut parked = HashSet::new();
    loop {
        let messages = reader.next_raw().await.context("cannot read LANES")?;
        if messages.is_empty() {
            return Ok(parked);
        }
        // Messages that are not lanes, such as markers, have other fields and are skipped.
        let read = messages
            .iter()
            .filter_map(|message| serde_json::from_slice::<Lane>(&message.payload).ok());
        parked.extend(read.flat_map(|lane| lane.sequences().collect::<Vec<_>>()));
    }
}

/// Looks for causes that the scan did not meet; how many it left out.
async fn look_up_causes(connection: &Connection, scan: &mut Scan, first: u64) -> anyhow::Result<u64> {
    let causes = std::mem::take(&mut scan.causes);
    let not_looked_up = causes.len().saturating_sub(MOST_LOOK_UPS) as u64 + scan.causes_left_out;
    for cause in causes.into_iter().take(MOST_LOOK_UPS) {
        if cause.sequence < first {
            continue;
        }
        let is_there = match decoded_at(connection, cause.sequence).await? {
            Some(Ok(found)) => cause.root.is_none_or(|root| root == found.envelope.root_id),
            // What could not be read has an event about it.
            Some(Err(_)) => true,
            None => false,
        };
        if !is_there {
            scan.faults.without_cause.push(cause.of);
        }
    }
    Ok(not_looked_up)
}
