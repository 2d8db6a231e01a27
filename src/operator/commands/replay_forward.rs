//! `replay --forward`: has past events sent to the hub's own backend again, by requests to the stages (`order.retry_requested`). So each
//! goes through the lane of its order, behind what waits there, and its result is on the log.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chrono::{TimeDelta, Utc};
use serde::Serialize;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::{
    event::{EventId, EventType, Recorded, outcome::RetryRequested},
    forward::foresight::{Foresight, Foretold, ToBeCreated, note_sent},
    journal::{
        codec::{self, Form},
        connection::Connection,
        read::{self, Entry, LogReader, Start, event_at, located_at},
    },
    operator::queries::replay::{Asked, EventEnd, Range, Readings, Surveyed, survey},
    projection::rebuild::{Progress, Tell},
};

/// Label of a request to retry a dead letter, the same as that of `dead-letters retry`: the two are one request.
const RETRY: &str = "retry";
/// Requests without a result before the next one is made.
const MAX_UNDER_WAY: usize = 64;
/// How often the results are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the last results are waited for without any coming.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which events are sent again.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The range.
    pub range: Asked,
    /// Those that have an outcome, too.
    pub again: bool,
    /// `ORDER_MEMORY`: how long one number means one order.
    pub window: Duration,
}

/// An event that is to be sent.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// The event that a stage takes up.
    sequence: u64,
    stage: &'static str,
    /// The dead letter that says that it was given up.
    letter: Option<u64>,
    is_again: bool,
}

/// What would be sent, and what is left out.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    /// The first sequence of the range, and the last.
    pub first_sequence: u64,
    /// See `first_sequence`.
    pub last_sequence: u64,
    /// Events that would be sent.
    pub count: usize,
    /// Those of them that are lost: no stage has them, and they have no outcome.
    pub lost: usize,
    /// Left out: the backend has them.
    pub forwarded: usize,
    /// Left out: nothing was left to do, or they were sent as news of an order that the backend had.
    pub ignored: usize,
    /// Left out: given up or rejected; `dead-letters retry` takes them up.
    pub given_up: usize,
    /// Left out: a stage has them.
    pub waiting: usize,
    /// Left out: new orders older than the `_ORDER_TTL` of their provider.
    pub expired: usize,
    /// Those of them that end without a request, because the order exists already.
    pub duplicates: usize,
    /// Left out: something newer about the order superseded them.
    pub overtaken: usize,
    #[serde(skip)]
    candidates: Vec<Candidate>,
}

/// What was sent.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SentAgain {
    /// What was planned.
    #[serde(flatten)]
    pub planned: Planned,
    /// Requests that were made.
    pub requested: usize,
    /// Their results by type of event: `order.forwarded` … An event that failed and is tried again counts as `order.forward_failed`.
    pub results: BTreeMap<&'static str, usize>,
    /// How many failed, for now or for good.
    pub failed: u64,
    /// Requests without a result when this ended. The hub goes on with them.
    pub under_way: usize,
    /// It stopped early, because too many failed.
    pub stopped: bool,
}

/// Who asks for it, and how fast it goes.
#[derive(Debug, Clone)]
pub struct Act {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// How the requests are written.
    pub form: Form,
    /// Requests a second.
    pub rate: u32,
    /// It stops after so many events that failed.
    pub stop_after: u64,
}

/// Looks what would be sent.
///
/// # Errors
/// If NATS does not answer, or the range has too many events.
pub async fn plan(log: &Connection, readings: &Readings, wanted: &Wanted, tell: Tell<'_>) -> anyhow::Result<Planned> {
    let range = Range::of(log, wanted.range.clone()).await?;
    let mut planned = Planned {
        first_sequence: range.first,
        last_sequence: range.last,
        ..Planned::default()
    };
    let surveyed = survey(log, &range, tell).await?;
    let foresight = Foresight::new(log.clone(), wanted.window, readings.announced_again());
    let work = planned.foretell(log, surveyed, (wanted, readings, &foresight), tell);
    Box::pin(foresight.during(work)).await?;
    planned.count = planned.candidates.len();
    Ok(planned)
}

