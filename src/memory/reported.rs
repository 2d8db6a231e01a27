//! Orders of which the provider was told that they are lost.

use super::Orders;
use crate::{
    event::{EventType, Recorded, push},
    journal::{
        codec::token,
        read::{Entry, LogReader, Start},
    },
};

impl Orders {
    /// Whether the log has the request to tell the provider that the order of an announcement is lost. `cause`: the sequence of the event that
    /// was given up.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(crate) async fn was_reported(&self, given_up: &Recorded, cause: u64) -> anyhow::Result<bool> {
        let branch = token(given_up.envelope.branch.as_deref().unwrap_or_default());
        let root = EventType::OrderStatusRequested.subject_root();
        let subjects = format!("{root}.{}.{branch}.>", token(&given_up.envelope.provider));
        let mut reader = LogReader::of_subjects(&self.connection, subjects, Start::Sequence(given_up.accepted_at()));
        loop {
            let entries = reader.next_batch_to_end(&self.connection).await?;
            if entries.is_empty() {
                return Ok(false);
            }
            let is_about_it = |entry: &Entry| match entry {
                Entry::Event(told) => {
                    told.envelope.external_order_id == given_up.envelope.external_order_id
                        && told.envelope.cause_sequence.is_none_or(|told| told == cause)
                        && push::is_loss(told)
                }
                Entry::Unreadable { .. } => false,
            };
            if entries.iter().any(is_about_it) {
                return Ok(true);
            }
        }
    }
}
