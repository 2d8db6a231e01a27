//! The stage `push`: it sends statuses, menus, the availability of items and the states of branches to providers, and fetches orders that a webhook only refers to.
//!
//! Requests to a provider are data ([`crate::provider::outbound`], with the templates of
//! [`template`](crate::provider::outbound::template)). [`crate::remote`] is the provider's interface with token, limits and
//! breaker, each provider's own, so that the failure of one delays no other. The events of each order stay in sequence: the
//! runner is [`crate::delivery::stage`], with lanes of its own.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use crate::{
    branches::{Branch, Branches},
    database::Database,
    delivery::{
        stage::{Before, Stage},
        superseded::KnownAcceptances,
    },
    event::{
        EventType, NewEvent, Recorded,
        outcome::{ErrorReport, ErrorType},
        stage::{PUSH, StageInfo},
    },
    journal::Journal,
    memory::Orders,
    provider::outbound::template::{Scope, Unfilled},
    registry::NotEnabled,
    remote::{Caller, Remote, Reply},
    retry::{self, Failure, Schedule},
};

pub mod menu;
mod record;
mod branch;
mod status;
mod catalog;
mod fetch;
mod items;
mod store;
mod ownership;

/// Retries that count after which a status of an order that is not known is given up, where the tables have all that was
/// there before it was asked for.
const UNKNOWN_ORDER_RETRIES: u32 = 2;
/// Shortest pause of an event that was not tried, whatever the settings are, so that nothing requests in a loop.
const MIN_WAIT: Duration = Duration::from_millis(100);
/// Events that wait for a provider's breaker come back spread over this time after it may close.
const SPREAD: Duration = Duration::from_secs(5);

/// Slot of the order's id.
const EXTERNAL_ID: &str = "external_id";

/// The stage.
pub struct Push {
    remotes: HashMap<String, Arc<Remote>>,
    branches: Arc<Branches>,
    database: Database,
    journal: Journal,
    orders: Arc<Orders>,
    schedule: Schedule,
    not_enabled: NotEnabled,
}

/// The subject of a request to a provider.
struct Subject {
    scope: Scope,
    origin: Caller,
    /// The branch's row.
    row: Option<Arc<Branch>>,
}

impl Push {
    /// Of these parts.
    pub fn new(
        remotes: impl IntoIterator<Item = Arc<Remote>>,
        branches: Arc<Branches>,
        database: Database,
        (journal, orders): (Journal, Arc<Orders>),
        schedule: Schedule,
    ) -> Self {
        Self {
            remotes: remotes
                .into_iter()
                .map(|remote| (remote.name.to_string(), remote))
                .collect(),
            branches,
            database,
            journal,
            orders,
            schedule,
            not_enabled: NotEnabled::default(),
        }
    }

    /// The slots of every request to a provider, with a branch if one is known.
    ///
    /// # Errors
    /// If the table of branches has to be looked at again, and cannot be read.
    async fn subject(&self, remote: &Remote, event: &Recorded, branch: Option<&str>) -> Result<Subject, Failure> {
        let (row, of_platform) = match branch {
            Some(branch) => self.row(remote, branch, event.envelope.event_type).await?,
            None => (None, self.branches.api_base_url(&remote.name)),
        };
        let mut scope = Scope::default();
        scope
            .0
            .insert(EXTERNAL_ID.into(), event.envelope.external_order_id.clone().into());
        if let Some(branch) = branch {
            scope.0.insert("branch_id".into(), branch.into());
        }
        if let Some(row) = &row {
            say(&mut scope, row);
        }
        Ok(Subject {
            scope,
            origin: Caller {
                base: remote.base(of_platform.as_deref()),
                branch: branch.map(str::to_owned),
                event: event.run_id(),
                key: event.envelope.id.to_string(),
                is_only: self.branches.only_branch(&remote.name).is_some(),
                has_own_limit: false,
                is_aside: false,
            },
            row,
        })
    }

    /// What follows when the provider did not accept the request.
    fn not_done(&self, event: &Recorded, request: u32, reply: Reply) -> Result<Vec<NewEvent>, Failure> {
        match reply {
            Reply::Wait(wait) => Err(Failure::Later {
                after: wait.max(MIN_WAIT) + retry::spread(SPREAD.min(wait), request, event.run_id()),
                for_creation: false,
            }),
            Reply::Turn(wait) => Err(Failure::Later {
                after: wait,
                for_creation: false,
            }),
            Reply::Temporary { error, after } => self.failed(event, request, error, after, u32::MAX),
            // A dead letter that a person retries later asks once.
            Reply::Again { error, after, within } => {
                let since = event.envelope.time;
                if Utc::now() - since < TimeDelta::from_std(within).unwrap_or(TimeDelta::MAX) {
                    return Err(Failure::Later {
                        after,
                        for_creation: false,
                    });
                }
                Ok(self.given_up(event, request, error))
            }
            Reply::Refused(error) => Ok(self.given_up(event, request, error)),
            Reply::Done { .. } => Ok(Vec::new()),
        }
    }

    /// A request failed: when it is made again, or that it is not.
    fn failed(
        &self,
        event: &Recorded,
        request: u32,
        error: ErrorReport,
        after: Option<Duration>,
        max_retries: u32,
    ) -> Result<Vec<NewEvent>, Failure> {
        match self.schedule.next(request, after, event.run_id()) {
            Some(next) if Schedule::retries(request) < max_retries => Err(Failure::Retry {
                next,
                record: vec![self.attempt_failed(event, request, error, next.pause())],
                is_no_fault: false,
                for_creation: false,
            }),
            _ => Ok(self.given_up(event, request, error)),
        }
    }

