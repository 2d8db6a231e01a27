//! The breaker with several branches.

use std::collections::HashMap;

use super::*;

fn ask(breaker: &mut Breaker, now: Instant, branch: &str, outcome: RequestOutcome) -> Result<(), NotNow> {
    let permit = breaker.permit(now, branch)?;
    breaker.record(now, &permit, outcome);
    Ok(())
}

fn fails(breaker: &mut Breaker, now: Instant, branch: &str) -> Result<(), NotNow> {
    ask(breaker, now, branch, RequestOutcome::Failure)
}

fn succeeds(breaker: &mut Breaker, now: Instant, branch: &str) -> Result<(), NotNow> {
    ask(breaker, now, branch, RequestOutcome::Success)
}

#[test]
fn a_branch_that_fails_beside_others_waits_alone() {
    let (mut breaker, now) = (breaker(), Instant::now());
    succeeds(&mut breaker, now, "good").unwrap();
    for _ in 0..5 {
        fails(&mut breaker, now, "bad").unwrap();
    }
    assert_eq!(fails(&mut breaker, now, "bad"), Err(NotNow::Branch(RESET)));
    assert_eq!((breaker.state(now), breaker.failing()), (BreakerState::Closed, 1));
    for _ in 0..100 {
        succeeds(&mut breaker, now, "good").unwrap();
    }
    // Its trials are its own.
    let later = now + RESET;
    let permits: Vec<_> = (0..3).map(|_| breaker.permit(later, "bad").unwrap()).collect();
    assert!(permits.iter().all(Permit::is_trial));
    assert_eq!(breaker.not_now(later, "bad"), Some(NotNow::Branch(Duration::ZERO)));
    assert!(!breaker.permit(later, "good").unwrap().is_trial());
    breaker.record(later, &permits[0], RequestOutcome::Failure);
    breaker.record(later, &permits[1], RequestOutcome::Success);
    assert_eq!(breaker.not_now(later, "bad"), Some(NotNow::Branch(RESET)));
    let again = later + RESET;
    for _ in 0..3 {
        succeeds(&mut breaker, again, "bad").unwrap();
    }
    assert_eq!(breaker.failing(), 0);
    assert!(!breaker.permit(again, "bad").unwrap().is_trial());
}

#[test]
fn the_only_one_that_fails_is_shown_as_open_and_others_try() {
    let (mut breaker, now) = (breaker(), Instant::now());
    fail(&mut breaker, now, 5);
    assert_eq!(breaker.state(now), BreakerState::Open);
    assert_eq!(breaker.wait(now), None, "others may try");
    let trial = breaker.permit(now, "b-2").unwrap();
    assert!(trial.is_trial());
    assert_eq!(breaker.state(now), BreakerState::HalfOpen);
    breaker.record(now, &trial, RequestOutcome::Success);
    assert_eq!((breaker.state(now), breaker.reason()), (BreakerState::Closed, None));
    assert!(breaker.permit(now, BRANCH).is_err() && breaker.permit(now, "b-3").is_ok());
}

#[test]
fn two_that_fail_open_it_for_all() {
    let (mut breaker, now) = (breaker(), Instant::now());
    fail(&mut breaker, now, 5);
    fails(&mut breaker, now, "b-2").unwrap();
    assert_eq!(succeeds(&mut breaker, now, "b-3"), Err(NotNow::All(Some(RESET))));
    assert_eq!(breaker.reason(), Some("trial requests of several branches failed"));
}

#[test]
fn after_that_other_branches_go_first() {
    let (mut breaker, now) = (breaker(), Instant::now());
    for branch in ["bad-1", "bad-2", "bad-1", "bad-2", "bad-1"] {
        fails(&mut breaker, now, branch).unwrap();
    }
    assert_eq!(breaker.reason(), Some("5 requests in a row failed"));
    assert_eq!(breaker.wait(now), Some(Some(RESET)));
    let later = now + RESET;
    for branch in ["bad-1", "bad-2"] {
        assert_eq!(breaker.not_now(later, branch), Some(NotNow::Branch(MAX_YIELD)));
    }
    succeeds(&mut breaker, later, "good").unwrap();
    fails(&mut breaker, later + MAX_YIELD, "bad-1").unwrap();
    assert_eq!(breaker.state(later), BreakerState::Closed);
    assert!(breaker.permit(later + MAX_YIELD, "bad-1").is_err());
    // Without others they try themselves.
    let (mut breaker, now) = (super::breaker(), Instant::now());
    for branch in ["bad-1", "bad-2", "bad-1", "bad-2", "bad-1"] {
        fails(&mut breaker, now, branch).unwrap();
    }
    let later = now + RESET + MAX_YIELD;
    for _ in 0..3 {
        succeeds(&mut breaker, later, "bad-1").unwrap();
    }
    assert_eq!(breaker.state(later), BreakerState::Closed);
}

