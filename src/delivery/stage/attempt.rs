//! One task: it handles an event, or the lane of an order, including its attempts.
//!
//! The events that follow are on the log before the event is acknowledged, and before its lane says so.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use chrono::Utc;
use tokio_util::sync::CancellationToken;

use super::{
    Stage, Worker,
    action::{EventAction, is_ours, note, retried},
    another_order::put_parked,
    apart::{HeldUpBy, holds_up_another},
    cause_names::outcome_of,
    doubt::Doubt,
    fair_share::{FairShare, WorkKind},
    given_up::{panicked, superseded_end},
    join::{Joined, wait_in_doubt},
    let_pass::is_created,
    permission::{RequestPermission, RequestsInFlight},
    queued_behind::QueuedBehind,
    rebuild::mend,
    tenure::Tenure,
    unreadable::gone,
    work_queue::{Done, QueuedEvent, Task, Work},
};
use crate::{
    delivery::{
        lanes::{Lane, Lanes},
        lease::Validity,
    },
    event::{EventId, NewEvent, Recorded},
    fault_injection::{self, crash_stage_at},
    journal::{
        codec::{CodecError, OrderKey},
        pull::acknowledge,
        read::decoded_at,
    },
    retry::{Failure, ParkCause, Parking, Settlement, settle},
    telemetry::panics,
};

/// The state that all tasks of a stage share.
pub(super) struct TaskContext {
    /// The lanes in which events are parked; none for a stage that parks none.
    pub(super) lanes: Option<Lanes>,
    pub(super) lease: Validity,
    pub(super) tenure: Arc<Tenure>,
    /// Events that a request is under way for.
    pub(super) requests: Arc<RequestsInFlight>,
    /// Events that are known to have an outcome, though this instance did not record it: heads of lanes when the stage was
    /// taken over, and what another instance was still asking about then.
    pub(super) ended: Mutex<HashSet<EventId>>,
    /// The stage was handed over: what is under way is recorded, and nothing else is done.
    pub(super) handed_over: AtomicBool,
    /// The hub stops, or the stage starts again after an error: no new request is started, and those under way are recorded.
    pub(super) halt: CancellationToken,
    /// Turns of events and lanes while the stage lets few through.
    pub(super) shares: FairShare,
    /// The queue is too full for an event to wait in memory.
    pub(super) crowded: AtomicBool,
    /// What waits in the queue behind what is at work.
    pub(super) behind: Arc<QueuedBehind>,
    /// Orders with lanes that may be incomplete.
    pub(super) doubt: Doubt,
}

impl TaskContext {
    pub(super) fn has_ended(&self, event: &Recorded) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        outcome_of(event).iter().any(|name| ended.contains(name))
    }

    /// Notes events that another instance has ended.
    pub(super) fn note_ended(&self, events: HashSet<EventId>) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).extend(events);
    }

    /// An event needs no more than an acknowledgement, or the lane that it leads says what was recorded about it.
    pub(super) fn settle(&self, event: u64) {
        self.tenure.progress(|progress| progress.settle(event));
    }
}

/// What a stage returned for an event.
pub(super) type HandlerResult = Result<Vec<NewEvent>, Failure>;

/// The result of handling an event.
pub(super) enum Attempted {
    /// Its outcome is on the log.
    Ended,
    /// It is tried again later; so many requests were made.
    Parked(u32, Parking),
    /// The hub stops; the next instance handles it.
    Stopped,
    /// It is about an event of a newer version, and an instance of that version takes it up.
    Left,
}

impl<S: Stage> Worker<S> {
    pub(super) async fn settle(&self, task: Task, context: &TaskContext) -> anyhow::Result<Done> {
        let mut done = Done::of(&task);
        match task.work {
            Work::Event(item) => {
                let sequence = item.event.sequence;
                if self.settle_event(task.key, *item, context, &mut done).await? {
                    context.settle(sequence);
                }
            }
            Work::Due => {
                crash_stage_at(S::NAME, "lane_due");
                Box::pin(self.settle_lane(task.key, context, &mut done)).await?;
            }
            Work::Mend(one) => {
                mend(self.lanes(context)?, task.key, *one).await?;
                crash_stage_at(S::NAME, "after_mend");
            }
        }
        Ok(done)
    }

