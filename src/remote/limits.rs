//! How often a provider may be called: a number of requests a second, one menu of a branch in a period, and not at all while
//! it has asked for a pause (429). The time is passed in.
//!
//! A request that has to wait for the rate gets a time of its own ([`ProviderLimits::turn`]): its event is parked until then and
//! comes back once. Times are given to the branches in turns ([`line`]), and to each of them in the order of its requests, which is the log's.
//! A request that lost its time to another branch comes back once more. A reservation says when to come back;
//! whether a request may be made then is counted when it is made ([`ProviderLimits::take`]), so that events that come back late,
//! after a breaker was open, never exceed the rate together.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use self::line::Line;
use super::Reply;
use crate::event::EventId;

mod line;

/// Most branches with a remembered last menu; of more the oldest are forgotten, and the provider's own 429 holds.
const MAX_BRANCHES: usize = 10_000;
/// Most events with a reserved time, some 6 MB of them. Any more gets a time too, and queues anew when it comes back.
const MAX_RESERVED: usize = 100_000;
/// How early an event may come back: as early as a lane may be taken up.
const EARLY: Duration = Duration::from_millis(20);
/// How many requests may come at once, in time: a second's worth.
const BURST: Duration = Duration::from_secs(1);

/// The limits of one provider.
#[derive(Debug)]
pub struct ProviderLimits {
    /// Time between two requests; zero: any number.
    spacing: Duration,
    state: Mutex<LimitsState>,
}

/// Why a request is not made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Time until its reservation; it need not try before.
    Turn(Duration),
    /// The provider wants to be left alone for so long, and there is no rate by which those that wait would be spread.
    LeftAlone(Duration),
}

impl From<Wait> for Reply {
    fn from(wait: Wait) -> Self {
        match wait {
            Wait::Turn(wait) => Self::Turn(wait),
            Wait::LeftAlone(wait) => Self::Wait(wait),
        }
    }
}

#[derive(Debug, Default)]
struct LimitsState {
    /// When the next request would be made if all that were made had come evenly.
    made: Option<Instant>,
    /// The same of all that were made or have a time.
    given: Option<Instant>,
    /// The reserved times of requests that have not come back yet.
    line: Line,
    /// When the next of those that came back and found no room may come again; they go before new ones.
    again: Option<Instant>,
    /// Their times.
    line_again: Line,
    /// Reserved times, by event.
    reserved: HashMap<EventId, Instant>,
    /// End of a requested pause.
    paused: Option<Instant>,
    menus: HashMap<String, Instant>,
}

impl LimitsState {
    /// When a request may be made, from now on.
    fn room(&self, now: Instant, burst: Duration) -> Instant {
        let made = self.made.map_or(now, |made| made - burst);
        made.max(self.paused.unwrap_or(now)).max(now)
    }

    /// Notes the time that a line gave to a request, or the least one, and the end of the line for the request that moved there.
    fn reserve_both(
        &mut self,
        now: Instant,
        (event, at): (EventId, Instant),
        moved: Option<(EventId, Instant)>,
    ) -> Instant {
        if let Some((moved, end)) = moved {
            self.reserve(now, moved, end);
        }
        self.reserve(now, event, at);
        at
    }

    fn reserve(&mut self, now: Instant, event: EventId, at: Instant) {
        if self.reserved.len() >= MAX_RESERVED {
            // Expired reservations are of events that never came back: they were handled elsewhere, or given up.
            self.reserved.retain(|_, time| *time > now);
        }
        if self.reserved.len() < MAX_RESERVED || self.reserved.contains_key(&event) {
            self.reserved.insert(event, at);
        }
    }
}

