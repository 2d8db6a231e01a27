//! Re-reads files that other programs write: at intervals, and on SIGHUP.

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Calls `look` until `stop`, with whether it was requested. It may block.
///
/// # Errors
/// If the process cannot listen for SIGHUP, or `look` panicked.
pub(crate) async fn look_again<T: Send + 'static>(
    mut watched: T,
    look: fn(&mut T, bool),
    every: Duration,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut asked = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let mut due = tokio::time::interval(every);
    loop {
        let by_signal = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = asked.recv() => true,
            _ = due.tick() => false,
        };
        let looking = tokio::task::spawn_blocking(move || {
            look(&mut watched, by_signal);
            watched
        });
        watched = looking.await.context("looking at files again")?;
    }
}
