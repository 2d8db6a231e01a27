//! Applies the log to the new tables. It reads the next batch while it writes one.

use std::collections::BTreeSet;

use anyhow::Context as _;
use chrono::{DateTime, Utc};

use super::{Progress, Tell, beside::Beside};
use crate::{
    database::Connection,
    event::Recorded,
    fault_injection::crash_at,
    journal::{
        connection::Connection as Log,
        read::{BATCH, Entry, LogReader, decoded_at, end},
    },
    projection::{
        batch::{BatchTarget, MAX_BYTES, MAX_EVENTS, To, Written},
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
    pub(super) beside: &'a Beside,
    pub(super) providers: Providers,
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
    /// At a position. `connection`: one for this alone, with the names of the new tables.
    pub(super) fn new(
        log: &'a Log,
        connection: Connection,
        beside: &'a Beside,
        providers: Providers,
        position: u64,
    ) -> Self {
        Self {
            log,
            connection,
            beside,
            providers,
            position,
            limit: MAX_EVENTS,
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
        let (began, mut reader) = (self.position, LogReader::from(self.log, self.position + 1).up_to(end));
        let mut chunk = read(&mut reader, goal).await?;
        loop {
            let is_last = chunk.read_to >= goal;
            let following = async {
                if is_last {
                    Ok(None)
                } else {
                    read(&mut reader, goal).await.map(Some)
                }
            };
            let (applied, following) = tokio::join!(self.apply(&chunk), following);
            applied?;
            crash_at("rebuild_batch");
            tell(Progress {
                phase: "reading the log",
                done: self.position - began,
                of: goal - began,
            });
            match following? {
                Some(next) => chunk = next,
                None => return Ok(()),
            }
        }
    }

    async fn apply(&mut self, chunk: &Chunk) -> anyhow::Result<()> {
        let target = BatchTarget {
            providers: &self.providers,
            tables: Written::Beside(self.beside),
        };
        let to = To {
            position: chunk.read_to,
            log: None,
        };
        let of_provider;
        let events = match &self.provider {
            None => &chunk.events,
            Some(provider) => {
                let is_wanted = |event: &&Recorded| *event.envelope.provider == **provider;
                of_provider = chunk.events.iter().filter(is_wanted).cloned().collect();
                &of_provider
            }
        };
        for event in events {
            if !self.seen.contains(&*event.envelope.provider) {
                self.seen.insert(event.envelope.provider.to_string());
            }
        }
        for (sequence, what) in &chunk.newer {
            // The version that wrote the live tables did not know it either.
            let sql = "SELECT EXISTS (SELECT FROM hub.skipped_events WHERE sequence = $1)";
            let row = self.connection.query_one(sql, &[&i64::try_from(*sequence)?]).await?;
            anyhow::ensure!(
                row.try_get::<_, bool>(0)?,
                "event {sequence} is of a later version: {what}; use the program of that version"
            );
        }
        self.position = fill::apply(&mut self.connection, target, events, to, &mut self.limit).await?;
        self.events += events.len() as u64;
        Ok(())
    }
}

/// Events that were read from the log.
struct Chunk {
    events: Vec<Recorded>,
    /// Events of a later version: their sequences, and what this version does not know.
    newer: Vec<(u64, String)>,
    /// The sequence up to which the log was read.
    read_to: u64,
}

/// Reads the events of one transaction, at most up to a sequence.
async fn read(reader: &mut LogReader, goal: u64) -> anyhow::Result<Chunk> {
    let (mut events, mut newer, mut bytes, mut last) = (Vec::new(), Vec::new(), 0, 0);
    while last < goal && events.len() + BATCH <= MAX_EVENTS && bytes < MAX_BYTES {
        let entries = reader.next_batch().await?;
        // The log ends here.
        last = entries.last().map_or(goal, Entry::sequence);
        bytes += entries.iter().map(Entry::payload_bytes).sum::<usize>();
        for entry in entries {
            match entry {
                Entry::Event(event) if event.sequence <= goal => events.push(*event),
                Entry::Unreadable {
                    sequence,
                    newer: Some(what),
                } if sequence <= goal => newer.push((sequence, what)),
                // Messages that are not events have no rows.
                _ => {}
            }
        }
    }
    Ok(Chunk {
        events,
        newer,
        read_to: last.min(goal),
    })
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
