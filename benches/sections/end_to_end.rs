//! (b) Everything: from the provider's request to the backend and the completed row.

use anyhow::Result;

use super::{
    Bench, SATURATING_CONNECTIONS, STEADY_CONNECTIONS,
    postgres::{self, Taken},
};
use crate::{
    load::Pace,
    process::{Child, resident_bytes},
    results::row::{Goal, Samples},
    saturate::{COMPLETED, MB, Target},
    setup::PATIENCE,
    traffic::steady,
};

impl Bench {
    /// A hub for each round, all on one log and one database.
    pub(crate) async fn end_to_end(&mut self) -> Result<()> {
        let bare = match self.bare_at_256 {
            Some(bare) => bare,
            None => self.bare_alone().await?,
        };
        let mut samples = Samples::new("end to end");
        let mut of_postgres = Samples::new(postgres::SECTION);
        samples.add("bare handler at 256 connections", bare, "accepts/s");
        let url = self.servers.new_database("end_to_end").await?;
        for _ in 0..self.rounds {
            let child = self.servers.hub(&url, &self.traffic.backend())?;
            let idle = resident_bytes(child.pid())? as f64 / MB;
            samples.add("resident memory, before the load", idle, "MB");
            let run = self.traffic.load(child.port(), STEADY_CONNECTIONS, steady());
            let run = run.run().await?.good()?;
            self.wait_completed(&url).await?;
            let latency = self.traffic.fared(&run)?.from_sent;
            let p50 = "request due to order at the backend, 500/s, p50";
            let p50 = samples.add(p50, latency.milliseconds(0.50), "ms");
            p50.wants(Goal::AtMost(15.0));
            let p99 = "request due to order at the backend, 500/s, p99";
            let p99 = samples.add(p99, latency.milliseconds(0.99), "ms");
            p99.wants(Goal::AtMost(60.0));
            self.saturate(&child, &url, bare, &mut samples, &mut of_postgres)
                .await?;
            child.stop(PATIENCE)?;
        }
        self.push(samples);
        self.push(of_postgres);
        self.storage(&url).await?;
        self.database_url = Some(url);
        Ok(())
    }

    /// As much as goes in, and the time until the last row of it is completed.
    async fn saturate(
        &self,
        child: &Child,
        url: &str,
        bare: f64,
        samples: &mut Samples,
        of_postgres: &mut Samples,
    ) -> Result<()> {
        let repeated = |times: &crate::times::Times| times.summary(0..0).repeated as f64;
        let (taken, before) = (Taken::so_far(url).await?, repeated(&self.traffic.times));
        let target = Target {
            child,
            nats: self.servers.nats_pid(),
            postgres: self.servers.postgres.pid(),
            database_url: url,
            completed: COMPLETED,
        };
        let load = self.traffic.load(child.port(), SATURATING_CONNECTIONS, Pace::Closed);
        let came = target.saturate(load).await?;
        self.wait_completed(url).await?;
        samples.add("accepted meanwhile", came.report.rate_per_s, "accepts/s");
        samples.add("completed at saturation", came.completed_per_s, "orders/s");
        let share = samples.add("share of the bare handler", came.completed_per_s / bare, "");
        share.wants(Goal::AtLeast(0.25));
        let twice = repeated(&self.traffic.times) - before;
        samples.add("orders that the backend got twice", twice, "");
        came.add_cpu(samples);
        let memory = "resident memory under load, largest";
        let memory = samples.add(memory, came.largest as f64 / MB, "MB");
        memory.wants(Goal::AtMost(70.0));
        Taken::so_far(url).await?.add_since(&taken, came.orders, of_postgres);
        Ok(())
    }

    /// The bare handler's rate at 256 connections, where (a) was not measured.
    async fn bare_alone(&self) -> Result<f64> {
        let child = self.bare()?;
        let load = self.traffic.apart(child.port(), SATURATING_CONNECTIONS, Pace::Closed);
        let bare = load.run().await?.good()?.rate_per_s;
        child.stop(PATIENCE)?;
        Ok(bare)
    }
}
