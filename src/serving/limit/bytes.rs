//! Bytes of a provider's verified webhooks: how many it may send in a window, and how many each of its principals put on the log
//! lately. Pure; the time is passed in.

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;

use super::window::QuotaWait;

/// After this many milliseconds, half of what a principal put on the log counts: an hour of a flood is seen for a day.
const HALF_LIFE_MS: f64 = 6.0 * 3600.0 * 1000.0;
/// Most branches of one provider with remembered bytes, some 100 bytes each; of more, those that sent nothing for longest are
/// forgotten.
const MAX_BRANCHES: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");

/// The principal that the bytes count for.
#[derive(Debug, Clone, Copy)]
pub struct BytesOwner<'a> {
    /// A branch by its own secret; else the provider.
    pub branch: Option<&'a Arc<str>>,
    /// Whether the webhook was there before. Who caught one can send it again, so the provider's repeats are counted apart from what it
    /// sends itself. A branch's are the branch's.
    pub is_repeat: bool,
}

/// Of one provider.
#[derive(Debug)]
pub struct Bytes {
    /// Which window: time since 1970 by its length.
    window: u64,
    used: u64,
    /// The same by repeats, which have as many.
    used_by_repeats: u64,
    /// Put on the log by the provider's own secret.
    of_provider: Recent,
    /// By its repeats.
    of_repeats: Recent,
    /// By a branch's, with its repeats.
    of_branches: LruCache<Arc<str>, Recent>,
}

impl Default for Bytes {
    fn default() -> Self {
        Self {
            window: 0,
            used: 0,
            used_by_repeats: 0,
            of_provider: Recent::default(),
            of_repeats: Recent::default(),
            of_branches: LruCache::new(MAX_BRANCHES),
        }
    }
}

/// Bytes that were recently put on the log; older ones count less.
#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    bytes: f64,
    at_ms: u64,
}

impl Recent {
    fn now(self, now_ms: u64) -> f64 {
        let age = now_ms.saturating_sub(self.at_ms) as f64;
        self.bytes * 0.5_f64.powf(age / HALF_LIFE_MS)
    }

    fn add(&mut self, bytes: u64, now_ms: u64) {
        self.bytes = self.now(now_ms) + bytes as f64;
        self.at_ms = now_ms;
    }
}

impl Bytes {
    /// Takes so many of what is left in a window; of which window.
    ///
    /// # Errors
    /// How long to wait for the next window. One that is larger than a whole window is let in at its beginning.
    pub fn take(
        &mut self,
        of: BytesOwner<'_>,
        bytes: u64,
        (most, window_ms): (u64, u64),
        now_ms: u64,
    ) -> Result<u64, QuotaWait> {
        let window = now_ms / window_ms;
        if window != self.window {
            (self.window, self.used, self.used_by_repeats) = (window, 0, 0);
        }
        let used = self.used(of);
        if *used > 0 && used.saturating_add(bytes) > most {
            return Err(QuotaWait {
                ms: (window + 1) * window_ms - now_ms,
                is_spent: true,
            });
        }
        *used = used.saturating_add(bytes);
        let recent = match of.branch {
            None if of.is_repeat => &mut self.of_repeats,
            None => &mut self.of_provider,
            Some(branch) => self.of_branches.get_or_insert_mut(Arc::clone(branch), Recent::default),
        };
        recent.add(bytes, now_ms);
        Ok(window)
    }

    /// Gives bytes of this window back: they were not stored. A later window has nothing of them.
    pub fn give_back(&mut self, of: BytesOwner<'_>, bytes: u64, window: u64) {
        if window == self.window {
            let used = self.used(of);
            *used = used.saturating_sub(bytes);
        }
        let recent = match of.branch {
            None if of.is_repeat => Some(&mut self.of_repeats),
            None => Some(&mut self.of_provider),
            Some(branch) => self.of_branches.peek_mut(branch),
        };
        if let Some(recent) = recent {
            recent.bytes = (recent.bytes - bytes as f64).max(0.0);
        }
    }

    /// How many were put on the log lately; older ones count less.
    pub fn recent(&self, of: BytesOwner<'_>, now_ms: u64) -> f64 {
        let recent = match of.branch {
            None if of.is_repeat => Some(&self.of_repeats),
            None => Some(&self.of_provider),
            Some(branch) => self.of_branches.peek(branch),
        };
        recent.map_or(0.0, |recent| recent.now(now_ms))
    }

    const fn used(&mut self, of: BytesOwner<'_>) -> &mut u64 {
        if of.is_repeat {
            &mut self.used_by_repeats
        } else {
            &mut self.used
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 60_000;

    fn new(branch: Option<&Arc<str>>) -> BytesOwner<'_> {
        BytesOwner {
            branch,
            is_repeat: false,
        }
    }

    fn repeat(branch: Option<&Arc<str>>) -> BytesOwner<'_> {
        BytesOwner {
            branch,
            is_repeat: true,
        }
    }

