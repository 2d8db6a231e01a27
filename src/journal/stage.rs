//! Stages: what consumes the log, each on a durable consumer.
//!
//! One instance works on a stage at a time, by a [lease](super::lease); the others stand by. It handles many orders at
//! once and the events of each order one after another: an event waits for the one before it of the same order, and for
//! nothing else. A stage says what follows from an event; only the runner here acknowledges, and only after that is on
//! the log. An instance that takes over reads from the log what was left open (`recovery`) and begins with that, so no
//! newer event of an order overtakes an older one.
//!
//! A message that cannot be read becomes an `order.rejected` of its own: never a loop, never a silent acknowledgement.

mod recovery;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::Future,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use async_nats::jetstream::{Message, consumer::pull::Stream as Messages};
use bytes::Bytes;
use chrono::Utc;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    Journal, codec,
    lease::{Lease, Validity},
    settle::{Failure, Settlement, settle},
    streams,
};
use crate::event::{
    Envelope, EventId, EventType, NewEvent, Recorded,
    outcome::{ErrorReport, ErrorType, Rejected},
};

/// Events that are held at a time, waiting or at work. The consumers' `max_ack_pending` is a bit more.
const MAX_HELD: usize = 1024;
/// Bytes of their payloads; one event more is always taken.
const MAX_HELD_BYTES: usize = 16 * 1024 * 1024;
/// Messages and bytes that one pull request brings. The largest message has 8 MB.
const PULL_MESSAGES: usize = 500;
const PULL_BYTES: usize = 16 * 1024 * 1024;
/// How long a pull request stands before it is renewed: less than a lease, so that the request of an instance that
/// stands still is over before another takes its place.
const PULL_EXPIRES: Duration = Duration::from_secs(3);
/// How often the server says that it is there; two missing ones and the client asks again.
const PULL_HEARTBEAT: Duration = Duration::from_secs(1);
/// How often it is looked whether the consumer handed messages to somebody else.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Settled sequences that are remembered, should the server hand one out again because an acknowledgement got lost.
const MAX_CLOSED: usize = 65_536;
/// Pause after trouble: before the lease is asked for again, before an outcome is appended again.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_millis(250);

/// Something that turns events into events.
pub trait Stage: Send + Sync + 'static {
    /// Its name, its durable consumer's and its lease's.
    const NAME: &'static str;
    /// The only type of event that it takes.
    const TAKES: EventType;

    /// Waits until there is a point in handling an event (breaker open: here).
    fn ready(&self) -> impl Future<Output = ()> + Send;

    /// Whether [`Self::ready`] would return at once.
    fn is_ready(&self) -> bool;

    /// What follows from an event. `attempt` counts from 1.
    fn handle(&self, event: &Recorded, attempt: u32) -> impl Future<Output = Result<Vec<NewEvent>, Failure>> + Send;
}

/// Runs a stage until told to stop; then what is at work is finished, and what waits is left to the log.
///
/// # Errors
/// Where the consumer does not exist on the server.
pub async fn run<S: Stage>(stage: Arc<S>, journal: Journal, stop: CancellationToken) -> anyhow::Result<()> {
    let worker = Worker { stage, journal, stop };
    while !worker.stop.is_cancelled() {
        if let Err(error) = worker.work_while_it_is_ours().await {
            if error.downcast_ref::<streams::Missing>().is_some() {
                return Err(error);
            }
            tracing::warn!(
                stage = S::NAME,
                error = format!("{error:#}"),
                "beginning again after trouble"
            );
        }
        tokio::select! {
            () = worker.stop.cancelled() => {}
            () = tokio::time::sleep(PAUSE_AFTER_TROUBLE) => {}
        }
    }
    Ok(())
}

/// One event of the stage, and how to acknowledge it.
struct Item {
    event: Recorded,
    /// Attempts that were made before.
    attempts: u32,
    /// None where it was read from the log: then the server will hand it out once more.
    message: Option<Message>,
}

