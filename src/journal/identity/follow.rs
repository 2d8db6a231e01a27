//! For readers that follow the log in memory: whether the part that they have read is still there.

use super::{LogState, Remembered, compare, mark_at};
use crate::journal::connection::Connection;

/// Which log was read, by the looks so far.
#[derive(Debug, Default)]
pub struct Followed(Remembered);

/// What a look found.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// The log as it is now.
    pub log: LogState,
    /// Whether it still has what earlier looks found. If not, the reader forgets what it read and begins anew.
    pub is_same: bool,
}

impl Followed {
    /// Looks at the log, before what is new is read.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn look(&mut self, connection: &Connection) -> anyhow::Result<Look> {
        let log = LogState::look(connection).await?;
        // Taken before the earlier marks are compared: if the log goes back in between, they differ or this one will.
        let newest = mark_at(connection, log.last).await?;
        let is_same = compare(connection, &log, &self.0).await?.holds();
        if !is_same {
            self.0 = Remembered::default();
        }
        self.0.created = Some(log.created);
        self.0.position = log.last;
        newest.into_iter().for_each(|mark| self.0.trail.add(mark));
        Ok(Look { log, is_same })
    }
}
