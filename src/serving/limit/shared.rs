//! Keeps the limits of all instances together. No request waits for it: each instance decides by what it knows.
//!
//! What was taken of a quota is added to a counter of the stream `LIMITS`, one for each provider and window. The answer is
//! the new value, which is sent to the other instances on the core NATS subject `hub.quota`; there they also announce
//! themselves. Blocks and known addresses are records in the stream `BLOCKS`: all instances receive them as they are written,
//! and read the stream at the start and after an outage of NATS. The breaker's protocol ([`crate::delivery::gate::shared`]) is simpler, because one instance knows its state.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Limits, lock, now_ms,
    stored::{self, BLOCK_SUBJECTS, KNOWN_SUBJECTS, LimitRecord},
    window::{QuotaReport, ReportOutcome},
};
use crate::journal::{connection::Connection, publish::PubAck};

/// The subject on which instances announce themselves and report the counters.
const SUBJECT: &str = "hub.quota";
/// Interval of reports to the counters, where there are other instances and nothing is urgent. Each time costs the
/// server an fsync.
const TICK: Duration = Duration::from_millis(100);
/// How often an instance says that it is there, an instance that is alone tells the counters, and ended blocks are
/// forgotten; and how soon the others count without one that is silent.
const SAY_EVERY: Duration = Duration::from_secs(1);
const GONE_AFTER: Duration = Duration::from_secs(5);
/// How often the stream of blocks is read, should a word have been lost; and how soon again where that failed.
const READ_EVERY: Duration = Duration::from_secs(30);
const READ_AGAIN: Duration = Duration::from_secs(1);
/// How long no address is blocked while the known addresses cannot be read.
const INFORMED_AFTER: Duration = Duration::from_secs(5);
/// Wait for the answer to a message; a counter that does not answer by then is left alone until the next tick.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for the socket.
const SAY_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause before subscribing again, should the client end a subscription.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_millis(250);
/// Other instances that are counted; more make the shares no smaller.
const MAX_OTHERS: usize = 256;
/// Most bytes of a message that are read, and of a name in it; ours have a hundred for each provider.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
const MAX_NAME_BYTES: usize = 64;

/// A message: an instance is there, and knows these counters. Fields may be added.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct QuotaMessage {
    /// A new name each time that an instance starts.
    instance: String,
    /// It is about to end.
    #[serde(default)]
    leaving: bool,
    #[serde(default)]
    counted: Vec<Counted>,
}

/// A counter.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counted {
    provider: String,
    /// Length of a window: an instance that was set up differently counts other ones.
    window_ms: u64,
    /// Which window: time since 1970 by its length.
    window: u64,
    total: u64,
}

/// Sends and receives until `stop`.
///
/// # Errors
/// Never; errors of NATS are waited out.
pub async fn run(connection: Arc<Connection>, limits: Arc<Limits>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut sharing = LimitSharing::new(connection, limits);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            error = sharing.share() => tracing::warn!(error = format!("{error:#}"), "subscribing again for rate limits"),
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(PAUSE_AFTER_TROUBLE) => {}
        }
    }
    sharing.say(true, Vec::new()).await;
    Ok(())
}

/// A message that waits for its answer.
struct AwaitedAnswer<T> {
    what: T,
    id: u64,
    until: Instant,
}

struct LimitSharing {
    instance: String,
    connection: Arc<Connection>,
    limits: Arc<Limits>,
    /// When each of the others was last heard.
    others: HashMap<String, Instant>,
    /// For each provider, the window of the report that waits for the counter's answer.
    counting: Vec<Option<AwaitedAnswer<u64>>>,
    writing: Option<AwaitedAnswer<LimitRecord>>,
    /// The earliest time of the next write, after a record was refused.
    write_at: Instant,
    next_id: u64,
    say_at: Instant,
    read_at: Instant,
    was_up: bool,
    started: Instant,
}

