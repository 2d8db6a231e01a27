//! A durable consumer that is deleted while the hub runs: it is created again where the hub's user may do so, else waited
//! for.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Missing, consumer, consumers};
use crate::journal::connection::Connection;

/// Pause between two looks for it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often the log repeats that it is waited for.
const SAY_EVERY: u32 = 30;

/// Returns when the consumer exists again, or the hub stops. Only the consumer's stage waits meanwhile: webhooks are
/// taken, and what is on the log stays there.
pub async fn wait_for(connection: &Connection, stream: &'static str, name: &'static str, stop: &CancellationToken) {
    metrics::gauge!("consumer_missing", "consumer" => name).set(1);
    let (mut looks, mut may_create) = (0u32, true);
    while !stop.is_cancelled() {
        let found = consumer(connection, stream, name).await;
        let is_missing = match &found {
            Ok(_) => break,
            Err(error) => error.downcast_ref::<Missing>().is_some(),
        };
        if is_missing && may_create {
            may_create = make_again(connection, stream, name).await;
            continue;
        }
        if is_missing && looks.is_multiple_of(SAY_EVERY) {
            tracing::error!(
                consumer = name,
                "the durable consumer was deleted, and this user may not create it: run `webhook-hub streams apply`; \
                 webhooks are still taken, what this consumer feeds waits"
            );
        }
        looks += 1;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
    metrics::gauge!("consumer_missing", "consumer" => name).set(0);
    if !stop.is_cancelled() {
        tracing::warn!(consumer = name, "the durable consumer is there again");
    }
}

/// Whether it may be tried again: not where the server says that the user has no right to it.
async fn make_again(connection: &Connection, stream: &str, name: &str) -> bool {
    let wanted = consumers::all().unwrap_or_default();
    let Some(wanted) = wanted.iter().find(|one| one.stream == stream && one.name == name) else {
        return false;
    };
    tokio::select! {
        biased;
        right = connection.next_right_missing() => {
            tracing::debug!(right, "cannot create the consumer");
            false
        }
        created = wanted.create(connection) => match created {
            Ok(()) => {
                tracing::warn!(consumer = name, "the durable consumer was deleted, and is made again");
                true
            }
            Err(error) => {
                tracing::warn!(consumer = name, error = format!("{error:#}"), "cannot make the consumer again");
                false
            }
        },
    }
}
