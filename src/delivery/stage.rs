//! The stage runner: each stage consumes the log through a durable consumer.
//!
//! One instance holds the [lease](super::lease) of a stage and works on it; the others stand by. It handles many orders
//! concurrently and the events of one order in sequence: an event waits for the previous event of its order, and for nothing
//! else. A stage returns the events that follow from an event; only the runner acknowledges, and only after those are on the
//! log. An instance that takes over first reads the open events from the log (`recovery`) and begins with them, so no newer
//! event of an order overtakes an older one. An event that has to wait for long is parked in its order's lane
//! ([`super::lanes`]) and acknowledged; later events of that order join it there.
//!
//! An unreadable message becomes an `order.rejected` of its own, which is a dead letter: it neither loops nor is acknowledged
//! silently. An event of a newer version is left to an instance of that version (`newer_version`).

mod definition;
mod action;
mod aged;
mod apart;
mod another_order;
mod attempt;
mod doubt;
mod due;
mod floor;
mod recovery_scan;
pub(crate) mod gauges;
mod given_up;
mod in_flight;
mod inherited;
mod handover;
mod work_queue;
mod join;
mod leaving;
mod let_pass;
mod queued_behind;
mod newer_version;
mod out_of_turn;
mod log_lines;
mod consumer_check;
mod progress;
mod cause_names;
mod rebuild;
mod receive;
mod record;
mod recovery;
mod fair_share;
mod delivery_gap;
mod tenure;
pub mod permission;
mod unreadable;

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::Subscriber;
use futures_util::{
    FutureExt as _, Stream, StreamExt,
    future::{Fuse, FusedFuture as _},
    stream::FuturesUnordered,
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub use definition::Stage;
pub use doubt::Before;
pub use given_up::{RequestFacts, give_up, give_up_knowing, not_yours, reject};

use self::{
    attempt::TaskContext,
    doubt::Doubt,
    fair_share::FairShare,
    gauges::Gauges,
    handover::Freed,
    in_flight::{InFlight, WorkSources},
    leaving::Left,
    receive::take,
    recovery::OpenWork,
    tenure::{LostFloor, StageUnavailable, Tenure, Term},
    work_queue::{Done, Task},
};
use super::{
    lanes::{Lanes, LanesRead},
    lease::Lease,
};
use crate::{
    fault_injection::{crash_stage_at, time},
    journal::{
        EVENTS, Journal,
        pull::{Messages, Pull},
        streams,
    },
};

/// A pull request expires before a lease does, so the request of a frozen instance has ended before another takes over.
const PULL: Pull = Pull {
    messages: 500,
    expires: Duration::from_secs(3),
    heartbeat: Duration::from_secs(1),
};
/// Interval of the checks whether the consumer delivered messages to another instance.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long an instance that could not work on a stage leaves it to others.
const STAND_ASIDE: Duration = Duration::from_secs(3);
/// Pause after an error, before the lease is requested or an outcome is appended again.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_millis(250);

/// Runs a stage until `stop`; then hands it over at once and finishes the tasks under way. Waiting events stay on the log.
///
/// `grace`: how long those tasks may take before the process ends. A deleted consumer is created again, or waited for.
///
/// # Errors
/// None in this version.
pub async fn run<S: Stage>(
    stage: Arc<S>,
    journal: Journal,
    grace: Duration,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let worker = Worker {
        stage,
        journal,
        grace,
        stop,
        went_back: LostFloor::default(),
        left: Left::default(),
    };
    while !worker.stop.is_cancelled() {
        if let Err(error) = worker.work_under_lease().await {
            if error.downcast_ref::<streams::Missing>().is_some() {
                streams::wait_for(worker.journal.connection(), EVENTS, S::NAME, &worker.stop).await;
                continue;
            }
            tracing::warn!(
                stage = S::NAME,
                error = format!("{error:#}"),
                "the stage starts again after an error"
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
    grace: Duration,
    stop: CancellationToken,
    /// The floor on a log that was replaced: the lease that held it may be lost with that log.
    went_back: LostFloor,
    /// For what the stage was left to other instances.
    left: Left,
}

impl<S: Stage> Worker<S> {
    async fn work_under_lease(&self) -> anyhow::Result<()> {
        let connection = self.journal.connection();
        let taking = async {
            connection.wait_up().await;
            self.stage.prepared().await;
            Lease::take(connection, S::NAME).await
        };
        let (mut lease, mut inherited) = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            lease = taking => lease?,
        };
        tracing::info!(stage = S::NAME, "working");
        let role = self.journal.roles().take(S::NAME);
        self.went_back.give(&mut inherited);
        crash_stage_at(S::NAME, "after_takeover");
        self.stage.begins();
        let term = Term {
            lease: lease.validity(),
            holder: lease.holder().to_owned(),
            tenure: Arc::new(Tenure::new(&inherited)),
        };
        let tenure = &term.tenure;
        let finished = tokio::select! {
            biased;
            worked = self.work(&term, inherited.words) => Some(worked),
            () = lease.keep(|| tenure.note(), &tenure.at_once) => None,
            why = self.stage.unfit() => Some(Err(StageUnavailable(why).into())),
        };
        self.went_back.keep(finished.as_ref(), tenure);
        let Some(worked) = finished else {
            anyhow::bail!("the lease is lost; another instance may have it");
        };
        tenure.still_at_work(&term.holder, Vec::new());
        if !lease.give_back(&tenure.note()).await {
            // Another instance has taken the stage over, and may wait for the last report.
            handover::say(connection, S::NAME, &term.holder, Vec::new()).await;
        }
        if worked.as_ref().is_err_and(|error| error.is::<StageUnavailable>()) {
            drop(role);
            // Meanwhile an instance that can work takes the stage.
            let _ = tokio::time::timeout(STAND_ASIDE, self.stop.cancelled()).await;
        }
        worked
    }

    async fn work(&self, term: &Term, words: Option<Subscriber>) -> anyhow::Result<()> {
        let halt = self.stop.child_token();
        let Some(namespace) = S::INFO.lanes() else {
            return self.work_on(term, words, None, &halt).await;
        };
        let (connection, partitions) = (self.journal.connection(), self.journal.partitions());
        let (lanes, writer, read) = tokio::select! {
            biased;
            () = halt.cancelled() => return Ok(()),
            read = Lanes::read(connection, partitions, namespace) => read?,
        };
        let mut work = pin!(self.work_on(term, words, Some((lanes, read)), &halt));
        let failed = tokio::select! {
            worked = &mut work => return worked,
            // The writer ends only with an error.
            Err(error) = writer.run() => error,
        };
        log_lines::trouble(S::NAME, &failed);
        halt.cancel();
        work.await?;
        Err(failed)
    }

    /// Waits until the stage has read the log; false when halted before. The memory of orders stops with the hub, so the read may
    /// never finish then.
    async fn catches_up(&self, halt: &CancellationToken) -> anyhow::Result<bool> {
        tokio::select! {
            biased;
            () = halt.cancelled() => Ok(false),
            known = self.stage.catches_up() => known.map(|()| true),
        }
    }

    fn context(term: &Term, lanes: Option<Lanes>, open_work: &mut OpenWork, halt: &CancellationToken) -> TaskContext {
        let rebuild = open_work.rebuild.as_ref();
        let doubt = rebuild.map(|rebuild| Doubt::of(rebuild.orders(), rebuild.check.makes_lost));
        let ended = std::mem::take(&mut open_work.ended);
        TaskContext {
            lanes,
            lease: term.lease.clone(),
            tenure: Arc::clone(&term.tenure),
            requests: Arc::default(),
            ended: Mutex::new(ended),
            handed_over: AtomicBool::new(false),
            halt: halt.clone(),
            shares: FairShare::default(),
            crowded: AtomicBool::new(false),
            behind: Arc::default(),
            doubt: doubt.unwrap_or_default(),
        }
    }

    /// Works until halted. After an error, requests that were begun are recorded before the work starts again: a dropped request
    /// would be made a second time.
    async fn work_on(
        &self,
        term: &Term,
        words: Option<Subscriber>,
        lanes: Option<(Lanes, LanesRead)>,
        halt: &CancellationToken,
    ) -> anyhow::Result<()> {
        let connection = self.journal.connection();
        let (lanes, read) = lanes.unzip();
        // Until it is read, the note stays that of the instance before.
        let reading = Box::pin(recovery::read::<S>(
            &self.journal,
            lanes.as_ref().zip(read),
            &term.tenure,
        ));
        let mut open_work = tokio::select! {
            biased;
            () = halt.cancelled() => return Ok(()),
            read = reading => read?,
        };
        if !self.catches_up(halt).await? {
            return Ok(());
        }
        self.stage.takes_over(open_work.delivered);
        log_lines::takeover(S::NAME, &open_work, lanes.as_ref());
        let context = Self::context(term, lanes, &mut open_work, halt);
        let sources = WorkSources {
            consumer: streams::consumer(connection, EVENTS, S::NAME).await?,
            messages: Messages::of(connection, EVENTS, S::NAME, PULL).await?,
            gauges: Gauges::of(S::NAME, self.journal.identity().clone()),
            rebuild: match open_work.rebuild.take() {
                Some(rebuild) => rebuild.read::<S>().boxed(),
                None => std::future::pending().boxed(),
            },
        };
        let mut freed = pin!(handover::freed(connection, term.tenure.at_work(), words, open_work.end));
        let mut in_flight = InFlight::of::<S>(open_work, &context);
        let mut at_work = FuturesUnordered::new();
        let begin = |task| self.settle(task, &context);
        // Boxed, because the future is large.
        let worked = Box::pin(self.serve(&context, &mut in_flight, sources, &mut freed, &mut at_work, begin)).await;
        if let Err(error) = &worked {
            log_lines::trouble(S::NAME, error);
            halt.cancel();
        }
        self.drain(at_work, &context, term).await;
        worked
    }

    /// Receives messages, due lanes and results, and starts tasks, until halted.
    async fn serve<F: Future<Output = anyhow::Result<Done>>>(
        &self,
        context: &TaskContext,
        in_flight: &mut InFlight,
        mut sources: WorkSources,
        freed: &mut (impl Stream<Item = anyhow::Result<Freed>> + Unpin),
        at_work: &mut FuturesUnordered<F>,
        begin: impl Fn(Task) -> F,
    ) -> anyhow::Result<()> {
        let lanes = context.lanes.as_ref();
        let connection = self.journal.connection();
        let mut look = tokio::time::interval(time("look_at_consumer", LOOK_EVERY));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looking = pin!(Fuse::terminated());
        while !context.halt.is_cancelled() {
            due::take_up(context, in_flight);
            due::end_mending(S::NAME, context, in_flight).await?;
            while let Some(task) = in_flight.queue.next() {
                at_work.push(begin(task));
            }
            context.crowded.store(in_flight.queue.is_crowded(), Ordering::Relaxed);
            tokio::select! {
                biased;
                () = context.halt.cancelled() => break,
                Some(done) = at_work.next() => due::finish(done?, context, &mut in_flight.queue),
                Some(free) = freed.next() => {
                    if !self.catches_up(&context.halt).await? {
                        break;
                    }
                    in_flight.release(free?, context);
                }
                mends = &mut sources.rebuild => {
                    due::begin_mending(mends?, context, in_flight);
                    sources.rebuild = std::future::pending().boxed();
                }
                // Polled before the messages, so that a stream of messages does not stop the gauges.
                _ = look.tick(), if looking.is_terminated() => {
                    let oldest = sources.gauges.oldest_unknown(context, in_flight);
                    let consumer = &sources.consumer;
                    looking.set(consumer_check::look(S::NAME, connection, consumer, &context.tenure, oldest).fuse());
                }
                seen = &mut looking => if let Some(seen) = seen? {
                    self.note(&seen, context, in_flight, &mut sources.gauges)?;
                },
                message = take(&*self.stage, &mut sources.messages, in_flight.queue.has_events()), if in_flight.queue.has_room() => {
                    let Some(message) = message? else { continue };
                    in_flight.gaps.received(&message)?;
                    self.hold(message, in_flight, context, &sources.gauges).await?;
                }
                () = due::wait(lanes), if in_flight.queue.has_room_for_lanes() => {}
            }
        }
        Ok(())
    }
}
