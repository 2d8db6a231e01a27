//! When a provider's lists are read, and how far back. Pure: the time is passed in.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{REACH, seen::Webhooks};
use crate::fault_injection::time;

/// How old a provider's last webhook is when the hub counts as having been away.
const AWAY: Duration = Duration::from_secs(5 * 60);
/// How long a provider may send nothing before its lists are read. It is asked once for each silence.
const SILENT: Duration = Duration::from_secs(5 * 60);
/// When the lists are read again after something was left: an order that was too young, or a list that could not be read.
const AGAIN: Duration = Duration::from_secs(60);
/// How much further back than the last webhook, or the last reading, orders are wanted: the provider's clock is another one.
const OVERLAP: TimeDelta = TimeDelta::minutes(10);

/// Why lists are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The hub was away: what is missing is taken in at once.
    Away,
    /// The provider sends nothing.
    Silent,
    /// It is time.
    Regular,
    /// Something was left the last time; after an absence that is [`Self::Away`] again.
    Again,
}

/// How a reading of all lists ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoundEnd {
    /// Every list was read to its end.
    pub(super) is_complete: bool,
    /// An order was too young to count as missing.
    pub(super) is_deferred: bool,
}

/// When one provider's lists are read.
#[derive(Debug)]
pub(super) struct Schedule {
    every: Duration,
    /// Since when this instance is responsible.
    began: DateTime<Utc>,
    /// The last reading: when it began, why, and how it ended.
    last: Option<(DateTime<Utc>, Reason, RoundEnd)>,
    /// When the last complete reading began.
    complete: Option<DateTime<Utc>>,
    /// The last webhook before the silence in which the lists were read.
    silent_after: Option<DateTime<Utc>>,
}

impl Schedule {
    /// From now on, every so often.
    pub(super) fn new(every: Duration, now: DateTime<Utc>) -> Self {
        Self {
            every: time("reconcile_every", every),
            began: now,
            last: None,
            complete: None,
            silent_after: None,
        }
    }

    /// Why the lists are to be read now; none if they are not. `last_webhook` is the time of the provider's last one.
    pub(super) fn due(&self, now: DateTime<Utc>, last_webhook: DateTime<Utc>) -> Option<Reason> {
        let is_over = |since: DateTime<Utc>, limit: Duration| (now - since).to_std().is_ok_and(|past| past >= limit);
        let Some((began, reason, end)) = self.last else {
            let was_away = (self.began - last_webhook)
                .to_std()
                .is_ok_and(|past| past >= time("reconcile_away", AWAY));
            if was_away {
                return Some(Reason::Away);
            }
            return is_over(self.began, self.every).then_some(Reason::Regular);
        };
        let is_left = !end.is_complete || end.is_deferred;
        if is_left && is_over(began, self.every.min(time("reconcile_again", AGAIN))) {
            return Some(if reason == Reason::Away { reason } else { Reason::Again });
        }
        let silence = time("reconcile_silent", SILENT);
        if self.silent_after != Some(last_webhook) && is_over(last_webhook, silence) && is_over(began, silence) {
            return Some(Reason::Silent);
        }
        is_over(began, self.every).then_some(Reason::Regular)
    }

    /// From when on orders are wanted.
    pub(super) fn since(&self, now: DateTime<Utc>, window: Duration, webhooks: Webhooks) -> DateTime<Utc> {
        let window = TimeDelta::from_std(window).unwrap_or(REACH);
        let from = match self.complete {
            Some(complete) => complete.min(now - window),
            None => webhooks.last.min(now - window),
        };
        // Orders from before the first webhook were another system's.
        (from - OVERLAP).max(now - REACH).max(webhooks.first)
    }

    /// The lists were read.
    pub(super) fn ended(&mut self, began: DateTime<Utc>, reason: Reason, last_webhook: DateTime<Utc>, end: RoundEnd) {
        self.last = Some((began, reason, end));
        self.silent_after = Some(last_webhook);
        if end.is_complete && !end.is_deferred {
            self.complete = Some(began);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: RoundEnd = RoundEnd {
        is_complete: true,
        is_deferred: false,
    };

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(20_000) + TimeDelta::minutes(minute)
    }

    fn every_ten_minutes(began: i64) -> Schedule {
        Schedule::new(Duration::from_secs(600), at(began))
    }

    #[test]
    fn a_hub_that_was_away_asks_at_once_and_another_when_it_is_time() {
        assert_eq!(every_ten_minutes(60).due(at(60), at(0)), Some(Reason::Away));
        let busy = every_ten_minutes(60);
        assert_eq!(busy.due(at(69), at(58)), None);
        assert_eq!(busy.due(at(70), at(69)), Some(Reason::Regular));
    }

    #[test]
    fn a_silence_is_asked_about_once() {
        let mut schedule = Schedule::new(Duration::from_secs(3600), at(0));
        schedule.ended(at(0), Reason::Regular, at(0), DONE);
        assert_eq!(schedule.due(at(14), at(10)), None);
        assert_eq!(schedule.due(at(15), at(10)), Some(Reason::Silent));
        schedule.ended(at(15), Reason::Silent, at(10), DONE);
        assert_eq!(schedule.due(at(40), at(10)), None, "it was asked");
        assert_eq!(schedule.due(at(47), at(42)), Some(Reason::Silent), "another silence");
        assert_eq!(schedule.due(at(75), at(74)), Some(Reason::Regular));
    }

    #[test]
    fn what_was_left_is_asked_for_again_soon() {
        for end in [
            RoundEnd {
                is_complete: false,
                ..DONE
            },
            RoundEnd {
                is_deferred: true,
                ..DONE
            },
        ] {
            let mut schedule = every_ten_minutes(0);
            for (reason, again) in [(Reason::Regular, Reason::Again), (Reason::Away, Reason::Away)] {
                schedule.ended(at(10), reason, at(9), end);
                assert_eq!(schedule.due(at(10), at(9)), None);
                assert_eq!(schedule.due(at(11), at(11)), Some(again));
            }
        }
    }

    #[test]
    fn orders_are_wanted_from_the_last_complete_reading_on_and_never_from_before_the_hub() {
        let window = Duration::from_secs(3600);
        let (day, long_ago) = (24 * 60, at(-100_000));
        let webhooks = |first, last| Webhooks { first, last };
        let mut schedule = every_ten_minutes(0);
        let since = |schedule: &Schedule, now, of| schedule.since(at(now), window, of);
        assert_eq!(since(&schedule, 0, webhooks(long_ago, at(-5))), at(-70), "the window");
        assert_eq!(
            since(&schedule, 0, webhooks(long_ago, at(-300))),
            at(-310),
            "it was away"
        );
        assert_eq!(
            since(&schedule, 0, webhooks(long_ago, at(-9000))),
            at(-day),
            "the reach"
        );
        assert_eq!(since(&schedule, 0, webhooks(at(-20), at(-5))), at(-20), "it is new");
        schedule.ended(at(0), Reason::Regular, at(-5), DONE);
        let broken = RoundEnd {
            is_complete: false,
            ..DONE
        };
        schedule.ended(at(10), Reason::Regular, at(9), broken);
        assert_eq!(since(&schedule, 200, webhooks(long_ago, at(199))), at(-10));
        schedule.ended(at(200), Reason::Regular, at(199), DONE);
        assert_eq!(since(&schedule, 210, webhooks(long_ago, at(209))), at(140));
    }
}
