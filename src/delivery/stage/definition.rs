//! What a stage of the log is to the runner: which events it takes, what follows from them, and what its orders wait for.

use std::time::Duration;

use super::{Before, gauges};
use crate::{
    delivery::superseded::{KnownAcceptances, NoOrders},
    event::{EventType, NewEvent, Recorded, outcome::OUTCOME, stage::StageInfo},
    journal::{Appended, codec::OrderKey},
    retry::Failure,
};

/// A consumer that turns events into events.
pub trait Stage: Send + Sync + 'static {
    /// Its entry in [`crate::event::stage::ALL`].
    const INFO: StageInfo;
    /// Its name, its durable consumer's and its lease's.
    const NAME: &'static str = Self::INFO.name;
    /// The event types that it handles; it also handles requests to retry one of those.
    const TAKES: &'static [EventType] = Self::INFO.takes;
    /// Label of the outcome event (see [`crate::event::EventId::derive`]): the same on every instance.
    const LABEL: &'static str = OUTCOME;
    /// The label in `orders_waiting` of what it waits for while it is not ready.
    const WAITS_FOR: &'static str = gauges::BREAKER;

    /// Whether [`Self::are_apart`] can be true.
    const HAS_ORDERS_APART: bool = false;

    /// Waits until events can be handled; an open breaker makes it wait.
    fn ready(&self) -> impl Future<Output = ()> + Send;

    /// Whether [`Self::ready`] would return at once.
    fn is_ready(&self) -> bool;

    /// Whether events wait for what [`Self::WAITS_FOR`] names.
    fn is_held_up(&self) -> bool {
        !self.is_ready()
    }

    /// Waits until this instance knows enough to take the stage over; until then others may.
    fn prepared(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Reads the log to its present end: after a takeover, before any event is handled, and before an order continues that
    /// another instance was working on.
    fn catches_up(&self) -> impl Future<Output = anyhow::Result<()>> + Send {
        async { Ok(()) }
    }

    /// Called when an event is received, in the log's order, before it is handled or parked.
    fn arrived(&self, _: &Recorded) {}

    /// Called when an event of this stage is on the log.
    fn recorded(&self, _: &NewEvent, _: Appended) {}

    /// Called every two seconds. `of`: how many events of a branch are in memory or parked; those of no branch count as their
    /// provider's.
    fn waiting(&self, _of: &dyn Fn(&str) -> u64) {}

    /// Handles an event and returns the events that follow from it. `request` counts from 1.
    fn handle(&self, event: &Recorded, request: u32) -> impl Future<Output = Result<Vec<NewEvent>, Failure>> + Send;

    /// Called at a takeover: state from an earlier term may be about events that another instance has handled since.
    fn begins(&self) {}

    /// Called at a takeover, before any event is handled: events up to this sequence may have been handed to another instance, which
    /// may have made requests that are not on the log.
    fn takes_over(&self, _: u64) {}

    /// The time limit of a request that [`Self::handle`] makes; zero if it makes none. See [`super::permission`].
    fn longest_request(&self) -> Duration {
        Duration::ZERO
    }

    /// Returns the reason when this instance has been unable to work on the stage for long and another one may be able to.
    /// No request is under way then.
    fn unfit(&self) -> impl Future<Output = String> + Send {
        std::future::pending()
    }

    /// Whether the event creates the order, for which an earlier event may wait ([`Failure::Retry`], `for_creation`).
    fn creates(_: &Recorded) -> bool {
        false
    }

    /// Whether an event announces another order than the one that an earlier event of its order key is about.
    fn announces_another(
        &self,
        _event: &Recorded,
        _earlier: &Recorded,
    ) -> impl Future<Output = anyhow::Result<bool>> + Send {
        async { Ok(false) }
    }

    /// Whether two events of one order key are about orders of which neither waits for the other.
    fn are_apart(_: &Recorded, _: &Recorded) -> bool {
        false
    }

    /// The event that an event waits for in another lane, by that lane and its sequence there, if the event announces another order than that one
    /// is about.
    fn held_up_by(&self, _: &Recorded) -> impl Future<Output = anyhow::Result<Option<(OrderKey, u64)>>> + Send {
        async { Ok(None) }
    }

    /// The event that an event waits for in another lane, whichever order that is about.
    fn awaited_beside(&self, _: &Recorded) -> impl Future<Output = anyhow::Result<Option<(OrderKey, u64)>>> + Send {
        async { Ok(None) }
    }

    /// An event that announces another order than this earlier one is about, and waits for it in another lane.
    fn another_held_up(&self, _: &Recorded) -> impl Future<Output = anyhow::Result<Option<Recorded>>> + Send {
        async { Ok(None) }
    }

    /// Whether news need not wait for their order any more: the other side has it, or has another one of the number, for which they are given up. None
    /// where this stage does not know.
    fn wait_is_over(&self, _: &Recorded) -> impl Future<Output = anyhow::Result<Option<bool>>> + Send {
        async { Ok(None) }
    }

    /// Whether a recorded attempt says that its event waits for the creation of the order.
    fn waits_for_creation(_: &Recorded) -> bool {
        false
    }

    /// Which earlier events of the order may be open, as far as this stage knows without the lanes, while lost lanes are rebuilt.
    fn before(&self, _: &Recorded) -> Before {
        Before::Unknown
    }

    /// What is known of the acceptances of webhooks, to tell which of two events about an order is the newer one.
    fn acceptances(&self) -> impl KnownAcceptances {
        NoOrders
    }

    /// The status that tells the provider that the order of an event is lost. The runner gives the event up and records this end after it. None if
    /// the provider does not wait for that word, or the order is not lost.
    fn lost(&self, _: &Recorded, _: &NewEvent) -> impl Future<Output = anyhow::Result<Option<NewEvent>>> + Send {
        async { Ok(None) }
    }

    /// Whether events of this type only wake a waiting event. They have no outcome, so they are never open.
    fn only_wakes(_: EventType) -> bool {
        false
    }
}
