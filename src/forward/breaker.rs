//! The circuit breaker: whether to ask the backend at all. Pure: the time is passed in.
//!
//! Closed → open after so many temporary failures in a row, or at once where the set-up is wrong → half-open after a
//! while, with a few trials → closed when all of them succeed, open again when one fails.
//!
//! Instances tell each other what state theirs is in, as a [`Report`]; [`Breaker::hear`] says when one is believed.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config;

/// Trials of the half-open state.
const TRIALS: u32 = 3;
/// How long after its last look at the breaker an instance still counts as the one that works on the stage. The stage
/// looks every two seconds even where there is nothing to do, so this is that and room for a slow machine.
const LINGER: Duration = Duration::from_secs(4);

/// What the breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// A few trials.
    HalfOpen,
}

impl State {
    /// In metrics and health.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The backend answered as it should; also where it refused that one order.
    Success,
    /// Temporary: 5xx, time-out, connection cut.
    Failure,
    /// The set-up is wrong (401, TLS …): why.
    Misconfigured(String),
    /// It was not made after all.
    Abandoned,
}

/// The state as one instance tells it to another. It holds the time that is left, not a time of day, so that no two
/// clocks are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The state.
    pub state: State,
    /// Why it is not closed.
    pub reason: Option<String>,
    /// How long it stays open; zero in the other states.
    pub remaining: Duration,
}

/// Whether this instance is the one that works on the stage, as far as its use of the breaker tells: who stands by never
/// looks at it.
#[derive(Debug, Default)]
pub struct Attendance {
    waiting: u32,
    under_way: u32,
    last: Option<Instant>,
}

impl Attendance {
    /// Somebody looked whether it lets requests through.
    pub fn looked(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Somebody begins to wait before it.
    pub fn wait_begins(&mut self, now: Instant) {
        self.waiting += 1;
        self.last = Some(now);
    }

    /// And does no more.
    pub fn wait_ends(&mut self, now: Instant) {
        self.waiting = self.waiting.saturating_sub(1);
        self.last = Some(now);
    }

    /// A request is permitted.
    pub fn request_begins(&mut self, now: Instant) {
        self.under_way += 1;
        self.last = Some(now);
    }

    /// And has ended, in whatever way.
    pub fn request_ends(&mut self, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        self.last = Some(now);
    }

    /// Whether it works on the stage.
    pub fn works(&self, now: Instant) -> bool {
        let lately = |last| now.saturating_duration_since(last) < LINGER;
        self.waiting > 0 || self.under_way > 0 || self.last.is_some_and(lately)
    }
}

#[derive(Debug)]
enum Inner {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { begun: u32, succeeded: u32 },
}

/// The breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: config::Breaker,
    inner: Inner,
    reason: Option<String>,
}

impl Breaker {
    /// Closed.
    pub fn new(settings: config::Breaker) -> Self {
        Self {
            settings,
            inner: Inner::Closed { failures: 0 },
            reason: None,
        }
    }

