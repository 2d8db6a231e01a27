//! Reads all lanes of a stage at a takeover.
//!
//! A durable consumer of the stage's lanes reads them; it is reset to the beginning each time (`$JS.API.CONSUMER.RESET`). The
//! server then sends message after message, at some 5 µs of its CPU each. A direct get by a subject filter counts the rest of
//! all subjects in every request, while the hub's connection waits: ten times as much for 100,000 lanes. So direct gets are
//! the fallback: when the consumer does not exist, as before `streams apply` of this version; when the user may not reset it;
//! and when the server is too old for that request.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use async_nats::{
    HeaderMap, Message,
    jetstream::{self, response::Response},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::{
    ANSWER_TIMEOUT, Lane,
    checksum::{self, LaneMessage, LanePast},
    key_of,
};
use crate::{
    event::stage::LaneNamespace,
    journal::{
        codec::OrderKey,
        connection::Connection,
        read::{LogReader, Start},
        streams::LANES,
    },
};

/// Lanes that one pull request brings: fewer than a subscription of the client holds.
const BATCH: usize = 4000;
/// Bytes that one pull request brings; the largest lane has some 15 kB, and 40 kB if all in it are requests for a retry.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// How often it is begun anew where another instance takes messages of the consumer: one that stood still, woke up and does
/// not know yet that it was replaced.
const ATTEMPTS: u32 = 3;
/// How long a copy of the stream that is behind is waited for, and how often it is asked meanwhile.
const BEHIND_TIMEOUT: Duration = Duration::from_secs(30);
const BEHIND_PAUSE: Duration = Duration::from_millis(50);

/// What the stream holds for a stage.
#[derive(Debug, Default)]
pub(super) struct LaneScan {
    /// The lanes that are open.
    pub(super) lanes: HashMap<OrderKey, Lane>,
    /// Their subjects: another instance may have had another number of partitions.
    pub(super) subjects: HashMap<OrderKey, Box<str>>,
    /// Their messages, and the marks of lanes that ended.
    pub(super) found: HashMap<OrderKey, LaneMessage>,
    /// The stream's sequence up to which all was read.
    pub(super) seen: u64,
    /// Requests that it took.
    pub(super) requests: u32,
}

impl LaneScan {
    fn note(
        &mut self,
        subject: &str,
        sequence: u64,
        headers: Option<&HeaderMap>,
        payload: &Bytes,
    ) -> anyhow::Result<()> {
        self.seen = self.seen.max(sequence);
        let Some(key) = key_of(subject) else {
            return Ok(());
        };
        let past = headers.and_then(|headers| headers.get(checksum::HEADER));
        let found = LaneMessage {
            revision: sequence,
            is_open: !payload.is_empty(),
            past: past.map(|past| LanePast::parse(past.as_str())).unwrap_or_default(),
        };
        if found.is_open {
            let lane = serde_json::from_slice(payload).with_context(|| {
                format!(
                    "message {sequence} of LANES is not a lane; purge LANES, and the hub rebuilds it from the event log"
                )
            })?;
            self.lanes.insert(key, lane);
            self.subjects.insert(key, subject.into());
        } else {
            self.lanes.remove(&key);
            self.subjects.remove(&key);
        }
        self.found.insert(key, found);
        Ok(())
    }
}

/// All lanes of a stage, read until the message at this sequence was there: any copy of the stream may answer, also one that
/// is behind.
///
/// # Errors
/// If NATS does not answer, or a message is no lane.
pub(super) async fn read(connection: &Connection, namespace: LaneNamespace, fence: u64) -> anyhow::Result<LaneScan> {
    let (mut attempt, mut requests) = (1, 0);
    let error = loop {
        match by_consumer(connection, namespace, fence, &mut requests).await {
            Ok(all) => return Ok(LaneScan { requests, ..all }),
            Err(error) if error.is::<SomebodyElse>() && attempt < ATTEMPTS => attempt += 1,
            Err(error) => break error,
        }
    };
    tracing::warn!(
        consumer = namespace.reader(),
        error = format!("{error:#}"),
        "lanes are read by direct gets, which takes NATS ten times as long; `webhook-hub streams apply` and the rights in \
         nats.conf of this version bring the consumer"
    );
    let all = by_gets(connection, namespace, fence).await?;
    let requests = all.requests + requests;
    Ok(LaneScan { requests, ..all })
}

