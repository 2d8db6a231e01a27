//! (c) All tables from the log, beside a plain insert of the same rows: by a hub with an empty database, by `rebuild`, and by `verify`.
//! And the log's webhooks through the transformation again, by `replay --diff`.

use std::{thread::available_parallelism, time::Instant};

use anyhow::{Result, ensure};
use webhook_hub::{
    config::{self, Environment},
    database::Database,
    journal::{connection::Connection, streams},
    operator::queries::replay::{self, Asked as Replay, Readings},
    projection::rebuild::{self, Asked, Parts},
};

use super::{Bench, position};
use crate::{
    plain_insert::plain_insert,
    results::row::{Goal, Samples},
    saturate::{DRAIN, wait},
    setup::{PATIENCE, postgres},
};

/// Orders that each core replays in a second: 20,000 on four.
const REPLAYED_A_CORE: f64 = 5000.0;

impl Bench {
    pub(crate) async fn projection(&mut self) -> Result<()> {
        let Some(source) = self.database_url.clone() else {
            return Ok(());
        };
        let mut samples = Samples::new("projection");
        let connection = self.servers.hub_connection().await?;
        let events = streams::last_sequence(&connection).await?;
        samples.add("events on the log", events as f64, "");
        for round in 0..self.rounds {
            let url = self.servers.new_database(&format!("rebuild_{round}")).await?;
            let client = postgres(&url).await?;
            let began = Instant::now();
            let child = self.servers.hub(&url, &self.traffic.backend())?;
            wait(DRAIN, async || Ok(position(&client).await? >= events as i64)).await?;
            let rebuild = began.elapsed().as_secs_f64();
            child.stop(PATIENCE)?;
            let plain = self.servers.new_database(&format!("plain_{round}")).await?;
            let insert = plain_insert(&source, &plain).await?;
            samples.add("tables from an empty database", events as f64 / rebuild, "events/s");
            samples.add("the same rows by plain UNNEST inserts", insert, "s");
            let what = "tables from an empty database, start of the hub included";
            samples.add(what, rebuild, "s");
            let share = samples.add("share of the plain insert", insert / rebuild, "");
            share.wants(Goal::AtLeast(0.7));
            self.made_again(&url, (&connection, events), insert, &mut samples)
                .await?;
        }
        for _ in 0..self.rounds {
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

    /// The same tables by `rebuild`, beside the live ones, and `verify`.
    async fn made_again(
        &self,
        url: &str,
        (log, events): (&Connection, u64),
        insert: f64,
        samples: &mut Samples,
    ) -> Result<()> {
        let environment = Environment::from_iter([("DATABASE_URL", url.to_owned())]);
        let database = Database::new(&config::Database::from_environment(&environment)?)?;
        let parts = Parts {
            log,
            database: &database,
            tell: &|_| (),
        };
        let began = Instant::now();
        let rebuilt = Box::pin(rebuild::rebuild(parts, &[], false)).await?;
        let took = began.elapsed().as_secs_f64();
        ensure!(
            rebuilt.events == events,
            "{} of {events} events were applied",
            rebuilt.events
        );
        samples.add("rebuild of all tables", events as f64 / took, "events/s");
        samples.add("tables locked by the exchange", rebuilt.locked_seconds * 1000.0, "ms");
        let share = samples.add("share of the plain insert, rebuild", insert / took, "");
        share.wants(Goal::AtLeast(0.8));
        let began = Instant::now();
        let verified = Box::pin(rebuild::verify(parts, &Asked::default())).await?;
        ensure!(verified.is_same, "the rebuilt tables are not what the log says");
        samples.add(
            "verify of all tables",
            events as f64 / began.elapsed().as_secs_f64(),
            "events/s",
        );
        Ok(())
    }
}
