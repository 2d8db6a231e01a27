//! Leases: they decide which instance works on a stage.
//!
//! A lease is the last message of a subject of the stream `LEASES`; it names the holder. Taking, renewing and releasing it
//! are publishes that name the sequence which they follow, so the server accepts one of two concurrent ones. No clocks are
//! compared: the holder counts from before its publish, and the others take over when they have not seen a renewal for longer
//! than that.
//!
//! Each renewal carries a [`note`]: how far the stage is, so that a takeover costs the same whatever happened before. A
//! holder that stops writes into it that the lease is free and which requests are still under way (see [`super::stage`]).
//!
//! The tables have another lease, in PostgreSQL (`projection::writer`), because the transaction that writes them must itself
//! detect that its instance was replaced. The stages cannot use that one: they continue while PostgreSQL is away.

pub mod note;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::{
    HeaderMap, Subscriber,
    jetstream::{context::PublishErrorKind, message::StreamMessage},
};
use tokio::sync::Notify;
use uuid::Uuid;

use self::note::Note;
use crate::{
    fault_injection::{crash_at, time},
    journal::{connection::Connection, read::last_of, streams::LEASES},
};

/// How long a lease holds. A holder that is stopped or cut off is replaced after this and a bit; one that stalls for
/// less keeps its work.
const TTL: Duration = Duration::from_secs(4);
/// How often the holder renews.
const RENEW_EVERY: Duration = Duration::from_millis(800);
/// How much longer the others wait, beyond any difference in how fast two machines' clocks run.
const MARGIN: Duration = Duration::from_millis(400);
/// How often they look.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Time limit of one answer; after that the holder tries again while its lease lasts.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a holder writes that it releases its lease, each time after another message of its own.
const MAX_RELEASES: usize = 3;

/// A lease that was taken.
pub struct Lease {
    connection: Arc<Connection>,
    subject: String,
    holder: String,
    sequence: u64,
    until: Validity,
}

/// What an instance found when it took a lease.
pub struct Inherited {
    /// The note of the one before.
    pub note: Note,
    /// When that was read.
    pub read_at: Instant,
    /// What instances say of requests that the note lists as under way; none if it lists none. It listens since before
    /// the lease was taken.
    pub words: Option<Subscriber>,
}

/// Until when a lease holds; for those who must not act without. Cheap to clone.
#[derive(Clone)]
pub struct Validity(Arc<Mutex<Option<Instant>>>);

impl Validity {
    pub(super) fn since(began: Instant) -> Self {
        Self(Arc::new(Mutex::new(Some(began + ttl()))))
    }

    /// Whether it holds now.
    pub fn holds(&self) -> bool {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// One that was ended stays so, whatever an answer says that was on its way.
    fn extend(&self, from: Instant) {
        if let Some(until) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            *until = from + ttl();
        }
    }

    /// Ends it before its time.
    pub fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The subject on which an instance reports its requests that are still under way after it released a stage's lease.
pub fn words_subject(name: &str) -> String {
    format!("hub.at_work.{name}")
}

impl Lease {
    /// Waits until no other instance holds it, and takes it.
    ///
    /// # Errors
    /// If NATS does not answer; the call may be repeated.
    pub async fn take(connection: &Arc<Connection>, name: &str) -> anyhow::Result<(Self, Inherited)> {
        let subject = format!("hub.lease.{name}");
        let holder = Uuid::new_v4().simple().to_string();
        let mut seen: Option<(u64, Instant)> = None;
        loop {
            let read_at = Instant::now();
            let found = read(connection, &subject).await?;
            let first_seen = match seen {
                Some((known, at)) if known == found.sequence => at,
                _ => seen.insert((found.sequence, Instant::now())).1,
            };
            let is_free = found.holder.is_empty() || found.note.handed_over;
            if is_free || first_seen.elapsed() > ttl() + MARGIN {
                let words = if found.note.at_work.is_empty() {
                    None
                } else {
                    Some(connection.client.subscribe(words_subject(name)).await?)
                };
                let began = Instant::now();
                let note = Note {
                    handed_over: false,
                    ..found.note
                };
                if let Some(sequence) = write(connection, &subject, found.sequence, &holder, &note).await? {
                    let lease = Self {
                        connection: Arc::clone(connection),
                        subject,
                        holder,
                        sequence,
                        until: Validity::since(began),
                    };
                    return Ok((lease, Inherited { note, read_at, words }));
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Until when it holds.
    pub fn validity(&self) -> Validity {
        self.until.clone()
    }

    /// The name of this holder.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Renews it for as long as that works, each time with what `note` says, and at once when told to; returns when it is
    /// lost. One that is handed over is renewed until another instance takes it: never returns then.
    pub async fn keep(&mut self, says: impl Fn() -> Note, at_once: &Notify) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RENEW_EVERY) => {}
                () = at_once.notified() => {}
            }
            let (note, began) = (says(), Instant::now());
            match write(&self.connection, &self.subject, self.sequence, &self.holder, &note).await {
                Ok(Some(sequence)) => {
                    if note.handed_over {
                        crash_at("after_handover");
                    }
                    self.sequence = sequence;
                    self.until.extend(began);
                }
                // The server may have accepted the renewal, and its answer was lost.
                Ok(None) => match read(&self.connection, &self.subject).await {
                    Ok(found) if found.holder == self.holder => self.sequence = found.sequence,
                    Ok(_) if says().handed_over => std::future::pending().await,
                    Ok(_) => return self.until.end(),
                    Err(_) => {}
                },
                Err(_) => {}
            }
            // The lease may have been handed over meanwhile, which ends it, too.
            if !self.until.holds() && !says().handed_over {
                return;
            }
        }
    }

