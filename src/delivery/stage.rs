//! Stages: what consumes the log, each on a durable consumer.
//!
//! One instance works on a stage at a time, by a [lease](super::lease); the others stand by. It handles many orders at
//! once and the events of each order one after another: an event waits for the one before it of the same order, and for
//! nothing else. A stage says what follows from an event; only the runner here acknowledges, and only after that is on
//! the log. An instance that takes over reads from the log what was left open (`recovery`) and begins with that, so no
//! newer event of an order overtakes an older one. What has to wait for long is parked in its order's lane
//! ([`super::lanes`]) and acknowledged; later events of that order join it there.
//!
//! A message that cannot be read becomes an `order.rejected` of its own, which is a dead letter: never a loop, never a silent
//! acknowledgement. One that only a newer version can read is left to an instance of that version (`left`).

mod attempt;
mod doubt;
mod due;
mod floor;
mod found;
pub(crate) mod gauges;
mod given_up;
mod hand;
mod handover;
mod held;
mod join;
mod left;
mod log_lines;
mod look;
mod progress;
mod names;
mod rebuild;
mod recovery;
mod shares;
mod stray;
mod tenure;
pub mod turn;
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

use async_nats::{Subscriber, jetstream::Message};
use chrono::Utc;
use futures_util::{
    FutureExt as _, Stream, StreamExt,
    future::{Fuse, FusedFuture as _},
    stream::FuturesUnordered,
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub use doubt::Before;
pub use given_up::{give_up, not_yours, reject};

use self::{
    attempt::Ground,
    doubt::Doubt,
    gauges::Gauges,
    hand::{Hand, Sources},
    handover::Freed,
    held::{Done, Item, Task},
    look::Seen,
    recovery::Unsettled,
    shares::Shares,
    tenure::{Handed, Kept, Tenure, Term, Unfit},
    unreadable::unreadable,
};
use super::{
    lanes::{Corner, Lanes, Read},
    lease::Lease,
};
use crate::{
    event::{EventType, NewEvent, Recorded, outcome::OUTCOME},
    fault_injection::{crash_stage_at, time},
    journal::{
        Appended, EVENTS, Journal,
        codec::{self, OrderKey},
        identity::Mark,
        pull::{self, Messages, Pull, acknowledge},
        streams,
    },
    retry::Failure,
};

/// A request stands for less than a lease, so that the one of an instance that stands still is over before another takes
/// its place.
const PULL: Pull = Pull {
    messages: 500,
    expires: Duration::from_secs(3),
    heartbeat: Duration::from_secs(1),
};
/// How often it is looked whether the consumer handed messages to somebody else.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a stage is left to others by an instance that could not work on it.
const STAND_ASIDE: Duration = Duration::from_secs(3);
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
    /// What it waits for where it is not ready, as a label of `orders_waiting`.
    const WAITS_FOR: &'static str = gauges::BREAKER;

    /// Waits until there is a point in handling an event (breaker open: here).
    fn ready(&self) -> impl Future<Output = ()> + Send;

    /// Whether [`Self::ready`] would return at once.
    fn is_ready(&self) -> bool;

    /// Waits until the stage may be taken over: an instance that does not know enough yet leaves it to others.
    fn prepared(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Learns all that is on the log by now: after the stage was taken over and before anything is handled, and before an order
    /// goes on that another instance was at work on.
    fn catches_up(&self) -> impl Future<Output = anyhow::Result<()>> + Send {
        async { Ok(()) }
    }

    /// An event of this stage is on the log.
    fn recorded(&self, _: &NewEvent, _: Appended) {}

    /// What follows from an event. `request` counts from 1.
    fn handle(&self, event: &Recorded, request: u32) -> impl Future<Output = Result<Vec<NewEvent>, Failure>> + Send;

    /// This instance has taken the stage over: what it remembers of an earlier time may be about events that another one has had
    /// since.
    fn begins(&self) {}

    /// How long a request may be under way that [`Self::handle`] makes; nothing, where it makes none. See [`turn`].
    fn longest_request(&self) -> Duration {
        Duration::ZERO
    }

    /// Ends, with the reason, where this instance has never been able to work on the stage for long, and another one may be.
    /// Nothing is under way then.
    fn unfit(&self) -> impl Future<Output = String> + Send {
        std::future::pending()
    }

    /// Whether it is the event that an earlier one of its order may wait for ([`Failure::Retry`], `for_creation`).
    fn creates(_: &Recorded) -> bool {
        false
    }

    /// Whether an attempt, as it was recorded, says that its event waits for such a one.
    fn waits_for_creation(_: &Recorded) -> bool {
        false
    }

    /// What of its order may be open before an event, by what this stage knows without the lanes: asked while lanes that were lost
    /// are made again from the log, so that not every event need wait for that.
    fn before(&self, _: &Recorded) -> Before {
        Before::Unknown
    }

    /// Whether nothing follows from events of this type: they only wake one that waits. Then none of them is ever open.
    fn only_wakes(_: EventType) -> bool {
        false
    }
}

/// Runs a stage until told to stop; then it is handed over at once, what is at work is finished, and what waits is left to
/// the log.
///
/// `grace`: how long what is at work gets for that, before the process ends.
///
/// A consumer that is deleted meanwhile is made again, or waited for.
///
/// # Errors
/// None that this version knows of.
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
        went_back: Kept::default(),
    };
    while !worker.stop.is_cancelled() {
        if let Err(error) = worker.work_while_it_is_ours().await {
            if error.downcast_ref::<streams::Missing>().is_some() {
                streams::wait_for(worker.journal.connection(), EVENTS, S::NAME, &worker.stop).await;
                continue;
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
    grace: Duration,
    stop: CancellationToken,
    /// How far the stage was on a log that is not there any more: the lease that said so may be gone with it.
    went_back: Kept,
}

impl<S: Stage> Worker<S> {
    async fn work_while_it_is_ours(&self) -> anyhow::Result<()> {
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
            why = self.stage.unfit() => Some(Err(Unfit(why).into())),
        };
        self.went_back.keep(finished.as_ref(), tenure);
        let Some(worked) = finished else {
            anyhow::bail!("the lease is lost; another instance may have it");
        };
        tenure.still_at_work(&term.holder, Vec::new());
        if !lease.give_back(&tenure.note()).await {
            // Another instance has taken the stage over, and may wait for the last word.
            handover::say(connection, S::NAME, &term.holder, Vec::new()).await;
        }
        if worked.as_ref().is_err_and(|error| error.is::<Unfit>()) {
            drop(role);
            // An instance that can work takes it meanwhile.
            let _ = tokio::time::timeout(STAND_ASIDE, self.stop.cancelled()).await;
        }
        worked
    }

    async fn work(&self, term: &Term, words: Option<Subscriber>) -> anyhow::Result<()> {
        let halt = self.stop.child_token();
        let Some(corner) = S::LANES else {
            return self.work_on(term, words, None, &halt).await;
        };
        let (lanes, writer, read) = Lanes::read(self.journal.connection(), self.journal.partitions(), corner).await?;
        let mut work = pin!(self.work_on(term, words, Some((lanes, read)), &halt));
        let failed = tokio::select! {
            worked = &mut work => return worked,
            // It never ends well.
            Err(error) = writer.run() => error,
        };
        log_lines::trouble(S::NAME, &failed);
        halt.cancel();
        work.await?;
        Err(failed)
    }

    /// Waits until the stage knows what is on the log; false where it is halted before. The memory of orders ends with the hub, so it
    /// may never know it then.
    async fn catches_up(&self, halt: &CancellationToken) -> anyhow::Result<bool> {
        tokio::select! {
            biased;
            () = halt.cancelled() => Ok(false),
            known = self.stage.catches_up() => known.map(|()| true),
        }
    }

    fn ground(term: &Term, lanes: Option<Lanes>, unsettled: &mut Unsettled, halt: &CancellationToken) -> Ground {
        let rebuild = unsettled.rebuild.as_ref();
        let doubt = rebuild.map(|rebuild| Doubt::of(rebuild.orders(), rebuild.check.makes_lost));
        let ended = std::mem::take(&mut unsettled.ended);
        Ground {
            lanes,
            lease: term.lease.clone(),
            tenure: Arc::clone(&term.tenure),
            asking: Arc::default(),
            ended: Mutex::new(ended),
            handed_over: AtomicBool::new(false),
            halt: halt.clone(),
            shares: Shares::default(),
            crowded: AtomicBool::new(false),
            doubt: doubt.unwrap_or_default(),
        }
    }

    /// Works until halted. After trouble, what was begun is recorded before the work begins anew: a request that was dropped
    /// would be made a second time.
    async fn work_on(
        &self,
        term: &Term,
        words: Option<Subscriber>,
        lanes: Option<(Lanes, Read)>,
        halt: &CancellationToken,
    ) -> anyhow::Result<()> {
        let connection = self.journal.connection();
        let (lanes, read) = lanes.unzip();
        let mut unsettled = Box::pin(recovery::read::<S>(
            &self.journal,
            lanes.as_ref().zip(read),
            &term.tenure,
        ))
        .await?;
        if !self.catches_up(halt).await? {
            return Ok(());
        }
        log_lines::takeover(S::NAME, &unsettled, lanes.as_ref());
        let ground = Self::ground(term, lanes, &mut unsettled, halt);
        let sources = Sources {
            consumer: streams::consumer(connection, EVENTS, S::NAME).await?,
            messages: Messages::of(connection, EVENTS, S::NAME, PULL).await?,
            gauges: Gauges::of(S::NAME),
            rebuild: match unsettled.rebuild.take() {
                Some(rebuild) => rebuild.read::<S>().boxed(),
                None => std::future::pending().boxed(),
            },
        };
        let mut freed = pin!(handover::freed(connection, term.tenure.at_work(), words, unsettled.end));
        let mut hand = Hand::of::<S>(unsettled);
        let mut at_work = FuturesUnordered::new();
        let begin = |task| self.settle(task, &ground);
        // On the heap, as what it waits for is large.
        let worked = Box::pin(self.serve(&ground, &mut hand, sources, &mut freed, &mut at_work, begin)).await;
        if let Err(error) = &worked {
            log_lines::trouble(S::NAME, error);
            halt.cancel();
        }
        self.drain(at_work, &ground, term).await;
        worked
    }

    /// Takes up what comes, and begins it in its turn, until halted.
    async fn serve<F: Future<Output = anyhow::Result<Done>>>(
        &self,
        ground: &Ground,
        hand: &mut Hand,
        mut sources: Sources,
        freed: &mut (impl Stream<Item = anyhow::Result<Freed>> + Unpin),
        at_work: &mut FuturesUnordered<F>,
        begin: impl Fn(Task) -> F,
    ) -> anyhow::Result<()> {
        let lanes = ground.lanes.as_ref();
        let connection = self.journal.connection();
        let mut look = tokio::time::interval(time("look_at_consumer", LOOK_EVERY));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looking = pin!(Fuse::terminated());
        while !ground.halt.is_cancelled() {
            due::take_up(ground, hand);
            due::end_mending(S::NAME, ground, hand).await?;
            while let Some(task) = hand.held.next() {
                at_work.push(begin(task));
            }
            ground.crowded.store(hand.held.is_crowded(), Ordering::Relaxed);
            tokio::select! {
                biased;
                () = ground.halt.cancelled() => break,
                Some(done) = at_work.next() => due::finish(done?, ground, &mut hand.held),
                Some(free) = freed.next() => {
                    if !self.catches_up(&ground.halt).await? {
                        break;
                    }
                    hand.release(free?, ground);
                }
                mends = &mut sources.rebuild => {
                    due::begin_mending(mends?, ground, hand);
                    sources.rebuild = std::future::pending().boxed();
                }
                // Before the messages: while many come the gauges must not stand still.
                _ = look.tick(), if looking.is_terminated() => {
                    let oldest = sources.gauges.oldest_unknown(ground);
                    looking.set(look::look(S::NAME, connection, &sources.consumer, &ground.tenure, oldest).fuse());
                }
                seen = &mut looking => if let Some(seen) = seen? {
                    self.note(&seen, ground, hand, &mut sources.gauges)?;
                },
                message = take(&*self.stage, &mut sources.messages, hand.held.has_events()), if hand.held.has_room() => {
                    let Some(message) = message? else { continue };
                    hand.stray.received(&message)?;
                    self.hold(message, hand, ground, &sources.gauges).await?;
                }
                () = due::wait(lanes), if hand.held.has_room_for_lanes() => {}
            }
        }
        Ok(())
    }

    /// Whether the consumer's messages come here, and what waits.
    fn note(&self, seen: &Seen, ground: &Ground, hand: &mut Hand, gauges: &mut Gauges) -> anyhow::Result<()> {
        let taking = hand.held.has_room() && self.stage.is_ready();
        hand.stray.compare(seen.handed_out, taking)?;
        let stopped_by = (!self.stage.is_ready()).then_some(S::WAITS_FOR);
        gauges.note(seen, ground, hand, stopped_by);
        Ok(())
    }

    /// Sorts a message in: to be handled, or known already.
    async fn hold(&self, message: Message, hand: &mut Hand, ground: &Ground, gauges: &Gauges) -> anyhow::Result<()> {
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
        if ground.tenure.must_compare(&handed, connection.times()) {
            floor::check(connection, &ground.tenure).await?;
        }
        let id = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(codec::MESSAGE_ID));
        let id = id.map(|id| id.as_str()).unwrap_or_default();
        let is_settled = ground.tenure.progress(|progress| {
            progress.know(sequence, id);
            progress.mark(Mark::new(sequence, id, info.published.unix_timestamp_nanos()));
            let is_settled = progress.is_settled(sequence);
            progress.receive(sequence);
            is_settled
        });
        if is_settled == Some(true) {
            return acknowledge(Some(&message)).await;
        }
        let Hand { held, left, .. } = hand;
        if held.is_held(sequence) {
            return Ok(());
        }
        match codec::decode(message.headers.as_ref(), message.payload.clone(), sequence) {
            Err(codec::CodecError::Newer(newer)) => left.leave(S::NAME, sequence, newer),
            Ok(event) if left.holds_up(S::NAME, sequence, OrderKey::of(&event)) => {}
            Ok(event) => held.push(Item {
                event,
                requests: 0,
                parked: None,
                message: Some(message),
            }),
            Err(error) => {
                let rejected = vec![unreadable(S::NAME, &message, sequence, &error)];
                if self.record(&ground.tenure, sequence, rejected).await {
                    acknowledge(Some(&message)).await?;
                    ground.tenure.progress(|progress| progress.settle(sequence));
                }
            }
        }
        Ok(())
    }
}

/// The next message, once the stage is ready for one; none where there was only a sign of life. One is taken before the stage
/// is ready: where it lets few through, a new event is to have its turn beside those that are parked.
async fn take<S: Stage>(stage: &S, messages: &mut Messages, has_events: bool) -> anyhow::Result<Option<Message>> {
    if has_events {
        stage.ready().await;
    }
    messages.next().await
}
