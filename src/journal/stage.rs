//! Stages: what consumes the log on durable consumers, one a partition.
//!
//! Each partition's consumer hands out one message at a time, whichever instance asks for it (`max_ack_pending: 1`), so
//! the events of one order are handled one after another by all instances together. A stage says what follows from an
//! event; only the runner here acknowledges, and only after that is on the log. A crash in between makes the server
//! hand out the message again; the ids of what follows are derived, so it is not recorded twice.
//!
//! A message that cannot be read becomes an `order.rejected` of its own: never a loop, never a silent acknowledgement.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::jetstream::{AckKind, Message, consumer::PullConsumer};
use bytes::Bytes;
use chrono::Utc;
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{
    Journal, codec,
    settle::{Failure, Settlement, settle},
    streams,
};
use crate::event::{
    Envelope, EventId, EventType, NewEvent, Recorded,
    outcome::{ErrorReport, ErrorType, Rejected},
};

/// Messages that one pull request may bring, one after another as they are acknowledged.
const PULL_MESSAGES: usize = 64;
/// How long a pull request stands before it is renewed.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often the server says that it is there; two missing ones and the client asks again.
const PULL_HEARTBEAT: Duration = Duration::from_secs(5);
/// How often a message that is being handled is reported as such; the server waits 30 s (`ack_wait`) for that.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Pause before a consumer is opened again after trouble, and before an outcome is appended again.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_millis(250);
/// How long an outcome is still tried to be recorded after the hub was told to stop.
const RECORD_GRACE: Duration = Duration::from_secs(15);

/// Something that turns events into events.
pub trait Stage: Send + Sync + 'static {
    /// Its name, and the first part of its consumers' names: `forward` for `forward-p07`.
    const NAME: &'static str;

    /// Waits until there is a point in taking a message (breaker open: here).
    fn ready(&self) -> impl Future<Output = ()> + Send;

    /// Whether [`Self::ready`] would return at once.
    fn is_ready(&self) -> bool;

    /// What follows from an event. `attempt` counts from 1.
    fn handle(&self, event: &Recorded, attempt: u32) -> impl Future<Output = Result<Vec<NewEvent>, Failure>> + Send;
}

/// Runs a stage on one partition until told to stop; then the message in hand is finished first.
///
/// # Errors
/// Where the consumer does not exist on the server.
pub async fn run<S: Stage>(stage: Arc<S>, journal: Journal, partition: u16, stop: CancellationToken) -> anyhow::Result<()> {
    let name = format!("{}-{}", S::NAME, codec::partition_token(partition));
    let mut worker = Worker { stage, journal, stop, name, settled: 0 };
    loop {
        tokio::select! {
            biased;
            () = worker.stop.cancelled() => return Ok(()),
            () = worker.stage.ready() => {}
        }
        if let Err(error) = worker.consume().await {
            if worker.stop.is_cancelled() {
                return Ok(());
            }
            if error.downcast_ref::<streams::Missing>().is_some() {
                return Err(error);
            }
            tracing::warn!(consumer = worker.name, error = format!("{error:#}"), "consuming again after trouble");
            tokio::time::sleep(PAUSE_AFTER_TROUBLE).await;
        }
    }
}

struct Worker<S> {
    stage: Arc<S>,
    journal: Journal,
    stop: CancellationToken,
    name: String,
    /// The last sequence whose outcome this worker saw on the log. The partition goes in order, so whatever comes again
    /// from before it (NATS can lose acknowledgements when it is killed) has its outcome too.
    settled: u64,
}

