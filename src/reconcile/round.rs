//! One reading of all lists of a provider: what is missing on the log goes onto it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{
    Needs, Reconciler,
    entries::{ListedOrder, Lists, Place, Trouble, placed_at},
    made::{MissedWebhook, make},
    schedule::{Reason, RoundEnd},
    seen::{Said, Seen},
};
use crate::{
    event::{Envelope, EventType, NewEvent, Principal, Recorded, RequestFacts, WebhookOrigin, stage::PUSH},
    fault_injection::time,
    json::scan::Document,
    provider::outbound::{
        ReconcileSpec,
        reconcile::{ListOf, WebhookMade},
    },
    registry::Enabled,
    remote::Remote,
    telemetry::trace_context,
};

/// If the lists of so many branches one after the other cannot be read, the reading ends: the provider is away.
const FAILING_BRANCHES: u32 = 3;
/// Most orders of which it is remembered what only their documents say, and most that are missed.
const MAX_REMEMBERED: usize = 100_000;

/// What is known of one provider from reading to reading.
pub(super) struct State {
    pub(super) seen: Seen,
    /// What an order is called in its document, by its name in the list, where the two differ.
    names: HashMap<String, String>,
    /// When orders were placed, by their names in the list, where only their documents say so.
    placed: HashMap<String, DateTime<Utc>>,
    /// When what is missing was missed first.
    missed: HashMap<(String, bool), Instant>,
}

impl State {
    /// Nothing is known yet.
    pub(super) fn new(provider: &str) -> Self {
        Self {
            seen: Seen::new(provider),
            names: HashMap::new(),
            placed: HashMap::new(),
            missed: HashMap::new(),
        }
    }

    /// Whether something has been missing for so long.
    fn is_missed_for(&mut self, order: &str, said: Said, grace: Duration) -> bool {
        if self.missed.len() >= MAX_REMEMBERED {
            self.missed.clear();
        }
        let key = (order.to_owned(), said == Said::Cancelled);
        self.missed.entry(key).or_insert_with(Instant::now).elapsed() >= grace
    }

    fn place(&mut self, listed: &str, placed_at: Option<DateTime<Utc>>) {
        if self.placed.len() >= MAX_REMEMBERED {
            self.placed.clear();
        }
        self.placed.extend(placed_at.map(|at| (listed.to_owned(), at)));
    }

    fn name(&mut self, listed: &str, name: &str) {
        if listed != name && self.names.len() < MAX_REMEMBERED {
            self.names.insert(listed.to_owned(), name.to_owned());
        }
    }
}

/// Why nothing more is read for now.
enum Stop {
    /// The lists of one place cannot be read.
    Trouble(Trouble),
    /// The log does not take what was found, or cannot be read.
    Log(anyhow::Error),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Log(error)
    }
}

/// One reading.
pub(super) struct Round<'a> {
    needs: &'a Needs,
    enabled: &'a Enabled,
    spec: &'a ReconcileSpec,
    lists: Lists<'a>,
    since: DateTime<Utc>,
    /// How old what is missing is at least.
    grace: Duration,
    is_deferred: bool,
}

impl Reconciler {
    /// A reading of orders since then.
    pub(super) fn round<'a>(
        &'a self,
        enabled: &'a Enabled,
        (remote, spec): (&'a Remote, &'a ReconcileSpec),
        since: DateTime<Utc>,
        reason: Reason,
    ) -> Round<'a> {
        let of_platform = self.needs.branches.api_base_url(&self.name);
        Round {
            needs: &self.needs,
            enabled,
            spec,
            lists: Lists::new((remote, spec), of_platform.as_deref(), since, Utc::now()),
            since,
            // After an absence every minute counts, and a webhook that comes as well is a repeat of the order.
            grace: match reason {
                Reason::Away => Duration::ZERO,
                _ => time("reconcile_grace", spec.grace),
            },
            is_deferred: false,
        }
    }
}

