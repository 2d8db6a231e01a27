//! Idempotency keys of the backend, kept for longer than the log recognises ids.
//!
//! The log recognises an id for five minutes. A backend with a delayed queue may repeat a request after hours, and a provider must not get
//! the same status twice. So each key is stored in the stream `KEYS` for a day: a message with the id of the event and a digest of the
//! request, so that a different request with the same key is refused. It is written after the event is on the log, because a key without
//! its event would swallow a request. The keys are not essential: without them, repeats are recognised for as long as the log does.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::{HeaderMap, HeaderValue, jetstream::stream::LastRawMessageErrorKind::NoMessageFound};
use sha2::{Digest, Sha256};

use crate::{
    event::EventId,
    journal::{connection::Connection, read::decoded_at, streams::KEYS},
};

/// The header with the sequence of the key's event.
const PLACE: &str = "Hub-Key-Place";
/// Longest wait for one answer of NATS: the backend waits meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

fn subject(id: EventId) -> String {
    format!("hub.key.{id}")
}

/// The digest of a request: its branch, if it names one, and the payload of its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish(String);

impl Wish {
    pub(super) fn of(branch: Option<&str>, payload: &[u8]) -> Self {
        let digest = Sha256::new()
            // Distinguishes an absent branch from an empty one.
            .chain_update([u8::from(branch.is_some())])
            .chain_update(branch.unwrap_or_default())
            .chain_update([0])
            .chain_update(payload)
            .finalize();
        Self(format!("sha256:{}", hex::encode(digest)))
    }

    /// Whether a key was kept for the same wish. Hubs of before kept `1` and no digest: what they took is a repeat.
    fn is_of(&self, kept: &[u8]) -> bool {
        !kept.starts_with(b"sha256:") || kept == self.0.as_bytes()
    }
}

/// The earlier use of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyUse {
    /// Nothing, as far as can be known.
    No,
    /// It was used for the same wish.
    Same,
    /// It was used for another.
    Other,
}

/// Whether the request of this id was accepted before, as far as can be known.
///
/// A key without its event on the log is unknown: the log went back, or is another. Otherwise the request would be swallowed.
pub(super) async fn look_up(connection: &Connection, id: EventId, wish: &Wish) -> KeyUse {
    let looking = async {
        let stream = connection.context.get_stream_no_info(KEYS).await?;
        match stream.get_last_raw_message_by_subject(&subject(id)).await {
            Ok(kept) if !is_on_log(connection, id, kept.headers.get(PLACE)).await? => Ok(KeyUse::No),
            Ok(kept) if wish.is_of(&kept.payload) => Ok(KeyUse::Same),
            Ok(_) => Ok(KeyUse::Other),
            Err(error) if error.kind() == NoMessageFound => Ok(KeyUse::No),
            Err(error) => Err(anyhow::Error::from(error)),
        }
    };
    match within_time(looking).await {
        Ok(known) => known,
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot look up an idempotency key; it holds for five minutes"
            );
            KeyUse::No
        }
    }
}

/// Whether the event that a key made is on the log, at the place that was noted; yes, where an older hub noted none.
async fn is_on_log(connection: &Connection, id: EventId, place: Option<&HeaderValue>) -> anyhow::Result<bool> {
    let Some(sequence) = place.and_then(|place| place.as_str().parse().ok()) else {
        return Ok(true);
    };
    Ok(match decoded_at(connection, sequence).await? {
        Some(Ok(event)) => event.envelope.id == id,
        // Another version may have written the event, so the key counts.
        Some(Err(_)) => true,
        None => false,
    })
}

/// Stores the key of an accepted request, with the request's digest and the sequence of its event.
pub(super) async fn note(connection: &Connection, id: EventId, wish: Wish, sequence: u64) {
    let mut headers = HeaderMap::new();
    headers.insert(PLACE, sequence.to_string());
    let writing = async {
        let published = connection
            .context
            .publish_with_headers(subject(id), headers, wish.0.into());
        anyhow::Ok(published.await?.await?)
    };
    if let Err(error) = within_time(writing).await {
        tracing::warn!(
            error = format!("{error:#}"),
            "an idempotency key is not kept; it holds for five minutes"
        );
    }
}

async fn within_time<T>(asking: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let request_info = tokio::time::timeout(ANSWER_TIMEOUT, asking).await;
    request_info
        .context("NATS does not answer about a key")?
        .context("is the stream KEYS there? `webhook-hub streams apply` makes it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_branch_or_body_is_another_request() {
        let wishes = [
            Wish::of(None, b"{}"),
            Wish::of(Some(""), b"{}"),
            Wish::of(Some("b-1"), b"{}"),
            Wish::of(Some("b-2"), b"{}"),
            Wish::of(Some("b-1"), b"{ }"),
        ];
        for (at, one) in wishes.iter().enumerate() {
            for (other_at, other) in wishes.iter().enumerate() {
                assert_eq!(one.is_of(other.0.as_bytes()), at == other_at);
            }
            assert!(one.is_of(b"1"), "a hub of before kept no digest");
        }
    }
}
