//! Reads snapshots of the log from a server, chunk by chunk, and restores them to one.
//!
//! The server sends a snapshot as numbered messages and waits for acknowledgements, 8 MiB ahead; it takes one back the same
//! way and answers each chunk. The hub does not interpret the content, except for its outer form ([`frames`]), which shows a
//! missing piece before the backup is needed.
//!
//! A snapshot is packed in blocks of up to 1 MiB (`s2`). The server (2.15) answers a chunk once it has stored its messages one by
//! one, each with an fsync if `sync_interval` is `always`, and gives the restore up if that takes longer than 5 s. A packed chunk of
//! 512 KiB can hold many thousands of messages. So [`give`] unpacks the blocks and sends their content in [`PIECE`]s.

pub mod frames;
mod s2;

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_nats::{Message, Request, Subscriber};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use self::frames::Frames;
use super::{connection::Connection, streams::api};

/// Bytes of a chunk: few round trips for each megabyte, and well below what one message may hold.
const CHUNK: usize = 512 * 1024;
/// Bytes of content that the server stores at a time, within 5 s: some 10 to 50 events.
pub const PIECE: usize = 16 * 1024;
/// Number of pieces that are sent before the first of them is stored, so that the server does not have to wait for the next one.
const WINDOW: usize = 8;
/// Wait for the server to begin a snapshot: it writes down its state first.
const BEGIN: Duration = Duration::from_secs(60);
/// Wait for the next chunk, or for the answer to one. The server gives up after 5 s without an acknowledgement.
const NEXT: Duration = Duration::from_secs(30);
/// Wait for the server to make a stream of what it was given: it reads all messages once, some 100 MB/s.
const MAKE: Duration = Duration::from_secs(1800);
/// The server's "that was all".
const END: u16 = 204;

/// A stream as the server says it was when the snapshot began.
#[derive(Debug)]
pub struct StreamSnapshot {
    /// Its configuration.
    pub config: Value,
    /// Its state: messages, bytes, first and last sequence.
    pub state: Value,
}

/// Writes a snapshot of a stream and its consumers to `out`. `so_far` hears how many bytes have come.
///
/// # Errors
/// If the server refuses or breaks off, the connection is lost, `out` cannot be written, or a piece is missing.
pub async fn take(
    connection: &Connection,
    stream: &str,
    out: &mut (impl AsyncWrite + Unpin),
    mut so_far: impl FnMut(u64),
) -> anyhow::Result<StreamSnapshot> {
    let inbox = connection.client.new_inbox();
    let mut chunks = connection.client.subscribe(inbox.clone()).await?;
    let request = json!({ "deliver_subject": inbox, "chunk_size": CHUNK });
    let what = format!("STREAM.SNAPSHOT.{stream}");
    let answer = api::ask(connection, &what, &request, BEGIN).await?;
    let (mut frames, mut bytes, mut number) = (Frames::default(), 0, 0);
    while let Some(chunk) = next(connection, &mut chunks).await? {
        if let Some(said) = chunk.reply.as_ref().and_then(|reply| number_of(reply)) {
            number += 1;
            ensure!(
                said == number,
                "chunk {number} of the snapshot is missing: {said} came instead"
            );
        }
        frames.feed(&chunk.payload);
        while frames.next_block()?.is_some() {}
        out.write_all(&chunk.payload).await.context("cannot write the backup")?;
        bytes += chunk.payload.len() as u64;
        so_far(bytes);
        if let Some(reply) = chunk.reply {
            connection.client.publish(reply, Vec::new().into()).await?;
        }
    }
    frames.end()?;
    out.flush().await.context("cannot write the backup")?;
    let part = |name: &str| {
        answer
            .get(name)
            .cloned()
            .with_context(|| format!("NATS gives no {name}"))
    };
    Ok(StreamSnapshot {
        config: part("config")?,
        state: part("state")?,
    })
}

/// The next chunk; none if that was all.
async fn next(connection: &Connection, chunks: &mut Subscriber) -> anyhow::Result<Option<Message>> {
    let chunk = tokio::select! {
        biased;
        chunk = tokio::time::timeout(NEXT, chunks.next()) => chunk,
        () = connection.wait_down() => bail!("the connection to NATS was lost in the middle of the snapshot"),
    };
    let chunk = chunk.with_context(|| format!("no chunk of the snapshot for {} s", NEXT.as_secs()))?;
    let chunk = chunk.context("the connection to NATS was closed")?;
    if !chunk.payload.is_empty() {
        return Ok(Some(chunk));
    }
    match chunk.status {
        None => Ok(None),
        Some(status) if status.as_u16() == END => Ok(None),
        Some(status) => bail!(
            "NATS broke the snapshot off: {status} {}",
            chunk.description.as_deref().unwrap_or_default()
        ),
    }
}

