//! Decides which instance writes the tables: one at a time, by a lease in the row that holds the position.
//!
//! The writer renews the lease with every transaction, and while there is nothing to write. An instance that takes the tables over waits
//! until the lease has expired by PostgreSQL's clock, so no clocks of two machines are compared. Every transaction of the writer (a batch,
//! a step of `fill` or of `retention`) first locks the row and checks that it still names this instance. So two transactions never run at
//! the same time, and an instance that was replaced while it was frozen writes nothing.
//!
//! Why not a session lock: it stays for as long as the server considers the session alive, and that has no limit if the backend or the hub
//! is frozen. A frozen transaction also locks the row, but the server ends it after `idle_in_transaction_session_timeout`. Why not a lease
//! like those of the stages ([`crate::delivery::lease`]): NATS would give it to the next instance while a transaction of the previous one
//! is still open.

use std::time::Duration;

use anyhow::Context as _;
use uuid::Uuid;

use super::{ALL, Projection, era::CursorLog};
use crate::{
    database::{Connection, Transaction, query},
    fault_injection,
};

/// The name of the position in `hub.cursors`.
pub const CURSOR: &str = "tables";
/// How long the tables are left to a writer that does not renew its lease.
const LEASE: Duration = Duration::from_secs(5);
/// How often a writer without work renews it.
pub(super) const RENEW_EVERY: Duration = Duration::from_millis(1500);

/// An instance, as it is named in the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder(String);

impl Holder {
    /// A new one.
    pub fn random() -> Self {
        Self(Uuid::new_v4().to_string())
    }
}

/// Another instance writes the tables.
#[derive(Debug, thiserror::Error)]
#[error("another instance writes the tables")]
pub struct Replaced;

/// How far the tables are, and whether another instance writes them; none if no instance ever did.
///
/// # Errors
/// If PostgreSQL is away or the schema is missing.
pub async fn look(connection: &Connection, holder: &Holder) -> anyhow::Result<Option<(u64, bool)>> {
    let statement = connection.prepare_cached(query::READ_CURSOR).await?;
    let row = connection.query_opt(&statement, &[&CURSOR, &holder.0]).await?;
    row.map(|row| Ok((u64::try_from(row.try_get::<_, i64>(0)?)?, row.try_get(1)?)))
        .transpose()
}

/// How far the tables are, for who does not write them; none if no instance ever did.
///
/// # Errors
/// If PostgreSQL is away or the schema is missing.
pub async fn position(connection: &Connection) -> anyhow::Result<Option<u64>> {
    let statement = connection.prepare_cached(query::POSITION).await?;
    let row = connection.query_opt(&statement, &[&CURSOR]).await?;
    row.map(|row| Ok(u64::try_from(row.try_get::<_, i64>(0)?)?)).transpose()
}

/// How far the tables are, and on which log, for who does not write them; none where no instance ever did.
///
/// # Errors
/// If PostgreSQL is away or the schema is missing.
pub(super) async fn position_and_log(connection: &Connection) -> anyhow::Result<Option<(u64, CursorLog)>> {
    let row = connection.query_opt(query::CURSOR_AND_LOG, &[&CURSOR]).await?;
    row.as_ref().map(position_of).transpose()
}

/// The same, locked until the transaction ends: no instance writes the tables meanwhile.
///
/// # Errors
/// If PostgreSQL is away, or no instance ever wrote the tables.
pub(super) async fn lock_from_outside(transaction: &Transaction<'_>) -> anyhow::Result<(u64, CursorLog)> {
    let rows = transaction.query(query::LOCK_CURSOR_OF_ANY, &[&CURSOR]).await?;
    position_of(rows.first().context("no hub has ever written the tables")?)
}

