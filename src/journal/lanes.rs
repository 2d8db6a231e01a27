//! Lanes: the orders that wait for a retry longer than an event is held in memory.
//!
//! A lane is one message of the stream `LANES`, `lane.<partition>.<order>`: which event is tried again, how often it was,
//! until when it waits, and which later events of the order wait behind it. Every write names the revision that it
//! replaces, so an instance that was replaced cannot spoil it. With it, in one atomic batch, goes a schedule,
//! `sch.<partition>.<order>`: at its time the server puts a message on `due.<partition>.<order>`. That is the bell, and
//! may be missed: whoever takes the stage over reads the lanes.
//!
//! Each stage that parks has a [`Corner`] of the stream, so one order may wait in two stages, and neither sees the
//! other's lanes.
//!
//! Nothing is only here: an event in a lane is on `EVENTS`, and if `LANES` is lost the lanes are made again from there
//! (see [`super::stage`]). Whether `LANES` is the one that was written says a marker in it.

mod writer;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use self::writer::Change;
pub use self::writer::LaneWriter;
use super::{
    codec::{OrderKey, partition_token},
    connection::Connection,
    read::{Raw, Reader, Start, last_of},
};

/// Name of the stream.
pub const LANES: &str = "LANES";
/// Events that may wait behind the first one of a lane; one more waits in memory until there is room. An honest order has
/// a handful.
pub const MAX_WAITING: usize = 1000;
/// Changes that may wait to be written: as many as events are held at a time.
const MAX_CHANGES: usize = 2048;
/// How much before its time a lane may be taken up: less than anybody would notice.
const EARLY: TimeDelta = TimeDelta::milliseconds(20);
/// Wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a copy of the stream that is behind is waited for, and how often it is asked meanwhile.
const BEHIND_TIMEOUT: Duration = Duration::from_secs(30);
const BEHIND_PAUSE: Duration = Duration::from_millis(50);

/// A stage's part of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corner {
    /// What stands before the partition in its subjects: nothing, or a token and a dot.
    token: &'static str,
    /// The durable consumer that hears its bells.
    bell: &'static str,
    /// Where its marker is.
    marker: &'static str,
    /// What is written before the lanes are read, to know when all before it was read.
    fence: &'static str,
    /// All of its lanes, and its fence; what else it lets through has no order's key at its end.
    lanes: &'static str,
}

impl Corner {
    /// Of the stage `forward`.
    pub const FORWARD: Self = Self {
        token: "",
        bell: "due",
        marker: "lane.marker",
        fence: "lane.forward.fence",
        lanes: "lane.*.*",
    };
    /// Of the stage `transform`.
    pub const TRANSFORM: Self = Self {
        token: "transform.",
        bell: "due-transform",
        marker: "lane.transform.marker",
        fence: "lane.transform.fence",
        lanes: "lane.transform.>",
    };
    /// Of the stage `push`.
    pub const PUSH: Self = Self {
        token: "push.",
        bell: "due-push",
        marker: "lane.push.marker",
        fence: "lane.push.fence",
        lanes: "lane.push.>",
    };
}

/// The state of an order that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lane {
    /// The provider, for the metric and for whoever reads the stream.
    pub provider: String,
    /// Sequence on `EVENTS` of the event that is tried again.
    pub head: u64,
    /// Requests that were made for it.
    pub requests: u32,
    /// When it is due.
    pub due_at: DateTime<Utc>,
    /// Later events of the order, in the log's order, each with the requests that were made for it (one that let the
    /// event that creates its order pass has some).
    #[serde(default)]
    pub waiting: Vec<(u64, u32)>,
    /// It waits for another event of its order, such as the one that creates it, and lets that one pass.
    #[serde(default)]
    pub for_creation: bool,
}

/// The due time that a bell rings for, in milliseconds. It rings by the server's clock, so a hub whose clock is behind must
/// not take it for early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bell(i64);

impl Lane {
    /// Whether it is to be worked on: by this clock, or because its own bell has rung (one of an earlier due time says
    /// nothing).
    pub fn is_due(&self, now: DateTime<Utc>, bell: Option<Bell>) -> bool {
        self.due_at <= now + EARLY || bell == Some(Bell(self.due_at.timestamp_millis()))
    }

