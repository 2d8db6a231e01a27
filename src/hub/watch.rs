//! Watches the process's resources: file descriptors that run out, log lines that were lost.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{process::descriptors, telemetry::logs};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(5);
/// Shortest pause between two warnings of the same kind.
const WARN_EVERY: u32 = 12;
/// Share of the descriptors that may be open before it is warned of.
const SHARE_OPEN: f64 = 0.9;

/// Looks until it is stopped.
///
/// # Errors
/// None; as a task of the hub has it.
pub(super) async fn run(stop: CancellationToken) -> anyhow::Result<()> {
    let mut quiet = 0_u32;
    loop {
        if let Some(lost) = logs::lost() {
            metrics::counter!("log_lines_lost_total", "reason" => "full").absolute(lost.full());
            metrics::counter!("log_lines_lost_total", "reason" => "unwritable").absolute(lost.unwritable());
        }
        quiet = quiet.saturating_sub(1);
        if let (Some(open), Some(limit)) = (descriptors::open(), descriptors::limit())
            && open as f64 > limit as f64 * SHARE_OPEN
            && quiet == 0
        {
            quiet = WARN_EVERY;
            tracing::warn!(open, limit, "file descriptors run out: raise LimitNOFILE or ulimit -n");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
