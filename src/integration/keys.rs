//! Idempotency keys of the backend, kept for longer than the log recognises ids.
//!
//! The log knows an id for five minutes. A backend whose own queue was held up asks again after hours, and a provider is not
//! to be told twice. So each key is kept as a message of the stream `KEYS`, by the id of the event that it made, and ends by
//! itself after a day. It is written after the event is on the log: a key without its event would swallow a request. Nothing
//! depends on it; without it a key holds as long as the log's own memory.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound;

use crate::{event::EventId, journal::connection::Connection};

/// Name of the stream.
pub const KEYS: &str = "KEYS";
/// Longest wait for one answer of NATS: the backend waits meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

fn subject(id: EventId) -> String {
    format!("hub.key.{id}")
}

/// Whether the request of this id was accepted before, as far as can be known.
pub(super) async fn is_known(connection: &Connection, id: EventId) -> bool {
    let looking = async {
        let stream = connection.context.get_stream_no_info(KEYS).await?;
        match stream.get_last_raw_message_by_subject(&subject(id)).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == NoMessageFound => Ok(false),
            Err(error) => Err(anyhow::Error::from(error)),
        }
    };
    match within_time(looking).await {
        Ok(is_known) => is_known,
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot look up an idempotency key; it holds for five minutes"
            );
            false
        }
    }
}

/// Notes that the request of this id was accepted.
pub(super) async fn note(connection: &Connection, id: EventId) {
    let writing = async { anyhow::Ok(connection.context.publish(subject(id), "1".into()).await?.await?) };
    if let Err(error) = within_time(writing).await {
        tracing::warn!(
            error = format!("{error:#}"),
            "an idempotency key is not kept; it holds for five minutes"
        );
    }
}

async fn within_time<T>(asking: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let asked = tokio::time::timeout(ANSWER_TIMEOUT, asking).await;
    asked
        .context("NATS does not answer about a key")?
        .context("is the stream KEYS there? `webhook-hub streams apply` makes it")
}
