//! The time of each provider's last webhook: read from the log once, so that a restart does not look like silence.

use std::time::Duration;

use crate::{
    journal::{EVENTS, codec, connection::Connection, read::last_of},
    registry::Registry,
    telemetry::LastWebhooks,
};

/// Wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn read(
    connection: &Connection,
    registry: &Registry,
    last_webhooks: &LastWebhooks,
) -> anyhow::Result<()> {
    for enabled in registry.iter() {
        let subject = format!("webhooks.received.{}.>", codec::token(&enabled.name));
        if let Some(last) = last_of(connection, EVENTS, &subject, ANSWER_TIMEOUT).await? {
            last_webhooks.note(&enabled.name, last.time.unix_timestamp());
        }
    }
    Ok(())
}