    /// False when the hub stops before it is settled.
    async fn settle_event(
        &self,
        key: OrderKey,
        item: QueuedEvent,
        context: &TaskContext,
        done: &mut Done,
    ) -> anyhow::Result<bool> {
        if !is_ours::<S>(&item.event) {
            acknowledge(item.message.as_ref()).await?;
            return Ok(true);
        }
        if let Some(lanes) = &context.lanes {
            let joined = if context.doubt.holds(key, || self.stage.before(&item.event)) {
                Some(wait_in_doubt::<S>(lanes, key, &item).await?)
            } else if let Some(lane) = lanes.get(key).await? {
                if let HeldUpBy::Nothing = self.held_up_in(&lane, &item.event).await? {
                    return Box::pin(self.settle_apart(key, item, context, done)).await;
                }
                Some(self.join(lanes, key, &item).await?)
            } else {
                None
            };
            if let Some(joined) = joined {
                return self.joined(key, &item, joined, context, done).await;
            }
        }
        let QueuedEvent {
            event: recorded,
            requests,
            parked,
            message,
        } = item;
        let (sequence, original) = (recorded.sequence, retried(&recorded));
        let (provider, branch) = (recorded.envelope.provider.to_string(), recorded.envelope.branch.clone());
        let is_aged = self.journal.identity().is_aged(original.unwrap_or(sequence));
        let attempted = match (parked, &context.lanes) {
            (Some(parking), Some(_)) if parking.until > Utc::now() && !is_aged => Attempted::Parked(requests, parking),
            _ => self.attempt(recorded, requests, WorkKind::Event, context).await?,
        };
        match attempted {
            Attempted::Stopped | Attempted::Left => return Ok(false),
            Attempted::Ended => {}
            Attempted::Parked(requests, parking) => {
                let mut lane = Lane::new(provider, sequence, requests, parking.until, parking.for_creation);
                lane.note_retried(sequence, original);
                lane.branch = branch;
                let is_behind = parking.cause == ParkCause::OtherLane;
                let lanes = self.lanes(context)?;
                put_parked(lanes, key, &lane, is_behind).await?;
                if lane.for_creation {
                    // Its order may have come while it was handled.
                    lanes.look_at(key);
                }
                crash_stage_at(S::NAME, "after_lane");
            }
        }
        acknowledge(message.as_ref()).await?;
        Ok(true)
    }

    /// Acknowledges an event that joined its order's lane, or found no room there. False if the hub goes down before that is
    /// recorded.
    pub(super) async fn joined(
        &self,
        key: OrderKey,
        item: &QueuedEvent,
        joined: Joined,
        context: &TaskContext,
        done: &mut Done,
    ) -> anyhow::Result<bool> {
        if let Joined::Full(waiting) = joined
            && !self
                .record_without_room(&item.event, item.requests, waiting, context)
                .await?
        {
            return Ok(false);
        }
        acknowledge(item.message.as_ref()).await?;
        if let Joined::Leads = joined {
            Box::pin(self.settle_lane(key, context, done)).await?;
        }
        Ok(true)
    }

    /// Works on a lane for as long as what is in it is due.
    async fn settle_lane(&self, key: OrderKey, context: &TaskContext, done: &mut Done) -> anyhow::Result<()> {
        let lanes = self.lanes(context)?;
        // The lane may have ended since it was found to be due.
        while let Some(mut lane) = lanes.get(key).await? {
            let head = lane.head;
            if !lane.is_due(Utc::now()) && !self.journal.identity().is_aged(lane.needs(head)) {
                if !self.look(key, &lane, context).await? && !self.end_one_aged_behind(key, lane, context).await? {
                    return Ok(());
                }
                continue;
            }
            let event = self.event_in(key, &lane, head).await?;
            // An earlier version does not note all of it.
            event.iter().for_each(|event| note(&mut lane, event));
            if !context.handed_over.load(Ordering::Relaxed)
                && let Ok(event) = &event
                && let Some(lane) = self.led_back(key, &lane, event).await?
            {
                lanes.put(key, &lane).await?;
                continue;
            }
            let attempted = self.attempt_head(key, &lane, event, context).await?;
            match attempted {
                Attempted::Stopped => return Ok(()),
                Attempted::Left => {
                    done.left = true;
                    return Ok(());
                }
                // The lane belongs to the next instance, which reads the outcomes from the log.
                _ if context.handed_over.load(Ordering::Relaxed) => return Ok(()),
                Attempted::Parked(requests, parking) => {
                    lane = Lane {
                        requests,
                        due_at: parking.until,
                        for_creation: parking.for_creation,
                        ..lane
                    };
                    // The creation may be in the lane even if the head waited for it before: an earlier version let it join.
                    let passed = match parking.for_creation {
                        true => self.passing(key, &lane).await?,
                        false => None,
                    };
                    let after = match passed {
                        Some(at) => lane.led_by_waiting(at, Utc::now()),
                        None => self.next_in(lane).await?,
                    };
                    let waits = after.head == head;
                    put_parked(lanes, key, &after, waits && parking.cause == ParkCause::OtherLane).await?;
                    if waits {
                        context.settle(head);
                        return Ok(());
                    }
                }
                Attempted::Ended => match self.without_head(key, lane).await? {
                    Some(lane) => lanes.put(key, &lane).await?,
                    None => lanes.end(key).await?,
                },
            }
            context.settle(head);
        }
        Ok(())
    }

