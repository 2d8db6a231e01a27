//! The breaker in virtual time.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::{attendance::LINGER, *};

mod several;

const RESET: Duration = Duration::from_secs(30);
/// The branch of tests with one.
const BRANCH: &str = "b-1";

fn breaker() -> Breaker {
    Breaker::new(config::Breaker {
        enabled: true,
        failure_threshold: 5,
        reset_timeout: RESET,
    })
}

fn permit(breaker: &mut Breaker, now: Instant) -> Option<Permit> {
    breaker.permit(now, BRANCH).ok()
}

/// One request that begins and ends now.
fn ends(breaker: &mut Breaker, now: Instant, outcome: RequestOutcome) {
    let permit = permit(breaker, now).expect("it is let through");
    breaker.record(now, &permit, outcome);
}

fn fail(breaker: &mut Breaker, now: Instant, times: u32) {
    for _ in 0..times {
        ends(breaker, now, RequestOutcome::Failure);
    }
}

/// So many trials.
fn trials(breaker: &mut Breaker, now: Instant, count: usize) -> Vec<Permit> {
    (0..count).map(|_| permit(breaker, now).expect("a trial")).collect()
}

#[test]
fn opens_after_five_failures_in_a_row_only() {
    let (mut breaker, now) = (breaker(), Instant::now());
    fail(&mut breaker, now, 4);
    ends(&mut breaker, now, RequestOutcome::Success);
    fail(&mut breaker, now, 4);
    assert_eq!(breaker.state(now), BreakerState::Closed);
    fail(&mut breaker, now, 1);
    assert_eq!(breaker.state(now), BreakerState::Open);
    assert!(permit(&mut breaker, now + RESET - Duration::from_millis(1)).is_none());
}

#[test]
fn three_trials_close_it_and_one_failure_opens_it_again() {
    let (mut breaker, now) = (breaker(), Instant::now());
    fail(&mut breaker, now, 5);
    let later = now + RESET;
    assert_eq!(breaker.state(later), BreakerState::HalfOpen);
    let permits = trials(&mut breaker, later, 3);
    assert!(permit(&mut breaker, later).is_none(), "a fourth trial");
    breaker.record(later, &permits[0], RequestOutcome::Success);
    breaker.record(later, &permits[1], RequestOutcome::Failure);
    assert_eq!(breaker.state(later), BreakerState::Open);
    let again = later + RESET;
    for _ in 0..3 {
        ends(&mut breaker, again, RequestOutcome::Success);
    }
    assert_eq!(breaker.state(again), BreakerState::Closed);
}

#[test]
fn an_abandoned_trial_makes_room_for_another() {
    let (mut breaker, now) = (breaker(), Instant::now());
    fail(&mut breaker, now, 5);
    let later = now + RESET;
    let permits = trials(&mut breaker, later, 3);
    assert_eq!(breaker.not_now(later, BRANCH), Some(NotNow::Branch(Duration::ZERO)));
    breaker.record(later, &permits[0], RequestOutcome::Abandoned);
    assert_eq!(breaker.not_now(later, BRANCH), None);
    assert!(permit(&mut breaker, later).is_some());
}

#[test]
fn a_wrong_set_up_opens_it_at_once_with_its_reason() {
    let (mut breaker, now) = (breaker(), Instant::now());
    ends(&mut breaker, now, RequestOutcome::Misconfigured("401".into()));
    assert_eq!(
        (breaker.state(now), breaker.reason()),
        (BreakerState::Open, Some("401"))
    );
}

#[test]
fn switched_off_each_misconfigured_request_waits_by_itself() {
    let of = |enabled, reset_timeout| {
        Breaker::new(config::Breaker {
            enabled,
            failure_threshold: 5,
            reset_timeout,
        })
    };
    assert_eq!(of(false, RESET).alone(), RESET);
    assert_eq!(of(false, Duration::ZERO).alone(), LEAST_ALONE);
    assert_eq!(of(true, RESET).alone(), Duration::ZERO);
}

