//! The only task that publishes events: it takes the waiting appends, sends them in rounds, and answers each.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{
    AppendError, Appended, Connection, MAX_WAITING, Stored,
    acknowledging::Acknowledging,
    measured::AppendMetrics,
    recent::Recent,
    round::{AppendBatch, Published, Round},
    watch::LogProbe,
};
use crate::{
    config::EventLog,
    event::{EventId, NewEvent},
    journal::{codec::Form, form},
};

/// Pause after a round that the server refused or did not answer, so that trouble is not met with a busy loop.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_millis(50);

/// An append that waits.
pub(super) struct Pending {
    pub(super) event: NewEvent,
    done: Vec<oneshot::Sender<Result<Stored, AppendError>>>,
    /// When it was sent first: from then on it may be on the log.
    sent: Option<Instant>,
    /// Sent without an answer, and sent again: what the log knows may be the first of the two.
    sent_again: bool,
}

impl Pending {
    pub(super) fn new(event: NewEvent, done: oneshot::Sender<Result<Stored, AppendError>>) -> Self {
        Self {
            event,
            done: vec![done],
            sent: None,
            sent_again: false,
        }
    }

    pub(super) const fn id(&self) -> EventId {
        self.event.envelope.id
    }

    /// Lets those who wait for another append of the same event wait for this one.
    pub(super) fn join(&mut self, other: Self) {
        self.done.extend(other.done);
    }

    /// The caller has stopped waiting.
    fn is_abandoned(&self) -> bool {
        self.done.iter().all(oneshot::Sender::is_closed)
    }

    /// It is about to be sent.
    fn note_sent(&mut self, now: Instant) {
        self.sent_again = self.sent.is_some();
        self.sent.get_or_insert(now);
    }

    /// The last transmission was not stored.
    fn note_not_stored(&mut self) {
        if !self.sent_again {
            self.sent = None;
        }
    }

    /// Tells the first who still waits the result as it is, every later one that it was a duplicate.
    fn answer(self, result: &Result<Stored, AppendError>) {
        let mut result = result.clone();
        for done in self.done {
            // A caller that stopped waiting gets no answer. If it sends the event again, that is answered as a duplicate.
            if done.send(result.clone()).is_ok()
                && let Ok(stored) = &mut result
            {
                (stored.appended.duplicate, stored.by_whom_is_open) = (true, false);
            }
        }
    }
}

/// The writer; see the module.
pub struct AppendWriter {
    connection: Arc<Connection>,
    queue: mpsc::Receiver<Pending>,
    waiting: VecDeque<Pending>,
    /// Events that may be on the log already; they are sent singly.
    repeats: Vec<Pending>,
    recent: Recent,
    acknowledging: Acknowledging,
    log: EventLog,
    /// In which form events are written, once that is known.
    form: Option<Form>,
    measured: AppendMetrics,
}

impl AppendWriter {
    pub(super) fn new(
        connection: Arc<Connection>,
        queue: mpsc::Receiver<Pending>,
        acknowledging: Acknowledging,
        log: EventLog,
    ) -> Self {
        Self {
            connection,
            queue,
            waiting: VecDeque::new(),
            repeats: Vec::new(),
            recent: Recent::default(),
            acknowledging,
            log,
            form: None,
            measured: AppendMetrics::default(),
        }
    }

    /// Writes until every [`Journal`](super::Journal) is dropped and nothing waits any more, and looks meanwhile whether the
    /// log acknowledges.
    ///
    /// # Errors
    /// If a subscription for acknowledgements cannot be made or ends.
    pub async fn run(self) -> anyhow::Result<()> {
        let watch = LogProbe::open(Arc::clone(&self.connection), self.acknowledging.clone()).await?;
        tokio::select! {
            biased;
            written = self.write() => written,
            failed = watch.run() => failed,
        }
    }

    async fn write(mut self) -> anyhow::Result<()> {
        let mut round = Round::open(&self.connection.client, self.log.partitions).await?;
        while self.collect().await {
            if !self.connection.is_up() {
                // Callers have time limits of their own, so check soon whether they still wait.
                let _ = tokio::time::timeout(PAUSE_AFTER_TROUBLE, self.connection.wait_up()).await;
                continue;
            }
            round.form = self.form().await;
            let trouble = if self.waiting.len() < self.log.batch_from {
                let few = joined(self.waiting.drain(..));
                self.send_singly(&mut round, few).await?
            } else {
                self.send_batches(&mut round).await?
            };
            if trouble {
                tokio::time::sleep(PAUSE_AFTER_TROUBLE).await;
            }
        }
        Ok(())
    }

