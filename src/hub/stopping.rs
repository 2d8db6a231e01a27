//! The time between SIGTERM and draining: the instance is no longer ready, and still accepts requests.
//!
//! A load balancer, a proxy or Kubernetes needs this time to notice. Meanwhile each answer closes its connection, so that at the
//! end no client has a connection that the hub would have to cut off.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Tasks;

/// The last part of the delay, in which new connections are left aside and those that have begun are served: about as long
/// as the network's longest round trip. Clients ask for a connection again after a second.
const LINGER: Duration = Duration::from_millis(500);

/// How much of the delay is for connections that have begun.
pub(super) fn linger(delay: Duration) -> Duration {
    LINGER.min(delay)
}

impl Tasks {
    /// Lets the time pass in which the hub still works as before; less, where a second signal says so.
    ///
    /// # Errors
    /// Why a task ended meanwhile.
    pub(super) async fn go_on_for(&mut self, delay: Duration, now: &CancellationToken) -> anyhow::Result<()> {
        let delay = delay.saturating_sub(linger(delay));
        if delay.is_zero() {
            return Ok(());
        }
        tracing::info!(
            delay_ms = delay.as_millis() as u64,
            "not ready any more; webhooks are accepted until SHUTDOWN_DELAY is over"
        );
        let passed = async {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = now.cancelled() => {}
            }
        };
        let never = CancellationToken::new();
        self.while_all_run(&never, passed).await?;
        Ok(())
    }
}
