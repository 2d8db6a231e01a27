//! Decides how many events one transaction applies: few while the log is quiet, many while it is busy.
//!
//! An order has three events or more, and each batch with one of them writes the order's rows once. So while the log is busy
//! a batch waits for more events, and most orders get their rows by one insert instead of an insert and two updates. The wait
//! is at most [`FRESHNESS`], counted from the batch's first event; a row is late by no more than that and the transaction.

use std::time::Duration;

use async_nats::jetstream::Message;
use futures_util::FutureExt as _;
use tokio::time::{Instant, timeout_at};

use crate::{
    journal::{
        pull::{self, Messages},
        read::Entry,
    },
    projection::batch::MAX_BYTES,
};

/// How long a batch waits for more events, while the log is busy: most orders have all of their events in one batch. After a longer wait
/// there are fewer row versions, but larger transactions, which take the cores and the disk from orders under way, and memory.
const FRESHNESS: Duration = Duration::from_millis(250);
/// Most events of a batch. While it is written its events, their columns and the text of the statements are in memory, so this decides how
/// much the hub takes under load. Only reading from the log makes larger batches, up to [`MAX_EVENTS`](crate::projection::batch::MAX_EVENTS).
const MAX_GATHERED: usize = 1500;
/// From so many events a second on the log is busy: below, a transaction for each costs less than the rows' being late is worth.
const BUSY_PER_SECOND: f64 = 100.0;
/// For how long events are counted before the log is called busy or quiet.
const WINDOW: Duration = Duration::from_secs(1);

/// Makes batches.
#[derive(Debug, Default)]
pub(super) struct Gather {
    rate: Rate,
}

/// Whether the log is busy.
#[derive(Debug, Default)]
struct Rate {
    /// Since when events are counted, and how many there were.
    since: Option<Instant>,
    events: usize,
    is_busy: bool,
}

impl Rate {
    /// Whether the batch that begins now waits for more.
    fn is_busy(&mut self, now: Instant) -> bool {
        let elapsed = now.duration_since(*self.since.get_or_insert(now));
        if elapsed >= WINDOW {
            self.is_busy = self.events as f64 / elapsed.as_secs_f64() >= BUSY_PER_SECOND;
            (self.since, self.events) = (Some(now), 0);
        }
        self.is_busy
    }
}

/// Events that one transaction gets.
pub(super) struct Gathered {
    /// In the log's order; some may have come before.
    pub(super) entries: Vec<Entry>,
    /// The message of the last of them. Its acknowledgement settles all of them.
    pub(super) latest: Message,
    /// Where that stands on the log.
    pub(super) up_to: u64,
}

impl Gather {
    /// A batch that begins with a message; `first` is none if there was only a sign of life. None if there is nothing.
    ///
    /// A message is decoded as it comes, and of all messages only the latest is kept: parsed headers take several times the memory
    /// of what is read from them.
    ///
    /// # Errors
    /// If no more messages will come.
    pub(super) async fn batch(
        &mut self,
        first: Option<Message>,
        messages: &mut Messages,
    ) -> anyhow::Result<Option<Gathered>> {
        let began = Instant::now();
        let is_busy = self.rate.is_busy(began);
        let (mut entries, mut latest, mut bytes, mut next) = (Vec::new(), None::<(u64, Message)>, 0, Some(first));
        while let Some(message) = next {
            if let Some(mut message) = message {
                let sequence = pull::info(&message)?.stream_sequence;
                let payload = pull::take_payload(&mut message.message);
                bytes += payload.len();
                entries.push(Entry::read(message.headers.as_ref(), payload, sequence));
                if latest.as_ref().is_none_or(|(up_to, _)| *up_to < sequence) {
                    latest = Some((sequence, message));
                }
            }
            let is_full = entries.len() >= MAX_GATHERED || bytes >= MAX_BYTES;
            next = if is_full {
                None
            } else if is_busy && !entries.is_empty() {
                timeout_at(began + FRESHNESS, messages.next()).await.ok().transpose()?
            } else {
                messages.next().now_or_never().transpose()?
            };
        }
        entries.sort_unstable_by_key(Entry::sequence);
        self.rate.events += entries.len();
        Ok(latest.map(|(up_to, latest)| Gathered { entries, latest, up_to }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_log_is_not_waited_for() {
        let (mut rate, began) = (Rate::default(), Instant::now());
        let at = |tenths: u32| began + Duration::from_millis(100) * tenths;
        // Ten events a second, each a batch.
        for tenth in 0..100 {
            assert!(!rate.is_busy(at(tenth)));
            rate.events += 1;
        }
        // A thousand events a second; the rate is known after one second.
        for tenth in 100..110 {
            assert!(!rate.is_busy(at(tenth)));
            rate.events += 100;
        }
        assert!(rate.is_busy(at(111)));
        rate.events += 900;
        assert!(rate.is_busy(at(121)));
        // The first event after a quiet time.
        assert!(!rate.is_busy(at(1000)));
    }
}
