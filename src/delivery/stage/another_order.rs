//! A number that is used again: an order waits behind an older order of its number for one more attempt of each event of that one, and
//! not for its retries.
//!
//! The older order stays first, so what the backend has under the number last is the newer one. When the newer one joins the lane, the
//! head is tried at once. If that attempt fails, or a later one does, the head is given up while the newer order waits. The newer one may
//! also wait in the other lane of the order ([`OrderKey::beside`]): then the older one's lane is looked at, by its own task.

use std::{sync::atomic::Ordering, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    Stage, Worker,
    action::retried,
    apart::are_apart,
    attempt::{Attempted, HandlerResult, TaskContext},
    given_up::number_used_again,
    out_of_turn::GivenUp,
};
use crate::{
    delivery::lanes::{Lane, Lanes},
    event::Recorded,
    fault_injection::time,
    journal::{codec::OrderKey, read::event_at},
    retry::{Failure, ParkCause, Parking, QUICK},
};

/// How soon the head of a lane is tried again, at the latest, where another order waits behind it.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How long another order waits at most for an earlier one that fails in trials of a half-open breaker. In a quiet branch there may be no
/// other request to show that the backend is back.
const LONGEST_TRIALS: Duration = Duration::from_secs(300);

fn look_again() -> TimeDelta {
    TimeDelta::from_std(time("look_at_lane_again", LOOK_AGAIN)).unwrap_or_default()
}

/// Writes the lane of an event that is parked. `is_behind`: its head waits for the other lane of its order.
pub(super) async fn put_parked(lanes: &Lanes, key: OrderKey, lane: &Lane, is_behind: bool) -> anyhow::Result<()> {
    lanes.put(key, lane).await?;
    lanes.note_behind(key, is_behind);
    Ok(())
}

