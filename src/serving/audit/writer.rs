//! Writes samples of refusals to the stream, and logs how many lines were left out.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Audit, RefusalSample, SUBJECT_ROOT, count_lost};
use crate::journal::{codec, connection::Connection};

/// How often the log says how many lines were left out.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Longest wait for the socket, for one refusal and for the last of them.
const PUBLISH_TIMEOUT: Duration = Duration::from_millis(500);

/// The task.
pub struct SampleWriter {
    audit: Arc<Audit>,
    waiting: mpsc::Receiver<RefusalSample>,
}

impl SampleWriter {
    pub(super) const fn new(audit: Arc<Audit>, waiting: mpsc::Receiver<RefusalSample>) -> Self {
        Self { audit, waiting }
    }

    /// Publishes until it is stopped, then what is left.
    ///
    /// # Errors
    /// Never; what cannot be published is counted and gone.
    pub async fn run(mut self, connection: Arc<Connection>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut say = tokio::time::interval(SAY_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = say.tick() => self.audit.say_left_out(),
                // While NATS is away, samples wait in the queue; when it is full, further ones are lost.
                refusal = next(&mut self.waiting, &connection) => publish(&connection, &refusal).await,
            }
        }
        while let Ok(refusal) = self.waiting.try_recv() {
            publish(&connection, &refusal).await;
        }
        self.audit.say_left_out();
        // If that takes too long, the message is dropped.
        let _ = tokio::time::timeout(PUBLISH_TIMEOUT, connection.client.flush()).await;
        Ok(())
    }
}

/// The next one, when there is a connection to publish it on.
async fn next(waiting: &mut mpsc::Receiver<RefusalSample>, connection: &Connection) -> RefusalSample {
    connection.wait_up().await;
    match waiting.recv().await {
        Some(refusal) => refusal,
        // Never happens: this task's audit holds a sender.
        None => std::future::pending().await,
    }
}

/// Without an acknowledgement: nothing depends on it, and a sample is not worth a wait.
async fn publish(connection: &Connection, refusal: &RefusalSample) {
    // The client would keep this and all later messages until NATS is back.
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

#[cfg(test)]
mod tests {
    use std::iter;

    use chrono::DateTime;
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::serving::audit::QUEUE;

    /// Nothing is published, as while NATS is away.
    #[test]
    fn samples_beyond_the_queue_are_lost_and_counted() {
        let refusal = RefusalSample {
            time: DateTime::UNIX_EPOCH,
            request_id: "req".into(),
            provider: "careem".into(),
            code: "INVALID_SIGNATURE".into(),
            status: 401,
            client_address: "192.0.2.1".into(),
            method: "POST".into(),
            path: "/".into(),
            scheme: None,
            user_agent: None,
            body_bytes: None,
        };
        let (audit, mut writer) = Audit::new();
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            for _ in 0..QUEUE + 1000 {
                audit.publish(refusal.clone());
            }
        });
        let waited = iter::from_fn(|| writer.waiting.try_recv().ok()).count();
        let said = recorder.handle().render();
        assert!(
            waited == QUEUE && said.contains("refusals_lost_total 1000"),
            "{waited} {said}"
        );
        // A sample has at most some hundred bytes, so a full queue needs little memory.
        const { assert!(QUEUE <= 1024) };
    }
}