#[test]
fn many_failures_of_one_branch_weigh_no_more_than_it() {
    let (mut breaker, now) = (breaker(), Instant::now());
    // Every second request of the bad one fails, and it makes most requests.
    for number in 0..100 {
        let outcome = if number % 2 == 0 {
            RequestOutcome::Failure
        } else {
            RequestOutcome::Success
        };
        let _ = ask(&mut breaker, now, "bad", outcome);
        if number % 10 == 0 {
            succeeds(&mut breaker, now, "good").unwrap();
        }
    }
    assert!(breaker.is_failing("bad") && !breaker.is_failing("good"));
    // A single failure of the good one opens nothing.
    fails(&mut breaker, now, "good").unwrap();
    assert_eq!(breaker.state(now), BreakerState::Closed);
    // More than half of all failed, and every one that did is of one branch, with too few requests to say more.
    let mut breaker = super::breaker();
    for _ in 0..6 {
        succeeds(&mut breaker, now, "good").unwrap();
    }
    for number in 1..=14 {
        let answered = number % 5 == 0;
        let outcome = if answered {
            RequestOutcome::Success
        } else {
            RequestOutcome::Failure
        };
        ask(&mut breaker, now, "bad", outcome).unwrap();
    }
    assert_eq!((breaker.state(now), breaker.failing()), (BreakerState::Closed, 0));
    // Half of another branch's, too.
    for _ in 0..6 {
        let _ = fails(&mut breaker, now, "worse");
    }
    assert_ne!(breaker.not_now(now, "good"), None);
}

#[test]
fn who_takes_over_knows_the_branches_that_wait() {
    let (mut works, now) = (breaker(), Instant::now());
    succeeds(&mut works, now, "good").unwrap();
    for _ in 0..5 {
        fails(&mut works, now, "bad").unwrap();
    }
    let mut stands_by = breaker();
    let report = works.report(now);
    assert_eq!((report.state, report.is_of_one), (BreakerState::Closed, false));
    assert!(stands_by.hear(now, &Attendance::default(), report));
    assert_eq!(stands_by.not_now(now, "bad"), Some(NotNow::Branch(RESET)));
    assert!(!stands_by.permit(now, "good").unwrap().is_trial());
    // Without another that was answered, only trials of others pass.
    let mut works = breaker();
    fail(&mut works, now, 5);
    let report = works.report(now);
    assert_eq!((report.state, report.is_of_one), (BreakerState::Open, true));
    let mut stands_by = breaker();
    assert!(stands_by.hear(now, &Attendance::default(), report.clone()));
    assert_eq!(stands_by.not_now(now, BRANCH), Some(NotNow::Branch(RESET)));
    assert!(stands_by.permit(now, "good").unwrap().is_trial());
    // An earlier version says nothing of branches.
    let mut stands_by = breaker();
    let report = BreakerReport {
        is_of_one: false,
        failing: Vec::new(),
        ..report
    };
    assert!(stands_by.hear(now, &Attendance::default(), report));
    assert_eq!(stands_by.not_now(now, "good"), Some(NotNow::All(Some(RESET))));
}

