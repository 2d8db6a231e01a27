//! Finds the branch of an order, and the provider's reference for that branch.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};

use super::Push;
use crate::{
    branches::{Branch, TABLE_AWAY},
    database::query,
    event::{EventType, Recorded, push::StatusRequested},
    fault_injection,
    journal::{
        codec,
        read::{Entry, LogReader, Start},
    },
    memory::Standing,
    projection::writer::CURSOR,
    remote::Remote,
    retry::Failure,
};

/// How long a status waits for tables that are behind, where the log does not name the order's branch either.
const TABLES_BEHIND: Duration = Duration::from_secs(5);
/// Events before the request that are looked through where the tables have them already: the backend may ask for a status
/// before it is recorded that it has the order, and only then an order has its row.
const RECENT: u64 = 5_000;
/// Most orders of one partition that are looked through on the log; tables that lack more are waited for.
const MAX_READ: usize = 20_000;
/// How much later than another branch's an order of the same number may have come and be meant by it still. Numbers are used
/// again; what is older than this is not what the backend speaks of.
const SAME_TIME: TimeDelta = TimeDelta::hours(48);
/// How long a status waits for the backend to confirm an order of the number, if it names its own id of the order and no confirmed one has
/// that: a backend may ask before it has answered. Statuses of the other branch's order wait behind it, and some providers wait for these
/// for 150 s at most.
const UNCONFIRMED: Duration = Duration::from_secs(30);
/// Pause until it is looked again.
const UNCONFIRMED_PAUSE: Duration = Duration::from_secs(1);
/// Orders that one request brings.
const BATCH: usize = 500;

/// The branch of the order.
pub(super) enum Owner {
    /// This branch's.
    Branch(String),
    /// No order with that id was accepted before the status was requested.
    Nobody,
    /// Several branches have one of that number, and the backend does not say which one it means.
    Several,
}

/// A branch, and when it had an order of the number last.
type Had = (String, DateTime<Utc>);

/// The branch of an order in the tables.
struct InTables {
    /// At most two, the latest first.
    branches: Vec<Had>,
    /// The first is the one that the backend means, by its own id of the order.
    is_meant: bool,
    /// Up to which event they have everything.
    position: u64,
}

/// The branches that announced an order, as the log and the memory of orders know them.
#[derive(Default)]
struct Announced {
    branches: Vec<Had>,
    /// Branches with an order of the number that the backend does not have. They count where no other branch does, and where an order is called
    /// off: a backend that refuses an order may say so twice.
    absent: Vec<Had>,
    /// One of them announced it by its own secret: the owner of a branch's secret may use a number of another branch.
    is_by_branch: bool,
    /// The backend may have one of the orders, and has not said so yet.
    is_open: bool,
}

impl Announced {
    fn add(&mut self, announced: Recorded, standing: Standing) {
        let envelope = announced.envelope;
        self.is_by_branch |= envelope.principal.branch().is_some();
        self.is_open |= standing == Standing::Open;
        let branches = match standing {
            Standing::Absent => &mut self.absent,
            Standing::Open | Standing::Ended => &mut self.branches,
        };
        branches.extend(envelope.branch.map(|branch| (branch, envelope.received_at)));
    }
}

impl Owner {
    /// Of those that had an order of the number at the time of the last one.
    fn of<'b>(branches: impl Iterator<Item = &'b Had> + Clone) -> Self {
        let last = branches.clone().map(|(_, at)| *at).max();
        let at_that_time = branches.filter(|(_, at)| last.is_some_and(|last| last - *at <= SAME_TIME));
        let branches: BTreeSet<&String> = at_that_time.map(|(branch, _)| branch).collect();
        match branches.iter().collect::<Vec<_>>()[..] {
            [] => Self::Nobody,
            [branch] => Self::Branch((*branch).clone()),
            _ => Self::Several,
        }
    }
}