impl LimitSharing {
    fn new(connection: Arc<Connection>, limits: Arc<Limits>) -> Self {
        let now = Instant::now();
        Self {
            instance: Uuid::new_v4().simple().to_string(),
            connection,
            others: HashMap::new(),
            counting: limits.quotas.iter().map(|_| None).collect(),
            limits,
            writing: None,
            write_at: now,
            next_id: 0,
            say_at: now,
            read_at: now,
            was_up: false,
            started: now,
        }
    }

    /// Returns when a subscription ends: why.
    async fn share(&mut self) -> anyhow::Error {
        let client = self.connection.client.clone();
        let inbox = client.new_inbox();
        let subscribed = async {
            let others: Subscriber = client.subscribe(SUBJECT).await?;
            let blocks = client.subscribe(BLOCK_SUBJECTS).await?;
            let known = client.subscribe(KNOWN_SUBJECTS).await?;
            let answers = client.subscribe(format!("{inbox}.*")).await?;
            Ok::<_, async_nats::SubscribeError>((others, stream::select(blocks, known), answers))
        };
        let (mut others, mut records, mut answers) = match subscribed.await {
            Ok(subscribed) => subscribed,
            Err(error) => return error.into(),
        };
        let limits = Arc::clone(&self.limits);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = || anyhow::anyhow!("a subscription ended");
        loop {
            tokio::select! {
                answer = answers.next() => match answer {
                    Some(answer) => self.answered(&inbox, &answer).await,
                    None => return ended(),
                },
                message = others.next() => match message {
                    Some(message) => self.hear(&message.payload).await,
                    None => return ended(),
                },
                message = records.next() => match message {
                    Some(message) => self.hear_word(&message),
                    None => return ended(),
                },
                () = limits.soon.notified() => {
                    self.count_all(&inbox).await;
                    self.write(&inbox).await;
                }
                _ = ticks.tick() => self.tick(&inbox).await,
            }
        }
    }

    async fn tick(&mut self, inbox: &str) {
        let now = Instant::now();
        for at in 0..self.counting.len() {
            if let Some(asked) = self.counting[at].take_if(|asked| asked.until <= now) {
                lock(&self.limits.quotas[at].quota).reported(asked.what, ReportOutcome::Unanswered);
            }
        }
        if let Some(asked) = self.writing.take_if(|asked| asked.until <= now) {
            self.write_again(asked.what);
        }
        let is_up = self.connection.is_up();
        if is_up && (!self.was_up || self.read_at <= now) {
            self.read().await;
        }
        self.was_up = is_up;
        let says = self.say_at <= now;
        // A single instance needs the counter only for instances that start later.
        if says || !self.others.is_empty() {
            self.count_all(inbox).await;
        }
        if self.started.elapsed() >= INFORMED_AFTER {
            self.limits.is_informed.store(true, Ordering::Relaxed);
        }
        self.write(inbox).await;
        if says {
            self.say_at = now + SAY_EVERY;
            self.others.retain(|_, heard| heard.elapsed() < GONE_AFTER);
            self.note_instances();
            self.limits.sweep();
            self.say(false, self.all_counted()).await;
        }
    }

    /// Tells the counters what they do not know yet.
    async fn count_all(&mut self, inbox: &str) {
        for at in 0..self.counting.len() {
            self.count(inbox, at).await;
        }
    }

    async fn count(&mut self, inbox: &str, at: usize) {
        if self.counting[at].is_some() {
            return;
        }
        let limits = Arc::clone(&self.limits);
        let own = &limits.quotas[at];
        let (report, window_ms) = {
            let mut quota = lock(&own.quota);
            (quota.report(now_ms()), quota.length_ms())
        };
        let Some(QuotaReport { window, points }) = report else {
            return;
        };
        let subject = format!("hub.limit.{}.{window_ms}.{window}", own.name);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Incr", format!("+{points}"));
        match self.ask(inbox, subject, headers, Bytes::new()).await {
            Some(id) => {
                let until = Instant::now() + ANSWER_TIMEOUT;
                self.counting[at] = Some(AwaitedAnswer {
                    what: window,
                    id,
                    until,
                });
            }
            None => lock(&own.quota).reported(window, ReportOutcome::NotSent),
        }
    }

