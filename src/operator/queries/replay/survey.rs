//! How the events of a range ended: what the backend has, what was given up, what waits, and what is lost.
//!
//! An event is lost if its stage acknowledged it, no lane has it, and no outcome of it is on the log.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};

use super::{
    outcomes::{Cause, cause},
    range::Range,
};
use crate::{
    delivery::stage::Stage as _,
    event::{
        EventId, EventType, Recorded,
        outcome::{Forwarded, RetryRequested},
    },
    forward::Forward,
    journal::{
        connection::Connection,
        read::{self, Entry},
    },
    operator::queries::log_check::{floor, lanes},
    projection::rebuild::{Progress, Tell},
    transform::Transform,
};

/// Most events of a range, each some 300 bytes in memory.
const MAX_EVENTS: usize = 500_000;

/// How an event of the range ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::operator) enum EventEnd {
    /// The backend has it.
    Forwarded,
    /// The backend has it as news of an order that it had before.
    AsNews,
    /// Nothing was left to do.
    Ignored,
    /// It was given up or rejected.
    GivenUp,
    /// The order is being fetched; what is fetched is an event of its own.
    PassedOn,
    /// A stage still has it.
    Waiting,
    /// No stage has it.
    Lost,
}

/// An event of the range.
#[derive(Debug, Clone)]
pub(in crate::operator) struct Surveyed {
    /// The sequence that a retry names: of the body if there is one, otherwise of the event.
    pub(in crate::operator) sequence: u64,
    /// The stage that has it next, or had it last.
    pub(in crate::operator) stage: &'static str,
    pub(in crate::operator) is_creation: bool,
    pub(in crate::operator) provider: Arc<str>,
    pub(in crate::operator) received_at: DateTime<Utc>,
    pub(in crate::operator) end: EventEnd,
    /// The dead letter, if it was given up.
    pub(in crate::operator) letter: Option<u64>,
    /// What a stage must take next: its sequence, and the stage.
    next: (u64, &'static str),
    /// All sequences under which it may wait.
    places: Vec<u64>,
}

/// Looks how the events of a range ended, in the log's order.
///
/// # Errors
/// If NATS does not answer, or the range has more events than are kept.
pub(in crate::operator) async fn survey(
    log: &Connection,
    range: &Range,
    tell: Tell<'_>,
) -> anyhow::Result<Vec<Surveyed>> {
    let mut survey = Survey::default();
    let mut next = range.first;
    survey.read(log, range, &mut next, tell).await?;
    // In this order: an event is acknowledged after its outcome was recorded or its lane was written, and a lane ends after the
    // outcome was recorded.
    let floors = [
        (Transform::NAME, floor(log, Transform::NAME).await?),
        (Forward::NAME, floor(log, Forward::NAME).await?),
    ];
    let in_lanes = lanes(log).await?;
    survey.read(log, range, &mut next, tell).await?;
    for event in survey
        .events
        .values_mut()
        .filter(|event| event.end == EventEnd::Waiting)
    {
        let (sequence, stage) = event.next;
        let is_acknowledged = floors.iter().any(|(name, floor)| *name == stage && sequence <= *floor);
        if is_acknowledged && !event.places.iter().any(|place| in_lanes.contains(place)) {
            event.end = EventEnd::Lost;
        }
    }
    Ok(survey.events.into_values().collect())
}

/// What was read so far.
#[derive(Default)]
struct Survey {
    /// By the sequence of the event.
    events: BTreeMap<u64, Surveyed>,
    /// The event that a body was made of, and the events by id.
    by_body: HashMap<u64, u64>,
    by_id: HashMap<EventId, u64>,
    /// Events of a later version may have ended any of them.
    has_newer: bool,
}

impl Survey {
    async fn read(&mut self, log: &Connection, range: &Range, next: &mut u64, tell: Tell<'_>) -> anyhow::Result<()> {
        let (begun, end) = (*next, read::end(log).await?.sequence);
        let mut reader = range.reader(log, *next, end);
        while *next <= end {
            let entries = reader.next_batch().await.context("cannot read the event log")?;
            *next = entries.last().map_or(end, Entry::sequence) + 1;
            for entry in entries {
                match entry {
                    Entry::Event(event) => self.note(range, &event),
                    Entry::Unreadable { newer, .. } => self.has_newer |= newer.is_some(),
                }
            }
            ensure!(
                self.events.len() <= MAX_EVENTS,
                "the range has more than {MAX_EVENTS} events; narrow it with --from and --until"
            );
            tell(Progress {
                phase: "reading the log",
                done: *next - begun,
                of: (end + 1).saturating_sub(begun),
            });
        }
        ensure!(
            !self.has_newer,
            "the log has events of a later version; use the program of that version"
        );
        Ok(())
    }

