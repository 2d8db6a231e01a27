//! The stage `transform`: `webhook.received` becomes `order.transformed`, or the reason why not.
//!
//! The provider says what the webhook means, [`crate::branches`] which branch it is for, `tenants` whether it may act for
//! that branch. Whether the order exists already is not decided here, but when the event's turn has come to be forwarded.
//! Each acceptance of a webhook has exactly one outcome here, under one id whatever it is, so a redelivery cannot add
//! another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, FixedOffset, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::{
    branches::{Branches, TABLE_AWAY},
    database::Database,
    delivery::stage::{self, Before, Stage, give_up},
    event::{
        EventType, NewEvent, NotYours, Recorded,
        outcome::{ErrorReport, ErrorType, Ignored, ORDER_AMBIGUOUS},
        stage::{StageInfo, TRANSFORM},
    },
    fault_injection,
    journal::{Appended, connection::Connection},
    memory::Orders,
    provider::{Fact, Posted},
    registry::{Enabled, NotEnabled, Registry},
    retry::Failure,
};

mod idempotency;
mod lost;
mod tenants;
mod menus;
mod moved;
mod news_branch;
pub mod reading;
mod thin;

use self::{
    reading::{BeforeBranch, End, Meaning, Reading},
    tenants::{Allowed, Resolved},
};

/// Label of this stage's outcome (see [`crate::event::EventId::derive`]).
const LABEL: &str = "transform";
/// Code of a webhook with a merchant that has no active row.
pub(crate) const BRANCH_NOT_FOUND: &str = "BRANCH_NOT_FOUND";
/// How long a webhook waits if the log does not answer.
const LOG_AWAY: Duration = Duration::from_secs(1);
/// The flag of a webhook that is ignored because the provider's file does not know its event word.
const UNKNOWN_EVENT: &str = "unknown_event";
/// Most characters of a provider's word that are quoted.
const MAX_WORD_CHARS: usize = 64;

/// How long an instance keeps the stage without having read the branches.
const UNFIT_AFTER: Duration = Duration::from_secs(20);

/// The stage.
pub struct Transform {
    registry: Arc<Registry>,
    branches: Arc<Branches>,
    orders: Arc<Orders>,
    database: Database,
    log: Arc<Connection>,
    not_enabled: NotEnabled,
    /// The last webhook that may have been handed to another instance.
    handed_out: AtomicU64,
}

/// Why a webhook cannot be transformed yet.
enum NotYet {
    /// The log does not answer.
    Log(anyhow::Error),
    /// Its merchant is not known, and the table of branches cannot be read.
    Branches,
    /// Its provider is not enabled on this instance.
    Elsewhere(Failure),
}

impl From<anyhow::Error> for NotYet {
    fn from(error: anyhow::Error) -> Self {
        Self::Log(error)
    }
}

impl From<NotYet> for Failure {
    fn from(not_yet: NotYet) -> Self {
        let after = match not_yet {
            NotYet::Log(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot look up an earlier webhook, trying again"
                );
                LOG_AWAY
            }
            NotYet::Branches => {
                tracing::warn!("a merchant is unknown and the branches cannot be read; its webhook waits");
                TABLE_AWAY
            }
            NotYet::Elsewhere(left) => return left,
        };
        Self::Later {
            after,
            for_creation: false,
        }
    }
}

impl<'a> From<&'a Enabled> for Reading<'a> {
    fn from(enabled: &'a Enabled) -> Self {
        Self {
            provider: &*enabled.provider,
            spec: enabled.outbound.as_ref().map(|remote| &remote.spec),
            forward_test_orders: enabled.forward_test_orders,
            zone: None,
        }
    }
}

impl Transform {
    /// Of these parts.
    pub fn new(
        registry: Arc<Registry>,
        branches: Arc<Branches>,
        orders: Arc<Orders>,
        database: Database,
        log: Arc<Connection>,
    ) -> Self {
        Self {
            registry,
            branches,
            orders,
            database,
            log,
            not_enabled: NotEnabled::default(),
            handed_out: AtomicU64::new(u64::MAX),
        }
    }

