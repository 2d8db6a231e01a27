//! How fast a job may go. Pure but for the clock that it is handed.

use std::time::Duration;

use tokio::time::Instant;

/// Grants letters at a rate. What was not used for longer than a second is lost, so that no burst follows a pause.
pub(super) struct Pace {
    rate: f64,
    granted_at: Instant,
    left: f64,
}

impl Pace {
    /// So many a second, from now on.
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        Self {
            rate: f64::from(rate.max(1)),
            granted_at: now,
            left: 1.0,
        }
    }

    /// Takes at most `most` letters.
    ///
    /// # Errors
    /// How long to wait until there is one.
    pub(super) fn take(&mut self, most: usize, now: Instant) -> Result<usize, Duration> {
        let since = now.duration_since(self.granted_at).as_secs_f64();
        self.granted_at = now;
        self.left = (self.left + since * self.rate).min(self.rate.max(1.0));
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / self.rate) + Duration::from_millis(1));
        }
        // At most a thousand.
        let granted = (self.left as usize).min(most);
        self.left -= granted as f64;
        Ok(granted)
    }

    /// Gives back letters that were taken and not used.
    pub(super) fn give_back(&mut self, count: usize) {
        self.left += count as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_the_rate_and_no_burst_follows_a_pause() {
        let began = Instant::now();
        let mut pace = Pace::new(10, began);
        let mut taken = 0;
        for ms in (0..=2000).step_by(10) {
            taken += pace.take(100, began + Duration::from_millis(ms)).unwrap_or_default();
        }
        assert!((20..=21).contains(&taken), "{taken}");
        assert_eq!(pace.take(100, began + Duration::from_secs(60)), Ok(10));
        let wait = pace.take(100, began + Duration::from_secs(60)).unwrap_err();
        assert!(
            wait > Duration::from_millis(90) && wait < Duration::from_millis(110),
            "{wait:?}"
        );
        pace.give_back(3);
        assert_eq!(pace.take(2, began + Duration::from_secs(60)), Ok(2));
        assert_eq!(pace.take(2, began + Duration::from_secs(60)), Ok(1));
    }
}