impl Planned {
    /// Looks how each event would end.
    async fn foretell(
        &mut self,
        log: &Connection,
        surveyed: Vec<Surveyed>,
        (wanted, readings, foresight): (&Wanted, &Readings, &Foresight),
        tell: Tell<'_>,
    ) -> anyhow::Result<()> {
        let of = surveyed.len() as u64;
        let mut before = ToBeCreated::new();
        for (done, event) in surveyed.into_iter().enumerate() {
            tell(Progress {
                phase: "looking how they would end",
                done: done as u64,
                of,
            });
            let Some(candidate) = self.consider(&event, wanted.again) else {
                continue;
            };
            if is_expired(&event, readings) {
                self.expired += 1;
                continue;
            }
            match foretold(log, candidate, foresight, &mut before).await? {
                Some(Foretold::Superseded(_) | Foretold::Repeat(_)) => {
                    self.overtaken += 1;
                    continue;
                }
                Some(Foretold::Duplicate(_)) => self.duplicates += 1,
                None => {}
            }
            self.lost += usize::from(event.end == EventEnd::Lost);
            self.candidates.push(candidate);
        }
        Ok(())
    }

    /// Counts an event that is left out; otherwise it may be sent.
    fn consider(&mut self, event: &Surveyed, again: bool) -> Option<Candidate> {
        let left_out = match event.end {
            EventEnd::Lost => None,
            EventEnd::Forwarded if again => None,
            EventEnd::GivenUp if again => None,
            EventEnd::Forwarded => Some(&mut self.forwarded),
            EventEnd::GivenUp => Some(&mut self.given_up),
            EventEnd::Waiting => Some(&mut self.waiting),
            // What was fetched is an event of its own.
            EventEnd::PassedOn => return None,
            EventEnd::Ignored | EventEnd::AsNews => Some(&mut self.ignored),
        };
        if let Some(left_out) = left_out {
            *left_out += 1;
            return None;
        }
        Some(Candidate {
            sequence: event.sequence,
            stage: event.stage,
            letter: event.letter.filter(|_| event.end == EventEnd::GivenUp),
            is_again: event.end == EventEnd::Forwarded,
        })
    }
}

/// Whether a new order is too old for the kitchen.
fn is_expired(event: &Surveyed, readings: &Readings) -> bool {
    let ttl = readings
        .order_ttl(&event.provider)
        .and_then(|ttl| TimeDelta::from_std(ttl).ok());
    event.is_creation && ttl.is_some_and(|ttl| event.received_at + ttl <= Utc::now())
}

/// How it would end without a request. The stage decides again when its turn comes.
async fn foretold(
    log: &Connection,
    candidate: Candidate,
    foresight: &Foresight,
    before: &mut ToBeCreated,
) -> anyhow::Result<Option<Foretold>> {
    let Some(event) = event_at(log, candidate.sequence).await? else {
        return Ok(None);
    };
    let event = Recorded {
        is_again: candidate.is_again,
        ..event
    };
    let end = foresight.end_of(event.clone(), before).await?;
    if end.is_none() {
        note_sent(before, &event);
    }
    Ok(end)
}

