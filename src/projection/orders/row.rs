//! A row of `hub.orders`, and how an event changes it. No I/O.
//!
//! Several webhooks may be about one order. The row keeps each that has not reached the backend ([`UnsettledWebhook`]): it is under
//! way or given up. The order's state is that of the most important one: an announcement before news, one under way before
//! one that was given up, the oldest first. Without any, the order was forwarded, or all its webhooks were ignored. `status` is
//! what the provider said last, whether the backend has it or not.
//!
//! Applying an order's events again gives the same row, so the log can be read again from anywhere.

use std::{cmp::Reverse, collections::BTreeSet, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    event::{
        EventId, EventType,
        outcome::{ErrorReport, TEST_ORDER},
        push,
    },
    order::{flag::Flag, status::OrderStatus},
    projection::{
        decoded::{DecodedPayload, Event},
        rules::{self, EventOrder},
        timestamp,
    },
};

/// Announcements of one number that come so much apart are two orders. It is the default of `ORDER_MEMORY`, whatever that is set to:
/// the rows follow from the log alone.
pub(in crate::projection) const SAME_ORDER_FOR: TimeDelta = TimeDelta::hours(48);
/// A row keeps at most this many given-up news, the latest ones.
const MAX_NEWS_GIVEN_UP: usize = 16;
/// The flag of an order that was announced again in another way; the backend has the first announcement.
const ANNOUNCED_DIFFERENTLY: &str = "announced_differently";
/// Type of webhooks that are about no order, or have no news of one.
const NOT_WANTED: &str = "ignored";
/// The stage of an `order.rejected` of earlier versions, which do not say it.
const FIRST_STAGE: &str = "transform";

/// The state of a webhook in the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WebhookState {
    /// Accepted.
    Received,
    /// The body for the backend is made.
    Transformed,
    /// An attempt failed, or a person requested one; another one follows.
    Waiting,
    /// No attempt follows.
    GivenUp,
}

impl WebhookState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Transformed => "transformed",
            Self::Waiting => "waiting",
            Self::GivenUp => "given_up",
        }
    }
}

/// A webhook that has not reached the backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UnsettledWebhook {
    webhook: EventId,
    state: WebhookState,
    /// It announces the order.
    is_creation: bool,
    /// When it was accepted, for the first time since it last reached the backend.
    since: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<DateTime<Utc>>,
}

/// An order.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// The first webhook of it.
    pub(super) id: EventId,
    pub(super) provider: Arc<str>,
    pub(super) external_order_id: String,
    pub(super) branch_id: Option<String>,
    pub(super) company_id: Option<String>,
    pub(super) order_number: Option<String>,
    pub(super) display_id: Option<String>,
    pub(super) order_id: Option<String>,
    /// The provider's last word in the platform's words, in its own, and when the webhook with it was accepted.
    pub(super) status: Option<OrderStatus>,
    pub(super) provider_status: Option<String>,
    pub(super) said_at: Option<DateTime<Utc>>,
    pub(super) first_at: DateTime<Utc>,
    pub(super) last_at: DateTime<Utc>,
    pub(super) forwarded_at: Option<DateTime<Utc>>,
    pub(super) given_up_at: Option<DateTime<Utc>>,
    pub(super) attempts: i32,
    pub(super) cause_stage: Option<String>,
    pub(super) cause_code: Option<String>,
    pub(super) deadline: Option<DateTime<Utc>>,
    pub(super) is_test: bool,
    pub(super) flags: BTreeSet<String>,
    pub(super) last_sequence: i64,
    pub(super) unsettled: Vec<UnsettledWebhook>,
    /// It is not as the table has it.
    pub(super) is_changed: bool,
    /// The table does not have it.
    pub(super) is_new: bool,
}

/// Whether an event is about a customer's order, and not about a request of the backend, a menu, or nothing.
pub(super) fn is_about_an_order(event: &Event) -> bool {
    let envelope = &event.envelope;
    let of_others = envelope.event_type.is_for_provider() || envelope.event_type == EventType::MenuSyncReported;
    let is_named = !envelope.external_order_id.is_empty() && envelope.webhook_type != NOT_WANTED;
    is_named && !of_others && !push::is_of_backend(envelope)
}

/// The branch that an event is about, as far as it says so.
fn branch_of(event: &Event) -> Option<&str> {
    let envelope = &event.envelope;
    let own = envelope.principal.branch().map(|branch| &**branch);
    envelope.branch.as_deref().filter(|branch| !branch.is_empty()).or(own)
}

