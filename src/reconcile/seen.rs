//! Which orders of a provider the log announces or cancels, as its `webhook.received` say: they are there before anything came of
//! them, however long that takes. Read back as far as a list may reach, then followed from reading to reading.
//!
//! What counts depends on who proved it. A webhook that was proven by a branch's secret counts for that branch's list alone: another
//! branch's order may have the same number, and that one branch sends webhooks does not mean that the others' come. A webhook with an
//! observed signature counts for no list: anyone may have sent it.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};

use super::REACH;
use crate::{
    event::{ORDER_CREATED, Recorded, WebhookOrigin},
    journal::{
        codec,
        connection::Connection,
        read::{Entry, LogReader, Start},
    },
};

/// How much longer than a list may reach webhooks are remembered: an order may be in a list for longer than its time says.
const MARGIN: TimeDelta = TimeDelta::hours(2);
/// `webhookType` of a cancellation.
pub(super) const ORDER_CANCELLED: &str = "order_cancelled";
/// Most webhooks that are remembered, some 50 MB of them; of more the oldest are forgotten, and then found once more.
const MAX_WEBHOOKS: usize = 1_000_000;
/// How often the oldest are dropped.
const TIDY_EVERY: Duration = Duration::from_secs(600);

/// What a webhook says about an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// That it is new.
    Created,
    /// That it is cancelled.
    Cancelled,
}

impl Said {
    /// The `webhookType`.
    pub(super) const fn webhook_type(self) -> &'static str {
        match self {
            Self::Created => ORDER_CREATED,
            Self::Cancelled => ORDER_CANCELLED,
        }
    }
}

/// When the webhooks came that count for a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Webhooks {
    /// The oldest of the provider that is on the log, whoever proved it.
    pub(super) first: DateTime<Utc>,
    /// The last one that the provider or the list's branch sent.
    pub(super) last: DateTime<Utc>,
}

/// The webhooks of one provider, as far as they are known.
pub(super) struct Seen {
    subjects: String,
    hasher: RandomState,
    /// By a hash of the principal's branch, the order and what is said of it, when it came.
    webhooks: HashMap<u64, DateTime<Utc>>,
    /// Sequence after which the log is read on; none where it was not read.
    position: Option<u64>,
    /// How often the connection had been made when the log was read: behind another one may be another log.
    connected: u64,
    first: Option<DateTime<Utc>>,
    /// The last webhook that the provider proved.
    last: Option<DateTime<Utc>>,
    /// The last one that each branch proved by its own secret, as far back as a list reaches.
    last_of_branches: HashMap<Arc<str>, DateTime<Utc>>,
    tidied: DateTime<Utc>,
    /// When the log was read last.
    read_at: Option<Instant>,
}

impl Seen {
    /// Nothing is known yet.
    pub(super) fn new(provider: &str) -> Self {
        Self {
            subjects: format!("webhooks.received.{}.*", codec::token(provider)),
            hasher: RandomState::new(),
            webhooks: HashMap::new(),
            position: None,
            connected: 0,
            first: None,
            last: None,
            last_of_branches: HashMap::new(),
            tidied: Utc::now(),
            read_at: None,
        }
    }

    /// When the webhooks came that count for a branch's list, or for the list of the provider as a whole; none if none ever did.
    pub(super) fn webhooks(&self, branch: Option<&str>) -> Option<Webhooks> {
        let first = self.first?;
        let of_branch = branch.and_then(|branch| self.last_of_branches.get(branch).copied());
        Some(Webhooks {
            first,
            last: self.last.max(of_branch).unwrap_or(first),
        })
    }

    /// Whether the log was read lately enough.
    pub(super) fn is_fresh(&self, within: Duration) -> bool {
        self.read_at.is_some_and(|at| at.elapsed() < within)
    }

    /// Whether the log says this of an order in a branch's list, as far back as a list reaches. The provider says it, or the branch.
    pub(super) fn has(&self, order: &str, said: Said, branch: Option<&str>) -> bool {
        let knows = |of: Option<&str>| self.webhooks.contains_key(&self.print(of, order, said.webhook_type()));
        knows(None) || (branch.is_some() && knows(branch))
    }

    /// The provider's list says so now, and so does the log.
    pub(super) fn note(&mut self, order: &str, said: Said, at: DateTime<Utc>) {
        let print = self.print(None, order, said.webhook_type());
        self.webhooks.insert(print, at);
    }

    /// Reads the log to its end.
    ///
    /// # Errors
    /// If NATS does not answer; the call may be repeated.
    pub(super) async fn catch_up(&mut self, log: &Connection) -> anyhow::Result<()> {
        let (connected, began) = (log.times(), Instant::now());
        if self.connected != connected {
            self.webhooks.clear();
            self.last_of_branches.clear();
            (self.position, self.first, self.last) = (None, None, None);
            self.connected = connected;
        }
        if self.first.is_none() {
            let mut reader = LogReader::of_subjects(log, self.subjects.clone(), Start::Sequence(1)).at_most(1);
            self.first = time_of_first(&reader.next_batch().await?);
            if self.first.is_none() {
                self.read_at = Some(began);
                return Ok(());
            }
        }
        let start = match self.position {
            Some(position) => Start::Sequence(position + 1),
            None => Start::Time(Utc::now() - REACH - MARGIN),
        };
        let mut reader = LogReader::of_subjects(log, self.subjects.clone(), start);
        loop {
            let entries = reader.next_batch().await?;
            let Some(end) = entries.last().map(Entry::sequence) else {
                break;
            };
            for entry in entries {
                if let Entry::Event(event) = entry {
                    self.read(&event);
                }
            }
            self.position = Some(end);
        }
        self.read_at = Some(began);
        self.tidy(Utc::now());
        Ok(())
    }

