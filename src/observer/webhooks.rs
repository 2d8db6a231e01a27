//! The time of each provider's last webhook: read from the log once, so that a restart does not look like silence.

use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;

use crate::{
    journal::{EVENTS, Journal, codec, connection::Connection, read::last_of},
    registry::Registry,
    telemetry::LastWebhooks,
};

/// Wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn read(journal: &Journal, registry: &Registry, last_webhooks: &LastWebhooks) -> anyhow::Result<()> {
    let connection = journal.connection();
    for enabled in registry.iter() {
        let root = format!("webhooks.received.{}", codec::token(&enabled.name));
        let Some(last) = last_of(connection, EVENTS, &format!("{root}.>"), ANSWER_TIMEOUT).await? else {
            continue;
        };
        let seconds = match proven_at(&last) {
            Some(seconds) => Some(seconds),
            None => last_proven(connection, &root, journal.partitions()).await?,
        };
        if let Some(seconds) = seconds {
            last_webhooks.note(&enabled.name, seconds);
        }
    }
    Ok(())
}

/// The last one that was proven, of those that are the last of a partition.
async fn last_proven(connection: &Connection, root: &str, partitions: u16) -> anyhow::Result<Option<i64>> {
    let mut newest = None;
    for partition in 0..partitions {
        let subject = format!("{root}.{}", codec::partition_token(partition));
        let last = last_of(connection, EVENTS, &subject, ANSWER_TIMEOUT).await?;
        newest = newest.max(last.as_ref().and_then(proven_at));
    }
    Ok(newest)
}

/// When it came, if a signature proved it. One that cannot be read, as of a later version, counts.
fn proven_at(message: &StreamMessage) -> Option<i64> {
    let event = codec::decode(Some(&message.headers), message.payload.clone(), message.sequence);
    let is_proven = event.map_or(true, |event| {
        event.envelope.request.is_none_or(|request| request.origin.is_none())
    });
    is_proven.then(|| message.time.unix_timestamp())
}