/// A time as the table keeps it.
fn millis(time: DateTime<Utc>) -> DateTime<Utc> {
    let rounded = time.timestamp_micros().saturating_add(500).div_euclid(1000);
    DateTime::from_timestamp_millis(rounded).unwrap_or(time)
}

/// The order that an event is about, among those of its number, which is moved from one branch to another where the event says so;
/// none if it is a new one.
pub(super) fn find(rows: &mut [Row], event: &Event) -> Option<usize> {
    let envelope = &event.envelope;
    let (root, branch) = (envelope.root_id, branch_of(event));
    if let Some(at) = rows.iter().position(|row| row.id == root || row.has(root)) {
        let row = &mut rows[at];
        let is_elsewhere = branch.is_some() && row.branch_id.is_some() && row.branch_id.as_deref() != branch;
        if !is_elsewhere || row.id == root {
            return Some(at);
        }
        // The webhook's branch was unknown at first, and it was taken as news of another branch's order.
        row.unsettled.retain(|one| one.webhook != root);
        row.settle();
    }
    let accepted = millis(envelope.received_at);
    let near = |row: &Row| (accepted - row.first_at).abs() <= SAME_ORDER_FOR;
    let fits = |row: &&Row| {
        let is_same = match (row.branch_id.as_deref(), branch) {
            (Some(of), Some(branch)) => of == branch,
            (None, Some(_)) => envelope.principal.branch().is_none(),
            (_, None) => true,
        };
        is_same && (!envelope.is_creation() || near(row))
    };
    // The latest row from before the webhook; without one, the next row after it, in case a clock was behind.
    let rank = |row: &&Row| {
        let after = (row.first_at - accepted).max(TimeDelta::zero());
        (Reverse(after), row.first_at, row.id)
    };
    let best = rows.iter().filter(fits).max_by_key(rank)?.id;
    rows.iter().position(|row| row.id == best)
}

impl Row {
    /// Of an event that is about no order that is known.
    pub(super) fn of(event: &Event) -> Self {
        let envelope = &event.envelope;
        Self {
            id: envelope.root_id,
            provider: Arc::clone(&envelope.provider),
            external_order_id: envelope.external_order_id.clone(),
            branch_id: None,
            company_id: None,
            order_number: None,
            display_id: None,
            order_id: None,
            status: None,
            provider_status: None,
            said_at: None,
            first_at: millis(envelope.received_at),
            last_at: millis(envelope.time),
            forwarded_at: None,
            given_up_at: None,
            attempts: 0,
            cause_stage: None,
            cause_code: None,
            deadline: None,
            is_test: false,
            flags: BTreeSet::new(),
            last_sequence: 0,
            unsettled: Vec::new(),
            is_changed: false,
            is_new: true,
        }
    }

    fn has(&self, webhook: EventId) -> bool {
        self.unsettled.iter().any(|one| one.webhook == webhook)
    }

    /// Whether an event may change it that comes like this.
    pub(super) fn may_change(&self, comes: EventOrder, event: &Event) -> bool {
        comes.may_change(timestamp(self.last_at), timestamp(event.envelope.time))
    }

    /// Applies an event.
    pub(super) fn apply(&mut self, event: &Event) {
        let envelope = &event.envelope;
        self.last_at = millis(envelope.time);
        self.last_sequence = i64::try_from(event.sequence).unwrap_or(i64::MAX);
        self.first_at = self.first_at.min(millis(envelope.received_at));
        if let Some(branch) = branch_of(event) {
            self.branch_id = Some(branch.to_owned());
        }
        match envelope.event_type {
            EventType::WebhookReceived | EventType::OrderFetchRequested | EventType::OrderFetched => {
                self.put(event, WebhookState::Received);
            }
            EventType::OrderTransformed => {
                self.put(event, WebhookState::Transformed);
                self.note_body(event);
            }
            EventType::OrderRetryRequested => self.put(event, WebhookState::Waiting),
            EventType::OrderForwardFailed | EventType::OrderFetchFailed => self.failed(event),
            EventType::OrderRejected | EventType::OrderDeadLettered => self.given_up(event),
            EventType::OrderForwarded => self.forwarded(event),
            EventType::OrderIgnored => self.ignored(event),
            EventType::OrderStatusRequested
            | EventType::OrderStatusPushFailed
            | EventType::OrderStatusPushed
            | EventType::MenuSyncRequested
            | EventType::MenuSyncAccepted
            | EventType::MenuSyncReported
            | EventType::MenuSyncFailed
            | EventType::MenuSynced
            | EventType::ItemsRequested
            | EventType::ItemsProgressed
            | EventType::ItemsPushFailed
            | EventType::ItemsPushed
            | EventType::StoreRequested
            | EventType::StorePushFailed
            | EventType::StorePushed
            | EventType::OperatorActed
            | EventType::JobStarted
            | EventType::JobProgressed
            | EventType::JobStopped
            | EventType::JobResumed
            | EventType::JobEnded => {}
        }
        self.settle();
    }