impl Round<'_> {
    /// Reads every list.
    pub(super) async fn run(mut self, state: &mut State) -> RoundEnd {
        let places = match self.spec.of {
            ListOf::Provider => vec![Place::of(None)],
            ListOf::Branch => {
                let branches = self.needs.branches.active(&self.enabled.name);
                branches.iter().map(|branch| Place::of(Some(branch))).collect()
            }
        };
        let (mut outcome, mut failing) = ("complete", 0);
        for place in places {
            if !self.needs.journal.roles().all().contains(&PUSH.name) {
                outcome = "handed_over";
                break;
            }
            let ended = self.of_place(&place, state).await;
            match ended {
                Ok(()) => failing = 0,
                Err(Stop::Trouble(trouble)) => {
                    outcome = trouble.label();
                    failing += 1;
                    tracing::warn!(
                        provider = &*self.enabled.name,
                        branch = place.branch,
                        error = trouble.message(),
                        "cannot read the provider's list of orders; it is read again later"
                    );
                    if failing >= FAILING_BRANCHES {
                        break;
                    }
                }
                Err(Stop::Log(error)) => {
                    outcome = "log";
                    tracing::warn!(
                        provider = &*self.enabled.name,
                        error = format!("{error:#}"),
                        "the event log does not take what the provider's list has; it is read again later"
                    );
                    break;
                }
            }
        }
        let is_complete = outcome == "complete";
        let provider = &self.enabled.name;
        metrics::counter!("reconciliation_readings_total", "provider" => Arc::clone(provider), "outcome" => outcome)
            .increment(1);
        if is_complete {
            metrics::gauge!("reconciliation_last_complete_timestamp_seconds", "provider" => Arc::clone(provider))
                .set(Utc::now().timestamp() as f64);
        }
        RoundEnd {
            is_complete,
            is_deferred: self.is_deferred,
        }
    }

    /// Every list of a branch, or of the provider. What was placed earlier goes first.
    async fn of_place(&mut self, place: &Place, state: &mut State) -> Result<(), Stop> {
        let mut orders: Vec<ListedOrder> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for list in &self.spec.lists {
            for order in self.lists.read(place, list).await? {
                match places.get(&order.id) {
                    Some(at) => orders[*at].is_cancelled |= order.is_cancelled,
                    None => {
                        places.insert(order.id.clone(), orders.len());
                        orders.push(order);
                    }
                }
            }
        }
        orders.sort_by_key(|order| order.placed_at);
        let mut missing: Vec<_> = orders.into_iter().filter(|order| !is_seen(order, state)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        // Webhooks may have come while the lists were read.
        state.seen.catch_up(self.needs.journal.connection()).await?;
        missing.retain(|order| !is_seen(order, state));
        for order in missing {
            self.take_in(place, &order, state).await?;
        }
        Ok(())
    }

    /// Takes in what the log lacks of an order.
    async fn take_in(&mut self, place: &Place, order: &ListedOrder, state: &mut State) -> Result<(), Stop> {
        let mut name = state.names.get(&order.id).cloned().unwrap_or_else(|| order.id.clone());
        // Of an order that was announced lately a cancellation is remembered as well; of an older one it may have come.
        let is_recent = state.seen.has(&name, Said::Created);
        let placed_at = order.placed_at.or_else(|| state.placed.get(&order.id).copied());
        if !is_recent && (placed_at.is_some_and(|at| at < self.since) || self.is_remembered(&name).await?) {
            return Ok(());
        }
        let is_announced = is_recent;
        if is_announced && (!order.is_cancelled || state.seen.has(&name, Said::Cancelled)) {
            return Ok(());
        }
        let wanted = if is_announced { Said::Cancelled } else { Said::Created };
        if self.is_young(order, wanted, state) {
            self.is_deferred = true;
            return Ok(());
        }
        let document = match self.document(place, order, wanted).await? {
            Some(document) => document,
            None => order.entry.clone(),
        };
        if !is_announced {
            match self.announce(place, (order, &document), &name, state).await? {
                Some(own) => name = own,
                None => return Ok(()),
            }
        }
        let cancelled = self.spec.cancelled.as_ref().filter(|_| order.is_cancelled);
        if let Some(cancelled) = cancelled
            && !state.seen.has(&name, Said::Cancelled)
            && let Some(webhook) = self.make(place, &name, (cancelled, Said::Cancelled), &document)
        {
            self.append(webhook, Said::Cancelled, state).await?;
        }
        Ok(())
    }

    /// Announces an order that the log does not have: what the order is called in its document; none where it is not wanted, or no
    /// webhook can be made of it.
    async fn announce(
        &self,
        place: &Place,
        (order, document): (&ListedOrder, &str),
        name: &str,
        state: &mut State,
    ) -> Result<Option<String>, Stop> {
        let placed_at = order.placed_at.or_else(|| {
            let document = Document::new(document.as_bytes()).ok()?;
            placed_at(document, &self.spec.time)
        });
        state.place(&order.id, placed_at);
        match placed_at {
            None if !self.spec.time.is_empty() => {
                // Without a time it may be of any day, also from before the hub.
                self.note_unreadable(name, "it does not say when it was placed (reconcile.time)");
                return Ok(None);
            }
            Some(at) if at < self.since => return Ok(None),
            _ => {}
        }
        let Some(webhook) = self.make(place, name, (&self.spec.created, Said::Created), document) else {
            return Ok(None);
        };
        let own = webhook.admission.external_order_id.clone();
        state.name(&order.id, &own);
        if state.seen.has(&own, Said::Created) {
            return Ok(Some(own));
        }
        if self.is_remembered(&own).await? {
            return Ok(None);
        }
        self.append(webhook, Said::Created, state).await?;
        Ok(Some(own))
    }

    /// Whether the webhook of what is missing may still be on its way.
    fn is_young(&self, order: &ListedOrder, wanted: Said, state: &mut State) -> bool {
        let grace = TimeDelta::from_std(self.grace).unwrap_or(TimeDelta::MAX);
        let is_old = wanted == Said::Created && order.placed_at.is_some_and(|at| Utc::now() - at >= grace);
        !is_old && !state.is_missed_for(&order.id, wanted, self.grace)
    }

    /// Whether the memory of orders knows an order that was announced before what is read back of webhooks.
    async fn is_remembered(&self, order: &str) -> anyhow::Result<bool> {
        let about = Recorded::sample(&self.enabled.name, order, Said::Created.webhook_type(), b"", Utc::now());
        Ok(!self.needs.orders.announcements(&about).await?.is_empty())
    }

    /// The order's document, where it has to be asked for; none where what the list says is enough.
    async fn document(&mut self, place: &Place, order: &ListedOrder, wanted: Said) -> Result<Option<String>, Trouble> {
        let created = Some(&self.spec.created).filter(|_| wanted == Said::Created);
        let cancelled = self.spec.cancelled.as_ref().filter(|_| order.is_cancelled);
        let is_needed = created.into_iter().chain(cancelled).any(|made| made.needs_document);
        if !is_needed || self.spec.order.is_none() {
            return Ok(None);
        }
        self.lists.document(place, &order.id).await.map(Some)
    }

    /// The webhook; none if the provider's list has something that can be none.
    fn make(&self, place: &Place, order: &str, made: (&WebhookMade, Said), document: &str) -> Option<MissedWebhook> {
        let mut scope = place.scope.clone();
        scope.0.insert("external_id".into(), order.into());
        scope.0.insert("base_url".into(), self.lists.base_url().into());
        match make(&*self.enabled.provider, made, scope, document) {
            Ok(webhook) => Some(webhook),
            Err(why) => {
                self.note_unreadable(order, &why);
                None
            }
        }
    }

    fn note_unreadable(&self, order: &str, why: &str) {
        let provider = &self.enabled.name;
        metrics::counter!("reconciliation_unreadable_total", "provider" => Arc::clone(provider)).increment(1);
        tracing::warn!(
            provider = &**provider,
            order_id = order,
            error = why,
            "an order that never came is in the provider's list, and no webhook can be made of it"
        );
    }

    /// Puts what never came onto the log.
    async fn append(&self, webhook: MissedWebhook, said: Said, state: &mut State) -> Result<(), Stop> {
        let order = webhook.admission.external_order_id.clone();
        let event = event(&self.enabled.name, webhook, Utc::now());
        let at = event.envelope.time;
        let appended = self.needs.journal.accept(event).await.map_err(anyhow::Error::from)?;
        state.seen.note(&order, said, at);
        if appended.duplicate {
            return Ok(());
        }
        let provider = &self.enabled.name;
        metrics::counter!("reconciliation_found_total", "provider" => Arc::clone(provider), "type" => said.webhook_type())
            .increment(1);
        tracing::warn!(
            provider = &**provider,
            order_id = order,
            webhook_type = said.webhook_type(),
            sequence = appended.sequence,
            "a webhook never came; the provider's list has what it would have said, which is taken in"
        );
        Ok(())
    }
}

