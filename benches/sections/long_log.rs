//! A log of any length, of copies of the orders that it has.

use std::{collections::HashSet, sync::Arc};

use anyhow::{Result, ensure};
use webhook_hub::{
    config::EventLog,
    event::{BodyHash, Envelope, EventType, NewEvent, Recorded},
    journal::{
        Journal,
        append::MAX_WAITING,
        read::{Entry, LogReader},
        streams,
    },
};

use super::Bench;

/// Events that are copied.
const COPIED: usize = 3000;

impl Bench {
    /// Appends copies of the log's first orders until it has so many events; returns its last position.
    pub(super) async fn lengthen_log(&self, events: u64) -> Result<u64> {
        let connection = Arc::new(self.servers.hub_connection().await?);
        let mut last = streams::last_sequence(&connection).await?;
        let mut reader = LogReader::from(&connection, 1);
        let mut read = Vec::new();
        while read.len() < COPIED {
            let entries = reader.next_batch().await?;
            ensure!(!entries.is_empty(), "the log has only {} events to copy", read.len());
            read.extend(entries.into_iter().filter_map(|entry| match entry {
                Entry::Event(event) => Some(*event),
                Entry::Unreadable { .. } => None,
            }));
        }
        // Whole orders only: `verify` asks for the outcome of each webhook.
        let of = |event_type| {
            let found = read.iter().filter(move |event| event.envelope.event_type == event_type);
            found.map(|event| event.envelope.root_id).collect::<HashSet<_>>()
        };
        let (webhooks, forwarded) = (of(EventType::WebhookReceived), of(EventType::OrderForwarded));
        read.retain(|event| webhooks.contains(&event.envelope.root_id) && forwarded.contains(&event.envelope.root_id));
        let (journal, writer) = Journal::open(connection, EventLog::default());
        let writing = tokio::spawn(writer.run());
        for copy in 1u64.. {
            if last >= events {
                break;
            }
            for part in read.chunks(MAX_WAITING / 2) {
                let appends = part.iter().map(|event| journal.append(copy_of(event, copy)));
                for appended in futures_util::future::join_all(appends).await {
                    last = last.max(appended?.sequence);
                }
            }
        }
        drop(journal);
        writing.await??;
        Ok(last)
    }
}

/// The same event about an order with another number.
fn copy_of(event: &Recorded, copy: u64) -> NewEvent {
    let envelope = &event.envelope;
    // Each run of the bench makes other copies.
    let label = format!("{copy}/{}", std::process::id());
    let number = format!("{}-{copy}-{}", envelope.external_order_id, std::process::id());
    let payload = String::from_utf8_lossy(&event.payload).replace(&envelope.external_order_id, &number);
    let mut request = envelope.request.clone();
    // `verify` compares a webhook with it.
    if let Some(hash) = request.as_mut().and_then(|request| request.body_sha256.as_mut()) {
        *hash = BodyHash::of(payload.as_bytes());
    }
    NewEvent {
        envelope: Envelope {
            id: envelope.id.derive(&label),
            root_id: envelope.root_id.derive(&label),
            cause_id: envelope.cause_id.map(|cause| cause.derive(&label)),
            // The event of that place is another order's.
            cause_sequence: None,
            external_order_id: number,
            request,
            ..envelope.clone()
        },
        payload: payload.into(),
    }
}
