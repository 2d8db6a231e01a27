//! Reads the log in segments, several at a time, and hands each event with its outcome to be judged.
//!
//! An outcome says which event it is of. That one usually stands a few places before it; otherwise it is read by its sequence. So a
//! segment needs no other one, and what is kept in memory depends on neither the length of the log nor the age of an outcome.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::task::JoinHandle;

use super::{
    judge::{Pair, judge},
    outcomes::{Cause, cause},
    range::Range,
    readings::Readings,
    tally::Tally,
};
use crate::{
    config::ConfigError,
    delivery::stage::Stage as _,
    event::{EventId, EventType, Recorded, outcome::RetryRequested},
    journal::{
        connection::Connection,
        read::{Entry, LogReader, Start, event_at},
    },
    transform::Transform,
};

/// Sequences of a segment.
const SEGMENT: u64 = 20_000;
/// Most bytes of events that wait for their outcome in a segment. Beyond that they are read again when it comes.
const MAX_WAITING_BYTES: usize = 32 * 1024 * 1024;
/// Events that are read by their sequence at a time.
const LOOK_UPS: usize = 32;
/// Events of which fewer than one in so many is needed are read one by one.
const SPARSE: u64 = 8;
/// Most retries in the range, each some 50 bytes in memory.
const MAX_RETRIES: usize = 1_000_000;

/// A replay, as far as it has come.
pub(super) struct Scan {
    pub(super) readings: Readings,
    pub(super) range: Range,
    /// Events that were retried: only their last outcome counts.
    retried: HashSet<u64>,
    /// Requests of retries that have no outcome yet.
    retries: Mutex<HashSet<EventId>>,
    /// The last outcome of each event that was retried.
    latest: Mutex<HashMap<u64, u64>>,
    /// The next sequence that no worker has taken.
    next: AtomicU64,
    /// Sequences that were read.
    pub(super) done: AtomicU64,
    inputs: AtomicU64,
    ended: AtomicU64,
    tally: Mutex<Tally>,
}

