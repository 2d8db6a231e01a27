//! Lanes: the orders that wait for a retry for longer than an event is kept in memory.
//!
//! A lane is one message of the stream `LANES`, `lane.<partition>.<order>`: which event is retried, how many requests were
//! made, until when it waits, and which later events of the order wait behind it. Every write names the revision that it
//! replaces, so an instance that was replaced cannot overwrite it.
//!
//! The instance that works on the stage reads all lanes when it starts and keeps the due time of each in memory (`table`). It
//! takes up due lanes from there and reads the lane itself again then. So no wake-up message can get lost. Earlier versions
//! also wrote schedules (`sch.…`), for which the server put a message on `due.…`; remaining ones are ignored.
//!
//! Each stage that parks has a [`LaneNamespace`] of the stream, so one order may wait in two stages, and neither sees the
//! other's lanes.
//!
//! `LANES` holds nothing that exists only there: an event in a lane is on `EVENTS`, and lost lanes are rebuilt from it (see
//! [`super::stage`]). A marker in `LANES` shows that it is the stream that was written.

mod lane;
mod scan;
mod table;
pub mod checksum;
mod writer;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot};

use self::{
    checksum::{LaneMessage, LanePast, LanesChecksum},
    lane::EARLY,
    scan::LaneScan,
    table::{LaneTable, OpenLane},
    writer::LaneWrite,
};
pub use self::{
    lane::{Lane, TriedEvent},
    writer::LaneWriter,
};
use crate::{
    event::stage::LaneNamespace,
    journal::{
        codec::{OrderKey, partition_token},
        connection::Connection,
        read::last_of,
        streams::LANES,
    },
};

/// Events that may wait behind the first one of a lane; one more is given up at once (`LANE_FULL`). An honest order has a
/// handful, and each that joins writes the whole lane anew.
pub const MAX_WAITING: usize = 1000;
/// Changes that may wait to be written: as many as events are held at a time.
const MAX_CHANGES: usize = 2048;
/// Least milliseconds between two times that a look makes a lane due.
const BETWEEN_LOOKS_MS: i64 = 1000;
/// Wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The lanes, for the instance that works on the stage. Cheap to clone.
#[derive(Clone)]
pub struct Lanes {
    connection: Arc<Connection>,
    partitions: u16,
    namespace: LaneNamespace,
    table: Arc<Mutex<LaneTable>>,
    /// Subjects of lanes that an instance with another `PARTITIONS` wrote; each lane stays on its subject until it ends.
    elsewhere: Arc<Mutex<HashMap<OrderKey, Box<str>>>>,
    checksum: Arc<Mutex<LanesChecksum>>,
    changes: mpsc::Sender<LaneWrite>,
}

/// The lanes as they were read at the takeover.
pub struct LanesRead {
    /// The lanes that are open.
    pub lanes: Vec<(OrderKey, Lane)>,
    /// The stream is the one that was written before, not a new or an emptied one.
    pub is_whole: bool,
    /// Requests to NATS that reading them took.
    pub requests: u32,
    messages: HashMap<OrderKey, LaneMessage>,
}

impl LanesRead {
    /// Whether these lanes follow from the checksum that an instance left.
    pub fn matches_checksum(&self, checksum: LanesChecksum) -> bool {
        checksum.explains(self.messages.iter().map(|(key, found)| (*key, found)))
    }

    /// The oldest event in a lane.
    pub fn oldest(&self) -> Option<u64> {
        self.lanes.iter().flat_map(|(_, lane)| lane.sequences()).min()
    }
}

