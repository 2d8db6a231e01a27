//! `delivery_error_logs`: one row an error event; resolved where the order reached the backend after all.

use chrono::NaiveDateTime;
use deadpool_postgres::Transaction;
use serde_json::{Value, json};

use super::{payload, providers::Providers, timestamp};
use crate::{
    database::query,
    event::{
        EventType, Recorded,
        outcome::{DeadLettered, ErrorReport, ForwardFailed, Rejected},
        push::{self, PushFailed},
    },
};

/// The columns, as arrays.
#[derive(Default)]
struct Rows<'a> {
    id: Vec<String>,
    provider_id: Vec<&'a str>,
    branch_id: Vec<Option<&'a str>>,
    root_id: Vec<String>,
    error_type: Vec<&'static str>,
    error_code: Vec<String>,
    error_message: Vec<String>,
    error_details: Vec<Option<String>>,
    context: Vec<String>,
    retry_count: Vec<i32>,
    next_retry_at: Vec<Option<NaiveDateTime>>,
    dead_at: Vec<Option<NaiveDateTime>>,
    occurred_at: Vec<NaiveDateTime>,
}

impl<'a> Rows<'a> {
    fn push(
        &mut self,
        event: &'a Recorded,
        provider_id: &'a str,
        error: ErrorReport,
        attempts: u32,
        next: Option<NaiveDateTime>,
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
            // There is no webhook by which it could be found.
            context["rootId"] = envelope.root_id.to_string().into();
        }
        self.id.push(envelope.id.to_string());
        self.provider_id.push(provider_id);
        self.branch_id.push(envelope.branch.as_deref());
        self.root_id.push(envelope.root_id.to_string());
        self.error_type.push(error.error_type.as_str());
        self.error_code.push(error.code);
        self.error_message.push(error.message);
        self.error_details.push(
            Some(error.details)
                .filter(|details| !Value::is_null(details))
                .map(|details| details.to_string()),
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
    }
}

/// Applies events in the log's order.
pub(super) async fn apply(
    transaction: &Transaction<'_>,
    events: &[Recorded],
    providers: &Providers,
) -> anyhow::Result<()> {
    let mut rows = Rows::default();
    let (mut resolved, mut resolved_at) = (Vec::new(), Vec::new());
    let (mut pushed, mut pushed_at) = (Vec::new(), Vec::new());
    for event in events {
        let found = match event.envelope.event_type {
            EventType::OrderRejected => payload::<Rejected>(event).map(|rejected| (rejected.error, 0, None)),
            EventType::OrderDeadLettered => payload::<DeadLettered>(event).map(|dead| (dead.error, dead.retries, None)),
            EventType::OrderForwardFailed => payload::<ForwardFailed>(event)
                .map(|failed| (failed.error, failed.retries, Some(timestamp(failed.next_attempt_at)))),
            EventType::OrderFetchFailed | EventType::OrderStatusPushFailed | EventType::MenuSyncFailed => {
                // Where it was given up, the dead letter says the same.
                payload::<PushFailed>(event)
                    .filter(|failed| !failed.given_up)
                    .map(|failed| (failed.error, failed.retries, failed.next_attempt_at.map(timestamp)))
            }
            EventType::OrderStatusPushed | EventType::MenuSynced => {
                pushed.push(event.envelope.root_id.to_string());
                pushed_at.push(timestamp(event.envelope.time));
                None
            }
            EventType::OrderForwarded => {
                // Also where it says that the first request did it: one before it may have been another instance's.
                resolved.push(event.envelope.root_id.to_string());
                resolved_at.push(timestamp(event.envelope.time));
                None
            }
            _ => None,
        };
        let Some((error, attempts, next)) = found else { continue };
        match providers.id(&event.envelope.provider) {
            Some(provider_id) => rows.push(event, provider_id, error, attempts, next),
            None => tracing::error!(
                provider = &*event.envelope.provider,
                sequence = event.sequence,
                "delivery_providers has no row for it; error left out"
            ),
        }
    }
    if !rows.id.is_empty() {
        insert(transaction, rows).await?;
    }
    if !resolved.is_empty() {
        let statement = transaction.prepare_cached(query::RESOLVE_ERROR_LOGS).await?;
        transaction.execute(&statement, &[&resolved, &resolved_at]).await?;
    }
    if !pushed.is_empty() {
        let statement = transaction.prepare_cached(query::RESOLVE_PUSH_ERRORS).await?;
        transaction.execute(&statement, &[&pushed, &pushed_at]).await?;
    }
    Ok(())
}

async fn insert(transaction: &Transaction<'_>, rows: Rows<'_>) -> anyhow::Result<()> {
    let statement = transaction.prepare_cached(query::INSERT_ERROR_LOGS).await?;
    transaction
        .execute(
            &statement,
            &[
                &rows.id,
                &rows.provider_id,
                &rows.branch_id,
                &rows.root_id,
                &rows.error_type,
                &rows.error_code,
                &rows.error_message,
                &rows.error_details,
                &rows.context,
                &rows.retry_count,
                &rows.next_retry_at,
                &rows.dead_at,
                &rows.occurred_at,
            ],
        )
        .await?;
    Ok(())
}
