//! (c) All tables from the log, beside a plain insert of the same rows: by a hub with an empty database, by `rebuild`, and by `verify`.
//! And the log's webhooks through the transformation again, by `replay --diff`.

use std::{
    thread::available_parallelism,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use webhook_hub::{
    config::Environment,
    journal::streams,
    operator::queries::replay::{self, Asked as Replay, Readings},
};

use super::{Bench, position};
use crate::{
    plain_insert::plain_insert,
    process::to_its_end,
    results::row::{Goal, Samples},
    saturate::{DRAIN, MB, wait},
    setup::{PATIENCE, postgres},
};

/// Time for the tables to take an event, if the log is long.
const LONGEST_EACH: Duration = Duration::from_micros(500);
/// Orders that each core replays in a second: 20,000 on four.
const REPLAYED_A_CORE: f64 = 5000.0;

impl Bench {
    pub(crate) async fn projection(&mut self) -> Result<()> {
        if self.database_url.is_none() {
            return Ok(());
        }
        let mut samples = Samples::new("projection");
        let connection = self.servers.hub_connection().await?;
        let events = match self.events {
            Some(events) => self.lengthen_log(events).await?,
            None => streams::last_sequence(&connection).await?,
        };
        samples.add("events on the log", events as f64, "");
        for round in 0..self.rounds {
            let url = self.servers.new_database(&format!("rebuild_{round}")).await?;
            let client = postgres(&url).await?;
            let began = Instant::now();
            let child = self.servers.hub(&url, &self.traffic.backend())?;
            wait(DRAIN.max(LONGEST_EACH * u32::try_from(events)?), async || {
                Ok(position(&client).await? >= events as i64)
            })
            .await?;
            let rebuild = began.elapsed().as_secs_f64();
            child.stop(PATIENCE)?;
            samples.add("tables from an empty database", events as f64 / rebuild, "events/s");
            let what = "tables from an empty database, start of the hub included";
            samples.add(what, rebuild, "s");
            let rebuilt = self.made_again(&url, events, &mut samples).await?;
            // The last one, because a long log takes as long for it as for all others.
            let plain = self.servers.new_database(&format!("plain_{round}")).await?;
            let insert = plain_insert(&url, &plain).await?;
            samples.add("the same rows by plain UNNEST inserts", insert, "s");
            let share = samples.add("share of the plain insert", insert / rebuild, "");
            share.wants(Goal::AtLeast(0.7));
            let share = samples.add("share of the plain insert, rebuild", insert / rebuilt, "");
            share.wants(Goal::AtLeast(0.8));
        }
        // Copies of orders say other things than what became of them.
        for _ in 0..self.rounds * usize::from(self.events.is_none()) {
            self.replayed(&mut samples).await?;
        }
        self.push(samples);
        Ok(())
    }

    /// The webhooks of the log by the current files, on all cores.
    async fn replayed(&self, samples: &mut Samples) -> Result<()> {
        let cores = available_parallelism()?.get();
        let mut logs = Vec::new();
        for _ in 0..cores {
            logs.push(self.servers.hub_connection().await?);
        }
        let readings = Readings::from_environment(&Environment::default(), None)?;
        let replayed = replay::diff(&logs, readings, Replay::default(), 1, &|_| ()).await?;
        ensure!(
            replayed.is_same && replayed.waiting == 0,
            "{} of {} orders came out differently, {} have no outcome",
            replayed.different,
            replayed.compared,
            replayed.waiting
        );
        samples.add("orders replayed by replay --diff", replayed.compared as f64, "");
        let rate = samples.add("replay --diff", replayed.compared as f64 / replayed.seconds, "orders/s");
        rate.wants(Goal::AtLeast(REPLAYED_A_CORE * cores as f64));
        Ok(())
    }

    /// The same tables by `rebuild`, beside the live ones, and `verify`: each by the hub's program, so with its memory. Returns how many
    /// seconds `rebuild` took.
    async fn made_again(&self, url: &str, events: u64, samples: &mut Samples) -> Result<f64> {
        let rebuilt = to_its_end(self.servers.operator(url, &["--json", "rebuild"])).await?;
        let said: Value = serde_json::from_str(&rebuilt.output)?;
        ensure!(
            said["events"].as_u64() >= Some(events),
            "not all of {events} events were applied: {said}"
        );
        samples.add("rebuild of all tables", events as f64 / rebuilt.seconds, "events/s");
        let locked = said["lockedSeconds"].as_f64().context("lockedSeconds")?;
        samples.add("tables locked by the exchange", locked * 1000.0, "ms");
        samples.add("resident memory of rebuild, largest", rebuilt.largest as f64 / MB, "MB");
        let verified = to_its_end(self.servers.operator(url, &["--json", "verify"])).await?;
        let said: Value = serde_json::from_str(&verified.output)?;
        ensure!(
            said["isSame"] == true,
            "the rebuilt tables are not what the log says: {said}"
        );
        samples.add("verify of all tables", events as f64 / verified.seconds, "events/s");
        Ok(rebuilt.seconds)
    }
}