/// Whether webhooks on the log say all that a list says of an order.
fn is_seen(order: &ListedOrder, state: &State) -> bool {
    let name = state.names.get(&order.id).unwrap_or(&order.id);
    state.seen.has(name, Said::Created) && (!order.is_cancelled || state.seen.has(name, Said::Cancelled))
}

/// The event that such a webhook becomes. It has no sender but the hub.
fn event(provider: &Arc<str>, webhook: MissedWebhook, now: DateTime<Utc>) -> NewEvent {
    let MissedWebhook { path, body, admission } = webhook;
    NewEvent {
        envelope: Envelope {
            id: admission.event_id,
            event_type: EventType::WebhookReceived,
            root_id: admission.event_id,
            cause_id: None,
            cause_sequence: None,
            provider: Arc::clone(provider),
            external_order_id: admission.external_order_id,
            webhook_type: admission.webhook_type.into_owned(),
            branch: None,
            principal: Principal::provider(),
            time: now,
            received_at: now,
            request_id: Uuid::new_v4().to_string(),
            traceparent: Some(trace_context::of(&axum::http::HeaderMap::new())),
            request: Some(RequestFacts {
                method: "POST".into(),
                path,
                origin: Some(WebhookOrigin::Reconciled),
                ..RequestFacts::default()
            }),
            idempotency_key: None,
        },
        payload: body,
    }
}