/// The consumer's messages did not all come here.
#[derive(Debug, thiserror::Error)]
#[error("another instance reads the lanes at the same time")]
struct SomebodyElse;

async fn by_consumer(
    connection: &Connection,
    namespace: LaneNamespace,
    fence: u64,
    requests: &mut u32,
) -> anyhow::Result<LaneScan> {
    let consumer = namespace.reader();
    *requests += 1;
    reset(connection, &consumer).await?;
    let mut all = LaneScan::default();
    let (mut number, mut began) = (0, Instant::now());
    while all.seen < fence {
        let before = number;
        *requests += 1;
        pull(connection, &consumer, fence, &mut all, &mut number).await?;
        if number > before {
            began = Instant::now();
        } else if began.elapsed() > BEHIND_TIMEOUT {
            bail!("the copy of LANES that answers is behind its leader");
        } else if all.seen < fence {
            tokio::time::sleep(BEHIND_PAUSE).await;
        }
    }
    Ok(all)
}

/// Sets the consumer back to the beginning of the stream.
async fn reset(connection: &Connection, consumer: &str) -> anyhow::Result<()> {
    let request = format!("CONSUMER.RESET.{LANES}.{consumer}");
    let beginning = json!({ "seq": 1 });
    let answer = tokio::select! {
        biased;
        right = connection.next_right_missing() => bail!("the user lacks a right: {right}"),
        answer = connection.context.request(request, &beginning) => answer,
    };
    let answer: Response<Value> = answer.context("there is no such consumer, or NATS does not know the request")?;
    match answer {
        Response::Ok(_) => Ok(()),
        Response::Err { error } => Err(error).context("cannot set the consumer back"),
    }
}

/// Takes one batch. `number`: the consumer's of the last message.
async fn pull(
    connection: &Connection,
    consumer: &str,
    fence: u64,
    all: &mut LaneScan,
    number: &mut u64,
) -> anyhow::Result<()> {
    let client = &connection.client;
    let mut changes = connection.changes();
    changes.mark_unchanged();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{LANES}.{consumer}");
    let request = json!({ "batch": BATCH, "max_bytes": BATCH_BYTES, "no_wait": true }).to_string();
    client.publish_with_reply(subject, inbox, request.into()).await?;
    for _ in 0..BATCH {
        let answer = tokio::select! {
            biased;
            answer = tokio::time::timeout(ANSWER_TIMEOUT, answers.next()) => answer,
            _ = changes.changed() => bail!("the connection to NATS was lost while lanes were read"),
        };
        let message = answer
            .context("NATS does not answer about lanes")?
            .context("the connection was closed")?;
        match message.status.map(|status| status.as_u16()) {
            None => note(connection, message, all, number)?,
            // No more lanes, or the batch reached the requested bytes.
            Some(404 | 408 | 409) => return Ok(()),
            Some(status) => bail!("a pull of lanes was answered with {status}"),
        }
        if all.seen >= fence {
            return Ok(());
        }
    }
    Ok(())
}

fn note(connection: &Connection, message: Message, all: &mut LaneScan, number: &mut u64) -> anyhow::Result<()> {
    let message = jetstream::Message {
        message,
        context: connection.context.clone(),
    };
    let info = crate::journal::pull::info(&message)?;
    if info.consumer_sequence != *number + 1 {
        return Err(SomebodyElse.into());
    }
    *number += 1;
    let (sequence, subject) = (info.stream_sequence, message.subject.as_str());
    all.note(subject, sequence, message.headers.as_ref(), &message.payload)
}

async fn by_gets(connection: &Connection, namespace: LaneNamespace, fence: u64) -> anyhow::Result<LaneScan> {
    let (mut all, began) = (LaneScan::default(), Instant::now());
    let reader = LogReader::of_subjects(connection, namespace.all(), Start::Sequence(1)).of_stream(LANES);
    let mut reader = reader.within(ANSWER_TIMEOUT);
    while all.seen < fence {
        let messages = reader.next_raw().await?;
        all.requests += 1;
        for message in &messages {
            all.note(
                &message.subject,
                message.sequence,
                Some(&message.headers),
                &message.payload,
            )?;
        }
        if began.elapsed() > BEHIND_TIMEOUT && messages.is_empty() {
            bail!("the copy of LANES that answers is behind its leader");
        }
        if messages.is_empty() {
            tokio::time::sleep(BEHIND_PAUSE).await;
        }
    }
    Ok(all)
}