/// The number of a chunk, by where its acknowledgement goes: `$JS.SNAPSHOT.ACK.EVENTS.<id>.<bytes>.<number>`.
fn number_of(reply: &str) -> Option<u64> {
    let (rest, number) = reply.rsplit_once('.')?;
    (rest.split('.').count() == 6).then(|| number.parse().ok())?
}

/// Makes a stream of what [`take`] wrote. `so_far` is called with the approximate number of bytes of `input` that were sent.
///
/// # Errors
/// If the server refuses: the stream exists already, there is no room, the server is too slow, or the snapshot is broken.
pub async fn give(
    connection: &Connection,
    stream: &str,
    taken: &StreamSnapshot,
    input: &mut (impl AsyncRead + Unpin),
    mut so_far: impl FnMut(u64),
) -> anyhow::Result<Value> {
    let request = json!({ "config": taken.config, "state": taken.state });
    let answer = api::ask(connection, &format!("STREAM.RESTORE.{stream}"), &request, BEGIN).await?;
    let subject = answer["deliver_subject"]
        .as_str()
        .context("NATS says nowhere to send it")?;
    let mut pieces = Pieces::to(connection, subject).await?;
    let (mut frames, mut content, mut sent) = (Frames::default(), Vec::new(), 0);
    let (mut chunk, mut piece) = (vec![0; CHUNK], Vec::with_capacity(PIECE + 32));
    frames::begin(&mut piece);
    loop {
        let read = input.read(&mut chunk).await.context("cannot read the backup")?;
        if read == 0 {
            break;
        }
        frames.feed(&chunk[..read]);
        while let Some(block) = frames.next_block()? {
            block.unpack(&mut content)?;
            let of_block = content.len().div_ceil(PIECE) as u64;
            for (part, stored) in content.chunks(PIECE).zip(1..) {
                frames::put_plain(&mut piece, part);
                pieces.send(std::mem::take(&mut piece)).await?;
                so_far(sent + block.packed_len() * stored / of_block);
            }
            sent += block.packed_len();
        }
    }
    frames.end()?;
    pieces.end().await
}

/// The pieces of a restore that are on their way to the server, which stores them one by one and answers in that order.
struct Pieces<'a> {
    connection: &'a Connection,
    subject: &'a str,
    inbox: String,
    answers: Subscriber,
    under_way: usize,
}

impl<'a> Pieces<'a> {
    async fn to(connection: &'a Connection, subject: &'a str) -> anyhow::Result<Self> {
        let inbox = connection.client.new_inbox();
        Ok(Self {
            connection,
            subject,
            answers: connection.client.subscribe(inbox.clone()).await?,
            inbox,
            under_way: 0,
        })
    }

    /// Sends the next piece once the server has stored enough of the earlier ones.
    async fn send(&mut self, piece: Vec<u8>) -> anyhow::Result<()> {
        while self.under_way >= WINDOW {
            self.stored().await?;
        }
        let (to, answer) = (self.subject.to_owned(), self.inbox.clone());
        let published = self.connection.client.publish_with_reply(to, answer, piece.into());
        published.await?;
        self.under_way += 1;
        Ok(())
    }

    /// Waits until one more piece is stored.
    async fn stored(&mut self) -> anyhow::Result<()> {
        let answer = tokio::select! {
            biased;
            answer = tokio::time::timeout(NEXT, self.answers.next()) => answer,
            () = self.connection.wait_down() => bail!("the connection to NATS was lost in the middle of the restore"),
        };
        let answer = answer.context("NATS does not answer in the middle of the restore")?;
        let answer = answer.context("the connection to NATS was closed")?;
        if let Some(status) = answer.status {
            bail!("NATS takes no more of the restore: {status}");
        }
        if !answer.payload.is_empty() {
            let kib = PIECE / 1024;
            let why = || {
                format!("NATS gives the restore up, as it does where storing {kib} KiB of events takes longer than 5 s")
            };
            api::checked(&answer.payload).with_context(why)?;
        }
        self.under_way -= 1;
        Ok(())
    }

    /// Ends the transfer. Returns the server's answer about the stream.
    async fn end(mut self) -> anyhow::Result<Value> {
        while self.under_way > 0 {
            self.stored().await?;
        }
        // An empty piece ends the transfer.
        let request = Request::new().payload(Vec::new().into()).timeout(Some(MAKE));
        let answer = self
            .connection
            .client
            .send_request(self.subject.to_owned(), request)
            .await;
        let answer = answer.context("NATS does not answer at the end of the restore")?;
        api::checked(&answer.payload).context("NATS cannot make the stream")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_numbered_by_their_acknowledgements() {
        assert_eq!(number_of("$JS.SNAPSHOT.ACK.EVENTS.rngBbp4DSqq2.524288.17"), Some(17));
        assert_eq!(number_of("$JS.SNAPSHOT.ACK.EVENTS.rngBbp4DSqq2"), None);
        assert_eq!(number_of("$JS.SNAPSHOT.ACK.EVENTS.rngBbp4DSqq2.524288.x"), None);
    }
}
