//! JetStream's API as raw JSON: reading and writing back keeps every setting, also those that the client library does not
//! know.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::Request;
use serde_json::Value;

use crate::journal::connection::Connection;

/// Wait for the answer to a look, or to a change of a stream: in a cluster several servers have to agree.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// JetStream's error code for a stream that is not there.
const STREAM_NOT_FOUND: u64 = 10059;

/// JetStream refuses something.
#[derive(Debug, thiserror::Error)]
#[error("{description} ({code})")]
pub struct ApiError {
    /// Its error code.
    pub code: u64,
    description: String,
}

/// Whether an error is a refusal of JetStream's with this code.
pub fn is_refused_with(error: &anyhow::Error, code: u64) -> bool {
    error.downcast_ref::<ApiError>().is_some_and(|one| one.code == code)
}

/// Asks for something: `STREAM.INFO.EVENTS`.
///
/// # Errors
/// [`ApiError`], or that NATS does not answer in time.
pub async fn ask(connection: &Connection, what: &str, request: &Value, within: Duration) -> anyhow::Result<Value> {
    let payload = if request.is_null() {
        Vec::new()
    } else {
        serde_json::to_vec(request)?
    };
    let request = Request::new().payload(payload.into()).timeout(Some(within));
    let subject = format!("$JS.API.{what}");
    let answer = connection.client.send_request(subject, request).await;
    let answer = answer.with_context(|| format!("NATS does not answer to {what}"))?;
    checked(&answer.payload)
}

/// An answer that is no refusal.
///
/// # Errors
/// [`ApiError`], or that it is no JSON.
pub fn checked(answer: &[u8]) -> anyhow::Result<Value> {
    let answer: Value = serde_json::from_slice(answer).context("NATS gives an answer that is not JSON")?;
    match answer.get("error") {
        None => Ok(answer),
        Some(error) => Err(ApiError {
            code: error["err_code"].as_u64().unwrap_or_default(),
            description: error["description"].as_str().unwrap_or("no reason is given").to_owned(),
        }
        .into()),
    }
}

/// The server's information about a stream (`config`, `state`, `created`, `cluster`, `mirror`); none if it does not exist.
///
/// # Errors
/// If NATS does not answer.
pub async fn stream_info(connection: &Connection, name: &str) -> anyhow::Result<Option<Value>> {
    match ask(connection, &format!("STREAM.INFO.{name}"), &Value::Null, ANSWER).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if is_refused_with(&error, STREAM_NOT_FOUND) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot look up stream {name}")),
    }
}