    /// Whether an event is in it.
    pub fn holds(&self, sequence: u64) -> bool {
        self.sequences().any(|one| one == sequence)
    }

    /// Every event in it.
    pub fn sequences(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.head).chain(self.waiting.iter().map(|(sequence, _)| *sequence))
    }

    /// With the next event at its head, due now; none where there is no other.
    pub fn advance(mut self, now: DateTime<Utc>) -> Option<Self> {
        if self.waiting.is_empty() {
            return None;
        }
        (self.head, self.requests) = self.waiting.remove(0);
        Some(Self {
            due_at: now,
            for_creation: false,
            ..self
        })
    }

    /// With one of those that wait before all others, due now.
    pub fn led_by_waiting(mut self, at: usize, now: DateTime<Utc>) -> Self {
        let (sequence, requests) = self.waiting.remove(at);
        Self {
            requests,
            ..self.led_by(sequence, now)
        }
    }

    /// With this event before all others, due now.
    pub fn led_by(mut self, sequence: u64, now: DateTime<Utc>) -> Self {
        self.waiting.insert(0, (self.head, self.requests));
        Self {
            head: sequence,
            requests: 0,
            due_at: now,
            for_creation: false,
            ..self
        }
    }
}

/// A lane that is open.
#[derive(Debug, Clone)]
struct Open {
    revision: u64,
    provider: String,
}

/// The lanes, for the instance that works on the stage. Cheap to clone.
#[derive(Clone)]
pub struct Lanes {
    connection: Arc<Connection>,
    partitions: u16,
    corner: Corner,
    open: Arc<Mutex<HashMap<OrderKey, Open>>>,
    changes: mpsc::Sender<Change>,
}

/// What was read at the start.
pub struct Read {
    /// The lanes that are open.
    pub lanes: Vec<(OrderKey, Lane)>,
    /// The stream is the one that was written before, not a new or an emptied one.
    pub is_whole: bool,
}

impl Lanes {
    /// Reads all lanes. Nothing is written until the [`LaneWriter`] runs.
    ///
    /// # Errors
    /// Where NATS does not answer.
    pub async fn read(
        connection: &Arc<Connection>,
        partitions: u16,
        corner: Corner,
    ) -> anyhow::Result<(Self, LaneWriter, Read)> {
        let is_whole = last(connection, corner.marker).await?.is_some();
        let mut found = HashMap::new();
        // Any copy of the stream may answer, also one that is behind. One that has the fence has all before it; what an
        // older copy said before is replaced by what a newer one says.
        let (fence, mut seen, began) = (publish(connection, corner.fence).await?, 0, Instant::now());
        let reader = Reader::of_subjects(connection, corner.lanes, Start::Sequence(1)).of_stream(LANES);
        let mut reader = reader.within(ANSWER_TIMEOUT);
        while seen < fence {
            let messages = reader.next_raw().await?;
            for message in &messages {
                match written(message)? {
                    Some((key, Some(lane))) => drop(found.insert(key, (message.sequence, lane))),
                    Some((key, None)) => drop(found.remove(&key)),
                    None => {}
                }
            }
            if began.elapsed() > BEHIND_TIMEOUT {
                bail!("the copy of LANES that answers is behind its leader");
            }
            match messages.last() {
                Some(last) => seen = last.sequence,
                None => tokio::time::sleep(BEHIND_PAUSE).await,
            }
        }
        let open: HashMap<_, _> = found
            .iter()
            .map(|(key, (revision, lane))| {
                let (revision, provider) = (*revision, lane.provider.clone());
                (*key, Open { revision, provider })
            })
            .collect();
        let found = found.into_iter().map(|(key, (_, lane))| (key, lane)).collect();
        for Open { provider, .. } in open.values() {
            parked(provider).increment(1.0);
        }
        let (changes, waiting) = mpsc::channel(MAX_CHANGES);
        let open = Arc::new(Mutex::new(open));
        let writer = LaneWriter::new(Arc::clone(connection), waiting);
        let lanes = Self {
            connection: Arc::clone(connection),
            partitions,
            corner,
            open,
            changes,
        };
        let read = Read { lanes: found, is_whole };
        Ok((lanes, writer, read))
    }

