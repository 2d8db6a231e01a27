//! `delivery_error_logs`: one row an error event; resolved when the order reached the backend after all (see
//! [`super::rules`]).

use std::collections::{HashMap, hash_map::Entry};

use chrono::NaiveDateTime;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::{
    Projection,
    batch::Batch,
    decoded::{DecodedPayload, Event},
    providers::Providers,
    rules::{self, WebhookKnowledge},
    table::{RowRetention, Table, literal},
    timestamp,
};
use crate::{
    database::{Transaction, query},
    event::{EventId, EventType, outcome::ErrorReport, push},
};

/// Its table.
static TABLE: Table = Table {
    name: "delivery_error_logs",
    version: 1,
    key: &["id"],
    began: "occurred_at",
    provider: "provider_id",
    insert: query::INSERT_ERROR_LOGS,
    by_people: Some((
        resolved_by_a_person,
        &[
            "is_resolved",
            "resolved_at",
            "resolved_by",
            "resolution_notes",
            "updated_at",
        ],
    )),
    same_order: None,
    retention: Some(RowRetention {
        kept: |kept| kept.delivery_error_logs,
        changed: "updated_at",
        ended: Some("is_resolved"),
        delete: query::RETAIN_DELIVERY_ERROR_LOGS,
    }),
};

/// An error that a person resolved, or wrote a note about.
fn resolved_by_a_person() -> String {
    let notes: Vec<_> = NOTES.iter().map(|note| literal(note)).collect();
    format!(
        "coalesce(l.is_resolved AND l.resolved_by IS DISTINCT FROM 'webhook-hub' OR l.resolution_notes NOT IN ({}), false)",
        notes.join(", ")
    )
}

/// The projection.
pub(super) struct DeliveryErrorLogs;

impl Projection for DeliveryErrorLogs {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a Transaction<'_>,
        batch: &'a mut Batch<'_>,
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let mut errors = Errors::default();
            for (event, standing) in batch.with_standings() {
                errors.apply(event, standing, batch.providers);
            }
            errors.store(transaction).await
        })
    }
}

/// The columns, as arrays.
#[derive(Default)]
struct Rows<'a> {
    id: Vec<String>,
    provider_id: Vec<&'a str>,
    branch_id: Vec<Option<&'a str>>,
    webhook_log_id: Vec<Option<String>>,
    error_type: Vec<&'static str>,
    error_code: Vec<String>,
    error_message: Vec<String>,
    error_details: Vec<Option<String>>,
    context: Vec<String>,
    retry_count: Vec<i32>,
    next_retry_at: Vec<Option<NaiveDateTime>>,
    dead_at: Vec<Option<NaiveDateTime>>,
    occurred_at: Vec<NaiveDateTime>,
    resolved_at: Vec<Option<NaiveDateTime>>,
    resolution_notes: Vec<Option<&'static str>>,
    /// The row's id where another error has the event's.
    other_id: Vec<String>,
}

impl<'a> Rows<'a> {
    fn push(
        &mut self,
        event: &'a Event,
        provider_id: &'a str,
        standing: WebhookKnowledge,
        (error, attempts, next): Failure<'_>,
    ) {
        let envelope = &event.envelope;
        let at = timestamp(envelope.time);
        let mut context = json!({
            "provider": &*envelope.provider,
            "orderId": envelope.external_order_id,
            "webhookType": envelope.webhook_type,
            "requestId": envelope.request_id,
            "event": envelope.event_type.as_str(),
        });
        if push::is_of_backend(envelope) {
            // A request of the backend has no webhook by which its errors could be found.
            context["rootId"] = envelope.root_id.to_string().into();
        }
        self.id.push(envelope.id.to_string());
        let other = envelope.id.derive(&format!("of {}", envelope.time.timestamp_millis()));
        self.other_id.push(other.to_string());
        self.provider_id.push(provider_id);
        self.branch_id.push(envelope.branch.as_deref());
        self.webhook_log_id
            .push(standing.is_known.then(|| envelope.root_id.to_string()));
        self.error_type.push(error.error_type.as_str());
        self.error_code.push(error.code.clone());
        self.error_message.push(error.message.clone());
        self.error_details.push(
            Some(&error.details)
                .filter(|details| !Value::is_null(details))
                .map(ToString::to_string),
        );
        self.context.push(context.to_string());
        self.retry_count.push(i32::try_from(attempts).unwrap_or(i32::MAX));
        self.next_retry_at.push(next);
        let is_dead = matches!(
            envelope.event_type,
            EventType::OrderDeadLettered | EventType::OrderRejected
        );
        self.dead_at.push(is_dead.then_some(at));
        self.occurred_at.push(at);
        self.resolved_at.push(standing.is_settled.then_some(at));
        self.resolution_notes.push(standing.is_settled.then_some(SETTLED));
    }
}

