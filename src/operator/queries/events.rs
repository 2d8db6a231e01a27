//! Reads events of the log, past ones and new ones as they come, as CloudEvents without personal data.

use std::collections::VecDeque;

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;

use super::mask::{self, Masking};
use crate::{
    event::{EventType, Recorded},
    journal::{
        codec,
        connection::Connection,
        read::{self, Entry, Located, LogReader, Start},
    },
    operator::CLOCK_SKEW,
};

/// Without a beginning, the last events are searched for among this many of the newest ones.
pub const NEWEST: u64 = 10_000;

/// Filters of events. All that are set must match.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Of one of these types; of any type if empty.
    pub types: Vec<EventType>,
    /// Of this provider (`careem`).
    pub provider: Option<String>,
    /// Of this branch; a webhook that was just received has none, unless its secret is the branch's own.
    pub branch: Option<String>,
    /// Of the order with this id of its provider.
    pub order: Option<String>,
    /// Of this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Of this time or earlier.
    pub until: Option<DateTime<Utc>>,
    /// From this sequence on.
    pub from: Option<u64>,
    /// Up to this sequence.
    pub to: Option<u64>,
}

impl Selection {
    /// Whether it names a beginning.
    pub const fn has_beginning(&self) -> bool {
        self.since.is_some() || self.from.is_some()
    }

    fn includes(&self, event: &Recorded) -> bool {
        let envelope = &event.envelope;
        let own = envelope.principal.branch().map(|branch| &**branch);
        let branch = envelope.branch.as_deref().or(own);
        (self.types.is_empty() || self.types.contains(&envelope.event_type))
            && self
                .provider
                .as_deref()
                .is_none_or(|provider| *envelope.provider == *provider)
            && self.branch.as_deref().is_none_or(|wanted| branch == Some(wanted))
            && self
                .order
                .as_ref()
                .is_none_or(|order| envelope.external_order_id == *order)
            && self.since.is_none_or(|since| envelope.time >= since)
            && self.until.is_none_or(|until| envelope.time <= until)
            && self.from.is_none_or(|from| event.sequence >= from)
    }

    /// The subjects to request from the server; all of the log's if the filters do not select any.
    fn subjects(&self) -> String {
        let provider = self.provider.as_deref().map_or_else(|| "*".into(), codec::token);
        match self.types.as_slice() {
            [one] => format!("{}.{provider}.>", one.subject_root()),
            _ => format!("*.*.{provider}.>"),
        }
    }

    /// Whether the selection ends before this event.
    fn is_over(&self, located: &Located) -> bool {
        let is_late = match (&located.entry, self.until) {
            (Entry::Event(event), Some(until)) => event.envelope.time > until + CLOCK_SKEW,
            _ => false,
        };
        is_late || self.to.is_some_and(|to| located.entry.sequence() > to)
    }
}

/// Reads the selected events, page by page.
pub struct Events {
    reader: LogReader,
    selection: Selection,
    is_over: bool,
}

impl Events {
    /// Begins where the selection begins, or with the [`NEWEST`] events if it names no beginning.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn open(connection: &Connection, selection: Selection) -> anyhow::Result<Self> {
        let start = match (selection.from, selection.since) {
            (Some(from), _) => Start::Sequence(from.max(1)),
            (None, Some(since)) => Start::Time(since - CLOCK_SKEW),
            (None, None) => {
                let end = read::end(connection).await?.sequence;
                Start::Sequence(end.saturating_sub(NEWEST) + 1)
            }
        };
        Ok(Self {
            reader: LogReader::of_subjects(connection, selection.subjects(), start),
            selection,
            is_over: false,
        })
    }

    /// The next page, which may be empty; none at the end of the log or of the selection. After the end of the log a later call
    /// continues with new events.
    ///
    /// # Errors
    /// If NATS does not answer. The call may be repeated.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<Recorded>>> {
        if self.is_over {
            return Ok(None);
        }
        let located = self.reader.next_located().await?;
        if located.is_empty() {
            return Ok(None);
        }
        let mut page = Vec::new();
        for one in located {
            if self.selection.is_over(&one) {
                self.is_over = true;
                break;
            }
            if let Entry::Event(event) = one.entry
                && self.selection.includes(&event)
            {
                page.push(*event);
            }
        }
        Ok(Some(page))
    }

    /// Whether the selection has ended: nothing more will come.
    pub const fn has_ended(&self) -> bool {
        self.is_over
    }

    /// The last `count` events of the selection.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn last(&mut self, count: usize) -> anyhow::Result<Vec<Recorded>> {
        let mut last = VecDeque::new();
        while let Some(page) = self.next().await? {
            for event in page {
                last.push_back(event);
                if last.len() > count {
                    last.pop_front();
                }
            }
        }
        Ok(last.into())
    }
}