    /// Notes that the stream holds every lane that there is.
    ///
    /// # Errors
    /// Where NATS does not acknowledge.
    pub async fn mark_whole(&self) -> anyhow::Result<()> {
        publish(&self.connection, self.corner.marker).await.map(drop)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<OrderKey, Open>> {
        // No code panics while it holds the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an order has a lane.
    pub fn is_open(&self, key: OrderKey) -> bool {
        self.open().contains_key(&key)
    }

    /// The state of an order's lane.
    ///
    /// # Errors
    /// Where NATS does not answer, or the lane is not the one that this instance knows.
    pub async fn get(&self, key: OrderKey) -> anyhow::Result<Option<Lane>> {
        let Some(Open { revision, .. }) = self.open().get(&key).cloned() else {
            return Ok(None);
        };
        match last(&self.connection, &self.subject("lane", key)).await? {
            Some((found, payload)) if found == revision => Ok(Some(
                serde_json::from_slice(&payload).context("a lane that cannot be read")?,
            )),
            _ => bail!("the lane of an order is not as it was left: somebody else writes LANES"),
        }
    }

    /// Makes a lane, or writes it anew; where `scheduled`, the bell rings when it is due.
    ///
    /// # Errors
    /// Where NATS does not acknowledge, or somebody else wrote the lane meanwhile.
    pub async fn put(&self, key: OrderKey, lane: &Lane, scheduled: bool) -> anyhow::Result<()> {
        let known = self.open().get(&key).map(|open| open.revision);
        let replaces = match known {
            Some(revision) => revision,
            None => match last(&self.connection, &self.subject("lane", key)).await? {
                None => 0,
                // What is left of one that ended lately.
                Some((revision, payload)) if payload.is_empty() => revision,
                Some(_) => bail!("an order has a lane that this instance did not make: somebody else writes LANES"),
            },
        };
        let revision = self.change(key, replaces, Some((lane, scheduled))).await?;
        let provider = lane.provider.clone();
        if known.is_none() {
            parked(&provider).increment(1.0);
        }
        self.open().insert(key, Open { revision, provider });
        Ok(())
    }

    /// Ends a lane.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn end(&self, key: OrderKey) -> anyhow::Result<()> {
        let Some(Open { revision, provider }) = self.open().get(&key).cloned() else {
            return Ok(());
        };
        self.change(key, revision, None).await?;
        parked(&provider).decrement(1.0);
        self.open().remove(&key);
        Ok(())
    }

    async fn change(&self, key: OrderKey, replaces: u64, lane: Option<(&Lane, bool)>) -> anyhow::Result<u64> {
        let (done, written) = oneshot::channel();
        let due = lane.and_then(|(lane, scheduled)| scheduled.then_some(lane.due_at));
        let change = Change {
            lane: self.subject("lane", key),
            payload: match lane {
                Some((lane, _)) => serde_json::to_vec(lane)?.into(),
                None => bytes::Bytes::new(),
            },
            replaces,
            schedule: due.map(|at| (self.subject("sch", key), self.subject("due", key), at)),
            done,
        };
        let closed = || anyhow::anyhow!("the lanes are closed");
        self.changes.send(change).await.map_err(|_| closed())?;
        written.await.map_err(|_| closed())
    }

    fn subject(&self, root: &str, key: OrderKey) -> String {
        let partition = partition_token(key.partition(self.partitions));
        format!("{root}.{}{partition}.{key}", self.corner.token)
    }

    /// The durable consumer that hears the bells.
    pub const fn bell(&self) -> &'static str {
        self.corner.bell
    }

