//! The stage `forward`: it posts `order.transformed` to the backend and records the outcome.
//!
//! [`client`] makes the requests, [`classify`] reads one answer and [`evidence`] what the answers prove together.
//! [`crate::delivery::breaker`] decides whether requests may be made, and [`crate::delivery::gate`] makes all orders wait for
//! it. The body is the event's payload, byte for byte, and its key is the event's id: every repeat, after a redelivery, a
//! restart or a broken connection, is the same request. [`identity`] decides whether an event is posted at all, and whether
//! an earlier announcement of its order comes first.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    delivery::{
        breaker::{BreakerState, NotNow},
        gate::{Gate, Pass},
        stage::{Before, RequestFacts, Stage, permission},
        superseded::KnownAcceptances,
    },
    event::{
        EventType, NewEvent, NotYours, Recorded,
        outcome::{ErrorReport, ForwardFailed, Forwarded, OUTCOME, OrderSummary},
        push::{self, PushStatus},
        stage::{FORWARD, StageInfo},
    },
    journal::{Appended, codec::OrderKey, connection::Connection},
    memory::Orders,
    order::{body, model::AmendmentKind},
    registry::NotEnabled,
    retry::{Failure, LEAST_PAUSE, Next, Schedule},
};

pub mod client;
pub mod classify;
mod answer;
mod arrivals;
mod behind;
pub mod evidence;
pub mod foresight;
pub mod identity;
mod lost;
mod measured;
mod overtaken;
mod record;
mod request;
mod slots;
mod waits;

use self::{
    arrivals::Arrivals,
    classify::Accepted,
    client::BackendClient,
    identity::{Acceptances, OrderIdentity, Plan},
    measured::ForwardMetrics,
    record::{amended_in_part, dead_letter, expired, facts, ignore, not_yours, unreadable},
    waits::{branch_of, cannot_see, of_branch},
};

/// Label of the request to tell the provider that it is accepted (see [`crate::event::EventId::derive`]).
const ACCEPTANCE: &str = "acceptance";
/// Label of the request to tell the provider that the backend has the order.
const RECEIPT: &str = "receipt";

/// Retries that count after which a change of an order that the backend does not know is given up: with the contract's
/// delays it waits six minutes for the event that creates the order.
const UNKNOWN_ORDER_RETRIES: u32 = 2;

/// What differs from provider to provider.
#[derive(Debug, Default)]
pub struct ProviderRules {
    /// The providers that are enabled on this instance; of others it knows no rule.
    pub enabled: HashSet<String>,
    /// How old a new order may be when it is forwarded; where none is given, of any age.
    pub order_ttl: HashMap<String, Duration>,
    /// What was done to an order that is announced again with another content.
    pub announced_again: HashMap<String, AmendmentKind>,
    /// Those that wait for the word whether the backend has an order.
    pub confirms: HashSet<String>,
}

/// One request for an event.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    event: &'a Recorded,
    /// The number of the request; 1 is the first.
    request: u32,
    /// The sequence of another announcement, if its request is repeated instead ([`Plan::Confirm`]).
    confirming: Option<u64>,
    /// The backend has accepted its amendment ([`Plan::Amend`]).
    amended: bool,
}

/// The stage.
pub struct Forward {
    client: BackendClient,
    gate: Arc<Gate>,
    identity: OrderIdentity,
    schedule: Schedule,
    rules: ProviderRules,
    not_enabled: NotEnabled,
    arrivals: Arrivals,
    measured: ForwardMetrics,
}

impl Forward {
    /// Of these parts.
    pub fn new(
        client: BackendClient,
        gate: Arc<Gate>,
        (orders, log): (Arc<Orders>, Arc<Connection>),
        schedule: Schedule,
        mut rules: ProviderRules,
    ) -> Self {
        Self {
            client,
            gate,
            identity: OrderIdentity {
                orders,
                log,
                acceptances: Acceptances::default(),
                announced_again: std::mem::take(&mut rules.announced_again),
            },
            schedule,
            rules,
            not_enabled: NotEnabled::default(),
            arrivals: Arrivals::default(),
            measured: ForwardMetrics::default(),
        }
    }

    /// When a new order is too old to go into the kitchen. A retry that a person requested is for that person to
    /// judge.
    fn expires(&self, event: &Recorded) -> Option<DateTime<Utc>> {
        let ttl = self.rules.order_ttl.get(&*event.envelope.provider)?;
        let is_for_us = event.envelope.is_creation() && event.run.is_none();
        is_for_us.then(|| event.envelope.received_at + TimeDelta::from_std(*ttl).unwrap_or(TimeDelta::MAX))
    }

