//! Reads the log one batch ahead of the one that is written, in a task of its own: while PostgreSQL works on a batch, the next one is
//! read and decoded.

use anyhow::Context as _;
use tokio::task::JoinSet;

use super::{batch::MaxBatch, decoded::LogMessage};
use crate::journal::{
    identity::Mark,
    read::{BATCH, Entry, LogReader},
};

/// As much of the log as one transaction takes.
pub(super) struct LogPart {
    /// What stands there.
    pub(super) messages: Vec<LogMessage>,
    /// The place up to which the log was read; the goal at its end.
    pub(super) read_to: u64,
    /// Of the last message that was read.
    pub(super) mark: Option<Mark>,
}

/// Reads ahead.
pub(super) struct ReadAhead {
    goal: u64,
    max: MaxBatch,
    /// At most one, which reads the next part.
    task: JoinSet<anyhow::Result<(LogReader, LogPart)>>,
}

impl ReadAhead {
    /// Begins to read, up to a place on the log or its end, parts of at most this size.
    pub(super) fn up_to(goal: u64, max: MaxBatch, reader: LogReader) -> Self {
        let mut ahead = Self {
            goal,
            max,
            task: JoinSet::new(),
        };
        ahead.begin(reader);
        ahead
    }

    fn begin(&mut self, mut reader: LogReader) {
        let (goal, max) = (self.goal, self.max);
        self.task.spawn(async move {
            let part = read(&mut reader, goal, max).await?;
            Ok((reader, part))
        });
    }

    /// The next part; none after the one that reaches the goal. Meanwhile the one after it is read.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<LogPart>> {
        let Some(read) = self.task.join_next().await else {
            return Ok(None);
        };
        let (reader, part) = read.context("the reader of the event log failed")??;
        if part.read_to < self.goal {
            self.begin(reader);
        }
        Ok(Some(part))
    }
}

async fn read(reader: &mut LogReader, goal: u64, max: MaxBatch) -> anyhow::Result<LogPart> {
    let (mut messages, mut bytes, mut last) = (Vec::new(), 0, 0);
    while last < goal && messages.len() + BATCH <= max.events && bytes < max.bytes {
        let entries = reader.next_batch().await?;
        // An empty batch is the end of the log.
        last = entries.last().map_or(goal, Entry::sequence);
        bytes += entries.iter().map(Entry::payload_bytes).sum::<usize>();
        let wanted = entries.into_iter().filter(|entry| entry.sequence() <= goal);
        messages.extend(wanted.map(LogMessage::read));
    }
    Ok(LogPart {
        messages,
        read_to: last.min(goal),
        mark: reader.mark(),
    })
}
