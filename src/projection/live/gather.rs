//! How many events one transaction gets: a quiet log makes small ones, a busy one large ones.
//!
//! An order has three events or more, and each batch with one of them writes the order's rows once. So while the log is busy
//! a batch waits for more events, and most orders get their rows by one insert instead of an insert and two updates. The wait
//! is at most [`FRESHNESS`], counted from the batch's first event; a row is late by no more than that and the transaction.

use std::time::Duration;

use async_nats::jetstream::Message;
use futures_util::FutureExt as _;
use tokio::time::{Instant, timeout_at};

use crate::{
    journal::pull::{self, Messages},
    projection::batch::{MAX_BYTES, MAX_EVENTS},
};

/// How long a batch waits for more events, while the log is busy.
const FRESHNESS: Duration = Duration::from_millis(900);
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

impl Gather {
    /// A batch that begins with a message, in the log's order; `first` is none where there was only a sign of life.
    ///
    /// # Errors
    /// Where no more messages will come.
    pub(super) async fn batch(
        &mut self,
        first: Option<Message>,
        messages: &mut Messages,
    ) -> anyhow::Result<Vec<(u64, Message)>> {
        let began = Instant::now();
        let is_busy = self.rate.is_busy(began);
        let (mut batch, mut bytes, mut next) = (Vec::new(), 0, Some(first));
        while let Some(message) = next {
            if let Some(message) = message {
                bytes += message.payload.len();
                batch.push((pull::info(&message)?.stream_sequence, message));
            }
            let is_full = batch.len() >= MAX_EVENTS || bytes >= MAX_BYTES;
            next = if is_full {
                None
            } else if is_busy && !batch.is_empty() {
                timeout_at(began + FRESHNESS, messages.next()).await.ok().transpose()?
            } else {
                messages.next().now_or_never().transpose()?
            };
        }
        batch.sort_unstable_by_key(|(sequence, _)| *sequence);
        self.rate.events += batch.len();
        Ok(batch)
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
        // A thousand a second; it shows when a second is over.
        for tenth in 100..110 {
            assert!(!rate.is_busy(at(tenth)));
            rate.events += 100;
        }
        assert!(rate.is_busy(at(111)));
        rate.events += 900;
        assert!(rate.is_busy(at(121)));
        // The first event after a rest.
        assert!(!rate.is_busy(at(1000)));
    }
}
