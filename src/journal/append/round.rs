//! One round of publishing: a few messages one by one, or many as one atomic batch, and their acknowledgements.
//!
//! Acknowledgements come to one subscription of the writer, each under a number: the client's request map would keep an entry
//! for every request that is never answered, and an outage makes many of those.

use std::{collections::HashMap, time::Duration};

use async_nats::{Client, StatusCode, Subscriber};
use futures_util::StreamExt;

use super::{Connection, writer::Pending};
use crate::{
    event::EventId,
    journal::{
        codec::{self, Form},
        publish::{self, PubAck},
    },
};

/// Most messages of one atomic batch: the server's limit.
const MAX_BATCH: usize = 1000;
/// Most payload bytes of one round, so that a few large bodies neither hold the others up nor pass a server limit.
pub(super) const MAX_ROUND_BYTES: usize = 4 * 1024 * 1024;
/// How long an acknowledgement may take before the round is given up and sent again.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Additional time for each single publish: an fsync on a slow disk.
const TIME_EACH: Duration = Duration::from_millis(4);
/// JetStream's error for a batch that holds an id of the duplicate window.
const DUPLICATE_IN_BATCH: u64 = 10201;

fn ack_timeout() -> Duration {
    crate::fault_injection::time("ack_timeout", ACK_TIMEOUT)
}

/// The result of a message of the round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Published {
    /// On the log, acknowledged.
    Stored { sequence: u64, duplicate: bool },
    /// JetStream said no to this event.
    Refused(String),
    /// JetStream said no to any event: there is no room.
    NoRoom(String),
    /// No answer, or one that leaves it open.
    Unknown,
}

pub(super) enum RoundAnswer {
    Ack(PubAck),
    /// No responder on that subject: JetStream is off or the stream is gone.
    NoResponders,
    Unreadable,
}

/// Messages that go together: published one after another under one id, stored all or none when the last is there.
pub(super) struct AppendBatch {
    id: String,
    /// Published, but for the last one, which goes with the commit.
    pub(super) messages: Vec<Pending>,
    places: HashMap<EventId, usize>,
    bytes: usize,
}

impl AppendBatch {
    pub(super) fn new() -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self {
            id,
            messages: Vec::new(),
            places: HashMap::new(),
            bytes: 0,
        }
    }

    /// Whether one more may be added.
    pub(super) fn has_room(&self) -> bool {
        self.messages.len() < MAX_BATCH && self.bytes < MAX_ROUND_BYTES
    }

    /// Whether an event is in it.
    pub(super) fn holds(&self, id: EventId) -> bool {
        self.places.contains_key(&id)
    }

    /// Adds one and publishes the one before it. The same event twice is one message with two who wait.
    pub(super) async fn add(&mut self, round: &Round, client: &Client, pending: Pending) {
        if let Some(place) = self.places.get(&pending.id()) {
            self.messages[*place].join(pending);
            return;
        }
        if let Some(last) = self.messages.last() {
            round.publish(client, last, Some((self, false)), None).await;
        }
        self.bytes += pending.event.payload.len();
        self.places.insert(pending.id(), self.messages.len());
        self.messages.push(pending);
    }
}

/// Sends rounds and reads their acknowledgements.
pub(super) struct Round {
    inbox: String,
    answers: Subscriber,
    /// Number of the next publish that expects an answer; an answer under an older number is late and means nothing.
    next: u64,
    partitions: u16,
    /// In which form events are written.
    pub(super) form: Form,
}

/// A batch that waits for its answer.
pub(super) struct Committed {
    number: u64,
    deadline: tokio::time::Instant,
}