    /// The state at this time.
    pub fn state(&self, now: Instant) -> State {
        match self.inner {
            Inner::Closed { .. } => State::Closed,
            Inner::Open { until } if now < until => State::Open,
            Inner::Open { .. } | Inner::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// Why it is not closed.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// How long from now until there is a point in asking again; none where one may ask now. Where every trial is under
    /// way, their end changes the answer, not time.
    pub fn wait(&self, now: Instant) -> Option<Option<Duration>> {
        match self.inner {
            Inner::Open { until } if now < until => Some(Some(until - now)),
            Inner::HalfOpen { begun, .. } if begun >= TRIALS => Some(None),
            _ => None,
        }
    }

    /// Asks to make a request. Where it says yes, [`Self::record`] must follow.
    pub fn permit(&mut self, now: Instant) -> bool {
        if !self.settings.enabled {
            return true;
        }
        match &mut self.inner {
            Inner::Closed { .. } => true,
            Inner::Open { until } if now < *until => false,
            Inner::Open { .. } => {
                self.inner = Inner::HalfOpen { begun: 1, succeeded: 0 };
                true
            }
            Inner::HalfOpen { begun, .. } if *begun < TRIALS => {
                *begun += 1;
                true
            }
            Inner::HalfOpen { .. } => false,
        }
    }

    /// Notes how a permitted request ended.
    pub fn record(&mut self, now: Instant, outcome: Outcome) {
        match (&mut self.inner, outcome) {
            (_, Outcome::Misconfigured(reason)) => self.open(now, reason),
            (Inner::Closed { failures }, Outcome::Success) => *failures = 0,
            (Inner::Closed { failures }, Outcome::Failure) => {
                *failures += 1;
                if *failures >= self.settings.failure_threshold {
                    let reason = format!("{failures} requests in a row failed");
                    self.open(now, reason);
                }
            }
            (Inner::HalfOpen { succeeded, .. }, Outcome::Success) => {
                *succeeded += 1;
                if *succeeded >= TRIALS {
                    self.inner = Inner::Closed { failures: 0 };
                    self.reason = None;
                }
            }
            (Inner::HalfOpen { .. }, Outcome::Failure) => self.open(now, "a trial request failed".into()),
            (Inner::HalfOpen { begun, .. }, Outcome::Abandoned) => *begun = begun.saturating_sub(1),
            // Requests that were under way when it opened tell nothing new.
            (Inner::Open { .. }, _) | (Inner::Closed { .. }, Outcome::Abandoned) => {}
        }
    }

    /// What is told to the other instances.
    pub fn report(&self, now: Instant) -> Report {
        Report {
            state: self.state(now),
            reason: self.reason.clone(),
            remaining: self.wait(now).flatten().unwrap_or_default(),
        }
    }

    /// Takes over what another instance tells; whether it did.
    ///
    /// Who works on the stage believes nobody: it sees the backend, and what others know of it is older, such as the word
    /// of an instance that stood still and finds its lease gone. Who stands by believes the last word, since it has no
    /// knowledge of its own that could be newer. A word that got lost or came late is made good by the next, and none
    /// keeps the breaker open for longer than this instance's own setting.
    pub fn hear(&mut self, now: Instant, attendance: &Attendance, report: Report) -> bool {
        if !self.settings.enabled || attendance.works(now) {
            return false;
        }
        let remaining = match report.state {
            State::Closed => {
                self.inner = Inner::Closed { failures: 0 };
                self.reason = None;
                return true;
            }
            State::Open => report.remaining.min(self.settings.reset_timeout),
            // Open with no time left: whoever takes over begins with trials of its own.
            State::HalfOpen => Duration::ZERO,
        };
        self.inner = Inner::Open { until: now + remaining };
        self.reason = report.reason;
        true
    }

    fn open(&mut self, now: Instant, reason: String) {
        if self.settings.enabled {
            self.inner = Inner::Open {
                until: now + self.settings.reset_timeout,
            };
            self.reason = Some(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RESET: Duration = Duration::from_secs(30);

    fn breaker() -> Breaker {
        Breaker::new(config::Breaker {
            enabled: true,
            failure_threshold: 5,
            reset_timeout: RESET,
        })
    }

    fn fail(breaker: &mut Breaker, now: Instant, times: u32) {
        for _ in 0..times {
            assert!(breaker.permit(now));
            breaker.record(now, Outcome::Failure);
        }
    }

    #[test]
    fn opens_after_five_failures_in_a_row_only() {
        let (mut breaker, now) = (breaker(), Instant::now());
        fail(&mut breaker, now, 4);
        breaker.record(now, Outcome::Success);
        fail(&mut breaker, now, 4);
        assert_eq!(breaker.state(now), State::Closed);
        fail(&mut breaker, now, 1);
        assert_eq!(breaker.state(now), State::Open);
        assert!(!breaker.permit(now + RESET - Duration::from_millis(1)));
    }

    #[test]
    fn three_trials_close_it_and_one_failure_opens_it_again() {
        let (mut breaker, now) = (breaker(), Instant::now());
        fail(&mut breaker, now, 5);
        let later = now + RESET;
        assert_eq!(breaker.state(later), State::HalfOpen);
        assert!(breaker.permit(later) && breaker.permit(later) && breaker.permit(later));
        assert!(!breaker.permit(later), "a fourth trial");
        breaker.record(later, Outcome::Success);
        breaker.record(later, Outcome::Failure);
        assert_eq!(breaker.state(later), State::Open);
        let again = later + RESET;
        for _ in 0..3 {
            assert!(breaker.permit(again));
            breaker.record(again, Outcome::Success);
        }
        assert_eq!(breaker.state(again), State::Closed);
    }

    #[test]
    fn an_abandoned_trial_makes_room_for_another() {
        let (mut breaker, now) = (breaker(), Instant::now());
        fail(&mut breaker, now, 5);
        let later = now + RESET;
        assert!(breaker.permit(later) && breaker.permit(later) && breaker.permit(later));
        assert_eq!(breaker.wait(later), Some(None));
        breaker.record(later, Outcome::Abandoned);
        assert_eq!(breaker.wait(later), None);
        assert!(breaker.permit(later));
    }

    #[test]
    fn a_wrong_set_up_opens_it_at_once_with_its_reason() {
        let (mut breaker, now) = (breaker(), Instant::now());
        assert!(breaker.permit(now));
        breaker.record(now, Outcome::Misconfigured("401".into()));
        assert_eq!((breaker.state(now), breaker.reason()), (State::Open, Some("401")));
    }

    #[test]
    fn switched_off_it_never_opens() {
        let mut breaker = Breaker::new(config::Breaker {
            enabled: false,
            failure_threshold: 5,
            reset_timeout: RESET,
        });
        fail(&mut breaker, Instant::now(), 100);
        assert_eq!(breaker.state(Instant::now()), State::Closed);
    }

    fn told(state: State, remaining: Duration) -> Report {
        let reason = (state != State::Closed).then(|| "401".to_owned());
        Report {
            state,
            reason,
            remaining,
        }
    }

    #[test]
    fn who_stands_by_takes_over_state_reason_and_time_left() {
        let (mut works, mut stands_by, now) = (breaker(), breaker(), Instant::now());
        works.record(now, Outcome::Misconfigured("401".into()));
        // Each has a clock of its own: only the ten seconds that are left count.
        let (later, elsewhere) = (now + RESET - Duration::from_secs(10), now + Duration::from_secs(3600));
        assert!(stands_by.hear(elsewhere, &Attendance::default(), works.report(later)));
        assert_eq!(stands_by.reason(), Some("401"));
        let end = elsewhere + Duration::from_secs(10);
        assert!(!stands_by.permit(end - Duration::from_millis(1)));
        assert!(stands_by.permit(end), "the first of its trials");
        assert_eq!(stands_by.state(end), State::HalfOpen);
        // Closed elsewhere, closed here.
        assert!(stands_by.hear(end, &Attendance::default(), told(State::Closed, Duration::ZERO)));
        assert_eq!((stands_by.state(end), stands_by.reason()), (State::Closed, None));
    }

    #[test]
    fn who_works_believes_nobody() {
        let now = Instant::now();
        let mut waiting = Attendance::default();
        waiting.wait_begins(now);
        let mut asking = Attendance::default();
        asking.request_begins(now);
        let mut looked = Attendance::default();
        looked.looked(now);
        let open = || told(State::Open, RESET);
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
    fn switched_off_it_believes_nobody() {
        let mut breaker = Breaker::new(config::Breaker {
            enabled: false,
            failure_threshold: 5,
            reset_timeout: RESET,
        });
        assert!(!breaker.hear(Instant::now(), &Attendance::default(), told(State::Open, RESET)));
    }

    fn any_report() -> impl Strategy<Value = Report> {
        let states = prop::sample::select(vec![State::Closed, State::Open, State::HalfOpen]);
        (states, prop_oneof![0u64..60_000, any::<u64>()])
            .prop_map(|(state, remaining)| told(state, Duration::from_millis(remaining)))
    }

    proptest! {
        /// One works, the other stands by and hears some of what the first tells, late by up to a second, and takes over
        /// at any moment. If it heard of the last opening it makes no request before the first would have.
        #[test]
        fn an_opening_that_was_heard_of_holds_after_the_takeover(
            steps in prop::collection::vec((0u8..3, 0u64..8_000, any::<bool>(), 0u64..1_000), 1..100),
            takeover in 0u64..40_000,
        ) {
            let (mut works, mut stands_by) = (breaker(), breaker());
            let (mut now, attendance) = (Instant::now(), Attendance::default());
            let mut heard_after_change = true;
            for (step, millis, arrives, late) in steps {
                now += Duration::from_millis(millis);
                if works.permit(now) {
                    works.record(now, match step { 0 => Outcome::Success, 1 => Outcome::Failure, _ => Outcome::Misconfigured("401".into()) });
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
                prop_assert!(works.state(then) != State::Open || !stands_by.permit(then));
                // And it begins at most as much later as the word was late.
                let later = then + Duration::from_secs(1);
                prop_assert!(works.state(then) == State::Open || stands_by.state(later) != State::Open);
            }
        }

        /// Whatever is told, in whatever order, however much time it claims: nothing of it changes what the one that
        /// works knows, and nothing keeps another from asking once its own time is over.
        #[test]
        fn hearsay_never_overrules_and_never_sticks(
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
            prop_assert!(stands_by.permit(now + RESET));
        }

        /// Whatever happens in whatever order: it never lets more than the trials through before it closed again, and it
        /// can always be passed again later.
        #[test]
        fn never_stuck_and_never_flooded(steps in prop::collection::vec((0u8..4, 0u64..40), 1..200)) {
            let mut breaker = breaker();
            let mut now = Instant::now();
            let mut under_way = 0u32;
            for (step, seconds) in steps {
                now += Duration::from_secs(seconds);
                let half_open = breaker.state(now) == State::HalfOpen;
                match step {
                    0 => if breaker.permit(now) { under_way += 1 },
                    1 => if under_way > 0 { under_way -= 1; breaker.record(now, Outcome::Success) },
                    2 => if under_way > 0 { under_way -= 1; breaker.record(now, Outcome::Failure) },
                    _ => if under_way > 0 { under_way -= 1; breaker.record(now, Outcome::Abandoned) },
                }
                if half_open && step == 0 {
                    let mut passed = 0;
                    while breaker.state(now) == State::HalfOpen && breaker.permit(now) { passed += 1; under_way += 1; prop_assert!(passed <= TRIALS); }
                }
            }
            for _ in 0..under_way { breaker.record(now, Outcome::Success); }
            let much_later = now + RESET * 2;
            prop_assert!(breaker.wait(much_later).is_none() || matches!(breaker.state(much_later), State::HalfOpen));
        }
    }
}