impl Scan {
    /// Of a range; looks first which of its events were retried.
    ///
    /// # Errors
    /// If NATS does not answer, or more were retried than are kept.
    pub(super) async fn of(log: &Connection, range: Range, readings: Readings, limit: usize) -> anyhow::Result<Self> {
        let (mut retried, mut retries) = (HashSet::new(), HashSet::new());
        let subjects = format!("{}.>", EventType::OrderRetryRequested.subject_root());
        let mut reader = LogReader::of_subjects(log, subjects, Start::Sequence(range.first));
        loop {
            let entries = reader.next_batch().await.context("cannot read the retries")?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                let Entry::Event(event) = entry else { continue };
                let request = serde_json::from_slice::<RetryRequested>(&event.payload).ok();
                let of_range =
                    request.filter(|request| request.stage == Transform::NAME && range.holds(request.sequence));
                if let Some(request) = of_range {
                    retried.insert(request.sequence);
                    retries.insert(event.envelope.id);
                }
            }
            ensure!(
                retries.len() <= MAX_RETRIES,
                "more than {MAX_RETRIES} events of the range were retried; narrow it with --from and --to"
            );
        }
        let next = AtomicU64::new(range.first);
        Ok(Self {
            readings,
            range,
            retried,
            retries: Mutex::new(retries),
            latest: Mutex::default(),
            next,
            done: AtomicU64::new(0),
            inputs: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            tally: Mutex::new(Tally::new(limit)),
        })
    }

    /// How many events of the range have no outcome.
    pub(super) fn open(&self) -> u64 {
        let ended = self.ended.load(Ordering::Relaxed) + lock(&self.latest).len() as u64;
        self.inputs.load(Ordering::Relaxed).saturating_sub(ended)
    }

    /// Whether each event of the range has its last outcome.
    fn is_settled(&self) -> bool {
        self.open() == 0 && lock(&self.retries).is_empty()
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// Takes segments up to a sequence until none is left; behind the range only while outcomes are missing.
    ///
    /// # Errors
    /// If NATS does not answer, or a provider's settings are incomplete.
    pub(super) async fn work(self: Arc<Self>, log: Connection, last: u64) -> anyhow::Result<()> {
        loop {
            let first = self.next.load(Ordering::Relaxed);
            if first > last || (first > self.range.last && self.is_settled()) {
                return Ok(());
            }
            let end = first.saturating_add(SEGMENT - 1).min(last);
            let taken = self
                .next
                .compare_exchange(first, end + 1, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_ok() {
                Segment::of(&self, &log).read(first, end).await?;
                self.done.fetch_add(end + 1 - first, Ordering::Relaxed);
            }
        }
    }

    /// Judges the events that were retried, by their last outcome.
    ///
    /// # Errors
    /// The same as [`Self::work`].
    pub(super) async fn judge_retried(self: &Arc<Self>, log: &Connection) -> anyhow::Result<()> {
        let mut latest: Vec<_> = lock(&self.latest)
            .iter()
            .map(|(cause, outcome)| (*cause, *outcome))
            .collect();
        latest.sort_unstable();
        for some in latest.chunks(LOOK_UPS * LOOK_UPS) {
            let read = |(cause, outcome): &(u64, u64)| {
                let (cause, outcome) = (*cause, *outcome);
                async move { event_at(log, outcome).await.map(|outcome| (cause, outcome)) }
            };
            let mut reading = stream::iter(some.iter().map(read)).buffered(LOOK_UPS);
            let mut found = Vec::new();
            while let Some(read) = reading.next().await {
                let (cause, outcome) = read?;
                found.extend(outcome.map(|outcome| (cause, outcome)));
            }
            drop(reading);
            let mut segment = Segment::of(self, log);
            segment.judge(found).await?;
            segment.finish().await?;
        }
        Ok(())
    }

    /// Notes an outcome of an event that was retried.
    fn note_retried(&self, cause: u64, outcome: &Recorded) {
        if let Some(run) = outcome.envelope.cause_id {
            lock(&self.retries).remove(&run);
        }
        let mut latest = lock(&self.latest);
        let known = latest.entry(cause).or_default();
        *known = outcome.sequence.max(*known);
    }
}

/// An outcome, and the sequence of the event that it is of.
type Found = (u64, Recorded);

/// A part of the log, while it is read.
struct Segment<'a> {
    scan: &'a Arc<Scan>,
    log: &'a Connection,
    /// Events without an outcome so far, and how large they are.
    waiting: HashMap<u64, Recorded>,
    bytes: usize,
    by_id: HashMap<EventId, u64>,
    /// Webhooks with orders that are being fetched.
    webhooks: HashMap<u64, Bytes>,
    /// What is being judged.
    judging: Option<JoinHandle<Result<Tally, ConfigError>>>,
}

impl<'a> Segment<'a> {
    fn of(scan: &'a Arc<Scan>, log: &'a Connection) -> Self {
        Self {
            scan,
            log,
            waiting: HashMap::new(),
            bytes: 0,
            by_id: HashMap::new(),
            webhooks: HashMap::new(),
            judging: None,
        }
    }

    /// Reads it, while the batch before is judged.
    async fn read(mut self, first: u64, last: u64) -> anyhow::Result<()> {
        let mut reader = self.scan.range.reader(self.log, first, last);
        let mut is_over = false;
        while !is_over {
            let entries = reader.next_batch().await.context("cannot read the event log")?;
            is_over = entries.last().is_none_or(|last_read| last_read.sequence() >= last);
            let mut found = Vec::new();
            for entry in entries {
                match entry {
                    Entry::Event(event) if event.sequence <= last => found.extend(self.note(*event)),
                    Entry::Unreadable { sequence, .. } if self.scan.range.holds(sequence) && sequence <= last => {
                        self.scan.tally().unreadable += 1;
                    }
                    _ => {}
                }
            }
            self.judge(found).await?;
        }
        self.finish().await
    }

    /// Keeps an event of the range; returns an outcome of one.
    fn note(&mut self, event: Recorded) -> Option<Found> {
        let range = &self.scan.range;
        if range.includes(&event) {
            self.scan.inputs.fetch_add(1, Ordering::Relaxed);
            self.by_id.insert(event.envelope.id, event.sequence);
            self.bytes += event.payload.len();
            self.waiting.insert(event.sequence, event);
            if self.bytes > MAX_WAITING_BYTES {
                (self.waiting, self.bytes) = (HashMap::new(), 0);
            }
            return None;
        }
        let cause = match cause(&event)? {
            Cause::At(sequence) => sequence,
            Cause::Named(id) => *self.by_id.get(&id)?,
        };
        if !range.holds(cause) || !range.concerns(&event) {
            return None;
        }
        if self.scan.retried.contains(&cause) {
            self.scan.note_retried(cause, &event);
            return None;
        }
        Some((cause, event))
    }

