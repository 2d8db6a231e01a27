//! Where the webhooks of bodies were accepted. Each body of an order is compared with those that stand before it, so a body that was read
//! once is not read again for the next one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::OrderIdentity;
use crate::{event::Recorded, journal::connection::Connection, memory::IndexEntry};

/// Most bodies that are remembered, 16 bytes each and the list.
const MAX_BODIES: std::num::NonZeroUsize = std::num::NonZeroUsize::new(20_000).expect("it is not zero");

/// The acceptances of bodies ([`Recorded::accepted_at`]), by their sequences.
pub(in crate::forward) struct Acceptances(Mutex<Kept>);

struct Kept {
    /// The connection over which they were read ([`Connection::times`]): over another one the log may be another one.
    connection: u64,
    by_body: LruCache<u64, u64>,
}

impl Default for Acceptances {
    fn default() -> Self {
        Self(Mutex::new(Kept {
            connection: 0,
            by_body: LruCache::new(MAX_BODIES),
        }))
    }
}

impl Acceptances {
    /// Those that were read over the current connection.
    fn over(&self, log: &Connection) -> MutexGuard<'_, Kept> {
        // No code panics while it holds the lock.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.connection != log.times() {
            kept.connection = log.times();
            kept.by_body.clear();
        }
        kept
    }
}

impl OrderIdentity {
    /// Where the webhook of a body about an event's order was accepted; none if the body cannot be read any more, or is about another
    /// order.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(in crate::forward) async fn acceptance(
        &self,
        event: &Recorded,
        found: IndexEntry,
    ) -> anyhow::Result<Option<u64>> {
        let connection = self.log.times();
        let known = self.acceptances.over(&self.log).by_body.get(&found.sequence).copied();
        if known.is_some() {
            return Ok(known);
        }
        let said = self.orders.read(event, found).await?;
        let accepted = said.map(|said| said.accepted_at());
        let mut kept = self.acceptances.over(&self.log);
        if let Some(accepted) = accepted
            && kept.connection == connection
        {
            kept.by_body.put(found.sequence, accepted);
        }
        Ok(accepted)
    }
}
