//! Stages: what consumes the log, each on a durable consumer.
//!
//! One instance works on a stage at a time, by a [lease](super::lease); the others stand by. It handles many orders at
//! once and the events of each order one after another: an event waits for the one before it of the same order, and for
//! nothing else. A stage says what follows from an event; only the runner here acknowledges, and only after that is on
//! the log. An instance that takes over reads from the log what was left open (`recovery`) and begins with that, so no
//! newer event of an order overtakes an older one. What has to wait for long is parked in its order's lane
//! ([`super::lanes`]) and acknowledged; later events of that order join it there.
//!
//! A message that cannot be read becomes an `order.rejected` of its own: never a loop, never a silent acknowledgement.

mod attempt;
mod given_up;
mod held;
mod recovery;
mod stray;
mod unreadable;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use async_nats::jetstream::Message;
use chrono::Utc;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

pub use given_up::give_up;

use self::{
    attempt::{Ground, acknowledge},
    held::{Held, Item},
    recovery::Unsettled,
    stray::Stray,
    unreadable::unreadable,
};
use super::{
    EVENTS, Journal, codec,
    lanes::{Corner, LANES, LaneWriter, Lanes, Read},
    lease::{Lease, Validity},
    pull::{self, Messages, Pull},
    settle::Failure,
    streams,
};
use crate::event::{EventType, NewEvent, Recorded, outcome::OUTCOME};

/// A request stands for less than a lease, so that the one of an instance that stands still is over before another takes
/// its place.
const PULL: Pull = Pull {
    messages: 500,
    expires: Duration::from_secs(3),
    heartbeat: Duration::from_secs(1),
};
/// How often it is looked whether the consumer handed messages to somebody else.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Pause after trouble: before the lease is asked for again, before an outcome is appended again.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_millis(250);

/// Something that turns events into events.
pub trait Stage: Send + Sync + 'static {
    /// Its name, its durable consumer's and its lease's.
    const NAME: &'static str;
    /// The types of events that it takes, beside requests to take such a one up again.
    const TAKES: &'static [EventType];
    /// Label of the event that ends what it was given (see [`crate::event::EventId::derive`]): the same whoever records it.
    const LABEL: &'static str = OUTCOME;
    /// Where its events wait, if they may have to wait for long.
    const LANES: Option<Corner>;

    /// Waits until there is a point in handling an event (breaker open: here).
    fn ready(&self) -> impl Future<Output = ()> + Send;

    /// Whether [`Self::ready`] would return at once.
    fn is_ready(&self) -> bool;

    /// What follows from an event. `request` counts from 1.
    fn handle(&self, event: &Recorded, request: u32) -> impl Future<Output = Result<Vec<NewEvent>, Failure>> + Send;

    /// Whether it is the event that an earlier one of its order may wait for ([`Failure::Retry`], `for_creation`).
    fn creates(_: &Recorded) -> bool {
        false
    }

    /// Whether an attempt, as it was recorded, says that its event waits for such a one.
    fn waits_for_creation(_: &Recorded) -> bool {
        false
    }

    /// Whether nothing follows from events of this type: they only wake one that waits. Then none of them is ever open.
    fn only_wakes(_: EventType) -> bool {
        false
    }
}

/// Runs a stage until told to stop; then what is at work is finished, and what waits is left to the log.
///
/// # Errors
/// Where the consumer does not exist on the server.
pub async fn run<S: Stage>(stage: Arc<S>, journal: Journal, stop: CancellationToken) -> anyhow::Result<()> {
    let worker = Worker { stage, journal, stop };
    while !worker.stop.is_cancelled() {
        if let Err(error) = worker.work_while_it_is_ours().await {
            if error.downcast_ref::<streams::Missing>().is_some() {
                return Err(error);
            }
            tracing::warn!(
                stage = S::NAME,
                error = format!("{error:#}"),
                "beginning again after trouble"
            );
        }
        tokio::select! {
            () = worker.stop.cancelled() => {}
            () = tokio::time::sleep(PAUSE_AFTER_TROUBLE) => {}
        }
    }
    Ok(())
}

struct Worker<S> {
    stage: Arc<S>,
    journal: Journal,
    stop: CancellationToken,
}