    /// Which order a bell rings for, and for which due time.
    pub fn bell_of(subject: &str, payload: &[u8]) -> Option<(OrderKey, Bell)> {
        let bell = std::str::from_utf8(payload).ok()?.parse().ok()?;
        Some((key_of(subject)?, Bell(bell)))
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // The last one that knows them: what is parked is no longer this instance's to tell.
        if Arc::strong_count(&self.open) == 1 {
            for Open { provider, .. } in self.open().values() {
                parked(provider).decrement(1.0);
            }
        }
    }
}

fn key_of(subject: &str) -> Option<OrderKey> {
    OrderKey::parse(subject.rsplit('.').next()?)
}

/// Orders that wait, of a provider.
fn parked(provider: &str) -> metrics::Gauge {
    metrics::gauge!("retries_parked", "provider" => provider.to_owned())
}

/// Writes a message that says nothing but that it is there; its sequence.
async fn publish(connection: &Connection, subject: &'static str) -> anyhow::Result<u64> {
    let published = async { connection.context.publish(subject, "1".into()).await?.await };
    let acknowledged = tokio::time::timeout(ANSWER_TIMEOUT, published).await;
    let acknowledged = acknowledged.context("NATS does not answer about lanes")?;
    Ok(acknowledged
        .with_context(|| format!("cannot write {subject}"))?
        .sequence)
}

/// The last message of a subject, as the leader has it: its sequence and payload.
async fn last(connection: &Connection, subject: &str) -> anyhow::Result<Option<(u64, bytes::Bytes)>> {
    let last = last_of(connection, LANES, subject, ANSWER_TIMEOUT).await?;
    Ok(last.map(|message| (message.sequence, message.payload)))
}

/// Whose lane a message is, and its state, none where it ended; none where it is no lane.
fn written(message: &Raw) -> anyhow::Result<Option<(OrderKey, Option<Lane>)>> {
    let Some(key) = key_of(&message.subject) else {
        return Ok(None);
    };
    if message.payload.is_empty() {
        return Ok(Some((key, None)));
    }
    let lane = serde_json::from_slice(&message.payload).with_context(|| {
        let sequence = message.sequence;
        format!("message {sequence} of LANES is no lane; purge LANES to have it made again from the event log")
    })?;
    Ok(Some((key, Some(lane))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(due_at: DateTime<Utc>) -> Lane {
        Lane {
            provider: "careem".into(),
            head: 7,
            requests: 4,
            due_at,
            waiting: vec![(9, 0), (12, 0)],
            for_creation: true,
        }
    }

    #[test]
    fn a_lane_is_due_by_the_clock_or_by_its_own_bell() {
        let (now, hour) = (Utc::now(), TimeDelta::hours(1));
        let bell = |at: DateTime<Utc>| Some(Bell(at.timestamp_millis()));
        assert!(lane(now).is_due(now, None));
        // A clock that is an hour behind the server's does not make a bell early …
        assert!(lane(now + hour).is_due(now, bell(now + hour)));
        // … but one of another due time, or none, says nothing.
        assert!(!lane(now + hour).is_due(now, bell(now)));
        assert!(!lane(now + hour).is_due(now, None));
        let written = serde_json::to_vec(&lane(now + hour)).unwrap();
        let read: Lane = serde_json::from_slice(&written).unwrap();
        assert!(read.is_due(now, bell(now + hour)));
    }

    #[test]
    fn what_let_its_creation_pass_keeps_its_place_and_its_count() {
        let now = Utc::now();
        let led = lane(now).led_by(20, now);
        assert_eq!((led.head, led.requests, led.for_creation), (20, 0, false));
        let next = led.advance(now).unwrap();
        assert_eq!((next.head, next.requests), (7, 4));
        let rest = next.advance(now).unwrap().advance(now).unwrap();
        assert_eq!((rest.head, rest.advance(now)), (12, None));
    }

    #[test]
    fn a_bell_names_its_order_and_its_time() {
        let key = OrderKey::new("careem", "CR1");
        assert_eq!(
            Lanes::bell_of(&format!("due.p03.{key}"), b"1700"),
            Some((key, Bell(1700)))
        );
        assert_eq!(Lanes::bell_of("due.p03.nonsense", b"1700"), None);
        assert_eq!(Lanes::bell_of(&format!("due.p03.{key}"), b""), None);
    }
}
