//! Takes in one order of a list: what the log lacks of it.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Round, State, Stop};
use crate::{
    event::{BodyHash, Envelope, EventType, NewEvent, Principal, Recorded, RequestFacts, WebhookOrigin},
    journal::read::event_at,
    json::scan::Document,
    provider::outbound::reconcile::WebhookMade,
    reconcile::{
        entries::{ListedOrder, Place, Trouble},
        made::{MissedWebhook, make},
        seen::Said,
    },
    telemetry::trace_context,
};

/// Most steps from an announcement back to its webhook: a fetched order, and a retry.
const MAX_CAUSES: usize = 6;

impl Round<'_> {
    /// Takes in what the log lacks of an order.
    pub(super) async fn take_in(&mut self, place: &Place, order: &ListedOrder, state: &mut State) -> Result<(), Stop> {
        let mut name = state.names.get(&order.id).cloned().unwrap_or_else(|| order.id.clone());
        // Of an order that was announced lately a cancellation is remembered as well; of an older one it may have come.
        let branch = place.branch.as_deref();
        let is_recent = state.seen.has(&name, Said::Created, branch);
        let placed_at = order.placed_at.or_else(|| state.placed.get(&order.id).copied());
        if !is_recent && (placed_at.is_some_and(|at| at < self.since) || self.is_remembered(&name, branch).await?) {
            return Ok(());
        }
        let is_announced = is_recent;
        if is_announced && (!order.is_cancelled || state.seen.has(&name, Said::Cancelled, branch)) {
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
            && !state.seen.has(&name, Said::Cancelled, branch)
            && let Some(webhook) = self.make(place, &name, (cancelled, Said::Cancelled), &document)
            && !self.is_known(place, &webhook, Said::Cancelled, state)
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
            self.lists.placed_at(document)
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
        if self.is_known(place, &webhook, Said::Created, state) {
            return Ok(Some(own));
        }
        if self.is_remembered(&own, place.branch.as_deref()).await? {
            return Ok(None);
        }
        self.append(webhook, Said::Created, state).await?;
        Ok(Some(own))
    }

    /// Whether the log says it already. A list of the provider as a whole does not say of which branch an order is; the webhook does.
    fn is_known(&self, place: &Place, webhook: &MissedWebhook, said: Said, state: &mut State) -> bool {
        let order = &webhook.admission.external_order_id;
        if place.branch.is_some() {
            return state.seen.has(order, said, place.branch.as_deref());
        }
        let store = webhook.store.as_deref();
        let branch = store.and_then(|store| self.needs.branches.known(&self.enabled.name, Some(store)));
        let is_known = state
            .seen
            .has(order, said, branch.as_ref().map(|branch| &*branch.branch_id));
        if is_known {
            // Its document is not asked for again.
            state.seen.note(order, said, Utc::now());
        }
        is_known
    }

    /// Whether the webhook of what is missing may still be on its way.
    fn is_young(&self, order: &ListedOrder, wanted: Said, state: &mut State) -> bool {
        let grace = TimeDelta::from_std(self.grace).unwrap_or(TimeDelta::MAX);
        let is_old = wanted == Said::Created && order.placed_at.is_some_and(|at| Utc::now() - at >= grace);
        !is_old && !state.is_missed_for(&order.id, wanted, self.grace)
    }

    /// Whether the memory of orders knows an order that was announced before what is read back of webhooks: by the provider, or by
    /// this branch's secret.
    async fn is_remembered(&self, order: &str, branch: Option<&str>) -> anyhow::Result<bool> {
        let about = Recorded::sample(&self.enabled.name, order, Said::Created.webhook_type(), b"", Utc::now());
        for announced in self.needs.orders.announcements(&about).await? {
            match announced.envelope.principal.branch() {
                Some(own) if branch != Some(&**own) => {}
                Some(_) => return Ok(true),
                None if self.is_observed(&announced).await? => {}
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Whether an announcement comes of a webhook with an observed signature, which anyone may have sent.
    async fn is_observed(&self, announced: &Recorded) -> anyhow::Result<bool> {
        let mut cause = announced.envelope.cause_sequence;
        for _ in 0..MAX_CAUSES {
            let Some(sequence) = cause else { break };
            let Some(event) = event_at(self.needs.journal.connection(), sequence).await? else {
                break;
            };
            if let Some(origin) = event.envelope.request.as_ref().and_then(|request| request.origin) {
                return Ok(origin == WebhookOrigin::Observed);
            }
            cause = event.envelope.cause_sequence;
        }
        Ok(false)
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

    pub(super) fn note_unreadable(&self, order: &str, why: &str) {
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

/// The event that such a webhook becomes. It has no sender but the hub.
fn event(provider: &Arc<str>, webhook: MissedWebhook, now: DateTime<Utc>) -> NewEvent {
    let MissedWebhook {
        path, body, admission, ..
    } = webhook;
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
                body_sha256: Some(BodyHash::of(&body)),
                origin: Some(WebhookOrigin::Reconciled),
                ..RequestFacts::default()
            }),
            idempotency_key: None,
        },
        payload: body,
    }
}