/// Makes the requests, each of an order behind those before, and follows their results.
///
/// # Errors
/// If NATS does not answer. What was requested until then goes on.
pub async fn forward(log: &Connection, mut planned: Planned, act: &Act, tell: Tell<'_>) -> anyhow::Result<SentAgain> {
    let candidates = std::mem::take(&mut planned.candidates);
    let label = format!("replay/{}", Uuid::new_v4());
    let mut results = Results::from(log, read::end(log).await?.sequence + 1);
    let mut tick = tokio::time::interval(Duration::from_secs(1) / act.rate.max(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut requested, of) = (0, candidates.len() as u64);
    for candidate in candidates {
        while results.under_way.len() >= MAX_UNDER_WAY && results.failed < act.stop_after {
            results.look().await?;
        }
        if results.failed >= act.stop_after {
            break;
        }
        tick.tick().await;
        if let Some(id) = request(log, candidate, &label, act).await? {
            results.under_way.insert(id);
            requested += 1;
        }
        results.take().await?;
        tell(Progress {
            phase: "sending again",
            done: requested as u64,
            of,
        });
    }
    let mut waited = Instant::now();
    while !results.under_way.is_empty() && waited.elapsed() < PATIENCE {
        if results.look().await? {
            waited = Instant::now();
        }
    }
    Ok(SentAgain {
        planned,
        requested,
        failed: results.failed,
        under_way: results.under_way.len(),
        stopped: results.failed >= act.stop_after,
        results: results.by_type,
    })
}

/// Requests that a stage takes an event up again; the id of the request. None if the event has left the log.
async fn request(log: &Connection, candidate: Candidate, label: &str, act: &Act) -> anyhow::Result<Option<EventId>> {
    let (cause, label) = match candidate.letter {
        Some(letter) => (letter, RETRY),
        None => (candidate.sequence, label),
    };
    let Some((cause, subject)) = located_at(log, cause).await? else {
        return Ok(None);
    };
    let partition = subject.rsplit('.').next().unwrap_or("*");
    let envelope = cause.follow(label, EventType::OrderRetryRequested, Utc::now());
    let payload = RetryRequested {
        stage: candidate.stage.into(),
        sequence: candidate.sequence,
        ended_as: None,
        by: act.by.clone(),
        reason: act.reason.clone(),
        again: candidate.is_again,
        job: None,
    };
    // In the partition of its order, whatever the number of partitions was then.
    let (root, provider) = (envelope.event_type.subject_root(), codec::token(&envelope.provider));
    let branch = codec::token(envelope.branch.as_deref().unwrap_or_default());
    let subject = format!("{root}.{provider}.{branch}.{partition}");
    let headers = codec::headers(&envelope, act.form)?;
    let sent = log
        .context
        .publish_with_headers(subject, headers, serde_json::to_vec(&payload)?.into())
        .await
        .context("cannot publish")?;
    sent.await.context("the event log did not acknowledge a request")?;
    Ok(Some(envelope.id))
}

/// What became of the requests.
struct Results {
    reader: LogReader,
    /// Requests without a result.
    under_way: HashSet<EventId>,
    by_type: BTreeMap<&'static str, usize>,
    failed: u64,
}

impl Results {
    fn from(log: &Connection, sequence: u64) -> Self {
        Self {
            reader: LogReader::of_subjects(log, "orders.>", Start::Sequence(sequence)),
            under_way: HashSet::new(),
            by_type: BTreeMap::new(),
            failed: 0,
        }
    }

    /// Waits a moment and reads the results; whether any came.
    async fn look(&mut self) -> anyhow::Result<bool> {
        tokio::time::sleep(LOOK_EVERY).await;
        self.take().await
    }

    /// Reads the results; whether any came.
    async fn take(&mut self) -> anyhow::Result<bool> {
        let before = self.under_way.len();
        loop {
            let entries = self.reader.next_batch().await?;
            if entries.is_empty() {
                return Ok(self.under_way.len() < before);
            }
            for entry in entries {
                if let Entry::Event(event) = entry {
                    self.note(&event);
                }
            }
        }
    }

    fn note(&mut self, event: &Recorded) {
        let (event_type, cause) = (event.envelope.event_type, event.envelope.cause_id);
        // A webhook that is transformed again is forwarded as an event of its own.
        let is_result = event_type.ends() || event_type.is_attempt() || event_type == EventType::OrderTransformed;
        if !is_result || !cause.is_some_and(|cause| self.under_way.remove(&cause)) {
            return;
        }
        *self.by_type.entry(event_type.as_str()).or_default() += 1;
        let is_failure =
            event_type.is_attempt() || matches!(event_type, EventType::OrderDeadLettered | EventType::OrderRejected);
        self.failed += u64::from(is_failure);
    }
}
