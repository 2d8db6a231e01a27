//! What an instance writes with its lease while it holds a stage: the stage's progress, and the requests that are under way on other
//! instances.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{floor::WentBack, progress::Progress};
use crate::delivery::{
    lanes::checksum::LanesChecksum,
    lease::{
        Inherited, Validity,
        note::{AtWork, Floor, Note},
    },
};

/// For so long a comparison of the log holds for what is older than [`OLD`].
const COMPARED: Duration = Duration::from_secs(1);
const OLD: Duration = Duration::from_secs(60);

/// A message as the consumer hands it out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handed {
    /// Its place on the log.
    pub(super) sequence: u64,
    /// How often it was handed out, this time included.
    pub(super) delivered: i64,
    /// How long ago it was stored, in milliseconds; negative where its server's clock is ahead.
    pub(super) age_ms: i64,
}

/// What the lease tells of the lanes as they change; and what it tells instead, where they are not as they should be: what the
/// instance before had told, if anything.
pub(super) type LanesAnnounced = (Option<Arc<Mutex<LanesChecksum>>>, Option<Option<LanesChecksum>>);

/// Shared by the work, which changes it, and the lease, which is renewed with it.
pub(super) struct Tenure {
    state: Mutex<TenureState>,
    /// The lease is to be written at once.
    pub(super) at_once: Notify,
}

struct TenureState {
    /// Until the takeover is complete: what the previous instance had stored.
    inherited: Option<Floor>,
    progress: Option<Progress>,
    /// How often the connection had been made when it was seen last that the log is the same.
    compared_at: u64,
    /// When that was.
    compared_last: Instant,
    lanes: Option<Arc<Mutex<LanesChecksum>>>,
    /// While lanes are rebuilt from the log: the checksum that the note has instead.
    before: Option<Option<LanesChecksum>>,
    at_work: Vec<BusyInstance>,
    handed_over: bool,
}

/// The time in which an instance has the stage.
pub(super) struct Term {
    pub(super) lease: Validity,
    /// This instance, as the lease names it.
    pub(super) holder: String,
    pub(super) tenure: Arc<Tenure>,
}

/// The instance cannot work on the stage.
#[derive(Debug, thiserror::Error)]
#[error("the stage is left to other instances: {0}")]
pub(super) struct StageUnavailable(pub(super) String);

/// Requests under way on another instance, or on this one after it handed the stage over.
#[derive(Debug, Clone)]
pub(super) struct BusyInstance {
    pub(super) by: String,
    pub(super) events: Vec<u64>,
    /// When none of them can still be under way.
    pub(super) until: Instant,
}

/// How far the stage was on a log that is not there any more, from one time in which this instance has the stage to the next: the lease that
/// told it may be gone with that log.
#[derive(Default)]
pub(super) struct LostFloor(Mutex<Option<Floor>>);

impl LostFloor {
    /// Keeps it, where that is why the work ended.
    pub(super) fn keep(&self, worked: Option<&anyhow::Result<()>>, tenure: &Tenure) {
        if let Some(Err(error)) = worked
            && error.is::<WentBack>()
        {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = tenure.note().floor;
        }
    }

    /// Stores it with the next renewal, if the lease has none.
    pub(super) fn give(&self, inherited: &mut Inherited) {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        inherited.note.floor = inherited.note.floor.take().or(kept);
    }
}

