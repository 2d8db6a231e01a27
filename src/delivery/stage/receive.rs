//! Receives the messages of a stage's consumer: each is queued, left to another instance, or acknowledged.

use async_nats::jetstream::Message;
use chrono::Utc;

use super::{
    Stage, Worker, attempt::TaskContext, floor, gauges::Gauges, in_flight::InFlight, tenure::Handed,
    unreadable::unreadable, work_queue::QueuedEvent,
};
use crate::journal::{
    codec::{self, OrderKey},
    identity::Mark,
    pull::{self, Messages, acknowledge},
};

impl<S: Stage> Worker<S> {
    /// Queues a message, or acknowledges one that is settled.
    pub(super) async fn hold(
        &self,
        mut message: Message,
        in_flight: &mut InFlight,
        context: &TaskContext,
        gauges: &Gauges,
    ) -> anyhow::Result<()> {
        let info = pull::info(&message)?;
        let sequence = info.stream_sequence;
        let age_ms = Utc::now().timestamp_millis() - i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000)?;
        gauges.show(info.pending, age_ms);
        let connection = self.journal.connection();
        let handed = Handed {
            sequence,
            delivered: info.delivered,
            age_ms,
        };
        if context.tenure.must_compare(&handed, connection.times()) {
            floor::check(connection, &context.tenure).await?;
        }
        let id = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(codec::MESSAGE_ID));
        let id = id.map(|id| id.as_str()).unwrap_or_default();
        let is_settled = context.tenure.progress(|progress| {
            progress.know(sequence, id);
            progress.mark(Mark::new(sequence, id, info.published.unix_timestamp_nanos()));
            let is_settled = progress.is_settled(sequence);
            progress.receive(sequence);
            is_settled
        });
        if is_settled == Some(true) {
            return acknowledge(Some(&message)).await;
        }
        let InFlight { queue, newer, .. } = in_flight;
        if queue.is_queued(sequence) {
            return Ok(());
        }
        let payload = pull::take_payload(&mut message.message);
        match codec::decode(message.headers.as_ref(), payload, sequence) {
            Err(codec::CodecError::Newer(event)) => newer.leave(S::NAME, sequence, event),
            Ok(event) if newer.holds_up(S::NAME, sequence, OrderKey::of(&event)) => {}
            Ok(event) => {
                self.stage.arrived(&event);
                // What is still needed of the message is where it is acknowledged.
                message.message.headers = None;
                queue.push(QueuedEvent {
                    event,
                    requests: 0,
                    parked: None,
                    message: Some(message),
                });
            }
            Err(error) => {
                let rejected = vec![unreadable(S::NAME, &message, sequence, &error)];
                if self.record(context, sequence, rejected).await {
                    acknowledge(Some(&message)).await?;
                    context.tenure.progress(|progress| progress.settle(sequence));
                }
            }
        }
        Ok(())
    }
}

/// The next message, once the stage is ready for one; none after a heartbeat. With an empty queue one is taken before the stage
/// is ready: a half-open breaker lets few requests through, and new events get a share of them beside parked ones.
pub(super) async fn take<S: Stage>(
    stage: &S,
    messages: &mut Messages,
    has_events: bool,
) -> anyhow::Result<Option<Message>> {
    if has_events {
        stage.ready().await;
    }
    messages.next().await
}
