//! Reads from the log when the webhooks of an order were accepted, for a dry run, which has no memory of orders.

use std::collections::HashMap;

use chrono::TimeDelta;

use crate::{
    config::{self, Environment},
    dead_letters::retry::RETRY,
    delivery::superseded::{self, KnownAcceptances, NewerEvent, Searches},
    event::{EventId, EventType, Recorded},
    fault_injection,
    journal::{
        codec,
        connection::Connection,
        read::{Entry, LogReader, Start, located_at},
    },
};

/// How much longer than `ORDER_MEMORY` a hub recognises a webhook.
const LONGER: TimeDelta = TimeDelta::hours(24);

/// `ORDER_MEMORY`.
///
/// # Errors
/// If the variable is invalid.
pub(super) fn window(environment: &Environment) -> anyhow::Result<TimeDelta> {
    let window = fault_injection::time("order_memory", config::order_memory(environment)?);
    Ok(TimeDelta::from_std(window)?)
}

/// Says what would supersede events if they were retried now. The stage checks again when it handles the request.
pub(in crate::operator) struct LogAcceptances<'a> {
    connection: &'a Connection,
    /// `ORDER_MEMORY`.
    window: TimeDelta,
    searches: Searches,
}

impl<'a> LogAcceptances<'a> {
    /// `window`: `ORDER_MEMORY`.
    pub(in crate::operator) fn new(connection: &'a Connection, window: TimeDelta) -> Self {
        Self {
            connection,
            window,
            searches: Searches::default(),
        }
    }

    /// What would supersede an event.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(in crate::operator) async fn newer_than(&self, event: Recorded) -> anyhow::Result<Option<NewerEvent>> {
        let event = Recorded {
            run: Some(event.envelope.id.derive(RETRY)),
            ..event
        };
        superseded::by(self.connection, &event, self).await
    }
}

impl KnownAcceptances for LogAcceptances<'_> {
    async fn begin(&self, event: &Recorded) -> anyhow::Result<Start> {
        Ok(superseded::since(event))
    }

    /// Only webhooks that came before the event: a later one is newer than the event in any case.
    async fn first(&self, event: &Recorded, webhooks: Vec<EventId>) -> anyhow::Result<HashMap<EventId, u64>> {
        let Some((_, subject)) = located_at(self.connection, event.sequence).await? else {
            return Ok(HashMap::new());
        };
        // The webhooks of a provider are many, so only the event's own partition is read. Where `PARTITIONS` was changed between two
        // acceptances of a webhook, the times of acceptance decide.
        let partition = subject.rsplit('.').next().unwrap_or("*");
        let (root, provider) = (
            EventType::WebhookReceived.subject_root(),
            codec::token(&event.envelope.provider),
        );
        let subjects = format!("{root}.{provider}.{partition}");
        let start = Start::Time(event.envelope.received_at - self.window - LONGER);
        let mut reader = LogReader::of_subjects(self.connection, subjects, start);
        let mut first = HashMap::new();
        loop {
            let entries = reader.next_batch().await?;
            let is_over = entries.last().is_none_or(|last| last.sequence() >= event.sequence);
            for entry in entries {
                if let Entry::Event(accepted) = entry
                    && accepted.sequence < event.sequence
                    && webhooks.contains(&accepted.envelope.id)
                {
                    first.entry(accepted.envelope.id).or_insert(accepted.sequence);
                }
            }
            if is_over {
                return Ok(first);
            }
        }
    }

    fn window(&self) -> TimeDelta {
        self.window
    }

    fn searches(&self) -> Option<&Searches> {
        Some(&self.searches)
    }
}
