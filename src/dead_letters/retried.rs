//! Which letters were retried.

use std::collections::HashMap;

use crate::{
    event::{EventId, Recorded, outcome::RetryRequested},
    journal::read::{Entry, LogReader},
};

/// Which letters were retried, as far as the log was read.
pub struct Retried {
    reader: LogReader,
    /// Whether the job did it.
    by_letter: HashMap<EventId, bool>,
    job: Option<EventId>,
    most: usize,
}

impl Retried {
    pub(super) fn new(reader: LogReader, job: Option<EventId>, most: usize) -> Self {
        Self {
            reader,
            by_letter: HashMap::new(),
            job,
            most,
        }
    }

    /// Reads what came since the last call, to the end of the log.
    ///
    /// # Errors
    /// If NATS does not answer, or there are too many ([`TooManyRetries`]).
    pub async fn read_on(&mut self) -> anyhow::Result<()> {
        loop {
            let entries = self.reader.next_batch().await?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in entries {
                // A request without a cause, or that cannot be read, retried no letter.
                let Entry::Event(event) = entry else { continue };
                if let Some(letter) = event.envelope.cause_id {
                    let is_of_job = self.job.is_some() && job_of(&event) == self.job;
                    self.by_letter.insert(letter, is_of_job);
                }
            }
            if self.by_letter.len() > self.most {
                return Err(TooManyRetries(self.most).into());
            }
        }
    }

    /// Whether this letter was retried.
    pub fn contains(&self, letter: EventId) -> bool {
        self.by_letter.contains_key(&letter)
    }

    /// Whether the job retried this letter.
    pub fn is_of_job(&self, letter: EventId) -> bool {
        self.by_letter.get(&letter).copied().unwrap_or_default()
    }
}

/// More letters were retried than are kept in memory.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} retries are on the log; narrow the search with --since or --provider")]
pub struct TooManyRetries(usize);

fn job_of(request: &Recorded) -> Option<EventId> {
    let request: RetryRequested = serde_json::from_slice(&request.payload).ok()?;
    request.job
}
