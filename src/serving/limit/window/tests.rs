use std::{collections::HashMap, time::Duration};

use proptest::prelude::*;

use super::*;

/// The beginning of a window of a minute and of one of two seconds.
const NOW: u64 = 1_700_000_040_000;

fn quota(points: u64, seconds: u64) -> Quota {
    Quota::new(&Rule {
        points,
        window: Duration::from_secs(seconds),
        block: Duration::ZERO,
    })
}

/// Milliseconds until there is a point.
fn wait(quota: &mut Quota, now: u64, instances: u64) -> Option<u64> {
    quota.check(now, instances).err().map(|wait| wait.ms)
}

#[test]
fn one_instance_takes_exactly_its_points() {
    let mut quota = quota(1000, 60);
    for number in 0..1000 {
        assert!(quota.take(NOW + number, 1).is_ok(), "{number}");
    }
    assert_eq!(wait(&mut quota, NOW + 1000, 1), Some(59_000));
    let expected = QuotaWait { ms: 1, is_spent: true };
    assert_eq!(quota.take(NOW + 59_999, 1).unwrap_err(), expected);
    // The announced wait was right.
    assert!(quota.take(NOW + 60_000, 1).is_ok());
}

#[test]
fn an_unused_point_comes_back() {
    let mut quota = quota(1, 60);
    let taken = quota.take(NOW, 1).unwrap();
    assert!(quota.check(NOW, 1).is_err());
    quota.give_back(taken.window);
    let again = quota.take(NOW, 1).unwrap();
    // A reported point comes back once; a point of another window does not.
    quota.report(NOW).unwrap();
    quota.give_back(again.window);
    quota.reported(again.window, ReportOutcome::Counted(1));
    assert!(quota.take(NOW, 1).is_ok());
    assert!(quota.take(NOW, 1).is_err());
    quota.give_back(again.window);
    assert!(quota.take(NOW + 60_000, 1).is_ok());
    quota.give_back(again.window);
    assert!(quota.check(NOW + 60_000, 1).is_err());
}

#[test]
fn without_the_counter_an_instance_has_its_share() {
    let mut quota = quota(90, 60);
    let taken = (0..90).filter(|_| quota.take(NOW, 3).is_ok()).count();
    assert_eq!(taken, 30);
    // Other instances may have left points, which the counter would show.
    assert!(!quota.check(NOW, 3).unwrap_err().is_spent);
    assert_eq!(wait(&mut quota, NOW, 3), Some(1000));
    let report = quota.report(NOW).unwrap();
    assert_eq!(report.points, 30);
    quota.reported(report.window, ReportOutcome::Unanswered);
    // The counter does not answer, so there are no more points in this window; reported points are not reported again.
    assert_eq!(wait(&mut quota, NOW, 3), Some(60_000));
    assert_eq!(quota.report(NOW), None);
}

#[test]
fn unsent_reports_are_repeated() {
    let mut quota = quota(90, 60);
    quota.take(NOW, 3).unwrap();
    let report = quota.report(NOW).unwrap();
    assert_eq!(quota.report(NOW), None, "one at a time");
    quota.reported(report.window, ReportOutcome::NotSent);
    assert_eq!(quota.report(NOW), Some(report));
}

#[test]
fn reports_of_another_window_are_ignored() {
    let mut quota = quota(10, 2);
    quota.take(NOW, 1).unwrap();
    let window = NOW / 2000;
    quota.hear(NOW, window - 1, 10);
    quota.hear(NOW, window + 1, 10);
    assert!(quota.check(NOW, 1).is_ok());
    quota.hear(NOW, window, 10);
    assert_eq!(wait(&mut quota, NOW + 500, 1), Some(1500));
    // Nor does a late answer.
    let report = QuotaReport { window, points: 1 };
    assert!(quota.take(NOW + 2000, 1).is_ok());
    quota.reported(report.window, ReportOutcome::Counted(10));
    assert!(quota.take(NOW + 2000, 1).is_ok());
}

