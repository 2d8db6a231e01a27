//! (e) What orders that wait cost those that do not, and what they cost where nothing else happens.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Bench, SATURATING_CONNECTIONS, completed};
use crate::{
    load::Pace,
    process::{Child, cpu_seconds, resident_bytes},
    results::row::{Goal, Samples},
    saturate::{COMPLETED, DRAIN, MB, Target, wait},
    setup::{PATIENCE, postgres},
};

/// Orders that wait.
const PARKED: i64 = 100_000;
/// Time for what is left of the load to end.
const CALM: Duration = Duration::from_secs(6);
/// How long CPU time is counted where nothing happens.
const IDLE: Duration = Duration::from_secs(10);

impl Bench {
    pub(crate) async fn parked(&mut self) -> Result<()> {
        let mut samples = Samples::new("parked");
        let url = self.servers.new_database("parked").await?;
        let child = self.servers.hub_that_parks(&url, &self.traffic.backend())?;
        // As many go through first as will wait: a log and tables of that size cost the others something by themselves.
        while completed(&url).await? < PARKED {
            self.completed_per_second(&child, &url).await?;
        }
        let mut before = Vec::new();
        for _ in 0..self.rounds {
            let rate = self.completed_per_second(&child, &url).await?;
            samples.add("completed without them", rate, "orders/s");
            before.push(rate);
        }
        self.park(&child, &url, &mut samples).await?;
        let nats = self.servers.nats_pid().context("NATS has no process id")?;
        for _ in 0..self.rounds {
            let (of_hub, of_nats) = tokio::join!(cores_while_idle(child.pid()), cores_while_idle(nats));
            for (what, cores) in [("CPU of the hub, idle", of_hub?), ("CPU of NATS, idle", of_nats?)] {
                let row = samples.add(what, cores * 100.0, "% of a core");
                row.wants(Goal::AtMost(5.0));
            }
            let memory = resident_bytes(child.pid())? as f64 / MB;
            let memory = samples.add("resident memory of the hub", memory, "MB");
            memory.wants(Goal::AtMost(70.0));
        }
        for before in before {
            let with = self.completed_per_second(&child, &url).await?;
            samples.add("completed beside them", with, "orders/s");
            let kept = samples.add("share that is kept", with / before, "");
            kept.wants(Goal::AtLeast(0.95));
        }
        let mut first = child;
        for _ in 0..self.rounds {
            first = self.taken_over(first, &url, nats, &mut samples).await?;
        }
        first.stop(PATIENCE)?;
        self.push(samples);
        Ok(())
    }

    /// Lets orders come in that the backend asks to come back much later. Once, for they stay.
    async fn park(&self, child: &Child, url: &str, samples: &mut Samples) -> Result<()> {
        self.traffic.backend_is_away.store(true, Ordering::Relaxed);
        let began = Instant::now();
        let mut accepted = 0;
        while accepted < PARKED {
            let load = self.traffic.load(child.port(), SATURATING_CONNECTIONS, Pace::Closed);
            accepted += i64::try_from(load.run().await?.good()?.accepted_in_all)?;
        }
        wait(DRAIN, async || Ok(waiting(url).await? >= accepted)).await?;
        let parked_per_s = accepted as f64 / began.elapsed().as_secs_f64();
        self.traffic.backend_is_away.store(false, Ordering::Relaxed);
        samples.add("orders that wait", accepted as f64, "");
        samples.add("accepted and parked", parked_per_s, "orders/s");
        Ok(())
    }

    /// Another instance takes over, with all that waits, while orders come in as fast as they can. Returns that instance.
    async fn taken_over(&self, first: Child, url: &str, nats: u32, samples: &mut Samples) -> Result<Child> {
        let next = self.servers.hub_that_parks(url, &self.traffic.backend())?;
        // It reads the log for known orders first.
        tokio::time::sleep(IDLE).await;
        let (known, before) = (completed(url).await?, cpu_seconds(nats)?);
        first.stop(PATIENCE)?;
        let began = Instant::now();
        let first_completed = async {
            wait(DRAIN, async || Ok(completed(url).await? > known)).await?;
            anyhow::Ok((began.elapsed().as_secs_f64(), cpu_seconds(nats)? - before))
        };
        let load = self.traffic.load(next.port(), SATURATING_CONNECTIONS, Pace::Closed);
        let (run, taken) = tokio::join!(load.run(), first_completed);
        let (seconds, cpu) = taken?;
        let what = "from the end of the first instance to the first order by the next";
        samples.add(what, seconds, "s").wants(Goal::AtMost(2.0));
        samples.add("CPU of NATS in that time", cpu, "s");
        let run = run?.good()?;
        samples.add("accepted beside the takeover", run.rate_per_s, "accepts/s");
        // What came in is completed before the next takeover is measured.
        let accepted = known + i64::try_from(run.accepted_in_all)?;
        wait(DRAIN, async || Ok(completed(url).await? >= accepted)).await?;
        Ok(next)
    }

    /// As many as go in, and the time until the last of them is completed.
    pub(super) async fn completed_per_second(&self, child: &Child, url: &str) -> Result<f64> {
        let target = Target {
            child,
            nats: self.servers.nats_pid(),
            postgres: self.servers.postgres.pid(),
            database_url: url,
            completed: COMPLETED,
        };
        let load = self.traffic.load(child.port(), SATURATING_CONNECTIONS, Pace::Closed);
        Ok(target.saturate(load).await?.completed_per_s)
    }
}

/// Orders that are to be tried again.
async fn waiting(url: &str) -> Result<i64> {
    let count = "SELECT count(*) FROM webhook_logs WHERE status = 'retrying'";
    Ok(postgres(url).await?.query_one(count, &[]).await?.try_get(0)?)
}

async fn cores_while_idle(pid: u32) -> Result<f64> {
    // What is left of the load ends first.
    tokio::time::sleep(CALM).await;
    let before = cpu_seconds(pid)?;
    tokio::time::sleep(IDLE).await;
    Ok((cpu_seconds(pid)? - before) / IDLE.as_secs_f64())
}