impl Lanes {
    /// Reads all lanes. Nothing is written until the [`LaneWriter`] runs.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn read(
        connection: &Arc<Connection>,
        partitions: u16,
        namespace: LaneNamespace,
    ) -> anyhow::Result<(Self, LaneWriter, LanesRead)> {
        let is_whole = last(connection, &namespace.marker()).await?.is_some();
        // A copy that has the fence also has everything that was written before it.
        let fence = publish(connection, namespace.fence()).await?;
        let LaneScan {
            lanes,
            mut subjects,
            found,
            seen,
            requests,
        } = scan::read(connection, namespace, fence).await?;
        tracing::debug!(
            consumer = namespace.reader(),
            lanes = lanes.len(),
            requests,
            "lanes were read"
        );
        let mut table = LaneTable::default();
        for (key, lane) in &lanes {
            parked(&lane.provider).increment(1.0);
            table.put(*key, OpenLane::new(found[key].revision, found[key].past.clone(), lane));
            // The instance before may have recorded the order that it waits for, and not have said so here.
            // What joined it while lanes were made again may be another branch's, or another order.
            let may_hold_up = || lane.is_mixed || lane.creations.as_ref().is_none_or(|known| !known.is_empty());
            let holds_up = !lane.waiting.is_empty() && may_hold_up();
            if lane.for_creation || holds_up || lane.tried.iter().any(|event| event.for_creation) {
                table.look_at(*key);
            }
        }
        table.seen(seen);
        subjects.retain(|key, subject| **subject != *subject_of(namespace, partitions, *key));
        let read = LanesRead {
            lanes: lanes.into_iter().collect(),
            is_whole,
            requests,
            messages: found,
        };
        let (changes, waiting) = mpsc::channel(MAX_CHANGES);
        let writer = LaneWriter::new(Arc::clone(connection), waiting);
        let lanes = Self {
            connection: Arc::clone(connection),
            partitions,
            namespace,
            elsewhere: Arc::new(Mutex::new(subjects)),
            checksum: Arc::new(Mutex::new(table.checksum())),
            table: Arc::new(Mutex::new(table)),
            changes,
        };
        Ok((lanes, writer, read))
    }

    /// The checksum for the lease's note, now and after every change.
    pub fn checksum(&self) -> Arc<Mutex<LanesChecksum>> {
        Arc::clone(&self.checksum)
    }

    /// Notes a change, and updates the checksum.
    fn note(&self, change: impl FnOnce(&mut LaneTable)) {
        let mut table = self.table();
        change(&mut table);
        *self.checksum.lock().unwrap_or_else(PoisonError::into_inner) = table.checksum();
    }

    /// Writes the marker that the stream holds every lane.
    ///
    /// # Errors
    /// If NATS does not acknowledge.
    pub async fn mark_whole(&self) -> anyhow::Result<()> {
        publish(&self.connection, self.namespace.marker()).await.map(drop)
    }

    fn table(&self) -> MutexGuard<'_, LaneTable> {
        // No code panics while it holds this lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no order has a lane.
    pub fn is_empty(&self) -> bool {
        self.table().lanes().next().is_none()
    }

    /// Whether an order has a lane.
    pub fn is_open(&self, key: OrderKey) -> bool {
        self.table().get(key).is_some()
    }

    /// The lane that is due first, if any; the caller returns it with [`Self::release`].
    pub fn take_due(&self, now: DateTime<Utc>) -> Option<OrderKey> {
        self.table().take_due(now + EARLY)
    }

    /// Lanes with an event that needs what the log has up to this place, whenever they are due; the caller returns each with
    /// [`Self::release`].
    pub fn take_older(&self, up_to: u64, most: usize) -> Vec<OrderKey> {
        self.table().take_older(up_to, most)
    }

    /// The lane's task has ended: an open lane is taken up again when it is due.
    pub fn release(&self, key: OrderKey) {
        self.table().release(key);
    }

    /// Has a lane taken up before it is due, to look whether it has to be worked on now.
    pub fn look_at(&self, key: OrderKey) {
        self.table().look_at(key);
    }

    /// Notes whether the head of a lane waits for the other lane of its order.
    pub fn note_behind(&self, key: OrderKey, is_behind: bool) {
        self.table().note_behind(key, is_behind);
    }

    /// Whether that was noted of the present head.
    pub fn is_behind(&self, key: OrderKey) -> bool {
        self.table().is_behind(key)
    }

    /// The same, to try one of its events: another order waits for it.
    pub fn look_for(&self, key: OrderKey, event: u64) {
        self.table().look_for(key, event);
    }

    /// Which event of a lane that the caller looks at was to be tried.
    pub fn take_looked_for(&self, key: OrderKey) -> Option<u64> {
        self.table().take_looked_for(key)
    }

    /// When a lane that the caller looks at is to be made due: now, or a while after it was the last time.
    pub fn next_look(&self, key: OrderKey, now: DateTime<Utc>) -> DateTime<Utc> {
        self.table().next_look(key, now, BETWEEN_LOOKS_MS)
    }

    /// Whether events behind the head of a lane may be tried before it.
    pub fn has_others(&self, key: OrderKey) -> bool {
        self.table().get(key).is_some_and(|lane| lane.has_others)
    }

    /// Whether that was said of a lane that the caller works on, since this was asked last.
    pub fn take_look(&self, key: OrderKey) -> bool {
        self.table().take_look(key)
    }

    /// When the first lane without a task is due.
    pub fn first_due(&self) -> Option<DateTime<Utc>> {
        self.table().first_due()
    }

    /// How many events are parked, and the oldest place that the log must have for one of them: its own, or that of the event
    /// that it takes up again.
    pub fn parked(&self) -> (u64, Option<u64>) {
        self.table().parked()
    }

    /// How many events of a branch are parked, as far as their lanes name it; those of no branch count as their provider's.
    pub fn parked_of(&self, branch: &str) -> u64 {
        self.table().parked_of(branch)
    }

    /// How many lanes without a task are due, counted up to `most`.
    pub fn due(&self, now: DateTime<Utc>, most: usize) -> usize {
        self.table().due_by(now + EARLY, most)
    }

    /// The state of an order's lane.
    ///
    /// # Errors
    /// If NATS does not answer, or the lane is not the one that this instance knows.
    pub async fn get(&self, key: OrderKey) -> anyhow::Result<Option<Lane>> {
        let Some(revision) = self.table().get(key).map(|open| open.revision) else {
            return Ok(None);
        };
        match last(&self.connection, &self.subject(key)).await? {
            Some((found, payload)) if found == revision => Ok(Some(
                serde_json::from_slice(&payload).context("a lane that cannot be read")?,
            )),
            _ => bail!("the lane of an order was changed: another program writes LANES"),
        }
    }

    /// Makes a lane, or writes it anew.
    ///
    /// # Errors
    /// If NATS does not acknowledge, or another writer wrote the lane meanwhile.
    pub async fn put(&self, key: OrderKey, lane: &Lane) -> anyhow::Result<()> {
        let known = self.table().get(key).cloned();
        let replaces = match &known {
            Some(open) => open.revision,
            None => match last(&self.connection, &self.subject(key)).await? {
                None => 0,
                // An empty message is the marker of a lane that ended recently.
                Some((revision, payload)) if payload.is_empty() => revision,
                Some(_) => bail!("an order has a lane that this instance did not create: another program writes LANES"),
            },
        };
        let past = known
            .as_ref()
            .map_or_else(|| LanePast::none_since(replaces), |open| open.past.then(replaces));
        let revision = self.change(key, replaces, past.clone(), Some(lane)).await?;
        if known.is_none() {
            parked(&lane.provider).increment(1.0);
        }
        self.note(|table| table.put(key, OpenLane::new(revision, past, lane)));
        Ok(())
    }

    /// Ends a lane.
    ///
    /// # Errors
    /// The same as [`Self::put`].
    pub async fn end(&self, key: OrderKey) -> anyhow::Result<()> {
        let Some(open) = self.table().get(key).cloned() else {
            return Ok(());
        };
        let past = open.past.then(open.revision);
        let revision = self.change(key, open.revision, past, None).await?;
        parked(&open.provider).decrement(1.0);
        self.note(|table| {
            table.remove(key);
            table.seen(revision);
        });
        let mut elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        elsewhere.remove(&key);
        Ok(())
    }

    async fn change(&self, key: OrderKey, replaces: u64, past: LanePast, lane: Option<&Lane>) -> anyhow::Result<u64> {
        let (done, written) = oneshot::channel();
        let change = LaneWrite {
            subject: self.subject(key),
            payload: match lane {
                Some(lane) => serde_json::to_vec(lane)?.into(),
                None => bytes::Bytes::new(),
            },
            replaces,
            past,
            done,
        };
        let closed = || anyhow::anyhow!("the lanes are closed");
        self.changes.send(change).await.map_err(|_| closed())?;
        written.await.map_err(|_| closed())
    }

    fn subject(&self, key: OrderKey) -> String {
        let elsewhere = self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner);
        let known = elsewhere.get(&key).map(|subject| subject.to_string());
        known.unwrap_or_else(|| subject_of(self.namespace, self.partitions, key))
    }
}

/// The subject of a lane that an instance with so many partitions makes.
fn subject_of(namespace: LaneNamespace, partitions: u16, key: OrderKey) -> String {
    let partition = partition_token(key.partition(partitions));
    format!("{}{partition}.{key}", namespace.prefix())
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // The last owner of the table: this instance no longer counts parked orders.
        if Arc::strong_count(&self.table) == 1 {
            for open in self.table().lanes() {
                parked(&open.provider).decrement(1.0);
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
async fn publish(connection: &Connection, subject: String) -> anyhow::Result<u64> {
    let published = async { connection.context.publish(subject.clone(), "1".into()).await?.await };
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