impl<S: Stage> Worker<S> {
    /// Whether an event that joins a lane announces another order than the first event there that it waits for, which is to be tried at once for
    /// that. `first`: the sequence of that one, and what it is about if that was read.
    pub(super) async fn hastens(
        &self,
        key: OrderKey,
        lane: &Lane,
        (first, before): (u64, Option<Box<Recorded>>),
        event: &Recorded,
    ) -> anyhow::Result<bool> {
        if !S::creates(event) || first == lane.head && lane.is_due(Utc::now()) {
            return Ok(false);
        }
        let before = match before {
            Some(before) => Some(*before),
            None => match self.event_in(key, lane, first).await? {
                Ok(before) => self.body_of(before).await?,
                Err(_) => None,
            },
        };
        let is_another = match (self.body_of(event.clone()).await?, before) {
            (Some(body), Some(before)) => {
                !S::are_apart(&body, &before) && self.stage.announces_another(&body, &before).await?
            }
            _ => false,
        };
        if is_another {
            tracing::info!(
                stage = S::NAME,
                provider = &*event.envelope.provider,
                order_id = event.envelope.external_order_id,
                sequence = first,
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
            && let Some((key, earlier)) = self.stage.held_up_by(event).await?
        {
            lanes.look_for(key, earlier);
        }
        Ok(())
    }

    /// Has the order's other lane looked at, of which an event has ended: what is at the head there may wait for that. `is_created`: the
    /// backend may have the order now, for which news there may wait.
    pub(super) fn wake_other_lane(&self, context: &TaskContext, event: &Recorded, is_created: bool) {
        let lanes = context.lanes.as_ref().filter(|lanes| !lanes.is_empty());
        if let Some((lanes, key)) = lanes.zip(OrderKey::beside(event))
            && (is_created || lanes.is_behind(key))
        {
            lanes.look_at(key);
        }
    }

    /// Makes a lane due now if it is to be looked at and its head need not wait: it waits for its order, which is there, or for the
    /// other lane, or another order waits behind it. False if it is left as it is.
    pub(super) async fn look(&self, key: OrderKey, lane: &Lane, context: &TaskContext) -> anyhow::Result<bool> {
        let lanes = self.lanes(context)?;
        if !lanes.take_look(key) || context.halt.is_cancelled() {
            return Ok(false);
        }
        let Ok(head) = self.event_in(key, lane, lane.head).await? else {
            return Ok(false);
        };
        if let Some(lane) = self.woken(key, lane, &head).await? {
            // The lane belongs to the next instance then.
            let is_ours = !context.handed_over.load(Ordering::Relaxed);
            if is_ours {
                lanes.put(key, &lane).await?;
            }
            return Ok(is_ours);
        }
        let wanted = match lanes.take_looked_for(key) {
            Some(wanted) => self.first_before(lane, wanted).await?,
            None => None,
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != lane.head)
            && lane
                .tried(wanted)
                .is_some_and(|tried| tried.due_at > Utc::now() + look_again())
            && !context.handed_over.load(Ordering::Relaxed)
        {
            let mut lane = lane.clone();
            lane.hasten(wanted, lanes.next_look(key, Utc::now()));
            lanes.put(key, &self.next_in(lane).await?).await?;
            return Ok(true);
        }
        let is_free = lanes.is_behind(key) || lane.for_creation && self.wait_is_over(&head).await? == Some(true);
        // What is tried soon anyway is left alone: two lanes must not have each other tried without a pause.
        let is_far = lane.due_at > Utc::now() + look_again();
        let is_due = is_free || (is_far && self.another_order_behind(key, lane, &head).await?.is_some());
        // The lane belongs to the next instance then.
        if !is_due || context.handed_over.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let due_at = lanes.next_look(key, Utc::now()).min(lane.due_at);
        lanes.put(key, &Lane { due_at, ..lane.clone() }).await?;
        Ok(true)
    }

    /// The first event of a lane that one of its events waits for, or that one itself.
    async fn first_before(&self, lane: &Lane, wanted: u64) -> anyhow::Result<Option<u64>> {
        let Some(at) = lane.sequences().position(|one| one == wanted) else {
            return Ok(None);
        };
        let Some(bodies) = self.bodies_in(lane).await? else {
            return Ok(Some(wanted));
        };
        let first = (0..=at).find(|one| *one == at || !are_apart::<S>(bodies[*one].as_ref(), bodies[at].as_ref()));
        Ok(first.and_then(|first| lane.sequences().nth(first)))
    }

    /// What becomes of the head of a lane after an attempt, where another order waits behind it. After a failed attempt it is given up. A
    /// trial of a half-open breaker is none: the head is tried again soon, and given up after a failed trial when the other order has waited
    /// for [`LONGEST_TRIALS`]. A head that waits for its order lets the other one pass, unless the backend should have it. What the head waits for in the other lane holds the other
    /// order up as well, so that lane is looked at.
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
        let has_failed = parking.has_failed;
        let is_untried = !has_failed && parking.cause == ParkCause::Untried;
        if is_untried || context.handed_over.load(Ordering::Relaxed) {
            return Ok(attempted);
        }
        let (mut parking, mut is_early) = (parking, false);
        if parking.for_creation {
            // News that wait for their order let an order pass, unless the backend has theirs.
            if self.wait_is_over(head).await? != Some(true) {
                return Ok(attempted);
            }
            parking.for_creation = false;
            // It may take a backend a moment to know an order that it has just taken.
            is_early = lane.for_creation || requests as usize <= QUICK.len();
            if is_early {
                let soon = Utc::now() + TimeDelta::from_std(QUICK[QUICK.len() - 1]).unwrap_or_default();
                parking.until = parking.until.min(soon);
            }
        }
        let attempted = Attempted::Parked(requests, parking);
        let behind = self.another_order_behind(key, lane, head).await?;
        let Some((newer, since)) = behind.filter(|_| !is_early) else {
            return Ok(attempted);
        };
        if !has_failed && parking.cause == ParkCause::OtherLane {
            self.look_beside(head, context).await?;
            return Ok(attempted);
        }
        let waited = (Utc::now() - since).to_std().unwrap_or_default();
        if !has_failed && waited < time("trials_before_another", LONGEST_TRIALS) {
            let soon = Utc::now() + look_again();
            let until = parking.until.min(soon);
            return Ok(Attempted::Parked(requests, Parking { until, ..parking }));
        }
        // The provider is not told: there, the number means the newer order.
        let end = |event: &Recorded| GivenUp::Untold(number_used_again::<S>(event, requests, &newer));
        if self.record_out_of_turn(head, requests, end, context).await? {
            Ok(Attempted::Ended)
        } else {
            Ok(Attempted::Stopped)
        }
    }

    /// Has the other lane of an order looked at, for the event that this one waits for there.
    async fn look_beside(&self, event: &Recorded, context: &TaskContext) -> anyhow::Result<()> {
        let Some((lanes, other)) = context.lanes.as_ref().zip(OrderKey::beside(event)) else {
            return Ok(());
        };
        let awaited = match self.body_of(event.clone()).await? {
            Some(body) => self.stage.awaited_beside(&body).await?,
            None => None,
        };
        match awaited {
            Some((key, earlier)) => lanes.look_for(key, earlier),
            None => lanes.look_at(other),
        }
        Ok(())
    }

    /// The body of the first event that announces another order than the head of a lane is about, and waits for that: in this lane, or in
    /// another one. And since when it waits.
    async fn another_order_behind(
        &self,
        key: OrderKey,
        lane: &Lane,
        head: &Recorded,
    ) -> anyhow::Result<Option<(Recorded, DateTime<Utc>)>> {
        let Some(head) = self.body_of(head.clone()).await? else {
            return Ok(None);
        };
        for (sequence, _) in &lane.waiting {
            // An earlier version does not say which of them are announcements, and neither does a lane that was made again.
            if lane.creations.as_ref().is_some_and(|known| !known.contains(sequence)) {
                continue;
            }
            let event = event_at(self.journal.connection(), *sequence).await?;
            if let Some(event) = event.filter(|event| S::creates(event) && OrderKey::of(event) == key)
                && let since = event.envelope.time
                && let Some(body) = self.body_of(event).await?
                && !S::are_apart(&body, &head)
                && self.stage.announces_another(&body, &head).await?
            {
                return Ok(Some((body, since)));
            }
        }
        let elsewhere = self.stage.another_held_up(&head).await?;
        Ok(elsewhere.map(|body| {
            let since = body.envelope.received_at;
            (body, since)
        }))
    }

    /// What an event is about: a request for a retry names its body. None if that is not on the log any more.
    pub(super) async fn body_of(&self, event: Recorded) -> anyhow::Result<Option<Recorded>> {
        let Some(sequence) = retried(&event) else {
            return Ok(Some(event));
        };
        let body = event_at(self.journal.connection(), sequence).await?;
        Ok(body.map(|body| Recorded {
            run: Some(event.envelope.id),
            ..body
        }))
    }
}
