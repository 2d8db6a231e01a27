//! JetStream's format of publishing, for code that does not use its client: the headers of an atomic batch, and the answer.

use async_nats::{HeaderMap, header::HeaderName};
use serde::Deserialize;

/// JetStream's errors where there is no room: of the server, of the account, of the stream (or its disk).
const NO_ROOM: [u64; 4] = [10023, 10002, 10047, 10077];

/// JetStream's answer to a publish.
#[derive(Debug, Deserialize)]
pub struct PubAck {
    /// Its place on the stream; of a batch that of the last message.
    #[serde(default)]
    pub seq: u64,
    /// A message of this id was there already.
    #[serde(default)]
    pub duplicate: bool,
    /// The counter's value, where it is one.
    pub val: Option<String>,
    /// Why it was refused.
    pub error: Option<ApiError>,
}

/// JetStream says no.
#[derive(Debug, Deserialize, thiserror::Error)]
#[error("{description} ({err_code})")]
pub struct ApiError {
    /// As an HTTP status.
    #[serde(default)]
    pub code: u16,
    /// Which error it is.
    #[serde(default)]
    pub err_code: u64,
    /// For people.
    #[serde(default)]
    pub description: String,
}

impl ApiError {
    /// Whether it is not about this message, and stays until space is freed.
    pub fn says_no_room(&self) -> bool {
        NO_ROOM.contains(&self.err_code)
    }
}

/// Makes a message one of a batch: its place counts from 1. The last one commits; without it nothing of the batch is stored.
pub fn mark(headers: &mut HeaderMap, batch: &str, place: usize, is_last: bool) {
    headers.insert(HeaderName::from_static("Nats-Batch-Id"), batch);
    headers.insert(HeaderName::from_static("Nats-Batch-Sequence"), place.to_string());
    if is_last {
        headers.insert(HeaderName::from_static("Nats-Batch-Commit"), "1");
    }
}