    async fn attempt_head(
        &self,
        key: OrderKey,
        lane: &Lane,
        event: Result<Recorded, Attempted>,
        context: &TaskContext,
    ) -> anyhow::Result<Attempted> {
        let event = match event {
            Ok(event) => event,
            Err(attempted) => return Ok(attempted),
        };
        let attempted = self
            .attempt(event.clone(), lane.requests, WorkKind::Lane, context)
            .await?;
        self.unless_another_waits(key, lane, (&event, attempted), context).await
    }

    /// An event in a lane, or what becomes of it if it cannot be handled.
    pub(super) async fn event_in(
        &self,
        key: OrderKey,
        lane: &Lane,
        sequence: u64,
    ) -> anyhow::Result<Result<Recorded, Attempted>> {
        match decoded_at(self.journal.connection(), sequence).await? {
            // A lane that was written for another log can name any event of this one.
            Some(Ok(recorded)) if is_ours::<S>(&recorded) && OrderKey::of(&recorded) == key => Ok(Ok(recorded)),
            Some(Err(CodecError::Newer(newer))) => {
                tracing::error!(
                    stage = S::NAME,
                    sequence,
                    what = newer.what,
                    "an order that is parked waits for an instance of a newer version"
                );
                Ok(Err(Attempted::Left))
            }
            found => {
                metrics::counter!("parked_events_lost_total", "stage" => S::NAME).increment(1);
                tracing::error!(
                    stage = S::NAME,
                    provider = lane.provider,
                    order_key = %key,
                    sequence,
                    another_is_there = found.is_some(),
                    "an event that waited is not on the log any more; its order goes on without it"
                );
                Ok(Err(Attempted::Ended))
            }
        }
    }

    /// Handles an event until it ended, or is to be parked; what follows is recorded.
    pub(super) async fn attempt(
        &self,
        recorded: Recorded,
        mut requests: u32,
        kind: WorkKind,
        context: &TaskContext,
    ) -> anyhow::Result<Attempted> {
        let about = recorded.sequence;
        let event = match self.to_handle(recorded, requests, context).await? {
            Ok(event) => event,
            Err(attempted) => return Ok(attempted),
        };
        let mut has_failed = false;
        loop {
            // The permission ends with the attempt, once what follows is recorded.
            let (permission, handled) = match self.handle_once(about, &event, requests, kind, context).await? {
                Ok(handled) => handled,
                Err(attempted) => return Ok(attempted),
            };
            self.hasten_other_lane(context, &event, &handled).await?;
            let is_of_branch = matches!(handled, Err(Failure::OfBranch { .. }));
            let crowded =
                context.crowded.load(Ordering::Relaxed) || holds_up_another::<S, _>(context, (kind, &event), &handled);
            match settle(handled, Utc::now(), crowded) {
                Settlement::Done(events) => {
                    let is_created = is_created::<S>(&event, &events);
                    let ended = self.record_end(context, about, events).await?;
                    self.wake_other_lane(context, &event, is_created);
                    return Ok(ended);
                }
                Settlement::Again(events, pause, is_no_fault) => {
                    has_failed |= !is_no_fault;
                    if !self.record_attempt(context, about, &event, events).await {
                        return Ok(Attempted::Stopped);
                    }
                    requests += 1;
                    context.tenure.progress(|progress| progress.attempted(about, requests));
                    drop(permission);
                    pause_unless(&context.halt, pause).await;
                }
                Settlement::Park(events, mut parking, attempts) => {
                    parking.has_failed |= has_failed;
                    if !self.record_attempt(context, about, &event, events).await {
                        return Ok(Attempted::Stopped);
                    }
                    crash_stage_at(S::NAME, "after_attempt");
                    return self.park(context, about, &event, (requests + attempts, parking)).await;
                }
                Settlement::Leave(cause, pause) => {
                    self.leave_once(about, &cause)?;
                    pause_unless(&context.halt, pause).await;
                }
                Settlement::Pause(pause) | Settlement::Hold(pause) => {
                    tokio::select! {
                        () = pause_unless(&context.halt, pause) => {}
                        // Then it is parked.
                        () = context.behind.another(&event), if S::HAS_ORDERS_APART && is_of_branch => {}
                    }
                    if self.journal.identity().is_aged(event.sequence) {
                        return self.end_aged(context, about, &event, requests).await;
                    }
                }
                Settlement::Defer(mut parking) => {
                    parking.has_failed |= has_failed;
                    return self.park(context, about, &event, (requests, parking)).await;
                }
            }
        }
    }

