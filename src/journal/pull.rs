//! Receives the messages of a durable consumer, one after another.
//!
//! The caller decides how much is requested at a time, and whether a message is acknowledged.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::{Message, consumer::pull, message::Info};
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::{connection::Connection, streams};

/// Bytes that one pull request brings. The largest message has 8 MB.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// From so many bytes on a payload keeps what it was read into: it is most of that.
const MOST_OF_A_BUFFER: usize = 32 * 1024;

/// The parameters of pull requests.
#[derive(Debug, Clone, Copy)]
pub struct Pull {
    /// Messages that one pull request brings.
    pub messages: usize,
    /// Time after which a pull request is renewed.
    pub expires: Duration,
    /// How often the server says that it is there; two missing ones and the client asks again.
    pub heartbeat: Duration,
}

/// The messages of a consumer.
pub struct Messages {
    consumer: String,
    pulled: pull::Stream,
}

impl Messages {
    /// Of a consumer that exists.
    ///
    /// # Errors
    /// [`streams::Missing`] where it does not; anything else is trouble with NATS and can be tried again.
    pub async fn of(connection: &Connection, stream: &str, consumer: &str, pull: Pull) -> anyhow::Result<Self> {
        let found = streams::consumer(connection, stream, consumer).await?;
        let pulled = found
            .stream()
            .max_messages_per_batch(pull.messages)
            .max_bytes_per_batch(MAX_BYTES)
            .expires(pull.expires)
            .heartbeat(pull.heartbeat)
            .messages();
        Ok(Self {
            consumer: consumer.to_owned(),
            pulled: pulled.await.context("cannot pull")?,
        })
    }

    /// The next message; none if there was only a sign of life. It may be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// If no more will come.
    pub async fn next(&mut self) -> anyhow::Result<Option<Message>> {
        match self.pulled.next().await {
            Some(Ok(message)) => Ok(Some(message)),
            Some(Err(error)) => {
                // A missed heartbeat is an error of the client; the stream continues.
                tracing::debug!(consumer = self.consumer, %error, "pull");
                Ok(None)
            }
            None => anyhow::bail!("the consumer's messages ended"),
        }
    }
}

/// Takes a message's payload out of the client's read buffer, for code that keeps it. The buffer has 64 KB and holds what the connection
/// brought to all readers; one slice of it keeps all of it in memory.
pub fn take_payload(message: &mut async_nats::Message) -> Bytes {
    let payload = std::mem::take(&mut message.payload);
    if payload.len() < MOST_OF_A_BUFFER {
        Bytes::copy_from_slice(&payload)
    } else {
        payload
    }
}

/// The position of a message, on the log and in the consumer's count.
///
/// # Errors
/// If it did not come from a consumer.
pub fn info(message: &Message) -> anyhow::Result<Info<'_>> {
    message
        .info()
        .map_err(|error| anyhow::anyhow!("not a JetStream message: {error}"))
}

/// Acknowledges a message; one that was read from the log needs no acknowledgement.
///
/// # Errors
/// If the connection is closed.
pub async fn acknowledge(message: Option<&Message>) -> anyhow::Result<()> {
    let Some(message) = message else { return Ok(()) };
    message
        .ack()
        .await
        .map_err(|error| anyhow::anyhow!("cannot acknowledge: {error}"))
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    fn message(payload: Bytes) -> async_nats::Message {
        async_nats::Message {
            subject: "orders.forwarded".into(),
            reply: None,
            length: payload.len(),
            payload,
            headers: None,
            status: None,
            description: None,
        }
    }

    /// What the client does: it reads into one buffer, and a message's payload is a slice of it.
    #[test]
    fn a_payload_that_is_kept_does_not_keep_the_read_buffer() {
        let mut buffer = BytesMut::with_capacity(65_535);
        buffer.extend_from_slice(b"an event and what other readers got");
        let mut message = message(buffer.split_to(8).freeze());
        drop(buffer.split_to(buffer.len()));
        let kept = take_payload(&mut message);
        assert_eq!(&kept[..], b"an event");
        assert!(buffer.try_reclaim(65_535), "the whole buffer is free again");
    }

    #[test]
    fn a_large_payload_is_not_copied() {
        let payload = Bytes::from(vec![7; MOST_OF_A_BUFFER]);
        assert_eq!(take_payload(&mut message(payload.clone())).as_ptr(), payload.as_ptr());
    }
}
