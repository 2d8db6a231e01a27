//! What the rate limits cost, on a hub that never comes to one.

use anyhow::Result;

use super::{Bench, ROUNDS, SATURATING_CONNECTIONS, good, median};
use crate::{
    load::Pace,
    report::{Goal, Row},
    setup::PATIENCE,
};

/// Of the accept rate without them, what must be left with them.
const SHARE_LEFT: f64 = 0.95;

impl Bench {
    /// The intake with rate limits and without, in turns.
    pub(crate) async fn limits(&mut self) -> Result<()> {
        const SECTION: &str = "limits";
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            for (runs, is_limited) in [(&mut with, true), (&mut without, false)] {
                let child = if is_limited {
                    self.servers.intake()?
                } else {
                    self.servers.intake_without_limits()?
                };
                let load = self.apart(child.port(), SATURATING_CONNECTIONS, Pace::Closed);
                runs.push(good(load.run().await?)?);
                child.stop(PATIENCE)?;
            }
        }
        let (with, without) = (median(with).rate_per_s, median(without).rate_per_s);
        let at = |what: &str| format!("{what}, {SATURATING_CONNECTIONS} connections");
        self.push(Row::number(SECTION, at("hub with rate limits"), with, "accepts/s"));
        self.push(Row::number(SECTION, at("hub without"), without, "accepts/s"));
        let share = Row::number(SECTION, at("share that is left with them"), with / without, "");
        self.push(share.goal(Goal::AtLeast(SHARE_LEFT)));
        Ok(())
    }
}
