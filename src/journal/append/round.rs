//! One round of publishing: a few messages one by one, many as one atomic batch, and their acknowledgements.
//!
//! Acknowledgements come to one subscription of our own, each under a number: the client's request map would keep an
//! entry for every request that is never answered, and during an outage there are many of those.

use std::time::Duration;

use async_nats::{Client, HeaderMap, StatusCode, Subscriber};
use futures_util::StreamExt;
use serde::Deserialize;

use super::{Connection, writer::Pending};

/// From how many messages on a batch is quicker than single publishes (measured: a batch costs 2.2 ms whatever is in
/// it, a single fsynced publish 0.4 ms, and nine of them overlap).
const BATCH_FROM: usize = 10;
/// How long an acknowledgement may take before the round is given up and sent again.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// JetStream's error for a batch that holds an id of the duplicate window.
const DUPLICATE_IN_BATCH: u64 = 10201;

/// What became of a message of the round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// On the log, acknowledged.
    Stored { sequence: u64, duplicate: bool },
    /// JetStream said no.
    Refused(String),
    /// No answer, or one that leaves it open.
    Unknown,
}

/// JetStream's answer to a publish.
#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

enum Answer {
    Ack(PubAck),
    /// Nobody listens on that subject: JetStream is off or the stream is gone.
    NoResponders,
    Unreadable,
}

/// Sends rounds and reads their acknowledgements.
pub(super) struct Round {
    inbox: String,
    answers: Subscriber,
    /// Number of the next publish that expects an answer; an answer under an older number is late and means nothing.
    next: u64,
}

impl Round {
    pub(super) async fn open(client: &Client) -> anyhow::Result<Self> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await?;
        Ok(Self { inbox, answers, next: 0 })
    }

    /// Publishes all of them; the fates come in their order.
    ///
    /// # Errors
    /// Where the subscription ended: the client is closed.
    pub(super) async fn send(&mut self, connection: &Connection, batch: &[Pending]) -> anyhow::Result<Vec<Fate>> {
        if batch.len() < BATCH_FROM {
            return self.send_singly(connection, batch).await;
        }
        match self.send_batch(connection, batch).await? {
            Some(Answer::Ack(PubAck { error: None, seq, .. })) => {
                let first = seq + 1 - batch.len() as u64;
                let stored = |at| Fate::Stored { sequence: first + at as u64, duplicate: false };
                Ok((0..batch.len()).map(stored).collect())
            }
            // Nothing of the batch was stored. One by one each gets an answer of its own, the known ones as duplicates.
            Some(Answer::Ack(PubAck { error: Some(error), .. })) => {
                if error.err_code != DUPLICATE_IN_BATCH {
                    tracing::warn!(code = error.err_code, reason = error.description, "batch refused, sending one by one");
                }
                self.send_singly(connection, batch).await
            }
            Some(Answer::NoResponders | Answer::Unreadable) | None => Ok(vec![Fate::Unknown; batch.len()]),
        }
    }

    async fn send_singly(&mut self, connection: &Connection, batch: &[Pending]) -> anyhow::Result<Vec<Fate>> {
        let first = self.next;
        self.next += batch.len() as u64;
        for (at, pending) in batch.iter().enumerate() {
            let reply = format!("{}.{}", self.inbox, first + at as u64);
            publish(&connection.client, pending, pending.message.headers.clone(), Some(reply)).await;
        }
        let mut fates = vec![Fate::Unknown; batch.len()];
        let mut open = batch.len();
        let deadline = tokio::time::Instant::now() + ACK_TIMEOUT;
        while open > 0 {
            let Some((number, answer)) = self.answer(connection, deadline).await? else { break };
            let Some(fate) = number.checked_sub(first).and_then(|at| fates.get_mut(usize::try_from(at).ok()?)) else {
                continue;
            };
            open -= 1;
            *fate = match answer {
                Answer::Ack(PubAck { error: None, seq, duplicate }) => Fate::Stored { sequence: seq, duplicate },
                // 503 says "not now": no leader yet, the stream is still being recovered.
                Answer::Ack(PubAck { error: Some(error), .. }) if error.code == 503 => Fate::Unknown,
                Answer::Ack(PubAck { error: Some(error), .. }) => Fate::Refused(error.description),
                Answer::NoResponders | Answer::Unreadable => Fate::Unknown,
            };
        }
        Ok(fates)
    }

    /// The batch's messages carry its id and their number; the last one commits it and alone is answered.
    async fn send_batch(&mut self, connection: &Connection, batch: &[Pending]) -> anyhow::Result<Option<Answer>> {
        let number = self.next;
        self.next += 1;
        let batch_id = uuid::Uuid::new_v4().simple().to_string();
        for (at, pending) in batch.iter().enumerate() {
            let mut headers = pending.message.headers.clone();
            headers.insert("Nats-Batch-Id", batch_id.as_str());
            headers.insert("Nats-Batch-Sequence", (at + 1).to_string());
            let last = at + 1 == batch.len();
            if last {
                headers.insert("Nats-Batch-Commit", "1");
            }
            let reply = last.then(|| format!("{}.{number}", self.inbox));
            publish(&connection.client, pending, headers, reply).await;
        }
        let deadline = tokio::time::Instant::now() + ACK_TIMEOUT;
        while let Some((answered, answer)) = self.answer(connection, deadline).await? {
            if answered == number {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    /// The next answer and its number; none where the time is over or the connection is lost.
    async fn answer(
        &mut self,
        connection: &Connection,
        deadline: tokio::time::Instant,
    ) -> anyhow::Result<Option<(u64, Answer)>> {
        let message = tokio::select! {
            biased;
            message = self.answers.next() => message,
            () = tokio::time::sleep_until(deadline) => return Ok(None),
            () = connection.wait_down() => return Ok(None),
        };
        let Some(message) = message else { anyhow::bail!("the subscription for acknowledgements ended") };
        let number = message.subject.rsplit('.').next().and_then(|number| number.parse().ok()).unwrap_or(u64::MAX);
        let answer = if message.status == Some(StatusCode::NO_RESPONDERS) {
            tracing::warn!("no stream takes events: JetStream is starting or off, or the stream EVENTS is missing");
            Answer::NoResponders
        } else {
            serde_json::from_slice(&message.payload).map_or(Answer::Unreadable, Answer::Ack)
        };
        Ok(Some((number, answer)))
    }
}

/// Hands a message to the client. That it may not get further shows in the missing acknowledgement.
async fn publish(client: &Client, pending: &Pending, headers: HeaderMap, reply: Option<String>) {
    let (subject, payload) = (pending.message.subject.clone(), pending.message.payload.clone());
    let handed_over = match reply {
        Some(reply) => client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
        None => client.publish_with_headers(subject, headers, payload).await,
    };
    if let Err(error) = handed_over {
        tracing::debug!(%error, "publish not handed over");
    }
}
