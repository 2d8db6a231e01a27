//! The fill level of the log: the share of `max_bytes` that `EVENTS` uses, as the server last reported it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// From this part on the log counts as nearly full: the principals that fill it are then refused before the others.
const NEARLY_FULL: f64 = 0.9;
/// Parts at which the log of the hub says so: once, until it falls below.
const SAID_AT: [(f64, &str); 3] = [(0.7, "filling"), (NEARLY_FULL, "nearly full"), (0.97, "almost full")];

/// How full the log is. Zero of zero bytes until the server's first answer.
#[derive(Debug, Default)]
pub struct Fill {
    bytes: AtomicU64,
    /// Zero for no limit.
    most: AtomicU64,
    /// How many of [`SAID_AT`] were said.
    reported: AtomicU8,
}

impl Fill {
    /// Bytes that are left, where that is little.
    pub fn nearly_full(&self) -> Option<u64> {
        let (bytes, most) = (self.bytes.load(Ordering::Relaxed), self.most.load(Ordering::Relaxed));
        (most > 0 && part(bytes, most) >= NEARLY_FULL).then(|| most.saturating_sub(bytes))
    }

    /// Sets the server's figures; `max_bytes` is negative or zero for no limit.
    pub(super) fn set(&self, bytes: u64, max_bytes: i64) {
        let most = u64::try_from(max_bytes).unwrap_or(0);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.most.store(most, Ordering::Relaxed);
        metrics::gauge!("event_log_bytes").set(bytes as f64);
        metrics::gauge!("event_log_max_bytes").set(most as f64);
        let part = if most > 0 { part(bytes, most) } else { 0.0 };
        metrics::gauge!("event_log_fill_ratio").set(part);
        let reached = SAID_AT.iter().filter(|(at, _)| part >= *at).count();
        let reported = usize::from(
            self.reported
                .swap(u8::try_from(reached).unwrap_or(u8::MAX), Ordering::Relaxed),
        );
        if reached > reported {
            let percent = (part * 100.0) as u64;
            let word = SAID_AT[reached - 1].1;
            if part >= NEARLY_FULL {
                tracing::error!(
                    bytes,
                    max_bytes,
                    percent,
                    "the event log is {word}; when it is full every webhook is refused"
                );
            } else {
                tracing::warn!(bytes, max_bytes, percent, "the event log is {word}");
            }
        }
    }
}

fn part(bytes: u64, most: u64) -> f64 {
    bytes as f64 / most as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_full_is_nine_tenths_of_a_limit() {
        let fill = Fill::default();
        assert_eq!(fill.nearly_full(), None);
        for (bytes, most, left) in [
            (899, 1000, None),
            (900, 1000, Some(100)),
            (1000, 1000, Some(0)),
            (1001, 1000, Some(0)),
            (1 << 40, -1, None),
            (1 << 40, 0, None),
        ] {
            fill.set(bytes, most);
            assert_eq!(fill.nearly_full(), left, "{bytes} of {most}");
        }
    }
}
