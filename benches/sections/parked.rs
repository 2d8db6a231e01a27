//! (e) What orders that wait cost those that do not, and what they cost where nothing else happens.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Bench, DRAIN, MB, PATIENCE, RUN, SATURATING_CONNECTIONS, completed, good, wait};
use crate::{
    load::Pace,
    process::{Child, cpu_seconds, resident_bytes},
    report::{Goal, Row},
    setup::postgres,
};

const SECTION: &str = "parked";
/// Orders that wait.
const PARKED: i64 = 100_000;
/// How long CPU time is counted where nothing happens.
const IDLE: Duration = Duration::from_secs(10);

impl Bench {
    pub(crate) async fn parked(&mut self) -> Result<()> {
        let url = self.servers.new_database("parked").await?;
        let child = self.servers.hub_that_parks(&url, &format!("http://{}", self.backend))?;
        // As many go through first as will wait: a log and tables of that size cost the others something by themselves.
        while completed(&url).await? < PARKED {
            self.completed_per_second(&child, &url).await?;
        }
        let before = self.completed_per_second(&child, &url).await?;

        self.backend_is_away.store(true, Ordering::Relaxed);
        let began = Instant::now();
        let mut accepted = 0;
        while accepted < PARKED {
            let run = self
                .load(child.port(), SATURATING_CONNECTIONS, Pace::Closed)
                .run()
                .await?;
            accepted += i64::try_from(good(run)?.accepted_in_all)?;
        }
        wait(DRAIN, async || Ok(waiting(&url).await? >= accepted)).await?;
        let parked_per_s = accepted as f64 / began.elapsed().as_secs_f64();
        self.backend_is_away.store(false, Ordering::Relaxed);
        self.push(Row::number(SECTION, "orders that wait", accepted as f64, ""));
        self.push(Row::number(SECTION, "accepted and parked", parked_per_s, "orders/s"));

        let nats = self.servers.nats_pid().context("NATS has no process id")?;
        let of_hub = cores_while_idle(child.pid());
        let (of_hub, of_nats) = tokio::join!(of_hub, cores_while_idle(nats));
        let percent = |what: &str, cores: f64| Row::number(SECTION, what, cores * 100.0, "% of a core");
        self.push(percent("CPU of the hub, idle", of_hub?).goal(Goal::AtMost(5.0)));
        self.push(percent("CPU of NATS, idle", of_nats?).goal(Goal::AtMost(5.0)));
        let memory = resident_bytes(child.pid())? as f64 / MB;
        self.push(Row::number(SECTION, "resident memory of the hub", memory, "MB").goal(Goal::AtMost(80.0)));

        let with = self.completed_per_second(&child, &url).await?;
        self.push(Row::number(SECTION, "completed without them", before, "orders/s"));
        self.push(Row::number(SECTION, "completed beside them", with, "orders/s"));
        self.push(Row::number(SECTION, "share that is kept", with / before, "").goal(Goal::AtLeast(0.95)));
        self.taken_over(child, &url, nats).await
    }

    /// Another instance takes over, with all that waits, while orders come in as fast as they can.
    async fn taken_over(&mut self, first: Child, url: &str, nats: u32) -> Result<()> {
        let next = self.servers.hub_that_parks(url, &format!("http://{}", self.backend))?;
        // It reads the log for known orders first.
        tokio::time::sleep(IDLE).await;
        let (known, before) = (completed(url).await?, cpu_seconds(nats)?);
        first.stop(PATIENCE)?;
        let began = Instant::now();
        let first_completed = async {
            wait(DRAIN, async || Ok(completed(url).await? > known)).await?;
            anyhow::Ok((began.elapsed().as_secs_f64(), cpu_seconds(nats)? - before))
        };
        let load = self.load(next.port(), SATURATING_CONNECTIONS, Pace::Closed);
        let (run, taken) = tokio::join!(load.run(), first_completed);
        let (seconds, cpu) = taken?;
        let what = "from the end of the first instance to the first order by the next";
        self.push(Row::number(SECTION, what, seconds, "s").goal(Goal::AtMost(2.0)));
        self.push(Row::number(SECTION, "CPU of NATS in that time", cpu, "s"));
        let accepted = good(run?)?.accepted_in_all as f64 / RUN.as_secs_f64();
        self.push(Row::number(
            SECTION,
            "accepted beside the takeover",
            accepted,
            "orders/s",
        ));
        next.stop(PATIENCE)
    }

    /// As many as go in, and the time until the last of them is completed.
    pub(super) async fn completed_per_second(&self, child: &Child, url: &str) -> Result<f64> {
        let before = completed(url).await?;
        let began = Instant::now();
        let run = good(
            self.load(child.port(), SATURATING_CONNECTIONS, Pace::Closed)
                .run()
                .await?,
        )?;
        let expected = before + i64::try_from(run.accepted_in_all)?;
        wait(DRAIN, async || Ok(completed(url).await? >= expected)).await?;
        Ok((expected - before) as f64 / began.elapsed().as_secs_f64())
    }
}

/// Orders that are to be tried again.
async fn waiting(url: &str) -> Result<i64> {
    let count = "SELECT count(*) FROM webhook_logs WHERE status = 'retrying'";
    Ok(postgres(url).await?.query_one(count, &[]).await?.try_get(0)?)
}

async fn cores_while_idle(pid: u32) -> Result<f64> {
    // What is left of the load ends first.
    tokio::time::sleep(RUN).await;
    let before = cpu_seconds(pid)?;
    tokio::time::sleep(IDLE).await;
    Ok((cpu_seconds(pid)? - before) / IDLE.as_secs_f64())
}