/// Since when, how the last request failed and what waits is known for as long as the branch fails, on other instances as well.
#[test]
fn what_is_told_of_a_failing_branch() {
    let (mut works, now) = (breaker(), Instant::now());
    succeeds(&mut works, now, "good").unwrap();
    works.note_code("good", "BACKEND_500");
    for _ in 0..5 {
        fails(&mut works, now, "bad").unwrap();
    }
    works.note_code("bad", "BACKEND_500");
    works.note_waiting(|branch| if branch == "bad" { 7 } else { 0 });
    // A trial fails in another way.
    let later = now + RESET;
    fails(&mut works, later, "bad").unwrap();
    works.note_code("bad", "BACKEND_TIMEOUT");
    let told = |breaker: &Breaker, now: Instant| {
        let failing = breaker.report(now).failing;
        let [failing] = &failing[..] else { panic!("{failing:?}") };
        (failing.since, failing.waiting, failing.code.clone())
    };
    let expected = (RESET, 7, Some(Arc::from("BACKEND_TIMEOUT")));
    assert_eq!(told(&works, later), expected);
    let mut stands_by = breaker();
    // Its clock has run for longer than the branch has failed.
    let elsewhere = later + RESET;
    assert!(stands_by.hear(elsewhere, &Attendance::default(), works.report(later)));
    assert_eq!(told(&stands_by, elsewhere), expected);
    for _ in 0..3 {
        succeeds(&mut works, later + RESET, "bad").unwrap();
    }
    assert_eq!(works.report(later + RESET).failing, []);
    // When it fails again, that is new.
    for _ in 0..5 {
        fails(&mut works, later + RESET, "bad").unwrap();
    }
    assert_eq!(told(&works, later + RESET), (Duration::ZERO, 0, None));
}

/// Those that most events wait for are named, and all of them are counted.
#[test]
fn the_worst_of_many_failing_branches_are_named() {
    const MANY: usize = MAX_REPORTED + 4;
    let (mut works, now) = (breaker(), Instant::now());
    for number in 0..MANY {
        // Failures of several branches in a row open it for all.
        for _ in 0..5 {
            succeeds(&mut works, now, "good").unwrap();
            fails(&mut works, now, &number.to_string()).unwrap();
        }
    }
    assert_eq!(works.failing(), MANY);
    works.note_waiting(|branch| branch.parse().unwrap());
    let report = works.report(now);
    let named: Vec<_> = report.failing.iter().map(|failing| failing.waiting).collect();
    let worst: Vec<_> = (4..MANY as u64).rev().collect();
    assert_eq!((named, report.failing_in_all), (worst, MANY));
    let mut stands_by = breaker();
    assert!(stands_by.hear(now, &Attendance::default(), report));
    assert_eq!(
        (stands_by.failing(), stands_by.report(now).failing_in_all),
        (MANY, MANY)
    );
    // What it finds itself counts from then on.
    succeeds(&mut stands_by, now, "good").unwrap();
    assert_eq!(stands_by.failing(), MAX_REPORTED);
}

/// Requests that hang for longer than failures are counted.
#[test]
fn requests_that_fail_late_open_it() {
    let (mut breaker, now) = (breaker(), Instant::now());
    let permits: Vec<_> = (0..5).map(|_| breaker.permit(now, BRANCH).unwrap()).collect();
    for second in 0..299 {
        breaker.tidy(now + Duration::from_secs(second));
    }
    let later = now + Duration::from_secs(300);
    for permit in &permits {
        breaker.record(later, permit, RequestOutcome::Failure);
    }
    assert_eq!(breaker.state(later), BreakerState::Open);
    // So do trials.
    let again = later + RESET;
    let trials: Vec<_> = (0..3).map(|_| breaker.permit(again, BRANCH).unwrap()).collect();
    for second in 0..299 {
        breaker.tidy(again + Duration::from_secs(second));
    }
    let later = again + Duration::from_secs(300);
    for trial in &trials {
        breaker.record(later, trial, RequestOutcome::Success);
    }
    assert_eq!(breaker.state(later), BreakerState::Closed);
}

#[test]
fn known_branches_are_limited() {
    let (mut breaker, now) = (breaker(), Instant::now());
    for number in 0..10_100 {
        succeeds(&mut breaker, now, &number.to_string()).unwrap();
    }
    assert_eq!(breaker.branches.len(), 10_001);
    let later = now + Duration::from_secs(900);
    succeeds(&mut breaker, later, "new").unwrap();
    assert_eq!(breaker.branches.len(), 1);
}

fn outcome_of(kind: u8) -> RequestOutcome {
    match kind {
        0 => RequestOutcome::Success,
        1 => RequestOutcome::Abandoned,
        _ => RequestOutcome::Failure,
    }
}

/// Requests of so many branches: which one, how long after the one before, how long it takes, how it ends.
fn requests(branches: usize) -> impl Strategy<Value = Vec<(usize, u64, u64, u8)>> {
    prop::collection::vec((0..branches, 0u64..3_000, 0u64..12_000, 0u8..5), 1..300)
}

