//! Which events are replayed.

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};

use crate::{
    event::{EventType, Recorded},
    journal::{
        codec,
        connection::Connection,
        read::{self, End, LogReader, Start},
    },
    operator::CLOCK_SKEW,
};

/// A place on the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A sequence.
    Sequence(u64),
    /// The time of an event.
    Time(DateTime<Utc>),
}

/// Filters of the webhooks and fetched orders that are replayed. All that are set must match.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// From this place on; from the beginning of the log if none is given.
    pub from: Option<Place>,
    /// Up to this place; to the end of the log if none is given.
    pub to: Option<Place>,
    /// Of this provider.
    pub provider: Option<String>,
    /// Of the order with this id of its provider.
    pub order: Option<String>,
    /// Of this type, as it was recorded: `order_created` …
    pub webhook_type: Option<String>,
}

/// The same, on a log that was looked at.
pub(in crate::operator) struct Range {
    pub(in crate::operator) asked: Asked,
    /// The first sequence, and the last.
    pub(in crate::operator) first: u64,
    pub(in crate::operator) last: u64,
    /// The end of the log when it was looked at. Outcomes are read up to there.
    pub(in crate::operator) end: End,
}

impl Range {
    /// Looks for the places on the log.
    ///
    /// # Errors
    /// If NATS does not answer, or the range begins after it ends.
    pub(in crate::operator) async fn of(log: &Connection, asked: Asked) -> anyhow::Result<Self> {
        let end = read::end(log).await.context("cannot read the event log")?;
        let begin = read::beginning(log).await?.max(1);
        let first = match asked.from {
            None => begin,
            Some(Place::Sequence(sequence)) => sequence.max(begin),
            Some(Place::Time(time)) => at_time(log, time - CLOCK_SKEW).await?.unwrap_or(end.sequence + 1),
        };
        let last = match asked.to {
            None => end.sequence,
            Some(Place::Sequence(sequence)) => sequence.min(end.sequence),
            Some(Place::Time(time)) => match at_time(log, time + CLOCK_SKEW).await? {
                Some(sequence) => sequence,
                None => end.sequence,
            },
        };
        if let (Some(from), Some(to)) = (asked.from, asked.to) {
            let is_reversed = match (from, to) {
                (Place::Sequence(from), Place::Sequence(to)) => from > to,
                (Place::Time(from), Place::Time(to)) => from > to,
                _ => false,
            };
            ensure!(!is_reversed, "--from is after --to");
        }
        Ok(Self {
            asked,
            first,
            last,
            end,
        })
    }

    /// Whether an event is one that is replayed.
    pub(in crate::operator) fn includes(&self, event: &Recorded) -> bool {
        let (envelope, asked) = (&event.envelope, &self.asked);
        let is_input = matches!(
            envelope.event_type,
            EventType::WebhookReceived | EventType::OrderFetched
        );
        let is_after = match asked.from {
            Some(Place::Time(from)) => envelope.time >= from,
            _ => true,
        };
        let is_before = match asked.to {
            Some(Place::Time(to)) => envelope.time <= to,
            _ => true,
        };
        is_input && is_after && is_before && self.holds(event.sequence) && self.concerns(event)
    }

    /// Whether an event, or the event that it is an outcome of, is of the provider, the order and the type.
    pub(in crate::operator) fn concerns(&self, event: &Recorded) -> bool {
        let (envelope, asked) = (&event.envelope, &self.asked);
        let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        // What a provider says of a menu is recorded about the branch.
        let is_of_order =
            envelope.event_type == EventType::MenuSyncReported || is(&asked.order, &envelope.external_order_id);
        is_of_order && is(&asked.provider, &envelope.provider) && is(&asked.webhook_type, &envelope.webhook_type)
    }

    /// Whether a sequence is in it.
    pub(in crate::operator) const fn holds(&self, sequence: u64) -> bool {
        self.first <= sequence && sequence <= self.last
    }

    /// Reads the log from a sequence to another one, as far as it concerns the provider.
    pub(in crate::operator) fn reader(&self, log: &Connection, first: u64, last: u64) -> LogReader {
        match &self.asked.provider {
            Some(provider) => {
                let subjects = format!("*.*.{}.>", codec::token(provider));
                LogReader::of_subjects(log, subjects, Start::Sequence(first))
            }
            // A copy of the log that is behind is waited for.
            None => LogReader::from(log, first).up_to(End {
                sequence: last,
                ..self.end
            }),
        }
    }
}

/// The sequence of the first message that was appended at a time or later, by the server's clock; none at the end.
async fn at_time(log: &Connection, time: DateTime<Utc>) -> anyhow::Result<Option<u64>> {
    let mut reader = LogReader::of_subjects(log, ">", Start::Time(time)).at_most(1);
    let messages = reader.next_raw().await.context("cannot read the event log")?;
    Ok(messages.first().map(|message| message.sequence))
}
