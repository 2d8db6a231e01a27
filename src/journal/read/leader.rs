//! Whether a reader has really reached the end: any copy of the stream answers it, also one that is behind.

use std::time::Instant;

use anyhow::{Context as _, bail};
use async_nats::jetstream::stream::RawMessageErrorKind;

use super::{BEHIND_PAUSE, BEHIND_TIMEOUT, Entry, LogReader, SPARSE_ANSWER_TIMEOUT, Start, last_of};
use crate::journal::{EVENTS, connection::Connection};

impl LogReader {
    /// As [`Self::next_batch`], and empty only where the leader has nothing more either. For a reader of some subjects, which
    /// [`Self::up_to`] would make wait for messages of others.
    ///
    /// # Errors
    /// If NATS does not answer, or the copy that answers is behind for longer than ten seconds.
    pub async fn next_batch_to_end(&mut self, connection: &Connection) -> anyhow::Result<Vec<Entry>> {
        let since = Instant::now();
        loop {
            let entries = self.next_batch().await?;
            if !entries.is_empty() || self.has_ended(connection, u64::MAX, since).await? {
                return Ok(entries);
            }
        }
    }

    /// After a read that brought nothing: whether the leader has nothing either that this reader wants, up to a sequence. If it has, this
    /// waits a moment for the copy that answered; then the read is to be repeated.
    ///
    /// The leader finds messages by sequence only, or the last one. So of a reader that begins at a time and has read nothing yet, the last
    /// message of the subjects is compared, whatever its sequence.
    ///
    /// # Errors
    /// If NATS does not answer, or the copy is behind for longer than ten seconds after `since`.
    pub async fn has_ended(&self, connection: &Connection, up_to: u64, since: Instant) -> anyhow::Result<bool> {
        let subjects = self.filter.as_deref().unwrap_or(">");
        let is_missed = match self.start {
            Start::Sequence(next) if next > up_to => false,
            Start::Sequence(next) => {
                let first = next_of_leader(connection, subjects, next).await?;
                first.is_some_and(|first| first <= up_to)
            }
            Start::Time(time) => {
                let last = last_of(connection, EVENTS, subjects, SPARSE_ANSWER_TIMEOUT).await?;
                last.is_some_and(|last| last.time.unix_timestamp_nanos() >= i128::from(time.timestamp_micros()) * 1000)
            }
        };
        if !is_missed {
            return Ok(true);
        }
        if since.elapsed() > BEHIND_TIMEOUT {
            bail!("the copy of the event log that answers is behind its leader");
        }
        tokio::time::sleep(BEHIND_PAUSE).await;
        Ok(false)
    }
}

/// Sequence of the first message of these subjects at or after a place, as the leader has it.
async fn next_of_leader(connection: &Connection, subjects: &str, from: u64) -> anyhow::Result<Option<u64>> {
    let stream = connection.context.get_stream_no_info(EVENTS).await?;
    let read = stream.get_first_raw_message_by_subject(subjects, from);
    let read = tokio::time::timeout(SPARSE_ANSWER_TIMEOUT, read).await;
    match read.context("the event log did not answer a read")? {
        Ok(message) => Ok(Some(message.sequence)),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error).context("cannot read the event log"),
    }
}
