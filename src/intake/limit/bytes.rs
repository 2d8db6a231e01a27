//! Bytes of a provider's verified webhooks: how many it may send in a window, and how many it put on the log lately. Pure; the
//! time is passed in.

use super::window::Wait;

/// After this many milliseconds, half of what a provider put on the log counts: an hour of a flood is seen for a day.
const HALF_LIFE_MS: f64 = 6.0 * 3600.0 * 1000.0;

/// Of one provider.
#[derive(Debug, Clone, Default)]
pub struct Bytes {
    /// Which window: time since 1970 by its length.
    window: u64,
    used: u64,
    recent: f64,
    at_ms: u64,
}

impl Bytes {
    /// Takes so many of what is left in a window.
    ///
    /// # Errors
    /// How long to wait for the next window. One that is larger than a whole window is let in at its beginning.
    pub fn take(&mut self, bytes: u64, most: u64, window_ms: u64, now_ms: u64) -> Result<(), Wait> {
        let window = now_ms / window_ms;
        if window != self.window {
            (self.window, self.used) = (window, 0);
        }
        if self.used > 0 && self.used.saturating_add(bytes) > most {
            return Err(Wait {
                ms: (window + 1) * window_ms - now_ms,
                is_spent: true,
            });
        }
        self.used = self.used.saturating_add(bytes);
        self.recent = self.recent(now_ms) + bytes as f64;
        self.at_ms = now_ms;
        Ok(())
    }

    /// Gives them back: they were not stored.
    pub fn give_back(&mut self, bytes: u64, window: u64) {
        if window == self.window {
            self.used = self.used.saturating_sub(bytes);
        }
        self.recent = (self.recent - bytes as f64).max(0.0);
    }

    /// How many were taken lately; older ones count less.
    pub fn recent(&self, now_ms: u64) -> f64 {
        let age = now_ms.saturating_sub(self.at_ms) as f64;
        self.recent * 0.5_f64.powf(age / HALF_LIFE_MS)
    }

    /// The window that the last ones were taken of.
    pub const fn window(&self) -> u64 {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 60_000;

    #[test]
    fn a_window_has_so_many_bytes() {
        let (mut bytes, now) = (Bytes::default(), 100 * WINDOW + 15_000);
        assert!(bytes.take(600, 1000, WINDOW, now).is_ok());
        assert!(bytes.take(400, 1000, WINDOW, now + 1).is_ok());
        let wait = bytes.take(1, 1000, WINDOW, now + 5000).unwrap_err();
        assert_eq!((wait.ms, wait.is_spent), (40_000, true));
        bytes.give_back(400, bytes.window());
        assert!(bytes.take(400, 1000, WINDOW, now + 5000).is_ok());
        // The next window is its own; one that is larger than a window has one for itself.
        assert!(bytes.take(5000, 1000, WINDOW, now + WINDOW).is_ok());
        assert!(bytes.take(1, 1000, WINDOW, now + WINDOW).is_err());
    }

    #[test]
    fn what_was_long_ago_counts_less() {
        let (mut bytes, half) = (Bytes::default(), HALF_LIFE_MS as u64);
        bytes.take(1000, u64::MAX, WINDOW, half).unwrap();
        assert_eq!(bytes.recent(half), 1000.0);
        assert_eq!(bytes.recent(2 * half), 500.0);
        bytes.take(100, u64::MAX, WINDOW, 2 * half).unwrap();
        assert_eq!(bytes.recent(3 * half), 300.0);
        bytes.give_back(100, 0);
        assert!(bytes.recent(3 * half) < 300.0);
    }
}
