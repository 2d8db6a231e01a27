//! Decides what follows after a stage has handled an event, and when it is retried: the schedule of delays ([`Schedule`]) and
//! [`settle`]. Pure: no clock, no I/O.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::event::{EventId, NewEvent};

/// How a stage could not handle an event.
#[derive(Debug)]
pub enum Failure {
    /// It may work later.
    Retry {
        /// When.
        next: Next,
        /// The events that record this attempt.
        record: Vec<NewEvent>,
        /// It says nothing against the event: a trial of a half-open breaker is about the backend, and a request that was repeated for another event
        /// is about that one.
        is_no_fault: bool,
        /// It waits for another event of its order, which may pass it: a change of an unknown order for the
        /// event that creates it, a menu for the provider's word about it.
        for_creation: bool,
    },
    /// Nothing was tried, and there is no point in trying sooner than this: the other side is away, or has been
    /// asked often enough. No attempt is counted.
    Later {
        /// How long from now.
        after: Duration,
        /// As in [`Self::Retry`].
        for_creation: bool,
    },
    /// Nothing was tried: an earlier event of its order stands in another lane. No attempt is counted.
    OtherLane {
        /// How long from now it is looked for again.
        after: Duration,
        /// As in [`Self::Retry`]: the event may wait for its order as well.
        for_creation: bool,
    },
    /// Nothing was tried: requests of its branch wait, and those of others do not. No attempt is counted.
    OfBranch {
        /// How long it waits in memory, or less.
        after: Duration,
        /// How long it is parked where there are too many in memory.
        parked: Duration,
    },
    /// Not the event's fault and no attempt: the breaker is open, the set-up is wrong, the hub is going down.
    Hold {
        /// Why.
        cause: String,
        /// How long it is left alone at least, even if the stage is ready at once; no less than [`LEAST_PAUSE`].
        pause: Duration,
    },
    /// Nothing was tried: this instance lacks the configuration for it, and another one may have it. The stage is left to others once.
    Elsewhere {
        /// The missing configuration; the same text for all events that miss the same.
        cause: String,
        /// The pause before the next check if no other instance takes the stage.
        pause: Duration,
    },
}

/// What the runner does after the events are on the log.
#[derive(Debug)]
pub enum Settlement {
    /// Its outcome is recorded: acknowledge it.
    Done(Vec<NewEvent>),
    /// Try again after this long, and hold it meanwhile; later events of the same order wait, and nothing else does. The last says whether
    /// this says nothing against the event.
    Again(Vec<NewEvent>, Duration, bool),
    /// Park it until then; later events of the same order wait behind it. The number says how many attempts this was: none
    /// for a trial of a half-open breaker.
    Park(Vec<NewEvent>, Parking, u32),
    /// As [`Self::Again`], with nothing tried.
    Pause(Duration),
    /// As [`Self::Park`], with nothing tried.
    Defer(Parking),
    /// Try again after this long, as soon as the stage is ready.
    Hold(Duration),
    /// Leave the stage to another instance for a while if this was not done for the same cause before; else as [`Self::Pause`].
    Leave(String, Duration),
}

/// Until when an event is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parking {
    /// When it is due.
    pub until: DateTime<Utc>,
    /// See [`Failure::Retry`].
    pub for_creation: bool,
    /// What it is parked for.
    pub cause: ParkCause,
    /// A request of it failed since it was taken up, and that says something against it.
    pub has_failed: bool,
}

/// What an event is parked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkCause {
    /// Its attempt failed.
    Failed,
    /// Its attempt failed, which says nothing against it (see [`Failure::Retry`]).
    NoFault,
    /// An earlier event of its order stands in another lane.
    OtherLane,
    /// Something else that is no fault of the order; nothing was tried.
    Untried,
}

/// When an event is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Soon: not worth parking.
    Quick(Duration),
    /// Later, in its lane.
    Park(Duration),
    /// Later, in its lane, and the attempt does not count: it was a trial of a half-open breaker.
    ParkUncounted(Duration),
}

impl Next {
    /// How long until then.
    pub const fn pause(self) -> Duration {
        match self {
            Self::Quick(pause) | Self::Park(pause) | Self::ParkUncounted(pause) => pause,
        }
    }
}

/// Pauses before the quick attempts, which do not count.
pub const QUICK: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Least pause before an event is handled again, whatever it failed of and whatever is switched off: no failure may become a
/// loop that sends requests as fast as they are answered.
pub const LEAST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause for which an event is kept in memory; with a longer one (`Retry-After`) it is parked.
const MAX_QUICK: Duration = Duration::from_secs(10);
/// The same for an event that waits for another lane: what comes behind it in its own lane may be another order, which is only seen there.
const MAX_QUICK_FOR_LANE: Duration = Duration::from_millis(500);
/// Longest `Retry-After` that is honoured: a backend that says more is not believed.
pub const MAX_ASKED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Pauses are made longer by up to one part in so many, so that what failed together does not come back together.
const JITTER: u32 = 10;

