//! `hub.orders`: one row an order, for operators of the hub. It shows the order's state in the hub, the provider's last
//! status, and why it has not arrived; nothing of the customer. See [`row`] for the content of a row.

mod columns;
mod row;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use futures_util::future::BoxFuture;

use self::{
    columns::Columns,
    row::{Row, SAME_ORDER_FOR},
};
use super::{
    Projection,
    batch::Batch,
    copy::Adding,
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
            let mut rows = Rows::load(transaction, batch).await?;
            for event in batch.events() {
                rows.apply(event, batch.order);
            }
            rows.store(transaction, batch.adding).await
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
    async fn load(transaction: &Transaction<'_>, batch: &Batch<'a>) -> anyhow::Result<Self> {
        let mut places = HashMap::new();
        let (mut rows, mut providers, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        for event in batch
            .events()
            .iter()
            .copied()
            .filter(|event| row::is_about_an_order(event))
        {
            let (provider, number) = number_of(event);
            if let Entry::Vacant(new) = places.entry((provider, number)) {
                new.insert(rows.len());
                rows.push(Vec::new());
                if batch.may_be_there("order", (provider, number)) {
                    providers.push(provider);
                    numbers.push(number);
                }
            }
        }
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

    fn apply(&mut self, event: &Event, comes: EventOrder) {
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
    async fn store(self, transaction: &Transaction<'_>, adding: Adding) -> anyhow::Result<()> {
        let rows: Vec<_> = self.rows.into_iter().flatten().filter(|row| row.is_changed).collect();
        let is_copied = adding.copies(rows.iter().filter(|row| row.is_new).count());
        let (mut copied, mut put) = (Columns::default(), Columns::default());
        for row in rows {
            let columns = if is_copied && row.is_new { &mut copied } else { &mut put };
            columns.push(row)?;
        }
        copied.copy(transaction).await?;
        put.store(transaction).await
    }
}

fn number_of(event: &Event) -> (&str, &str) {
    let envelope = &event.envelope;
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
        is_new: false,
    })
}
