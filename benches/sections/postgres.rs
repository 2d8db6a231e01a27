//! What PostgreSQL takes for an order: WAL, and how many versions of its rows are written.

use anyhow::Result;

use crate::{results::row::Samples, setup::postgres};

/// Its part of the table.
pub(super) const SECTION: &str = "PostgreSQL";

/// What was taken so far.
pub(super) struct Taken {
    wal: i64,
    /// Rows that were inserted into the table of webhooks, updated there, and updated without touching an index.
    inserted: i64,
    updated: i64,
    in_place: i64,
}

impl Taken {
    /// Looks at a database and its server.
    pub(super) async fn so_far(url: &str) -> Result<Self> {
        const WAL: &str = "SELECT (pg_current_wal_lsn() - '0/0')::bigint";
        const ROWS: &str =
            "SELECT n_tup_ins, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'webhook_logs'";
        let client = postgres(url).await?;
        let rows = client.query_one(ROWS, &[]).await?;
        Ok(Self {
            wal: client.query_one(WAL, &[]).await?.try_get(0)?,
            inserted: rows.try_get(0)?,
            updated: rows.try_get(1)?,
            in_place: rows.try_get(2)?,
        })
    }

    /// Adds what was taken since, an order. CPU is left to [`crate::saturate`], which counts that of all programs.
    pub(super) fn add_since(&self, before: &Self, orders: f64, samples: &mut Samples) {
        let (inserted, updated) = (self.inserted - before.inserted, self.updated - before.updated);
        let in_place = (self.in_place - before.in_place) as f64 / (updated as f64).max(1.0);
        let versions = (inserted + updated) as f64 / (inserted as f64).max(1.0);
        samples.add("WAL an order", (self.wal - before.wal) as f64 / orders, "bytes");
        samples.add("versions of a webhook's row", versions, "");
        samples.add("share of the updates that touch no index", in_place, "");
    }
}