    #[test]
    fn a_window_is_limited_in_bytes() {
        let (mut bytes, now) = (Bytes::default(), 100 * WINDOW + 15_000);
        let (branch, most) = (Arc::from("a"), (1000, WINDOW));
        assert!(bytes.take(new(None), 600, most, now).is_ok());
        assert!(bytes.take(new(Some(&branch)), 400, most, now + 1).is_ok());
        let wait = bytes.take(new(None), 1, most, now + 5000).unwrap_err();
        assert_eq!((wait.ms, wait.is_spent), (40_000, true));
        bytes.give_back(new(Some(&branch)), 400, 100);
        assert!(bytes.take(new(None), 400, most, now + 5000).is_ok());
        // The next window starts empty; a webhook that is larger than a window may have a whole one.
        assert!(bytes.take(new(None), 5000, most, now + WINDOW).is_ok());
        assert!(bytes.take(new(None), 1, most, now + WINDOW).is_err());
    }

    #[test]
    fn bytes_returned_late_do_not_enter_the_next_window() {
        let (mut bytes, most) = (Bytes::default(), (1000, WINDOW));
        let first = bytes.take(new(None), 600, most, 2 * WINDOW - 1).unwrap();
        let second = bytes.take(new(None), 700, most, 2 * WINDOW).unwrap();
        assert_eq!((first, second), (1, 2));
        bytes.give_back(new(None), 600, first);
        assert!(bytes.take(new(None), 400, most, 2 * WINDOW).is_err());
        assert!(bytes.take(new(None), 300, most, 2 * WINDOW).is_ok());
    }

    #[test]
    fn repeats_spend_bytes_of_their_own() {
        let branch = Arc::from("a");
        let (mut bytes, most) = (Bytes::default(), (1000, WINDOW));
        bytes.take(repeat(None), 600, most, WINDOW).unwrap();
        bytes.take(repeat(Some(&branch)), 400, most, WINDOW).unwrap();
        assert!(bytes.take(repeat(None), 1, most, WINDOW).is_err());
        assert!(bytes.take(new(None), 1000, most, WINDOW).is_ok());
        // Bytes of repeats on the log count for the branch, but not for the provider's quota.
        let recent = |of| bytes.recent(of, WINDOW);
        assert_eq!([recent(repeat(None)), recent(new(None))], [600.0, 1000.0]);
        assert_eq!(
            [recent(repeat(Some(&branch))), recent(new(Some(&branch)))],
            [400.0, 400.0]
        );
        bytes.give_back(repeat(None), 600, 1);
        assert_eq!(bytes.recent(repeat(None), WINDOW), 0.0);
        assert!(bytes.take(repeat(None), 600, most, WINDOW).is_ok());
        assert!(bytes.take(repeat(None), 600, most, 2 * WINDOW).is_ok());
    }

    #[test]
    fn older_bytes_count_less() {
        let (mut bytes, half) = (Bytes::default(), HALF_LIFE_MS as u64);
        let most = (u64::MAX, WINDOW);
        bytes.take(new(None), 1000, most, half).unwrap();
        assert_eq!(bytes.recent(new(None), half), 1000.0);
        assert_eq!(bytes.recent(new(None), 2 * half), 500.0);
        bytes.take(new(None), 100, most, 2 * half).unwrap();
        assert_eq!(bytes.recent(new(None), 3 * half), 300.0);
        bytes.give_back(new(None), 100, 0);
        assert!(bytes.recent(new(None), 3 * half) < 300.0);
    }

    #[test]
    fn bytes_on_the_log_count_for_their_principal() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (mut bytes, most) = (Bytes::default(), (u64::MAX, WINDOW));
        for _ in 0..3 {
            bytes.take(new(Some(&a)), 1000, most, WINDOW).unwrap();
        }
        bytes.take(new(None), 10, most, WINDOW).unwrap();
        let recent = |bytes: &Bytes| [None, Some(&a), Some(&b)].map(|one| bytes.recent(new(one), WINDOW));
        assert_eq!(recent(&bytes), [10.0, 3000.0, 0.0]);
        bytes.give_back(new(Some(&b)), 5, 1);
        bytes.give_back(new(Some(&a)), 1000, 1);
        assert_eq!(recent(&bytes), [10.0, 2000.0, 0.0]);
    }

    #[test]
    fn remembered_branches_are_limited() {
        let (mut bytes, most) = (Bytes::default(), (u64::MAX, WINDOW));
        for number in 0..=MAX_BRANCHES.get() {
            let branch = Arc::from(number.to_string());
            bytes.take(new(Some(&branch)), 1, most, WINDOW).unwrap();
        }
        assert_eq!(bytes.of_branches.len(), MAX_BRANCHES.get());
        assert_eq!(bytes.recent(new(Some(&Arc::from("0"))), WINDOW), 0.0);
    }
}
