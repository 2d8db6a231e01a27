//! Checks that the log is complete and consistent. Each accepted event has ended, is parked or waits for a stage; the cause of each event is on
//! the log; ids derive from their causes; bodies are those that were accepted; the webhooks of an order were transformed in the order in which they were accepted. The check
//! reads the log once and keeps only open events in memory.

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
        read::{Entry, LogReader, LongReader, beginning, decoded_at, end},
        streams::{self, LANES},
    },
    projection::rebuild::{Progress, Tell},
};

/// Most causes that are looked up one by one. This is for events after the end of their webhook, which are rare: replaced instances append
/// them.
const MOST_LOOK_UPS: usize = 10_000;

/// The result of the check.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogChecked {
    /// Nothing is wrong.
    pub is_whole: bool,
    /// Sequence of the first event that was read.
    pub first_sequence: u64,
    /// Sequence of the last one.
    pub last_sequence: u64,
    /// Number of events that were read.
    pub events: u64,
    /// Number of messages that are not events.
    pub unreadable: u64,
    /// Number of events of a later version. If there are any, events without an outcome count as waiting, because one of these may be their
    /// outcome.
    pub newer: u64,
    /// Number of accepted events that no stage has ended yet.
    pub waiting: u64,
    /// Number of accepted events that wait in a lane for a later attempt.
    pub parked: u64,
    /// What is wrong.
    pub faults: Faults,
    /// Number of causes that were not looked up, because there were too many.
    pub not_looked_up: u64,
}

/// Reads the log from a sequence, or from its beginning, to its end.
///
/// # Errors
/// If NATS does not answer.
pub async fn check(connection: &Connection, from: Option<u64>, tell: Tell<'_>) -> anyhow::Result<LogChecked> {
    let first = beginning(connection).await?.max(1).max(from.unwrap_or(1));
    let mut scan = Scan::from(first);
    let mut next = first;
    read(connection, &mut scan, &mut next, tell).await?;
    // The acknowledgements are read first, then the lanes, then the rest of the log. A stage acknowledges an event after it recorded the
    // outcome or wrote the lane, and ends a lane after it recorded the outcome. So an acknowledged event that is in no lane and has no
    // outcome after that is lost.
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
        // A request to retry an event can be for any stage.
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
    let mut reader = LogReader::from(connection, began)
        .up_to(end)
        .by(connection, LongReader::Rebuild);
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

/// The sequence up to which a stage has acknowledged all of its events.
pub(super) async fn floor(connection: &Connection, stage: &str) -> anyhow::Result<u64> {
    let consumer = streams::consumer(connection, EVENTS, stage).await?;
    Ok(consumer.cached_info().ack_floor.stream_sequence)
}

/// The sequences of the events in lanes.
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

/// Looks up the causes that the scan did not find. Returns how many it left out.
async fn look_up_causes(connection: &Connection, scan: &mut Scan, first: u64) -> anyhow::Result<u64> {
    let causes = std::mem::take(&mut scan.causes);
    let not_looked_up = causes.len().saturating_sub(MOST_LOOK_UPS) as u64 + scan.causes_left_out;
    for cause in causes.into_iter().take(MOST_LOOK_UPS) {
        if cause.sequence < first {
            continue;
        }
        let is_there = match decoded_at(connection, cause.sequence).await? {
            Some(Ok(found)) => cause.root.is_none_or(|root| root == found.envelope.root_id),
            // A message that cannot be read has an event that says so.
            Some(Err(_)) => true,
            None => false,
        };
        if !is_there {
            scan.faults.without_cause.push(cause.of);
        }
    }
    Ok(not_looked_up)
}
