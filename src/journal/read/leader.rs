//! Whether a reader has really reached the end: any copy of the stream answers it, also one that is behind.

use std::time::Instant;

use anyhow::{Context as _, bail};
use async_nats::jetstream::stream::RawMessageErrorKind;

use super::{BEHIND_PAUSE, BEHIND_TIMEOUT, LogReader, SPARSE_ANSWER_TIMEOUT, Start};
use crate::journal::{EVENTS, connection::Connection};

impl LogReader {
    /// After a read that brought nothing: whether the leader has nothing either that this reader wants, up to a sequence. If it has, this
    /// waits a moment for the copy that answered; then the read is to be repeated.
    ///
    /// A reader that begins at a time and has read nothing yet is not checked, because the leader finds messages by sequence only.
    ///
    /// # Errors
    /// If NATS does not answer, or the copy is behind for longer than ten seconds after `since`.
    pub async fn has_ended(&self, connection: &Connection, up_to: u64, since: Instant) -> anyhow::Result<bool> {
        let Start::Sequence(next) = self.start else {
            return Ok(true);
        };
        if next > up_to {
            return Ok(true);
        }
        let Some(sequence) = next_of_leader(connection, self.filter.as_deref().unwrap_or(">"), next).await? else {
            return Ok(true);
        };
        if sequence > up_to {
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