impl<S: Stage> Worker<S> {
    async fn work_while_it_is_ours(&self) -> anyhow::Result<()> {
        let connection = self.journal.connection();
        let taking = async {
            connection.wait_up().await;
            Lease::take(connection, S::NAME).await
        };
        let mut lease = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            lease = taking => lease?,
        };
        tracing::info!(stage = S::NAME, "working");
        let validity = lease.validity();
        let finished = tokio::select! {
            biased;
            worked = self.work(validity) => Some(worked),
            () = lease.keep() => None,
        };
        match finished {
            Some(worked) => {
                lease.give_back().await;
                worked
            }
            None => anyhow::bail!("the lease is lost; another instance may have it"),
        }
    }

    async fn work(&self, lease: Validity) -> anyhow::Result<()> {
        let Some(corner) = S::LANES else {
            return self.work_on(lease, None).await;
        };
        let (lanes, writer, read) = Lanes::read(self.journal.connection(), self.journal.partitions(), corner).await?;
        self.work_with_lanes(lease, lanes, writer, read).await
    }

    async fn work_with_lanes(
        &self,
        lease: Validity,
        lanes: Lanes,
        writer: LaneWriter,
        read: Read,
    ) -> anyhow::Result<()> {
        tokio::select! {
            worked = self.work_on(lease, Some((lanes, read))) => worked,
            // It never ends well.
            Err(error) = writer.run() => Err(error),
        }
    }

    async fn work_on(&self, lease: Validity, lanes: Option<(Lanes, Read)>) -> anyhow::Result<()> {
        let connection = self.journal.connection();
        let (lanes, read) = lanes.unzip();
        let unsettled = recovery::read::<S>(connection, lanes.as_ref().zip(read)).await?;
        tell(S::NAME, &unsettled);
        let ground = Ground {
            lanes,
            lease,
            ended: unsettled.ended,
            crowded: AtomicBool::new(false),
        };
        let mut consumer = streams::consumer(connection, EVENTS, S::NAME).await?;
        let mut messages = Messages::of(connection, EVENTS, S::NAME, PULL).await?;
        let mut bells = match &ground.lanes {
            Some(lanes) => Some(Messages::of(connection, LANES, lanes.bell(), PULL).await?),
            None => None,
        };
        let mut held = Held::new(unsettled.closed, unsettled.overdue);
        let mut stray = Stray {
            last: unsettled.handed_out,
            suspect: None,
        };
        let mut look = tokio::time::interval(LOOK_EVERY);
        for item in unsettled.open {
            held.push(item);
        }
        let mut at_work = FuturesUnordered::new();
        while !self.stop.is_cancelled() {
            while let Some(task) = held.next() {
                at_work.push(self.settle(task, &ground));
            }
            ground.crowded.store(held.is_crowded(), Ordering::Relaxed);
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(done) = at_work.next() => held.finish(done?),
                message = take(&*self.stage, &mut messages), if held.has_room() => {
                    let Some(message) = message? else { continue };
                    stray.received(&message)?;
                    self.hold(message, &mut held).await?;
                }
                bell = hear(&*self.stage, bells.as_mut()), if held.has_room_for_lanes() => {
                    let Some(bell) = bell? else { continue };
                    if let Some((key, bell)) = Lanes::bell_of(&bell.subject, &bell.payload) {
                        held.push_due(key, Some(bell));
                    }
                    acknowledge(Some(&bell)).await?;
                }
                _ = look.tick() => {
                    let info = consumer.info().await.context("cannot look up the consumer")?;
                    stray.compare(info.delivered.consumer_sequence, held.has_room() && self.stage.is_ready())?;
                }
            }
        }
        // What is at work ends; what waits for its turn, or for its next attempt, is on the log and not acknowledged.
        drop((messages, bells));
        while let Some(done) = at_work.next().await {
            done?;
        }
        Ok(())
    }

    /// Sorts a message in: to be handled, or known already.
    async fn hold(&self, message: Message, held: &mut Held) -> anyhow::Result<()> {
        let info = pull::info(&message)?;
        let (sequence, pending) = (info.stream_sequence, info.pending);
        let age_ms = Utc::now().timestamp_millis() - i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000)?;
        metrics::gauge!("stage_pending", "stage" => S::NAME).set(pending as f64);
        metrics::gauge!("stage_lag_seconds", "stage" => S::NAME).set(age_ms.max(0) as f64 / 1000.0);
        if held.is_closed(sequence) {
            return acknowledge(Some(&message)).await;
        }
        if held.is_held(sequence) {
            return Ok(());
        }
        match codec::decode(message.headers.as_ref(), message.payload.clone(), sequence) {
            Ok(event) => held.push(Item {
                event,
                requests: 0,
                parked: None,
                message: Some(message),
            }),
            Err(error) => {
                tracing::error!(stage = S::NAME, sequence, %error, "a message on the log is no event");
                if self.record(vec![unreadable(&message, sequence, &error)]).await {
                    acknowledge(Some(&message)).await?;
                }
            }
        }
        Ok(())
    }
}

fn tell(stage: &str, unsettled: &Unsettled) {
    if !unsettled.open.is_empty() || !unsettled.overdue.is_empty() {
        tracing::info!(
            stage,
            events = unsettled.open.len(),
            lanes = unsettled.overdue.len(),
            "taking up what was left open"
        );
    }
}

/// The next message, once the stage is ready for one; none where there was only a sign of life.
async fn take<S: Stage>(stage: &S, messages: &mut Messages) -> anyhow::Result<Option<Message>> {
    stage.ready().await;
    messages.next().await
}

/// The next bell; never, for a stage without lanes.
async fn hear<S: Stage>(stage: &S, bells: Option<&mut Messages>) -> anyhow::Result<Option<Message>> {
    match bells {
        Some(bells) => take(stage, bells).await,
        None => std::future::pending().await,
    }
}