    /// Releases it, so that another instance need not wait. False if this holder had lost it, or NATS does not answer.
    pub async fn give_back(mut self, note: &Note) -> bool {
        self.until.end();
        let released = self.release(note).await;
        if let Err(error) = &released {
            tracing::debug!(
                error = format!("{error:#}"),
                "lease not given back; it runs out by itself"
            );
        }
        released.unwrap_or(false)
    }

    /// A renewal may have been under way when [`Self::keep`] was dropped. Then its message is the last one, and not the one that this
    /// holder knows of.
    async fn release(&mut self, note: &Note) -> anyhow::Result<bool> {
        for _ in 0..MAX_RELEASES {
            if write(&self.connection, &self.subject, self.sequence, "", note)
                .await?
                .is_some()
            {
                return Ok(true);
            }
            let found = read(&self.connection, &self.subject).await?;
            if found.holder != self.holder {
                return Ok(false);
            }
            self.sequence = found.sequence;
        }
        Ok(false)
    }
}

fn ttl() -> Duration {
    time("lease", TTL)
}

/// The last message of a lease's subject.
#[derive(Default)]
struct LeaseRecord {
    /// 0 where there is none.
    sequence: u64,
    /// Empty: no holder.
    holder: String,
    note: Note,
}

/// A lease as any instance or operator sees it.
#[derive(Debug, Clone)]
pub struct LeaseState {
    /// Changes with each renewal, of which there is one in every [`RENEWED_WITHIN`] while an instance holds it.
    pub sequence: u64,
    /// The instance that holds it, or held it last; none after it was released.
    pub holder: Option<String>,
    /// The holder stops, and finishes what it began.
    pub is_handed_over: bool,
    /// How many orders wait for a later attempt, as the holder knew; none if it does not say.
    pub parked: Option<u64>,
}

/// In every such time a lease that is held is renewed twice.
pub const RENEWED_WITHIN: Duration = Duration::from_secs(2);

/// Looks at a lease without taking it.
///
/// # Errors
/// If NATS does not answer.
pub async fn state(connection: &Connection, name: &str) -> anyhow::Result<LeaseState> {
    let found = read(connection, &format!("hub.lease.{name}")).await?;
    let lanes = found.note.floor.as_ref().and_then(|floor| floor.lanes);
    Ok(LeaseState {
        sequence: found.sequence,
        holder: Some(found.holder).filter(|holder| !holder.is_empty()),
        is_handed_over: found.note.handed_over,
        // The largest number means that lanes are being rebuilt and their number is unknown.
        parked: lanes.map(|lanes| lanes.open).filter(|open| *open != u64::MAX),
    })
}

async fn read(connection: &Connection, subject: &str) -> anyhow::Result<LeaseRecord> {
    let last = last_of(connection, LEASES, subject, ANSWER_TIMEOUT).await?;
    let said = |message: StreamMessage| LeaseRecord {
        sequence: message.sequence,
        holder: String::from_utf8_lossy(&message.payload).into_owned(),
        note: note_of(&message.headers, subject),
    };
    Ok(last.map(said).unwrap_or_default())
}

/// The note; none said where an older hub wrote the lease. One that cannot be read, as a newer hub may write, says nothing
/// either.
fn note_of(headers: &HeaderMap, subject: &str) -> Note {
    let Some(text) = headers.get(note::HEADER) else {
        return Note::default();
    };
    serde_json::from_str(text.as_str()).unwrap_or_else(|error| {
        tracing::warn!(%error, subject, "the note of a lease cannot be read, going on without it");
        Note::default()
    })
}

/// The new sequence, or none if the subject's last one is not the expected one.
async fn write(
    connection: &Connection,
    subject: &str,
    expected: u64,
    holder: &str,
    note: &Note,
) -> anyhow::Result<Option<u64>> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
    headers.insert(note::HEADER, serde_json::to_string(note)?);
    let written = async {
        let acknowledged =
            connection
                .context
                .publish_with_headers(subject.to_owned(), headers, holder.to_owned().into());
        acknowledged.await?.await
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, written)
        .await
        .context("NATS does not answer about a lease")?
    {
        Ok(acknowledgement) => Ok(Some(acknowledgement.sequence)),
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
        Err(error) => Err(error).context("cannot write a lease"),
    }
}
