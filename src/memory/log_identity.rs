//! Whether the log is still the one that the memory was read from.

use std::sync::atomic::Ordering;

use super::{Orders, lock};
use crate::journal::identity::{self, Compared, LogState, Remembered, id_of, message_at};

impl Orders {
    /// Drops everything where the log is another one than it was, or went back.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(super) async fn look_at_log(&self) -> anyhow::Result<()> {
        // One at a time: another one would drop what was read since the first one dropped everything.
        let _comparing = self.comparing.lock().await;
        let times = self.connection.times();
        // Before the log is looked at: it is read meanwhile, and what was read later would not be on the log as it was seen.
        let remembered = lock(&self.log).clone();
        let log = LogState::look(&self.connection).await?;
        let mut compared = identity::compare(&self.connection, &log, &remembered).await?;
        if compared.holds() && !self.has_what_is_ahead(&log).await? {
            compared = Compared::WentBack(Some(remembered.position));
        }
        if compared.holds() {
            lock(&self.log).created = Some(log.created);
        } else {
            let consequence = "what was known of orders is read again";
            self.identity.report("orders", compared, &remembered, &log, consequence);
            let _noting = lock(&self.noting);
            self.is_lost.store(true, Ordering::Relaxed);
            lock(&self.index).clear();
            lock(&self.taken_up).clear();
            lock(&self.losses).clear();
            lock(&self.ahead).clear();
            self.position.send_modify(|position| {
                *position = 0;
                *lock(&self.log) = Remembered {
                    created: Some(log.created),
                    ..Remembered::default()
                };
            });
        }
        self.compared_at.store(times, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the last event that this instance appended itself is on the log. One of an instance that went on after the log went back
    /// has another event in its place, or none.
    async fn has_what_is_ahead(&self, log: &LogState) -> anyhow::Result<bool> {
        let last = lock(&self.ahead)
            .last_key_value()
            .map(|(sequence, id)| (*sequence, *id));
        let Some((sequence, id)) = last.filter(|(sequence, _)| *sequence >= log.first) else {
            return Ok(true);
        };
        let there = message_at(&self.connection, sequence).await?;
        Ok(there.is_some_and(|there| id_of(&there) == id.to_string()))
    }
}