    fn note(&mut self, range: &Range, event: &Recorded) {
        let (envelope, sequence) = (&event.envelope, event.sequence);
        if range.includes(event) {
            self.by_id.insert(envelope.id, sequence);
            let surveyed = Surveyed {
                sequence,
                stage: Transform::NAME,
                is_creation: envelope.is_creation(),
                provider: envelope.provider.clone(),
                received_at: envelope.received_at,
                end: EventEnd::Waiting,
                letter: None,
                next: (sequence, Transform::NAME),
                places: vec![sequence],
            };
            self.events.insert(sequence, surveyed);
            return;
        }
        if envelope.event_type == EventType::OrderRetryRequested {
            self.retried(event);
            return;
        }
        if let Some(of) = cause(event).and_then(|cause| self.known(cause)) {
            self.transformed(of, event);
        } else if let Some(of) = self.of_body(event)
            && let Some(known) = self.events.get_mut(&of)
        {
            known.end = match envelope.event_type {
                EventType::OrderForwarded if is_news(event) => EventEnd::AsNews,
                EventType::OrderForwarded => EventEnd::Forwarded,
                EventType::OrderIgnored => EventEnd::Ignored,
                EventType::OrderDeadLettered | EventType::OrderRejected => EventEnd::GivenUp,
                _ => known.end,
            };
            known.letter = (known.end == EventEnd::GivenUp).then_some(sequence);
        }
    }

    /// The event of the range that is the cause of an outcome.
    fn known(&self, cause: Cause) -> Option<u64> {
        match cause {
            Cause::At(sequence) => self.events.contains_key(&sequence).then_some(sequence),
            Cause::Named(id) => {
                let sequence = *self.by_id.get(&id)?;
                self.events.contains_key(&sequence).then_some(sequence)
            }
        }
    }

    /// The event of the range with the body that is an event's cause.
    fn of_body(&self, event: &Recorded) -> Option<u64> {
        let envelope = &event.envelope;
        let body = envelope
            .cause_sequence
            .or_else(|| self.by_id.get(&envelope.cause_id?).copied())?;
        self.by_body.get(&body).copied()
    }

    fn transformed(&mut self, of: u64, outcome: &Recorded) {
        let Some(known) = self.events.get_mut(&of) else { return };
        known.end = match outcome.envelope.event_type {
            EventType::OrderTransformed => {
                (known.sequence, known.stage) = (outcome.sequence, Forward::NAME);
                known.next = (outcome.sequence, Forward::NAME);
                known.places.push(outcome.sequence);
                self.by_body.insert(outcome.sequence, of);
                self.by_id.insert(outcome.envelope.id, outcome.sequence);
                EventEnd::Waiting
            }
            EventType::OrderFetchRequested => EventEnd::PassedOn,
            EventType::OrderIgnored | EventType::MenuSyncReported => EventEnd::Ignored,
            _ => EventEnd::GivenUp,
        };
        known.letter = (known.end == EventEnd::GivenUp).then_some(outcome.sequence);
    }

    /// A request to take one of them up again: it waits for the stage.
    fn retried(&mut self, event: &Recorded) {
        let Ok(request) = serde_json::from_slice::<RetryRequested>(&event.payload) else {
            return;
        };
        let of = self.by_body.get(&request.sequence).copied().unwrap_or(request.sequence);
        let stage = [Transform::NAME, Forward::NAME]
            .into_iter()
            .find(|name| *name == request.stage);
        if let (Some(known), Some(stage)) = (self.events.get_mut(&of), stage) {
            known.end = EventEnd::Waiting;
            known.next = (event.sequence, stage);
            known.places.push(event.sequence);
        }
    }
}

fn is_news(forwarded: &Recorded) -> bool {
    serde_json::from_slice::<Forwarded>(&forwarded.payload).is_ok_and(|forwarded| forwarded.as_news)
}