/// The note of an error that came after the backend had the order.
const SETTLED: &str = "the backend has it by another attempt";
/// All that the hub writes as `resolution_notes`; any other note is a person's.
const NOTES: [&str; 4] = [
    SETTLED,
    rules::FORWARDED_LATER,
    rules::NOTHING_LEFT,
    rules::PUSHED_LATER,
];

/// An error, how many attempts it counts, and when the next one is due.
type Failure<'e> = (&'e ErrorReport, u32, Option<NaiveDateTime>);

/// The failure that an event reports, if any.
fn failure<'e>(event: &'e Event) -> Option<Failure<'e>> {
    match event.decoded() {
        DecodedPayload::Rejected(rejected) => Some((&rejected.error, 0, None)),
        DecodedPayload::DeadLettered(dead) => Some((&dead.error, dead.retries, None)),
        DecodedPayload::ForwardFailed(failed) => {
            Some((&failed.error, failed.retries, Some(timestamp(failed.next_attempt_at))))
        }
        // The last attempt is left out, because its dead letter contains the same error.
        DecodedPayload::PushFailed(failed) if !failed.given_up => {
            Some((&failed.error, failed.retries, failed.next_attempt_at.map(timestamp)))
        }
        _ => None,
    }
}

/// When the errors that earlier batches wrote were overcome, and how.
#[derive(Default)]
struct Overcome {
    first: HashMap<EventId, ()>,
    root_id: Vec<String>,
    at: Vec<NaiveDateTime>,
    notes: Vec<&'static str>,
}

impl Overcome {
    fn note(&mut self, root: EventId, at: NaiveDateTime, note: &'static str) {
        // The first resolution counts; later ones find no open error.
        if let Entry::Vacant(new) = self.first.entry(root) {
            new.insert(());
            self.root_id.push(root.to_string());
            self.at.push(at);
            self.notes.push(note);
        }
    }

    async fn store(&self, transaction: &Transaction<'_>, statement: &str) -> anyhow::Result<()> {
        if !self.root_id.is_empty() {
            transaction
                .execute(statement, &[&self.root_id, &self.at, &self.notes])
                .await?;
        }
        Ok(())
    }
}

/// The errors of a batch.
#[derive(Default)]
struct Errors<'a> {
    rows: Rows<'a>,
    /// Places among the rows of those that are open.
    open: HashMap<EventId, Vec<usize>>,
    webhooks: Overcome,
    requests: Overcome,
}

impl<'a> Errors<'a> {
    /// Applies an event, with what was known of its webhook before.
    fn apply(&mut self, event: &'a Event, standing: WebhookKnowledge, providers: &'a Providers) {
        let envelope = &event.envelope;
        let root = envelope.root_id;
        if let Some(note) = rules::overcomes(event) {
            let at = timestamp(envelope.time);
            for open in self.open.remove(&root).unwrap_or_default() {
                self.rows.resolved_at[open] = Some(at);
                self.rows.resolution_notes[open] = Some(note);
            }
            self.webhooks.note(root, at, note);
            if push::is_of_backend(envelope) {
                self.requests.note(root, at, note);
            }
        }
        let Some(failure) = failure(event) else { return };
        let Some(provider_id) = providers.id(&envelope.provider) else {
            tracing::error!(
                provider = &*envelope.provider,
                sequence = event.sequence,
                "delivery_providers has no row for it; error left out"
            );
            return;
        };
        // Only these errors can be found and resolved later.
        if !standing.is_settled && (standing.is_known || push::is_of_backend(envelope)) {
            self.open.entry(root).or_default().push(self.rows.id.len());
        }
        self.rows.push(event, provider_id, standing, failure);
    }

    /// Writes what the batch made of them.
    async fn store(self, transaction: &Transaction<'_>) -> anyhow::Result<()> {
        // Run before this batch's rows are inserted, because some of them are later errors.
        self.webhooks.store(transaction, query::RESOLVE_ERROR_LOGS).await?;
        self.requests.store(transaction, query::RESOLVE_PUSH_ERRORS).await?;
        let rows = self.rows;
        if rows.id.is_empty() {
            return Ok(());
        }
        let columns: [&(dyn tokio_postgres::types::ToSql + Sync); 16] = [
            &rows.id,
            &rows.provider_id,
            &rows.branch_id,
            &rows.webhook_log_id,
            &rows.error_type,
            &rows.error_code,
            &rows.error_message,
            &rows.error_details,
            &rows.context,
            &rows.retry_count,
            &rows.next_retry_at,
            &rows.dead_at,
            &rows.occurred_at,
            &rows.resolved_at,
            &rows.resolution_notes,
            &rows.other_id,
        ];
        transaction.execute(query::INSERT_ERROR_LOGS, &columns).await?;
        Ok(())
    }
}
