//! Events that wait for an earlier one of their order that stands in another lane: an order and its cancellation may be proven by different
//! secrets, and what a branch's secret proved has lanes of its own.
//!
//! Each event has a turn: its place on the log, or that of the request by which a person had it taken up again. News wait for all events with
//! an earlier turn. News that wait for other news let an announcement in their own lane pass as long as the backend has no order of the number: it may
//! be theirs, and the other news may wait for it, too.
//!
//! An announcement waits for earlier announcements. It waits for earlier news only if it announces another order than they are about and the
//! backend has theirs: the backend would apply them to the newer order otherwise. It does not wait if the first of the earlier news stands in
//! its own lane, because that one let it pass, or waits for an order that is not there. So no circle of waiting events can form: an event
//! waits for a later turn only behind an announcement that it let pass, and gets its place back when its order is there
//! (`delivery::stage::another_order`).

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Forward,
    identity::{OrderIdentity, is_same_branch},
    waits::cannot_see,
};
use crate::{
    delivery::superseded::KnownAcceptances as _, event::Recorded, journal::codec::OrderKey, memory::IndexEntry,
    retry::Failure,
};

/// How long an event waits before it is looked whether an earlier one of its order, in another lane, has its outcome: longer, the longer it
/// has waited.
const LEAST_BEHIND: Duration = Duration::from_millis(250);
const MOST_BEHIND: Duration = Duration::from_secs(30);

/// What an event waits for.
#[derive(Debug)]
enum Awaited {
    /// This announcement, perhaps with others and news.
    Announcement(Box<Recorded>),
    /// News alone; these are the first of them.
    News(Box<Recorded>),
}

/// When an event is next for its order, and since when it waits.
#[derive(Debug, Clone, Copy)]
struct OwnTurn {
    place: u64,
    since: DateTime<Utc>,
}

impl Forward {
    /// Succeeds if no earlier event of the order stands in another lane without an outcome. Nothing wakes an event that waits for one. An
    /// event that no stage has any more must not keep others for longer than it would have been retried.
    ///
    /// # Errors
    /// While there is one, and if the log does not answer.
    pub(super) async fn after_other_lane(&self, event: &Recorded) -> Result<(), Failure> {
        let awaited = self.awaited(event).await.map_err(|error| cannot_see(&error))?;
        let Some(awaited) = awaited else {
            return Ok(());
        };
        // News that need not wait for their order let none pass: that one could wait for the other news.
        let is_news = matches!(awaited, Awaited::News(_)) && !event.envelope.is_creation();
        let is_over = self.identity.wait_is_over(event);
        let for_creation = is_news && !is_over.await.map_err(|error| cannot_see(&error))?;
        let waited = (Utc::now() - self.identity.turn_of(event).since)
            .to_std()
            .unwrap_or_default();
        Err(Failure::OtherLane {
            after: (waited / 8).clamp(LEAST_BEHIND, MOST_BEHIND),
            for_creation,
        })
    }

    /// An event that an announcement waits for, with its lane, if it announces another order than that event is about.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(super) async fn behind_another(&self, event: &Recorded) -> anyhow::Result<Option<(OrderKey, u64)>> {
        let place = |earlier: &Recorded| (OrderKey::of(earlier), self.identity.place_in_lane(earlier));
        let earlier = match self.awaited(event).await? {
            None => return Ok(None),
            Some(Awaited::News(earlier)) => return Ok(Some(place(&earlier))),
            Some(Awaited::Announcement(earlier)) => earlier,
        };
        let is_another = self.identity.announces_another(event, &earlier).await?;
        Ok(is_another.then(|| place(&earlier)))
    }

    /// An event that an event waits for, with its lane.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(super) async fn behind_any(&self, event: &Recorded) -> anyhow::Result<Option<(OrderKey, u64)>> {
        let awaited = self.awaited(event).await?;
        Ok(
            awaited.map(|(Awaited::News(earlier) | Awaited::Announcement(earlier))| {
                (OrderKey::of(&earlier), self.identity.place_in_lane(&earlier))
            }),
        )
    }

    async fn awaited(&self, event: &Recorded) -> anyhow::Result<Option<Awaited>> {
        // The quick attempts and the jitter come to that.
        let longest = self.schedule.longest().saturating_mul(2).saturating_add(MOST_BEHIND);
        let longest = TimeDelta::from_std(longest).unwrap_or(TimeDelta::MAX);
        let longest = longest.max(self.identity.orders.window());
        self.identity.awaited_in_another_lane(event, longest).await
    }
}