impl Tenure {
    /// Of an instance that has just taken the lease.
    pub(super) fn new(inherited: &Inherited) -> Self {
        let at_work = inherited.note.at_work.iter().map(|one| BusyInstance {
            by: one.by.clone(),
            events: one.events.clone(),
            until: inherited.read_at + one.within(),
        });
        Self {
            state: Mutex::new(TenureState {
                inherited: inherited.note.floor.clone(),
                progress: None,
                compared_at: 0,
                compared_last: Instant::now(),
                lanes: None,
                before: None,
                at_work: at_work.collect(),
                handed_over: false,
            }),
            at_once: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, TenureState> {
        // No code panics while it holds this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The previous instance's floor, if it left one.
    pub(super) fn inherited(&self) -> Option<Floor> {
        self.state().inherited.clone()
    }

    /// From now on the note has this. `lanes`: the checksum of the lanes, and the one used instead until [`Self::lanes_are_whole`],
    /// by which another instance finds that they are not. `compared_at`: how often the connection had been made when the log was looked at.
    pub(super) fn begin(&self, progress: Progress, (lanes, before): LanesAnnounced, compared_at: u64) {
        let mut state = self.state();
        (state.progress, state.lanes, state.before) = (Some(progress), lanes, before);
        state.compared_at = compared_at;
        state.compared_last = Instant::now();
    }

    /// The lanes are as they should be.
    pub(super) fn lanes_are_whole(&self) {
        self.state().before = None;
    }

    /// The log was the same when the connection had been made so often.
    pub(super) fn is_compared(&self, times: u64) {
        let mut state = self.state();
        (state.compared_at, state.compared_last) = (times, Instant::now());
    }

    /// Whether the log must be compared before a message is believed to be of it; `times`: how often the connection was made.
    ///
    /// Nothing that came over a new connection is believed before. A message that comes for the first time at a place that had come before
    /// says that the consumer went back, as it may where NATS was killed, or that the log did, and this is another event. A consumer that
    /// was made anew hands out everything again, and one comparison for each event would hold up new ones for long: old events need none
    /// within a second of the last one. A log that goes back while the connection stands is found by the next look.
    pub(super) fn must_compare(&self, message: &Handed, times: u64) -> bool {
        let state = self.state();
        if state.compared_at != times {
            return true;
        }
        let has_come = state
            .progress
            .as_ref()
            .is_some_and(|progress| progress.has_come(message.sequence));
        let is_old = i128::from(message.age_ms) > OLD.as_millis() as i128;
        has_come && message.delivered <= 1 && !(is_old && state.compared_last.elapsed() < COMPARED)
    }

    /// Looks at the progress, or changes it; none before [`Self::begin`].
    pub(super) fn progress<T>(&self, act: impl FnOnce(&mut Progress) -> T) -> Option<T> {
        self.state().progress.as_mut().map(act)
    }

    /// The progress is about another log: the note keeps it as it is now, for the next takeover to compare, and it changes no
    /// more.
    pub(super) fn forget(&self) {
        let mut state = self.state();
        state.inherited = state.progress.take().map(|progress| progress.floor());
    }

    /// The requests that are under way on another instance.
    pub(super) fn at_work(&self) -> Vec<BusyInstance> {
        self.state().at_work.clone()
    }

    /// A request of another instance has ended.
    pub(super) fn has_ended(&self, event: u64) {
        let mut state = self.state();
        for busy in &mut state.at_work {
            busy.events.retain(|one| *one != event);
        }
        state.at_work.retain(|busy| !busy.events.is_empty());
    }

    /// Hands the stage over while these requests of this instance are under way, for so long at most.
    pub(super) fn hand_over(&self, by: &str, events: Vec<u64>, within: Duration) {
        let mut state = self.state();
        state.at_work.push(BusyInstance {
            by: by.to_owned(),
            events,
            until: Instant::now() + within,
        });
        state.handed_over = true;
        drop(state);
        self.at_once.notify_one();
    }

    /// Requests of this instance that are still under way after it handed the stage over.
    pub(super) fn still_at_work(&self, by: &str, events: Vec<u64>) {
        let mut state = self.state();
        if let Some(busy) = state.at_work.iter_mut().find(|busy| busy.by == by) {
            busy.events = events;
        }
        state.at_work.retain(|busy| !busy.events.is_empty());
    }

    /// The note for the next renewal.
    pub(super) fn note(&self) -> Note {
        let (state, now) = (self.state(), Instant::now());
        let at_work = state.at_work.iter().map(|busy| AtWork {
            by: busy.by.clone(),
            events: busy.events.clone(),
            within_ms: u64::try_from(busy.until.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX),
        });
        Note {
            floor: match &state.progress {
                Some(progress) => {
                    let floor = progress.floor();
                    // Read after the floor: each event that the floor calls settled is in a lane by then, or has ended.
                    let lanes = state.lanes.as_ref();
                    let lanes = lanes.map(|lanes| *lanes.lock().unwrap_or_else(PoisonError::into_inner));
                    let lanes = state.before.unwrap_or(lanes);
                    Some(Floor { lanes, ..floor })
                }
                None => state.inherited.clone(),
            },
            at_work: at_work.filter(|one| one.within_ms > 0).collect(),
            handed_over: state.handed_over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::identity::Trail;

    /// An instance that has settled everything up to here, and compared the log when the connection was made the first time.
    fn settled_up_to(settled: u64) -> Tenure {
        let tenure = Tenure::new(&Inherited {
            note: Note::default(),
            read_at: Instant::now(),
            words: None,
        });
        let floor = Floor {
            created: 1,
            known: settled,
            known_id: String::new(),
            trail: Trail::EMPTY,
            recorded: settled,
            settled,
            open: Vec::new(),
            lanes: None,
        };
        tenure.begin(Progress::of(floor), (None, None), 1);
        tenure
    }

    const HOUR_MS: i64 = 3_600_000;

    /// A consumer that was made anew hands out everything again: comparisons are counted by time, not by events.
    #[test]
    fn old_events_that_are_handed_out_again_need_few_comparisons() {
        const EVENTS: u64 = 20_000;
        let (tenure, began) = (settled_up_to(EVENTS), Instant::now());
        let mut comparisons = 0;
        for sequence in 1..=EVENTS {
            let message = Handed {
                sequence,
                delivered: 1,
                age_ms: HOUR_MS,
            };
            if tenure.must_compare(&message, 1) {
                comparisons += 1;
                tenure.is_compared(1);
            }
        }
        let most = began.elapsed().as_secs() + 1;
        assert!(
            comparisons <= most,
            "{comparisons} comparisons for {EVENTS} events, at most {most} are needed"
        );
    }

    #[test]
    fn positions_of_a_possibly_other_log_are_compared() {
        let tenure = settled_up_to(100);
        let must = |sequence, delivered, age_ms, times| {
            let message = Handed {
                sequence,
                delivered,
                age_ms,
            };
            tenure.must_compare(&message, times)
        };
        assert!(!must(101, 1, 0, 1), "a new event");
        assert!(!must(7, 2, 0, 1), "the consumer hands it out again");
        assert!(
            must(7, 1, 0, 1),
            "young, and for the first time where something had come"
        );
        assert!(must(7, 1, OLD.as_millis() as i64, 1));
        assert!(must(7, 1, -5, 1), "the server's clock is ahead");
        assert!(!must(7, 1, HOUR_MS, 1));
        assert!(must(7, 1, HOUR_MS, 2) && must(101, 1, 0, 2), "over a new connection");
        tenure.state().compared_last = Instant::now().checked_sub(COMPARED).unwrap();
        assert!(must(7, 1, HOUR_MS, 1), "the last comparison is too long ago");
    }
}
