//! The way into the log: adaptive group commit.
//!
//! Every append waits in one queue. One writer takes all waiting appends and sends them in one round; the next round begins
//! when that one is acknowledged. A few messages go one by one; from `EVENT_BATCH_FROM` on they go as one atomic batch
//! (JetStream, since NATS 2.12), which costs the server one fsync for all of them. So the log is as quick as the disk when it
//! is quiet, and nearly as quick as without any fsync when it is busy. Several rounds in flight were measured to be slower
//! than one.
//!
//! An append is answered only after JetStream's acknowledgement. An append without one may still be on the log;
//! sending it again, with the same id, is always safe.

pub mod acknowledging;
pub mod fill;
mod measured;
mod recent;
mod round;
mod watch;
mod writer;

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use self::writer::AppendWriter;
use self::{acknowledging::Acknowledging, writer::Pending};
use super::{
    connection::Connection,
    identity::watch::{LogIdentity, NeededAge},
    read,
};
use crate::{
    config::EventLog,
    event::NewEvent,
    telemetry::{roles::Roles, tables::Tables},
};

/// Appends that may wait for the log at a time; one more is refused (the intake answers 503). Eight full batches: at
/// 15,000 appends/s that is a quarter of a second of work.
pub const MAX_WAITING: usize = 4096;
/// Longest time an append may take, as the contract gives the intake.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Where an event is on the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its place in the stream; of the first one where it is a duplicate.
    pub sequence: u64,
    /// Whether an event of that id was there before.
    pub duplicate: bool,
}

/// What the writer found out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    appended: Appended,
    /// It is there already, and was sent before without an answer: the one that is there may be the same request's.
    by_whom_is_open: bool,
}

/// Why an event could not be appended. It may be on the log nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No acknowledgement in time.
    #[error("the event log did not acknowledge within {} s", APPEND_TIMEOUT.as_secs())]
    Timeout,
    /// More waits than the log can take.
    #[error("more than {MAX_WAITING} appends wait for the event log")]
    Overloaded,
    /// The log does not acknowledge at the moment; nothing was sent.
    #[error("the event log does not acknowledge: {0}")]
    NotAcknowledging(acknowledging::LogTrouble),
    /// JetStream refused it: no room, too large …
    #[error("the event log refused the event: {0}")]
    Refused(String),
    /// The hub is going down.
    #[error("the event log is closed")]
    Closed,
}

/// The log, for appending. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<Pending>,
    partitions: u16,
    connection: Arc<Connection>,
    acknowledging: Acknowledging,
    roles: Roles,
    tables: Tables,
    identity: LogIdentity,
}

impl Journal {
    /// Opens the log on a connection. Nothing is written until the [`AppendWriter`] runs.
    pub fn open(connection: Arc<Connection>, log: EventLog) -> (Self, AppendWriter) {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let acknowledging = Acknowledging::default();
        let writer = AppendWriter::new(Arc::clone(&connection), waiting, acknowledging.clone(), log);
        (
            Self {
                queue,
                partitions: log.partitions,
                connection,
                acknowledging,
                roles: Roles::default(),
                tables: Tables::default(),
                identity: LogIdentity::default(),
            },
            writer,
        )
    }

    /// Appends an incoming request: as [`Self::append`], but not while the log is known not to acknowledge. Then the sender
    /// gets its refusal at once; now and then one append is let through, to find out.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn accept(&self, event: NewEvent) -> Result<Appended, AppendError> {
        self.acknowledging.lets_in().map_err(AppendError::NotAcknowledging)?;
        self.send(event, tokio::time::Instant::now() + APPEND_TIMEOUT).await
    }

    /// Appends one event and waits for the acknowledgement, at most [`APPEND_TIMEOUT`]. While the log is known not to
    /// acknowledge it waits for that to end: what the stages hold would otherwise be sent again and again, all of it.
    ///
    /// # Errors
    /// See [`AppendError`]; but where nothing was sent it is not certain that the event is not on the log.
    pub async fn append(&self, event: NewEvent) -> Result<Appended, AppendError> {
        let deadline = tokio::time::Instant::now() + APPEND_TIMEOUT;
        if let Err(trouble) = self.acknowledging.lets_in() {
            let waiting = tokio::time::timeout_at(deadline, self.acknowledging.wait_up());
            waiting.await.map_err(|_| AppendError::NotAcknowledging(trouble))?;
        }
        self.send(event, deadline).await
    }

    async fn send(&self, event: NewEvent, deadline: tokio::time::Instant) -> Result<Appended, AppendError> {
        let (done, result) = oneshot::channel();
        let (request_id, time) = (event.envelope.request_id.clone(), event.envelope.time);
        self.queue
            .try_send(Pending::new(event, done))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => AppendError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => AppendError::Closed,
            })?;
        let stored = match tokio::time::timeout_at(deadline, result).await {
            Ok(Ok(result)) => result?,
            Ok(Err(_)) => return Err(AppendError::Closed),
            Err(_) => return Err(AppendError::Timeout),
        };
        let mut appended = stored.appended;
        if stored.by_whom_is_open {
            let reading = tokio::time::timeout_at(deadline, read::event_at(&self.connection, appended.sequence));
            // If it cannot be read, the server's answer stands: the event is a duplicate.
            if let Ok(Ok(Some(there))) = reading.await {
                let there = &there.envelope;
                let same_time = there.time.timestamp_millis() == time.timestamp_millis();
                appended.duplicate = !(same_time && there.request_id == request_id);
            }
        }
        Ok(appended)
    }

    /// Whether the log acknowledges, as far as this instance knows.
    pub const fn acknowledging(&self) -> &Acknowledging {
        &self.acknowledging
    }

    /// Which stages this instance works on.
    pub const fn roles(&self) -> &Roles {
        &self.roles
    }

    /// How far the tables are that are made from the log, as this instance knows it.
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Whether the log is the one that it was.
    pub const fn identity(&self) -> &LogIdentity {
        &self.identity
    }

    /// Looks whether it is, until it is stopped.
    ///
    /// # Errors
    /// Never; as a task of the hub has it.
    pub async fn watch_identity(self, needed: NeededAge, stop: CancellationToken) -> anyhow::Result<()> {
        self.identity.run(self.connection, self.tables, needed, stop).await
    }

    /// How many partitions the log has.
    pub const fn partitions(&self) -> u16 {
        self.partitions
    }

    /// The connection to NATS.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}