impl Push {
    /// The branch that an order belongs to: the event's, else the one whose order has the backend's id, else as it was forwarded or
    /// as the log says, where that is one, else the provider's only one. Two branches may have orders of one number at a time, and
    /// with a secret of its own one of them may mean to: then the backend must say which one it means.
    ///
    /// # Errors
    /// If that cannot be known yet: the database is away, the tables are behind, or the backend means an order by its own id that it has not
    /// confirmed. No attempt is counted.
    pub(super) async fn owner(&self, event: &Recorded, wanted: &StatusRequested) -> Result<Owner, Failure> {
        let order_id = wanted.order_id.as_deref();
        let envelope = &event.envelope;
        if let Some(branch) = &envelope.branch {
            return Ok(Owner::Branch(branch.clone()));
        }
        // What became of announcements says only the memory, of those that the log brings as well.
        self.orders.know_all_before(event).await.map_err(|error| away(&error))?;
        let in_tables = self.in_tables(event, order_id).await;
        let recent = event.sequence.saturating_sub(RECENT);
        let from = match &in_tables {
            Ok(known) if known.is_meant => return Ok(Owner::of(known.branches.iter().take(1))),
            Ok(known) if known.branches.is_empty() => recent.min(known.position),
            // The tables may lack orders that were forwarded recently.
            Ok(known) => known.position,
            Err(_) => recent,
        };
        let mut on_log = Announced::default();
        if from < event.sequence {
            self.on_log(event, from + 1, &mut on_log)
                .await
                .map_err(|error| away(&error))?;
        }
        // What they lack may have been announced before orders that they have.
        self.find_in_memory(event, &mut on_log)
            .await
            .map_err(|error| away(&error))?;
        let known = match in_tables {
            // Only the tables know earlier owners of the number.
            Err(error) if on_log.is_by_branch || on_log.branches.is_empty() => return Err(away(&error)),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the tables cannot be read; only the log says which branch a request is about"
                );
                None
            }
            Ok(known) => Some(known),
        };
        let in_tables = known.iter().flat_map(|known| &known.branches);
        // An order of the number may have been confirmed after the request.
        let needed = event.sequence.max(self.orders.last_created(event).unwrap_or_default());
        let is_behind = known.as_ref().is_none_or(|known| known.position < needed);
        let absent = on_log.absent.iter().filter(|_| wanted.status.is_called_off());
        let owner = match Owner::of(in_tables.chain(&on_log.branches).chain(absent)) {
            Owner::Nobody => Owner::of(on_log.absent.iter()),
            owner => owner,
        };
        match owner {
            Owner::Nobody => {}
            // The row of the requested order may not be written yet.
            Owner::Several if order_id.is_some() && is_behind => return Err(later(TABLES_BEHIND)),
            Owner::Several if order_id.is_some() && on_log.is_open && is_new(event) => {
                return Err(later(UNCONFIRMED_PAUSE));
            }
            owner => return Ok(owner),
        }
        if let Some(branch) = self.branches.only_branch(&envelope.provider) {
            return Ok(Owner::Branch(branch));
        }
        if is_behind {
            tracing::warn!(
                provider = &*envelope.provider,
                order_id = envelope.external_order_id,
                "the tables are behind and the order of a status is not known yet; it waits for them"
            );
            return Err(later(TABLES_BEHIND));
        }
        Ok(Owner::Nobody)
    }

    /// The branches that the tables know, and up to which event they have everything.
    async fn in_tables(&self, event: &Recorded, order_id: Option<&str>) -> anyhow::Result<InTables> {
        let envelope = &event.envelope;
        let connection = self.database.connect().await?;
        // Read first, so that an order that is not found came after this position.
        let statement = connection.prepare_cached(query::POSITION).await?;
        let position = connection.query_opt(&statement, &[&CURSOR]).await?;
        let position: i64 = position.map(|row| row.try_get(0)).transpose()?.unwrap_or(0);
        let statement = connection.prepare_cached(query::BRANCH_OF_ORDER).await?;
        let rows = connection
            .query(
                &statement,
                &[&&*envelope.provider, &envelope.external_order_id, &order_id],
            )
            .await?;
        let mut known = InTables {
            branches: Vec::new(),
            is_meant: false,
            position: u64::try_from(position)?,
        };
        for row in rows {
            known.is_meant |= row.try_get::<_, bool>("is_meant")?;
            let made: NaiveDateTime = row.try_get("created_at")?;
            known.branches.push((row.try_get(0)?, made.and_utc()));
        }
        Ok(known)
    }

    /// The branches of the order's announcements on the log, from a place on up to the event itself.
    async fn on_log(&self, event: &Recorded, from: u64, found: &mut Announced) -> anyhow::Result<()> {
        let envelope = &event.envelope;
        let key = codec::OrderKey::of(event);
        let root = EventType::OrderTransformed.subject_root();
        let partition = codec::partition_token(key.partition(self.journal.partitions()));
        let filter = format!("{root}.{}.*.{partition}", codec::token(&envelope.provider));
        let connection = self.journal.connection();
        let mut reader = LogReader::of_subjects(connection, filter, Start::Sequence(from)).at_most(BATCH);
        let mut read = 0;
        while read < MAX_READ {
            let entries = reader.next_batch().await?;
            let is_over = entries.last().is_none_or(|last| last.sequence() > event.sequence);
            read += entries.len();
            for entry in entries {
                if let Entry::Event(one) = entry
                    && one.sequence < event.sequence
                    && one.envelope.external_order_id == envelope.external_order_id
                {
                    let standing = self.orders.standing(&one);
                    found.add(*one, standing);
                }
            }
            if is_over {
                break;
            }
        }
        Ok(())
    }

    /// The same as far as the memory of orders reaches, in every partition: a branch proved an order by its own secret, or `PARTITIONS` was
    /// changed since.
    async fn find_in_memory(&self, event: &Recorded, found: &mut Announced) -> anyhow::Result<()> {
        for one in self.orders.announcements(event).await? {
            if one.sequence < event.sequence {
                let standing = self.orders.standing(&one);
                found.add(one, standing);
            }
        }
        Ok(())
    }

    /// What is known of a branch; one that was added a moment ago counts, and for an order one that is no longer active: it
    /// may be in the kitchen there. With the platform's word where the interface is, where that came along.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub(super) async fn row(
        &self,
        remote: &Remote,
        branch: &str,
        event_type: EventType,
    ) -> Result<(Option<Arc<Branch>>, Option<String>), Failure> {
        let of_platform = self.branches.api_base_url(&remote.name);
        let of_order = !matches!(
            event_type,
            EventType::MenuSyncRequested | EventType::ItemsRequested | EventType::StoreRequested
        );
        let usable = |row: &Arc<Branch>| row.is_active || of_order;
        if let Some(row) = self.branches.branch(&remote.name, branch).filter(usable) {
            return Ok((Some(row), of_platform));
        }
        if !of_order {
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
    /// If the table of branches cannot be read.
    pub(super) async fn look_again(&self) -> Result<(), Failure> {
        if self.branches.look_again().await {
            return Ok(());
        }
        tracing::warn!("a branch is unknown and the branches cannot be read; requests to its provider wait");
        Err(later(TABLE_AWAY))
    }
}

pub(super) fn away(error: &anyhow::Error) -> Failure {
    tracing::warn!(
        error = format!("{error:#}"),
        "cannot look up the branch of a request to a provider; it waits"
    );
    later(TABLE_AWAY)
}

/// Whether a request is so new that the order that it is about may still be confirmed.
fn is_new(event: &Recorded) -> bool {
    let age = (Utc::now() - event.envelope.time).to_std().unwrap_or_default();
    age < fault_injection::time("unconfirmed_order", UNCONFIRMED)
}

const fn later(after: Duration) -> Failure {
    Failure::Later {
        after,
        for_creation: false,
    }
}
