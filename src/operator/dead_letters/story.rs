//! The history of one webhook, event by event.

use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    dead_letters::{
        filter::Filter,
        find::{Log, next},
        letter::Letter,
    },
    event::{
        EventId, EventType, Recorded,
        branch::{ItemsProgressed, ItemsPushed, StorePushed, StoreRequested},
        outcome::{DeadLettered, ForwardFailed, Forwarded, Ignored, Rejected, RetryRequested},
        push::{PushFailed, StatusPushed, StatusRequested, SyncAccepted, SyncReported},
    },
    journal::codec,
};

/// Events that one request returns: those of one partition, few of them the webhook's.
const BATCH: usize = 200;

/// An event of the history.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HistoryStep {
    pub(super) sequence: u64,
    pub(super) time: DateTime<Utc>,
    #[serde(rename = "type")]
    pub(super) event_type: &'static str,
    pub(super) id: EventId,
    /// Its content in short.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) note: String,
}

impl HistoryStep {
    fn new(event: &Recorded) -> Self {
        Self {
            sequence: event.sequence,
            time: event.envelope.time,
            event_type: event.envelope.event_type.as_str(),
            id: event.envelope.id,
            note: note(event).unwrap_or_default(),
        }
    }
}

/// The content of an event in short, without personal data.
fn note(event: &Recorded) -> Option<String> {
    fn read<T: DeserializeOwned>(event: &Recorded) -> Option<T> {
        serde_json::from_slice(&event.payload).ok()
    }
    Some(match event.envelope.event_type {
        EventType::WebhookReceived
        | EventType::OrderTransformed
        | EventType::OrderFetchRequested
        | EventType::OrderFetched
        | EventType::MenuSyncRequested
        | EventType::ItemsRequested => return None,
        EventType::OrderFetchFailed
        | EventType::OrderStatusPushFailed
        | EventType::MenuSyncFailed
        | EventType::ItemsPushFailed
        | EventType::StorePushFailed => {
            let failed: PushFailed = read(event)?;
            format!("attempt {}: {}", failed.attempt, failed.error.code)
        }
        EventType::OrderStatusRequested => read::<StatusRequested>(event)?.status.as_str().to_owned(),
        EventType::OrderStatusPushed => answered(read::<StatusPushed>(event)?.provider_status),
        EventType::MenuSyncAccepted => format!("provider answered {}", read::<SyncAccepted>(event)?.provider_status),
        EventType::MenuSyncReported => {
            let is_taken = read::<SyncReported>(event)?.ok;
            format!("provider {} the menu", if is_taken { "has" } else { "refused" })
        }
        EventType::MenuSynced
        | EventType::OperatorActed
        | EventType::JobStarted
        | EventType::JobProgressed
        | EventType::JobStopped
        | EventType::JobResumed
        | EventType::JobEnded => return None,
        EventType::ItemsProgressed => {
            let so_far: ItemsProgressed = read(event)?;
            format!("provider took {}, refused {}", so_far.taken.len(), so_far.refused.len())
        }
        EventType::ItemsPushed => {
            let pushed: ItemsPushed = read(event)?;
            format!("provider took {}, refused {}", pushed.taken, pushed.refused.len())
        }
        EventType::StoreRequested => read::<StoreRequested>(event)?.state.as_str().to_owned(),
        EventType::StorePushed => answered(read::<StorePushed>(event)?.provider_status),
        EventType::OrderIgnored => read::<Ignored>(event)?.reason,
        EventType::OrderRejected => read::<Rejected>(event)?.error.code,
        EventType::OrderForwardFailed => {
            let failed: ForwardFailed = read(event)?;
            format!("attempt {}: {}", failed.attempt, failed.error.code)
        }
        EventType::OrderForwarded => {
            let forwarded: Forwarded = read(event)?;
            let order = forwarded.internal_order_id.unwrap_or_default();
            format!("backend answered {} {order}", forwarded.backend_status)
                .trim_end()
                .to_owned()
        }
        EventType::OrderDeadLettered => read::<DeadLettered>(event)?.error.code,
        EventType::OrderRetryRequested => {
            let asked: RetryRequested = read(event)?;
            match asked.reason {
                Some(reason) => format!("by {}: {reason}", asked.by),
                None => format!("by {}", asked.by),
            }
        }
    })
}

/// What a provider answered to a request, if there was one.
fn answered(status: Option<u16>) -> String {
    status.map_or_else(
        || "nothing to send".into(),
        |status| format!("provider answered {status}"),
    )
}

/// All events of a dead letter's webhook that are still on the log, in its order.
///
/// Only the order's partition is read, from the time at which the webhook was accepted until it ended; for an open webhook,
/// until now. Events after a change of `PARTITIONS` are in another partition and are not found.
pub(super) async fn read(log: &Log, letter: &Letter) -> anyhow::Result<Vec<HistoryStep>> {
    let envelope = &letter.event.envelope;
    let provider = codec::token(&envelope.provider);
    let partition = letter.partition();
    let reader = |subjects: String| log.since(subjects, envelope.received_at).at_most(BATCH);
    let is_first = |event: &Recorded| event.envelope.id == envelope.root_id && event.sequence < letter.event.sequence;
    let mut steps = Vec::new();
    let mut webhooks = reader(format!("webhooks.received.{provider}.{partition}"));
    'webhook: while let Some(events) = next(&mut webhooks).await? {
        for event in &events {
            if is_first(event) {
                steps.push(HistoryStep::new(event));
            }
            if is_first(event) || event.sequence > letter.event.sequence {
                break 'webhook;
            }
        }
    }
    // Events of orders and of menus.
    let mut orders = reader(format!("*.*.{provider}.*.{partition}"));
    let since_accepted = Filter {
        provider: Some(envelope.provider.to_string()),
        since: Some(envelope.received_at),
        ..Filter::default()
    };
    let retried = log.retried(&since_accepted).await?;
    while let Some(events) = next(&mut orders).await? {
        for event in events.iter().filter(|event| event.envelope.root_id == envelope.root_id) {
            steps.push(HistoryStep::new(event));
            if event.envelope.event_type.ends() && !retried.contains(event.envelope.id) {
                return Ok(steps);
            }
        }
    }
    Ok(steps)
}
