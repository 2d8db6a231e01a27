//! Whether a newer event has superseded an event that is retried.
//!
//! An event that was given up may be retried hours later. By then the provider may have a later menu, or a later status of
//! the order: the old one would overwrite the newer one. So before a retry is handled, the log is searched for what came
//! after its event:
//!
//! | event | superseded by |
//! |---|---|
//! | `menu.sync_requested` | a later `menu.sync_requested` of the same branch, whatever its outcome: it is what the backend wants |
//! | `order.status_requested` | a later status of the same order that was pushed to the provider |
//! | `order.transformed` with news of an order | later news of the same order that the backend has, also where an announcement was news |
//!
//! A new order is never superseded, and neither is news without a status (about the courier).

use std::fmt;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::de::DeserializeOwned;

use crate::{
    event::{EventId, EventType, Recorded, outcome::Forwarded, push::StatusPushed},
    journal::{
        codec::{self, partition_token},
        connection::Connection,
        read::{Entry, LogReader, Start},
    },
    order::body,
};

/// How long after its webhook news of an order are made where a person had the webhook taken up again; a provider's order is
/// fetched in less.
const LATE: TimeDelta = TimeDelta::minutes(1);

/// What took an event's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewerEvent {
    what: &'static str,
    /// The event on the log that says so.
    pub id: EventId,
    time: DateTime<Utc>,
}

impl NewerEvent {
    fn new(what: &'static str, event: &Recorded) -> Self {
        Self {
            what,
            id: event.envelope.id,
            time: event.envelope.time,
        }
    }
}

impl fmt::Display for NewerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.to_rfc3339_opts(SecondsFormat::Secs, true);
        write!(f, "{} of {time}, event {}", self.what, self.id)
    }
}

/// Whether it is worth asking [`by`]: the event is taken up again, or follows late from one that was. Without I/O.
pub fn may_be(event: &Recorded) -> bool {
    let envelope = &event.envelope;
    let is_taken_up = event.run.is_some();
    match envelope.event_type {
        EventType::MenuSyncRequested | EventType::OrderStatusRequested => is_taken_up,
        EventType::OrderTransformed if !envelope.is_creation() => {
            let is_late = envelope.time - envelope.received_at > LATE;
            is_taken_up || (is_late && envelope.cause_id != Some(envelope.root_id))
        }
        _ => false,
    }
}

/// What took its place; none where it still holds.
///
/// # Errors
/// Where NATS does not answer.
pub async fn by(connection: &Connection, event: &Recorded, partitions: u16) -> anyhow::Result<Option<NewerEvent>> {
    let envelope = &event.envelope;
    let partition = partition_token(codec::partition(
        &envelope.provider,
        &envelope.external_order_id,
        partitions,
    ));
    in_partition(connection, event, &partition).await
}

/// The same, with the subject token of the partition in which the order's events are.
///
/// # Errors
/// As [`by`].
pub async fn in_partition(
    connection: &Connection,
    event: &Recorded,
    partition: &str,
) -> anyhow::Result<Option<NewerEvent>> {
    match event.envelope.event_type {
        EventType::MenuSyncRequested => {
            let is_newer = |_: &Recorded| true;
            find(
                connection,
                event,
                partition,
                EventType::MenuSyncRequested,
                is_newer,
                "a later menu",
            )
            .await
        }
        EventType::OrderStatusRequested => {
            let is_newer = |later: &Recorded| {
                payload::<StatusPushed>(later)
                    .is_some_and(|told| !told.skipped && told.requested_at > event.envelope.time)
            };
            find(
                connection,
                event,
                partition,
                EventType::OrderStatusPushed,
                is_newer,
                "a later status",
            )
            .await
        }
        EventType::OrderTransformed if !event.envelope.is_creation() => {
            if !body::summary(&event.payload).is_ok_and(|summary| !summary.provider_status.is_empty()) {
                return Ok(None);
            }
            let is_newer = |later: &Recorded| {
                later.envelope.received_at > event.envelope.received_at
                    && payload::<Forwarded>(later).is_some_and(|has| {
                        let is_news = has.as_news || !later.envelope.is_creation();
                        is_news && !has.order.provider_status.is_empty()
                    })
            };
            find(
                connection,
                event,
                partition,
                EventType::OrderForwarded,
                is_newer,
                "later news",
            )
            .await
        }
        _ => Ok(None),
    }
}

/// The last event of this type about the same order or menu behind this one that is newer by this rule.
async fn find(
    connection: &Connection,
    event: &Recorded,
    partition: &str,
    event_type: EventType,
    is_newer: impl Fn(&Recorded) -> bool,
    what: &'static str,
) -> anyhow::Result<Option<NewerEvent>> {
    let envelope = &event.envelope;
    let (root, provider) = (event_type.subject_root(), codec::token(&envelope.provider));
    // Of any branch: one that was not known when the one was published may be known now.
    let subjects = format!("{root}.{provider}.*.{partition}");
    let mut reader = LogReader::of_subjects(connection, subjects, Start::Sequence(event.sequence + 1));
    let mut newest = None;
    loop {
        let entries = reader.next_batch().await?;
        if entries.is_empty() {
            return Ok(newest);
        }
        for entry in entries {
            let Entry::Event(later) = entry else { continue };
            let branches = later.envelope.branch.as_ref().zip(envelope.branch.as_ref());
            let is_same = later.envelope.provider == envelope.provider
                && later.envelope.external_order_id == envelope.external_order_id
                && branches.is_none_or(|(one, other)| one == other);
            if is_same && is_newer(&later) {
                newest = Some(NewerEvent::new(what, &later));
            }
        }
    }
}

fn payload<T: DeserializeOwned>(event: &Recorded) -> Option<T> {
    serde_json::from_slice(&event.payload).ok()
}