    /// It cannot be said at all.
    fn refused(&self, event: &Recorded, request: u32, code: &str, message: &str) -> Result<Vec<NewEvent>, Failure> {
        let error = ErrorReport::new(ErrorType::Configuration, code, message);
        Ok(self.given_up(event, request - 1, error))
    }

    /// A slot has no value, or one that cannot stand in a path; given up, unless the branch's row is another one by now.
    async fn unfilled(
        &self,
        remote: &Remote,
        event: &Recorded,
        request: u32,
        subject: &Subject,
        unfilled: &Unfilled,
    ) -> Result<Vec<NewEvent>, Failure> {
        if let Unfilled::NotASegment { slot, why } = unfilled
            && slot == EXTERNAL_ID
        {
            return Ok(self.given_up(event, request - 1, ErrorReport::of_order_id(why)));
        }
        self.look_again().await?;
        let row = match &subject.origin.branch {
            Some(branch) => self.row(remote, branch, event.envelope.event_type).await?.0,
            None => None,
        };
        if row != subject.row {
            return Err(Failure::Later {
                after: Duration::ZERO,
                for_creation: false,
            });
        }
        let message = format!(
            "{unfilled}, which the provider must be told: look at store_id, merchant_id and settings of the branch in branch_delivery_configs"
        );
        self.refused(event, request, "PROVIDER_SETTING_MISSING", &message)
    }

    fn unreadable(&self, event: &Recorded, request: u32) -> Result<Vec<NewEvent>, Failure> {
        let error = ErrorReport::new(
            ErrorType::Validation,
            "UNREADABLE_REQUEST",
            "its payload cannot be read",
        );
        Ok(self.given_up(event, request - 1, error))
    }
}

impl Stage for Push {
    const INFO: StageInfo = PUSH;

    /// A cold start without PostgreSQL knows no branch yet.
    async fn ready(&self) {
        self.branches.loaded().await;
    }

    fn is_ready(&self) -> bool {
        self.branches.is_loaded()
    }

    async fn prepared(&self) {
        self.orders.warm().await;
    }

    async fn catches_up(&self) -> anyhow::Result<()> {
        self.orders.catch_up().await
    }

    fn begins(&self) {
        self.remotes.values().for_each(|remote| remote.limits.begin());
    }

    fn longest_request(&self) -> Duration {
        let longest = self.remotes.values().map(|remote| remote.longest()).max();
        longest.unwrap_or_default()
    }

    fn acceptances(&self) -> impl KnownAcceptances {
        &*self.orders
    }

    async fn handle(&self, event: &Recorded, request: u32) -> Result<Vec<NewEvent>, Failure> {
        if event.envelope.event_type == EventType::MenuSyncReported {
            return Ok(Vec::new());
        }
        let Some(remote) = self.remotes.get(&*event.envelope.provider) else {
            if let Some(left) = self.not_enabled.leave(event) {
                return Err(left);
            }
            let provider = &event.envelope.provider;
            let message = format!(
                "the hub that took this event up has no credentials for {provider}; set them and retry the dead letter"
            );
            return self.refused(event, request, "PROVIDER_NOT_ENABLED", &message);
        };
        match event.envelope.event_type {
            EventType::OrderFetchRequested => Box::pin(self.fetch(remote, event, request)).await,
            EventType::MenuSyncRequested => Box::pin(self.menu(remote, event, request)).await,
            EventType::ItemsRequested => Box::pin(self.items(remote, event, request)).await,
            EventType::StoreRequested => Box::pin(self.store(remote, event, request)).await,
            _ => Box::pin(self.status(remote, event, request)).await,
        }
    }

    /// To fetch a new order: statuses and menus wait for what waits of theirs.
    fn before(&self, event: &Recorded) -> Before {
        if event.envelope.is_creation() && event.envelope.event_type == EventType::OrderFetchRequested {
            Before::Passes
        } else {
            Before::Unknown
        }
    }

    /// Whether the event is a provider's result, which a menu waits for.
    fn creates(event: &Recorded) -> bool {
        event.envelope.event_type == EventType::MenuSyncReported
    }

    fn waits_for_creation(attempt: &Recorded) -> bool {
        attempt.envelope.event_type == EventType::MenuSyncAccepted
    }

    fn only_wakes(event_type: EventType) -> bool {
        event_type == EventType::MenuSyncReported
    }
}

/// Adds the slots of a branch.
pub(crate) fn say(scope: &mut Scope, branch: &Branch) {
    for (name, value) in [
        ("branch_store_id", &branch.store_id),
        ("merchant_id", &branch.merchant_id),
    ] {
        if let Some(value) = value {
            scope.0.insert(name.into(), value.clone().into());
        }
    }
    let settings = branch.settings.as_deref().map(serde_json::from_str::<Value>);
    if let Some(Ok(settings)) = settings {
        scope.0.insert("setting".into(), settings);
    }
}

/// Until then from now, at least nothing.
fn until(time: DateTime<Utc>) -> Duration {
    (time - Utc::now()).to_std().unwrap_or_default()
}