    async fn outcome(&self, received: &Recorded, now: DateTime<Utc>) -> Result<NewEvent, NotYet> {
        let Some(enabled) = self.registry.get(&received.envelope.provider) else {
            return match self.not_enabled.leave(received) {
                Some(left) => Err(NotYet::Elsewhere(left)),
                None => Ok(dead_letter(received, NotEnabled::error(&received.envelope.provider))),
            };
        };
        let reading = Reading::from(enabled);
        let webhook = match reading.is_document(received) {
            true => thin::webhook(received, &self.log).await?,
            false => None,
        };
        let mut fact = match reading.meaning(received, webhook.clone()) {
            Meaning::Menu(word) => return self.menu_result(received, now, word).await,
            Meaning::End(end) => return Ok(ended(received, now, end)),
            Meaning::News(fact) => fact,
        };
        if let Err(why) = self.claims(received, &fact).await? {
            return Ok(not_yours(received, &why));
        }
        self.settle_store(received, &mut fact);
        match reading.before_branch(received, &fact) {
            BeforeBranch::Fetch => return Ok(thin::fetch(received, now)),
            BeforeBranch::End(end) => return Ok(ended(received, now, end)),
            BeforeBranch::Branch => {}
        }
        let branch = match self.resolve(received, &fact).await? {
            Resolved::Allowed(branch) => branch,
            Resolved::NotFound => {
                let error = branch_not_found(&received.envelope.provider, fact.store_ref.as_deref());
                return Ok(dead_letter(received, error));
            }
            Resolved::NotYours(why) => return Ok(not_yours(received, &why)),
            Resolved::Several => return Ok(dead_letter(received, ambiguous())),
        };
        let zone = self.zone(received, &fact, branch.id());
        let (reading, fact) = reading.news_in(zone, received, webhook, fact);
        let branch = self.settle_branch(received, (&reading, &*fact), branch).await?;
        let posted = match reading.body(received, &fact, branch.branch()) {
            Ok(posted) => posted,
            Err(end) => return Ok(ended(received, now, end)),
        };
        let key = self.key(received, (&*fact, &posted.body), branch.id()).await?;
        note_flags(received, fact.flags().iter().map(|flag| flag.as_str()));
        Ok(transformed(received, now, posted, branch, key))
    }
}

impl Transform {
    /// The zone of the branch's row, if the webhook has times without one.
    fn zone(&self, received: &Recorded, fact: &Fact, branch: &str) -> Option<FixedOffset> {
        let row = self.branches.branch(&received.envelope.provider, branch);
        let zone = row.filter(|_| fact.has_local_times)?.zone();
        zone.unwrap_or_else(|why| {
            tracing::warn!(
                provider = &*received.envelope.provider,
                order_id = received.envelope.external_order_id,
                branch_id = branch,
                error = why,
                "the zone of the branch is not used"
            );
            None
        })
    }
}

/// Says which texts are not passed on as they came; what stood there is on the log and nowhere else.
fn note_changed(received: &Recorded, changed: &[String]) {
    if changed.is_empty() {
        return;
    }
    let provider = received.envelope.provider.to_string();
    metrics::counter!("sanitised_fields_total", "provider" => provider).increment(changed.len() as u64);
    tracing::info!(
        provider = &*received.envelope.provider,
        order_id = received.envelope.external_order_id,
        request_id = received.envelope.request_id,
        fields = changed.join(" "),
        "texts cleaned or cut for the backend; the event webhook.received holds them as they came"
    );
}

/// Counts what is to be known about what goes on, or is ignored; who reads the body sees it there.
fn note_flags<'f>(received: &Recorded, flags: impl IntoIterator<Item = &'f str>) {
    for flag in flags {
        let labels = [
            ("provider", received.envelope.provider.to_string()),
            ("flag", flag.to_owned()),
        ];
        metrics::counter!("order_flags_total", &labels).increment(1);
    }
}

impl Stage for Transform {
    const INFO: StageInfo = TRANSFORM;
    const LABEL: &'static str = LABEL;
    const WAITS_FOR: &'static str = stage::gauges::BRANCHES;

    /// A cold start without PostgreSQL knows no branch yet: webhooks are accepted, transformation waits.
    async fn ready(&self) {
        self.branches.loaded().await;
    }

    fn is_ready(&self) -> bool {
        self.branches.is_loaded()
    }

    async fn prepared(&self) {
        self.orders.warm().await;
    }