impl OrderIdentity {
    fn turn_of(&self, event: &Recorded) -> OwnTurn {
        let request = event.run.and_then(|_| self.orders.taken_up(event.sequence));
        match request {
            Some(request) => OwnTurn {
                place: request.sequence,
                since: request.since,
            },
            None => OwnTurn {
                // A request that is not known any more comes last.
                place: event.run.map_or(event.sequence, |_| u64::MAX),
                since: event.envelope.received_at,
            },
        }
    }

    /// What an event waits for: events of the same order with an earlier turn that stand in another lane and have no outcome yet. The secret
    /// that proved a webhook decides the lane, and not the order. What was accepted, and taken up, longer ago than `longest` is not waited for.
    async fn awaited_in_another_lane(&self, event: &Recorded, longest: TimeDelta) -> anyhow::Result<Option<Awaited>> {
        let (own, is_creation, turn) = (OrderKey::of(event), event.envelope.is_creation(), self.turn_of(event));
        let known = self.orders.known(event);
        let mut first_news: Option<(u64, Recorded)> = None;
        for found in known.of_branch() {
            let Some((place, taken_up_at)) = self.pending(&found) else {
                continue;
            };
            if place >= turn.place || found.sequence == event.sequence {
                continue;
            }
            // An announcement also waits for events of another day: the backend must get the newer order last.
            let earlier = match is_creation {
                true => self.orders.read_whenever(event, found).await?,
                false => self.orders.read(event, found).await?,
            };
            let Some(earlier) = earlier else {
                continue;
            };
            let since = taken_up_at.unwrap_or(earlier.envelope.received_at);
            let is_own_lane = OrderKey::of(&earlier) == own;
            if Utc::now() - since > longest || !is_same_branch(&earlier, event) || is_own_lane && !is_creation {
                continue;
            }
            if !found.state.is_creation() {
                if first_news.as_ref().is_none_or(|(first, _)| place < *first) {
                    first_news = Some((place, earlier));
                }
            } else if !is_own_lane {
                return Ok(Some(Awaited::Announcement(Box::new(earlier))));
            }
        }
        let Some((_, news)) = first_news else {
            return Ok(None);
        };
        let is_awaited = !is_creation
            || OrderKey::of(&news) != own
                && self.has_order_of(&news).await?
                && self.announces_another(event, &news).await?;
        Ok(is_awaited.then(|| Awaited::News(Box::new(news))))
    }

    /// An announcement in another lane, without an outcome, that waits for this earlier event and is of another order than that.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(super) async fn another_behind(&self, earlier: &Recorded) -> anyhow::Result<Option<Recorded>> {
        let (own, known, turn) = (OrderKey::of(earlier), self.orders.known(earlier), self.turn_of(earlier));
        let waits = |found: &IndexEntry| {
            let pending = self.pending(found).filter(|_| found.state.is_creation());
            pending.is_some_and(|(place, _)| place > turn.place)
        };
        for found in known.of_branch().filter(waits) {
            if let Some(event) = self.orders.read_whenever(earlier, found).await?
                && is_same_branch(&event, earlier)
                && OrderKey::of(&event) != own
                && self.announces_another(&event, earlier).await?
            {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The sequence under which a body stands in its lane: its own, or that of the request by which it is taken up again.
    fn place_in_lane(&self, body: &Recorded) -> u64 {
        let request = self.orders.taken_up(body.sequence);
        request.map_or(body.sequence, |request| request.sequence)
    }

    /// The turn of a body that has no outcome, or that is taken up again, with the time of that.
    fn pending(&self, found: &IndexEntry) -> Option<(u64, Option<DateTime<Utc>>)> {
        if found.state.is_open() {
            return Some((found.sequence, None));
        }
        let request = self.orders.taken_up(found.sequence)?;
        Some((request.sequence, Some(request.since)))
    }
}