/// The event with a sequence.
///
/// # Errors
/// If NATS does not answer, or there is no event that this version can read.
pub async fn at(connection: &Connection, sequence: u64) -> anyhow::Result<Recorded> {
    let found = read::decoded_at(connection, sequence).await?;
    let decoded = found.with_context(|| format!("there is no event {sequence} on the log, or it has left it"))?;
    decoded.with_context(|| format!("message {sequence} of the log is not an event that this version can read"))
}

/// An event in CloudEvents' JSON format, with the rest of the envelope as extension attributes. Personal data in `data` is masked
/// unless it is revealed.
#[derive(Debug, Clone, Serialize)]
pub struct CloudEvent {
    specversion: &'static str,
    id: String,
    source: String,
    #[serde(rename = "type")]
    event_type: &'static str,
    /// The provider's id of the order.
    subject: String,
    time: String,
    datacontenttype: &'static str,
    /// Sequence on the log; a string, as the CloudEvents extension of that name requires.
    sequence: String,
    rootid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    causeid: Option<String>,
    webhooktype: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    branch: Option<String>,
    requestid: String,
    receivedtime: String,
    /// The `Idempotency-Key` of a new order, if it is not the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotencykey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    data: Value,
}

impl CloudEvent {
    /// Of an event.
    pub fn of(event: &Recorded, masking: Masking) -> Self {
        let envelope = &event.envelope;
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Millis, true);
        Self {
            specversion: "1.0",
            id: envelope.id.to_string(),
            source: format!("/providers/{}", envelope.provider),
            event_type: envelope.event_type.as_str(),
            subject: envelope.external_order_id.clone(),
            time: time(envelope.time),
            datacontenttype: "application/json",
            sequence: event.sequence.to_string(),
            rootid: envelope.root_id.to_string(),
            causeid: envelope.cause_id.map(|id| id.to_string()),
            webhooktype: envelope.webhook_type.clone(),
            branch: envelope.branch.clone(),
            requestid: envelope.request_id.clone(),
            receivedtime: time(envelope.received_at),
            idempotencykey: envelope.idempotency_key.map(|key| key.to_string()),
            traceparent: envelope.traceparent.clone(),
            data: data(event, masking),
        }
    }
}

/// The payload. The hub's own outcomes hold no personal data; every other payload is masked.
fn data(event: &Recorded, masking: Masking) -> Value {
    let is_plain = matches!(
        event.envelope.event_type,
        EventType::OrderIgnored
            | EventType::OrderRejected
            | EventType::OrderForwardFailed
            | EventType::OrderDeadLettered
            | EventType::OrderRetryRequested
            | EventType::OrderFetchFailed
            | EventType::OrderStatusPushFailed
            | EventType::OrderStatusPushed
            | EventType::MenuSyncFailed
            | EventType::MenuSynced
            | EventType::ItemsRequested
            | EventType::ItemsProgressed
            | EventType::ItemsPushFailed
            | EventType::ItemsPushed
            | EventType::StorePushFailed
            | EventType::StorePushed
            | EventType::OperatorActed
            | EventType::JobStarted
            | EventType::JobProgressed
            | EventType::JobStopped
            | EventType::JobResumed
            | EventType::JobEnded
    );
    match serde_json::from_slice(&event.payload) {
        Ok(value) if is_plain => value,
        _ => mask::body(&event.payload, masking),
    }
}
