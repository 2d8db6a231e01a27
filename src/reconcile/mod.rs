//! Reconciliation: the hub asks a provider which orders it has, and takes those in that never reached it.
//!
//! A webhook may be lost before the hub: the hub was away for longer than the provider repeats, or the provider had an outage. Where
//! the provider's file has a table `[reconcile]`, its lists are read when the hub was away, when the provider is silent, and from time
//! to time (`schedule`; `entries` reads them). What is on the log already is known (`seen`). Of anything else a webhook is made
//! as the file says (`made`); it goes through the checks of the intake and onto the log as `webhook.received`, with its origin
//! marked, and takes the path of every webhook (`round`). A webhook of the same order that comes later is a repeat of the order.
//!
//! It runs on the instance that works on the stage `push`, under the lease of that stage: the requests share the provider's token,
//! limits and breaker with those of the stage. Two instances that ask at the same time, while the stage changes hands, do no harm: an
//! order that is taken in twice is recognised as a repeated order is.

use std::{sync::Arc, time::Duration};

use chrono::{TimeDelta, Utc};
use tokio_util::sync::CancellationToken;

use self::{due::Schedules, round::State};
use crate::{
    branches::{Branch, Branches},
    event::stage::PUSH,
    fault_injection::time,
    journal::Journal,
    memory::Orders,
    provider::outbound::{ReconcileSpec, reconcile::ListOf},
    registry::{Enabled, Registry},
    remote::Remote,
};

mod schedule;
mod due;
mod seen;
mod entries;
mod made;
mod round;

/// How often it is looked whether a provider is due; without I/O.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How far back an order may be found, whatever happened.
const REACH: TimeDelta = TimeDelta::hours(24);
/// How often it is looked which webhooks came.
const SEEN_EVERY: Duration = Duration::from_secs(30);
/// Pause after the log could not be read.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_secs(5);

/// What reconciliation needs.
#[derive(Clone)]
pub struct Needs {
    /// The enabled providers.
    pub registry: Arc<Registry>,
    /// The log.
    pub journal: Journal,
    /// The branches.
    pub branches: Arc<Branches>,
    /// Which orders the log has.
    pub orders: Arc<Orders>,
}

/// Reads the lists of every provider that has some, until it is stopped.
///
/// # Errors
/// Never; as a task of the hub has it.
pub async fn run(needs: Needs, stop: CancellationToken) -> anyhow::Result<()> {
    let names = needs.registry.iter().filter(|enabled| lists_of(enabled).is_some());
    let names: Vec<Arc<str>> = names.map(|enabled| Arc::clone(&enabled.name)).collect();
    let all = names.into_iter().map(|name| Reconciler {
        name,
        needs: needs.clone(),
    });
    let all = futures_util::future::join_all(all.map(Reconciler::run));
    tokio::select! {
        () = stop.cancelled() => {}
        // Without a provider that has lists there is nothing to wait for but the end.
        () = async { let _ = all.await; stop.cancelled().await } => {}
    }
    Ok(())
}

/// The interface and the lists of a provider, where it has some.
fn lists_of(enabled: &Enabled) -> Option<(&Arc<Remote>, &ReconcileSpec)> {
    let remote = enabled.outbound.as_ref()?;
    Some((remote, remote.spec.reconcile.as_ref()?))
}

/// Reads the lists of one provider.
struct Reconciler {
    name: Arc<str>,
    needs: Needs,
}

impl Reconciler {
    async fn run(self) {
        let Some(enabled) = self.needs.registry.get(&self.name) else {
            return;
        };
        let Some((remote, spec)) = lists_of(enabled) else {
            return;
        };
        let look_every = time("reconcile_look", LOOK_EVERY);
        loop {
            let (mut state, mut schedules) = (State::new(&self.name), None);
            while self.works_here() {
                if let Err(error) = self.look(enabled, (remote, spec), &mut state, &mut schedules).await {
                    tracing::warn!(
                        provider = &*self.name,
                        error = format!("{error:#}"),
                        "cannot read which webhooks the log has; the provider's list waits"
                    );
                    tokio::time::sleep(PAUSE_AFTER_TROUBLE).await;
                }
                tokio::time::sleep(look_every).await;
            }
            // What this instance knew is old when it has the stage again.
            tokio::time::sleep(look_every).await;
        }
    }

    /// Whether this instance works on the stage that sends requests to providers.
    fn works_here(&self) -> bool {
        self.needs.journal.roles().all().contains(&PUSH.name)
    }

    /// Reads the lists that are due.
    async fn look(
        &self,
        enabled: &Enabled,
        (remote, spec): (&Remote, &ReconcileSpec),
        state: &mut State,
        schedules: &mut Option<Schedules>,
    ) -> anyhow::Result<()> {
        let log = self.needs.journal.connection();
        log.wait_up().await;
        let seen_every = time("reconcile_first", SEEN_EVERY);
        let schedules = match schedules {
            Some(schedules) => schedules,
            None => {
                self.needs.branches.loaded().await;
                self.needs.orders.warm().await;
                schedules.insert(Schedules::new(spec.every, spec.window, seen_every))
            }
        };
        if !state.seen.is_fresh(seen_every) {
            state.seen.catch_up(log).await?;
        } else if !schedules.may_be_due(Utc::now()) {
            return Ok(());
        }
        if schedules.due(Utc::now(), &self.places(spec), &state.seen).is_empty() {
            return Ok(());
        }
        // Other instances take webhooks in as well, so the last ones are looked up before something counts as silent.
        state.seen.catch_up(log).await?;
        let now = Utc::now();
        let due = schedules.due(now, &self.places(spec), &state.seen);
        if due.is_empty() {
            return Ok(());
        }
        let causes: Vec<_> = due.iter().map(|due| (due.branch_id(), due.reason, due.since)).collect();
        tracing::debug!(
            provider = &*self.name,
            ?causes,
            "reading the provider's lists of orders"
        );
        let ends = self.round(enabled, (remote, spec)).run(&due, state).await;
        schedules.ended(now, &due, ends);
        if let Some(whole) = schedules.whole() {
            metrics::gauge!("reconciliation_last_complete_timestamp_seconds", "provider" => Arc::clone(&self.name))
                .set(whole.timestamp() as f64);
        }
        Ok(())
    }

    /// Of what lists are read: of each active branch, or of the provider as a whole.
    fn places(&self, spec: &ReconcileSpec) -> Vec<Option<Arc<Branch>>> {
        match spec.of {
            ListOf::Provider => vec![None],
            ListOf::Branch => self.needs.branches.active(&self.name).into_iter().map(Some).collect(),
        }
    }
}