#[test]
fn switched_off_it_never_opens() {
    let mut breaker = Breaker::new(config::Breaker {
        enabled: false,
        failure_threshold: 5,
        reset_timeout: RESET,
    });
    fail(&mut breaker, Instant::now(), 100);
    assert_eq!(breaker.state(Instant::now()), BreakerState::Closed);
}

fn report_of(state: BreakerState, remaining: Duration) -> BreakerReport {
    let reason = (state != BreakerState::Closed).then(|| "401".to_owned());
    BreakerReport {
        state,
        reason,
        remaining,
        is_of_one: false,
        failing: Vec::new(),
        failing_in_all: 0,
    }
}

#[test]
fn a_standby_adopts_state_reason_and_time_left() {
    let (mut works, mut stands_by, now) = (breaker(), breaker(), Instant::now());
    ends(&mut works, now, RequestOutcome::Misconfigured("401".into()));
    // Each instance has its own clock, so only the ten seconds that are left count.
    let (later, elsewhere) = (now + RESET - Duration::from_secs(10), now + Duration::from_secs(3600));
    assert!(stands_by.hear(elsewhere, &Attendance::default(), works.report(later)));
    assert_eq!(stands_by.reason(), Some("401"));
    let end = elsewhere + Duration::from_secs(10);
    assert!(permit(&mut stands_by, end - Duration::from_millis(1)).is_none());
    assert!(permit(&mut stands_by, end).is_some(), "the first of its trials");
    assert_eq!(stands_by.state(end), BreakerState::HalfOpen);
    // Closed on the working instance, so closed here.
    assert!(stands_by.hear(
        end,
        &Attendance::default(),
        report_of(BreakerState::Closed, Duration::ZERO)
    ));
    assert_eq!((stands_by.state(end), stands_by.reason()), (BreakerState::Closed, None));
}

#[test]
fn the_working_instance_ignores_reports() {
    let now = Instant::now();
    let mut waiting = Attendance::default();
    waiting.wait_begins(now);
    let mut asking = Attendance::default();
    asking.request_begins(now);
    let mut looked = Attendance::default();
    looked.looked(now);
    let open = || report_of(BreakerState::Open, RESET);
    let just_before = now + LINGER - Duration::from_millis(1);
    for attendance in [&waiting, &asking, &looked] {
        assert!(!breaker().hear(just_before, attendance, open()));
    }
    // A request may take longer than that, and so may the wait before an open breaker.
    assert!(!breaker().hear(now + LINGER * 100, &waiting, open()));
    assert!(!breaker().hear(now + LINGER * 100, &asking, open()));
    assert!(breaker().hear(now + LINGER, &looked, open()));
    waiting.wait_ends(now + LINGER);
    asking.request_ends(now + LINGER);
    for attendance in [&waiting, &asking] {
        assert!(!breaker().hear(now + LINGER, attendance, open()));
        assert!(breaker().hear(now + LINGER * 2, attendance, open()));
    }
}

#[test]
fn switched_off_it_ignores_reports() {
    let mut breaker = Breaker::new(config::Breaker {
        enabled: false,
        failure_threshold: 5,
        reset_timeout: RESET,
    });
    assert!(!breaker.hear(
        Instant::now(),
        &Attendance::default(),
        report_of(BreakerState::Open, RESET)
    ));
}

fn any_report() -> impl Strategy<Value = BreakerReport> {
    let states = prop::sample::select(vec![BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen]);
    (states, prop_oneof![0u64..60_000, any::<u64>()])
        .prop_map(|(state, remaining)| report_of(state, Duration::from_millis(remaining)))
}

