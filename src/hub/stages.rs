//! The stages and the other tasks that work on the log. They start once the set-up of NATS has been verified.

use std::sync::Arc;

use super::{Phase, Tasks, parts::Parts};
use crate::{
    config::ProviderConfig,
    delivery::{
        gate::shared,
        stage::{self, Stage},
    },
    forward::{Forward, ProviderRules, client::BackendClient},
    jobs,
    projection::live::Live,
    push::Push,
    reconcile,
    transform::Transform,
};

impl Parts {
    /// Starts every stage, and what stages and operators depend on beside them.
    ///
    /// # Errors
    /// If a setting cannot work.
    pub(super) fn stages(&self, tasks: &mut Tasks) -> anyhow::Result<()> {
        self.others(tasks);
        self.stage(tasks, self.transform());
        self.stage(tasks, self.forward()?);
        self.stage(tasks, self.push());
        Ok(())
    }

    fn stage<S: Stage>(&self, tasks: &mut Tasks, stage: S) {
        let (stage, journal, grace) = (Arc::new(stage), self.journal.clone(), self.config.stopping.grace);
        tasks.spawn(S::NAME, Phase::Stages, move |stop| {
            stage::run(stage, journal, grace, stop)
        });
    }

    fn others(&self, tasks: &mut Tasks) {
        let memory = Arc::clone(&self.orders);
        tasks.spawn("orders", Phase::Stages, move |stop| memory.run(stop));
        // In the last phase, so that changes while the stage drains still reach the other instances.
        let (connection, breaker) = (Arc::clone(&self.connection), Arc::clone(&self.gate));
        tasks.spawn("breaker", Phase::Log, |stop| shared::run(connection, breaker, stop));
        let needs = reconcile::Needs {
            registry: Arc::clone(&self.registry),
            journal: self.journal.clone(),
            branches: Arc::clone(&self.branches),
            orders: Arc::clone(&self.orders),
        };
        tasks.spawn("reconciliation", Phase::Stages, |stop| reconcile::run(needs, stop));
        let jobs = jobs::Runner::new(self.journal.clone(), self.config.event_log.format);
        tasks.spawn("jobs", Phase::Stages, move |stop| jobs.run(stop));
        let enabled = self.registry.iter();
        let enabled = enabled.map(|enabled| (Arc::clone(&enabled.name), enabled.provider.display_name().to_owned()));
        let (journal, database) = (self.journal.clone(), self.database.clone());
        let live = Live::new(journal, database, enabled.collect(), self.config.retention);
        tasks.spawn("projection", Phase::Stages, move |stop| live.run(stop));
    }

    fn transform(&self) -> Transform {
        Transform::new(
            Arc::clone(&self.registry),
            Arc::clone(&self.branches),
            Arc::clone(&self.orders),
            self.database.clone(),
            Arc::clone(&self.connection),
        )
    }

    fn forward(&self) -> anyhow::Result<Forward> {
        Ok(Forward::new(
            BackendClient::new(&self.config.backend)?,
            Arc::clone(&self.gate),
            (Arc::clone(&self.orders), Arc::clone(&self.connection)),
            self.config.retries.clone(),
            rules(&self.config.providers),
        ))
    }

    fn push(&self) -> Push {
        Push::new(
            self.registry.iter().filter_map(|enabled| enabled.outbound.clone()),
            Arc::clone(&self.branches),
            self.database.clone(),
            (self.journal.clone(), Arc::clone(&self.orders)),
            self.config.retries.clone(),
        )
    }
}

/// What the stage `forward` does differently for a provider.
fn rules(providers: &[ProviderConfig]) -> ProviderRules {
    let mut rules = ProviderRules::default();
    for provider in providers {
        let name = || provider.name.to_string();
        rules.enabled.insert(name());
        let confirm = provider
            .outbound
            .as_ref()
            .and_then(|outbound| outbound.spec.confirm_within);
        // An order that was reported as lost to its provider must not reach the kitchen later.
        let ttl = [provider.order_ttl, confirm].into_iter().flatten().min();
        rules.order_ttl.extend(ttl.map(|ttl| (name(), ttl)));
        let again = provider.file.events.announced_again;
        rules.announced_again.extend(again.map(|kind| (name(), kind)));
        rules.confirms.extend(confirm.map(|_| name()));
    }
    rules
}
