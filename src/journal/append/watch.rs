//! Probes the log while no append does: would it acknowledge one? A probe leaves nothing on the log.
//!
//! Three requests go together. An append that names another stream in `Nats-Expected-Stream` is refused by `EVENTS` where it
//! would be stored: the answer shows that the stream takes messages at all. The server refuses it before it checks for space,
//! so the stream's own limits are compared with its content, and a message of the stream `LEASES`, which keeps only the last
//! one, shows whether the server has space for any stream. None of them is proof: the next append is, and its result counts
//! more (see [`Acknowledging`]).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Connection,
    acknowledging::{Acknowledging, LogTrouble},
};
use crate::journal::{EVENTS, publish::PubAck, streams::restoring};

/// How often the task checks whether a probe is due.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Pause between questions while the log does not acknowledge.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Pause between questions while there are no appends.
const ASK_IDLE: Duration = Duration::from_secs(2);
/// Most time between two questions, appends or not: the log fills.
const ASK_AT_LEAST: Duration = Duration::from_secs(5);
/// Wait for the answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a server that acknowledges nothing is kept to; elections in a cluster take less.
const MAX_SILENCE: Duration = Duration::from_secs(6);
/// A subject of `EVENTS` that no event has, and that only the stream listens to.
const APPEND: &str = "webhooks.received._.question";
/// A stream that there is not.
const OTHER_STREAM: &str = "none";
/// JetStream's error for an append that expects another stream.
const WRONG_STREAM: u64 = 10060;
/// A subject of the stream `LEASES`, which keeps one message a subject.
const WRITE: &str = "hub.lease.question";
/// How many questions go together.
const QUESTIONS: usize = 3;

/// The result of the probes.
#[derive(Debug, PartialEq, Eq)]
enum LogVerdict {
    /// Nothing wrong.
    Room,
    NoRoom(String),
    /// A part of a backup, which takes nothing.
    Restoring,
    LogTrouble(LogTrouble),
}

/// The relevant part of `STREAM.INFO`.
#[derive(Debug, Deserialize)]
struct Info {
    config: StreamLimits,
    state: StreamState,
}

#[derive(Debug, Deserialize)]
struct StreamLimits {
    #[serde(default)]
    max_bytes: i64,
    #[serde(default)]
    max_msgs: i64,
    #[serde(default)]
    metadata: Value,
}

#[derive(Debug, Deserialize)]
struct StreamState {
    messages: u64,
    bytes: u64,
    last_seq: u64,
}

impl Info {
    /// Whether a restore of the stream is under way, or was interrupted.
    fn is_restored(&self) -> bool {
        restoring::mark(&json!({ "metadata": self.config.metadata })).is_some()
    }

    /// Why an event of so many bytes has no room; none if it has.
    fn full(&self, needs: u64) -> Option<String> {
        let StreamLimits {
            max_bytes, max_msgs, ..
        } = self.config;
        let is_over = |limit: i64, would_be: u64| limit > 0 && would_be > limit.unsigned_abs();
        if is_over(max_bytes, self.state.bytes + needs) {
            return Some(format!("EVENTS holds {} of max_bytes {max_bytes}", self.state.bytes));
        }
        is_over(max_msgs, self.state.messages + 1)
            .then(|| format!("EVENTS holds {} of max_msgs {max_msgs}", self.state.messages))
    }
}

/// Asks, for as long as the writer lives.
pub(super) struct LogProbe {
    connection: Arc<Connection>,
    acknowledging: Acknowledging,
    inbox: String,
    answers: Subscriber,
    /// Number of the first of the next questions; answers to older ones mean nothing.
    next: usize,
}

impl LogProbe {
    pub(super) async fn open(connection: Arc<Connection>, acknowledging: Acknowledging) -> anyhow::Result<Self> {
        let inbox = connection.client.new_inbox();
        let answers = connection.client.subscribe(format!("{inbox}.*")).await?;
        Ok(Self {
            connection,
            acknowledging,
            inbox,
            answers,
            next: 0,
        })
    }

