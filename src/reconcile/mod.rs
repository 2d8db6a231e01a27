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

use self::{round::State, schedule::Schedule};
use crate::{
    branches::Branches,
    event::stage::PUSH,
    fault_injection::time,
    journal::Journal,
    memory::Orders,
    provider::outbound::ReconcileSpec,
    registry::{Enabled, Registry},
    remote::Remote,
};

mod schedule;
mod seen;
mod entries;
mod made;
mod round;

/// How often it is looked whether a provider is due; without I/O.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How far back an order may be found, whatever happened.
const REACH: TimeDelta = TimeDelta::hours(24);
/// How often it is looked whether a provider sent its first webhook.
const FIRST_EVERY: Duration = Duration::from_secs(30);
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
            let (mut state, mut schedule) = (State::new(&self.name), None);
            while self.works_here() {
                if let Err(error) = self.look(enabled, (remote, spec), &mut state, &mut schedule).await {
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

    /// Reads the lists if that is due.
    async fn look(
        &self,
        enabled: &Enabled,
        (remote, spec): (&Remote, &ReconcileSpec),
        state: &mut State,
        schedule: &mut Option<Schedule>,
    ) -> anyhow::Result<()> {
        let log = self.needs.journal.connection();
        log.wait_up().await;
        let schedule = match schedule {
            Some(schedule) => schedule,
            None => {
                self.needs.branches.loaded().await;
                self.needs.orders.warm().await;
                state.seen.catch_up(log).await?;
                schedule.insert(Schedule::new(spec.every, Utc::now()))
            }
        };
        let Some(webhooks) = state.seen.webhooks() else {
            // Nothing of this provider ever came: it is not live, and its orders are another system's.
            tokio::time::sleep(time("reconcile_first", FIRST_EVERY)).await;
            return state.seen.catch_up(log).await;
        };
        if schedule.due(Utc::now(), webhooks.last).is_none() {
            return Ok(());
        }
        // Other instances take webhooks in as well, so the last one is looked up before the provider counts as silent.
        state.seen.catch_up(log).await?;
        let webhooks = state.seen.webhooks().unwrap_or(webhooks);
        let now = Utc::now();
        let Some(reason) = schedule.due(now, webhooks.last) else {
            return Ok(());
        };
        let since = schedule.since(now, spec.window, webhooks);
        tracing::debug!(provider = &*self.name, ?reason, %since, "reading the provider's lists of orders");
        let round = self.round(enabled, (remote, spec), since, reason);
        let end = round.run(state).await;
        schedule.ended(now, reason, webhooks.last, end);
        Ok(())
    }
}