    /// Sets the state from the remaining webhooks.
    fn settle(&mut self) {
        self.is_changed = true;
        if !self.unsettled.iter().any(|one| one.state == WebhookState::GivenUp) {
            self.given_up_at = None;
        }
    }

    /// Since when an event's webhook has not reached the backend. One that was given up and comes again is no newer for it.
    fn since(&self, event: &Event) -> DateTime<Utc> {
        let accepted = millis(event.envelope.received_at);
        let known = self.unsettled.iter().find(|one| one.webhook == event.envelope.root_id);
        known.map_or(accepted, |one| one.since.min(accepted))
    }

    /// The event's webhook is in this state.
    fn put(&mut self, event: &Event, state: WebhookState) {
        let envelope = &event.envelope;
        let (webhook, since) = (envelope.root_id, self.since(event));
        self.unsettled.retain(|one| one.webhook != webhook);
        self.unsettled.push(UnsettledWebhook {
            webhook,
            state,
            is_creation: envelope.is_creation(),
            since,
            next_attempt_at: None,
        });
    }

    /// Applies the facts of a body for the backend.
    fn note_body(&mut self, event: &Event) {
        let DecodedPayload::Transformed(facts) = event.decoded() else {
            return;
        };
        for (column, found) in [
            (&mut self.company_id, &facts.company_id),
            (&mut self.order_number, &facts.order_number),
            (&mut self.display_id, &facts.display_id),
        ] {
            if found.is_some() {
                column.clone_from(found);
            }
        }
        self.deadline = facts.deadline.map(millis).or(self.deadline);
        self.flags.extend(facts.flags.iter().cloned());
        self.is_test |= self.flags.contains(Flag::TestOrder.as_str());
        let said_at = millis(event.envelope.received_at);
        let next = facts.status.as_deref().and_then(OrderStatus::from_word);
        let may = if event.envelope.is_creation() {
            rules::may_be_announced
        } else {
            rules::may_become
        };
        // An event that is transformed again may be older than the provider's last status.
        if self.said_at.is_none_or(|last| last <= said_at) && may(self.status, next) {
            self.said_at = Some(said_at);
            if let Some(word) = facts.provider_status.as_ref().filter(|word| !word.is_empty()) {
                self.provider_status = Some(word.clone());
            }
            self.status = next.or(self.status);
        }
    }

    /// Whether a failure is about what is under way. An instance that was replaced may tell of one after the backend had the order.
    fn is_open(&self, webhook: EventId) -> bool {
        self.forwarded_at.is_none() || self.has(webhook)
    }

    fn failed(&mut self, event: &Event) {
        let webhook = event.envelope.root_id;
        let (attempts, next, error, stage) = match event.decoded() {
            DecodedPayload::ForwardFailed(failed) => {
                (failed.attempt, Some(failed.next_attempt_at), &failed.error, "forward")
            }
            // The dead letter that follows has the same error.
            DecodedPayload::PushFailed(failed) if failed.given_up => return,
            DecodedPayload::PushFailed(failed) => (failed.attempt, failed.next_attempt_at, &failed.error, "push"),
            _ => return,
        };
        if self.is_open(webhook) {
            self.put(event, WebhookState::Waiting);
            if let Some(waiting) = self.unsettled.last_mut() {
                waiting.next_attempt_at = next.map(millis);
            }
            self.because(attempts, stage, error);
        }
    }

