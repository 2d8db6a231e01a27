//! `webhook_logs`: one row a webhook, its status by the last event (see [`super::rules`]).
//!
//! The events of a batch that concern one webhook are folded into one row before anything is written, so a batch writes
//! each row once.

mod rows;

use std::collections::HashMap;

use chrono::{DateTime, NaiveDateTime, Utc};
use futures_util::future::BoxFuture;
use serde_json::json;

use self::rows::{Fates, Requests};
use super::{
    Projection,
    batch::Batch,
    copy::Adding,
    decoded::{DecodedPayload, Event},
    providers::Providers,
    rules::{self, EventOrder, WebhookKnowledge},
    table::{RowRetention, Table},
    timestamp,
};
use crate::{
    database::{Transaction, query},
    event::{EventId, EventType},
};

/// Its table.
pub(super) static TABLE: Table = Table {
    name: "webhook_logs",
    version: 1,
    key: &["id"],
    began: "received_at",
    provider: "provider_id",
    insert: query::INSERT_WEBHOOK_LOGS,
    by_people: None,
    same_order: None,
    retention: Some(RowRetention {
        kept: |kept| kept.webhook_logs,
        changed: "updated_at",
        ended: Some("status IN ('completed', 'ignored', 'failed')"),
        delete: query::RETAIN_WEBHOOK_LOGS,
    }),
};

/// The projection.
pub(super) struct WebhookLogs;

impl Projection for WebhookLogs {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    /// Also records in the batch what was known of each event's webhook before it.
    fn apply<'a>(
        &'a self,
        transaction: &'a Transaction<'_>,
        batch: &'a mut Batch<'_>,
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let mut webhooks = Webhooks::load(transaction, batch).await?;
            let standings = batch
                .events()
                .iter()
                .map(|event| webhooks.apply(event, batch.providers))
                .collect();
            webhooks.store(transaction, batch.adding).await?;
            batch.standings = standings;
            Ok(())
        })
    }
}

/// The status of what the backend has.
const COMPLETED: &str = "completed";

/// The changes of one batch to a webhook's row. None leaves a column as it is.
#[derive(Debug, Default, Clone)]
struct WebhookChange {
    status: Option<&'static str>,
    branch_id: Option<String>,
    company_id: Option<String>,
    internal_order_id: Option<String>,
    processed_at: Option<NaiveDateTime>,
    retry_count: Option<i32>,
    next_retry_at: Option<NaiveDateTime>,
    response: Option<String>,
    error_message: Option<String>,
    updated_at: NaiveDateTime,
}

impl WebhookChange {
    fn note(&mut self, event: &Event) {
        let envelope = &event.envelope;
        self.updated_at = timestamp(envelope.time);
        if let Some(branch) = &envelope.branch {
            self.branch_id = Some(branch.clone());
        }
        (self.next_retry_at, self.error_message) = (None, None);
        match envelope.event_type {
            EventType::WebhookReceived => self.status = Some("received"),
            EventType::OrderTransformed | EventType::OrderFetchRequested | EventType::OrderFetched => {
                self.status = Some("processing");
            }
            EventType::OrderForwardFailed | EventType::OrderFetchFailed => self.retry(event),
            // The webhook was only about a menu's result, so it is complete.
            EventType::MenuSyncReported => self.end(COMPLETED),
            EventType::OrderForwarded => self.end(COMPLETED),
            EventType::OrderIgnored => self.end("ignored"),
            // A retry was requested.
            EventType::OrderRetryRequested => self.status = Some("retrying"),
            EventType::OrderRejected | EventType::OrderDeadLettered => self.end("failed"),
            // These belong to no webhook.
            EventType::OrderStatusRequested
            | EventType::OrderStatusPushFailed
            | EventType::OrderStatusPushed
            | EventType::MenuSyncRequested
            | EventType::MenuSyncAccepted
            | EventType::MenuSyncFailed
            | EventType::MenuSynced
            | EventType::ItemsRequested
            | EventType::ItemsProgressed
            | EventType::ItemsPushFailed
            | EventType::ItemsPushed
            | EventType::StoreRequested
            | EventType::StorePushFailed
            | EventType::StorePushed
            | EventType::OperatorActed
            | EventType::JobStarted
            | EventType::JobProgressed
            | EventType::JobStopped
            | EventType::JobResumed
            | EventType::JobEnded => {}
        }
        self.note_facts(event.decoded());
    }

    /// What the payload of an event says.
    fn note_facts(&mut self, decoded: &DecodedPayload) {
        match decoded {
            DecodedPayload::Transformed(facts) => {
                if let Some(company_id) = &facts.company_id {
                    self.company_id = Some(company_id.clone());
                }
            }
            DecodedPayload::Forwarded(forwarded) => {
                let (order_id, status) = (&forwarded.internal_order_id, &forwarded.order_status);
                self.response = Some(json!({ "success": true, "orderId": order_id, "status": status }).to_string());
                self.take_order_id(order_id.as_ref());
            }
            DecodedPayload::Ignored(ignored) => {
                self.response = Some(json!({ "ignored": ignored.reason, "message": ignored.message }).to_string());
                self.take_order_id(ignored.internal_order_id.as_ref());
            }
            DecodedPayload::Rejected(rejected) => self.error_message = Some(rejected.error.message.clone()),
            DecodedPayload::DeadLettered(dead) => {
                self.retry_count = i32::try_from(dead.retries).ok();
                self.error_message = Some(dead.error.message.clone());
            }
            _ => {}
        }
    }