#[test]
fn a_counter_never_goes_back() {
    let mut quota = quota(10, 60);
    let window = NOW / 60_000;
    quota.hear(NOW, window, 10);
    quota.hear(NOW, window, 3);
    assert!(quota.check(NOW, 1).is_err());
    assert_eq!(quota.counted(NOW), Some((window, 10)));
}

/// Instances, their counter and the news between them, in virtual time: news takes `delay` steps.
struct Fleet {
    quotas: Vec<Quota>,
    counters: HashMap<u64, u64>,
    /// To whom, when it comes, of which window, what.
    news: Vec<(usize, u64, u64, u64)>,
    delay: u64,
}

impl Fleet {
    fn new(instances: usize, points: u64, delay: u64) -> Self {
        Self {
            quotas: vec![quota(points, 60); instances],
            counters: HashMap::new(),
            news: Vec::new(),
            delay,
        }
    }

    /// One request to one of them.
    fn ask(&mut self, at: usize, now: u64) -> bool {
        let instances = self.quotas.len() as u64;
        let taken = self.quotas[at].take(now, instances);
        // One in ten milliseconds is the tick.
        if taken.is_ok_and(|taken| taken.is_urgent) || now.is_multiple_of(10) {
            self.settle(at, now);
        }
        taken.is_ok()
    }

    fn settle(&mut self, at: usize, now: u64) {
        let Some(report) = self.quotas[at].report(now) else {
            return;
        };
        let total = self.counters.entry(report.window).or_default();
        *total += report.points;
        for to in 0..self.quotas.len() {
            self.news.push((to, now + self.delay, report.window, *total));
        }
        // The counter's answer takes the same time.
        self.quotas[at].reported(report.window, ReportOutcome::Counted(*total));
    }

    fn deliver(&mut self, now: u64) {
        let (due, rest) = self.news.drain(..).partition(|(_, at, _, _)| *at <= now);
        self.news = rest;
        for (to, _, window, total) in due {
            self.quotas[to].hear(now, window, total);
        }
    }
}

proptest! {
    /// However the requests are spread, all instances together let in what the limit says, within 5 %; and nobody is
    /// refused for long while there is room.
    #[test]
    fn together_they_keep_the_limit_within_five_percent(
        instances in 1usize..=5,
        points in 300u64..2000,
        delay in 0u64..=5,
        weights in prop::collection::vec(1u32..100, 5),
        seed in any::<u64>(),
    ) {
        let mut fleet = Fleet::new(instances, points, delay);
        let sum: u32 = weights[..instances].iter().sum();
        let (mut state, mut admitted) = (seed | 1, 0u64);
        // Three times as many requests as the limit, one in a millisecond.
        for number in 0..points * 3 {
            let now = NOW + number;
            fleet.deliver(now);
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut draw = u32::try_from(state >> 33).unwrap() % sum;
            let at = weights[..instances].iter().position(|weight| match draw.checked_sub(*weight) {
                Some(rest) => { draw = rest; false }
                None => true,
            });
            admitted += u64::from(fleet.ask(at.unwrap(), now));
        }
        let slack = (points / 20).max(instances as u64);
        prop_assert!(admitted <= points + slack, "{admitted} of {points}");
        prop_assert!(admitted >= points - slack, "{admitted} of {points}");
    }

    /// What an instance says of the wait is true: then there is a point.
    #[test]
    fn retry_after_is_correct(points in 1u64..50, seconds in 1u64..100, at in 0u64..1_000_000) {
        let mut quota = quota(points, seconds);
        let now = NOW + at;
        while quota.take(now, 1).is_ok() {}
        let wait = quota.check(now, 1).unwrap_err().ms;
        prop_assert!(wait >= 1 && wait <= seconds * 1000);
        prop_assert!(quota.check(now + wait - 1, 1).is_err());
        prop_assert!(quota.check(now + wait, 1).is_ok());
    }
}
