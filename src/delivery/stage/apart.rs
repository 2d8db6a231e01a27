//! Events of an order key that are about orders of which neither waits for the other: the key has no branch where the platform's secret proved a
//! webhook, and two branches may have the same number.
//!
//! Such an event is handled beside the lane of the other order. If it has to be parked, it joins the lane with a time of its own. The lane's head is
//! the event that is due first, of those that no event before them holds up ([`Worker::next_in`]).

use chrono::Utc;

use super::{
    Stage, Worker,
    attempt::{Attempted, TaskContext},
    fair_share::WorkKind,
    work_queue::{Done, QueuedEvent},
};
use crate::{
    delivery::lanes::Lane,
    event::Recorded,
    journal::{codec::OrderKey, pull::acknowledge, read::event_at},
    retry::Failure,
};

/// Events of a lane that are read at most to see which of them hold up others. In a longer lane each waits for all before it.
const MOST_READ: usize = 32;

/// The first event of a lane that holds up another event.
pub(super) enum HeldUpBy {
    /// The one at this place in the lane, 0 for the head; what it is about, if that was read.
    Event(usize, Option<Box<Recorded>>),
    /// None.
    Nothing,
}

impl<S: Stage> Worker<S> {
    /// The first event of the open lane of its order key that an event waits for.
    pub(super) async fn held_up_in(&self, lane: &Lane, event: &Recorded) -> anyhow::Result<HeldUpBy> {
        // Most lanes hold the events of one branch, and need not be read for this.
        let is_of_branch = event.envelope.branch.is_none() || lane.branch == event.envelope.branch;
        let is_alike = is_of_branch && !lane.is_mixed || !S::HAS_ORDERS_APART;
        if is_alike || lane.holds(event.sequence) {
            return Ok(HeldUpBy::Event(0, None));
        }
        let bodies = self.bodies_in(lane).await?;
        let (Some(bodies), Some(body)) = (bodies, self.body_of(event.clone()).await?) else {
            return Ok(HeldUpBy::Event(0, None));
        };
        let first = bodies
            .iter()
            .position(|other| !are_apart::<S>(Some(&body), other.as_ref()));
        Ok(first.map_or(HeldUpBy::Nothing, |at| {
            HeldUpBy::Event(at, bodies.into_iter().nth(at).flatten().map(Box::new))
        }))
    }

    /// A lane with that event at its head that is due first, of those that no event before them holds up.
    pub(super) async fn next_in(&self, lane: Lane) -> anyhow::Result<Lane> {
        // A lane that was made again does not say whether it is mixed.
        let may_be_mixed = S::HAS_ORDERS_APART && (lane.is_mixed || lane.creations.is_none());
        let now = Utc::now();
        if lane.waiting.is_empty() || !may_be_mixed || lane.is_due(now) {
            return Ok(lane);
        }
        let Some(bodies) = self.bodies_in(&lane).await? else {
            return Ok(lane);
        };
        let are_apart = |one: usize, other: usize| are_apart::<S>(bodies[one].as_ref(), bodies[other].as_ref());
        Ok(lane.led_by_first_due(are_apart, now))
    }

    /// What each event of a lane is about, in its order; none if there are too many.
    pub(super) async fn bodies_in(&self, lane: &Lane) -> anyhow::Result<Option<Vec<Option<Recorded>>>> {
        if lane.waiting.len() >= MOST_READ {
            return Ok(None);
        }
        let mut bodies = Vec::with_capacity(lane.waiting.len() + 1);
        for sequence in lane.sequences() {
            let event = event_at(self.journal.connection(), sequence).await?;
            bodies.push(match event {
                Some(event) => self.body_of(event).await?,
                None => None,
            });
        }
        Ok(Some(bodies))
    }

    /// Handles an event beside the open lane of its order key. False when the hub stops before it is settled.
    pub(super) async fn settle_apart(
        &self,
        key: OrderKey,
        item: QueuedEvent,
        context: &TaskContext,
        done: &mut Done,
    ) -> anyhow::Result<bool> {
        let event = item.event.clone();
        let attempted = match item.parked {
            Some(parking) if parking.until > Utc::now() => Attempted::Parked(item.requests, parking),
            _ => self.attempt(event, item.requests, WorkKind::Event, context).await?,
        };
        match attempted {
            Attempted::Stopped | Attempted::Left => Ok(false),
            Attempted::Ended => {
                acknowledge(item.message.as_ref()).await?;
                Ok(true)
            }
            Attempted::Parked(requests, parking) => {
                let parked = Some(parking);
                let item = QueuedEvent {
                    requests,
                    parked,
                    ..item
                };
                let joined = self.join(self.lanes(context)?, key, &item).await?;
                self.joined(key, &item, joined, context, done).await
            }
        }
    }
}

/// Whether neither of two events of a lane waits for the other. An event that is not there any more may be about any order.
pub(super) fn are_apart<S: Stage>(one: Option<&Recorded>, other: Option<&Recorded>) -> bool {
    one.zip(other).is_some_and(|(one, other)| S::are_apart(one, other))
}

/// Whether a failure of an event keeps others waiting that need not: another branch's behind it in the queue, or those of a lane of which it is not the
/// only one that may be tried. It is parked then, however few are in memory.
pub(super) fn holds_up_another<S: Stage, T>(
    context: &TaskContext,
    (kind, event): (WorkKind, &Recorded),
    handled: &Result<T, Failure>,
) -> bool {
    let Some((lanes, failure)) = context.lanes.as_ref().zip(handled.as_ref().err()) else {
        return false;
    };
    // It may be left to an instance that can handle it, and then keeps nothing waiting.
    if matches!(failure, Failure::Elsewhere { .. }) {
        return false;
    }
    let key = OrderKey::of(event);
    let holds_up_lane = match kind {
        WorkKind::Event => matches!(failure, Failure::OfBranch { .. }) && lanes.is_open(key),
        WorkKind::Lane => lanes.has_others(key),
    };
    holds_up_lane || S::HAS_ORDERS_APART && context.behind.has_another(event)
}