    /// If this instance cannot read the branches, another one may: its database or its rights may differ.
    async fn unfit(&self) -> String {
        tokio::time::sleep(fault_injection::time("unfit_after", UNFIT_AFTER)).await;
        if self.branches.is_loaded() {
            std::future::pending::<()>().await;
        }
        "the branches were never read from PostgreSQL".into()
    }

    fn takes_over(&self, handed_out: u64) {
        self.handed_out.store(handed_out, Ordering::Relaxed);
    }

    async fn catches_up(&self) -> anyhow::Result<()> {
        self.orders.catch_up().await
    }

    /// Of a new order. Another announcement of it that waits may come after this one; it is found to be the same order by
    /// `forward`. News wait for what waits of their order.
    fn before(&self, event: &Recorded) -> Before {
        if event.envelope.is_creation() && Self::TAKES.contains(&event.envelope.event_type) {
            Before::Passes
        } else {
            Before::Unknown
        }
    }

    fn recorded(&self, event: &NewEvent, appended: Appended) {
        self.orders.note_own(event, appended.sequence);
    }

    async fn handle(&self, received: &Recorded, _attempt: u32) -> Result<Vec<NewEvent>, Failure> {
        let outcome = self.outcome(received, Utc::now()).await?;
        let outcome = self.unless_reported_lost(received, outcome).await?;
        if !goes_on(&outcome) {
            let provider = received.envelope.provider.to_string();
            let status = match outcome.envelope.event_type {
                EventType::OrderIgnored => "ignored",
                EventType::MenuSyncReported => "success",
                _ => "failed",
            };
            metrics::counter!("webhooks_processed_total", "provider" => provider, "status" => status).increment(1);
        }
        // Before the outcome: with that on the log no instance would come back to it.
        let lost = self.lost(received, &outcome).await?;
        Ok(lost.into_iter().chain([outcome]).collect())
    }
}

/// Whether a webhook does not end here.
fn goes_on(outcome: &NewEvent) -> bool {
    let goes_on = [EventType::OrderTransformed, EventType::OrderFetchRequested];
    goes_on.contains(&outcome.envelope.event_type)
}

fn transformed(
    received: &Recorded,
    now: DateTime<Utc>,
    posted: Posted,
    branch: Allowed,
    key: Option<Uuid>,
) -> NewEvent {
    note_changed(received, &posted.changed);
    let mut envelope = received.follow(LABEL, EventType::OrderTransformed, now);
    envelope.branch = Some(branch.into_branch().branch_id);
    envelope.idempotency_key = key;
    NewEvent {
        envelope,
        payload: Bytes::from(posted.body),
    }
}

/// The outcome of a webhook that goes no further.
fn ended(received: &Recorded, now: DateTime<Utc>, end: End) -> NewEvent {
    match end {
        End::Rejected(error) => stage::reject::<Transform>(received, LABEL, error),
        End::GivenUp(error) => dead_letter(received, error),
        End::Ignored { reason, message, flag } => {
            note_flags(received, flag);
            let payload = Ignored {
                reason: reason.into(),
                message,
                internal_order_id: None,
                sequence: None,
                differs: false,
            };
            NewEvent::new(received.follow(LABEL, EventType::OrderIgnored, now), &payload)
        }
    }
}

fn dead_letter(received: &Recorded, error: ErrorReport) -> NewEvent {
    give_up::<Transform>(received, LABEL, 0, error)
}

fn not_yours(received: &Recorded, why: &NotYours) -> NewEvent {
    stage::not_yours::<Transform>(received, LABEL, 0, why)
}

fn branch_not_found(provider: &str, store: Option<&str>) -> ErrorReport {
    let message = match store {
        Some(store) => format!(
            "no active row of branch_delivery_configs has provider {provider} and merchant {store}; add it and retry the dead letter"
        ),
        None => format!("the webhook names no merchant and {provider} has not exactly one active branch"),
    };
    ErrorReport::new(ErrorType::Configuration, BRANCH_NOT_FOUND, message).with(json!({ "merchant": store }))
}

fn ambiguous() -> ErrorReport {
    let message = "several branches have an order of that number and the webhook does not show which one it means; ask the provider, \
         and tell the backend";
    ErrorReport::new(ErrorType::Validation, ORDER_AMBIGUOUS, message)
}
