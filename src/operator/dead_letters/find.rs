//! Dead letters as they stand on the log, and which of them were retried.

use std::collections::HashSet;

use anyhow::bail;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::Filter;
use crate::{
    event::{EventId, EventType, Recorded, outcome::DeadLettered},
    journal::{
        EVENTS, codec,
        connection::Connection,
        read::{Entry, Located, Reader, Start, event_at},
    },
};

/// How far the clock of NATS may be behind a hub's: what happened at a time is looked for from so much earlier on.
const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);
/// Most retries that are remembered while dead letters are read; some 40 bytes each.
const MAX_RETRIES: usize = 2_000_000;

/// The log as it stood when the command began.
pub(super) struct Log {
    pub(super) connection: Connection,
    /// What is older has left it.
    pub(super) first_sequence: u64,
    /// What comes later is not looked at: a retry may fail at once, and must not be retried again and again.
    last_sequence: u64,
}

impl Log {
    pub(super) async fn open(connection: Connection) -> anyhow::Result<Self> {
        let stream = connection.context.get_stream(EVENTS).await?;
        let state = &stream.cached_info().state;
        let (first_sequence, last_sequence) = (state.first_sequence, state.last_sequence);
        Ok(Self {
            connection,
            first_sequence,
            last_sequence,
        })
    }

    /// The dead letters, page by page, retried or not.
    pub(super) fn dead_letters(&self, filter: &Filter) -> Pages {
        Pages {
            reader: self.reader(EventType::OrderDeadLettered, filter),
            since: filter.since.map(|since| since.0),
            last_sequence: self.last_sequence,
        }
    }

    /// Those that were retried. A retry is later than its dead letter, so the same filter finds all that matter.
    pub(super) async fn retried(&self, filter: &Filter) -> anyhow::Result<HashSet<EventId>> {
        let mut reader = self.reader(EventType::OrderRetryRequested, filter);
        let mut retried = HashSet::new();
        loop {
            let entries = reader.next_batch().await?;
            if entries.is_empty() {
                return Ok(retried);
            }
            let events = entries.iter().filter_map(|entry| match entry {
                Entry::Event(event) => event.envelope.cause_id,
                // It names no dead letter, so it has taken none up.
                Entry::Unreadable { .. } => None,
            });
            retried.extend(events);
            if retried.len() > MAX_RETRIES {
                bail!("more than {MAX_RETRIES} retries are on the log; look at fewer with --since or --provider");
            }
        }
    }

    /// The event at this place; none where it has left the log or cannot be read.
    pub(super) async fn event(&self, sequence: u64) -> anyhow::Result<Option<Recorded>> {
        event_at(&self.connection, sequence).await
    }

    /// Reads subjects from shortly before a time on.
    pub(super) fn since(&self, subjects: impl Into<String>, time: DateTime<Utc>) -> Reader {
        Reader::of_subjects(&self.connection, subjects, Start::Time(time - CLOCK_SKEW))
    }

    fn reader(&self, event_type: EventType, filter: &Filter) -> Reader {
        let root = event_type.subject_root();
        let subjects = match &filter.provider {
            Some(provider) => format!("{root}.{}.>", codec::token(provider)),
            None => format!("{root}.>"),
        };
        match filter.since {
            Some(since) => self.since(subjects, since.0),
            None => Reader::of_subjects(&self.connection, subjects, Start::Sequence(1)),
        }
    }
}

/// Dead letters, a page at a time: however many there are, only one page is held.
pub(super) struct Pages {
    reader: Reader,
    since: Option<DateTime<Utc>>,
    last_sequence: u64,
}

impl Pages {
    /// The next page, which may be empty; none at the end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Vec<Found>>> {
        let located = self.reader.next_located().await?;
        let first = located.first().map(|first| first.entry.sequence());
        if first.is_none_or(|first| first > self.last_sequence) {
            return Ok(None);
        }
        let wanted = located
            .into_iter()
            .filter(|located| located.entry.sequence() <= self.last_sequence)
            .map(Found::from)
            .filter(|found| match (found, self.since) {
                (Found::Letter(letter), Some(since)) => letter.event.envelope.time >= since,
                _ => true,
            });
        Ok(Some(wanted.collect()))
    }
}

/// What stands on the subject of dead letters.
pub(super) enum Found {
    Letter(Box<Letter>),
    /// No event at all.
    Garbage(Garbage),
}

/// A message that is no event of ours.
#[derive(Debug, Serialize)]
pub(super) struct Garbage {
    pub(super) sequence: u64,
    pub(super) unreadable: String,
}

/// A dead letter.
pub(super) struct Letter {
    pub(super) event: Recorded,
    pub(super) subject: String,
    /// What it says; where it cannot be read, why.
    pub(super) facts: Result<DeadLettered, String>,
}

impl Letter {
    pub(super) fn id(&self) -> EventId {
        self.event.envelope.id
    }
}

impl From<Located> for Found {
    fn from(located: Located) -> Self {
        let Located { subject, entry } = located;
        match entry {
            Entry::Event(event) => {
                let facts = serde_json::from_slice(&event.payload).map_err(|error| {
                    format!("its payload cannot be read ({error}); an older version may have written it")
                });
                Self::Letter(Box::new(Letter {
                    event: *event,
                    subject,
                    facts,
                }))
            }
            Entry::Unreadable { sequence } => Self::Garbage(Garbage {
                sequence,
                unreadable: format!("message {sequence} of the event log, on {subject}, is no event"),
            }),
        }
    }
}

/// One dead letter by its id.
pub(super) async fn one(log: &Log, id: EventId) -> anyhow::Result<Letter> {
    let mut pages = log.dead_letters(&Filter::default());
    while let Some(page) = pages.next().await? {
        for found in page {
            if let Found::Letter(letter) = found
                && letter.id() == id
            {
                return Ok(*letter);
            }
        }
    }
    bail!(unknown(&[id]))
}

/// How ids that nobody knows are named.
pub(super) fn unknown(ids: &[EventId]) -> String {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    format!(
        "no dead letter {} is on the log; `webhook-hub dead-letters list` shows the open ones",
        ids.join(", ")
    )
}
