//! `hub.orders`: one row an order, for operators of the hub. It shows the order's state in the hub, the provider's last
//! status, and why it has not arrived; nothing of the customer. See [`row`] for the content of a row.

mod row;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use tokio_postgres::types::ToSql;

use self::row::{Row, SAME_ORDER_FOR};
use super::{
    Projection,
    batch::Batch,
    decoded::Event,
    rules::EventOrder,
    table::{RowRetention, Table},
};
use crate::{
    database::{Transaction, query},
    order::status::OrderStatus,
};

/// Its table.
static TABLE: Table = Table {
    name: "hub.orders",
    version: 2,
    key: &["external_order_id", "provider", "id"],
    began: "first_at",
    provider: "provider",
    insert: query::PUT_ORDERS,
    by_people: None,
    same_order: Some(|| {
        format!(
            "l.external_order_id = s.external_order_id AND l.provider = s.provider
             AND (l.branch_id = s.branch_id OR l.branch_id IS NULL OR s.branch_id IS NULL)
             AND s.first_at - l.first_at BETWEEN -interval '{0} seconds' AND interval '{0} seconds'",
            SAME_ORDER_FOR.num_seconds()
        )
    }),
    retention: Some(RowRetention {
        kept: |kept| kept.orders,
        changed: "last_at",
        ended: Some("undelivered_since IS NULL"),
        delete: query::RETAIN_ORDERS,
    }),
};

/// The projection.
pub(super) struct Orders;

impl Projection for Orders {
    fn table(&self) -> &'static Table {
        &TABLE
    }

    fn apply<'a>(
        &'a self,
        transaction: &'a Transaction<'_>,
        batch: &'a mut Batch<'_>,
    ) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let mut rows = Rows::load(transaction, batch.events()).await?;
            for event in batch.events() {
                rows.apply(event, batch.order);
            }
            rows.store(transaction).await
        })
    }
}

/// The orders of a batch.
struct Rows<'a> {
    /// Where those of a provider and its number stand in `rows`.
    places: HashMap<(&'a str, &'a str), usize>,
    /// Several may have one number.
    rows: Vec<Vec<Row>>,
}

impl<'a> Rows<'a> {
    /// Reads the rows of these events' orders.
    async fn load(transaction: &Transaction<'_>, events: &'a [Event<'_>]) -> anyhow::Result<Self> {
        let mut places = HashMap::new();
        let (mut providers, mut numbers) = (Vec::new(), Vec::new());
        for event in events.iter().filter(|event| row::is_about_an_order(event)) {
            let (provider, number) = number_of(event);
            if let Entry::Vacant(new) = places.entry((provider, number)) {
                new.insert(numbers.len());
                providers.push(provider);
                numbers.push(number);
            }
        }
        let mut rows: Vec<_> = numbers.iter().map(|_| Vec::new()).collect();
        if !numbers.is_empty() {
            for row in transaction.query(query::KNOWN_ORDERS, &[&providers, &numbers]).await? {
                let row = read(&row)?;
                if let Some(place) = places.get(&(&*row.provider, row.external_order_id.as_str())) {
                    rows[*place].push(row);
                }
            }
        }
        Ok(Self { places, rows })
    }

    fn apply(&mut self, event: &Event<'_>, comes: EventOrder) {
        if !row::is_about_an_order(event) {
            return;
        }
        let Some(place) = self.places.get(&number_of(event)) else {
            return;
        };
        let rows = &mut self.rows[*place];
        let at = row::find(rows, event).unwrap_or_else(|| {
            rows.push(Row::of(event));
            rows.len() - 1
        });
        if rows[at].may_change(comes, event) {
            rows[at].apply(event);
        }
    }

    /// Writes what the batch made of them.
    async fn store(self, transaction: &Transaction<'_>) -> anyhow::Result<()> {
        let mut columns = Columns::default();
        for row in self.rows.into_iter().flatten().filter(|row| row.is_changed) {
            columns.push(row)?;
        }
        columns.store(transaction).await
    }
}

fn number_of<'e>(event: &'e Event<'_>) -> (&'e str, &'e str) {
    let envelope = &event.recorded.envelope;
    (&*envelope.provider, envelope.external_order_id.as_str())
}

/// A row as the table has it.
fn read(row: &tokio_postgres::Row) -> anyhow::Result<Row> {
    let status: Option<&str> = row.try_get("status")?;
    let flags: Vec<String> = row.try_get("flags")?;
    let unsettled: Option<String> = row.try_get("unsettled")?;
    Ok(Row {
        id: row.try_get::<_, &str>("id")?.parse()?,
        provider: Arc::from(row.try_get::<_, &str>("provider")?),
        external_order_id: row.try_get("external_order_id")?,
        branch_id: row.try_get("branch_id")?,
        company_id: row.try_get("company_id")?,
        order_number: row.try_get("order_number")?,
        display_id: row.try_get("display_id")?,
        order_id: row.try_get("order_id")?,
        status: status.and_then(OrderStatus::from_word),
        provider_status: row.try_get("provider_status")?,
        said_at: row.try_get("said_at")?,
        first_at: row.try_get("first_at")?,
        last_at: row.try_get("last_at")?,
        forwarded_at: row.try_get("forwarded_at")?,
        given_up_at: row.try_get("given_up_at")?,
        attempts: row.try_get("attempts")?,
        cause_stage: row.try_get("cause_stage")?,
        cause_code: row.try_get("cause_code")?,
        deadline: row.try_get("deadline")?,
        is_test: row.try_get("is_test")?,
        flags: flags.into_iter().collect(),
        last_sequence: row.try_get("last_sequence")?,
        unsettled: unsettled
            .map(|text| serde_json::from_str(&text))
            .transpose()?
            .unwrap_or_default(),
        is_changed: false,
    })
}

type Time = DateTime<Utc>;

/// The columns, as arrays.
#[derive(Default)]
struct Columns {
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
    fn push(&mut self, row: Row) -> anyhow::Result<()> {
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

    async fn store(&self, transaction: &Transaction<'_>) -> anyhow::Result<()> {
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
