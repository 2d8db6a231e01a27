//! Reads the events that the index points at from the log.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{TimeDelta, Utc};

use super::{AnnouncedBy, CATCH_UP_EVERY, EntryState, IndexEntry, Orders, lock};
use crate::{
    delivery::superseded::{self, KnownAcceptances, NewerEvent, Searches},
    event::{EventId, EventType, Recorded},
    journal::read::{Start, event_at},
    order::{body, status::Status},
};

/// How long it is waited for events that stand on the log already, before the log is asked where it ends.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// The events of an order, and which of them belong to the asking event.
pub(crate) struct OrderEvents {
    /// Every entry of the order, in the log's order.
    pub(crate) found: Vec<IndexEntry>,
    webhook: u16,
    branch: u16,
    no_branch: u16,
}

impl OrderEvents {
    /// Entries of the same webhook.
    pub(crate) fn of_webhook(&self) -> impl DoubleEndedIterator<Item = IndexEntry> {
        self.found.iter().copied().filter(|found| found.webhook == self.webhook)
    }

    /// Entries of the same branch.
    pub(crate) fn of_branch(&self) -> impl DoubleEndedIterator<Item = IndexEntry> {
        self.found.iter().copied().filter(|found| found.branch == self.branch)
    }

    /// Entries of other branches.
    pub(crate) fn of_other_branches(&self) -> impl DoubleEndedIterator<Item = IndexEntry> {
        self.found.iter().copied().filter(|found| found.branch != self.branch)
    }

    /// Ends of webhooks in the stage `transform`, before their branch was known.
    pub(crate) fn ended_without_branch(&self) -> impl DoubleEndedIterator<Item = IndexEntry> {
        let is_ended = |found: &IndexEntry| found.branch == self.no_branch && found.state == EntryState::Ended;
        self.found.iter().copied().filter(is_ended)
    }

    /// Adds entries that were read from the log. Where both know an event, an end for good counts.
    pub(super) fn add(&mut self, read: Vec<IndexEntry>) {
        for entry in read {
            match self.found.iter_mut().find(|found| found.sequence == entry.sequence) {
                None => self.found.push(entry),
                Some(known) if entry.state.is_certain() => *known = entry,
                Some(_) => {}
            }
        }
        self.found.sort_unstable_by_key(|found| found.sequence);
    }
}

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It has no end yet, or is taken up again.
    Open,
    /// The backend does not have an order by it: it refused it, or it was ended without a request for it.
    Absent,
    /// It has ended, and the backend has or may have the order by it; or it is not known.
    Ended,
}

impl Orders {
    /// The known events of an event's order.
    pub(crate) fn known(&self, event: &Recorded) -> OrderEvents {
        let mut index = lock(&self.index);
        let prints = index.prints_of(&event.envelope);
        let found = index.of(prints.order);
        OrderEvents {
            found,
            webhook: prints.webhook,
            branch: prints.branch,
            no_branch: index.branch_print(None),
        }
    }

    /// Whether something came of this webhook before, as far back as the memory reaches. Only hashes are compared: a new webhook
    /// of an order that is known is taken for an earlier one of it in one of 16,000 cases.
    pub fn has_webhook(&self, provider: &str, order: &str, webhook: EventId) -> bool {
        let mut index = lock(&self.index);
        let prints = index.prints(provider, order, webhook, None);
        let found = index.of(prints.order);
        found.iter().any(|found| found.webhook == prints.webhook)
    }

    /// Whether the backend has all that came before an event of its order, back to the order's announcement. What was given up or
    /// ignored may have been asked for once more, and that may wait.
    pub(crate) fn has_all_before(&self, event: &Recorded) -> bool {
        let known = self.known(event);
        let is_before = |found: &IndexEntry| found.sequence < event.sequence;
        let is_announced = |found: IndexEntry| is_before(&found) && found.state.is_creation();
        (event.envelope.is_creation() || known.of_branch().any(is_announced))
            && known
                .found
                .iter()
                .filter(|found| is_before(found))
                .all(|found| found.state.is_certain())
    }