    /// Writes the next waiting record.
    async fn write(&mut self, inbox: &str) {
        if self.writing.is_some() || Instant::now() < self.write_at || !self.connection.is_up() {
            return;
        }
        let Some(record) = self.limits.next_record() else {
            return;
        };
        let (subject, headers, payload) = record.message(now_ms());
        match self.ask(inbox, subject, headers, payload).await {
            Some(id) => {
                let until = Instant::now() + ANSWER_TIMEOUT;
                self.writing = Some(AwaitedAnswer {
                    what: record,
                    id,
                    until,
                });
            }
            None => self.write_again(record),
        }
    }

    /// A record that the stream may not have is sent again, after a pause.
    fn write_again(&mut self, record: LimitRecord) {
        self.write_at = Instant::now() + READ_AGAIN;
        lock(&self.limits.records).push_front(record);
    }

    /// Publishes for an answer; its id, none if it could not be sent.
    async fn ask(&mut self, inbox: &str, subject: String, headers: HeaderMap, payload: Bytes) -> Option<u64> {
        // The client would keep the message and send it when NATS is back, when it is outdated.
        if !self.connection.is_up() {
            return None;
        }
        self.next_id += 1;
        let reply = format!("{inbox}.{}", self.next_id);
        let client = &self.connection.client;
        let publish = client.publish_with_reply_and_headers(subject, reply, headers, payload);
        let sent = tokio::time::timeout(SAY_TIMEOUT, publish).await;
        sent.is_ok_and(|sent| sent.is_ok()).then_some(self.next_id)
    }

    async fn answered(&mut self, inbox: &str, answer: &Message) {
        let id = answer
            .subject
            .strip_prefix(inbox)
            .and_then(|rest| rest.strip_prefix('.'));
        let Some(id) = id.and_then(|id| id.parse::<u64>().ok()) else {
            return;
        };
        // A status in the answer means that there is no responder.
        let ack = answer
            .status
            .is_none()
            .then(|| serde_json::from_slice::<PubAck>(&answer.payload));
        let ack = ack.and_then(Result::ok).filter(|ack| {
            if let Some(error) = &ack.error {
                tracing::debug!(%error, "not written for rate limits");
            }
            ack.error.is_none()
        });
        if let Some(asked) = self.writing.take_if(|asked| asked.id == id) {
            match ack {
                Some(_) => self.write(inbox).await,
                None => self.write_again(asked.what),
            }
            return;
        }
        let is_it = |asked: &Option<AwaitedAnswer<u64>>| asked.as_ref().is_some_and(|asked| asked.id == id);
        let Some(at) = self.counting.iter().position(is_it) else {
            return;
        };
        let total = ack.and_then(|ack| ack.val?.parse().ok());
        self.counted_now(inbox, at, total).await;
    }

    /// The counter of a provider answered: with its value, or with no.
    async fn counted_now(&mut self, inbox: &str, at: usize, total: Option<u64>) {
        let Some(asked) = self.counting[at].take() else {
            return;
        };
        let outcome = total.map_or(ReportOutcome::NotSent, ReportOutcome::Counted);
        let instances = self.limits.instances();
        let is_urgent = {
            let mut quota = lock(&self.limits.quotas[at].quota);
            quota.reported(asked.what, outcome);
            // A refused report is repeated at the next tick.
            total.is_some() && quota.is_urgent(instances)
        };
        if total.is_some() && !self.others.is_empty() {
            let counted = self.counted(at).into_iter().collect();
            self.say(false, counted).await;
        }
        if is_urgent {
            self.count(inbox, at).await;
        }
    }

