//! Telemetry: [`logs`] and their [`sink`], [`metrics`], [`panics`], and the [`trace_context`] that is passed on. [`roles`],
//! [`tables`] and [`LastWebhooks`] are what an instance knows of itself; [`crate::observer`] reads the log for what no stage
//! counts.

use uuid::Uuid;

pub mod logs;
pub mod sink;
pub mod metrics;
pub mod trace_context;
pub mod panics;
pub mod roles;
pub mod tables;
mod last_webhooks;

pub use self::last_webhooks::LastWebhooks;

/// Most characters of the machine's name in [`instance_id`].
const MAX_HOST_CHARS: usize = 63;

/// A name for this run of the process: the machine's, and eight random digits, for a pod or a container may come back under
/// the same name.
pub fn instance_id() -> String {
    // Reading the kernel's file does not block. On systems other than Linux the random part stands alone.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().take(MAX_HOST_CHARS).collect();
    let random = Uuid::new_v4().simple().to_string();
    format!("{}-{}", if host.is_empty() { "hub" } else { &host }, &random[..8])
}
