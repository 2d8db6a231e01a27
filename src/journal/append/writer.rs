//! The one task that publishes: takes what waits, sends it in rounds, tells everyone what became of it.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    AppendError, Appended, Connection, MAX_WAITING,
    round::{BATCH_FROM, Batch, Fate, Round},
};
use crate::event::{EventId, NewEvent};

/// Ids of the latest events that are known to be on the log: a provider's quick repeat is answered without asking the
/// server, and cannot spoil a batch (one known id in it and the server refuses the whole). About 3 MB.
const MAX_RECENT: usize = 32_768;
/// Pause after a round that the server refused or did not answer, so that trouble is not met with a busy loop.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_millis(50);

/// How long a server that acknowledges nothing is kept to; elections in a cluster take less.
const MAX_SILENCE: Duration = Duration::from_secs(6);

/// An append that waits.
pub(super) struct Pending {
    pub(super) event: NewEvent,
    done: Vec<oneshot::Sender<Result<Appended, AppendError>>>,
    /// Sent before without an answer: it may be on the log, and if it is, that is no duplicate of the sender's.
    pub(super) sent_before: bool,
}

impl Pending {
    pub(super) fn new(event: NewEvent, done: oneshot::Sender<Result<Appended, AppendError>>) -> Self {
        Self {
            event,
            done: vec![done],
            sent_before: false,
        }
    }

    pub(super) const fn id(&self) -> EventId {
        self.event.envelope.id
    }

    /// Lets those who wait for another append of the same event wait for this one.
    pub(super) fn join(&mut self, other: Self) {
        self.done.extend(other.done);
    }

    /// Nobody waits for it any more.
    fn is_abandoned(&self) -> bool {
        self.done.iter().all(oneshot::Sender::is_closed)
    }