impl Round {
    pub(super) async fn open(client: &Client, partitions: u16) -> anyhow::Result<Self> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await?;
        Ok(Self {
            inbox,
            answers,
            next: 0,
            partitions,
            form: Form::Headers,
        })
    }

    /// Publishes the last message of a batch and with it commits all.
    pub(super) async fn commit(&mut self, client: &Client, batch: &AppendBatch) -> Committed {
        let number = self.next;
        self.next += 1;
        if let Some(last) = batch.messages.last() {
            self.publish(
                client,
                last,
                Some((batch, true)),
                Some(format!("{}.{number}", self.inbox)),
            )
            .await;
        }
        Committed {
            number,
            deadline: tokio::time::Instant::now() + ack_timeout(),
        }
    }

    /// Waits for the answer to a batch; none if it does not come. May be dropped and called again.
    ///
    /// # Errors
    /// If the subscription ended: the client is closed.
    pub(super) async fn committed(
        &mut self,
        connection: &Connection,
        committed: &Committed,
    ) -> anyhow::Result<Option<RoundAnswer>> {
        while let Some((number, answer)) = self.answer(connection, committed.deadline).await? {
            if number == committed.number {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    /// What an answer means for each message of a batch; none if they must be sent one by one to know.
    pub(super) fn fates(batch: &AppendBatch, answer: Option<RoundAnswer>) -> Option<Vec<Published>> {
        let count = batch.messages.len();
        match answer {
            Some(RoundAnswer::Ack(PubAck { error: None, seq, .. })) => {
                let first = (seq + 1).saturating_sub(count as u64);
                Some(
                    (0..count)
                        .map(|at| Published::Stored {
                            sequence: first + at as u64,
                            duplicate: false,
                        })
                        .collect(),
                )
            }
            Some(RoundAnswer::Ack(PubAck { error: Some(error), .. })) if error.says_no_room() => {
                Some(vec![Published::NoRoom(error.description); count])
            }
            // The server stored nothing of the batch. Sent singly, each message gets its own answer; known ones are duplicates.
            Some(RoundAnswer::Ack(PubAck { error: Some(error), .. })) => {
                if error.err_code != DUPLICATE_IN_BATCH {
                    tracing::warn!(
                        code = error.err_code,
                        reason = error.description,
                        "batch refused, sending one by one"
                    );
                }
                None
            }
            Some(RoundAnswer::NoResponders | RoundAnswer::Unreadable) | None => Some(vec![Published::Unknown; count]),
        }
    }

    /// Publishes each by itself; the fates come in their order.
    ///
    /// # Errors
    /// If the subscription ended: the client is closed.
    pub(super) async fn send_singly(
        &mut self,
        connection: &Connection,
        batch: &[Pending],
    ) -> anyhow::Result<Vec<Published>> {
        let first = self.next;
        self.next += batch.len() as u64;
        for (at, pending) in batch.iter().enumerate() {
            let reply = format!("{}.{}", self.inbox, first + at as u64);
            self.publish(&connection.client, pending, None, Some(reply)).await;
        }
        let mut fates = vec![Published::Unknown; batch.len()];
        let mut open = batch.len();
        let deadline =
            tokio::time::Instant::now() + ack_timeout() + TIME_EACH * u32::try_from(open).unwrap_or(u32::MAX);
        while open > 0 {
            let Some((number, answer)) = self.answer(connection, deadline).await? else {
                break;
            };
            let Some(fate) = number
                .checked_sub(first)
                .and_then(|at| fates.get_mut(usize::try_from(at).ok()?))
            else {
                continue;
            };
            open -= 1;
            *fate = match answer {
                RoundAnswer::Ack(PubAck {
                    error: None,
                    seq,
                    duplicate,
                    ..
                }) => Published::Stored {
                    sequence: seq,
                    duplicate,
                },
                RoundAnswer::Ack(PubAck { error: Some(error), .. }) if error.says_no_room() => {
                    Published::NoRoom(error.description)
                }
                // 503 is temporary: the stream has no leader yet, or is still being recovered.
                RoundAnswer::Ack(PubAck { error: Some(error), .. }) if error.code == 503 => Published::Unknown,
                RoundAnswer::Ack(PubAck { error: Some(error), .. }) => Published::Refused(error.description),
                RoundAnswer::NoResponders | RoundAnswer::Unreadable => Published::Unknown,
            };
        }
        Ok(fates)
    }

    /// The next answer and its number; none if the time is over or the connection is lost.
    async fn answer(
        &mut self,
        connection: &Connection,
        deadline: tokio::time::Instant,
    ) -> anyhow::Result<Option<(u64, RoundAnswer)>> {
        let message = tokio::select! {
            biased;
            message = self.answers.next() => message,
            () = tokio::time::sleep_until(deadline) => return Ok(None),
            () = connection.wait_down() => return Ok(None),
        };
        let Some(message) = message else {
            anyhow::bail!("the subscription for acknowledgements ended")
        };
        let number = message
            .subject
            .rsplit('.')
            .next()
            .and_then(|number| number.parse().ok())
            .unwrap_or(u64::MAX);
        let answer = if message.status == Some(StatusCode::NO_RESPONDERS) {
            tracing::debug!("no stream takes events");
            RoundAnswer::NoResponders
        } else {
            serde_json::from_slice(&message.payload).map_or(RoundAnswer::Unreadable, RoundAnswer::Ack)
        };
        Ok(Some((number, answer)))
    }

    /// Hands a message to the client, as one of a batch (and whether it commits that) or by itself. That it may not get
    /// further shows in the missing acknowledgement.
    async fn publish(
        &self,
        client: &Client,
        pending: &Pending,
        batch: Option<(&AppendBatch, bool)>,
        reply: Option<String>,
    ) {
        let event = &pending.event;
        let mut headers = match codec::headers(&event.envelope, self.form) {
            Ok(headers) => headers,
            Err(error) => return tracing::error!(%error, "an event without headers cannot be published"),
        };
        if let Some((batch, commit)) = batch {
            publish::mark(&mut headers, &batch.id, batch.messages.len(), commit);
        }
        let (subject, payload) = (codec::subject(&event.envelope, self.partitions), event.payload.clone());
        let handed_over = match reply {
            Some(reply) => {
                client
                    .publish_with_reply_and_headers(subject, reply, headers, payload)
                    .await
            }
            None => client.publish_with_headers(subject, headers, payload).await,
        };
        if let Err(error) = handed_over {
            tracing::debug!(%error, "publish not handed over");
        }
    }
}
