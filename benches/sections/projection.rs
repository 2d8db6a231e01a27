//! (c) All tables from the log, beside a plain insert of the same rows.

use std::time::Instant;

use anyhow::Result;
use webhook_hub::journal::streams;

use super::{Bench, position};
use crate::{
    plain_insert::plain_insert,
    results::row::{Goal, Samples},
    saturate::{DRAIN, wait},
    setup::{PATIENCE, postgres},
};

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
        }
        self.push(samples);
        Ok(())
    }
}
