//! Writes the hub's own tables in a task of its own. Their rows follow from the events alone, so they need not be as far as the platform's.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::{sync::mpsc, task::JoinSet};

use super::beside::{Beside, Group};
use crate::{
    database::Connection,
    projection::{
        batch::{BatchTarget, MaxBatch, To, Written},
        decoded::Event,
        fill,
        providers::Providers,
    },
};

/// Parts of the log that may wait to be written.
const MAX_WAITING: usize = 1;

/// The events of a part of the log, and the place up to which it was read.
type Part = (Arc<Vec<Event>>, u64);

/// The task.
pub(super) struct OwnTables {
    parts: mpsc::Sender<Part>,
    /// One, which returns the tables' position at its end.
    task: JoinSet<anyhow::Result<u64>>,
}

impl OwnTables {
    /// Begins at the tables' position. `connection`: one for this alone, with the names of the new tables.
    pub(super) fn begin(mut connection: Connection, beside: Arc<Beside>, providers: Arc<Providers>) -> Self {
        let (parts, mut waiting) = mpsc::channel::<Part>(MAX_WAITING);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let (mut position, mut limit) = (beside.position, MaxBatch::BESIDE.events);
            while let Some((events, read_to)) = waiting.recv().await {
                let target = BatchTarget {
                    providers: &providers,
                    tables: Written::Beside(&beside, Group::Own),
                };
                let to = To {
                    position: read_to,
                    log: None,
                };
                position = fill::apply(
                    &mut connection,
                    target,
                    &events,
                    to,
                    (&mut limit, MaxBatch::BESIDE.events),
                )
                .await?;
            }
            Ok(position)
        });
        Self { parts, task }
    }

    /// Has the events of a part of the log applied; waits while another one waits.
    ///
    /// # Errors
    /// If an earlier part could not be applied.
    pub(super) async fn apply(&mut self, events: &Arc<Vec<Event>>, read_to: u64) -> anyhow::Result<()> {
        if self.parts.send((Arc::clone(events), read_to)).await.is_err() {
            joined(&mut self.task).await?;
            anyhow::bail!("the task that writes the hub's own tables has ended");
        }
        Ok(())
    }

    /// Waits until everything is applied; the tables' position then.
    ///
    /// # Errors
    /// If a part could not be applied.
    pub(super) async fn end(self) -> anyhow::Result<u64> {
        let Self { parts, mut task } = self;
        drop(parts);
        joined(&mut task).await
    }
}

async fn joined(task: &mut JoinSet<anyhow::Result<u64>>) -> anyhow::Result<u64> {
    let ended = task.join_next().await.context("the task ended before")?;
    ended.context("the task that writes the hub's own tables failed")?
}
