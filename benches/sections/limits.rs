//! What the rate limits cost, on a hub that never comes to one.

use anyhow::Result;

use super::{Bench, SATURATING_CONNECTIONS};
use crate::{
    load::Pace,
    results::row::{Goal, Samples},
    setup::PATIENCE,
};

/// Of the accept rate without them, what must be left with them.
const SHARE_LEFT: f64 = 0.95;

impl Bench {
    /// The intake with rate limits and without, in turns.
    pub(crate) async fn limits(&mut self) -> Result<()> {
        let mut samples = Samples::new("limits");
        let at = |what: &str| format!("{what}, {SATURATING_CONNECTIONS} connections");
        for _ in 0..self.rounds {
            let with = self.accepts_per_second(true).await?;
            let without = self.accepts_per_second(false).await?;
            samples.add(at("hub with rate limits"), with, "accepts/s");
            samples.add(at("hub without"), without, "accepts/s");
            let share = samples.add(at("share that is left with them"), with / without, "");
            share.wants(Goal::AtLeast(SHARE_LEFT));
        }
        self.push(samples);
        Ok(())
    }

    async fn accepts_per_second(&self, is_limited: bool) -> Result<f64> {
        let child = if is_limited {
            self.servers.intake()?
        } else {
            self.servers.intake_without_limits()?
        };
        let load = self.traffic.apart(child.port(), SATURATING_CONNECTIONS, Pace::Closed);
        let rate = load.run().await?.good()?.rate_per_s;
        child.stop(PATIENCE)?;
        Ok(rate)
    }
}
