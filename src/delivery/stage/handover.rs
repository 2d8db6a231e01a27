//! Handover of a stage while requests are under way.
//!
//! The stopping instance starts nothing more and hands the stage over at once, with the list of events that it has requests
//! for. The next instance works on all orders but theirs. The first one records its successful requests, and reports after
//! each which requests remain. The next one releases an order when its event is no longer in that report, when no report came
//! for longer than a request can take, or when the first instance is gone; then it reads from the log what was recorded, and
//! makes no second request for what has ended.

use std::{
    collections::{HashSet, VecDeque},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use async_nats::Subscriber;
use futures_util::{
    Stream, StreamExt,
    stream::{self, FuturesUnordered},
};
use serde::{Deserialize, Serialize};

use super::{
    Stage, Worker,
    attempt::TaskContext,
    cause_names::named,
    tenure::{BusyInstance, Term},
    work_queue::Done,
};
use crate::{
    delivery::lease::words_subject,
    event::EventId,
    journal::{
        connection::Connection,
        read::{Entry, LogReader, end},
    },
};

/// How much longer than its longest request an instance gets to record the outcome.
pub(super) const MARGIN: Duration = Duration::from_secs(2);
/// Most requests under way that a stage is handed over with; with more, the instance waits until some have ended.
pub(super) const MAX_AT_WORK: usize = 1024;
/// How often an instance repeats which requests are left.
pub(super) const REPEAT_EVERY: Duration = Duration::from_millis(500);

impl<S: Stage> Worker<S> {
    /// Lets what is at work end. What waits for its turn, or for its next attempt, is on the log and not acknowledged. As soon
    /// as nothing but requests is at work, the stage is handed over.
    pub(super) async fn drain<F>(&self, mut at_work: FuturesUnordered<F>, context: &TaskContext, term: &Term)
    where
        F: Future<Output = anyhow::Result<Done>>,
    {
        let connection = self.journal.connection();
        let mut repeat = tokio::time::interval(REPEAT_EVERY);
        loop {
            let (asking, handed_over) = (context.requests.events(), context.handed_over.load(Ordering::Relaxed));
            let only_requests = !asking.is_empty() && asking.len() == at_work.len();
            if !handed_over && only_requests && asking.len() <= MAX_AT_WORK {
                tracing::info!(
                    stage = S::NAME,
                    requests = asking.len(),
                    "handing over, with requests under way"
                );
                context.lease.end();
                context.handed_over.store(true, Ordering::Relaxed);
                let within = self.stage.longest_request().min(self.grace) + MARGIN;
                term.tenure.hand_over(&term.holder, asking, within);
                continue;
            }
            tokio::select! {
                biased;
                done = at_work.next() => match done {
                    None => return,
                    Some(Err(error)) => tracing::info!(
                        stage = S::NAME,
                        error = format!("{error:#}"),
                        "a task did not finish; its event is handled again"
                    ),
                    Some(Ok(_)) => {}
                },
                _ = repeat.tick(), if handed_over => {}
            }
            if handed_over {
                let events = context.requests.events();
                term.tenure.still_at_work(&term.holder, events.clone());
                say(connection, S::NAME, &term.holder, events).await;
            }
        }
    }
}

/// Which requests an instance that handed the stage over still has under way.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StillUnderWay {
    by: String,
    events: Vec<u64>,
}

/// Says it. Where it gets lost it is repeated, and at last the time limit counts.
pub(super) async fn say(connection: &Connection, stage: &str, by: &str, events: Vec<u64>) {
    let left = StillUnderWay {
        by: by.to_owned(),
        events,
    };
    let text = serde_json::to_vec(&left).expect("a text and numbers");
    if let Err(error) = connection.client.publish(words_subject(stage), text.into()).await {
        tracing::debug!(%error, stage, "cannot say what is still at work");
    }
}

/// Events for which another instance no longer has a request.
#[derive(Debug, Default)]
pub(super) struct Freed {
    pub(super) events: Vec<u64>,
    /// All that was found to have ended since the stage was taken over.
    pub(super) ended: HashSet<EventId>,
}

/// Waits for requests of other instances.
struct RequestsElsewhere<'a> {
    connection: &'a Connection,
    words: Option<Subscriber>,
    busy: Vec<BusyInstance>,
    /// Up to where the log was read.
    read: u64,
    freed: VecDeque<u64>,
}

/// Events as they are freed. `read`: up to where the log was read when the stage was taken over.
pub(super) fn freed(
    connection: &Connection,
    busy: Vec<BusyInstance>,
    words: Option<Subscriber>,
    read: u64,
) -> impl Stream<Item = anyhow::Result<Freed>> {
    let waiting = RequestsElsewhere {
        connection,
        words,
        busy,
        read,
        freed: VecDeque::new(),
    };
    stream::try_unfold(waiting, |mut waiting| async move {
        let freed = waiting.next().await?;
        Ok(freed.map(|freed| (freed, waiting)))
    })
}

impl RequestsElsewhere<'_> {
    async fn next(&mut self) -> anyhow::Result<Option<Freed>> {
        while self.freed.is_empty() {
            let Some(first) = self.busy.iter().map(|busy| busy.until).min() else {
                return Ok(None);
            };
            tokio::select! {
                left = heard(&mut self.words) => self.left(&left),
                () = tokio::time::sleep_until(first.into()) => self.over(Instant::now()),
            }
        }
        let ended = self.ended().await?;
        let events = self.freed.drain(..).collect();
        Ok(Some(Freed { events, ended }))
    }

    fn left(&mut self, left: &StillUnderWay) {
        for busy in self.busy.iter_mut().filter(|busy| busy.by == left.by) {
            let (still, gone) = std::mem::take(&mut busy.events)
                .into_iter()
                .partition(|event| left.events.contains(event));
            busy.events = still;
            self.freed.extend::<Vec<u64>>(gone);
        }
        self.busy.retain(|busy| !busy.events.is_empty());
    }

    fn over(&mut self, now: Instant) {
        for busy in self.busy.iter_mut().filter(|busy| busy.until <= now) {
            tracing::warn!(
                events = busy.events.len(),
                "no report about the requests of an instance that handed its stage over; they are made again"
            );
            self.freed.extend(busy.events.drain(..));
        }
        self.busy.retain(|busy| !busy.events.is_empty());
    }

    /// Reads what ended since the log was last read.
    async fn ended(&mut self) -> anyhow::Result<HashSet<EventId>> {
        let mut reader = LogReader::from(self.connection, self.read + 1).up_to(end(self.connection).await?);
        let mut ended = HashSet::new();
        loop {
            let entries = reader.next_batch().await?;
            let Some(last) = entries.last() else { return Ok(ended) };
            self.read = last.sequence();
            for entry in entries {
                if let Entry::Event(event) = entry
                    && !event.envelope.event_type.is_attempt()
                {
                    ended.extend(named(&event.envelope));
                }
            }
        }
    }
}

/// The next report; never, if there is no subscription.
async fn heard(words: &mut Option<Subscriber>) -> StillUnderWay {
    while let Some(subscriber) = words {
        match subscriber.next().await {
            Some(message) => match serde_json::from_slice(&message.payload) {
                Ok(left) => return left,
                Err(error) => tracing::warn!(%error, "a report about requests under way is unreadable"),
            },
            None => *words = None,
        }
    }
    std::future::pending().await
}