/// Whose order it is.
type Key = (Arc<str>, String);

struct Worker<S> {
    stage: Arc<S>,
    journal: Journal,
    stop: CancellationToken,
}

impl<S: Stage> Worker<S> {
    async fn work_while_it_is_ours(&self) -> anyhow::Result<()> {
        let connection = self.journal.connection();
        let taking = async {
            connection.wait_up().await;
            Lease::take(connection, S::NAME).await
        };
        let mut lease = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            lease = taking => lease?,
        };
        tracing::info!(stage = S::NAME, "working");
        let validity = lease.validity();
        let finished = tokio::select! {
            biased;
            worked = self.work(validity) => Some(worked),
            () = lease.keep() => None,
        };
        match finished {
            Some(worked) => {
                lease.give_back().await;
                worked
            }
            None => anyhow::bail!("the lease is lost; another instance may have it"),
        }
    }

    async fn work(&self, lease: Validity) -> anyhow::Result<()> {
        let connection = self.journal.connection();
        let unsettled = recovery::read::<S>(connection).await?;
        if !unsettled.open.is_empty() {
            tracing::info!(
                stage = S::NAME,
                events = unsettled.open.len(),
                "taking up what was left open"
            );
        }
        let mut consumer = streams::consumer(connection, S::NAME).await?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(PULL_MESSAGES)
            .max_bytes_per_batch(PULL_BYTES)
            .expires(PULL_EXPIRES)
            .heartbeat(PULL_HEARTBEAT)
            .messages()
            .await
            .context("cannot pull")?;
        let mut held = Held::new(unsettled.closed);
        let mut stray = Stray {
            last: unsettled.handed_out,
            suspect: None,
        };
        let mut look = tokio::time::interval(LOOK_EVERY);
        for item in unsettled_items(unsettled.open) {
            held.push(item);
        }
        let mut at_work = FuturesUnordered::new();
        while !self.stop.is_cancelled() {
            while let Some(item) = held.next() {
                at_work.push(self.settle(item, &lease));
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(done) = at_work.next() => held.finish(done?),
                message = take(&*self.stage, &mut messages), if held.has_room() => {
                    let Some(message) = message? else { continue };
                    stray.received(&message)?;
                    self.hold(message, &mut held).await?;
                }
                _ = look.tick() => {
                    let info = consumer.info().await.context("cannot look up the consumer")?;
                    stray.compare(info.delivered.consumer_sequence, held.has_room() && self.stage.is_ready())?;
                }
            }
        }
        // What is at work ends; what waits for its turn, or for its next attempt, is on the log and not acknowledged.
        drop(messages);
        while let Some(done) = at_work.next().await {
            done?;
        }
        Ok(())
    }

    /// Sorts a message in: to be handled, or known already.
    async fn hold(&self, message: Message, held: &mut Held) -> anyhow::Result<()> {
        let info = message
            .info()
            .map_err(|error| anyhow::anyhow!("not a JetStream message: {error}"))?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let age_ms = Utc::now().timestamp_millis() - i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000)?;
        metrics::gauge!("stage_pending", "stage" => S::NAME).set(pending as f64);
        metrics::gauge!("stage_lag_seconds", "stage" => S::NAME).set(age_ms.max(0) as f64 / 1000.0);
        if held.is_closed(sequence) {
            return acknowledge(&message).await;
        }
        if held.is_held(sequence) {
            return Ok(());
        }
        match codec::decode(message.headers.as_ref(), message.payload.clone(), sequence) {
            Ok(event) => held.push(Item {
                event,
                attempts: 0,
                message: Some(message),
            }),
            Err(error) => {
                tracing::error!(stage = S::NAME, sequence, %error, "a message on the log is no event");
                if self.record(vec![unreadable(&message, sequence, &error)]).await {
                    acknowledge(&message).await?;
                }
            }
        }
        Ok(())
    }

    /// Handles an event as often as it takes, records what follows, acknowledges.
    async fn settle(&self, item: Item, lease: &Validity) -> anyhow::Result<Done> {
        let done = |settled| Done {
            key: key(&item.event),
            sequence: item.event.sequence,
            bytes: item.event.payload.len(),
            settled,
        };
        let mut attempt = item.attempts + 1;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(done(false)),
                () = self.stage.ready() => {}
            }
            // Whoever stood still for longer than its lease must not act as if nothing had happened.
            if !lease.holds() {
                anyhow::bail!("the lease ran out");
            }
            match settle(attempt, self.stage.handle(&item.event, attempt).await) {
                Settlement::Done(events) => {
                    let recorded = self.record(events).await;
                    if let (true, Some(message)) = (recorded, &item.message) {
                        acknowledge(message).await?;
                    }
                    return Ok(done(recorded));
                }
                Settlement::Again(events, pause) => {
                    if !self.record(events).await {
                        return Ok(done(false));
                    }
                    attempt += 1;
                    tokio::select! {
                        () = self.stop.cancelled() => return Ok(done(false)),
                        () = tokio::time::sleep(pause) => {}
                    }
                }
                Settlement::Hold => tokio::task::yield_now().await,
            }
        }
    }

    /// Appends what follows, as often as it takes. False where the hub goes down before it is on the log: then the
    /// message is not acknowledged and is taken up again.
    async fn record(&self, events: Vec<NewEvent>) -> bool {
        for event in events {
            while let Err(error) = self.journal.append(event.clone()).await {
                tracing::warn!(stage = S::NAME, event = %event.envelope.event_type, %error, "cannot record, trying again");
                if self.stop.is_cancelled() {
                    return false;
                }
                tokio::time::sleep(PAUSE_AFTER_TROUBLE).await;
            }
        }
        true
    }
}

