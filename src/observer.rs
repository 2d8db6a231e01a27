//! Observes the log and NATS: how far the tables are behind, which dead letters are open, when each provider's last webhook came,
//! how much space the log has. No stage counts these.
//!
//! Every instance observes for itself and reads from the log, so all instances report the same whichever works on a stage,
//! and nothing is scanned when metrics are requested: dead letters are read once from the beginning, and from then on as they
//! come.

pub mod announce;
pub mod expiry;
pub mod health;
mod lag;
mod letters;
mod nats_server;
mod webhooks;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use self::health::Health;
pub use self::nats_server::{ServerLook, Servers, look_at_servers};
use self::{lag::Behind, letters::Letters};
use crate::config;

/// How often it is looked. An alert that waits for minutes needs no more.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often what is rare is looked for: dead letters.
const LOOK_FOR_LETTERS_EVERY: u32 = 3;

/// Looks until it is stopped.
///
/// # Errors
/// If the client that asks NATS cannot be set up.
pub async fn run(health: Arc<Health>, settings: config::Nats, stop: CancellationToken) -> anyhow::Result<()> {
    let servers = health.nats_servers.watch(&health.journal, &settings)?;
    tokio::select! {
        () = stop.cancelled() => {}
        () = look(&health) => {}
        () = announce::run(&health) => {}
        () = servers => {}
    }
    Ok(())
}

async fn look(health: &Health) {
    let journal = &health.journal;
    let connection = journal.connection();
    let (mut behind, mut letters, mut has_webhooks) = (Behind::default(), Letters::default(), false);
    for round in 0_u32.. {
        connection.wait_up().await;
        note("the tables' lag", behind.look(connection, journal.tables()).await);
        if !has_webhooks {
            let found = webhooks::read(journal, &health.registry, &health.last_webhooks).await;
            has_webhooks = found.is_ok();
            note("the last webhooks", found);
        }
        if round.is_multiple_of(LOOK_FOR_LETTERS_EVERY) {
            note("dead letters", letters.look(connection).await);
        }
        tokio::time::sleep(crate::fault_injection::time("look_at_log", LOOK_EVERY)).await;
    }
}

/// What could not be seen is seen at the next look; where NATS is away the log says so already.
fn note(what: &str, looked: anyhow::Result<()>) {
    if let Err(error) = looked {
        tracing::debug!(what, error = format!("{error:#}"), "cannot look at the log");
    }
}
