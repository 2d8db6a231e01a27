//! Takes samples of refusals to the stream, and says how many lines the log did not get.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Audit, Refusal, SUBJECT_ROOT, count_lost};
use crate::journal::{codec, connection::Connection};

/// How often the log says how many lines were left out.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Longest wait for the socket, for one refusal and for the last of them.
const PUBLISH_TIMEOUT: Duration = Duration::from_millis(500);

/// The task.
pub struct Writer {
    audit: Arc<Audit>,
    waiting: mpsc::Receiver<Refusal>,
}

impl Writer {
    pub(super) const fn new(audit: Arc<Audit>, waiting: mpsc::Receiver<Refusal>) -> Self {
        Self { audit, waiting }
    }

    /// Publishes until told to stop, then what is left.
    ///
    /// # Errors
    /// Never; what cannot be published is counted and gone.
    pub async fn run(mut self, connection: Arc<Connection>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut say = tokio::time::interval(SAY_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = say.tick() => self.audit.say_left_out(),
                // While NATS is away some wait in the queue; what finds it full is lost.
                refusal = next(&mut self.waiting, &connection) => publish(&connection, &refusal).await,
            }
        }
        while let Ok(refusal) = self.waiting.try_recv() {
            publish(&connection, &refusal).await;
        }
        self.audit.say_left_out();
        // Where even that takes long there is nobody to tell.
        let _ = tokio::time::timeout(PUBLISH_TIMEOUT, connection.client.flush()).await;
        Ok(())
    }
}

/// The next one, when there is a connection to publish it on.
async fn next(waiting: &mut mpsc::Receiver<Refusal>, connection: &Connection) -> Refusal {
    connection.wait_up().await;
    match waiting.recv().await {
        Some(refusal) => refusal,
        // The audit that this task holds has a sender.
        None => std::future::pending().await,
    }
}

/// Without an acknowledgement: nothing depends on it, and a sample is not worth a wait.
async fn publish(connection: &Connection, refusal: &Refusal) {
    // The client would keep it, and everything after it, until NATS is back.
    if !connection.is_up() {
        return count_lost();
    }
    let subject = format!(
        "{SUBJECT_ROOT}.{}.{}",
        codec::token(&refusal.provider),
        codec::token(&refusal.code)
    );
    let Ok(payload) = serde_json::to_vec(refusal) else {
        return count_lost();
    };
    let published = tokio::time::timeout(PUBLISH_TIMEOUT, connection.client.publish(subject, payload.into()));
    if !matches!(published.await, Ok(Ok(()))) {
        count_lost();
    }
}
