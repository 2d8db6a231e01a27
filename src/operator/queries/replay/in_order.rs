//! Reads the bodies of a range in the order in which the backend got them, each with the webhook that it was made of.
//!
//! A body comes when its end is on the log. What waits for its end is kept as far as memory allows, and read again otherwise.

use std::collections::{HashMap, HashSet, hash_map::Entry as MapEntry};

use anyhow::{Context as _, ensure};

use super::{
    judge::Pair,
    outcomes::{Cause, cause},
    range::Range,
};
use crate::{
    event::{EventId, EventType, Recorded, outcome::Forwarded},
    journal::{
        connection::Connection,
        read::{Entry, LogReader, event_at},
    },
};

/// Most bytes of events that wait for their end.
const MAX_KEPT_BYTES: usize = 64 * 1024 * 1024;
/// Most events of a range that have no end yet, each some 100 bytes in memory.
const MAX_OPEN: usize = 1_000_000;

/// How the forwarding of a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::operator) enum BodyEnd {
    /// The backend has it.
    Forwarded,
    /// The backend has it as news of an order that it had before.
    AsNews,
    /// It was not sent: the backend had it, or something newer.
    Ignored,
    /// It was given up.
    GivenUp,
}

/// A body and its end.
pub(in crate::operator) struct Ended {
    pub(in crate::operator) pair: Pair,
    pub(in crate::operator) end: BodyEnd,
}

/// The bodies of a range, in order.
pub(in crate::operator) struct InOrder<'a> {
    pub(in crate::operator) range: &'a Range,
    log: &'a Connection,
    reader: LogReader,
    /// Where it is on the log.
    pub(in crate::operator) position: u64,
    kept: HashMap<u64, Recorded>,
    bytes: usize,
    /// Events of the range without an outcome of the transformation, by sequence.
    inputs: HashSet<u64>,
    by_id: HashMap<EventId, u64>,
    /// Bodies without an end: the event that each was made of.
    bodies: HashMap<u64, u64>,
}

impl<'a> InOrder<'a> {
    /// From the beginning of a range.
    pub(in crate::operator) fn of(log: &'a Connection, range: &'a Range) -> Self {
        Self {
            range,
            log,
            reader: range.reader(log, range.first, range.end.sequence),
            position: range.first.saturating_sub(1),
            kept: HashMap::new(),
            bytes: 0,
            inputs: HashSet::new(),
            by_id: HashMap::new(),
            bodies: HashMap::new(),
        }
    }

    /// How many events of the range have no end so far.
    pub(in crate::operator) fn open(&self) -> usize {
        self.inputs.len() + self.bodies.len()
    }

    /// The next ones, perhaps none; `None` at the end.
    ///
    /// # Errors
    /// If NATS does not answer, or more events of the range have no end than are kept.
    pub(in crate::operator) async fn next(&mut self) -> anyhow::Result<Option<Vec<Ended>>> {
        let is_over =
            self.position >= self.range.end.sequence || (self.position >= self.range.last && self.open() == 0);
        if is_over {
            return Ok(None);
        }
        let entries = self.reader.next_batch().await.context("cannot read the event log")?;
        let Some(last) = entries.last() else {
            self.position = self.range.end.sequence;
            return Ok(Some(Vec::new()));
        };
        self.position = last.sequence();
        let mut ended = Vec::new();
        for entry in entries {
            if let Entry::Event(event) = entry
                && let Some((input, body, end)) = self.note(*event)
            {
                ended.extend(self.complete(input, body, end).await?);
            }
        }
        ensure!(
            self.open() <= MAX_OPEN,
            "more than {MAX_OPEN} events of the range have no end; narrow it with --from and --until"
        );
        Ok(Some(ended))
    }

    /// The end of a body: the event that it was made of, the body, and how it ended.
    fn note(&mut self, event: Recorded) -> Option<(u64, u64, BodyEnd)> {
        let sequence = event.sequence;
        if self.range.includes(&event) {
            self.inputs.insert(sequence);
            self.by_id.insert(event.envelope.id, sequence);
            self.keep(event);
            return None;
        }
        if let Some(of) = cause(&event).and_then(|cause| self.sequence_of(cause)) {
            if self.inputs.remove(&of) && event.envelope.event_type == EventType::OrderTransformed {
                self.bodies.insert(sequence, of);
                self.by_id.insert(event.envelope.id, sequence);
                self.keep(event);
            }
            return None;
        }
        let end = body_end(&event)?;
        let envelope = &event.envelope;
        let body = envelope
            .cause_sequence
            .or_else(|| self.by_id.get(&envelope.cause_id?).copied())?;
        let MapEntry::Occupied(open) = self.bodies.entry(body) else {
            return None;
        };
        Some((open.remove(), body, end))
    }

    fn sequence_of(&self, cause: Cause) -> Option<u64> {
        match cause {
            Cause::At(sequence) => self.inputs.contains(&sequence).then_some(sequence),
            Cause::Named(id) => self.by_id.get(&id).copied(),
        }
    }

    fn keep(&mut self, event: Recorded) {
        self.bytes += event.payload.len();
        if self.bytes > MAX_KEPT_BYTES {
            (self.kept, self.bytes) = (HashMap::new(), event.payload.len());
        }
        self.kept.insert(event.sequence, event);
    }

    async fn take(&mut self, sequence: u64) -> anyhow::Result<Option<Recorded>> {
        match self.kept.remove(&sequence) {
            Some(event) => {
                self.bytes = self.bytes.saturating_sub(event.payload.len());
                self.by_id.remove(&event.envelope.id);
                Ok(Some(event))
            }
            None => event_at(self.log, sequence).await,
        }
    }

    async fn complete(&mut self, input: u64, body: u64, end: BodyEnd) -> anyhow::Result<Option<Ended>> {
        let (Some(input), Some(logged)) = (self.take(input).await?, self.take(body).await?) else {
            return Ok(None);
        };
        let request = input.envelope.request.as_ref();
        let webhook = match request.and_then(|request| request.webhook_sequence) {
            Some(webhook) => event_at(self.log, webhook).await?.map(|webhook| webhook.payload),
            None => None,
        };
        let pair = Pair { input, webhook, logged };
        Ok(Some(Ended { pair, end }))
    }
}

/// How an event says that a body ended; none if it says nothing of one. The caller knows whether its cause is a body.
fn body_end(event: &Recorded) -> Option<BodyEnd> {
    match event.envelope.event_type {
        EventType::OrderForwarded => {
            let forwarded = serde_json::from_slice::<Forwarded>(&event.payload);
            let as_news = forwarded.is_ok_and(|forwarded| forwarded.as_news);
            Some(if as_news { BodyEnd::AsNews } else { BodyEnd::Forwarded })
        }
        EventType::OrderIgnored => Some(BodyEnd::Ignored),
        EventType::OrderDeadLettered | EventType::OrderRejected => Some(BodyEnd::GivenUp),
        _ => None,
    }
}
