//! The rows of `hub.orders` as PostgreSQL takes them.

use chrono::{DateTime, Utc};
use tokio_postgres::types::ToSql;

use super::{TABLE, row::Row};
use crate::{
    database::{Transaction, query},
    order::status::OrderStatus,
    projection::copy::CopiedRows,
};

type Time = DateTime<Utc>;

/// The columns, as arrays.
#[derive(Default)]
pub(super) struct Columns {
    external_order_id: Vec<String>,
    provider: Vec<String>,
    id: Vec<String>,
    branch_id: Vec<Option<String>>,
    company_id: Vec<Option<String>>,
    order_number: Vec<Option<String>>,
    display_id: Vec<Option<String>>,
    order_id: Vec<Option<String>>,
    state: Vec<&'static str>,
    status: Vec<Option<&'static str>>,
    provider_status: Vec<Option<String>>,
    said_at: Vec<Option<Time>>,
    first_at: Vec<Time>,
    last_at: Vec<Time>,
    forwarded_at: Vec<Option<Time>>,
    undelivered_since: Vec<Option<Time>>,
    given_up_at: Vec<Option<Time>>,
    attempts: Vec<i32>,
    next_attempt_at: Vec<Option<Time>>,
    cause_stage: Vec<Option<String>>,
    cause_code: Vec<Option<String>>,
    deadline: Vec<Option<Time>>,
    is_test: Vec<bool>,
    /// With commas between them; none has one.
    flags: Vec<String>,
    last_sequence: Vec<i64>,
    unsettled: Vec<Option<String>>,
}

impl Columns {
    /// The next row.
    ///
    /// # Errors
    /// If what is unsettled cannot be written as JSON, which does not happen.
    pub(super) fn push(&mut self, row: Row) -> anyhow::Result<()> {
        self.state.push(row.state());
        self.undelivered_since.push(row.undelivered_since());
        self.next_attempt_at.push(row.next_attempt_at());
        self.external_order_id.push(row.external_order_id);
        self.provider.push(row.provider.to_string());
        self.id.push(row.id.to_string());
        self.branch_id.push(row.branch_id);
        self.company_id.push(row.company_id);
        self.order_number.push(row.order_number);
        self.display_id.push(row.display_id);
        self.order_id.push(row.order_id);
        self.status.push(row.status.map(OrderStatus::as_str));
        self.provider_status.push(row.provider_status);
        self.said_at.push(row.said_at);
        self.first_at.push(row.first_at);
        self.last_at.push(row.last_at);
        self.forwarded_at.push(row.forwarded_at);
        self.given_up_at.push(row.given_up_at);
        self.attempts.push(row.attempts);
        self.cause_stage.push(row.cause_stage);
        self.cause_code.push(row.cause_code);
        self.deadline.push(row.deadline);
        self.is_test.push(row.is_test);
        self.flags.push(row.flags.into_iter().collect::<Vec<_>>().join(","));
        self.last_sequence.push(row.last_sequence);
        let unsettled = (!row.unsettled.is_empty()).then(|| serde_json::to_string(&row.unsettled));
        self.unsettled.push(unsettled.transpose()?);
        Ok(())
    }

    /// Adds rows.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub(super) async fn copy(&self, transaction: &Transaction<'_>) -> anyhow::Result<()> {
        let mut rows = CopiedRows::default();
        for at in 0..self.id.len() {
            let [said, forwarded, undelivered, given_up, next_attempt, deadline] = [
                &self.said_at,
                &self.forwarded_at,
                &self.undelivered_since,
                &self.given_up_at,
                &self.next_attempt_at,
                &self.deadline,
            ]
            .map(|times| times[at].map(|time| time.naive_utc()));
            rows.text(&self.external_order_id[at])
                .text(&self.provider[at])
                .text(&self.id[at])
                .maybe(self.branch_id[at].as_deref())
                .maybe(self.company_id[at].as_deref())
                .maybe(self.order_number[at].as_deref())
                .maybe(self.display_id[at].as_deref())
                .maybe(self.order_id[at].as_deref())
                .text(self.state[at])
                .maybe(self.status[at])
                .maybe(self.provider_status[at].as_deref())
                .maybe_time(said)
                .time(self.first_at[at].naive_utc())
                .time(self.last_at[at].naive_utc())
                .maybe_time(forwarded)
                .maybe_time(undelivered)
                .maybe_time(given_up)
                .plain(self.attempts[at])
                .maybe_time(next_attempt)
                .maybe(self.cause_stage[at].as_deref())
                .maybe(self.cause_code[at].as_deref())
                .maybe_time(deadline)
                .plain(self.is_test[at])
                .words(&self.flags[at])
                .plain(self.last_sequence[at])
                .maybe(self.unsettled[at].as_deref())
                .end();
        }
        Ok(rows.store(transaction, &TABLE).await?)
    }

    /// Adds rows, or puts them in the place of those with the same keys.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub(super) async fn store(&self, transaction: &Transaction<'_>) -> anyhow::Result<()> {
        if self.id.is_empty() {
            return Ok(());
        }
        let columns: [&(dyn ToSql + Sync); 26] = [
            &self.external_order_id,
            &self.provider,
            &self.id,
            &self.branch_id,
            &self.company_id,
            &self.order_number,
            &self.display_id,
            &self.order_id,
            &self.state,
            &self.status,
            &self.provider_status,
            &self.said_at,
            &self.first_at,
            &self.last_at,
            &self.forwarded_at,
            &self.undelivered_since,
            &self.given_up_at,
            &self.attempts,
            &self.next_attempt_at,
            &self.cause_stage,
            &self.cause_code,
            &self.deadline,
            &self.is_test,
            &self.flags,
            &self.last_sequence,
            &self.unsettled,
        ];
        transaction.execute(query::PUT_ORDERS, &columns).await?;
        Ok(())
    }
}
