//! Leases: which instance works on a stage.
//!
//! A lease is the last message of a subject of the stream `LEASES`: who holds it. Taking, renewing and giving it back
//! are publishes that name the sequence which they follow, so of two instances the server lets one through. Nobody's
//! clock is compared with another's: the holder counts from before its publish, the others take over when they have not
//! seen it renewed for longer than that.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::{
    HeaderMap,
    jetstream::{context::PublishErrorKind, message::StreamMessage},
};
use uuid::Uuid;

use super::{connection::Connection, read::last_of};

/// Name of the stream.
pub const LEASES: &str = "LEASES";
/// How long a lease holds. A holder that is stopped or cut off is replaced after this and a bit; one that stalls for
/// less keeps its work.
const TTL: Duration = Duration::from_secs(4);
/// How often the holder renews.
const RENEW_EVERY: Duration = Duration::from_millis(800);
/// How much longer the others wait, beyond any difference in how fast two machines' clocks run.
const MARGIN: Duration = Duration::from_millis(400);
/// How often they look.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Longest wait for one answer; after that the holder asks again while its time runs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A lease that was taken.
pub struct Lease {
    connection: Arc<Connection>,
    subject: String,
    holder: String,
    sequence: u64,
    until: Validity,
}

/// Until when a lease holds; for those who must not act without. Cheap to clone.
#[derive(Clone)]
pub struct Validity(Arc<Mutex<Instant>>);

impl Validity {
    /// Whether it holds now.
    pub fn holds(&self) -> bool {
        Instant::now() < *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extend(&self, from: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = from + TTL;
    }

    fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl Lease {
    /// Waits until nobody else holds it, and takes it.
    ///
    /// # Errors
    /// Where NATS does not answer; ask again.
    pub async fn take(connection: &Arc<Connection>, name: &str) -> anyhow::Result<Self> {
        let subject = format!("hub.lease.{name}");
        let holder = Uuid::new_v4().simple().to_string();
        let mut seen: Option<(u64, Instant)> = None;
        loop {
            let (sequence, other) = read(connection, &subject).await?;
            let first_seen = match seen {
                Some((known, at)) if known == sequence => at,
                _ => seen.insert((sequence, Instant::now())).1,
            };
            if other.is_empty() || first_seen.elapsed() > TTL + MARGIN {
                let began = Instant::now();
                if let Some(sequence) = write(connection, &subject, sequence, &holder).await? {
                    let until = Validity(Arc::new(Mutex::new(began)));
                    until.extend(began);
                    return Ok(Self {
                        connection: Arc::clone(connection),
                        subject,
                        holder,
                        sequence,
                        until,
                    });
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Until when it holds.
    pub fn validity(&self) -> Validity {
        self.until.clone()
    }

    /// Renews it for as long as that works; returns when it is lost.
    pub async fn keep(&mut self) {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let began = Instant::now();
            match write(&self.connection, &self.subject, self.sequence, &self.holder).await {
                Ok(Some(sequence)) => {
                    self.sequence = sequence;
                    self.until.extend(began);
                }
                // An answer that got lost may have been a yes.
                Ok(None) => match read(&self.connection, &self.subject).await {
                    Ok((sequence, holder)) if holder == self.holder => self.sequence = sequence,
                    Ok(_) => return self.until.end(),
                    Err(_) => {}
                },
                Err(_) => {}
            }
            if !self.until.holds() {
                return;
            }
        }
    }

    /// Gives it back, so that another need not wait.
    pub async fn give_back(self) {
        self.until.end();
        if let Err(error) = write(&self.connection, &self.subject, self.sequence, "").await {
            tracing::debug!(
                error = format!("{error:#}"),
                "lease not given back; it runs out by itself"
            );
        }
    }
}

/// The last sequence of the subject (0: none) and who holds it (empty: nobody).
async fn read(connection: &Connection, subject: &str) -> anyhow::Result<(u64, String)> {
    let last = last_of(connection, LEASES, subject, ANSWER_TIMEOUT).await?;
    let said = |message: StreamMessage| {
        let holder = String::from_utf8_lossy(&message.payload).into_owned();
        (message.sequence, holder)
    };
    Ok(last.map(said).unwrap_or_default())
}

/// The new sequence, or none where the subject's last one is not the expected one.
async fn write(connection: &Connection, subject: &str, expected: u64, holder: &str) -> anyhow::Result<Option<u64>> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string());
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
