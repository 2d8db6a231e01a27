//! Shows the progress of long work on standard error: a line now and then, with the rate and the time that is left.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use super::tell;
use crate::projection::rebuild::Progress;

/// How often a line is printed.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// Prints the progress of work, phase by phase.
pub(super) struct Lines(Mutex<Phase>);

struct Phase {
    name: &'static str,
    began: Instant,
    said: Instant,
}

impl Lines {
    /// Before anything is done.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Phase {
            name: "",
            began: now,
            said: now,
        }))
    }

    /// Prints how far it is, where that is due.
    pub(super) fn tell(&self, progress: Progress) {
        let now = Instant::now();
        // A panic while it was locked lost a line at most.
        let mut phase = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if phase.name != progress.phase {
            *phase = Phase {
                name: progress.phase,
                began: now,
                said: now,
            };
        } else if now.duration_since(phase.said) >= SAY_EVERY {
            phase.said = now;
            tell(line(progress, now.duration_since(phase.began)));
        }
    }
}

fn line(progress: Progress, since: Duration) -> String {
    let Progress { phase, done, of } = progress;
    let rate = done as f64 / since.as_secs_f64().max(0.001);
    let left = if rate > 0.0 {
        of.saturating_sub(done) as f64 / rate
    } else {
        0.0
    };
    let percent = 100 * done / of.max(1);
    format!("{phase}: {done} of {of} ({percent} %), {rate:.0}/s, {left:.0} s left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_rate_and_time_left() {
        let progress = Progress {
            phase: "reading the log",
            done: 2000,
            of: 10_000,
        };
        let said = line(progress, Duration::from_secs(4));
        assert_eq!(said, "reading the log: 2000 of 10000 (20 %), 500/s, 16 s left");
        assert!(
            line(
                Progress {
                    done: 0,
                    of: 0,
                    ..progress
                },
                Duration::ZERO
            )
            .contains("0 of 0")
        );
    }
}
