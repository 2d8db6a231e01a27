//! Detects that the consumer delivered messages to another instance.

use async_nats::jetstream::Message;

use crate::journal::pull;

/// Detects messages that the consumer delivered to another instance: one that was frozen, woke up and pulled more
/// before it found its lease gone. Newer events of the same orders must not overtake those, so the work begins anew, with
/// what is open on the log.
pub(super) struct GapDetector {
    /// The consumer's number of the last message that came here.
    pub(super) last: u64,
    /// A later number that the consumer named, which may still be on its way here.
    pub(super) suspect: Option<u64>,
}

impl GapDetector {
    pub(super) fn received(&mut self, message: &Message) -> anyhow::Result<()> {
        let number = pull::info(message)?.consumer_sequence;
        if number > self.last + 1 {
            anyhow::bail!("the consumer delivered messages to another instance");
        }
        self.last = self.last.max(number);
        Ok(())
    }

    /// `taking`: whether all that is on its way here would have been taken since the last look.
    pub(super) fn compare(&mut self, handed_out: u64, taking: bool) -> anyhow::Result<()> {
        if self.suspect.is_some_and(|suspect| taking && self.last < suspect) {
            anyhow::bail!("the consumer delivered its last messages to another instance");
        }
        self.suspect = (taking && handed_out > self.last).then_some(handed_out);
        Ok(())
    }
}