fn position_of(row: &tokio_postgres::Row) -> anyhow::Result<(u64, CursorLog)> {
    let (position, log): (i64, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
    Ok((position.try_into()?, CursorLog::parse(log.as_deref(), row.try_get(2)?)))
}

/// Makes an instance the writer, or lets it stay it; how far the tables are, and on which log.
///
/// # Errors
/// [`Replaced`] where another one is it; if PostgreSQL is away or the schema is missing.
pub async fn claim(connection: &Connection, holder: &Holder) -> anyhow::Result<(u64, CursorLog)> {
    let statement = connection.prepare_cached(query::CLAIM_CURSOR).await?;
    let row = connection
        .query_opt(&statement, &[&CURSOR, &holder.0, &lease()])
        .await?;
    position_of(&row.ok_or(Replaced)?)
}

/// Lets another instance take the tables at once.
///
/// # Errors
/// If PostgreSQL is away; then they are free when the lease has run out.
pub async fn release(connection: &Connection, holder: &Holder) -> anyhow::Result<()> {
    connection.execute(query::RELEASE_CURSOR, &[&CURSOR, &holder.0]).await?;
    Ok(())
}

/// How far the tables are, and the projections of the hub's own.
pub(super) struct Locked {
    /// The tables' position.
    pub(super) position: u64,
    /// Those with rows of this version.
    own: Vec<(&'static dyn Projection, u64)>,
}

impl Locked {
    /// The position of a projection of the hub's own; none if its rows are another version's.
    pub(super) fn of(&self, projection: &dyn Projection) -> Option<u64> {
        let found = self.own.iter().find(|(own, _)| own.name() == projection.name());
        found.map(|(_, position)| *position)
    }

    /// Those that a batch behind the tables' position is applied to, with the position of each. One of the hub's own is as far as the
    /// tables, or further: when the tables were set to begin anew.
    pub(super) fn current(&self) -> Vec<(&'static dyn Projection, u64)> {
        let mut current = Vec::with_capacity(ALL.len());
        for projection in ALL {
            let position = match projection.is_own() {
                false => Some(self.position),
                true => self.of(projection).filter(|position| *position >= self.position),
            };
            current.extend(position.map(|position| (projection, position)));
        }
        current
    }

    fn current_own(&self) -> Vec<&'static str> {
        let current = self.current().into_iter();
        let own = current.filter(|(projection, _)| projection.is_own());
        own.map(|(projection, _)| projection.name()).collect()
    }
}

/// The positions, locked until the transaction ends.
///
/// # Errors
/// [`Replaced`] where another instance is the writer.
pub(super) async fn lock(transaction: &Transaction<'_>, holder: &Holder) -> anyhow::Result<Locked> {
    let rows = transaction.query(query::LOCK_CURSOR, &[&CURSOR, &holder.0]).await?;
    let position: i64 = rows.first().ok_or(Replaced)?.try_get(0)?;
    let mut own = Vec::new();
    for row in &transaction.query(query::OWN_PROJECTIONS, &[]).await? {
        let (name, version): (&str, i32) = (row.try_get(0)?, row.try_get(1)?);
        let is_it = |projection: &&dyn Projection| projection.name() == name && projection.version() == version;
        if let Some(projection) = super::own().into_iter().find(is_it) {
            own.push((projection, u64::try_from(row.try_get::<_, i64>(2)?)?));
        }
    }
    Ok(Locked {
        position: position.try_into()?,
        own,
    })
}

/// Moves the position in the transaction that wrote the rows, with the projections that are as far, and renews the lease. `log`: what
/// is known of the log there, where that is more than before.
///
/// # Errors
/// If PostgreSQL is away.
pub(super) async fn move_to(
    transaction: &Transaction<'_>,
    locked: &Locked,
    sequence: u64,
    log: Option<&CursorLog>,
) -> anyhow::Result<()> {
    let sequence = i64::try_from(sequence)?;
    let log = log.map(CursorLog::to_text).transpose()?;
    let own = locked.current_own();
    transaction
        .execute(query::MOVE_CURSOR, &[&CURSOR, &sequence, &lease(), &log, &own])
        .await?;
    Ok(())
}

/// Moves the position of one projection of the hub's own, which is behind the tables.
///
/// # Errors
/// If PostgreSQL is away.
pub(super) async fn move_own(
    transaction: &Transaction<'_>,
    projection: &dyn Projection,
    sequence: u64,
) -> anyhow::Result<()> {
    let sequence = i64::try_from(sequence)?;
    transaction
        .execute(query::MOVE_PROJECTION, &[&projection.name(), &sequence])
        .await?;
    Ok(())
}

/// Seconds of a lease.
fn lease() -> f64 {
    fault_injection::time("tables_lease", LEASE).as_secs_f64()
}
