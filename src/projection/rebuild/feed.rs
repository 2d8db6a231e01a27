//! Applies the log to the new tables.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::Context as _;
use chrono::{DateTime, Utc};

use super::{
    Progress, Tell,
    beside::{Beside, Group},
    own::OwnTables,
};
use crate::{
    database::Connection,
    fault_injection::crash_at,
    journal::{
        connection::Connection as Log,
        read::{LogReader, LongReader, decoded_at, end},
    },
    projection::{
        ahead::{LogPart, ReadAhead},
        batch::{BatchTarget, MaxBatch, To, Written},
        decoded::LogMessage,
        fill,
        providers::Providers,
    },
};

/// How many messages are tried, from the log's beginning, to find one that can be read.
const MOST_UNREADABLE: u64 = 1000;

/// Applies the log to the new tables.
pub(super) struct Feeder<'a> {
    pub(super) log: &'a Log,
    pub(super) connection: Connection,
    /// Writes the hub's own tables, while these are not written with the platform's.
    of_own: Option<OwnTables>,
    beside: Arc<Beside>,
    providers: Arc<Providers>,
    /// The position of the new tables.
    pub(super) position: u64,
    /// Most events of a transaction. It is lowered when PostgreSQL is too slow for so many.
    pub(super) limit: usize,
    /// Only events of this provider.
    pub(super) provider: Option<String>,
    /// How many events were applied.
    pub(super) events: u64,
    /// The providers of all events that were read.
    pub(super) seen: BTreeSet<String>,
}

impl<'a> Feeder<'a> {
    /// At the new tables' position. `connection`: one for this alone, with the names of the new tables.
    pub(super) fn new(log: &'a Log, connection: Connection, beside: Arc<Beside>, providers: Providers) -> Self {
        let position = beside.position;
        Self {
            log,
            connection,
            of_own: None,
            beside,
            providers: Arc::new(providers),
            position,
            limit: MaxBatch::BESIDE.events,
            provider: None,
            events: 0,
            seen: BTreeSet::new(),
        }
    }

    /// Applies all events up to the sequence `goal`.
    ///
    /// # Errors
    /// If NATS or PostgreSQL is away, if another run began, or if there is an event of a later version: that one may have written its rows.
    pub(super) async fn up_to(&mut self, goal: u64, tell: Tell<'_>) -> anyhow::Result<()> {
        if self.position >= goal {
            return Ok(());
        }
        let end = end(self.log).await?;
        anyhow::ensure!(
            end.sequence >= goal,
            "the event log ends at {}, before the tables, which are at {goal}",
            end.sequence
        );
        let began = self.position;
        let reader = LogReader::from(self.log, began + 1).up_to(end);
        let mut ahead = ReadAhead::up_to(goal, MaxBatch::BESIDE, reader.by(self.log, LongReader::Rebuild));
        while let Some(part) = ahead.next().await? {
            self.apply(part).await?;
            crash_at("rebuild_batch");
            tell(Progress {
                phase: "reading the log",
                done: self.position - began,
                of: goal - began,
            });
        }
        Ok(())
    }

    async fn apply(&mut self, part: LogPart) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(part.messages.len());
        for message in part.messages {
            match message {
                LogMessage::Event(event) => events.push(event),
                LogMessage::Unreadable {
                    sequence,
                    newer: Some(what),
                } => self.must_be_skipped(sequence, &what).await?,
                // Messages that are not events have no rows.
                LogMessage::Unreadable { newer: None, .. } => {}
            }
        }
        if let Some(provider) = &self.provider {
            events.retain(|event| *event.envelope.provider == **provider);
        }
        for event in &events {
            if !self.seen.contains(&*event.envelope.provider) {
                self.seen.insert(event.envelope.provider.to_string());
            }
        }
        let events = Arc::new(events);
        let mut group = Group::All;
        if let Some(of_own) = &mut self.of_own {
            of_own.apply(&events, part.read_to).await?;
            group = Group::Platforms;
        }
        let target = BatchTarget {
            providers: &self.providers,
            tables: Written::Beside(&self.beside, group),
        };
        let to = To {
            position: part.read_to,
            log: None,
        };
        self.position = fill::apply(
            &mut self.connection,
            target,
            &events,
            to,
            (&mut self.limit, MaxBatch::BESIDE.events),
        )
        .await?;
        self.events += events.len() as u64;
        Ok(())
    }

    /// From now on the hub's own tables are written in a task of its own, by another connection, with a position of their own.
    pub(super) fn part(&mut self, connection: Connection) {
        let (beside, providers) = (Arc::clone(&self.beside), Arc::clone(&self.providers));
        self.of_own = Some(OwnTables::begin(connection, beside, providers));
    }

    /// Ends that; both positions are the same then.
    ///
    /// # Errors
    /// If the hub's own tables could not be written.
    pub(super) async fn join(&mut self) -> anyhow::Result<()> {
        let Some(of_own) = self.of_own.take() else {
            return Ok(());
        };
        let (position, position_of_own) = (self.position, of_own.end().await?);
        anyhow::ensure!(
            position == position_of_own,
            "the platform's tables are at {position}, the hub's own at {position_of_own}"
        );
        Ok(())
    }

    /// Fails at an event of a later version, unless the version that wrote the live tables did not know it either.
    async fn must_be_skipped(&self, sequence: u64, what: &str) -> anyhow::Result<()> {
        let sql = "SELECT EXISTS (SELECT FROM hub.skipped_events WHERE sequence = $1)";
        let row = self.connection.query_one(sql, &[&i64::try_from(sequence)?]).await?;
        anyhow::ensure!(
            row.try_get::<_, bool>(0)?,
            "event {sequence} is of a later version: {what}; use the program of that version"
        );
        Ok(())
    }
}

/// The time of the first readable event at or after a sequence; none if there is none nearby.
///
/// # Errors
/// If NATS does not answer.
pub(super) async fn time_of(log: &Log, sequence: u64) -> anyhow::Result<Option<DateTime<Utc>>> {
    let last = end(log).await?.sequence;
    for sequence in sequence..=last.min(sequence.saturating_add(MOST_UNREADABLE)) {
        let found = decoded_at(log, sequence)
            .await
            .context("cannot read the beginning of the event log")?;
        if let Some(Ok(event)) = found {
            return Ok(Some(event.envelope.time));
        }
    }
    Ok(None)
}
