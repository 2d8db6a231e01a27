//! Requests that wait for the outcome of their webhook (`<PROVIDER>_RESPONSE_WAIT`).
//!
//! The outcome is an event of the log, so it does not matter which instance works on the stages. An outcome that this instance appends is
//! noted at once. While a request waits, the log is read every [`WATCH_EVERY`] for those of other instances. Without a waiting
//! request nothing is done: one atomic counter is read for each event.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Deserialize;
use tokio::sync::oneshot;

use super::{EntryState, Orders, lock};
use crate::{
    event::{Envelope, EventId, EventType, outcome::Ignored},
    journal::read::event_at,
};

/// Most requests that wait at a time. Each holds its connection and about a kilobyte; one more is answered without waiting.
const MAX_WAITING: usize = 1024;
/// How often the log is read while a request waits.
pub(super) const WATCH_EVERY: Duration = Duration::from_millis(20);

/// How a webhook ended, as far as its sender may learn it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookOutcome {
    /// The backend has the order that the webhook announced, under this id where the backend named one.
    Created(Option<String>),
    /// The backend has the news that the webhook brought.
    Forwarded,
    /// It did not reach the backend: it was ignored or given up.
    NotForwarded,
}

/// As much of `order.forwarded` as counts here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ForwardedNote {
    #[serde(default)]
    internal_order_id: Option<String>,
    #[serde(default)]
    as_news: bool,
}

/// The outcome that an event is; none if it ends no webhook.
fn outcome_of(envelope: &Envelope, payload: &[u8]) -> Option<WebhookOutcome> {
    match envelope.event_type {
        EventType::OrderForwarded => Some(match serde_json::from_slice::<ForwardedNote>(payload) {
            Ok(sent) if envelope.is_creation() && !sent.as_news => WebhookOutcome::Created(sent.internal_order_id),
            _ => WebhookOutcome::Forwarded,
        }),
        // A repeat of an announcement: the backend has the order.
        EventType::OrderIgnored => Some(match serde_json::from_slice::<Ignored>(payload) {
            Ok(Ignored {
                internal_order_id: Some(id),
                ..
            }) if envelope.is_creation() => WebhookOutcome::Created(Some(id)),
            _ => WebhookOutcome::NotForwarded,
        }),
        EventType::OrderRejected | EventType::OrderDeadLettered => Some(WebhookOutcome::NotForwarded),
        _ => None,
    }
}

/// The requests that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    count: AtomicUsize,
    by_webhook: Mutex<HashMap<EventId, Vec<oneshot::Sender<WebhookOutcome>>>>,
}

impl Waiting {
    /// Whether a request waits.
    pub(super) fn is_any(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// Hands an outcome to the requests that wait for it.
    pub(super) fn note(&self, envelope: &Envelope, payload: &[u8]) {
        if !self.is_any() {
            return;
        }
        let Some(outcome) = outcome_of(envelope, payload) else {
            return;
        };
        let waiting = lock(&self.by_webhook).remove(&envelope.root_id);
        for one in waiting.unwrap_or_default() {
            // A request that has gone meanwhile needs no outcome.
            let _ = one.send(outcome.clone());
        }
    }

    fn add(&self, webhook: EventId) -> Option<OutcomeWait<'_>> {
        let one_more = |count: usize| (count < MAX_WAITING).then_some(count + 1);
        self.count
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .ok()?;
        let (sender, outcome) = oneshot::channel();
        lock(&self.by_webhook).entry(webhook).or_default().push(sender);
        Some(OutcomeWait {
            waiting: self,
            webhook,
            outcome,
        })
    }
}

/// A request's place among those that wait; dropping it gives the place up.
#[derive(Debug)]
pub struct OutcomeWait<'a> {
    waiting: &'a Waiting,
    webhook: EventId,
    outcome: oneshot::Receiver<WebhookOutcome>,
}

impl OutcomeWait<'_> {
    /// Waits until the outcome is known. Has no time limit of its own.
    pub async fn outcome(&mut self) -> WebhookOutcome {
        // The sender is dropped only once it has sent.
        (&mut self.outcome).await.unwrap_or(WebhookOutcome::NotForwarded)
    }
}

impl Drop for OutcomeWait<'_> {
    fn drop(&mut self) {
        self.outcome.close();
        let mut by_webhook = lock(&self.waiting.by_webhook);
        if let Some(others) = by_webhook.get_mut(&self.webhook) {
            others.retain(|one| !one.is_closed());
            if others.is_empty() {
                by_webhook.remove(&self.webhook);
            }
        }
        drop(by_webhook);
        self.waiting.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How a webhook that was accepted before stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EarlierOutcome {
    /// It ended like this.
    Ended(WebhookOutcome),
    /// Its outcome is still to come.
    Open,
}

impl Orders {
    /// A place among the requests that wait for an outcome; none if there are `MAX_WAITING`. To be taken before the webhook is appended:
    /// what is on the log then cannot be missed.
    pub fn wait_for(&self, webhook: EventId) -> Option<OutcomeWait<'_>> {
        let was_any = self.waiting.is_any();
        let place = self.waiting.add(webhook);
        if !was_any {
            self.wanted.notify_one();
        }
        place
    }

    /// The outcome of a webhook that was accepted before, as far back as the memory reaches.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn earlier_outcome(
        &self,
        provider: &str,
        order: &str,
        webhook: EventId,
    ) -> anyhow::Result<EarlierOutcome> {
        let found = {
            let mut index = lock(&self.index);
            let prints = index.prints(provider, order, webhook, None);
            let mut found = index.of(prints.order);
            found.retain(|found| found.webhook == prints.webhook);
            found
        };
        if found.is_empty() || found.iter().any(|found| found.state.is_open()) {
            return Ok(EarlierOutcome::Open);
        }
        for created in found.iter().rev().filter(|found| found.state == EntryState::Created) {
            let event = event_at(&self.connection, created.sequence).await?;
            // Two webhooks may have one fingerprint.
            if let Some(event) = event.filter(|event| event.envelope.root_id == webhook)
                && let Some(outcome) = outcome_of(&event.envelope, &event.payload)
            {
                return Ok(EarlierOutcome::Ended(outcome));
            }
        }
        Ok(EarlierOutcome::Ended(WebhookOutcome::NotForwarded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_given_up() {
        let waiting = Waiting::default();
        let webhook = EventId::of_unreadable(1);
        let places: Vec<_> = (0..MAX_WAITING).map(|_| waiting.add(webhook).unwrap()).collect();
        assert!(waiting.add(webhook).is_none());
        drop(places);
        assert!(!waiting.is_any());
        assert!(lock(&waiting.by_webhook).is_empty());
        assert!(waiting.add(webhook).is_some());
    }
}
