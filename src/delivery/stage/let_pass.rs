//! News that wait for their order: they let the next event that creates an order pass, and get their turn when their order is there.

use chrono::Utc;

use super::{Stage, Worker, apart::are_apart, attempt::TaskContext};
use crate::{
    delivery::lanes::Lane,
    event::{EventType, NewEvent, Recorded},
    journal::{codec::OrderKey, read::event_at},
};

impl<S: Stage> Worker<S> {
    /// A lane without its head, which has ended; none if nothing else is in it. News that let the head pass keep their time if it was not
    /// their order, or did not create it: each announcement that the backend refuses, or another branch's, would use up one of their attempts.
    pub(super) async fn without_head(&self, key: OrderKey, lane: Lane) -> anyhow::Result<Option<Lane>> {
        let waits = lane.next_for_creation();
        let Some(lane) = lane.advance(Utc::now()) else {
            return Ok(None);
        };
        if let Some(waits) = waits
            && let Ok(news) = self.event_in(key, &lane, lane.head).await?
            && self.wait_is_over(&news).await? == Some(false)
        {
            let passes = self.passing(key, &lane).await?;
            return self
                .next_in(lane.waits_on(waits.due_at, passes, Utc::now()))
                .await
                .map(Some);
        }
        let lane = self.hastened(key, lane).await?;
        self.next_in(lane).await.map(Some)
    }

    /// Records an attempt that does not end its event; it may have created the order all the same. False if the hub goes down before.
    pub(super) async fn record_attempt(
        &self,
        context: &TaskContext,
        about: u64,
        event: &Recorded,
        events: Vec<NewEvent>,
    ) -> bool {
        let is_created = is_created::<S>(event, &events);
        let is_recorded = self.record(context, about, events).await;
        if is_created {
            self.wake_other_lane(context, event, true);
        }
        is_recorded
    }

    /// A lane of which news behind its head waited for their order, which is there now: they are due. None if there are none.
    pub(super) async fn woken(&self, key: OrderKey, lane: &Lane, head: &Recorded) -> anyhow::Result<Option<Lane>> {
        if let Some(lane) = self.led_back(key, lane, head).await? {
            return Ok(Some(lane));
        }
        let woken = self.next_in(self.hastened(key, lane.clone()).await?).await?;
        Ok(woken.is_due(Utc::now()).then_some(woken))
    }

    /// A lane with those news behind its head due now that wait for their order, if it is there.
    async fn hastened(&self, key: OrderKey, mut lane: Lane) -> anyhow::Result<Lane> {
        let now = Utc::now();
        let waiting: Vec<_> = lane
            .tried
            .iter()
            .filter(|event| event.for_creation && event.due_at > now)
            .copied()
            .collect();
        for waits in waiting {
            if let Ok(news) = self.event_in(key, &lane, waits.sequence).await?
                && self.wait_is_over(&news).await? == Some(true)
            {
                lane.hasten(waits.sequence, now);
            }
        }
        Ok(lane)
    }

    /// The lane with news at its head again that let the present head pass: their order is there now, so they wait for nothing. What the head waits for
    /// may wait for them. None if that is not so.
    pub(super) async fn led_back(&self, key: OrderKey, lane: &Lane, head: &Recorded) -> anyhow::Result<Option<Lane>> {
        for waits in lane.tried.iter().filter(|event| event.for_creation) {
            let Ok(news) = self.event_in(key, lane, waits.sequence).await? else {
                continue;
            };
            let Some((head, news)) = self.body_of(head.clone()).await?.zip(self.body_of(news).await?) else {
                continue;
            };
            if !S::are_apart(&head, &news) && self.stage.wait_is_over(&news).await? == Some(true) {
                return Ok(lane.clone().led_back(waits.sequence, Utc::now()));
            }
        }
        Ok(None)
    }

    pub(super) async fn wait_is_over(&self, news: &Recorded) -> anyhow::Result<Option<bool>> {
        match self.body_of(news.clone()).await? {
            Some(body) => self.stage.wait_is_over(&body).await,
            None => Ok(None),
        }
    }

    /// Where the first of those that wait stands that creates the order for which the head waits. In a lane with several branches it must be no other
    /// branch's, and pass no announcement of its own.
    pub(super) async fn passing(&self, key: OrderKey, lane: &Lane) -> anyhow::Result<Option<usize>> {
        let known = lane.creation();
        if let Some(known) = known.filter(|_| !S::HAS_ORDERS_APART || !lane.is_mixed) {
            return Ok(known);
        }
        if let Some(bodies) = self.bodies_in(lane).await? {
            let passes = |body: &&Option<Recorded>| {
                body.as_ref().is_some_and(S::creates) && !are_apart::<S>(bodies[0].as_ref(), body.as_ref())
            };
            return Ok(bodies.iter().skip(1).position(|body| passes(&body)));
        }
        for (at, (sequence, _)) in lane.waiting.iter().enumerate() {
            let event = event_at(self.journal.connection(), *sequence).await?;
            if event.is_some_and(|event| S::creates(&event) && OrderKey::of(&event) == key) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

/// Whether the other side has the order that an event creates, by what follows from the event.
pub(super) fn is_created<S: Stage>(event: &Recorded, events: &[NewEvent]) -> bool {
    let is_forwarded = |one: &NewEvent| one.envelope.event_type == EventType::OrderForwarded;
    S::creates(event) && events.iter().any(is_forwarded)
}