    /// The error of a new order with rules that this instance does not know, because the provider is not enabled on it: how old it may
    /// be, and what its provider waits for. None if it can be handled. What a person requested is handled in the end: no age
    /// matters then.
    ///
    /// # Errors
    /// While it is left to an instance that knows them.
    fn unknown_rules(&self, event: &Recorded) -> Result<Option<ErrorReport>, Failure> {
        let provider = &event.envelope.provider;
        if !event.envelope.is_creation() || self.rules.enabled.contains(&**provider) {
            return Ok(None);
        }
        if let Some(left) = self.not_enabled.leave(event) {
            return Err(left);
        }
        Ok(event.run.is_none().then(|| NotEnabled::error(provider)))
    }

    /// The right to make one request now.
    ///
    /// # Errors
    /// If the stage is handed over, or the breaker is open.
    fn pass(&self, event: &Recorded) -> Result<Pass, Failure> {
        let held = |cause: &str| Failure::Hold {
            cause: cause.into(),
            pause: LEAST_PAUSE,
        };
        if permission::begin().is_err() {
            return Err(held("another instance has the stage, or is about to"));
        }
        self.gate.enter(branch_of(event)).map_err(|not_now| match not_now {
            NotNow::All(_) => held("the circuit breaker is open"),
            NotNow::Branch(wait) => of_branch(event, wait),
        })
    }

    /// What follows when the backend accepted the order.
    async fn accepted(
        &self,
        event: &Recorded,
        request: u32,
        accepted: Accepted,
        summary: OrderSummary,
        plan: Plan,
    ) -> Result<Vec<NewEvent>, Failure> {
        match plan {
            Plan::NotYours(why) => Ok(vec![not_yours(event, request, &why)]),
            Plan::GiveUp(error) => Ok(vec![dead_letter(event, request, error, RequestFacts::default())]),
            Plan::News(_, Some(end)) | Plan::End(end) => Ok(vec![ignore(event, &end)]),
            plan @ (Plan::News(_, None) | Plan::Amend { .. }) => {
                let differs = matches!(plan, Plan::Amend { differs: true, .. });
                if differs {
                    amended_in_part(event);
                }
                let facts = Forwarded {
                    as_news: true,
                    only_lines: matches!(plan, Plan::Amend { status: None, .. }),
                    differs,
                    ..facts(event, request, &accepted, summary)
                };
                Ok(vec![self.forwarded(event, OUTCOME, &facts)])
            }
            Plan::Send(_) => {
                if let Some(why) = self.taken_for_another(event, &accepted).await? {
                    return Ok(vec![not_yours(event, request, &why)]);
                }
                let facts = facts(event, request, &accepted, summary);
                Ok(self.created(event, OUTCOME, accepted, facts))
            }
            Plan::Confirm(first, _) => {
                let summary = body::summary(&first.payload).unwrap_or_default();
                let facts = Forwarded {
                    confirmed_by: Some(event.sequence),
                    ..facts(&first, request, &accepted, summary)
                };
                let order_id = facts.internal_order_id.clone();
                let end = self.identity.end_after(event, order_id, &first).await;
                let label = format!("confirmed/{}", event.run_id());
                let mut record = self.created(&first, &label, accepted, facts);
                if let Some(end) = end {
                    record.push(ignore(event, &end));
                    return Ok(record);
                }
                Err(Failure::Retry {
                    next: Next::Quick(Duration::ZERO),
                    record,
                    is_no_fault: true,
                    for_creation: false,
                })
            }
        }
    }

    /// Whether the backend said yes to a new order by naming another branch's. Its outcome says no then, so that nothing more is
    /// told of that order on behalf of this branch.
    async fn taken_for_another(&self, event: &Recorded, accepted: &Accepted) -> Result<Option<NotYours>, Failure> {
        let Some(order_id) = accepted.order_id.as_deref().filter(|_| event.envelope.is_creation()) else {
            return Ok(None);
        };
        let taken = self.identity.is_taken_for_another(event, order_id).await;
        taken.map_err(|error| cannot_see(&error))
    }