    /// The event that an entry points at; none if it has left the log, is about another order after all, or was accepted longer before
    /// or after than the window.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(crate) async fn read(&self, about: &Recorded, found: IndexEntry) -> anyhow::Result<Option<Recorded>> {
        let event = self.read_whenever(about, found).await?;
        let age = |event: &Recorded| (about.envelope.received_at - event.envelope.received_at).abs();
        Ok(event.filter(|event| age(event) <= self.window))
    }

    /// The same, whenever it was accepted: with another time it is about another order of the number.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(crate) async fn read_whenever(&self, about: &Recorded, found: IndexEntry) -> anyhow::Result<Option<Recorded>> {
        let event = event_at(&self.connection, found.sequence).await?;
        Ok(event.filter(|event| {
            let (one, other) = (&event.envelope, &about.envelope);
            found.state.is_of(one) && one.provider == other.provider && one.external_order_id == other.external_order_id
        }))
    }

    /// Where the webhook of an event was accepted first ([`Recorded::accepted_at`]), by its first event that is known ([`Self::history`]); none if none is.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(crate) async fn first_acceptance(
        &self,
        about: &Recorded,
        known: &OrderEvents,
        webhook: EventId,
    ) -> anyhow::Result<Option<u64>> {
        let print = lock(&self.index).prints("", "", webhook, None).webhook;
        for found in known.found.iter().filter(|found| found.webhook == print) {
            let read = self.read(about, *found).await?;
            if let Some(read) = read.filter(|read| read.envelope.root_id == webhook) {
                return Ok(Some(read.accepted_at()));
            }
        }
        Ok(None)
    }

    /// Whether a branch is the one of an order that was announced within the window; none if no such order is known.
    pub fn is_of_branch(&self, provider: &str, order: &str, branch: &str) -> Option<bool> {
        let mut index = lock(&self.index);
        let branch = index.branch_print(Some(branch));
        let prints = index.prints(provider, order, EventId::of_unreadable(0), None);
        let found = index.of(prints.order);
        let mut creations = found.iter().filter(|found| found.state.is_creation()).peekable();
        creations.peek()?;
        Some(creations.any(|creation| creation.branch == branch))
    }

    /// Who announced an order of this number within the window: the branch, only others, or none. What the backend refused is no
    /// order of the branch's, but one of another's all the same, who may have it taken up again. Of others only what stands behind
    /// `since` on the log counts; all of it where the backend refused the branch's own, which it may have done for theirs.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(crate) async fn announced(&self, about: &Recorded, branch: &str, since: u64) -> anyhow::Result<AnnouncedBy> {
        let known = self.known(about).found;
        let print = lock(&self.index).branch_print(Some(branch));
        let creations = known.iter().rev().filter(|found| found.state.is_creation());
        let (of_branch, of_others): (Vec<IndexEntry>, Vec<IndexEntry>) =
            creations.partition(|found| found.branch == print);
        let (mut is_anothers, mut since) = (false, since);
        for found in of_branch {
            let Some(order) = self.read(about, found).await? else {
                continue;
            };
            if order.envelope.branch.as_deref() != Some(branch) {
                is_anothers |= found.sequence > since;
            } else if found.state != EntryState::CreationRefused {
                return Ok(AnnouncedBy::Own(Box::new(order)));
            } else {
                since = 0;
            }
        }
        if is_anothers {
            return Ok(AnnouncedBy::Others);
        }
        // Another order may have the same hash, so the event on the log decides.
        for found in of_others.into_iter().filter(|found| found.sequence > since) {
            if self.read(about, found).await?.is_some() {
                return Ok(AnnouncedBy::Others);
            }
        }
        Ok(AnnouncedBy::NotAnnounced)
    }

    /// Waits until everything is known that was on the log before an event about an order. What another instance appended is otherwise
    /// known a second later.
    ///
    /// # Errors
    /// The same as of [`Self::catch_up`].
    pub(crate) async fn know_all_before(&self, event: &Recorded) -> anyhow::Result<()> {
        let (mut position, began) = (self.position.subscribe(), Instant::now());
        while began.elapsed() < KNOWN_WITHIN {
            if *position.borrow() < event.sequence {
                self.wanted.notify_one();
            }
            let reached = position.wait_for(|position| *position >= event.sequence);
            if tokio::time::timeout(CATCH_UP_EVERY, reached).await.is_ok() {
                return Ok(());
            }
        }
        // The log may have nothing that is read, or be read anew.
        self.catch_up().await
    }

    /// What is known of an announcement.
    pub(crate) fn standing(&self, announced: &Recorded) -> Standing {
        let is_taken_up = self.taken_up(announced.sequence).is_some();
        match self.state_of(announced) {
            _ if is_taken_up => Standing::Open,
            Some(EntryState::Creation) => Standing::Open,
            Some(EntryState::CreationRefused | EntryState::CreationIgnored) => Standing::Absent,
            _ => Standing::Ended,
        }
    }

    /// Where the last `order.forwarded` of a new order with an event's number stands; none if none is known.
    pub(crate) fn last_created(&self, event: &Recorded) -> Option<u64> {
        let known = self.known(event).found;
        let created = known.iter().filter(|found| found.state == EntryState::Created);
        created.map(|found| found.sequence).max()
    }

    /// The `order.transformed` of every announcement of an order within the window, the latest first.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn announcements(&self, about: &Recorded) -> anyhow::Result<Vec<Recorded>> {
        let mut announcements = Vec::new();
        for found in self.known(about).found.into_iter().rev() {
            if found.state.is_creation() {
                announcements.extend(self.read(about, found).await?);
            }
        }
        Ok(announcements)
    }

    /// What superseded a status that may have waited for long: another order that has its number by now.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(crate) async fn another_of_number(&self, status: &Recorded) -> anyhow::Result<Option<NewerEvent>> {
        let since = status.envelope.received_at - self.window;
        let is_known =
            lock(&self.index).complete_since <= since && Utc::now() - status.envelope.received_at <= self.window;
        if !is_known {
            return superseded::of_number(&self.connection, status, None, self).await;
        }
        let known = self.known(status).found;
        let is_later = |found: &IndexEntry| found.state.is_creation() && found.sequence > status.sequence;
        if !known.iter().any(is_later) {
            return Ok(None);
        }
        let mut announced = self.announcements(status).await?;
        announced.reverse();
        superseded::of_number(&self.connection, status, Some(&announced), self).await
    }

    /// As [`Self::announcements`], where they are not all of this branch; none where they are.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(crate) async fn announcements_of_others(
        &self,
        about: &Recorded,
        branch: Option<&str>,
    ) -> anyhow::Result<Vec<Recorded>> {
        let known = self.known(about).found;
        let print = branch.map(|branch| lock(&self.index).branch_print(Some(branch)));
        let mut creations = known.iter().filter(|found| found.state.is_creation());
        let is_own = match print {
            Some(print) => creations.all(|found| found.branch == print),
            None => creations.nth(1).is_none(),
        };
        if is_own {
            return Ok(Vec::new());
        }
        self.announcements(about).await
    }

    /// The `order.transformed` with a change of an order that this acceptance of a webhook has become; none if none is known.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(crate) async fn change_of(&self, received: &Recorded) -> anyhow::Result<Option<Recorded>> {
        let known = self.known(received);
        let is_change = |found: &IndexEntry| !found.state.is_creation() && found.sequence > received.sequence;
        for found in known.of_webhook().filter(is_change) {
            let change = self.read(received, found).await?;
            let change = change.filter(|change| {
                change.envelope.event_type == EventType::OrderTransformed
                    && change.envelope.cause_sequence == Some(received.sequence)
            });
            if change.is_some() {
                return Ok(change);
            }
        }
        Ok(None)
    }

    /// What became of an event, as far as that is known.
    pub(crate) fn state_of(&self, event: &Recorded) -> Option<EntryState> {
        let known = self.known(event).found;
        let found = known.iter().find(|found| found.sequence == event.sequence);
        found.map(|found| found.state)
    }

    /// Whether news of an order that came after an announcement call it off. Those after an announcement of another order of the number are
    /// about that one.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(crate) async fn is_called_off(&self, announced: &Recorded) -> anyhow::Result<bool> {
        let known = self.known(announced);
        let mut is_about_another = false;
        for found in known.of_branch().filter(|found| found.sequence > announced.sequence) {
            let Some(news) = self.read(announced, found).await? else {
                continue;
            };
            if found.state.is_creation() {
                is_about_another = body::are_two_orders(&announced.payload, &news.payload);
            } else if !is_about_another
                && let Ok(word) = body::announced(&news.payload)
                && word.status.is_some_and(Status::is_called_off)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the backend has an order of a webhook's number, or one is still to be forwarded: of the webhook's branch, if that is known or
    /// its secret proved it.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(crate) async fn may_be_created(&self, about: &Recorded) -> anyhow::Result<bool> {
        let known = self.history(about).await?;
        let proven_for = about.envelope.principal.branch().map(|branch| &**branch);
        let branch = about.envelope.branch.as_deref().or(proven_for);
        let is_creation = |found: &IndexEntry| matches!(found.state, EntryState::Creation | EntryState::Created);
        for found in known.found.iter().filter(|found| is_creation(found)) {
            let order = self.read(about, *found).await?;
            if order.is_some_and(|order| branch.is_none() || order.envelope.branch.as_deref() == branch) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The `order.transformed` of the last announcement of an order for this branch within the window; none if none is known.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(crate) async fn last_announcement(&self, about: &Recorded, branch: &str) -> anyhow::Result<Option<Recorded>> {
        let found = self.known(about).found;
        let print = lock(&self.index).branch_print(Some(branch));
        let creations = found
            .into_iter()
            .rev()
            .filter(|found| found.state.is_creation() && found.branch == print);
        for found in creations {
            let order = self.read(about, found).await?;
            let order = order.filter(|order| order.envelope.branch.as_deref() == Some(branch));
            if order.is_some() {
                return Ok(order);
            }
        }
        Ok(None)
    }
}

impl KnownAcceptances for Orders {
    async fn begin(&self, event: &Recorded) -> anyhow::Result<Start> {
        let known = self.history(event).await?;
        let first = self.first_acceptance(event, &known, event.envelope.root_id).await?;
        Ok(match first {
            Some(first) => Start::Sequence(first.min(event.accepted_at()) + 1),
            None => superseded::since(event),
        })
    }

    async fn first(&self, event: &Recorded, webhooks: Vec<EventId>) -> anyhow::Result<HashMap<EventId, u64>> {
        let (known, mut first) = (self.history(event).await?, HashMap::new());
        for webhook in webhooks {
            if !first.contains_key(&webhook)
                && let Some(sequence) = self.first_acceptance(event, &known, webhook).await?
            {
                first.insert(webhook, sequence);
            }
        }
        Ok(first)
    }

    fn window(&self) -> TimeDelta {
        self.window
    }

    fn searches(&self) -> Option<&Searches> {
        Some(&self.searches)
    }
}