proptest! {
    /// One works, the other stands by and hears some of what the first tells, late by up to a second, and takes over
    /// at any moment. If it heard of the last opening it makes no request before the first would have.
    #[test]
    fn a_reported_opening_holds_after_the_takeover(
        steps in prop::collection::vec((0u8..3, 0u64..8_000, any::<bool>(), 0u64..1_000), 1..100),
        takeover in 0u64..40_000,
    ) {
        let (mut works, mut stands_by) = (breaker(), breaker());
        let (mut now, attendance) = (Instant::now(), Attendance::default());
        let mut heard_after_change = true;
        for (step, millis, arrives, late) in steps {
            now += Duration::from_millis(millis);
            if let Some(permit) = permit(&mut works, now) {
                works.record(now, &permit, match step { 0 => RequestOutcome::Success, 1 => RequestOutcome::Failure, _ => RequestOutcome::Misconfigured("401".into()) });
                heard_after_change = false;
            }
            if arrives {
                let report = works.report(now);
                now += Duration::from_millis(late);
                prop_assert!(stands_by.hear(now, &attendance, report.clone()));
                heard_after_change = true;
                prop_assert_eq!(stands_by.reason(), report.reason.as_deref());
            }
        }
        if heard_after_change {
            let then = now + Duration::from_millis(takeover);
            prop_assert!(works.state(then) != BreakerState::Open || permit(&mut stands_by, then).is_none());
            // It begins later by at most the report's delay.
            let later = then + Duration::from_secs(1);
            prop_assert!(works.state(then) == BreakerState::Open || stands_by.state(later) != BreakerState::Open);
        }
    }

    /// Reports in any order and with any remaining time do not change the breaker of the instance that
    /// works knows, and nothing keeps another from asking once its own time is over.
    #[test]
    fn reports_never_overrule_own_findings_and_expire(
        reports in prop::collection::vec((any_report(), 0u64..40_000), 1..50), opened in any::<bool>(),
    ) {
        let (mut works, mut stands_by) = (breaker(), breaker());
        let mut now = Instant::now();
        let mut attendance = Attendance::default();
        attendance.request_begins(now);
        if opened { fail(&mut works, now, 5); }
        let before = format!("{works:?}");
        for (report, millis) in reports {
            now += Duration::from_millis(millis);
            prop_assert!(!works.hear(now, &attendance, report.clone()));
            prop_assert!(stands_by.hear(now, &Attendance::default(), report));
        }
        prop_assert_eq!(before, format!("{works:?}"));
        prop_assert!(permit(&mut stands_by, now + RESET).is_some());
    }

    /// Whatever happens in whatever order: it never lets more than the trials through before it closed again, and it
    /// can always be passed again later.
    #[test]
    fn never_stuck_and_never_flooded(steps in prop::collection::vec((0u8..4, 0u64..40), 1..200)) {
        let mut breaker = breaker();
        let mut now = Instant::now();
        let mut under_way = Vec::new();
        for (step, seconds) in steps {
            now += Duration::from_secs(seconds);
            let half_open = breaker.state(now) == BreakerState::HalfOpen;
            let outcome = match step {
                0 => {
                    under_way.extend(permit(&mut breaker, now));
                    None
                }
                1 => Some(RequestOutcome::Success),
                2 => Some(RequestOutcome::Failure),
                _ => Some(RequestOutcome::Abandoned),
            };
            if let Some(outcome) = outcome && let Some(permit) = under_way.pop() {
                breaker.record(now, &permit, outcome);
            }
            if half_open && step == 0 {
                let mut passed = 0;
                while breaker.state(now) == BreakerState::HalfOpen && let Some(permit) = permit(&mut breaker, now) {
                    passed += 1;
                    under_way.push(permit);
                    prop_assert!(passed <= TRIALS);
                }
            }
        }
        for permit in under_way { breaker.record(now, &permit, RequestOutcome::Success); }
        let much_later = now + RESET * 2;
        prop_assert!(breaker.wait(much_later).is_none() || matches!(breaker.state(much_later), BreakerState::HalfOpen));
    }

    /// Requests of any length, side by side: it opens exactly when a list of all that ended says so. By the list, five in
    /// a row failed that were asked after every one that succeeded; or half of those that began in the window.
    #[test]
    fn it_opens_only_by_the_row_or_by_the_share(
        requests in prop::collection::vec((0u64..2_000, 0u64..12_000, 0u8..10), 1..300), failing in 0u8..10,
    ) {
        let mut breaker = breaker();
        let start = Instant::now();
        let mut begins = start;
        let mut ends: Vec<(Instant, Permit, bool)> = requests.into_iter().map(|(after, takes, kind)| {
            begins += Duration::from_millis(after);
            // All of them begin in the first state.
            let permit = permit(&mut breaker, begins).unwrap();
            (begins + Duration::from_millis(takes), permit, kind >= failing)
        }).collect();
        ends.sort_by_key(|(at, ..)| *at);
        let first = ends[0].1.begun;
        for (count, (now, permit, succeeds)) in ends.iter().enumerate() {
            breaker.record(*now, permit, if *succeeds { RequestOutcome::Success } else { RequestOutcome::Failure });
            let ended = &ends[..=count];
            let answered = ended.iter().filter(|end| end.2).map(|end| end.1.begun).max();
            let row = ended.iter().rev().take_while(|end| !end.2);
            let row = row.filter(|end| answered.is_none_or(|answered| end.1.begun >= answered)).count();
            let slice = |at: Instant| at.saturating_duration_since(first).as_millis() / 3_000;
            let recent = ended.iter().filter(|end| slice(end.1.begun) + 10 > slice(*now));
            let (all, failed) = recent.fold((0, 0), |sum, end| (sum.0 + 1, sum.1 + usize::from(!end.2)));
            let opens = !succeeds && (row >= 5 || all >= 20 && failed * 2 >= all);
            prop_assert_eq!(breaker.state(*now) != BreakerState::Closed, opens, "row {}, {} of {}", row, failed, all);
            if opens { break }
        }
    }

    /// Where at most one request in three fails and the backend answers in between, it stays closed, however long the
    /// failing ones hang.
    #[test]
    fn a_few_that_hang_do_not_open_it(
        requests in prop::collection::vec((1u64..500, any::<bool>()), 1..300), hang in 100u64..10_000,
    ) {
        let mut breaker = breaker();
        let mut now = Instant::now();
        let mut hanging: VecDeque<(Instant, Permit)> = VecDeque::new();
        for (after, hangs) in requests {
            now += Duration::from_millis(after);
            while let Some((ends, permit)) = hanging.front().cloned() && ends <= now {
                hanging.pop_front();
                breaker.record(ends, &permit, RequestOutcome::Failure);
            }
            if hangs { hanging.push_back((now + Duration::from_millis(hang), permit(&mut breaker, now).unwrap())); }
            for _ in 0..2 { ends(&mut breaker, now, RequestOutcome::Success); }
            prop_assert_eq!(breaker.state(now), BreakerState::Closed);
        }
    }

    /// A request that began before the state changed changes nothing, whatever its outcome.
    #[test]
    fn requests_of_an_earlier_state_do_not_count(outcomes in prop::collection::vec(0u8..4, 1..20), half_open: bool) {
        let (mut breaker, now) = (breaker(), Instant::now());
        let early: Vec<Permit> = outcomes.iter().map(|_| permit(&mut breaker, now).unwrap()).collect();
        fail(&mut breaker, now, 5);
        let later = if half_open { now + RESET } else { now };
        if half_open { trials(&mut breaker, later, 1); }
        let before = format!("{breaker:?}");
        for (permit, outcome) in early.into_iter().zip(outcomes) {
            breaker.record(later, &permit, match outcome {
                0 => RequestOutcome::Success,
                1 => RequestOutcome::Failure,
                2 => RequestOutcome::Abandoned,
                _ => RequestOutcome::Misconfigured("401".into()),
            });
        }
        prop_assert_eq!(before, format!("{breaker:?}"));
    }
}
