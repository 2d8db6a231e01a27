//! When a list is read, a branch's or the provider's, and how far back. Pure: the time is passed in.

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

/// How a reading of the lists of one place ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadingEnd {
    /// Every list was read to its end, or will not be before a person changes a setting.
    pub(super) is_complete: bool,
    /// Every list was read to its end, and every entry.
    pub(super) is_whole: bool,
    /// An order was too young to count as missing.
    pub(super) is_deferred: bool,
}

impl ReadingEnd {
    /// The lists were not come to.
    pub(super) const NOT_READ: Self = Self {
        is_complete: false,
        is_whole: false,
        is_deferred: false,
    };
    /// Everything was read and taken in.
    const DONE: Self = Self {
        is_complete: true,
        is_whole: true,
        is_deferred: false,
    };
}

/// When the lists of one place are read.
#[derive(Debug)]
pub(super) struct Schedule {
    every: Duration,
    /// Since when this instance is responsible.
    began: DateTime<Utc>,
    /// The last reading: when it began, why, and how it ended.
    last: Option<(DateTime<Utc>, Reason, ReadingEnd)>,
    /// When the last complete reading began.
    complete: Option<DateTime<Utc>>,
    /// When the last reading began that left nothing out.
    whole: Option<DateTime<Utc>>,
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
            whole: None,
            silent_after: None,
        }
    }

    /// Of a branch that appears later than the hub: it was not away, and the branch's orders from before are another system's.
    pub(super) fn joined(every: Duration, now: DateTime<Utc>, last_webhook: DateTime<Utc>) -> Self {
        let mut schedule = Self::new(every, now);
        schedule.ended(now, Reason::Regular, last_webhook, ReadingEnd::DONE);
        schedule
    }

    /// Why the lists are to be read now; none if they are not. `last_webhook` is the time of the last one that counts.
    pub(super) fn due(&self, now: DateTime<Utc>, last_webhook: DateTime<Utc>) -> Option<Reason> {
        let causes = self.causes(last_webhook).into_iter().flatten();
        causes.into_iter().find(|(at, _)| *at <= now).map(|(_, reason)| reason)
    }

    /// From when on they are, if nothing comes meanwhile.
    pub(super) fn due_at(&self, last_webhook: DateTime<Utc>) -> DateTime<Utc> {
        let times = self.causes(last_webhook).into_iter().flatten().map(|(at, _)| at);
        times.min().unwrap_or(self.began)
    }

    /// What makes the lists due, and when; what goes before others stands first.
    fn causes(&self, last_webhook: DateTime<Utc>) -> [Option<(DateTime<Utc>, Reason)>; 3] {
        let Some((began, reason, end)) = self.last else {
            let is_away = after(last_webhook, time("reconcile_away", AWAY)) <= self.began;
            let away = is_away.then_some((self.began, Reason::Away));
            return [away, None, Some((after(self.began, self.every), Reason::Regular))];
        };
        let is_left = !end.is_complete || end.is_deferred;
        let again = after(began, self.every.min(time("reconcile_again", AGAIN)));
        let as_what = if reason == Reason::Away { reason } else { Reason::Again };
        let silence = time("reconcile_silent", SILENT);
        let silent = after(last_webhook.max(began), silence);
        [
            is_left.then_some((again, as_what)),
            (self.silent_after != Some(last_webhook)).then_some((silent, Reason::Silent)),
            Some((after(began, self.every), Reason::Regular)),
        ]
    }

    /// When the last reading began that left nothing out.
    pub(super) const fn whole(&self) -> Option<DateTime<Utc>> {
        self.whole
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
    pub(super) fn ended(&mut self, began: DateTime<Utc>, reason: Reason, last_webhook: DateTime<Utc>, end: ReadingEnd) {
        self.last = Some((began, reason, end));
        // A reading soon after a webhook says nothing of the silence that follows.
        if after(last_webhook, time("reconcile_silent", SILENT)) <= began {
            self.silent_after = Some(last_webhook);
        }
        if end.is_complete && !end.is_deferred {
            self.complete = Some(began);
        }
        if end.is_whole {
            self.whole = Some(began);
        }
    }
}

/// So much later.
fn after(time: DateTime<Utc>, pause: Duration) -> DateTime<Utc> {
    let later = TimeDelta::from_std(pause)
        .ok()
        .and_then(|pause| time.checked_add_signed(pause));
    later.unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: ReadingEnd = ReadingEnd::DONE;

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
        schedule.ended(at(75), Reason::Regular, at(74), DONE);
        assert_eq!(schedule.due(at(79), at(74)), None);
        assert_eq!(
            schedule.due(at(80), at(74)),
            Some(Reason::Silent),
            "it was no silence yet"
        );
    }

    #[test]
    fn a_branch_that_joins_is_read_when_it_is_time() {
        let joined = Schedule::joined(Duration::from_secs(600), at(100), at(10));
        assert_eq!(joined.due(at(109), at(10)), None);
        assert_eq!(joined.due(at(110), at(10)), Some(Reason::Regular));
        let webhooks = Webhooks {
            first: at(0),
            last: at(10),
        };
        assert_eq!(joined.since(at(110), Duration::from_secs(600), webhooks), at(90));
        assert_eq!(joined.due(at(107), at(102)), Some(Reason::Silent));
    }

    #[test]
    fn the_time_from_which_on_it_is_due_is_known() {
        let mut schedule = every_ten_minutes(0);
        assert_eq!(schedule.due_at(at(0)), at(10));
        assert_eq!(schedule.due_at(at(-5)), at(0), "it was away");
        for (end, last, due) in [(DONE, 0, 20), (DONE, 12, 17), (ReadingEnd::NOT_READ, 12, 11)] {
            schedule.ended(at(10), Reason::Regular, at(0), end);
            assert_eq!(schedule.due_at(at(last)), at(due));
            assert_eq!(schedule.due(at(due - 1), at(last)), None);
            assert!(schedule.due(at(due), at(last)).is_some());
        }
    }

    #[test]
    fn what_was_left_is_asked_for_again_soon() {
        for end in [
            ReadingEnd {
                is_complete: false,
                ..DONE
            },
            ReadingEnd {
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
        let broken = ReadingEnd {
            is_complete: false,
            ..DONE
        };
        schedule.ended(at(10), Reason::Regular, at(9), broken);
        assert_eq!(since(&schedule, 200, webhooks(long_ago, at(199))), at(-10));
        schedule.ended(at(200), Reason::Regular, at(199), DONE);
        assert_eq!(since(&schedule, 210, webhooks(long_ago, at(209))), at(140));
    }
}
