//! Checks whether the log is the one that the tables were made from, and begins a new era if it is not.
//!
//! The cursor stores when the log was created, and marks of some of its messages (see [`crate::journal::identity`]). If they do not match,
//! the position goes back to the common point, or to the beginning if there is none, and the tables are written from there: an *era*
//! begins. Earlier rows stay. Reading an event again changes nothing, because every row has its event's id. An error gets another id
//! if an event of a lost log used its id before.

use serde::{Deserialize, Serialize};

use super::writer::{self, Holder};
use crate::{
    database::{Connection, query},
    journal::{
        connection::Connection as Nats,
        identity::{self, Compared, LogState, Mark, Remembered, Trail, watch::LogIdentity},
    },
};

/// The identity of the log that the cursor stores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorLog {
    /// When the log was created, in nanoseconds since 1970; none if a version before this one wrote the cursor.
    created: Option<i64>,
    /// How often the log was another one before.
    era: i32,
    trail: Trail,
    /// When the cursor was moved last, in nanoseconds since 1970 by PostgreSQL's clock; not a part of the text.
    #[serde(skip)]
    moved: Option<i64>,
}

impl CursorLog {
    /// As it stands in the cursor; nothing is known where that cannot be read. `moved`: when the cursor was moved last.
    pub(super) fn parse(text: Option<&str>, moved: Option<i64>) -> Self {
        let read = text.map(serde_json::from_str).transpose().unwrap_or_else(|error| {
            tracing::error!(%error, "hub.cursors.log cannot be read; it is not known which event log the tables are of");
            None
        });
        Self {
            moved,
            ..read.unwrap_or_default()
        }
    }

    pub(super) fn to_text(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// Adds the mark of the message at the position.
    pub(super) fn with(&self, mark: Mark) -> Self {
        let mut kept = self.clone();
        kept.trail.add(mark);
        kept
    }

    /// How often the log was another one before.
    pub(super) const fn era(&self) -> i32 {
        self.era
    }

    fn remembered(&self, position: u64) -> Remembered {
        Remembered {
            created: self.created,
            as_of: self.moved,
            position,
            trail: self.trail.clone(),
        }
    }
}

/// Fails where the log is not the one that the tables follow.
///
/// # Errors
/// That, or if NATS does not answer.
pub(super) async fn ensure_same(nats: &Nats, position: u64, kept: &CursorLog) -> anyhow::Result<()> {
    let compared = identity::compare(nats, &LogState::look(nats).await?, &kept.remembered(position)).await?;
    anyhow::ensure!(
        compared.holds(),
        "{}; a running hub notices that by itself, and then this can be run again",
        compared.found()
    );
    Ok(())
}

/// Compares the tables' position with the log. Where the log is the same, none; else an era has begun, and this is where the tables go on.
///
/// # Errors
/// If NATS or PostgreSQL is away, or another instance has become the writer.
pub(super) async fn compare(
    connection: &mut Connection,
    (nats, identity): (&Nats, &LogIdentity),
    holder: &Holder,
    position: u64,
    kept: &mut CursorLog,
) -> anyhow::Result<Option<u64>> {
    let log = LogState::look(nats).await?;
    let remembered = kept.remembered(position);
    let compared = identity::compare(nats, &log, &remembered).await?;
    if compared.holds() {
        kept.created = Some(log.created);
        if remembered.trail.is_empty()
            && let Some(mark) = identity::mark_at(nats, position).await?
        {
            // An older version left no marks; from the next transaction on the log can be compared.
            kept.trail.add(mark);
        }
        return Ok(None);
    }
    let common = compared.common().unwrap_or(0);
    *kept = begin(connection, holder, position, kept, compared, &log).await?;
    let consequence = "the tables go on from the common point, or from the beginning; rows of before stay beside";
    identity.report("tables", compared, &remembered, &log, consequence);
    Ok(Some(common))
}

async fn begin(
    connection: &mut Connection,
    holder: &Holder,
    position: u64,
    kept: &CursorLog,
    compared: Compared,
    log: &LogState,
) -> anyhow::Result<CursorLog> {
    let common = compared.common().unwrap_or(0);
    let transaction = connection.transaction().await?;
    let locked = writer::lock(&transaction, holder).await?;
    let rows = transaction.query(query::LAST_ERA, &[]).await?;
    let last: i32 = rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(0);
    let next = CursorLog {
        created: Some(log.created),
        era: kept.era.max(last) + 1,
        trail: kept.trail.up_to(common),
        moved: None,
    };
    let created = chrono::DateTime::from_timestamp_nanos(log.created);
    let (before, at) = (i64::try_from(position)?, i64::try_from(common)?);
    transaction
        .execute(
            query::BEGIN_ERA,
            &[&next.era, &compared.found(), &created, &before, &at],
        )
        .await?;
    writer::move_to(&transaction, &locked, common, Some(&next)).await?;
    transaction
        .execute(query::ERA_OF_PROJECTIONS, &[&at, &next.era])
        .await?;
    transaction.commit().await?;
    Ok(next)
}

/// Notes events that the log has forgotten, and moves the position past them.
///
/// # Errors
/// If PostgreSQL is away, or another instance has become the writer.
pub(super) async fn note_gap(
    connection: &mut Connection,
    holder: &Holder,
    kept: &CursorLog,
    position: u64,
    before: u64,
) -> anyhow::Result<()> {
    let (first, last) = (position + 1, before - 1);
    let transaction = connection.transaction().await?;
    let locked = writer::lock(&transaction, holder).await?;
    let (from, to) = (i64::try_from(first)?, i64::try_from(last)?);
    transaction.execute(query::NOTE_GAP, &[&kept.era, &from, &to]).await?;
    writer::move_to(&transaction, &locked, last, None).await?;
    transaction.commit().await?;
    metrics::counter!("projection_gap_events_total").increment(before - first);
    tracing::error!(
        first,
        last,
        "the log had forgotten events before the tables came to them (max_age or max_bytes of EVENTS); they have no rows, which is \
         noted in hub.log_gaps, and the tables go on behind them"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_identity_reads_back() {
        let kept = CursorLog {
            created: Some(7),
            era: 2,
            trail: Trail::EMPTY,
            moved: None,
        };
        let kept = kept.with(Mark::new(9, "id", 3));
        assert_eq!(CursorLog::parse(Some(&kept.to_text().unwrap()), None), kept);
        assert_eq!(CursorLog::parse(None, None), CursorLog::default());
        assert_eq!(CursorLog::parse(Some("7"), None), CursorLog::default());
        assert_eq!(CursorLog::parse(None, Some(5)).remembered(9).as_of, Some(5));
    }
}
