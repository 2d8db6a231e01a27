//! Shows the progress of long work on standard error: a bar at a terminal, otherwise a line now and then. Both have the rate and the time
//! that is left.

use std::{
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use super::tell;
use crate::projection::rebuild::Progress;

/// How often a line is printed.
const SAY_EVERY: Duration = Duration::from_secs(2);
/// How often a bar is drawn, at most, in a second.
const DRAWS_PER_SECOND: u8 = 5;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Events, rows or requests.
    Pieces,
    /// Bytes. How many there are in total is an estimate.
    Bytes,
}

/// Shows the progress of work, phase by phase.
pub(super) struct ProgressDisplay {
    unit: Unit,
    shown: Mutex<Shown>,
}

enum Shown {
    /// At a terminal. The bar of the current phase, once there is one.
    Bar(Option<(&'static str, ProgressBar)>),
    /// In a file or a pipe. The current phase, once there is one.
    Lines(Option<Phase>),
    /// Nowhere.
    Nothing,
}

struct Phase {
    name: &'static str,
    began: Instant,
    said: Instant,
}

impl ProgressDisplay {
    /// A bar at a terminal, lines elsewhere.
    pub(super) fn new(unit: Unit) -> Self {
        Self::of(unit, Shown::Lines(None))
    }

    /// A bar at a terminal, nothing elsewhere.
    pub(super) fn at_a_terminal(unit: Unit) -> Self {
        Self::of(unit, Shown::Nothing)
    }

    fn of(unit: Unit, elsewhere: Shown) -> Self {
        let shown = match std::io::stderr().is_terminal() {
            true => Shown::Bar(None),
            false => elsewhere,
        };
        Self {
            unit,
            shown: Mutex::new(shown),
        }
    }

    /// Shows how far the work is, if that is due.
    pub(super) fn tell(&self, progress: Progress) {
        // A panic while it was locked lost a line at most.
        match &mut *self.shown.lock().unwrap_or_else(PoisonError::into_inner) {
            Shown::Bar(bar) => draw(bar, self.unit, progress),
            Shown::Lines(phase) => self.say(phase, progress),
            Shown::Nothing => {}
        }
    }

    fn say(&self, current: &mut Option<Phase>, progress: Progress) {
        let now = Instant::now();
        match current {
            Some(phase) if phase.name == progress.phase => {
                if now.duration_since(phase.said) >= SAY_EVERY {
                    phase.said = now;
                    tell(line(self.unit, progress, now.duration_since(phase.began)));
                }
            }
            _ => {
                *current = Some(Phase {
                    name: progress.phase,
                    began: now,
                    said: now,
                });
            }
        }
    }
}

fn draw(current: &mut Option<(&'static str, ProgressBar)>, unit: Unit, progress: Progress) {
    let Progress { phase, done, of } = progress;
    if current.as_ref().is_none_or(|(name, _)| *name != phase) {
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
        // Dropping the bar of the phase before removes it from the screen.
        let bar = ProgressBar::with_draw_target(Some(of), target)
            .with_style(style(unit))
            .with_prefix(phase)
            .with_finish(ProgressFinish::AndClear);
        *current = Some((phase, bar));
    }
    if let Some((_, bar)) = current {
        bar.set_length(of.max(done));
        bar.set_position(done);
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let template = match unit {
        Unit::Pieces => "{prefix}: {wide_bar} {human_pos} of {human_len} ({percent} %), {per_sec}, {eta} left",
        Unit::Bytes => {
            "{prefix}: {wide_bar} {decimal_bytes} of about {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left"
        }
    };
    // A template that cannot be read would only change how the bar looks; the tests read both.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn line(unit: Unit, progress: Progress, since: Duration) -> String {
    let Progress { phase, done, of } = progress;
    let rate = done as f64 / since.as_secs_f64().max(0.001);
    let left = match of.saturating_sub(done) as f64 / rate {
        seconds if seconds.is_finite() => format!("{seconds:.0} s left"),
        _ => "time left not known".to_owned(),
    };
    match unit {
        Unit::Pieces => {
            let percent = 100 * done / of.max(1);
            format!("{phase}: {done} of {of} ({percent} %), {rate:.0}/s, {left}")
        }
        Unit::Bytes => {
            let megabytes = |bytes: f64| bytes / 1e6;
            let (now, all, rate) = (megabytes(done as f64), megabytes(of as f64), megabytes(rate));
            format!("{phase}: {now:.1} MB of about {all:.1} MB, {rate:.1} MB/s, {left}")
        }
    }
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, TermLike};

    use super::*;

    const EVENTS: Progress = Progress {
        phase: "reading the log",
        done: 2000,
        of: 10_000,
    };

    #[test]
    fn a_line_says_rate_and_time_left() {
        let said = line(Unit::Pieces, EVENTS, Duration::from_secs(4));
        assert_eq!(said, "reading the log: 2000 of 10000 (20 %), 500/s, 16 s left");
        let none = line(
            Unit::Pieces,
            Progress {
                done: 0,
                of: 0,
                ..EVENTS
            },
            Duration::ZERO,
        );
        assert!(
            none.contains("0 of 0") && none.ends_with("time left not known"),
            "{none}"
        );
    }

    #[test]
    fn a_line_about_bytes_says_rate_and_time_left() {
        let sent = |done| {
            let progress = Progress {
                phase: "sent",
                done,
                of: 80_000_000,
            };
            line(Unit::Bytes, progress, Duration::from_secs(4))
        };
        assert_eq!(sent(20_000_000), "sent: 20.0 MB of about 80.0 MB, 5.0 MB/s, 12 s left");
        let more = sent(90_000_000);
        assert!(more.ends_with("22.5 MB/s, 0 s left"), "{more}");
        let none = sent(0);
        assert!(none.ends_with("0.0 MB/s, time left not known"), "{none}");
    }

    #[test]
    fn a_bar_says_how_far_it_is() {
        for (unit, expected) in [
            (Unit::Pieces, "2,000 of 10,000 (20 %)"),
            (Unit::Bytes, "2.00 kB of about 10.00 kB"),
        ] {
            let terminal = InMemoryTerm::new(2, 120);
            let mut current = None;
            draw(&mut current, unit, EVENTS);
            let (_, bar) = current.expect("a bar");
            bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(terminal.clone())));
            bar.tick();
            terminal.flush().expect("a terminal in memory");
            let screen = terminal.contents();
            assert!(
                screen.starts_with("reading the log: ") && screen.contains(expected),
                "{screen}"
            );
            assert!(screen.ends_with("left"), "{screen}");
        }
    }
}