/// Runs requests, those that are let through; `ends` is called with the breaker after each step.
fn run(
    breaker: &mut Breaker,
    requests: Vec<(usize, u64, u64, u8)>,
    outcome: impl Fn(usize, u8) -> RequestOutcome,
    mut check: impl FnMut(&Breaker, Instant, usize, Result<(), NotNow>, &[(Instant, Permit, RequestOutcome)]),
) -> Instant {
    let mut now = Instant::now();
    let mut under_way: Vec<(Instant, Permit, RequestOutcome)> = Vec::new();
    for (branch, after, takes, kind) in requests {
        now += Duration::from_millis(after);
        under_way.sort_by_key(|one| std::cmp::Reverse(one.0));
        while let Some((at, permit, outcome)) = under_way.pop_if(|one| one.0 <= now) {
            breaker.record(at, &permit, outcome);
        }
        let asked = breaker.permit(now, &branch.to_string());
        let answer =
            asked.map(|permit| under_way.push((now + Duration::from_millis(takes), permit, outcome(branch, kind))));
        check(breaker, now, branch, answer, &under_way);
    }
    under_way.sort_by_key(|one| one.0);
    for (at, permit, outcome) in under_way {
        now = now.max(at);
        breaker.record(at, &permit, outcome);
    }
    now
}

proptest! {
    /// Whatever the requests of one branch do: where all others are answered, theirs are let through, but for the moment in which as
    /// many as the trials are under way.
    #[test]
    fn one_branch_never_stops_another(requests in requests(16)) {
        let mut breaker = breaker();
        // Most requests are its.
        let requests = requests.into_iter().map(|(branch, after, takes, kind)| (branch.saturating_sub(12), after, takes, kind)).collect();
        let outcome = |branch, kind| if branch == 0 { outcome_of(kind) } else { RequestOutcome::Success };
        run(&mut breaker, requests, outcome, |_, _, branch, answer, under_way| {
            let trials = under_way.iter().filter(|one| one.1.is_trial() && one.1.branch() != "0").count();
            let is_let_in = answer.is_ok() || answer == Err(NotNow::All(None)) && trials >= TRIALS as usize;
            assert!(branch == 0 || is_let_in, "{answer:?}");
        });
    }

    /// A backend that fails for all gets few requests before it is left alone, whichever branches they are of; and in each reset time
    /// no more than trials.
    #[test]
    fn a_backend_that_is_down_is_left_alone(requests in prop::collection::vec((0usize..6, 0u64..200), 100..300)) {
        let (mut breaker, mut now) = (breaker(), Instant::now());
        let (mut let_in, mut branches) = (0, HashMap::new());
        for (branch, after) in requests {
            now += Duration::from_millis(after);
            if fails(&mut breaker, now, &branch.to_string()).is_ok() {
                let_in += 1;
                *branches.entry(branch).or_insert(0) += 1;
            }
        }
        prop_assert!(branches.len() > 1 || let_in == 0);
        // At most until a second branch has shown it, and two for each reset time.
        prop_assert!(let_in <= 9 + 2 * 2, "{let_in} requests, {branches:?}");
    }

    /// Requests of any branches, with any ends: never more trials than a half-open breaker has, and later everyone is let through.
    #[test]
    fn never_stuck_and_never_flooded(requests in requests(5)) {
        let mut breaker = breaker();
        let end = run(&mut breaker, requests, |_, kind| outcome_of(kind), |breaker, _, _, _, _| {
            if let Inner::HalfOpen(trials) = &breaker.inner {
                let of_others = trials.under_way.iter().filter(|branch| !breaker.is_failing(branch));
                assert!(of_others.count() <= TRIALS as usize);
            }
        });
        let much_later = end + RESET * 2;
        for branch in 0..5 {
            prop_assert_eq!(breaker.not_now(much_later, &branch.to_string()), None);
        }
        for branch in (0..5).cycle().take(20) {
            prop_assert_eq!(succeeds(&mut breaker, much_later, &branch.to_string()), Ok(()));
        }
        prop_assert_eq!((breaker.state(much_later), breaker.failing()), (BreakerState::Closed, 0));
    }
}