impl ProviderLimits {
    /// So many requests a second; none: any number.
    pub fn new(per_second: Option<u32>) -> Self {
        Self {
            spacing: per_second.map_or(Duration::ZERO, |count| BURST / count.max(1)),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, LimitsState> {
        // No code panics while it holds this lock; if one did, the times would still be consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn burst(&self) -> Duration {
        BURST.saturating_sub(self.spacing)
    }

    /// Asks for the time of the next request of an event, which is of this branch. Where that is now, [`Self::take`] follows when the request is made.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub fn turn(&self, now: Instant, event: EventId, branch: &str) -> Result<(), Wait> {
        let mut state = self.state();
        if self.spacing.is_zero() {
            return left(state.paused, now).map_or(Ok(()), |left| Err(Wait::LeftAlone(left)));
        }
        let state = &mut *state;
        let at = match state.reserved.get(&event) {
            Some(at) => *at,
            None => {
                state.line.come(now + EARLY);
                state.line_again.come(now + EARLY);
                let last = [state.given, state.made, state.paused].into_iter().flatten().max();
                let base = last.map_or(now, |last| last.max(now));
                let room = state.room(now, self.burst());
                let again = state.again.map(|again| state.line_again.time(branch, again));
                let least = again.map_or(room, |again| again.max(room));
                let end = (base - self.burst()).max(least);
                state.given = Some(base.max(end) + self.spacing);
                if end <= now + EARLY || state.reserved.len() >= MAX_RESERVED {
                    state.reserve(now, event, end);
                    end
                } else {
                    let (at, moved) = state.line.enter(event, branch, end);
                    state.reserve_both(now, (event, at.max(least)), moved.map(|moved| (moved, end)))
                }
            }
        };
        if at <= now + EARLY {
            Ok(())
        } else {
            Err(Wait::Turn(at - now))
        }
    }

    /// Makes one request of an event, which is of this branch; its time has come.
    ///
    /// # Errors
    /// How long to wait before asking again: others came back late and were before it.
    pub fn take(&self, now: Instant, event: EventId, branch: &str) -> Result<(), Wait> {
        let mut state = self.state();
        if self.spacing.is_zero() {
            return left(state.paused, now).map_or(Ok(()), |left| Err(Wait::LeftAlone(left)));
        }
        let room = state.room(now, self.burst());
        if room <= now + EARLY {
            state.reserved.remove(&event);
            state.made = Some(state.made.map_or(now, |made| made.max(now)) + self.spacing);
            return Ok(());
        }
        let state = &mut *state;
        state.line_again.come(now + EARLY);
        let end = state.again.map_or(room, |again| room.max(again));
        state.again = Some(end + self.spacing);
        let (at, moved) = state.line_again.enter(event, branch, end);
        let at = state.reserve_both(now, (event, at.max(room)), moved.map(|moved| (moved, end)));
        Err(Wait::Turn(at - now))
    }

    /// A request was made that had no time of its own: a second one with another token.
    pub fn took_another(&self, now: Instant) {
        let mut state = self.state();
        state.made = Some(state.made.map_or(now, |made| made.max(now)) + self.spacing);
    }

    /// This instance begins to work on the stage: the times that it gave before are of events that another one has had
    /// meanwhile, and new ones need not queue behind them.
    pub fn begin(&self) {
        let mut state = self.state();
        state.reserved.clear();
        state.line.clear();
        state.line_again.clear();
        (state.given, state.again) = (None, None);
    }

    /// The provider wants to be left alone for so long.
    pub fn pause(&self, now: Instant, pause: Duration) {
        let mut state = self.state();
        let until = now + pause;
        state.paused = Some(state.paused.map_or(until, |known| known.max(until)));
    }

    /// How long a branch's next menu has to wait, where one may be sent every so often.
    pub fn menu_wait(&self, now: Instant, branch: &str, every: Duration) -> Option<Duration> {
        let last = self.state().menus.get(branch).copied()?;
        left(Some(last + every), now)
    }

    /// A branch's menu was sent.
    pub fn menu_sent(&self, now: Instant, branch: &str) {
        let mut state = self.state();
        if state.menus.len() >= MAX_BRANCHES
            && let Some(oldest) = state
                .menus
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(branch, _)| branch.clone())
        {
            state.menus.remove(&oldest);
        }
        state.menus.insert(branch.to_owned(), now);
    }
}

fn left(until: Option<Instant>, now: Instant) -> Option<Duration> {
    until?.checked_duration_since(now).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests;