    async fn failed(
        &self,
        attempt: Attempt<'_>,
        error: ErrorReport,
        next: Option<Next>,
        (for_creation, is_trial): (bool, bool),
    ) -> Result<Vec<NewEvent>, Failure> {
        let Attempt { event, request, .. } = attempt;
        let Some(next) = next else {
            return self.dead(attempt, request, error).await;
        };
        // An attempt that does not count is identified by its time, because the next one has the same number.
        let now = Utc::now();
        let (attempt, label) = match next {
            Next::ParkUncounted(_) => (request - 1, format!("trial_failed/{}", now.timestamp_micros())),
            Next::Quick(_) | Next::Park(_) => (request, format!("forward_failed/{request}")),
        };
        let next = self.until_expiry(event, next, now);
        tracing::warn!(
            provider = &*event.envelope.provider,
            order_id = event.envelope.external_order_id,
            request_id = event.envelope.request_id,
            attempt = request,
            next_in_ms = next.pause().as_millis() as u64,
            code = error.code,
            error = error.message,
            "order not forwarded, trying again"
        );
        let payload = ForwardFailed {
            attempt,
            retries: Schedule::retries(attempt),
            max_attempts: self.schedule.max_retries,
            error,
            next_attempt_at: now + TimeDelta::from_std(next.pause()).unwrap_or_default(),
            waits_for_order: for_creation,
        };
        let envelope = event.follow(&label, EventType::OrderForwardFailed, now);
        Err(Failure::Retry {
            next,
            record: vec![NewEvent::new(envelope, &payload)],
            is_no_fault: is_trial,
            for_creation,
        })
    }

    /// When a request is made again that failed for no fault of the order; a trial of the breaker is no attempt of the order.
    fn next(&self, request: u32, after: Option<Duration>, event: &Recorded, is_trial: bool) -> Option<Next> {
        if is_trial {
            self.schedule.next_after_trial(request, after, event.run_id())
        } else {
            self.schedule.next(request, after, event.run_id())
        }
    }

    /// Not later than the order expires: then it is given up, and not hours after that.
    fn until_expiry(&self, event: &Recorded, next: Next, now: DateTime<Utc>) -> Next {
        let left = self.expires(event).map(|at| (at - now).to_std().unwrap_or_default());
        match (next, left) {
            (Next::Park(pause), Some(left)) if left < pause => Next::Park(left),
            (Next::ParkUncounted(pause), Some(left)) if left < pause => Next::ParkUncounted(left),
            (next, _) => next,
        }
    }

    /// The outcome, after the request to accept the order at its provider: with the outcome on the log no instance would come back to
    /// that.
    fn created(&self, event: &Recorded, label: &str, accepted: Accepted, facts: Forwarded) -> Vec<NewEvent> {
        let forwarded = self.forwarded(event, label, &facts);
        // The provider was told when the backend had the order for the first time.
        if event.is_again {
            return vec![forwarded];
        }
        let order_id = accepted.order_id;
        let is_awaited = event.envelope.is_creation() && self.rules.confirms.contains(&*event.envelope.provider);
        let received =
            is_awaited.then(|| push::of_forwarded(event, RECEIPT, &forwarded, PushStatus::Received, order_id.clone()));
        let accept = facts.order.auto_accept;
        let accept = accept.then(|| push::of_forwarded(event, ACCEPTANCE, &forwarded, PushStatus::Accepted, order_id));
        received.into_iter().chain(accept).chain([forwarded]).collect()
    }

    fn forwarded(&self, event: &Recorded, label: &str, facts: &Forwarded) -> NewEvent {
        let (now, received_at) = (facts.forwarded_at, facts.received_at);
        let took = (now - received_at).to_std().unwrap_or_default();
        self.measured.forwarded(&event.envelope.provider, took);
        NewEvent::new(event.follow(label, EventType::OrderForwarded, now), facts)
    }
}

impl Stage for Forward {
    const INFO: StageInfo = FORWARD;
    const HAS_ORDERS_APART: bool = true;

    async fn ready(&self) {
        self.gate.passable().await;
    }

    fn is_ready(&self) -> bool {
        self.gate.is_passable()
    }

    fn is_held_up(&self) -> bool {
        // It also counts as open where only one branch waits, and no other has an order.
        !self.gate.is_passable() || self.gate.state().0 == BreakerState::Open
    }

    async fn prepared(&self) {
        self.identity.orders.warm().await;
    }

    fn longest_request(&self) -> Duration {
        self.client.timeout()
    }

