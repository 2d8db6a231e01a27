//! Of which branch an order is, and what its provider is told about that branch.

use std::{sync::Arc, time::Duration};

use super::{Push, remote::Remote};
use crate::{
    database::query,
    event::{EventType, Recorded},
    journal::{
        codec,
        read::{Entry, Reader, Start},
        settle::Failure,
    },
    projection::writer::CURSOR,
    transform::{TABLE_AWAY, branches::Branch},
};

/// How long a status waits for tables that are behind, where the log does not say whose order it is either.
const TABLES_BEHIND: Duration = Duration::from_secs(5);
/// Events before the request that are looked through where the tables have them already: the backend may ask for a status
/// before it is recorded that it has the order.
const RECENT: u64 = 5_000;
/// Most orders of one partition that are looked through on the log; tables that lack more are waited for.
const MAX_READ: usize = 20_000;
/// Orders that one request brings.
const BATCH: usize = 500;

/// Whose order it is.
pub(super) enum Owner {
    /// This branch's.
    Branch(String),
    /// No order of that id was accepted before the status was asked for.
    Nobody,
}

impl Push {
    /// The branch that an order belongs to: the event's, else as it was forwarded, else as the log says, else the provider's
    /// only one.
    ///
    /// # Errors
    /// Where that cannot be known yet: the database is away, or the tables are behind. No attempt is counted.
    pub(super) async fn owner(&self, event: &Recorded) -> Result<Owner, Failure> {
        let envelope = &event.envelope;
        if let Some(branch) = &envelope.branch {
            return Ok(Owner::Branch(branch.clone()));
        }
        let in_tables = self.in_tables(event).await;
        let recent = event.sequence.saturating_sub(RECENT);
        let from = match &in_tables {
            Ok((Some(branch), _)) => return Ok(Owner::Branch(branch.clone())),
            Ok((None, position)) => recent.min(*position),
            Err(_) => recent,
        };
        let on_log = self.on_log(event, from + 1).await.map_err(|error| away(&error))?;
        if let Some(branch) = on_log {
            return Ok(Owner::Branch(branch));
        }
        let (_, position) = in_tables.map_err(|error| away(&error))?;
        if let Some(branch) = self.branches.only_branch(&envelope.provider) {
            return Ok(Owner::Branch(branch));
        }
        if position < event.sequence {
            tracing::warn!(
                provider = &*envelope.provider,
                order_id = envelope.external_order_id,
                "the tables are behind and the order of a status is not known yet; it waits for them"
            );
            return Err(later(TABLES_BEHIND));
        }
        Ok(Owner::Nobody)
    }

    /// The branch that the tables know, and up to which event they have everything.
    async fn in_tables(&self, event: &Recorded) -> anyhow::Result<(Option<String>, u64)> {
        let envelope = &event.envelope;
        let connection = self.database.connect().await?;
        // First: an order that is not found must be one that came after this position.
        let statement = connection.prepare_cached(query::POSITION).await?;
        let position = connection.query_opt(&statement, &[&CURSOR]).await?;
        let position: i64 = position.map(|row| row.try_get(0)).transpose()?.unwrap_or(0);
        let statement = connection.prepare_cached(query::BRANCH_OF_ORDER).await?;
        let row = connection
            .query_opt(&statement, &[&&*envelope.provider, &envelope.external_order_id])
            .await?;
        let branch = row.map(|row| row.try_get(0)).transpose()?;
        Ok((branch, u64::try_from(position)?))
    }

    /// The branch of the order's last announcement on the log, from a place on up to the event itself.
    async fn on_log(&self, event: &Recorded, from: u64) -> anyhow::Result<Option<String>> {
        let envelope = &event.envelope;
        let key = codec::OrderKey::of(event);
        let root = EventType::OrderTransformed.subject_root();
        let partition = codec::partition_token(key.partition(self.journal.partitions()));
        let filter = format!("{root}.{}.*.{partition}", codec::token(&envelope.provider));
        let connection = self.journal.connection();
        let mut reader = Reader::of_subjects(connection, filter, Start::Sequence(from)).at_most(BATCH);
        let (mut found, mut read) = (None, 0);
        while read < MAX_READ {
            let entries = reader.next_batch().await?;
            let is_over = entries.last().is_none_or(|last| last.sequence() > event.sequence);
            read += entries.len();
            for entry in entries {
                if let Entry::Event(one) = entry
                    && one.envelope.external_order_id == envelope.external_order_id
                    && one.envelope.branch.is_some()
                {
                    found = one.envelope.branch;
                }
            }
            if is_over {
                break;
            }
        }
        Ok(found)
    }

    /// What is known of a branch; one that was added a moment ago counts, and for an order one that is no longer active: it
    /// may be in the kitchen there. With the platform's word where the interface is, where that came along.
    ///
    /// # Errors
    /// Where the table cannot be read.
    pub(super) async fn row(
        &self,
        remote: &Remote,
        branch: &str,
        event_type: EventType,
    ) -> Result<(Option<Arc<Branch>>, Option<String>), Failure> {
        let of_platform = self.branches.api_base_url(&remote.name);
        let is_menu = event_type == EventType::MenuSyncRequested;
        let usable = |row: &Arc<Branch>| row.is_active || !is_menu;
        if let Some(row) = self.branches.branch(&remote.name, branch).filter(usable) {
            return Ok((Some(row), of_platform));
        }
        if is_menu {
            self.look_again().await?;
            let of_platform = self.branches.api_base_url(&remote.name);
            return Ok((self.branches.branch(&remote.name, branch).filter(usable), of_platform));
        }
        let read = self.any_row(&remote.name, branch).await.map_err(|error| away(&error))?;
        Ok(match read {
            Some((row, url)) => (Some(Arc::new(row)), url),
            None => (None, of_platform),
        })
    }

    async fn any_row(&self, provider: &str, branch: &str) -> anyhow::Result<Option<(Branch, Option<String>)>> {
        let connection = self.database.connect().await?;
        let statement = connection.prepare_cached(query::BRANCH_OF_PUSH).await?;
        let row = connection.query_opt(&statement, &[&provider, &branch]).await?;
        let Some(row) = row else { return Ok(None) };
        let found = Branch {
            branch_id: branch.to_owned(),
            merchant_id: row.try_get(0)?,
            store_id: row.try_get(1)?,
            settings: row.try_get("settings")?,
            is_active: row.try_get("is_active")?,
        };
        Ok(Some((found, row.try_get("api_base_url")?)))
    }

    /// # Errors
    /// Where the table of branches cannot be read.
    pub(super) async fn look_again(&self) -> Result<(), Failure> {
        if self.branches.look_again().await {
            return Ok(());
        }
        tracing::warn!("a branch is not known and the branches cannot be read; what is for its provider waits");
        Err(later(TABLE_AWAY))
    }
}

fn away(error: &anyhow::Error) -> Failure {
    tracing::warn!(
        error = format!("{error:#}"),
        "cannot look up the branch of what is for a provider; it waits"
    );
    later(TABLE_AWAY)
}

const fn later(after: Duration) -> Failure {
    Failure::Later {
        after,
        for_creation: false,
    }
}