    fn given_up(&mut self, event: &Event) {
        if !self.is_open(event.envelope.root_id) {
            return;
        }
        self.put(event, WebhookState::GivenUp);
        self.keep_latest(event.envelope.is_creation());
        self.given_up_at = Some(millis(event.envelope.time));
        match event.decoded() {
            DecodedPayload::DeadLettered(dead) => self.because(dead.attempts, &dead.stage, &dead.error),
            DecodedPayload::Rejected(rejected) => {
                let stage = rejected.stage.as_deref().unwrap_or(FIRST_STAGE);
                self.because(0, stage, &rejected.error);
            }
            _ => {}
        }
    }

    /// Keeps only the latest of what was given up: one announcement, for one that arrives makes up for all, and some news, for
    /// what comes again makes up only for what is older.
    fn keep_latest(&mut self, is_creation: bool) {
        let most = if is_creation { 1 } else { MAX_NEWS_GIVEN_UP };
        let is_one = |one: &UnsettledWebhook| one.state == WebhookState::GivenUp && one.is_creation == is_creation;
        let given_up = self.unsettled.iter().filter(|one| is_one(one));
        let mut latest: Vec<_> = given_up.map(|one| (one.since, one.webhook)).collect();
        latest.sort_unstable();
        let Some(oldest) = latest.len().checked_sub(most).map(|surplus| latest[surplus]) else {
            return;
        };
        self.unsettled
            .retain(|one| !is_one(one) || (one.since, one.webhook) >= oldest);
    }

    fn because(&mut self, attempts: u32, stage: &str, error: &ErrorReport) {
        self.attempts = i32::try_from(attempts).unwrap_or(i32::MAX);
        self.cause_stage = Some(stage.to_owned());
        self.cause_code = Some(error.code.clone());
    }

    fn forwarded(&mut self, event: &Event) {
        let (webhook, is_creation) = (event.envelope.root_id, event.envelope.is_creation());
        let accepted = self.since(event);
        // A forwarded event makes up for earlier news that did not arrive; a forwarded announcement, for every announcement.
        let is_overcome = |one: &UnsettledWebhook| {
            let makes_up = if one.is_creation {
                is_creation
            } else {
                one.since <= accepted
            };
            one.state == WebhookState::GivenUp && makes_up
        };
        self.unsettled.retain(|one| one.webhook != webhook && !is_overcome(one));
        self.forwarded_at = self.forwarded_at.or_else(|| Some(millis(event.envelope.time)));
        if let DecodedPayload::Forwarded(forwarded) = event.decoded() {
            self.attempts = i32::try_from(forwarded.attempts).unwrap_or(i32::MAX);
            if let Some(order_id) = &forwarded.internal_order_id {
                self.order_id = Some(order_id.clone());
            }
            if forwarded.differs {
                self.flags.insert(ANNOUNCED_DIFFERENTLY.to_owned());
            }
        }
        self.forget_cause();
    }

    fn ignored(&mut self, event: &Event) {
        let webhook = event.envelope.root_id;
        self.unsettled.retain(|one| one.webhook != webhook);
        self.forget_cause();
        let DecodedPayload::Ignored(ignored) = event.decoded() else {
            return;
        };
        self.is_test |= ignored.reason == TEST_ORDER;
        if ignored.differs {
            self.flags.insert(ANNOUNCED_DIFFERENTLY.to_owned());
        }
        if self.order_id.is_none() {
            self.order_id.clone_from(&ignored.internal_order_id);
        }
        if self.unsettled.is_empty() && self.forwarded_at.is_none() {
            self.cause_code = Some(ignored.reason.clone());
        }
    }

    fn forget_cause(&mut self) {
        if self.unsettled.is_empty() {
            (self.cause_stage, self.cause_code) = (None, None);
        }
    }

    /// The order's state.
    pub(super) fn state(&self) -> &'static str {
        let rank = |one: &&UnsettledWebhook| {
            (
                !one.is_creation,
                one.state == WebhookState::GivenUp,
                one.since,
                one.webhook,
            )
        };
        match self.unsettled.iter().min_by_key(rank) {
            Some(first) => first.state.as_str(),
            None if self.forwarded_at.is_some() => "forwarded",
            None => "ignored",
        }
    }

    /// Since when something about it has not reached the backend.
    pub(super) fn undelivered_since(&self) -> Option<DateTime<Utc>> {
        self.unsettled.iter().map(|one| one.since).min()
    }

    /// When the next attempt is due.
    pub(super) fn next_attempt_at(&self) -> Option<DateTime<Utc>> {
        self.unsettled.iter().filter_map(|one| one.next_attempt_at).min()
    }
}
