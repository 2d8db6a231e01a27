//! (a) The intake alone beside the bare handler: no database, so the stages wait and take no CPU from it.

use anyhow::Result;

use super::{Bench, STEADY_CONNECTIONS};
use crate::{
    load::Pace,
    results::row::{Goal, Samples},
    setup::PATIENCE,
    traffic::steady,
};

impl Bench {
    pub(crate) async fn accept(&mut self) -> Result<()> {
        let mut samples = Samples::new("accept");
        // First, for the unsynced runs leave the disk with much to write.
        self.in_steady_rounds("accept at 500/s", &mut samples, async |bench, round| {
            let child = bench.servers.intake()?;
            let run = bench.traffic.apart(child.port(), STEADY_CONNECTIONS, steady());
            let latency = run.run().await?.good()?.latency;
            child.stop(PATIENCE)?;
            let p50 = round.add("fsynced at 500/s, p50", latency.milliseconds(0.50), "ms");
            p50.wants(Goal::AtMost(2.0));
            let p99 = round.add("fsynced at 500/s, p99", latency.milliseconds(0.99), "ms");
            p99.wants(Goal::AtMost(10.0));
            Ok(())
        })
        .await?;
        for (connections, goal) in [(64, None), (256, Some(0.60)), (1000, Some(0.85))] {
            let part = format!("accept, {connections} connections");
            let of_round = async |bench: &Self, round: &mut Samples| bench.beside_bare(connections, goal, round).await;
            self.in_steady_rounds(&part, &mut samples, of_round).await?;
        }
        self.bare_at_256 = samples.median("bare handler, no fsync, 256 connections");
        self.push(samples);
        Ok(())
    }

    /// The bare handler, then the hub, at so many connections.
    async fn beside_bare(&self, connections: usize, goal: Option<f64>, samples: &mut Samples) -> Result<()> {
        let at = |what: &str| format!("{what}, {connections} connections");
        let child = self.bare()?;
        let bare = self.traffic.apart(child.port(), connections, Pace::Closed);
        let bare = bare.run().await?.good()?;
        child.stop(PATIENCE)?;
        let child = self.servers.intake()?;
        let hub = self.traffic.apart(child.port(), connections, Pace::Closed);
        let hub = hub.run().await?.good()?;
        child.stop(PATIENCE)?;
        samples.add(at("bare handler, no fsync"), bare.rate_per_s, "accepts/s");
        samples.add(at("hub, fsynced"), hub.rate_per_s, "accepts/s");
        samples.add(at("hub p50"), hub.latency.milliseconds(0.50), "ms");
        samples.add(at("hub p99"), hub.latency.milliseconds(0.99), "ms");
        let generator = hub.generator_cores.unwrap_or(f64::NAN);
        samples.add(at("load generator"), generator, "cores");
        let share = hub.rate_per_s / bare.rate_per_s;
        let share = samples.add(at("share of the bare handler"), share, "");
        if let Some(goal) = goal {
            share.wants(Goal::AtLeast(goal));
        }
        Ok(())
    }
}
