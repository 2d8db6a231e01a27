//! Requests that wait for the outcome of their webhook (`<PROVIDER>_RESPONSE_WAIT`).
//!
//! The outcome is an event of the log, so it does not matter which instance works on the stages. An outcome that this instance appends is
//! noted at once. While a request waits, the log is read every [`WATCH_EVERY`] for those of other instances. Without a waiting
//! request nothing is done: one atomic counter is read for each event.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Deserialize;
use tokio::sync::oneshot;

use super::{EntryState, Orders, lock};
use crate::{
    event::{Envelope, EventId, EventType, Principal, outcome::Ignored},
    journal::read::event_at,
};

/// Most requests that wait at a time. Each holds its connection and about a kilobyte; one more is answered without waiting.
const MAX_WAITING: usize = 1024;
/// Most of one provider.
const MAX_OF_PROVIDER: usize = 768;
/// Most of them that branches of one provider proved by secrets of their own, and most of one such branch.
const MAX_OF_BRANCHES: usize = 512;
const MAX_OF_BRANCH: usize = 128;
/// Most with the same webhook: it and one repeat.
const MAX_OF_WEBHOOK: usize = 2;
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
    places: Mutex<Places>,
}

/// Their places.
#[derive(Debug, Default)]
struct Places {
    by_webhook: HashMap<EventId, Vec<oneshot::Sender<WebhookOutcome>>>,
    of_provider: HashMap<Arc<str>, usize>,
    /// Of webhooks that branches proved.
    of_branches: HashMap<Arc<str>, usize>,
    of_branch: HashMap<(Arc<str>, Arc<str>), usize>,
}

/// Who takes a place.
#[derive(Debug, Clone)]
struct Taker {
    provider: Arc<str>,
    branch: Option<Arc<str>>,
}

impl Places {
    /// Whether one more may wait.
    fn have_room(&self, webhook: EventId, taker: &Taker) -> bool {
        fn held<K: Eq + Hash>(counts: &HashMap<K, usize>, key: &K) -> usize {
            counts.get(key).copied().unwrap_or_default()
        }
        let same = self.by_webhook.get(&webhook).map_or(0, Vec::len);
        let of_branches = |branch: &Arc<str>| {
            let key = (Arc::clone(&taker.provider), Arc::clone(branch));
            held(&self.of_branches, &taker.provider) < MAX_OF_BRANCHES && held(&self.of_branch, &key) < MAX_OF_BRANCH
        };
        same < MAX_OF_WEBHOOK
            && held(&self.of_provider, &taker.provider) < MAX_OF_PROVIDER
            && taker.branch.as_ref().is_none_or(of_branches)
    }

    fn take(&mut self, webhook: EventId, taker: &Taker, sender: oneshot::Sender<WebhookOutcome>) {
        self.by_webhook.entry(webhook).or_default().push(sender);
        *self.of_provider.entry(Arc::clone(&taker.provider)).or_default() += 1;
        if let Some(branch) = &taker.branch {
            *self.of_branches.entry(Arc::clone(&taker.provider)).or_default() += 1;
            let key = (Arc::clone(&taker.provider), Arc::clone(branch));
            *self.of_branch.entry(key).or_default() += 1;
        }
    }

    fn give_up(&mut self, webhook: EventId, taker: &Taker) {
        fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
            if let Some(count) = counts.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(key);
                }
            }
        }
        if let Some(others) = self.by_webhook.get_mut(&webhook) {
            others.retain(|one| !one.is_closed());
            if others.is_empty() {
                self.by_webhook.remove(&webhook);
            }
        }
        one_less(&mut self.of_provider, &taker.provider);
        if let Some(branch) = &taker.branch {
            one_less(&mut self.of_branches, &taker.provider);
            one_less(&mut self.of_branch, &(Arc::clone(&taker.provider), Arc::clone(branch)));
        }
    }
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
        let waiting = lock(&self.places).by_webhook.remove(&envelope.root_id);
        for one in waiting.unwrap_or_default() {
            // A request that has gone meanwhile needs no outcome.
            let _ = one.send(outcome.clone());
        }
    }

    fn add(&self, webhook: EventId, taker: Taker) -> Option<OutcomeWait<'_>> {
        let mut places = lock(&self.places);
        if self.count.load(Ordering::SeqCst) >= MAX_WAITING || !places.have_room(webhook, &taker) {
            return None;
        }
        self.count.fetch_add(1, Ordering::SeqCst);
        let (sender, outcome) = oneshot::channel();
        places.take(webhook, &taker, sender);
        Some(OutcomeWait {
            waiting: self,
            webhook,
            taker,
            outcome,
        })
    }
}

/// A request's place among those that wait; dropping it gives the place up.
#[derive(Debug)]
pub struct OutcomeWait<'a> {
    waiting: &'a Waiting,
    webhook: EventId,
    taker: Taker,
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
        lock(&self.waiting.places).give_up(self.webhook, &self.taker);
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
    /// A place among the requests that wait for an outcome; none if there are `MAX_WAITING`, or if the principal or the webhook has
    /// its share of them. To be taken before the webhook is appended: what is on the log then cannot be missed.
    pub fn wait_for(&self, webhook: EventId, provider: &Arc<str>, principal: &Principal) -> Option<OutcomeWait<'_>> {
        let was_any = self.waiting.is_any();
        let taker = Taker {
            provider: Arc::clone(provider),
            branch: principal.branch().cloned(),
        };
        let place = self.waiting.add(webhook, taker);
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

    fn taker(provider: &str, branch: Option<&str>) -> Taker {
        Taker {
            provider: provider.into(),
            branch: branch.map(Arc::from),
        }
    }

    /// Takes places for webhooks of their own, from this number on, until there is none.
    fn take_all<'a>(waiting: &'a Waiting, by: &Taker, numbers: &mut std::ops::RangeFrom<u64>) -> Vec<OutcomeWait<'a>> {
        let one = |number| waiting.add(EventId::of_unreadable(number), by.clone());
        numbers.map_while(one).collect()
    }

    #[test]
    fn places_are_limited_by_who_takes_them_and_given_up() {
        let (waiting, mut numbers) = (Waiting::default(), 1..);
        let mut take = |provider, branch| take_all(&waiting, &taker(provider, branch), &mut numbers);
        let of_branches: Vec<_> = ["a", "b", "c", "d", "e"]
            .map(|branch| take("careem", Some(branch)))
            .into();
        let counts: Vec<_> = of_branches.iter().map(Vec::len).collect();
        assert_eq!(counts, [128, 128, 128, 128, 0]);
        let own = take("careem", None);
        assert_eq!(own.len(), MAX_OF_PROVIDER - MAX_OF_BRANCHES);
        let others = take("talabat", None);
        assert_eq!(others.len(), MAX_WAITING - MAX_OF_PROVIDER);
        drop((of_branches, own, others));
        assert!(!waiting.is_any());
        let places = lock(&waiting.places);
        assert!(places.by_webhook.is_empty() && places.of_provider.is_empty());
        assert!(places.of_branches.is_empty() && places.of_branch.is_empty());
    }

    #[test]
    fn one_repeat_of_a_webhook_waits() {
        let waiting = Waiting::default();
        let add = || waiting.add(EventId::of_unreadable(1), taker("careem", None));
        let (first, second) = (add(), add());
        assert!(first.is_some() && second.is_some() && add().is_none());
        drop(first);
        assert!(add().is_some());
    }
}