    fn read(&mut self, event: &Recorded) {
        let envelope = &event.envelope;
        let origin = envelope.request.as_ref().and_then(|request| request.origin);
        if origin == Some(WebhookOrigin::Observed) {
            return;
        }
        let branch = envelope.principal.branch();
        let print = self.print(
            branch.map(|branch| &**branch),
            &envelope.external_order_id,
            &envelope.webhook_type,
        );
        self.webhooks.insert(print, envelope.time);
        match branch {
            _ if origin == Some(WebhookOrigin::Reconciled) => {}
            None => self.last = self.last.max(Some(envelope.time)),
            Some(branch) => {
                let last = self.last_of_branches.entry(Arc::clone(branch)).or_insert(envelope.time);
                *last = envelope.time.max(*last);
            }
        }
    }

    fn print(&self, branch: Option<&str>, order: &str, webhook_type: &str) -> u64 {
        self.hasher.hash_one((branch, order, webhook_type))
    }

    fn tidy(&mut self, now: DateTime<Utc>) {
        let is_due = (now - self.tidied).to_std().is_ok_and(|past| past >= TIDY_EVERY);
        if !is_due && self.webhooks.len() <= MAX_WEBHOOKS {
            return;
        }
        self.tidied = now;
        self.webhooks.retain(|_, at| now - *at <= REACH + MARGIN);
        self.last_of_branches.retain(|_, at| now - *at <= REACH + MARGIN);
        if self.webhooks.len() > MAX_WEBHOOKS {
            let mut times: Vec<_> = self.webhooks.values().copied().collect();
            let spare = times.len() - MAX_WEBHOOKS;
            let (_, oldest_kept, _) = times.select_nth_unstable(spare);
            let oldest_kept = *oldest_kept;
            self.webhooks.retain(|_, at| *at >= oldest_kept);
        }
    }
}

fn time_of_first(entries: &[Entry]) -> Option<DateTime<Utc>> {
    let time = |entry: &Entry| match entry {
        Entry::Event(event) => event.envelope.time,
        // One of a later version says as much: something came.
        Entry::Unreadable { .. } => Utc::now(),
    };
    entries.first().map(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Principal;

    fn webhook(order: &str, branch: Option<&str>, origin: Option<WebhookOrigin>) -> Recorded {
        let mut event = Recorded::sample("uber-eats", order, ORDER_CREATED, b"{}", Utc::now());
        if let Some(branch) = branch {
            event.envelope.principal = Principal::branch_alone(branch);
        }
        event.envelope.request.as_mut().unwrap().origin = origin;
        event
    }

    #[test]
    fn who_proved_a_webhook_decides_for_which_list_it_counts() {
        let mut seen = Seen::new("uber-eats");
        seen.read(&webhook("of-provider", None, None));
        seen.read(&webhook("of-a", Some("a"), None));
        let last = seen.webhooks.len();
        seen.read(&webhook("of-anyone", None, Some(WebhookOrigin::Observed)));
        assert_eq!(seen.webhooks.len(), last);
        let has = |order: &str| ["a", "b"].map(|branch| seen.has(order, Said::Created, Some(branch)));
        assert_eq!(has("of-provider"), [true, true]);
        assert_eq!(has("of-a"), [true, false]);
        assert_eq!(has("of-anyone"), [false, false]);
        // The list of a provider as a whole does not say which branch it means.
        assert!(seen.has("of-provider", Said::Created, None) && !seen.has("of-a", Said::Created, None));
    }

    #[test]
    fn a_branchs_webhooks_are_no_sign_that_anothers_come() {
        let mut seen = Seen::new("uber-eats");
        let at = |minute| DateTime::UNIX_EPOCH + TimeDelta::minutes(minute);
        let mut read = |minute, branch| {
            let mut webhook = webhook("1", branch, None);
            webhook.envelope.time = at(minute);
            seen.first = seen.first.or(Some(at(minute)));
            seen.read(&webhook);
            [None, Some("a"), Some("b")].map(|branch| seen.webhooks(branch).unwrap().last)
        };
        assert_eq!(read(1, Some("a")), [1, 1, 1].map(at), "the first one of all");
        assert_eq!(read(2, Some("a")), [1, 2, 1].map(at));
        assert_eq!(read(3, Some("b")), [1, 2, 3].map(at));
        assert_eq!(read(4, None), [4, 4, 4].map(at));
        assert_eq!(read(5, Some("a")), [4, 5, 4].map(at));
    }

    #[test]
    fn an_observed_webhook_is_not_the_providers_last_one() {
        let mut seen = Seen::new("uber-eats");
        seen.read(&webhook("1", None, Some(WebhookOrigin::Observed)));
        assert_eq!(seen.last, None);
        let sent = webhook("2", None, None);
        seen.read(&sent);
        assert_eq!(seen.last, Some(sent.envelope.time));
    }
}