    /// Tells the first who asked the result as it is, every later one that it was a duplicate.
    fn answer(self, result: &Result<Appended, AppendError>) {
        for (at, done) in self.done.into_iter().enumerate() {
            let result = match result {
                Ok(appended) if at > 0 => Ok(Appended {
                    duplicate: true,
                    ..*appended
                }),
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
    partitions: u16,
}

impl Writer {
    pub(super) fn new(connection: Arc<Connection>, queue: mpsc::Receiver<Pending>, partitions: u16) -> Self {
        Self {
            connection,
            queue,
            waiting: VecDeque::new(),
            recent: Recent::default(),
            partitions,
        }
    }

    /// Writes until every [`Journal`](super::Journal) is dropped and nothing waits any more.
    ///
    /// # Errors
    /// Where the subscription for acknowledgements cannot be made or ends.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut round = Round::open(&self.connection.client, self.partitions).await?;
        let mut silence = Silence::default();
        while self.collect().await {
            if !self.connection.is_up() {
                // Those who wait have a time limit of their own; look again soon whether they still do.
                let _ = tokio::time::timeout(PAUSE_AFTER_TROUBLE, self.connection.wait_up()).await;
                continue;
            }
            let trouble = if self.waiting.len() < BATCH_FROM {
                let few = self.few();
                self.send_singly(&mut round, few).await?
            } else {
                self.send_batches(&mut round).await?
            };
            silence.note(trouble, &self.connection).await;
            if trouble {
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
        self.take_queued();
        self.waiting.retain(|pending| !pending.is_abandoned());
        true
    }

    fn take_queued(&mut self) {
        while self.waiting.len() < MAX_WAITING {
            match self.queue.try_recv() {
                Ok(pending) => self.waiting.push_back(pending),
                Err(_) => break,
            }
        }
    }

    /// The next that waits and is not known to be on the log.
    fn next(&mut self) -> Option<Pending> {
        loop {
            let pending = self.waiting.pop_front()?;
            match self.recent.sequence(pending.id()) {
                Some(sequence) => pending.answer(&Ok(Appended {
                    sequence,
                    duplicate: true,
                })),
                None => return Some(pending),
            }
        }
    }

    /// All that wait, no event twice.
    fn few(&mut self) -> Vec<Pending> {
        let mut few: Vec<Pending> = Vec::with_capacity(self.waiting.len());
        while let Some(pending) = self.next() {
            match few.iter_mut().find(|one| one.id() == pending.id()) {
                Some(same) => same.join(pending),
                None => few.push(pending),
            }
        }
        few
    }

    async fn send_singly(&mut self, round: &mut Round, few: Vec<Pending>) -> anyhow::Result<bool> {
        metrics::histogram!("append_round_size").record(few.len() as f64);
        let began = Instant::now();
        let fates = round.send_singly(&self.connection, &few).await?;
        metrics::histogram!("append_round_duration_seconds").record(began.elapsed());
        Ok(self.settle(few, fates))
    }

    /// Sends batch after batch for as long as many wait. While one is being acknowledged the next is already on its way
    /// to the server, all but its commit. True where there was trouble.
    async fn send_batches(&mut self, round: &mut Round) -> anyhow::Result<bool> {
        let connection = Arc::clone(&self.connection);
        let mut batch = Batch::new();
        self.fill(round, &mut batch, None).await;
        while !batch.messages.is_empty() {
            metrics::histogram!("append_round_size").record(batch.messages.len() as f64);
            let began = Instant::now();
            let committed = round.commit(&connection.client, &batch).await;
            let mut following = Batch::new();
            let answer = loop {
                // A few are left to wait: alone they would go singly, and quicker.
                if self.waiting.len() >= BATCH_FROM || !following.messages.is_empty() {
                    self.fill(round, &mut following, Some(&batch)).await;
                }
                tokio::select! {
                    biased;
                    answer = round.committed(&connection, &committed) => break answer?,
                    Some(pending) = self.queue.recv(), if self.waiting.len() < MAX_WAITING => {
                        self.waiting.push_back(pending);
                        self.take_queued();
                    }
                }
            };
            metrics::histogram!("append_round_duration_seconds").record(began.elapsed());
            let fates = Round::fates(&batch, answer);
            let trouble = match fates {
                Some(fates) => self.settle(batch.messages, fates),
                None => self.send_singly(round, batch.messages).await?,
            };
            if trouble {
                // What was on its way is never committed, so it is not stored; it begins anew.
                for pending in following.messages.into_iter().rev() {
                    self.waiting.push_front(pending);
                }
                return Ok(true);
            }
            batch = following;
            if !batch.messages.is_empty() {
                self.take_queued();
                self.fill(round, &mut batch, None).await;
            }
        }
        Ok(false)
    }

    /// Adds what waits, as long as there is room; what the batch before it holds has to wait for that one's answer.
    async fn fill(&mut self, round: &Round, batch: &mut Batch, before: Option<&Batch>) {
        let client = self.connection.client.clone();
        let mut later = Vec::new();
        while batch.has_room() {
            let Some(pending) = self.next() else { break };
            if before.is_some_and(|before| before.holds(pending.id())) {
                later.push(pending);
            } else if !pending.is_abandoned() {
                batch.add(round, &client, pending).await;
            }
        }
        for pending in later.into_iter().rev() {
            self.waiting.push_front(pending);
        }
    }

    /// Tells everyone; what has no answer yet goes back to the front. True where there was trouble.
    fn settle(&mut self, batch: Vec<Pending>, fates: Vec<Fate>) -> bool {
        let mut again = Vec::new();
        let mut trouble = false;
        for (mut pending, fate) in batch.into_iter().zip(fates) {
            match fate {
                Fate::Stored { sequence, duplicate } => {
                    self.recent.insert(pending.id(), sequence);
                    if !duplicate {
                        metrics::counter!("events_appended_total", "type" => pending.event.envelope.event_type.as_str()).increment(1);
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

/// How long the log has been without an acknowledgement while the connection stands.
#[derive(Default)]
struct Silence {
    /// Since when, or since something was done about it.
    since: Option<Instant>,
}

impl Silence {
    /// Says so, now and then, and tries another server: this one may be cut off from those that have the log.
    async fn note(&mut self, trouble: bool, connection: &Connection) {
        if !trouble || !connection.is_up() {
            self.since = None;
            return;
        }
        match self.since {
            Some(since) if since.elapsed() < MAX_SILENCE => return,
            Some(_) => connection.try_another_server().await,
            None => {}
        }
        self.since = Some(Instant::now());
        tracing::warn!(
            "NATS is there but does not acknowledge: JetStream is starting, has no leader or no room, or EVENTS is missing"
        );
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