    /// The event to handle; or what became of it without that.
    async fn to_handle(
        &self,
        recorded: Recorded,
        requests: u32,
        context: &TaskContext,
    ) -> anyhow::Result<Result<Box<Recorded>, Attempted>> {
        if context.has_ended(&recorded) {
            self.wake_other_lane(context, &recorded, S::creates(&recorded));
            return Ok(Err(Attempted::Ended));
        }
        let about = recorded.sequence;
        let end = match self.order(recorded.clone(), requests).await? {
            EventAction::Handle(event) => return Ok(Ok(event)),
            EventAction::NotOurs => return Ok(Err(Attempted::Ended)),
            EventAction::Left => return Ok(Err(Attempted::Left)),
            EventAction::Gone(sequence, is_there) => gone(&recorded, S::NAME, sequence, is_there),
            EventAction::Superseded(event, newer) => superseded_end::<S>(&event, &newer),
        };
        let ended = self.record_end(context, about, vec![end]).await?;
        self.wake_other_lane(context, &recorded, false);
        Ok(Err(ended))
    }

    /// Waits until the stage is ready and handles the event once: the result, and the permission of its requests. Or what became of
    /// the event without that.
    ///
    /// # Errors
    /// If the lease ran out.
    async fn handle_once(
        &self,
        about: u64,
        event: &Recorded,
        requests: u32,
        kind: WorkKind,
        context: &TaskContext,
    ) -> anyhow::Result<Result<(Arc<RequestPermission>, HandlerResult), Attempted>> {
        tokio::select! {
            biased;
            () = context.halt.cancelled() => return Ok(Err(Attempted::Stopped)),
            () = context.shares.wait(kind, self.stage.ready()) => {}
            () = self.journal.identity().until_aged(event.sequence) => {
                return self.end_aged(context, about, event, requests).await.map(Err);
            }
        }
        // An instance that was frozen for longer than its lease must not go on.
        if !context.lease.holds() {
            anyhow::bail!("the lease ran out");
        }
        let permission = RequestPermission::of(about, &context.lease, &context.halt, &context.requests);
        let handled = permission.run(panics::catch(S::NAME, async {
            fault_injection::panic_at(S::NAME, &event.envelope.external_order_id);
            // Boxed, because a stage's futures nest deeply, and so does the caller's.
            Box::pin(self.stage.handle(event, requests + 1)).await
        }));
        let Some(handled) = handled.await else {
            return Ok(Err(Attempted::Stopped));
        };
        if permission.was_refused() && context.halt.is_cancelled() {
            return Ok(Err(Attempted::Stopped));
        }
        // Success may be recorded after losing the lease; a failure may not.
        if permission.was_refused() || !matches!(handled, Ok(Ok(_))) && !context.lease.holds() {
            anyhow::bail!("the lease ran out before a request, or during it");
        }
        let handled = match handled {
            Ok(handled) => handled,
            Err(panic) => {
                let end = panicked::<S>(event, requests + 1, &panic);
                Ok(self.given_up_after_panic(event, end).await?)
            }
        };
        Ok(Ok((permission, handled)))
    }

    /// Parks an event, or gives it up if the log is about to delete it.
    async fn park(
        &self,
        context: &TaskContext,
        about: u64,
        event: &Recorded,
        (requests, parking): (u32, Parking),
    ) -> anyhow::Result<Attempted> {
        if self.journal.identity().is_aged(event.sequence) {
            return self.end_aged(context, about, event, requests).await;
        }
        Ok(Attempted::Parked(requests, parking))
    }

    pub(super) fn lanes<'a>(&self, context: &'a TaskContext) -> anyhow::Result<&'a Lanes> {
        context.lanes.as_ref().context("a stage that has no lanes parks events")
    }
}

/// Waits so long, or until halted, which the next turn of the loop sees.
async fn pause_unless(halt: &CancellationToken, pause: Duration) {
    let _ = tokio::time::timeout(pause, halt.cancelled()).await;
}
