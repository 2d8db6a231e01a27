//! As many orders as go in, until the last of them is completed: how many that is a second, and what each takes of every program.
//!
//! It knows no hub: what is completed is counted by a statement, so that any design can be measured.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio_postgres::Client;

use crate::{
    load::{Load, Report},
    process::{Child, cpu_seconds, cpu_seconds_of_all, cpu_seconds_with_children, resident_bytes},
    results::row::Samples,
    setup::postgres,
};

/// Time for a backlog to be worked off.
pub(crate) const DRAIN: Duration = Duration::from_secs(240);
/// Pause between two looks.
pub(crate) const POLL: Duration = Duration::from_millis(100);
pub(crate) const MB: f64 = 1_000_000.0;
/// Completed orders in the hub's tables.
pub(crate) const COMPLETED: &str = "SELECT count(*) FROM webhook_logs WHERE status = 'completed'";

/// What is measured.
pub(crate) struct Target<'a> {
    /// The program that takes the orders.
    pub(crate) child: &'a Child,
    /// Process ids of the log's server, where there is a log, and of PostgreSQL.
    pub(crate) nats: Option<u32>,
    pub(crate) postgres: Option<u32>,
    /// The database with the tables.
    pub(crate) database_url: &'a str,
    /// The statement that counts completed orders.
    pub(crate) completed: &'a str,
}

/// What came of it.
pub(crate) struct Saturated {
    pub(crate) report: Report,
    /// Orders that were completed, those of the warm-up too.
    pub(crate) orders: f64,
    /// From the first connection until the last order was completed.
    pub(crate) completed_per_s: f64,
    /// Microseconds of CPU an order.
    pub(crate) of_child: f64,
    pub(crate) of_nats: f64,
    pub(crate) of_postgres: f64,
    /// Resident memory of the program at its largest, in bytes.
    pub(crate) largest: u64,
}

impl Target<'_> {
    /// Runs the load, and waits until all that was accepted is completed.
    pub(crate) async fn saturate(&self, load: Load) -> Result<Saturated> {
        let client = postgres(self.database_url).await?;
        let before = count(&client, self.completed).await?;
        let cpu_before = self.cpu()?;
        let largest = Arc::new(AtomicU64::new(0));
        let watching = Arc::new(AtomicBool::new(true));
        let watcher = tokio::spawn(watch(self.child.pid(), Arc::clone(&largest), Arc::clone(&watching)));
        let began = Instant::now();
        let report = load.run().await?.good()?;
        let expected = before + i64::try_from(report.accepted_in_all)?;
        wait(DRAIN, async || Ok(count(&client, self.completed).await? >= expected)).await?;
        let took = began.elapsed().as_secs_f64();
        let cpu = self.cpu()?;
        watching.store(false, Ordering::Relaxed);
        watcher.await??;
        let orders = (count(&client, self.completed).await? - before) as f64;
        let [of_child, of_nats, of_postgres] = [0, 1, 2].map(|at| (cpu[at] - cpu_before[at]) / orders * 1e6);
        Ok(Saturated {
            report,
            orders,
            completed_per_s: orders / took,
            of_child,
            of_nats,
            of_postgres,
            largest: largest.load(Ordering::Relaxed),
        })
    }

    /// CPU seconds of the program, of NATS and of PostgreSQL.
    fn cpu(&self) -> Result<[f64; 3]> {
        let postgres = self.postgres.context("PostgreSQL runs")?;
        Ok([
            cpu_seconds(self.child.pid())?,
            self.nats.map(cpu_seconds).transpose()?.unwrap_or(0.0),
            cpu_seconds_with_children(postgres)? + cpu_seconds_of_all(postgres)?,
        ])
    }
}

impl Saturated {
    /// Adds what a hub takes of every program for an order.
    pub(crate) fn add_cpu(&self, samples: &mut Samples) {
        samples.add("CPU of the hub an order", self.of_child, "µs");
        samples.add("CPU of NATS an order", self.of_nats, "µs");
        samples.add("CPU of PostgreSQL an order", self.of_postgres, "µs");
        let sum = self.of_child + self.of_nats + self.of_postgres;
        samples.add("CPU of all three an order", sum, "µs");
    }
}

/// The number that a statement gives.
pub(crate) async fn count(client: &Client, statement: &str) -> Result<i64> {
    Ok(client.query_one(statement, &[]).await?.try_get(0)?)
}

/// Waits for a condition; fails after `limit`.
pub(crate) async fn wait(limit: Duration, mut done: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !done().await? {
        ensure!(Instant::now() < deadline, "not done within {limit:?}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn watch(pid: u32, largest: Arc<AtomicU64>, watching: Arc<AtomicBool>) -> Result<()> {
    while watching.load(Ordering::Relaxed) {
        largest.fetch_max(resident_bytes(pid)?, Ordering::Relaxed);
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