/// The schedule of retries (`RETRY_DELAYS`, `RETRY_MAX_ATTEMPTS`).
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Pauses before the attempts that count; the last one holds for all that follow.
    pub delays: Vec<Duration>,
    /// How many of those there are.
    pub max_retries: u32,
}

impl Schedule {
    /// The time from the first request to the last, but for the quick attempts and jitter.
    pub fn longest(&self) -> Duration {
        // After the end of the list its last delay is repeated.
        let all = (0..self.max_retries as usize).filter_map(|at| self.delays.get(at).or(self.delays.last()));
        all.sum()
    }

    /// How many of the retries that count were made by so many requests.
    pub fn retries(requests: u32) -> u32 {
        requests.saturating_sub(1 + QUICK.len() as u32)
    }

    /// When to try again after so many requests; none if it is given up. What the backend asked for (`Retry-After`) can
    /// only lengthen the pause.
    pub fn next(&self, requests: u32, asked_for: Option<Duration>, event: EventId) -> Option<Next> {
        let asked_for = asked_for.unwrap_or_default().min(MAX_ASKED_FOR);
        if let Some(quick) = QUICK.get(requests.saturating_sub(1) as usize) {
            let pause = (*quick).max(asked_for);
            return Some(if pause > MAX_QUICK {
                Next::Park(pause)
            } else {
                Next::Quick(pause)
            });
        }
        let retries = Self::retries(requests);
        if retries >= self.max_retries {
            return None;
        }
        Some(Next::Park(self.pause(retries, asked_for, requests, event)))
    }

    /// When to try again after a request that was a trial of a half-open breaker. One that was parked before waits as long as
    /// it did then, uncounted: what the backend's absence costs must not depend on which orders found out that it lasts. It
    /// is still parked, so that an order that is itself the reason for the failure does not take every trial.
    pub fn next_after_trial(&self, requests: u32, asked_for: Option<Duration>, event: EventId) -> Option<Next> {
        match Self::retries(requests) {
            0 => self.next(requests, asked_for, event),
            retries => {
                let asked_for = asked_for.unwrap_or_default().min(MAX_ASKED_FOR);
                Some(Next::ParkUncounted(self.pause(retries - 1, asked_for, requests, event)))
            }
        }
    }

    fn pause(&self, retries: u32, asked_for: Duration, requests: u32, event: EventId) -> Duration {
        let last = self.delays.len().saturating_sub(1);
        let delay = self.delays.get((retries as usize).min(last)).copied();
        let delay = delay.unwrap_or_default().max(asked_for);
        delay + spread(delay / JITTER, requests, event)
    }
}

/// Part of a span, by the event and the attempt: the same for every caller, and another for each event, so that what failed
/// together, or waits for the same thing, does not come back together.
pub fn spread(span: Duration, requests: u32, event: EventId) -> Duration {
    let part = (event.0.as_u128() as u32)
        .wrapping_mul(0x9e37_79b9)
        .rotate_left(requests % 32);
    span.mul_f64(f64::from(part) / f64::from(u32::MAX))
}

/// Decides. `crowded`: too many events are held in memory for one more to wait there.
pub fn settle(result: Result<Vec<NewEvent>, Failure>, now: DateTime<Utc>, crowded: bool) -> Settlement {
    match result {
        Ok(events) => Settlement::Done(events),
        Err(Failure::Retry {
            next,
            record,
            is_no_fault,
            for_creation,
        }) => match next {
            Next::Quick(pause) if !crowded && !for_creation => {
                Settlement::Again(record, pause.max(LEAST_PAUSE), is_no_fault)
            }
            Next::Quick(pause) | Next::Park(pause) => {
                let cause = if is_no_fault {
                    ParkCause::NoFault
                } else {
                    ParkCause::Failed
                };
                Settlement::Park(record, parking(pause, now, for_creation, cause), 1)
            }
            Next::ParkUncounted(pause) => {
                Settlement::Park(record, parking(pause, now, for_creation, ParkCause::NoFault), 0)
            }
        },
        Err(Failure::Later { after, for_creation }) => {
            if after <= MAX_QUICK && !crowded && !for_creation {
                return Settlement::Pause(after.max(LEAST_PAUSE));
            }
            Settlement::Defer(parking(after, now, for_creation, ParkCause::Untried))
        }
        Err(Failure::OtherLane { after, for_creation }) => {
            if after <= MAX_QUICK_FOR_LANE && !crowded && !for_creation {
                return Settlement::Pause(after.max(LEAST_PAUSE));
            }
            Settlement::Defer(parking(after, now, for_creation, ParkCause::OtherLane))
        }
        Err(Failure::OfBranch { parked, .. }) if crowded => {
            Settlement::Defer(parking(parked, now, false, ParkCause::Untried))
        }
        Err(Failure::OfBranch { after, .. }) => Settlement::Pause(after.clamp(LEAST_PAUSE, MAX_QUICK)),
        Err(Failure::Hold { pause, .. }) => Settlement::Hold(pause.max(LEAST_PAUSE)),
        Err(Failure::Elsewhere { pause, .. }) if crowded => {
            Settlement::Defer(parking(pause, now, false, ParkCause::Untried))
        }
        Err(Failure::Elsewhere { cause, pause }) => Settlement::Leave(cause, pause.max(LEAST_PAUSE)),
    }
}