    fn take_order_id(&mut self, order_id: Option<&String>) {
        if let Some(order_id) = order_id {
            self.internal_order_id = Some(order_id.clone());
        }
    }

    /// It is tried again: how often it was, when next, and why, where the event says so.
    fn retry(&mut self, event: &Event) {
        self.status = Some("retrying");
        let (retries, next_attempt_at, error): (u32, Option<DateTime<Utc>>, _) = match event.decoded() {
            DecodedPayload::ForwardFailed(failed) => (failed.retries, Some(failed.next_attempt_at), &failed.error),
            DecodedPayload::PushFailed(failed) => (failed.retries, failed.next_attempt_at, &failed.error),
            _ => return,
        };
        self.retry_count = i32::try_from(retries).ok();
        self.next_retry_at = next_attempt_at.map(timestamp);
        self.error_message = Some(error.message.clone());
    }

    fn end(&mut self, status: &'static str) {
        self.status = Some(status);
        self.processed_at = Some(self.updated_at);
    }
}

/// A webhook of a batch.
#[derive(Default)]
struct Webhook<'a> {
    standing: WebhookKnowledge,
    /// When its row was last changed by an earlier batch.
    changed_at: Option<NaiveDateTime>,
    /// Its request and the provider's id, where the row is new.
    request: Option<(&'a Event, &'a str)>,
    /// The change by this batch, if any.
    fate: Option<WebhookChange>,
}

/// The webhooks of a batch.
struct Webhooks<'a> {
    order: EventOrder,
    by_id: HashMap<EventId, Webhook<'a>>,
    /// In the order in which the batch comes to them.
    touched: Vec<EventId>,
}

impl<'a> Webhooks<'a> {
    /// Reads the rows of these events' webhooks.
    async fn load(transaction: &Transaction<'_>, batch: &Batch<'a>) -> anyhow::Result<Webhooks<'a>> {
        let mut by_id: HashMap<EventId, Webhook<'a>> = HashMap::new();
        let mut ids = Vec::new();
        for event in batch
            .events()
            .iter()
            .filter(|event| !event.envelope.event_type.is_for_provider())
        {
            let id = event.envelope.root_id;
            if by_id.insert(id, Webhook::default()).is_none() {
                let id = id.to_string();
                if batch.may_be_there("webhook", (&id, "")) {
                    ids.push(id);
                }
            }
        }
        if !ids.is_empty() {
            for row in transaction.query(query::KNOWN_WEBHOOK_LOGS, &[&ids]).await? {
                let known = Webhook {
                    standing: WebhookKnowledge {
                        is_known: true,
                        is_settled: row.try_get(1)?,
                    },
                    changed_at: Some(row.try_get(2)?),
                    ..Webhook::default()
                };
                by_id.insert(row.try_get::<_, String>(0)?.parse()?, known);
            }
        }
        Ok(Self {
            order: batch.order,
            by_id,
            touched: Vec::new(),
        })
    }

    /// Applies an event; what was known of its webhook before.
    fn apply(&mut self, event: &'a Event, providers: &'a Providers) -> WebhookKnowledge {
        let envelope = &event.envelope;
        let Some(webhook) = self.by_id.get_mut(&envelope.root_id) else {
            return WebhookKnowledge::default();
        };
        let before = webhook.standing;
        if envelope.event_type == EventType::WebhookReceived {
            if before.is_known {
                return before;
            }
            let Some(provider_id) = providers.id(&envelope.provider) else {
                tracing::error!(
                    provider = &*envelope.provider,
                    sequence = event.sequence,
                    "delivery_providers has no row for it; webhook left out"
                );
                return before;
            };
            webhook.request = Some((event, provider_id));
            webhook.standing.is_known = true;
        } else if !before.is_known
            || before.is_settled
            || envelope.event_type.is_for_provider()
            || rules::is_repeat(event)
        {
            return before;
        }
        let changed_at = webhook.changed_at.unwrap_or_default();
        if !self.order.may_change(changed_at, timestamp(envelope.time)) {
            return before;
        }
        let fate = webhook.fate.get_or_insert_with(|| {
            self.touched.push(envelope.root_id);
            WebhookChange::default()
        });
        fate.note(event);
        webhook.standing.is_settled = fate.status == Some(COMPLETED);
        before
    }

    /// Writes what the batch made of them.
    async fn store(mut self, transaction: &Transaction<'_>, adding: Adding) -> anyhow::Result<()> {
        let (mut new, mut new_fates) = (Requests::default(), Fates::default());
        let (mut changed, mut changed_fates) = (Vec::new(), Fates::default());
        for id in self.touched {
            let Some(webhook) = self.by_id.remove(&id) else {
                continue;
            };
            let Some(fate) = webhook.fate else { continue };
            match webhook.request {
                Some((request, provider_id)) => {
                    new.push(request, provider_id);
                    new_fates.push(fate);
                }
                None => {
                    changed.push(id.to_string());
                    changed_fates.push(fate);
                }
            }
        }
        rows::add(transaction, new, new_fates, adding).await?;
        rows::update(transaction, changed, changed_fates).await
    }
}
