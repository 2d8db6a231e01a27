//! The projections: the events of the log, as rows in PostgreSQL.
//!
//! One instance writes at a time, by a lease ([`writer`]). Events are applied in batches, in the log's
//! order, and the position moves in the same transaction as the rows: after any crash the tables hold the log up to the
//! position. The durable consumer only signals new events; when it and the position disagree (a database restored from a
//! backup, a new database), the position counts and the gap is read from the log.
//!
//! When the log went back or was replaced, the tables begin an [`era`].
//!
//! [`schema`] keeps the tables' shape and [`indexes`] their indexes. Each table is a `Projection` in the list `ALL`:
//! `webhook_logs`, `delivery_error_logs` and `provider_order_logs` are the platform's, `orders` is the hub's own. `retention`
//! deletes old rows, `rules` says which event decides a row, `decoded` reads payloads, [`batch`] applies events to all of
//! them, [`live`] follows the log and gathers batches, [`fill`] fills a projection of the hub's own that is new, or of
//! another version, from the log. [`rebuild`] makes tables from the log beside the live ones, and puts them in their place.

mod table;
pub mod schema;
pub mod indexes;
pub mod writer;
pub mod era;
mod faults;
mod rules;
pub mod decoded;
mod copy;
mod storable;
pub mod batch;
mod ahead;
mod retention;
pub mod live;
pub mod fill;
pub mod rebuild;
pub mod providers;
mod webhook_logs;
mod delivery_error_logs;
mod provider_order_logs;
mod orders;

use chrono::{DateTime, NaiveDateTime, Utc};
use futures_util::future::BoxFuture;

use self::{batch::Batch, table::Table};
use crate::database::Transaction;

/// A table that follows from the events of the log, and from nothing else.
pub(crate) trait Projection: Sync {
    /// Its table.
    fn table(&self) -> &'static Table;

    /// Its name in `hub.projections`.
    fn name(&self) -> &'static str {
        self.table().bare()
    }

    /// Whether the table is the hub's own. Tables of the platform may hold rows of others: they are never emptied, and their position is
    /// that of the tables.
    fn is_own(&self) -> bool {
        self.table().is_own()
    }

    /// The version of the rules by which it makes rows.
    fn version(&self) -> i32 {
        self.table().version
    }

    /// Reads what the table knows of the events' orders, applies the events to that in memory, and writes each row once.
    fn apply<'a>(
        &'a self,
        transaction: &'a Transaction<'_>,
        batch: &'a mut Batch<'_>,
    ) -> BoxFuture<'a, anyhow::Result<()>>;
}

/// Every projection, in the order in which a batch is applied to them: webhooks first, for errors refer to their rows.
const ALL: [&dyn Projection; 4] = [
    &webhook_logs::WebhookLogs,
    &delivery_error_logs::DeliveryErrorLogs,
    &provider_order_logs::ProviderOrderLogs,
    &orders::Orders,
];

/// Those that are the hub's own.
fn own() -> Vec<&'static dyn Projection> {
    let mut own = ALL.to_vec();
    own.retain(|projection| projection.is_own());
    own
}

/// A time as the platform's tables keep it: UTC without a zone, milliseconds.
fn timestamp(time: DateTime<Utc>) -> NaiveDateTime {
    time.naive_utc()
}
