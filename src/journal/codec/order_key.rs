//! The order that an event is about, as one short key.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::event::{EventType, Principal, Recorded, push::is_of_backend};

/// Which line an event stands in: the head of a hash of provider and order id, so that an order has a short name of one length
/// that is safe in a subject. What was proven by a branch's secret has lines of its own, with the branch in the hash: it neither
/// waits for another branch's order of the same number nor holds it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderKey([u8; 16]);

impl OrderKey {
    /// Of this order.
    pub fn new(provider: &str, external_order_id: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(provider)
            .chain_update([0])
            .chain_update(external_order_id)
            .finalize();
        Self(digest[..16].try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Of the order that an event is about, as far as its principal reaches.
    pub fn of(event: &Recorded) -> Self {
        let envelope = &event.envelope;
        // Requests of the backend, and their results, have one order key, whichever principal proved the order.
        let is_of_backend = is_of_backend(envelope) || envelope.event_type == EventType::MenuSyncReported;
        let principal = Some(&envelope.principal).filter(|_| !is_of_backend);
        Self::of_principal(&envelope.provider, &envelope.external_order_id, principal)
    }

    /// The other line of an order: what the provider's secret proves stands in one, and what its branch's own secret proves in another. None
    /// if the event names no branch.
    pub fn beside(event: &Recorded) -> Option<Self> {
        let (envelope, principal) = (&event.envelope, &event.envelope.principal);
        let (provider, order) = (&envelope.provider, &envelope.external_order_id);
        if principal.branch().is_some() {
            return Some(Self::new(provider, order));
        }
        Some(Self::of_branch(provider, order, envelope.branch.as_deref()?))
    }

    pub(super) fn of_principal(provider: &str, external_order_id: &str, principal: Option<&Principal>) -> Self {
        let Some(branch) = principal.and_then(Principal::branch) else {
            return Self::new(provider, external_order_id);
        };
        Self::of_branch(provider, external_order_id, branch)
    }

    fn of_branch(provider: &str, external_order_id: &str, branch: &str) -> Self {
        // No order id contains a NUL, so this hash is unambiguous.
        let digest = Sha256::new()
            .chain_update(provider)
            .chain_update([0])
            .chain_update(external_order_id)
            .chain_update([0])
            .chain_update(branch)
            .finalize();
        Self(digest[..16].try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Reads the text form back.
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(hex::decode(text).ok()?.try_into().ok()?))
    }

    /// Its first 64 bits.
    pub(crate) fn head(self) -> u64 {
        self.0.iter().take(8).fold(0, |head, byte| head << 8 | u64::from(*byte))
    }

    /// Its partition: the same for all its events, stable for ever for a given number of partitions.
    pub fn partition(self, partitions: u16) -> u16 {
        u16::try_from(self.head() % u64::from(partitions.max(1))).expect("less than the number of partitions")
    }
}

impl fmt::Display for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The partition of an order, see [`OrderKey::partition`].
pub fn partition(provider: &str, external_order_id: &str, partitions: u16) -> u16 {
    OrderKey::new(provider, external_order_id).partition(partitions)
}
