//! When the last webhook came that each provider or a branch of it proved, and how many webhooks were accepted in the last minute.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

/// The time over which webhooks are counted, in seconds.
const RATE_OVER: i64 = 60;

/// By provider.
#[derive(Debug, Default)]
pub struct LastWebhooks(Mutex<HashMap<Arc<str>, OfProvider>>);

/// Times are seconds since 1970.
#[derive(Debug, Default)]
struct OfProvider {
    /// Read from the log once, so that a restart is no silence; then that of what this instance accepts.
    last: i64,
    /// How many webhooks this instance accepted in each second of the last minute that had any.
    accepted: VecDeque<(i64, u64)>,
}

impl OfProvider {
    fn forget(&mut self, now: i64) {
        while self
            .accepted
            .front()
            .is_some_and(|(second, _)| *second <= now - RATE_OVER)
        {
            self.accepted.pop_front();
        }
    }
}

impl LastWebhooks {
    /// The log has a webhook of this time.
    pub fn note(&self, provider: &Arc<str>, seconds: i64) {
        self.change(provider, |of| of.last = seconds.max(of.last));
    }

    /// This instance accepted a webhook at this time; `is_proven`: with a signature that matched.
    pub fn accepted(&self, provider: &Arc<str>, now: i64, is_proven: bool) {
        self.change(provider, |of| {
            if is_proven {
                of.last = now.max(of.last);
            }
            of.forget(now);
            match of.accepted.back_mut() {
                // A clock that was set back counts in the last second.
                Some((second, count)) if *second >= now => *count += 1,
                _ => of.accepted.push_back((now, 1)),
            }
        });
    }

    /// How many webhooks this instance accepted in the last minute, of each provider that had any since the start.
    pub fn per_minute(&self, now: i64) -> BTreeMap<String, u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |(provider, of): (&Arc<str>, &mut OfProvider)| {
            of.forget(now);
            (provider.to_string(), of.accepted.iter().map(|(_, count)| count).sum())
        };
        all.iter_mut().map(count).collect()
    }

    fn change(&self, provider: &Arc<str>, change: impl FnOnce(&mut OfProvider)) {
        // No code panics while it holds this lock.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = all.entry(Arc::clone(provider)).or_default();
        change(of);
        metrics::gauge!("webhook_last_received_timestamp_seconds", "provider" => Arc::clone(provider))
            .set(of.last as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_minute_is_counted() {
        let (all, careem) = (LastWebhooks::default(), Arc::from("careem"));
        all.note(&careem, 50);
        for now in [100, 100, 130, 129] {
            all.accepted(&careem, now, true);
        }
        let at = |now| all.per_minute(now)["careem"];
        assert_eq!((at(130), at(159), at(160), at(190)), (4, 4, 2, 0));
    }
}