/// The next message, once the stage is ready for one; none where there was only a sign of life.
async fn take<S: Stage>(stage: &S, messages: &mut Messages) -> anyhow::Result<Option<Message>> {
    stage.ready().await;
    match messages.next().await {
        Some(Ok(message)) => Ok(Some(message)),
        Some(Err(error)) => {
            // A missed heartbeat is told as an error, and the stream goes on.
            tracing::debug!(stage = S::NAME, %error, "pull");
            Ok(None)
        }
        None => anyhow::bail!("the consumer's messages ended"),
    }
}

fn unsettled_items(open: Vec<(Recorded, u32)>) -> impl Iterator<Item = Item> {
    open.into_iter().map(|(event, attempts)| Item {
        event,
        attempts,
        message: None,
    })
}

fn key(event: &Recorded) -> Key {
    (
        Arc::clone(&event.envelope.provider),
        event.envelope.external_order_id.clone(),
    )
}

/// How the work on an event ended.
struct Done {
    key: Key,
    sequence: u64,
    bytes: usize,
    /// Its outcome is on the log.
    settled: bool,
}

/// Notices messages that the consumer handed to somebody else: an instance that stood still, woke up and asked for more
/// before it found its lease gone. Newer events of the same orders must not overtake those, so the work begins anew, with
/// what is open on the log.
struct Stray {
    /// The consumer's number of the last message that came here.
    last: u64,
    /// A later number that the consumer named, which may still be on its way here.
    suspect: Option<u64>,
}

impl Stray {
    fn received(&mut self, message: &Message) -> anyhow::Result<()> {
        let number = message
            .info()
            .map_err(|error| anyhow::anyhow!("not a JetStream message: {error}"))?
            .consumer_sequence;
        if number > self.last + 1 {
            anyhow::bail!("the consumer handed messages to somebody else");
        }
        self.last = self.last.max(number);
        Ok(())
    }