fn parking(pause: Duration, now: DateTime<Utc>, for_creation: bool, cause: ParkCause) -> Parking {
    let until = now + TimeDelta::from_std(pause.max(LEAST_PAUSE)).unwrap_or(TimeDelta::MAX);
    Parking {
        until,
        for_creation,
        cause,
        has_failed: cause == ParkCause::Failed,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn schedule() -> Schedule {
        Schedule {
            delays: vec![MINUTE, 5 * MINUTE, 15 * MINUTE],
            max_retries: 4,
        }
    }

    fn id(number: u128) -> EventId {
        EventId(Uuid::from_u128(number))
    }

    #[test]
    fn quick_ones_first_then_the_schedule_then_no_more() {
        let next: Vec<_> = (1..=9).map(|requests| schedule().next(requests, None, id(0))).collect();
        let seconds = Duration::from_secs;
        let expected = [
            Some(Next::Quick(seconds(1))),
            Some(Next::Quick(seconds(2))),
            Some(Next::Quick(seconds(4))),
            Some(Next::Park(MINUTE)),
            Some(Next::Park(5 * MINUTE)),
            Some(Next::Park(15 * MINUTE)),
            // The last delay is used for all later retries.
            Some(Next::Park(15 * MINUTE)),
            None,
            None,
        ];
        assert_eq!(next, expected);
        let counted: Vec<_> = (0..=8).map(Schedule::retries).collect();
        assert_eq!(counted, [0, 0, 0, 0, 0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_long_requested_pause_is_parked_at_once() {
        let wish = Some(Duration::from_secs(30));
        assert_eq!(
            schedule().next(1, wish, id(0)),
            Some(Next::Park(Duration::from_secs(30)))
        );
        assert_eq!(
            schedule().next(1, Some(Duration::MAX), id(0)),
            Some(Next::Park(MAX_ASKED_FOR))
        );
    }

    #[test]
    fn held_events_have_a_pause_and_a_crowd_is_parked() {
        let now = Utc::now();
        let hold = Failure::Hold {
            cause: String::new(),
            pause: Duration::from_secs(2),
        };
        assert!(matches!(settle(Err(hold), now, true), Settlement::Hold(pause) if pause.as_secs() == 2));
        let quick = |for_creation| Failure::Retry {
            next: Next::Quick(Duration::from_secs(2)),
            record: Vec::new(),
            is_no_fault: false,
            for_creation,
        };
        assert!(
            matches!(settle(Err(quick(false)), now, false), Settlement::Again(_, pause, false) if pause.as_secs() == 2)
        );
        let in_two_seconds = now + TimeDelta::seconds(2);
        assert!(
            matches!(settle(Err(quick(false)), now, true), Settlement::Park(_, parking, 1) if parking.until == in_two_seconds)
        );
        // In memory it would block the event that it waits for.
        assert!(
            matches!(settle(Err(quick(true)), now, false), Settlement::Park(_, parking, 1) if parking.for_creation)
        );
    }

    #[test]
    fn untried_events_wait_in_memory_or_in_a_lane() {
        let now = Utc::now();
        let later = |seconds, for_creation| Failure::Later {
            after: Duration::from_secs(seconds),
            for_creation,
        };
        assert!(matches!(settle(Err(later(2, false)), now, false), Settlement::Pause(pause) if pause.as_secs() == 2));
        for (failure, crowded) in [
            (later(11, false), false),
            (later(2, true), false),
            (later(2, false), true),
        ] {
            assert!(matches!(settle(Err(failure), now, crowded), Settlement::Defer(parking) if parking.until > now));
        }
        let other_lane = |millis, for_creation| Failure::OtherLane {
            after: Duration::from_millis(millis),
            for_creation,
        };
        assert!(matches!(
            settle(Err(other_lane(400, false)), now, false),
            Settlement::Pause(_)
        ));
        for (failure, crowded) in [
            (other_lane(501, false), false),
            (other_lane(400, true), false),
            (other_lane(400, false), true),
        ] {
            assert!(matches!(settle(Err(failure), now, crowded), Settlement::Defer(parking) if parking.until > now));
        }
    }

    #[test]
    fn a_trial_costs_no_attempt_and_lengthens_no_pause() {
        let after_trial = |requests| schedule().next_after_trial(requests, None, id(0));
        assert_eq!(after_trial(1), Some(Next::Quick(Duration::from_secs(1))));
        assert_eq!(after_trial(4), Some(Next::Park(MINUTE)));
        assert_eq!(after_trial(5), Some(Next::ParkUncounted(MINUTE)));
        assert_eq!(after_trial(6), Some(Next::ParkUncounted(5 * MINUTE)));
        // If the last request was a trial, the last request that counts is an earlier one.
        assert_eq!(after_trial(8), Some(Next::ParkUncounted(15 * MINUTE)));
        let failed = |is_no_fault, next| Failure::Retry {
            next,
            record: Vec::new(),
            is_no_fault,
            for_creation: false,
        };
        // Also one that counts, of an order with few requests, says nothing of the order.
        for next in [Next::Quick(MINUTE), Next::Park(MINUTE)] {
            for (is_no_fault, cause) in [(true, ParkCause::NoFault), (false, ParkCause::Failed)] {
                let Settlement::Park(_, parking, 1) = settle(Err(failed(is_no_fault, next)), Utc::now(), true) else {
                    panic!("not parked");
                };
                assert_eq!((parking.cause, parking.has_failed), (cause, !is_no_fault));
            }
        }
        let asked_for = Some(20 * MINUTE);
        assert_eq!(
            schedule().next_after_trial(5, asked_for, id(0)),
            Some(Next::ParkUncounted(20 * MINUTE))
        );
    }

    proptest! {
        #[test]
        fn pauses_are_only_ever_lengthened_and_only_by_a_tenth(requests in 0u32..12, asked in 0u64..100_000, number: u128) {
            let asked_for = Duration::from_secs(asked);
            let regular = schedule().next(requests, None, id(0)).map(Next::pause);
            let with = schedule().next(requests, Some(asked_for), id(number)).map(Next::pause);
            prop_assert_eq!(regular.is_none(), with.is_none());
            if let (Some(regular), Some(with)) = (regular, with) {
                let least = regular.max(asked_for.min(MAX_ASKED_FOR));
                prop_assert!(with >= least && with <= least + least / JITTER, "{:?} of {:?}", with, least);
            }
        }

        /// Each way to fail, with each pause that a stage may ask for: none is tried again at once.
        #[test]
        fn no_failure_is_tried_again_without_a_pause(
            which in 0usize..8, millis in 0u64..20_000, for_creation: bool, crowded: bool,
        ) {
            let (now, pause) = (Utc::now(), Duration::from_millis(millis));
            let retry = |next| Failure::Retry { next, record: Vec::new(), is_no_fault: which == 4, for_creation };
            let failure = match which {
                0 => retry(Next::Quick(pause)),
                1 => retry(Next::Park(pause)),
                4 => retry(Next::ParkUncounted(pause)),
                2 => Failure::Later { after: pause, for_creation },
                5 => Failure::Elsewhere { cause: String::new(), pause },
                6 => Failure::OfBranch { after: pause, parked: pause },
                7 => Failure::OtherLane { after: pause, for_creation },
                _ => Failure::Hold { cause: String::new(), pause },
            };
            let waits = match settle(Err(failure), now, crowded) {
                Settlement::Done(_) => unreachable!("a failure"),
                Settlement::Again(_, pause, _) | Settlement::Leave(_, pause) => pause,
                Settlement::Pause(pause) | Settlement::Hold(pause) => pause,
                Settlement::Park(_, parking, _) | Settlement::Defer(parking) => (parking.until - now).to_std().unwrap(),
            };
            let longest = if which == 6 && !crowded { MAX_QUICK } else { Duration::MAX };
            prop_assert_eq!(waits, pause.max(LEAST_PAUSE).min(longest));
        }

        #[test]
        fn every_event_is_given_up_after_as_many_requests(max_retries in 1u32..20, number: u128) {
            let schedule = Schedule { max_retries, ..schedule() };
            let requests = (1..100).find(|requests| schedule.next(*requests, None, id(number)).is_none());
            prop_assert_eq!(requests, Some(1 + QUICK.len() as u32 + max_retries));
        }
    }
}
