//! Adds an event to the lane of its order.
//!
//! Each addition writes the whole lane again, so the bytes written for an order grow with the square of the events in it. A
//! lane is one message, as earlier versions read it; [`lanes::MAX_WAITING`] bounds it: the largest has some 13 kB, and a
//! thousand additions write 7 MB. A request for a retry takes up to 24 bytes more.

use chrono::Utc;

use super::{Stage, Worker, action::note, apart::HeldUpBy, work_queue::QueuedEvent};
use crate::{
    delivery::lanes::{self, Lane, Lanes, TriedEvent},
    event::Recorded,
    journal::codec::OrderKey,
};

/// How an event joined the lane of its order.
pub(super) enum Joined {
    /// It waits there.
    Waits,
    /// Events that waited for it follow it, and the lane has to be handled at once.
    Leads,
    /// It did not: so many wait already.
    Full(usize),
}

impl<S: Stage> Worker<S> {
    /// Lets an event wait in its order's lane, with the requests that were made for it, and with a time of its own if nothing there holds it up.
    ///
    /// # Errors
    /// If NATS does not answer, or another writer writes the lane.
    pub(super) async fn join(&self, lanes: &Lanes, key: OrderKey, item: &QueuedEvent) -> anyhow::Result<Joined> {
        let (event, requests) = (&item.event, item.requests);
        let Some(mut lane) = lanes.get(key).await? else {
            anyhow::bail!("a lane ended while an event joined it");
        };
        if lane.holds(event.sequence) {
            return Ok(Joined::Waits);
        }
        let creates = S::creates(event);
        let (at, before) = match self.held_up_in(&lane, event).await? {
            HeldUpBy::Event(0, _) if lane.for_creation && creates => {
                note(&mut lane, event);
                let led = lane.led_by(event.sequence, Utc::now());
                lanes.put(key, &Lane { requests, ..led }).await?;
                return Ok(Joined::Leads);
            }
            HeldUpBy::Event(at, before) => (at, before),
            HeldUpBy::Nothing => return self.join_apart(lanes, key, lane, item).await,
        };
        let first = lane.sequences().nth(at).unwrap_or(lane.head);
        if at > 0 && creates && lane.tried(first).is_some_and(|event| event.for_creation) {
            lane.pass(at - 1, event.sequence, requests);
            return self.take_its_place(lanes, key, lane, event).await;
        }
        if self.hastens(key, &lane, (first, before), event).await? {
            lane.hasten(first, Utc::now());
        }
        match at {
            0 => wait_in::<S>(lanes, key, lane, event, requests).await,
            _ if lane.waiting.len() >= lanes::MAX_WAITING => Ok(Joined::Full(lane.waiting.len())),
            _ => {
                lane.join(event.sequence, requests, creates);
                self.take_its_place(lanes, key, lane, event).await
            }
        }
    }

    /// Lets an event wait that nothing in the lane holds up.
    async fn join_apart(
        &self,
        lanes: &Lanes,
        key: OrderKey,
        mut lane: Lane,
        item: &QueuedEvent,
    ) -> anyhow::Result<Joined> {
        let event = &item.event;
        if lane.waiting.len() >= lanes::MAX_WAITING {
            return Ok(Joined::Full(lane.waiting.len()));
        }
        lane.join(event.sequence, item.requests, S::creates(event));
        lane.is_mixed = true;
        lane.tried.extend(item.parked.map(|parking| TriedEvent {
            sequence: event.sequence,
            due_at: parking.until,
            for_creation: parking.for_creation,
        }));
        self.take_its_place(lanes, key, lane, event).await
    }

    /// Writes a lane with an event that has just joined it.
    async fn take_its_place(
        &self,
        lanes: &Lanes,
        key: OrderKey,
        mut lane: Lane,
        event: &Recorded,
    ) -> anyhow::Result<Joined> {
        note(&mut lane, event);
        let lane = self.next_in(lane).await?;
        lanes.put(key, &lane).await?;
        Ok(match lane.is_due(Utc::now()) {
            true => Joined::Leads,
            false => Joined::Waits,
        })
    }
}

/// Lets an event wait in its order's lane, or in a new one, while it is not known what should be in it. What it may lead or wake
/// is seen when the lane is worked on.
///
/// # Errors
/// The same as [`Worker::join`].
pub(super) async fn wait_in_doubt<S: Stage>(
    lanes: &Lanes,
    key: OrderKey,
    item: &QueuedEvent,
) -> anyhow::Result<Joined> {
    let event = &item.event;
    match lanes.get(key).await? {
        Some(lane) if lane.holds(event.sequence) => Ok(Joined::Waits),
        Some(lane) => {
            let joined = wait_in::<S>(lanes, key, lane, event, item.requests).await?;
            // It may be another branch's, or another order: then it need not wait for the head's time.
            lanes.look_at(key);
            Ok(joined)
        }
        None => {
            let (provider, parked) = (event.envelope.provider.to_string(), item.parked.as_ref());
            let due_at = parked.map_or_else(Utc::now, |parked| parked.until);
            let for_creation = parked.is_some_and(|parked| parked.for_creation);
            let mut lane = Lane::new(provider, event.sequence, item.requests, due_at, for_creation);
            note(&mut lane, event);
            lanes.put(key, &lane).await?;
            Ok(Joined::Waits)
        }
    }
}

async fn wait_in<S: Stage>(
    lanes: &Lanes,
    key: OrderKey,
    mut lane: Lane,
    event: &Recorded,
    requests: u32,
) -> anyhow::Result<Joined> {
    // The head waits for this event. The head is tried once more, finds the event behind it and lets it pass, even if a lost
    // lane is merged before this one meanwhile. This event may exceed the limit by one, like an event that leads a lane.
    let is_awaited = lane.for_creation && S::creates(event);
    if is_awaited {
        (lane.for_creation, lane.due_at) = (false, Utc::now());
    } else if lane.waiting.len() >= lanes::MAX_WAITING {
        return Ok(Joined::Full(lane.waiting.len()));
    }
    lane.join(event.sequence, requests, S::creates(event));
    note(&mut lane, event);
    lanes.put(key, &lane).await?;
    Ok(Joined::Waits)
}
