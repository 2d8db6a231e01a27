//! The only writer of lanes: it sends all waiting changes in one atomic batch.
//!
//! It is separate from [`crate::journal::append`], which writes events. There a message without an acknowledgement is sent again by
//! itself, and the next batch is sent while the server writes the one before. A change of a lane names the revision that it
//! replaces: after a failure all later changes are wrong, and the lanes are read again.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use async_nats::{Client, HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot};

use super::checksum::{self, LanePast};
use crate::{
    fault_injection,
    journal::{
        connection::Connection,
        publish::{self, PubAck},
    },
};

/// Changes of one batch, a message each; the server takes 1000.
const MAX_BATCH: usize = 800;
/// How long the acknowledgement of a batch may take: an fsync on a slow disk, many times over.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the end of a lane is remembered, so that its last revision can still be named by who makes it anew.
const ENDED_TTL: Duration = Duration::from_secs(60);

/// A lane that is to be written.
pub(super) struct LaneWrite {
    pub(super) subject: String,
    /// Empty: the lane ends.
    pub(super) payload: Bytes,
    /// Revision that it replaces; 0: there is none.
    pub(super) replaces: u64,
    /// The earlier revisions of the lane.
    pub(super) past: LanePast,
    /// Gets the new revision.
    pub(super) done: oneshot::Sender<u64>,
}

/// See the module.
pub struct LaneWriter {
    connection: Arc<Connection>,
    waiting: mpsc::Receiver<LaneWrite>,
}

impl LaneWriter {
    pub(super) fn new(connection: Arc<Connection>, waiting: mpsc::Receiver<LaneWrite>) -> Self {
        Self { connection, waiting }
    }

    /// Writes until it is dropped.
    ///
    /// # Errors
    /// If a batch is refused or not acknowledged: then it is not known what the lanes are, and they must be read anew.
    pub async fn run(mut self) -> anyhow::Result<std::convert::Infallible> {
        let client = self.connection.client.clone();
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await?;
        let mut batch = Vec::new();
        loop {
            if self.waiting.recv_many(&mut batch, MAX_BATCH).await == 0 {
                bail!("the writer of lanes has stopped");
            }
            write(&client, &inbox, &mut answers, std::mem::take(&mut batch)).await?;
        }
    }
}

async fn write(client: &Client, inbox: &str, answers: &mut Subscriber, batch: Vec<LaneWrite>) -> anyhow::Result<()> {
    let (count, id) = (batch.len(), uuid::Uuid::new_v4().simple().to_string());
    for (at, change) in batch.iter().enumerate() {
        let (subject, mut headers, payload) = message(change);
        let is_last = at + 1 == count;
        if count > 1 {
            publish::mark(&mut headers, &id, at + 1, is_last);
        }
        if is_last {
            client
                .publish_with_reply_and_headers(subject, inbox.to_owned(), headers, payload)
                .await?;
        } else {
            client.publish_with_headers(subject, headers, payload).await?;
        }
    }
    let answer = tokio::time::timeout(ACK_TIMEOUT, answers.next())
        .await
        .context("NATS does not acknowledge a write of lanes")?
        .context("the connection was closed")?;
    let ack: PubAck = serde_json::from_slice(&answer.payload).context("no stream takes lanes: is LANES missing?")?;
    if let Some(error) = ack.error {
        bail!("lanes not written: {error}");
    }
    let first = (ack.seq + 1).saturating_sub(count as u64);
    for (change, revision) in batch.into_iter().zip(first..) {
        // A caller that stopped waiting no longer has the lease, so the result does not matter.
        let _ = change.done.send(revision);
    }
    Ok(())
}

fn message(change: &LaneWrite) -> (String, HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", change.replaces.to_string());
    headers.insert(checksum::HEADER, change.past.to_text());
    if change.payload.is_empty() {
        let ttl = fault_injection::time("ended_lane", ENDED_TTL);
        headers.insert("Nats-TTL", format!("{}s", ttl.as_secs()));
    }
    (change.subject.clone(), headers, change.payload.clone())
}
