//! Snapshots of the log: read from a server chunk by chunk, and restored to one.
//!
//! The server sends a snapshot as numbered messages and waits for acknowledgements, 8 MiB ahead; it takes one back the same
//! way and answers each chunk. The hub does not interpret the content, except for its outer form ([`frames`]), which shows a
//! missing piece before the backup is needed.

pub mod frames;

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
/// Where the server refuses or breaks off, the connection is lost, `out` cannot be written, or a piece is missing.
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
        frames.read(&chunk.payload)?;
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

/// The next chunk; none where that was all.
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

/// Makes a stream of what [`take`] wrote. `so_far` hears how many bytes the server has.
///
/// # Errors
/// Where the server refuses: the stream is there already, it has no room, the snapshot is broken.
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
        .context("NATS says nowhere to send it")?
        .to_owned();
    let mut bytes = 0;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = input.take(CHUNK as u64).read_to_end(&mut chunk).await;
        let read = read.context("cannot read the backup")?;
        // An empty one says that this was all.
        let within = if read == 0 { MAKE } else { NEXT };
        let request = Request::new().payload(chunk.into()).timeout(Some(within));
        let answer = connection.client.send_request(subject.clone(), request).await;
        let answer = answer.context("NATS does not answer in the middle of the restore")?;
        if read == 0 {
            return api::checked(&answer.payload).context("NATS cannot make the stream");
        }
        if !answer.payload.is_empty() {
            api::checked(&answer.payload).context("NATS breaks the restore off")?;
        }
        bytes += read as u64;
        so_far(bytes);
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