    fn all_counted(&self) -> Vec<Counted> {
        (0..self.counting.len()).filter_map(|at| self.counted(at)).collect()
    }

    fn counted(&self, at: usize) -> Option<Counted> {
        let own = &self.limits.quotas[at];
        let mut quota = lock(&own.quota);
        let (window, total) = quota.counted(now_ms())?;
        Some(Counted {
            provider: own.name.to_string(),
            window_ms: quota.length_ms(),
            window,
            total,
        })
    }

    async fn say(&self, leaving: bool, counted: Vec<Counted>) {
        if !self.connection.is_up() {
            return;
        }
        let instance = self.instance.clone();
        let Ok(payload) = serde_json::to_vec(&QuotaMessage {
            instance,
            leaving,
            counted,
        }) else {
            return;
        };
        let client = &self.connection.client;
        let message = async {
            client.publish(SUBJECT, payload.into()).await?;
            if leaving {
                // This is the last task, so nothing else would flush the message.
                client.flush().await?;
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(SAY_TIMEOUT, message).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "counters not told"),
            Err(_) => tracing::debug!("counters not told in time"),
        }
    }

    /// Another instance says what the counters are.
    async fn hear(&mut self, payload: &[u8]) {
        let Some(message) = read(payload, &self.instance) else {
            return;
        };
        let now = now_ms();
        for Counted {
            provider,
            window_ms,
            window,
            total,
        } in message.counted
        {
            let Some(own) = self.limits.of(&provider) else { continue };
            let mut quota = lock(&own.quota);
            if quota.length_ms() == window_ms {
                quota.hear(now, window, total);
            }
        }
        if message.leaving {
            self.others.remove(&message.instance);
            self.note_instances();
            return;
        }
        let is_new = !self.others.contains_key(&message.instance);
        if is_new && self.others.len() >= MAX_OTHERS {
            return;
        }
        self.others.insert(message.instance, Instant::now());
        if is_new {
            self.note_instances();
            // A new instance should know the number of instances at once.
            self.say(false, self.all_counted()).await;
        }
    }

    fn note_instances(&self) {
        let instances = 1 + self.others.len() as u64;
        self.limits.instances.store(instances, Ordering::Relaxed);
        if self.limits.is_informed.load(Ordering::Relaxed) {
            metrics::gauge!("rate_limit_instances").set(instances as f64);
        }
    }

    fn hear_word(&self, message: &Message) {
        match LimitRecord::read(&message.subject, &message.payload, now_ms()) {
            Some(record) => self.limits.hear(record),
            None => tracing::debug!(subject = %message.subject, "not a word about blocks"),
        }
    }

    /// Reads what the stream has: at the start, and where words may have been lost.
    async fn read(&mut self) {
        let now = now_ms();
        let records = async {
            let known = stored::read(&self.connection, KNOWN_SUBJECTS, now).await?;
            anyhow::Ok((known, stored::read(&self.connection, BLOCK_SUBJECTS, now).await?))
        };
        match records.await {
            Ok((known, blocks)) => {
                self.read_at = Instant::now() + READ_EVERY;
                self.limits.hear_all(known, blocks);
            }
            Err(error) => {
                self.read_at = Instant::now() + READ_AGAIN;
                tracing::debug!(error = format!("{error:#}"), "blocks not read");
            }
        }
    }
}

/// The message of another instance; none if it is this instance's own, or unreadable.
fn read(payload: &[u8], own_name: &str) -> Option<QuotaMessage> {
    if payload.len() > MAX_MESSAGE_BYTES {
        return None;
    }
    let message: QuotaMessage = serde_json::from_slice(payload)
        .inspect_err(|error| tracing::debug!(%error, "not a word about counters"))
        .ok()?;
    (message.instance != own_name && message.instance.len() <= MAX_NAME_BYTES).then_some(message)
}

#[cfg(test)]
mod tests;