    /// The form of new events. If the log does not answer, the form that all versions read.
    async fn form(&mut self) -> Form {
        if let Some(form) = self.form {
            return form;
        }
        match form::chosen(&self.connection, self.log.format).await {
            Ok(form) => {
                tracing::info!(?form, "the form in which events are written");
                *self.form.insert(form)
            }
            Err(error) => {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "cannot see in which form events are written"
                );
                Form::Headers
            }
        }
    }

    /// Takes all waiting appends; false when no more will come.
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

    /// The next that waits and may join a batch. One that is likely to be on the log is put aside: with it the server would refuse
    /// the whole.
    fn next(&mut self) -> Option<Pending> {
        loop {
            let pending = self.waiting.pop_front()?;
            if !self.recent.holds(pending.id()) {
                return Some(pending);
            }
            self.repeats.push(pending);
        }
    }

    /// Sends what was put aside. True if there was trouble.
    async fn send_repeats(&mut self, round: &mut Round) -> anyhow::Result<bool> {
        let repeats = joined(self.repeats.drain(..));
        self.send_singly(round, repeats).await
    }

    async fn send_singly(&mut self, round: &mut Round, mut few: Vec<Pending>) -> anyhow::Result<bool> {
        if few.is_empty() {
            return Ok(false);
        }
        self.acknowledging.append_sent();
        let now = Instant::now();
        few.iter_mut().for_each(|pending| pending.note_sent(now));
        let began = Instant::now();
        let fates = round.send_singly(&self.connection, &few).await?;
        self.measured.round(few.len(), began.elapsed());
        Ok(self.settle(few, fates))
    }

    /// Sends batch after batch for as long as many wait. While one is being acknowledged the next is already on its way
    /// to the server, all but its commit. True if there was trouble.
    async fn send_batches(&mut self, round: &mut Round) -> anyhow::Result<bool> {
        let connection = Arc::clone(&self.connection);
        let mut batch = AppendBatch::new();
        self.fill(round, &mut batch, None).await;
        while !batch.messages.is_empty() {
            let began = Instant::now();
            self.acknowledging.append_sent();
            let committed = round.commit(&connection.client, &batch).await;
            let mut following = AppendBatch::new();
            let answer = loop {
                // Fewer events than a batch needs stay in the queue: sent singly in the next round, they are faster.
                if self.waiting.len() >= self.log.batch_from || !following.messages.is_empty() {
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
            self.measured.round(batch.messages.len(), began.elapsed());
            let fates = Round::fates(&batch, answer);
            let trouble = match fates {
                Some(fates) => self.settle(batch.messages, fates),
                None => {
                    batch.messages.iter_mut().for_each(Pending::note_not_stored);
                    self.send_singly(round, batch.messages).await?
                }
            };
            if trouble || self.send_repeats(round).await? {
                // The next batch, already under way, is never committed and so not stored. It is sent again.
                for mut pending in following.messages.into_iter().rev() {
                    pending.note_not_stored();
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
        self.send_repeats(round).await
    }

    /// Adds what waits, as long as there is room; what the batch before it holds has to wait for that one's answer.
    async fn fill(&mut self, round: &Round, batch: &mut AppendBatch, before: Option<&AppendBatch>) {
        let client = self.connection.client.clone();
        let mut later = Vec::new();
        while batch.has_room() {
            let Some(mut pending) = self.next() else { break };
            if before.is_some_and(|before| before.holds(pending.id())) {
                later.push(pending);
            } else if !pending.is_abandoned() {
                pending.note_sent(Instant::now());
                batch.add(round, &client, pending).await;
            }
        }
        for pending in later.into_iter().rev() {
            self.waiting.push_front(pending);
        }
    }

    /// Tells everyone; what has no answer yet goes back to the front. True if there was trouble.
    fn settle(&mut self, batch: Vec<Pending>, fates: Vec<Published>) -> bool {
        let mut again = Vec::new();
        let mut no_room = None;
        let mut trouble = false;
        if fates
            .iter()
            .any(|fate| matches!(fate, Published::Stored { duplicate: false, .. }))
        {
            self.acknowledging.acknowledged();
        } else if !fates.is_empty() && fates.iter().all(|fate| matches!(fate, Published::Stored { .. })) {
            self.acknowledging.recognised();
        }
        for (pending, fate) in batch.into_iter().zip(fates) {
            trouble |= !matches!(fate, Published::Stored { .. });
            match fate {
                Published::Stored { sequence, duplicate } => self.stored(pending, sequence, duplicate),
                Published::Refused(reason) => {
                    tracing::warn!(%reason, "the event log refused an event");
                    pending.answer(&Err(AppendError::Refused(reason)));
                }
                Published::NoRoom(reason) => {
                    no_room = Some((reason.clone(), pending.event.payload.len()));
                    pending.answer(&Err(AppendError::Refused(reason)));
                }
                Published::Unknown => again.push(pending),
            }
        }
        if let Some((reason, bytes)) = no_room {
            self.acknowledging.refused(&reason, bytes);
        }
        for pending in again.into_iter().rev() {
            self.waiting.push_front(pending);
        }
        trouble
    }

    fn stored(&mut self, pending: Pending, sequence: u64, duplicate: bool) {
        if !duplicate {
            self.recent.insert(pending.id());
            self.measured.appended(pending.event.envelope.event_type);
        }
        let by_whom_is_open = duplicate && pending.sent_again;
        pending.answer(&Ok(Stored {
            appended: Appended { sequence, duplicate },
            by_whom_is_open,
        }));
    }
}

/// No event twice, with all who wait for it.
fn joined(all: impl Iterator<Item = Pending>) -> Vec<Pending> {
    let (mut each, mut places): (Vec<Pending>, HashMap<EventId, usize>) = (Vec::new(), HashMap::new());
    for pending in all {
        match places.entry(pending.id()) {
            Entry::Occupied(place) => each[*place.get()].join(pending),
            Entry::Vacant(new) => {
                new.insert(each.len());
                each.push(pending);
            }
        }
    }
    each
}
