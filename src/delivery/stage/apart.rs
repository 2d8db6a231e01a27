//! Events of an order key that are about orders of which neither waits for the other: the key has no branch where the platform's secret proved a
//! webhook, and two branches may have the same number.
//!
//! Such an event is handled beside the lane of the other order. If it has to be parked, it joins the lane: a lane has one due time.

use super::{
    Stage, Worker,
    attempt::{Attempted, TaskContext},
    fair_share::WorkKind,
    join::join,
    work_queue::{Done, QueuedEvent},
};
use crate::{
    delivery::lanes::Lanes,
    event::Recorded,
    journal::{codec::OrderKey, pull::acknowledge, read::event_at},
    retry::Failure,
};

/// Events of a lane that are read at most to see whether another one waits for them. Behind more of them it waits.
const MOST_READ: usize = 32;

impl<S: Stage> Worker<S> {
    /// Whether an event waits for nothing in the open lane of its order key.
    pub(super) async fn stands_apart(&self, lanes: &Lanes, key: OrderKey, item: &QueuedEvent) -> anyhow::Result<bool> {
        let (event, Some(lane)) = (&item.event, lanes.get(key).await?) else {
            return Ok(false);
        };
        // Most lanes hold the events of one branch, and need not be read for this.
        let is_of_branch = event.envelope.branch.is_none() || lane.branch == event.envelope.branch;
        if is_of_branch || item.parked.is_some() || lane.holds(event.sequence) || lane.waiting.len() >= MOST_READ {
            return Ok(false);
        }
        let Some(body) = self.body_of(event.clone()).await? else {
            return Ok(false);
        };
        for sequence in lane.sequences() {
            let other = match event_at(self.journal.connection(), sequence).await? {
                Some(other) => self.body_of(other).await?,
                None => None,
            };
            if !other.is_some_and(|other| S::are_apart(&body, &other)) {
                return Ok(false);
            }
        }
        Ok(true)
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
        match self.attempt(event, item.requests, WorkKind::Event, context).await? {
            Attempted::Stopped | Attempted::Left => Ok(false),
            Attempted::Ended => {
                acknowledge(item.message.as_ref()).await?;
                Ok(true)
            }
            Attempted::Parked(requests, _) => {
                let (lanes, item) = (self.lanes(context)?, QueuedEvent { requests, ..item });
                let hastens = self.hastens(lanes, key, &item.event).await?;
                let joined = join::<S>(lanes, key, (&item.event, requests), hastens).await?;
                self.joined(key, &item, joined, context, done).await
            }
        }
    }
}

/// Whether a failure of an event keeps an open lane of its order key waiting for another branch: it is parked then, however few are in memory.
pub(super) fn keeps_lane<T>(
    context: &TaskContext,
    (kind, event): (WorkKind, &Recorded),
    handled: &Result<T, Failure>,
) -> bool {
    let lanes = context.lanes.as_ref().filter(|_| kind == WorkKind::Event);
    matches!(handled, Err(Failure::OfBranch { .. })) && lanes.is_some_and(|lanes| lanes.is_open(OrderKey::of(event)))
}
