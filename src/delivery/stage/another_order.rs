//! A number that is used again: an order waits behind an older order of its number for one more attempt of each event of that one, and
//! not for its retries.
//!
//! The older order stays first, so what the backend has under the number last is the newer one. When the newer one joins the lane, the
//! head is tried at once. If that attempt fails, or a later one does, the head is given up while the newer order waits. The newer one may
//! also wait in the other lane of the order ([`OrderKey::beside`]): then the older one's lane is looked at, by its own task.

use std::sync::atomic::Ordering;

use chrono::Utc;

use super::{
    Stage, Worker,
    attempt::{Attempted, HandlerResult, TaskContext},
    given_up::number_used_again,
};
use crate::{
    delivery::lanes::{Lane, Lanes},
    event::Recorded,
    journal::{codec::OrderKey, read::event_at},
    retry::Failure,
};

impl<S: Stage> Worker<S> {
    /// Whether an event that joins a lane announces another order than the head is about, which is to be tried at once for that.
    pub(super) async fn hastens(&self, lanes: &Lanes, key: OrderKey, event: &Recorded) -> anyhow::Result<bool> {
        if !S::creates(event) {
            return Ok(false);
        }
        let Some(lane) = lanes.get(key).await?.filter(|lane| !lane.is_due(Utc::now())) else {
            return Ok(false);
        };
        let Ok(head) = self.event_in(key, &lane, lane.head).await? else {
            return Ok(false);
        };
        let is_another = self.stage.announces_another(event, &head).await?;
        if is_another {
            tracing::info!(
                stage = S::NAME,
                provider = &*event.envelope.provider,
                order_id = event.envelope.external_order_id,
                sequence = lane.head,
                "another order has this number; the earlier one, which waits, is tried at once"
            );
        }
        Ok(is_another)
    }

    /// Has the order's other lane looked at if an announcement waits for what is in it, and is of another order.
    pub(super) async fn hasten_other_lane(
        &self,
        context: &TaskContext,
        event: &Recorded,
        handled: &HandlerResult,
    ) -> anyhow::Result<()> {
        let waits = S::creates(event) && matches!(handled, Err(Failure::OtherLane { .. }));
        if let Some(lanes) = context.lanes.as_ref().filter(|_| waits)
            && let Some(key) = self.stage.held_up_by(event).await?
        {
            lanes.look_at(key);
        }
        Ok(())
    }

    /// Has the order's other lane looked at: news in it may wait for the order, which has just been created, or the head of this lane waits
    /// for what is in it, and another order behind that head.
    pub(super) fn wake_other_lane(&self, context: &TaskContext, event: &Recorded) {
        if let Some(lanes) = &context.lanes {
            OrderKey::beside(event).into_iter().for_each(|key| lanes.look_at(key));
        }
    }

    /// Makes a lane due now if it is to be looked at and its head need not wait: it waits for its order, which may be there, or another
    /// order waits behind it. False if it is left as it is.
    pub(super) async fn look(&self, key: OrderKey, lane: &Lane, context: &TaskContext) -> anyhow::Result<bool> {
        let lanes = self.lanes(context)?;
        if !lanes.take_look(key) || context.halt.is_cancelled() {
            return Ok(false);
        }
        let Ok(head) = self.event_in(key, lane, lane.head).await? else {
            return Ok(false);
        };
        let is_due = lane.for_creation || self.another_order_behind(key, lane, &head).await?.is_some();
        // The lane belongs to the next instance then.
        if !is_due || context.handed_over.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let due_at = Utc::now();
        lanes.put(key, &Lane { due_at, ..lane.clone() }).await?;
        Ok(true)
    }

    /// What becomes of the head of a lane after an attempt: if that failed and another order waits behind it, it is given up. A trial
    /// of a half-open breaker is no attempt, and a head that waits for its order lets that one pass. What the head waits for in the
    /// other lane holds the other order up as well, so that lane is looked at.
    pub(super) async fn unless_another_waits(
        &self,
        key: OrderKey,
        lane: &Lane,
        (head, attempted): (&Recorded, Attempted),
        context: &TaskContext,
    ) -> anyhow::Result<Attempted> {
        let &Attempted::Parked(requests, parking) = &attempted else {
            return Ok(attempted);
        };
        if parking.for_creation || context.handed_over.load(Ordering::Relaxed) {
            return Ok(attempted);
        }
        let Some(newer) = self.another_order_behind(key, lane, head).await? else {
            return Ok(attempted);
        };
        if requests == lane.requests {
            self.wake_other_lane(context, head);
            return Ok(attempted);
        }
        let end = |event: &Recorded| number_used_again::<S>(event, requests, &newer);
        if self.record_out_of_turn(head, requests, end, context).await? {
            Ok(Attempted::Ended)
        } else {
            Ok(Attempted::Stopped)
        }
    }

    /// The first event that announces another order than the head of a lane is about, and waits for that: in this lane, or in another one.
    async fn another_order_behind(
        &self,
        key: OrderKey,
        lane: &Lane,
        head: &Recorded,
    ) -> anyhow::Result<Option<Recorded>> {
        for (sequence, _) in &lane.waiting {
            // An earlier version does not say which of them are announcements, and neither does a lane that was made again.
            if lane.creations.as_ref().is_some_and(|known| !known.contains(sequence)) {
                continue;
            }
            let event = event_at(self.journal.connection(), *sequence).await?;
            if let Some(event) = event.filter(|event| S::creates(event) && OrderKey::of(event) == key)
                && self.stage.announces_another(&event, head).await?
            {
                return Ok(Some(event));
            }
        }
        self.stage.another_held_up(head).await
    }

    /// Which event that waits in a lane is the one that its head waits for: it came while the head waited for something else,
    /// and so did not pass. The lane does not say it, as an earlier version leaves it, so they are read.
    pub(super) async fn creation_in(&self, key: OrderKey, lane: &Lane) -> anyhow::Result<Option<usize>> {
        for (at, (sequence, _)) in lane.waiting.iter().enumerate() {
            let event = event_at(self.journal.connection(), *sequence).await?;
            if event.is_some_and(|event| S::creates(&event) && OrderKey::of(&event) == key) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}
