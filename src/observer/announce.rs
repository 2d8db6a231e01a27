//! Each instance says on the core NATS subject `hub.instance` that it runs, for `webhook-hub status`. Nothing depends on these messages.

use std::{collections::BTreeMap, time::Duration};

use chrono::Utc;
use serde::{Deserialize, Serialize};

use super::health::Health;
use crate::delivery::breaker::BreakerState;

/// The subject.
pub const SUBJECT: &str = "hub.instance";
/// How often an instance says so. `status` listens for two seconds.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the socket; the next message says the same.
const SAY_TIMEOUT: Duration = Duration::from_millis(500);

/// Most characters of a breaker's reason. The hub's reasons are sentences.
const MAX_REASON_CHARS: usize = 256;

/// A message: an instance runs. Fields may be added.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceReport {
    /// Its name; a new one at each start.
    pub instance: String,
    /// Version of its program.
    #[serde(default)]
    pub version: String,
    /// For how long it has run, in seconds.
    #[serde(default)]
    pub uptime_seconds: u64,
    /// The stages that it works on; `projection` are the tables.
    #[serde(default)]
    pub stages: Vec<String>,
    /// It was asked to stop.
    #[serde(default)]
    pub is_stopping: bool,
    /// Breakers of providers' interfaces that are not closed, by provider, where it works on the stage `push`.
    #[serde(default)]
    pub provider_breakers: BTreeMap<String, OpenBreaker>,
    /// Webhooks that it accepted in the last minute, by provider.
    #[serde(default)]
    pub accepted_per_minute: BTreeMap<String, u64>,
}

/// A breaker that is not closed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenBreaker {
    /// `open` or `half_open`.
    pub state: String,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The breakers that are not closed.
fn provider_breakers(health: &Health) -> BTreeMap<String, OpenBreaker> {
    let with_interface = health
        .registry
        .iter()
        .filter_map(|enabled| Some((enabled, enabled.outbound.as_ref()?)));
    let states = with_interface.map(|(enabled, remote)| (enabled.name.to_string(), remote.gate.state()));
    let not_closed = states.filter(|(_, (state, _))| *state != BreakerState::Closed);
    not_closed
        .map(|(name, (state, reason))| {
            let reason = reason.map(|reason| reason.chars().take(MAX_REASON_CHARS).collect());
            let state = state.as_str().to_owned();
            (name, OpenBreaker { state, reason })
        })
        .collect()
}

/// Says so; never ends.
pub(super) async fn run(health: &Health) {
    let connection = health.journal.connection();
    loop {
        connection.wait_up().await;
        let report = InstanceReport {
            instance: health.instance_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: health.started.elapsed().as_secs(),
            stages: health.journal.roles().all().into_iter().map(str::to_owned).collect(),
            is_stopping: health.stopping.is_cancelled(),
            provider_breakers: provider_breakers(health),
            accepted_per_minute: health.last_webhooks.per_minute(Utc::now().timestamp()),
        };
        match serde_json::to_vec(&report) {
            Ok(report) => {
                let said = connection.client.publish(SUBJECT, report.into());
                if let Ok(Err(error)) = tokio::time::timeout(SAY_TIMEOUT, said).await {
                    tracing::debug!(%error, "cannot announce this instance");
                }
            }
            Err(error) => tracing::error!(%error, "an announcement cannot be written"),
        }
        tokio::time::sleep(SAY_EVERY).await;
    }
}
