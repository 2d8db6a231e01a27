//! Where the webhooks of bodies were accepted. Each body of an order is compared with those that stand before it, so a body that was read
//! once is not read again for the next one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::OrderIdentity;
use crate::{event::Recorded, memory::IndexEntry};

/// Most bodies that are remembered, 16 bytes each and the list.
const MAX_BODIES: std::num::NonZeroUsize = std::num::NonZeroUsize::new(20_000).expect("it is not zero");

/// The acceptances of bodies ([`Recorded::accepted_at`]), by their sequences.
pub(in crate::forward) struct Acceptances(Mutex<LruCache<u64, u64>>);

impl Default for Acceptances {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_BODIES)))
    }
}

impl Acceptances {
    /// Remembers that of a body.
    fn note(&self, body: &Recorded) {
        self.lock().put(body.sequence, body.accepted_at());
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<u64, u64>> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.acceptances.note(event);
        let known = self.acceptances.lock().get(&found.sequence).copied();
        if known.is_some() {
            return Ok(known);
        }
        let said = self.orders.read(event, found).await?;
        if let Some(said) = &said {
            self.acceptances.note(said);
        }
        Ok(said.map(|said| said.accepted_at()))
    }
}
