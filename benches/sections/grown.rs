//! (g) What years of orders cost: completed orders with millions of rows and events behind, beside a new installation.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, SATURATING_CONNECTIONS, position};
use crate::{
    load::Pace,
    process::Child,
    results::row::{Goal, Samples},
    saturate::{Target, wait},
    setup::{PATIENCE, postgres},
};

/// Events on the log, each of which has a row of `hub.orders`; and rows of `webhook_logs` and of `provider_order_logs`.
const BEHIND: u64 = 5_000_000;
/// Rows of one statement.
const STEP: u64 = 250_000;
/// Time for the tables to catch up with them.
const CATCH_UP: Duration = Duration::from_secs(3600);
/// A row as the hub made it, with another id and order, and without the body: what counts here are rows and the indexes over them.
const ROWS: &str = "
    INSERT INTO webhook_logs SELECT r.*
        FROM webhook_logs AS one, generate_series($1::bigint, $2::bigint) AS n,
            LATERAL jsonb_populate_record(one, jsonb_build_object('id', 'behind-' || n, 'external_order_id', 'behind-' || n,
                'status', 'failed', 'payload', '{}'::jsonb, 'headers', NULL)) AS r
        WHERE one.id = (SELECT min(id) FROM webhook_logs WHERE id NOT LIKE 'behind-%');
    INSERT INTO provider_order_logs SELECT r.*
        FROM provider_order_logs AS one, generate_series($1::bigint, $2::bigint) AS n,
            LATERAL jsonb_populate_record(one, jsonb_build_object('id', 'behind-' || n, 'external_order_id', 'behind-' || n,
                'order_id', 'behind-' || n)) AS r
        WHERE one.id = (SELECT min(id) FROM provider_order_logs WHERE id NOT LIKE 'behind-%')";

impl Bench {
    pub(crate) async fn grown(&mut self) -> Result<()> {
        let mut samples = Samples::new("grown");
        let url = self.servers.new_database("grown").await?;
        let child = self.servers.hub(&url, &self.traffic.backend())?;
        // The connections, the caches, and the rows that the others are made of.
        self.forwarded_per_second(&child, &url).await?;
        let mut empty = Vec::new();
        for _ in 0..self.rounds {
            let rate = self.forwarded_per_second(&child, &url).await?;
            samples.add("completed, nothing behind", rate, "orders/s");
            empty.push(rate);
        }
        child.stop(PATIENCE)?;
        let client = postgres(&url).await?;
        for first in (0..BEHIND).step_by(STEP as usize) {
            let last = first + STEP - 1;
            let rows = ROWS.replace("$1", &first.to_string()).replace("$2", &last.to_string());
            client.batch_execute(&rows).await?;
        }
        let events = self.fill_log(BEHIND).await?;
        samples.add("events on the log", events as f64, "");
        let child = self.servers.hub(&url, &self.traffic.backend())?;
        wait(CATCH_UP, async || Ok(position(&client).await? >= events as i64)).await?;
        self.forwarded_per_second(&child, &url).await?;
        for empty in empty {
            let rate = self.forwarded_per_second(&child, &url).await?;
            samples.add("completed, with all that behind", rate, "orders/s");
            let share = samples.add("share that is kept", rate / empty, "");
            share.wants(Goal::AtLeast(0.9));
        }
        child.stop(PATIENCE)?;
        self.push(samples);
        Ok(())
    }

    /// As many as go in, and the time until the last of them is forwarded. They are counted by an index: counting rows must not grow with
    /// the table.
    async fn forwarded_per_second(&self, child: &Child, url: &str) -> Result<f64> {
        let since = chrono::Utc::now().to_rfc3339();
        let forwarded = format!("SELECT count(*) FROM hub.orders WHERE first_at >= '{since}' AND state = 'forwarded'");
        let target = Target {
            child,
            nats: self.servers.nats_pid(),
            postgres: self.servers.postgres.pid(),
            database_url: url,
            completed: &forwarded,
        };
        let load = self.traffic.load(child.port(), SATURATING_CONNECTIONS, Pace::Closed);
        Ok(target.saturate(load).await?.completed_per_s)
    }
}