    fn takes_over(&self, handed_out: u64) {
        self.arrivals.begin(handed_out);
    }

    async fn catches_up(&self) -> anyhow::Result<()> {
        self.identity.orders.catch_up().await
    }

    fn arrived(&self, event: &Recorded) {
        self.identity.orders.note_arrived(event);
    }

    fn waiting(&self, of: &dyn Fn(&str) -> u64) {
        self.gate.note_waiting(of);
    }

    fn recorded(&self, event: &NewEvent, appended: Appended) {
        self.identity.orders.note_own(event, appended.sequence);
    }

    async fn handle(&self, event: &Recorded, request: u32) -> Result<Vec<NewEvent>, Failure> {
        let mut attempt = Attempt {
            event,
            request,
            confirming: None,
            amended: false,
        };
        let summary = match body::summary(&event.payload) {
            Ok(summary) => summary,
            Err(error) => return self.dead(attempt, request - 1, unreadable(&error)).await,
        };
        if let Some(error) = self.unknown_rules(event)? {
            return self.dead(attempt, request - 1, error).await;
        }
        let is_expired = self.expires(event).is_some_and(|at| at <= Utc::now());
        // Before the log is read for it.
        if !is_expired && let Some(NotNow::Branch(wait)) = self.gate.not_now(branch_of(event)) {
            return Err(of_branch(event, wait));
        }
        self.after_other_lane(event).await?;
        let is_unsent = request == 1 || self.arrivals.is_none(event, request - 1);
        let plan = self.identity.plan(event, is_unsent).await;
        let plan = plan.map_err(|error| cannot_see(&error))?;
        let posting = match &plan {
            Plan::End(ignored) => return Ok(vec![ignore(event, ignored)]),
            Plan::NotYours(why) => return Ok(vec![not_yours(event, request - 1, why)]),
            Plan::GiveUp(error) => return self.dead(attempt, request - 1, error.clone()).await,
            Plan::Send(posting) | Plan::Confirm(_, posting) | Plan::News(posting, _) | Plan::Amend { posting, .. } => {
                posting.clone()
            }
        };
        if !is_expired
            && matches!(plan, Plan::Send(_) | Plan::Confirm(..))
            && let Some(error) = self.reported(event, is_unsent).await?
        {
            return self.dead(attempt, request - 1, error).await;
        }
        if let Plan::Confirm(other, _) = &plan {
            attempt.confirming = Some(other.sequence);
        }
        let is_news = matches!(plan, Plan::News(..) | Plan::Amend { .. });
        if !is_news && is_expired {
            return self.dead(attempt, request - 1, expired(event)).await;
        }
        self.post(attempt, &posting, summary, plan).await
    }

    fn creates(event: &Recorded) -> bool {
        event.envelope.is_creation()
    }

    async fn announces_another(&self, event: &Recorded, earlier: &Recorded) -> anyhow::Result<bool> {
        self.identity.announces_another(event, earlier).await
    }

    fn are_apart(one: &Recorded, other: &Recorded) -> bool {
        identity::are_apart(one, other)
    }

    async fn held_up_by(&self, event: &Recorded) -> anyhow::Result<Option<(OrderKey, u64)>> {
        self.behind_another(event).await
    }

    async fn awaited_beside(&self, event: &Recorded) -> anyhow::Result<Option<(OrderKey, u64)>> {
        self.behind_any(event).await
    }

    async fn another_held_up(&self, earlier: &Recorded) -> anyhow::Result<Option<Recorded>> {
        self.identity.another_behind(earlier).await
    }

    async fn wait_is_over(&self, news: &Recorded) -> anyhow::Result<Option<bool>> {
        self.identity.wait_is_over(news).await.map(Some)
    }

    fn before(&self, event: &Recorded) -> Before {
        if event.envelope.event_type == EventType::OrderTransformed && self.identity.orders.has_all_before(event) {
            Before::Nothing
        } else {
            Before::Unknown
        }
    }

    fn acceptances(&self) -> impl KnownAcceptances {
        &*self.identity.orders
    }

    async fn lost(&self, event: &Recorded, end: &NewEvent) -> anyhow::Result<Option<NewEvent>> {
        self.report(event, end).await
    }

    fn waits_for_creation(attempt: &Recorded) -> bool {
        serde_json::from_slice::<ForwardFailed>(&attempt.payload).is_ok_and(|failed| failed.waits_for_order)
    }
}