impl<S: Stage> Worker<S> {
    /// Takes messages while the stage is ready.
    async fn consume(&mut self) -> anyhow::Result<()> {
        let consumer: PullConsumer = streams::consumer(self.journal.connection(), &self.name).await?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(PULL_MESSAGES)
            .expires(PULL_EXPIRES)
            .heartbeat(PULL_HEARTBEAT)
            .messages()
            .await
            .context("cannot pull")?;
        while self.stage.is_ready() {
            let message = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                message = messages.next() => message,
            };
            match message {
                Some(Ok(message)) => self.process(message).await?,
                // A missed heartbeat is told as an error, and the stream goes on.
                Some(Err(error)) => tracing::debug!(consumer = self.name, %error, "pull"),
                None => break,
            }
        }
        // What the server handed over meanwhile goes back at once, not only when its time is over.
        while let Some(Some(Ok(message))) = messages.next().now_or_never() {
            give_back(&message, Duration::ZERO).await;
        }
        Ok(())
    }

    async fn process(&mut self, message: Message) -> anyhow::Result<()> {
        let (sequence, attempt, age, pending) = {
            let info = message.info().map_err(|error| anyhow::anyhow!("not a JetStream message: {error}"))?;
            let age = Utc::now().timestamp_millis() - (info.published.unix_timestamp_nanos() / 1_000_000) as i64;
            (info.stream_sequence, u32::try_from(info.delivered).unwrap_or(1), age, info.pending)
        };
        metrics::gauge!("stage_pending", "stage" => S::NAME, "partition" => self.name.clone()).set(pending as f64);
        metrics::gauge!("stage_lag_seconds", "stage" => S::NAME).set(age.max(0) as f64 / 1000.0);
        if sequence <= self.settled {
            return acknowledge(&message).await;
        }
        let result = match codec::decode(message.headers.as_ref(), message.payload.clone(), sequence) {
            Ok(event) => self.handle(&message, &event, attempt).await,
            Err(error) => {
                tracing::error!(consumer = self.name, sequence, %error, "a message on the log is no event");
                Ok(vec![unreadable(&message, sequence, &error)])
            }
        };
        if let Err(failure) = &result {
            let (Failure::Retry { cause, .. } | Failure::Hold { cause }) = failure;
            tracing::debug!(stage = S::NAME, attempt, cause, "not settled yet");
        }
        match settle(attempt, result) {
            Settlement::Done(events) => {
                if self.record(events).await {
                    self.settled = sequence;
                    acknowledge(&message).await?;
                }
            }
            Settlement::Again(events, pause) => {
                if self.record(events).await {
                    give_back(&message, pause).await;
                }
            }
        }
        Ok(())
    }

    /// Lets the stage work, telling the server meanwhile that somebody does.
    async fn handle(&self, message: &Message, event: &Recorded, attempt: u32) -> Result<Vec<NewEvent>, Failure> {
        let handling = self.stage.handle(event, attempt);
        tokio::pin!(handling);
        loop {
            tokio::select! {
                biased;
                result = &mut handling => return result,
                () = tokio::time::sleep(PROGRESS_EVERY) => {
                    // If it does not get through, the message comes again: nothing is lost.
                    let _ = message.ack_with(AckKind::Progress).await;
                }
            }
        }
    }

    /// Appends what follows, as often as it takes. False where the hub goes down before it is on the log: then the
    /// message is not acknowledged and comes again.
    async fn record(&self, events: Vec<NewEvent>) -> bool {
        let mut asked_to_stop_at = None;
        for event in events {
            while let Err(error) = self.journal.append(event.clone()).await {
                tracing::warn!(stage = S::NAME, event = %event.envelope.event_type, %error, "cannot record, trying again");
                if self.stop.is_cancelled() && asked_to_stop_at.get_or_insert_with(Instant::now).elapsed() > RECORD_GRACE {
                    return false;
                }
                tokio::time::sleep(PAUSE_AFTER_TROUBLE).await;
            }
        }
        true
    }
}

async fn acknowledge(message: &Message) -> anyhow::Result<()> {
    message.ack().await.map_err(|error| anyhow::anyhow!("cannot acknowledge: {error}"))
}

async fn give_back(message: &Message, pause: Duration) {
    let pause = Some(pause).filter(|pause| !pause.is_zero());
    if let Err(error) = message.ack_with(AckKind::Nak(pause)).await {
        tracing::debug!(%error, "cannot give back; the message comes again by itself");
    }
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
    let payload = serde_json::to_vec(&Rejected { error: report }).map(Bytes::from).unwrap_or_default();
    NewEvent { envelope, payload }
}
