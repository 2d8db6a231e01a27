//! The rows of `webhook_logs` as PostgreSQL takes them.

use chrono::NaiveDateTime;
use serde_json::json;
use tokio_postgres::types::ToSql;

use super::{TABLE, WebhookChange};
use crate::{
    database::{Transaction, query},
    projection::{
        copy::{Adding, CopiedRows},
        decoded::Event,
        storable::storable_json,
        timestamp,
    },
};

/// An array of a statement, one value a row.
type Column<'a> = &'a (dyn ToSql + Sync);

/// What a row says of the most retries, as the statement does.
const MAX_RETRIES: i32 = 10;

/// The columns of changes to webhooks' rows, as arrays.
#[derive(Default)]
pub(super) struct Fates {
    status: Vec<Option<&'static str>>,
    branch_id: Vec<Option<String>>,
    company_id: Vec<Option<String>>,
    internal_order_id: Vec<Option<String>>,
    processed_at: Vec<Option<NaiveDateTime>>,
    retry_count: Vec<Option<i32>>,
    next_retry_at: Vec<Option<NaiveDateTime>>,
    response: Vec<Option<String>>,
    error_message: Vec<Option<String>>,
    updated_at: Vec<NaiveDateTime>,
}

impl Fates {
    pub(super) fn push(&mut self, fate: WebhookChange) {
        self.status.push(fate.status);
        self.branch_id.push(fate.branch_id);
        self.company_id.push(fate.company_id);
        self.internal_order_id.push(fate.internal_order_id);
        self.processed_at.push(fate.processed_at);
        self.retry_count.push(fate.retry_count);
        self.next_retry_at.push(fate.next_retry_at);
        self.response.push(fate.response);
        self.error_message.push(fate.error_message);
        self.updated_at.push(fate.updated_at);
    }

    /// As both statements take them, after what is theirs alone.
    fn columns(&self) -> [Column<'_>; 10] {
        [
            &self.status,
            &self.branch_id,
            &self.company_id,
            &self.internal_order_id,
            &self.processed_at,
            &self.retry_count,
            &self.next_retry_at,
            &self.response,
            &self.error_message,
            &self.updated_at,
        ]
    }
}

/// The columns of the requests, as arrays.
#[derive(Default)]
pub(super) struct Requests<'a> {
    id: Vec<String>,
    provider_id: Vec<&'a str>,
    webhook_type: Vec<&'a str>,
    external_order_id: Vec<&'a str>,
    endpoint: Vec<&'a str>,
    method: Vec<&'a str>,
    headers: Vec<String>,
    payload: Vec<std::borrow::Cow<'a, str>>,
    signature: Vec<Option<&'a str>>,
    ip_address: Vec<&'a str>,
    received_at: Vec<NaiveDateTime>,
}

impl<'a> Requests<'a> {
    pub(super) fn push(&mut self, event: &'a Event, provider_id: &'a str) {
        let envelope = &event.envelope;
        let request = envelope.request.as_ref();
        self.id.push(envelope.id.to_string());
        self.provider_id.push(provider_id);
        self.webhook_type.push(&envelope.webhook_type);
        self.external_order_id.push(&envelope.external_order_id);
        self.endpoint.push(request.map_or("", |request| &request.path));
        self.method.push(request.map_or("POST", |request| &request.method));
        self.headers.push(request.map_or_else(
            || "{}".into(),
            |request| json!(request.headers).to_string().replace("\\u0000", ""),
        ));
        self.payload.push(storable_json(&event.payload));
        self.signature
            .push(request.and_then(|request| request.signature.as_deref()));
        self.ip_address
            .push(request.map_or("", |request| &request.client_address));
        self.received_at.push(timestamp(envelope.time));
    }

    fn columns(&self) -> [Column<'_>; 11] {
        [
            &self.id,
            &self.provider_id,
            &self.webhook_type,
            &self.external_order_id,
            &self.endpoint,
            &self.method,
            &self.headers,
            &self.payload,
            &self.signature,
            &self.ip_address,
            &self.received_at,
        ]
    }
}

/// Adds new rows.
///
/// # Errors
/// If PostgreSQL refuses or does not answer.
pub(super) async fn add(
    transaction: &Transaction<'_>,
    new: Requests<'_>,
    fates: Fates,
    adding: Adding,
) -> anyhow::Result<()> {
    if adding.copies(new.id.len()) {
        return Ok(copied(&new, &fates).store(transaction, &TABLE).await?);
    }
    insert(transaction, new, fates).await
}

/// The same rows as of `insert_webhook_logs.sql`.
fn copied(new: &Requests<'_>, fates: &Fates) -> CopiedRows {
    let mut rows = CopiedRows::default();
    for at in 0..new.id.len() {
        let received_at = new.received_at[at];
        rows.text(&new.id[at])
            .text(new.provider_id[at])
            .text(new.webhook_type[at])
            .text(new.external_order_id[at])
            .text(new.endpoint[at])
            .text(new.method[at])
            .text(&new.headers[at])
            .text(&new.payload[at])
            .maybe(new.signature[at])
            .text(new.ip_address[at])
            .time(received_at)
            .time(received_at)
            .plain(MAX_RETRIES)
            .maybe(fates.status[at])
            .maybe(fates.branch_id[at].as_deref())
            .maybe(fates.company_id[at].as_deref())
            .maybe(fates.internal_order_id[at].as_deref())
            .maybe_time(fates.processed_at[at])
            .plain(fates.retry_count[at].unwrap_or(0))
            .maybe_time(fates.next_retry_at[at])
            .maybe(fates.response[at].as_deref())
            .maybe(fates.error_message[at].as_deref())
            .time(fates.updated_at[at])
            .end();
    }
    rows
}

async fn insert(transaction: &Transaction<'_>, new: Requests<'_>, fates: Fates) -> anyhow::Result<()> {
    if new.id.is_empty() {
        return Ok(());
    }
    let columns = [&new.columns()[..], &fates.columns()].concat();
    transaction.execute(query::INSERT_WEBHOOK_LOGS, &columns).await?;
    Ok(())
}

/// Changes rows.
///
/// # Errors
/// If PostgreSQL refuses or does not answer.
pub(super) async fn update(transaction: &Transaction<'_>, ids: Vec<String>, fates: Fates) -> anyhow::Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let columns = [&[&ids as Column<'_>][..], &fates.columns()].concat();
    transaction.execute(query::UPDATE_WEBHOOK_LOGS, &columns).await?;
    Ok(())
}