    /// `taking`: whether all that is on its way here would have been taken since the last look.
    fn compare(&mut self, handed_out: u64, taking: bool) -> anyhow::Result<()> {
        if self.suspect.is_some_and(|suspect| taking && self.last < suspect) {
            anyhow::bail!("the consumer handed its last messages to somebody else");
        }
        self.suspect = (taking && handed_out > self.last).then_some(handed_out);
        Ok(())
    }
}

/// The events that an instance holds: for each order those that wait, and which are ready to be worked on.
struct Held {
    /// Orders with an event at work, and what waits behind it.
    orders: HashMap<Key, VecDeque<Item>>,
    ready: VecDeque<Item>,
    sequences: HashSet<u64>,
    /// Settled lately; should the server hand one out again, it needs no more than an acknowledgement.
    closed: HashSet<u64>,
    closed_order: VecDeque<u64>,
    bytes: usize,
}

impl Held {
    fn new(closed: HashSet<u64>) -> Self {
        let closed_order = closed.iter().copied().collect();
        Self {
            orders: HashMap::new(),
            ready: VecDeque::new(),
            sequences: HashSet::new(),
            closed,
            closed_order,
            bytes: 0,
        }
    }

    fn has_room(&self) -> bool {
        self.sequences.len() < MAX_HELD && self.bytes < MAX_HELD_BYTES
    }

    fn is_held(&self, sequence: u64) -> bool {
        self.sequences.contains(&sequence)
    }

    /// Whether it is settled and waits for nothing but its acknowledgement.
    fn is_closed(&self, sequence: u64) -> bool {
        self.closed.contains(&sequence)
    }

    fn push(&mut self, item: Item) {
        self.sequences.insert(item.event.sequence);
        self.bytes += item.event.payload.len();
        match self.orders.get_mut(&key(&item.event)) {
            Some(waiting) => waiting.push_back(item),
            None => {
                self.orders.insert(key(&item.event), VecDeque::new());
                self.ready.push_back(item);
            }
        }
    }

    fn next(&mut self) -> Option<Item> {
        self.ready.pop_front()
    }

    /// Lets the next event of the order have its turn.
    fn finish(&mut self, done: Done) {
        self.sequences.remove(&done.sequence);
        self.bytes -= done.bytes;
        if done.settled && self.closed.insert(done.sequence) {
            self.closed_order.push_back(done.sequence);
            if self.closed_order.len() > MAX_CLOSED
                && let Some(oldest) = self.closed_order.pop_front()
            {
                self.closed.remove(&oldest);
            }
        }
        if let Some(waiting) = self.orders.get_mut(&done.key) {
            match waiting.pop_front() {
                Some(next) => self.ready.push_back(next),
                None => {
                    self.orders.remove(&done.key);
                }
            }
        }
    }
}

async fn acknowledge(message: &Message) -> anyhow::Result<()> {
    message
        .ack()
        .await
        .map_err(|error| anyhow::anyhow!("cannot acknowledge: {error}"))
}

/// What is recorded about a message that is no event.
fn unreadable(message: &Message, sequence: u64, error: &codec::CodecError) -> NewEvent {
    let id = EventId::of_unreadable(sequence);
    let provider = message.subject.split('.').nth(2).unwrap_or("_");
    let report = ErrorReport {
        error_type: ErrorType::Validation,
        code: "UNREADABLE_EVENT".into(),
        message: format!("message {sequence} of the event log cannot be read: {error}"),
        details: json!({ "sequence": sequence, "subject": message.subject.as_str() }),
    };
    let now = Utc::now();
    let envelope = Envelope {
        id: id.derive("rejected"),
        event_type: EventType::OrderRejected,
        root_id: id,
        cause_id: Some(id),
        provider: Arc::from(provider),
        external_order_id: "_".into(),
        webhook_type: String::new(),
        branch: None,
        time: now,
        received_at: now,
        request_id: String::new(),
        traceparent: None,
        request: None,
    };
    let payload = serde_json::to_vec(&Rejected { error: report })
        .map(Bytes::from)
        .unwrap_or_default();
    NewEvent { envelope, payload }
}
