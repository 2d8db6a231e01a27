//! A number that is used again: an order waits behind an older order of its number for one more attempt of each event of that one, and
//! not for its retries.
//!
//! The older order stays first, so what the backend has under the number last is the newer one. When the newer one joins the lane, the
//! head is tried at once. If that attempt fails, or a later one does, the head is given up while the newer order waits.

use std::sync::atomic::Ordering;

use chrono::Utc;

use super::{
    Stage, Worker,
    attempt::{Attempted, TaskContext},
    given_up::number_used_again,
};
use crate::{
    delivery::lanes::{Lane, Lanes},
    event::Recorded,
    journal::{codec::OrderKey, read::event_at},
};

impl<S: Stage> Worker<S> {
    /// Makes a lane due now if an event that waits in it announces another order than the head is about.
    pub(super) async fn hasten(&self, lanes: &Lanes, key: OrderKey, event: &Recorded) -> anyhow::Result<()> {
        if !S::creates(event) {
            return Ok(());
        }
        let now = Utc::now();
        let Some(lane) = lanes.get(key).await?.filter(|lane| !lane.is_due(now)) else {
            return Ok(());
        };
        let Ok(head) = self.event_in(key, &lane, lane.head).await? else {
            return Ok(());
        };
        if self.stage.announces_another(event, &head).await? {
            tracing::info!(
                stage = S::NAME,
                provider = &*event.envelope.provider,
                order_id = event.envelope.external_order_id,
                sequence = lane.head,
                "another order has this number; the earlier one, which waits, is tried at once"
            );
            lanes.put(key, &Lane { due_at: now, ..lane }).await?;
        }
        Ok(())
    }

    /// What becomes of the head of a lane after an attempt: if that failed and another order waits behind it, it is given up. A trial
    /// of a half-open breaker is no attempt, and a head that waits for its order lets that one pass.
    pub(super) async fn unless_another_waits(
        &self,
        key: OrderKey,
        lane: &Lane,
        (head, attempted): (Option<&Recorded>, Attempted),
        context: &TaskContext,
    ) -> anyhow::Result<Attempted> {
        let (Some(head), &Attempted::Parked(requests, parking)) = (head, &attempted) else {
            return Ok(attempted);
        };
        let has_failed = requests > lane.requests && !parking.for_creation;
        if !has_failed || context.handed_over.load(Ordering::Relaxed) {
            return Ok(attempted);
        }
        let Some(newer) = self.another_order_in(key, lane, head).await? else {
            return Ok(attempted);
        };
        let end = |event: &Recorded| number_used_again::<S>(event, requests, &newer);
        if self.record_out_of_turn(head, requests, end, context).await? {
            Ok(Attempted::Ended)
        } else {
            Ok(Attempted::Stopped)
        }
    }

    /// The first event in a lane that announces another order than its head is about.
    async fn another_order_in(&self, key: OrderKey, lane: &Lane, head: &Recorded) -> anyhow::Result<Option<Recorded>> {
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
        Ok(None)
    }
}
