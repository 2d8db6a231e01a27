//! Checks the consumer and the end of the log every two seconds. It runs beside the work, so that no order waits for its
//! requests to NATS.

use async_nats::jetstream::consumer::PullConsumer;
use chrono::{DateTime, Utc};

use super::{Stage, Worker, attempt::TaskContext, due, floor, gauges::Gauges, in_flight::InFlight, tenure::Tenure};
use crate::journal::{EVENTS, connection::Connection, read::appended_at, streams};

/// The result of a check.
pub(super) struct ConsumerState {
    /// Events that the consumer has not handed out.
    pub(super) pending: u64,
    /// The consumer's number of the last that it handed out.
    pub(super) handed_out: u64,
    /// The event that was looked up, and when it was appended.
    pub(super) oldest: Option<(u64, DateTime<Utc>)>,
}

/// Asks; none if NATS does not answer, which the next look does. `oldest`: an event of which is wanted when it was appended.
///
/// # Errors
/// [`streams::Missing`] where the consumer was deleted, [`floor::WentBack`] where the log is not the one that it was.
pub(super) async fn look(
    stage: &'static str,
    connection: &Connection,
    consumer: &PullConsumer,
    tenure: &Tenure,
    oldest: Option<u64>,
) -> anyhow::Result<Option<ConsumerState>> {
    let info = match consumer.get_info().await {
        Ok(info) => info,
        Err(error) => {
            tracing::debug!(stage, %error, "cannot look up the consumer");
            return match streams::consumer(connection, EVENTS, stage).await {
                Err(error) if error.is::<streams::Missing>() => Err(error),
                _ => Ok(None),
            };
        }
    };
    let oldest = match oldest {
        Some(sequence) => {
            let time = appended_at(connection, sequence).await.ok().flatten();
            time.map(|time| (sequence, time))
        }
        None => None,
    };
    floor::look(connection, tenure).await?;
    Ok(Some(ConsumerState {
        pending: info.num_pending,
        handed_out: info.delivered.consumer_sequence,
        oldest,
    }))
}

impl<S: Stage> Worker<S> {
    /// Checks that all messages of the consumer arrive here, and updates the gauges.
    pub(super) fn note(
        &self,
        seen: &ConsumerState,
        context: &TaskContext,
        in_flight: &mut InFlight,
        gauges: &mut Gauges,
    ) -> anyhow::Result<()> {
        let taking = in_flight.queue.has_room() && self.stage.is_ready();
        in_flight.gaps.compare(seen.handed_out, taking)?;
        let stopped_by = self.stage.is_held_up().then_some(S::WAITS_FOR);
        gauges.note(seen, context, in_flight, stopped_by);
        let parked = |branch: &str| context.lanes.as_ref().map_or(0, |lanes| lanes.parked_of(branch));
        self.stage
            .waiting(&|branch| in_flight.queue.events_of(branch) + parked(branch));
        due::take_up_aged(self.journal.identity().aged_up_to(), context, in_flight);
        Ok(())
    }
}