    /// Has these judged, after those before.
    async fn judge(&mut self, found: Vec<Found>) -> anyhow::Result<()> {
        let mut pairs = Vec::with_capacity(found.len());
        let mut elsewhere = Vec::new();
        for (cause, logged) in found {
            match self.waiting.remove(&cause) {
                Some(input) => {
                    self.bytes = self.bytes.saturating_sub(input.payload.len());
                    pairs.push(self.pair(input, logged));
                }
                None => elsewhere.push((cause, logged)),
            }
        }
        let mut inputs = self.inputs(elsewhere.iter().map(|(cause, _)| *cause).collect()).await?;
        for (cause, logged) in elsewhere {
            if let Some(input) = inputs.remove(&cause).filter(|input| self.scan.range.includes(input)) {
                pairs.push(self.pair(input, logged));
            }
        }
        for pair in &mut pairs {
            self.complete(pair).await?;
        }
        self.finish().await?;
        if pairs.is_empty() {
            return Ok(());
        }
        self.scan.ended.fetch_add(
            pairs.iter().filter(|pair| self.is_first(pair)).count() as u64,
            Ordering::Relaxed,
        );
        let scan = Arc::clone(self.scan);
        self.judging = Some(tokio::task::spawn_blocking(move || {
            let mut tally = scan.tally().beside();
            for pair in pairs {
                let judged = judge(&scan.readings, &pair)?;
                tally.add(&pair, judged);
            }
            Ok(tally)
        }));
        Ok(())
    }

    /// Events by their sequences: read in one go if they stand close to each other, as they do behind a stage that was away.
    async fn inputs(&self, sequences: BTreeSet<u64>) -> anyhow::Result<HashMap<u64, Recorded>> {
        let (Some(first), Some(last)) = (sequences.first().copied(), sequences.last().copied()) else {
            return Ok(HashMap::new());
        };
        let mut inputs = HashMap::new();
        if (last - first) / SPARSE > sequences.len() as u64 {
            let log = self.log;
            let read = |sequence| event_at(log, sequence);
            let mut reading = stream::iter(sequences.into_iter().map(read)).buffered(LOOK_UPS);
            while let Some(read) = reading.next().await {
                inputs.extend(read?.map(|event| (event.sequence, event)));
            }
            return Ok(inputs);
        }
        let most = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
        let mut reader = self.scan.range.reader(self.log, first, last).at_most(most);
        loop {
            let entries = reader.next_batch().await.context("cannot read the event log")?;
            let is_over = entries.last().is_none_or(|read| read.sequence() >= last);
            inputs.extend(entries.into_iter().filter_map(|entry| match entry {
                Entry::Event(event) if sequences.contains(&event.sequence) => Some((event.sequence, *event)),
                _ => None,
            }));
            if is_over {
                return Ok(inputs);
            }
        }
    }

    /// Whether a pair's event is counted as ended only now. Those that were retried are counted by their own table.
    fn is_first(&self, pair: &Pair) -> bool {
        !self.scan.retried.contains(&pair.input.sequence)
    }

    fn pair(&mut self, input: Recorded, logged: Recorded) -> Pair {
        if logged.envelope.event_type == EventType::OrderFetchRequested {
            self.webhooks.insert(input.sequence, input.payload.clone());
        }
        Pair {
            input,
            webhook: None,
            logged,
        }
    }

    /// Adds the webhook of a fetched order.
    async fn complete(&mut self, pair: &mut Pair) -> anyhow::Result<()> {
        let request = pair.input.envelope.request.as_ref();
        let sequence = request.and_then(|request| request.webhook_sequence);
        let (EventType::OrderFetched, Some(sequence)) = (pair.input.envelope.event_type, sequence) else {
            return Ok(());
        };
        pair.webhook = match self.webhooks.remove(&sequence) {
            Some(webhook) => Some(webhook),
            None => event_at(self.log, sequence).await?.map(|webhook| webhook.payload),
        };
        Ok(())
    }

    /// Waits for what is being judged.
    async fn finish(&mut self) -> anyhow::Result<()> {
        if let Some(judging) = self.judging.take() {
            let tally = judging.await.context("a replay broke off")??;
            self.scan.tally().merge(tally);
        }
        Ok(())
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
