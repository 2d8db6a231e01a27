//! How often a provider may be asked: so many requests a second, one menu of a branch in a while, and not at all while it
//! has asked to be left alone (429). The time is passed in.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Branches whose last menu is remembered; of more than these the oldest are forgotten, and the provider's own 429 holds.
const MAX_BRANCHES: usize = 10_000;

/// The limits of one provider.
#[derive(Debug)]
pub struct Limits {
    /// Time between two requests; zero: any number.
    spacing: Duration,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// When the next request may be made, if they came evenly.
    next: Option<Instant>,
    /// Until when nothing is asked.
    paused: Option<Instant>,
    menus: HashMap<String, Instant>,
}

impl Limits {
    /// So many requests a second; none: any number.
    pub fn new(per_second: Option<u32>) -> Self {
        Self {
            spacing: per_second.map_or(Duration::ZERO, |count| Duration::from_secs(1) / count.max(1)),
            held: Mutex::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // No code panics while it holds the lock; if one did, its times would still be whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks to make one request now.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut held = self.held();
        if let Some(left) = left(held.paused, now) {
            return Err(left);
        }
        if self.spacing.is_zero() {
            return Ok(());
        }
        // A second's worth may come at once.
        let next = held.next.unwrap_or(now).max(now);
        let ahead = next.saturating_duration_since(now);
        let burst = Duration::from_secs(1).saturating_sub(self.spacing);
        if ahead > burst {
            return Err(ahead - burst);
        }
        held.next = Some(next + self.spacing);
        Ok(())
    }

    /// The provider wants to be left alone for so long.
    pub fn pause(&self, now: Instant, pause: Duration) {
        let mut held = self.held();
        let until = now + pause;
        held.paused = Some(held.paused.map_or(until, |known| known.max(until)));
    }

    /// How long a branch's next menu has to wait, where one may be sent every so often.
    pub fn menu_wait(&self, now: Instant, branch: &str, every: Duration) -> Option<Duration> {
        let last = self.held().menus.get(branch).copied()?;
        left(Some(last + every), now)
    }

    /// A branch's menu was sent.
    pub fn menu_sent(&self, now: Instant, branch: &str) {
        let mut held = self.held();
        if held.menus.len() >= MAX_BRANCHES
            && let Some(oldest) = held
                .menus
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(branch, _)| branch.clone())
        {
            held.menus.remove(&oldest);
        }
        held.menus.insert(branch.to_owned(), now);
    }
}

fn left(until: Option<Instant>, now: Instant) -> Option<Duration> {
    until?.checked_duration_since(now).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seconds_worth_at_once_then_evenly() {
        let (limits, now) = (Limits::new(Some(4)), Instant::now());
        let taken = (0..10).filter(|_| limits.take(now).is_ok()).count();
        assert_eq!(taken, 4);
        let wait = limits.take(now).unwrap_err();
        assert_eq!(wait, Duration::from_millis(250));
        assert!(limits.take(now + wait).is_ok() && limits.take(now + wait).is_err());
        let unlimited = Limits::new(None);
        assert!((0..10_000).all(|_| unlimited.take(now).is_ok()));
    }

    #[test]
    fn who_wants_to_be_left_alone_is() {
        let (limits, now) = (Limits::new(None), Instant::now());
        limits.pause(now, Duration::from_secs(30));
        limits.pause(now, Duration::from_secs(5));
        assert_eq!(limits.take(now + Duration::from_secs(10)), Err(Duration::from_secs(20)));
        assert!(limits.take(now + Duration::from_secs(30)).is_ok());
    }

    #[test]
    fn one_menu_of_a_branch_in_a_while() {
        let (limits, now, every) = (Limits::new(None), Instant::now(), Duration::from_secs(120));
        assert_eq!(limits.menu_wait(now, "b-1", every), None);
        limits.menu_sent(now, "b-1");
        assert_eq!(limits.menu_wait(now, "b-1", every), Some(every));
        assert_eq!(limits.menu_wait(now, "b-2", every), None);
        assert_eq!(limits.menu_wait(now + every, "b-1", every), None);
        for number in 0..MAX_BRANCHES {
            limits.menu_sent(now + Duration::from_secs(1), &number.to_string());
        }
        assert_eq!(limits.held().menus.len(), MAX_BRANCHES);
        assert_eq!(limits.menu_wait(now, "b-1", every), None, "the oldest is forgotten");
    }
}
