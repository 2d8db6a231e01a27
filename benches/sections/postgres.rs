//! What PostgreSQL takes for an order: CPU, WAL, and how many versions of its rows are written.

use anyhow::{Context as _, Result};

use crate::{
    process::{cpu_seconds_of_all, cpu_seconds_with_children},
    report::Row,
    setup::{Servers, postgres},
};

const SECTION: &str = "PostgreSQL";

/// What was taken so far.
pub(super) struct Taken {
    cpu: f64,
    wal: i64,
    /// Rows that were inserted into the table of webhooks, updated there, and updated without touching an index.
    inserted: i64,
    updated: i64,
    in_place: i64,
}

impl Taken {
    /// Looks at a server and a database on it.
    pub(super) async fn so_far(servers: &Servers, url: &str) -> Result<Self> {
        const WAL: &str = "SELECT (pg_current_wal_lsn() - '0/0')::bigint";
        const ROWS: &str =
            "SELECT n_tup_ins, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'webhook_logs'";
        let client = postgres(url).await?;
        let rows = client.query_one(ROWS, &[]).await?;
        let pid = servers.postgres.pid().context("PostgreSQL runs")?;
        Ok(Self {
            cpu: cpu_seconds_with_children(pid)? + cpu_seconds_of_all(pid)?,
            wal: client.query_one(WAL, &[]).await?.try_get(0)?,
            inserted: rows.try_get(0)?,
            updated: rows.try_get(1)?,
            in_place: rows.try_get(2)?,
        })
    }

    /// What was taken since, an order.
    pub(super) fn rows_since(&self, before: &Self, orders: f64) -> [Row; 4] {
        let (inserted, updated) = (self.inserted - before.inserted, self.updated - before.updated);
        let in_place = (self.in_place - before.in_place) as f64 / (updated as f64).max(1.0);
        let versions = (inserted + updated) as f64 / (inserted as f64).max(1.0);
        [
            Row::number(SECTION, "CPU an order", (self.cpu - before.cpu) / orders * 1e6, "µs"),
            Row::number(
                SECTION,
                "WAL an order",
                (self.wal - before.wal) as f64 / orders,
                "bytes",
            ),
            Row::number(SECTION, "versions of a webhook's row", versions, ""),
            Row::number(SECTION, "share of the updates that touch no index", in_place, ""),
        ]
    }
}
