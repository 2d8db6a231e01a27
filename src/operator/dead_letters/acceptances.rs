//! Reads from the log when the webhooks of an order were accepted, for a dry run, which has no memory of orders.

use std::collections::HashMap;

use chrono::TimeDelta;

use crate::{
    delivery::superseded::{self, KnownAcceptances},
    event::{EventId, EventType, Recorded},
    journal::{
        codec,
        connection::Connection,
        read::{Entry, LogReader, Start},
    },
};

/// How much longer than `ORDER_MEMORY` a hub recognises a webhook.
const LONGER: TimeDelta = TimeDelta::hours(24);

/// The acceptances on the log.
pub(in crate::operator) struct LogAcceptances<'a> {
    pub(in crate::operator) connection: &'a Connection,
    /// Subject token of the order's partition.
    pub(in crate::operator) partition: &'a str,
    /// `ORDER_MEMORY`.
    pub(in crate::operator) window: TimeDelta,
}

impl KnownAcceptances for LogAcceptances<'_> {
    async fn begin(&self, event: &Recorded) -> anyhow::Result<Start> {
        Ok(superseded::since(event))
    }

    /// Only webhooks that came before the event: a later one is newer than the event in any case.
    async fn first(&self, event: &Recorded, webhooks: Vec<EventId>) -> anyhow::Result<HashMap<EventId, u64>> {
        let (root, provider) = (
            EventType::WebhookReceived.subject_root(),
            codec::token(&event.envelope.provider),
        );
        let subjects = format!("{root}.{provider}.{}", self.partition);
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
}
