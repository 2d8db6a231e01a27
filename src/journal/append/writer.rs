//! The one task that publishes: takes what waits, sends it in rounds, tells everyone what became of it.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    AppendError, Appended, Connection, MAX_WAITING, Message,
    round::{Fate, Round},
};
use crate::event::EventId;

/// Most messages of one atomic batch; the server takes 1000, and the rate is flat beyond 500.
pub(super) const MAX_BATCH: usize = 500;
/// Most payload bytes of one round, so that a few large bodies neither hold the others up nor pass a server limit.
pub(super) const MAX_ROUND_BYTES: usize = 4 * 1024 * 1024;
/// Ids of the latest events that are known to be on the log: a provider's quick repeat is answered without asking the
/// server, and cannot spoil a batch (one known id in it and the server refuses the whole). About 3 MB.
const MAX_RECENT: usize = 32_768;
/// Pause after a round that the server refused or did not answer, so that trouble is not met with a busy loop.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_millis(50);

/// An append that waits.
pub(super) struct Pending {
    pub(super) message: Message,
    done: Vec<oneshot::Sender<Result<Appended, AppendError>>>,
    /// Sent before without an answer: it may be on the log, and if it is, that is no duplicate of the sender's.
    pub(super) sent_before: bool,
}

impl Pending {
    pub(super) fn new(message: Message, done: oneshot::Sender<Result<Appended, AppendError>>) -> Self {
        Self { message, done: vec![done], sent_before: false }
    }

    /// Nobody waits for it any more.
    fn is_abandoned(&self) -> bool {
        self.done.iter().all(oneshot::Sender::is_closed)
    }

    /// Tells the first who asked the result as it is, every later one that it was a duplicate.
    fn answer(self, result: &Result<Appended, AppendError>) {
        for (at, done) in self.done.into_iter().enumerate() {
            let result = match result {
                Ok(appended) if at > 0 => Ok(Appended { duplicate: true, ..*appended }),
                other => other.clone(),
            };
            // Whoever gave up waiting gets nothing; its repeat will be answered as a duplicate.
            let _ = done.send(result);
        }
    }
}

/// The writer; see the module.
pub struct Writer {
    connection: Arc<Connection>,
    queue: mpsc::Receiver<Pending>,
    waiting: VecDeque<Pending>,
    recent: Recent,
}

impl Writer {
    pub(super) fn new(connection: Arc<Connection>, queue: mpsc::Receiver<Pending>) -> Self {
        Self { connection, queue, waiting: VecDeque::new(), recent: Recent::default() }
    }

    /// Writes until every [`Journal`](super::Journal) is dropped and nothing waits any more.
    ///
    /// # Errors
    /// Where the subscription for acknowledgements cannot be made or ends.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut round = Round::open(&self.connection.client).await?;
        while self.collect().await {
            if !self.connection.is_up() {
                // Those who wait have a time limit of their own; look again soon whether they still do.
                let _ = tokio::time::timeout(PAUSE_AFTER_TROUBLE, self.connection.wait_up()).await;
                continue;
            }
            let batch = self.next_round();
            if batch.is_empty() {
                continue;
            }
            metrics::histogram!("append_round_size").record(batch.len() as f64);
            let fates = round.send(&self.connection, &batch).await?;
            if self.settle(batch, fates) {
                tokio::time::sleep(PAUSE_AFTER_TROUBLE).await;
            }
        }
        Ok(())
    }

    /// Takes all that waits; false when nothing will come any more.
    async fn collect(&mut self) -> bool {
        if self.waiting.is_empty() {
            match self.queue.recv().await {
                Some(pending) => self.waiting.push_back(pending),
                None => return false,
            }
        }
        while self.waiting.len() < MAX_WAITING {
            match self.queue.try_recv() {
                Ok(pending) => self.waiting.push_back(pending),
                Err(_) => break,
            }
        }
        self.waiting.retain(|pending| !pending.is_abandoned());
        true
    }

    /// What goes into the next round: no id twice, none that is known to be on the log.
    fn next_round(&mut self) -> Vec<Pending> {
        let mut batch: Vec<Pending> = Vec::with_capacity(self.waiting.len().min(MAX_BATCH));
        let mut places: HashMap<EventId, usize> = HashMap::with_capacity(batch.capacity());
        let mut bytes = 0;
        while batch.len() < MAX_BATCH {
            let Some(pending) = self.waiting.pop_front() else { break };
            if let Some(sequence) = self.recent.sequence(pending.message.id) {
                pending.answer(&Ok(Appended { sequence, duplicate: true }));
                continue;
            }
            bytes += pending.message.payload.len();
            if bytes > MAX_ROUND_BYTES && !batch.is_empty() {
                self.waiting.push_front(pending);
                break;
            }
            match places.entry(pending.message.id) {
                Entry::Occupied(place) => batch[*place.get()].done.extend(pending.done),
                Entry::Vacant(place) => {
                    place.insert(batch.len());
                    batch.push(pending);
                }
            }
        }
        batch
    }

    /// Tells everyone; what has no answer yet goes back to the front. True where there was trouble.
    fn settle(&mut self, batch: Vec<Pending>, fates: Vec<Fate>) -> bool {
        let mut again = Vec::new();
        let mut trouble = false;
        for (mut pending, fate) in batch.into_iter().zip(fates) {
            match fate {
                Fate::Stored { sequence, duplicate } => {
                    self.recent.insert(pending.message.id, sequence);
                    if !duplicate {
                        metrics::counter!("events_appended_total", "type" => pending.message.event_type.as_str()).increment(1);
                    }
                    let duplicate = duplicate && !pending.sent_before;
                    pending.answer(&Ok(Appended { sequence, duplicate }));
                }
                Fate::Refused(reason) => {
                    trouble = true;
                    tracing::warn!(%reason, "the event log refused an event");
                    pending.answer(&Err(AppendError::Refused(reason)));
                }
                Fate::Unknown => {
                    trouble = true;
                    pending.sent_before = true;
                    again.push(pending);
                }
            }
        }
        for pending in again.into_iter().rev() {
            self.waiting.push_front(pending);
        }
        trouble
    }
}

/// The latest ids on the log and where they stand; the oldest goes first.
#[derive(Default)]
struct Recent {
    sequences: HashMap<EventId, u64>,
    order: VecDeque<EventId>,
}

impl Recent {
    fn sequence(&self, id: EventId) -> Option<u64> {
        self.sequences.get(&id).copied()
    }

    fn insert(&mut self, id: EventId, sequence: u64) {
        if self.sequences.insert(id, sequence).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > MAX_RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.sequences.remove(&oldest);
        }
    }
}