    /// Does not return but where the subscription ended.
    ///
    /// # Errors
    /// If the subscription ended: the client is closed.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let (mut asked, mut left): (Option<Instant>, Option<Instant>) = (None, None);
        let mut changes = self.connection.changes();
        loop {
            if changes.has_changed().unwrap_or(false) {
                changes.mark_unchanged();
                self.acknowledging.connection_changed();
            }
            if !self.connection.is_up() {
                self.acknowledging.asked(&LogTrouble::NoConnection);
                let _ = tokio::time::timeout(LOOK_EVERY, self.connection.wait_up()).await;
                continue;
            }
            if self.is_due(asked) {
                asked = Some(Instant::now());
                self.ask().await?;
            }
            if self.acknowledging.silent_for() < MAX_SILENCE {
                left = None;
            } else if left.is_none_or(|left| left.elapsed() >= MAX_SILENCE) {
                // This server may be cut off from the servers that have the log.
                self.connection.try_another_server().await;
                left = Some(Instant::now());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn is_due(&self, asked: Option<Instant>) -> bool {
        let Some(asked) = asked.map(|asked| asked.elapsed()) else {
            return true;
        };
        let is_quiet = self.acknowledging.last().is_none_or(|last| last.elapsed() >= ASK_IDLE);
        match self.acknowledging.trouble() {
            Some(_) => asked >= ASK_AGAIN,
            None => asked >= ASK_IDLE && is_quiet || asked >= ASK_AT_LEAST,
        }
    }

    /// Asks once, and notes what is found.
    async fn ask(&mut self) -> anyhow::Result<()> {
        self.acknowledging.asked(&LogTrouble::NoAnswer);
        let asked = Instant::now();
        match self.find().await? {
            LogVerdict::Room => self.acknowledging.question_passed(asked),
            LogVerdict::Restoring => self.acknowledging.question_found_restoring(),
            LogVerdict::NoRoom(reason) => self.acknowledging.question_refused(&reason),
            LogVerdict::LogTrouble(trouble) => self.acknowledging.asked(&trouble),
        }
        Ok(())
    }

    async fn find(&mut self) -> anyhow::Result<LogVerdict> {
        let first = self.next;
        self.next += QUESTIONS;
        self.send(first).await;
        let mut answers = [const { None }; QUESTIONS];
        let deadline = tokio::time::Instant::now() + ANSWER_TIMEOUT;
        loop {
            let message = tokio::select! {
                biased;
                message = self.answers.next() => message,
                () = tokio::time::sleep_until(deadline) => return Ok(LogVerdict::LogTrouble(silence(&answers))),
                () = self.connection.wait_down() => return Ok(LogVerdict::LogTrouble(LogTrouble::NoConnection)),
            };
            let Some(message) = message else {
                anyhow::bail!("the subscription for answers about the log ended")
            };
            let number = message.subject.rsplit('.').next();
            let at = number.and_then(|number| number.parse::<usize>().ok()?.checked_sub(first));
            if let Some(answer) = at.and_then(|at| answers.get_mut(at)) {
                *answer = Some(message);
            }
            if let [Some(append), Some(info), Some(write)] = &answers {
                return Ok(self.judge(append, info, write));
            }
        }
    }

    async fn send(&self, first: usize) {
        let client = &self.connection.client;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Stream", OTHER_STREAM);
        let reply = |at: usize| format!("{}.{}", self.inbox, first + at);
        let sent = async {
            client
                .publish_with_reply_and_headers(APPEND, reply(0), headers, "".into())
                .await?;
            client
                .publish_with_reply(format!("$JS.API.STREAM.INFO.{EVENTS}"), reply(1), "".into())
                .await?;
            client.publish_with_reply(WRITE, reply(2), "".into()).await
        };
        if let Err(error) = sent.await {
            tracing::debug!(%error, "question about the log not handed over");
        }
    }

    fn judge(&self, append: &Message, info: &Message, write: &Message) -> LogVerdict {
        let info = serde_json::from_slice::<Info>(&info.payload).ok();
        if info.as_ref().is_some_and(Info::is_restored) {
            // A stream that is being restored has no subject for events, so an append gets no answer.
            return LogVerdict::Restoring;
        }
        if [append, write]
            .iter()
            .any(|one| one.status == Some(StatusCode::NO_RESPONDERS))
        {
            return LogVerdict::LogTrouble(LogTrouble::NoStream);
        }
        let refusal = |message: &Message| serde_json::from_slice::<PubAck>(&message.payload).ok()?.error;
        match refusal(append) {
            Some(error) if error.err_code == WRONG_STREAM => {}
            Some(error) if error.says_no_room() => return LogVerdict::NoRoom(error.description),
            _ => return LogVerdict::LogTrouble(LogTrouble::NoStream),
        }
        match refusal(write) {
            None => {}
            Some(error) if error.says_no_room() => return LogVerdict::NoRoom(error.description),
            Some(_) => return LogVerdict::LogTrouble(LogTrouble::NoStream),
        }
        let Some(info) = info else {
            return LogVerdict::LogTrouble(LogTrouble::NoStream);
        };
        self.acknowledging.fill().set(info.state.bytes, info.config.max_bytes);
        metrics::gauge!("event_log_last_sequence").set(info.state.last_seq as f64);
        match info.full(self.acknowledging.needs()) {
            Some(reason) => LogVerdict::NoRoom(reason),
            None => LogVerdict::Room,
        }
    }
}

/// What it means that not all questions were answered in time. A server that says how the log is, and answers nothing that it
/// would have to store, cannot write.
fn silence(answers: &[Option<Message>; QUESTIONS]) -> LogTrouble {
    let [_, info, _] = answers;
    let says_how_it_is = info
        .as_ref()
        .is_some_and(|info| serde_json::from_slice::<Info>(&info.payload).is_ok());
    if says_how_it_is {
        LogTrouble::StoresNothing(None)
    } else {
        LogTrouble::NoAnswer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_full_where_the_next_event_would_be_refused() {
        let info = |max_bytes: i64, max_msgs: i64| -> Info {
            let info = serde_json::json!({
                "config": { "max_bytes": max_bytes, "max_msgs": max_msgs },
                "state": { "messages": 10, "bytes": 1000, "last_seq": 10 },
            });
            serde_json::from_value(info).unwrap()
        };
        for (max_bytes, max_msgs, needs, is_full) in [
            (-1, -1, 1 << 40, false),
            (0, 0, 1 << 40, false),
            (1100, -1, 100, false),
            (1100, -1, 101, true),
            (-1, 11, 100, false),
            (-1, 10, 100, true),
        ] {
            let full = info(max_bytes, max_msgs).full(needs);
            assert_eq!(full.is_some(), is_full, "{max_bytes} {max_msgs} {needs}: {full:?}");
        }
    }
}
