//! Which jobs there are, and how far they are, by their events on the log.

use std::{collections::BTreeMap, time::Instant};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Serialize, de::DeserializeOwned};

use super::payload::{JobCounts, JobEnded, JobOrdered, JobProgressed, JobStarted};
use crate::{
    event::{EventId, EventType, Recorded, outcome::ErrorReport},
    journal::{
        EVENTS,
        connection::Connection,
        identity::follow::Followed,
        read::{Entry, LogReader, Start},
        streams::{
            notes::{self, ActNote},
            restoring,
        },
    },
};

/// Most jobs that are remembered, the oldest that have ended go first. Each takes some 500 bytes.
const MAX_JOBS: usize = 1000;

/// What becomes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// An instance works on it, or will when it has ended those before it.
    Running,
    /// An operator stopped it, and may resume it.
    Stopped,
    /// It did all.
    Done,
    /// It ended before its end.
    Failed,
}

impl JobState {
    /// Its name for people and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing follows.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Its id: that of its first event.
    pub id: EventId,
    /// Where its first event is on the log.
    pub sequence: u64,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// What it is to do.
    #[serde(flatten)]
    pub started: JobStarted,
    /// What becomes of it.
    pub state: JobState,
    /// When its last event happened.
    pub changed_at: DateTime<Utc>,
    /// The sequence of the last letter that is done; 0 before the first.
    pub position: u64,
    /// How many are done.
    pub counts: JobCounts,
    /// Who stopped or resumed it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordered: Option<JobOrdered>,
    /// Why it ended before its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

impl Job {
    fn apply(&mut self, event: &Recorded) {
        if self.state.has_ended() {
            return;
        }
        match event.envelope.event_type {
            EventType::JobProgressed => {
                let Some(said) = read::<JobProgressed>(event) else {
                    return;
                };
                // An instance that was replaced may say less.
                if said.position < self.position {
                    return;
                }
                (self.position, self.counts) = (said.position, said.counts);
            }
            EventType::JobStopped if self.state == JobState::Running => {
                self.state = JobState::Stopped;
                self.ordered = read(event);
            }
            EventType::JobResumed if self.state == JobState::Stopped => {
                self.state = JobState::Running;
                self.ordered = read(event);
                if let Some(rate) = self.ordered.as_ref().and_then(|ordered| ordered.rate) {
                    self.started.rate = rate;
                }
            }
            EventType::JobEnded => {
                let Some(said) = read::<JobEnded>(event) else { return };
                self.state = if said.error.is_some() {
                    JobState::Failed
                } else {
                    JobState::Done
                };
                (self.counts, self.error) = (said.counts, said.error);
            }
            _ => return,
        }
        self.changed_at = event.envelope.time;
    }
}

fn read<T: DeserializeOwned>(event: &Recorded) -> Option<T> {
    serde_json::from_slice(&event.payload).ok()
}

/// All jobs, as far as the log was read.
#[derive(Default)]
pub struct Board {
    /// Which log was read, and up to where.
    log: Followed,
    position: u64,
    /// By the place of their first event: in the order in which they were started.
    jobs: BTreeMap<u64, Job>,
    /// The acts that are noted on the stream; none while a restore is not complete.
    pub(super) noted: Vec<ActNote>,
    /// How long the log keeps events; none if for ever.
    pub(super) kept: Option<TimeDelta>,
}

impl Board {
    /// Reads what came since the last call.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub async fn read_on(&mut self, connection: &Connection) -> anyhow::Result<()> {
        let stream = connection.context.get_stream(EVENTS).await;
        let stream = stream.context("cannot look up EVENTS")?;
        let info = stream.cached_info();
        let look = self.log.look(connection).await?;
        if !look.is_same {
            // The log was replaced or went back: its jobs are read anew.
            (self.position, self.jobs) = (0, BTreeMap::new());
        }
        let metadata = &info.config.metadata;
        self.noted = match restoring::is_in(metadata) {
            true => Vec::new(),
            false => notes::notes(metadata),
        };
        let max_age = info.config.max_age;
        self.kept = TimeDelta::from_std(max_age).ok().filter(|age| !age.is_zero());
        let end = look.log.last;
        if end <= self.position {
            return Ok(());
        }
        let subjects = format!("{}.>", EventType::JobStarted.subject_root());
        let mut reader = LogReader::of_subjects(connection, subjects, Start::Sequence(self.position + 1));
        let mut since = Instant::now();
        loop {
            let entries = reader.next_batch().await?;
            if entries.is_empty() {
                if reader.has_ended(connection, end, since).await? {
                    break;
                }
                continue;
            }
            since = Instant::now();
            // What came since the look is read next time, after it is known to be of the same log.
            for entry in entries.into_iter().filter(|entry| entry.sequence() <= end) {
                if let Entry::Event(event) = entry {
                    self.apply(&event);
                }
            }
        }
        self.position = self.position.max(end);
        Ok(())
    }

    /// Applies the next event.
    fn apply(&mut self, event: &Recorded) {
        let envelope = &event.envelope;
        if envelope.event_type != EventType::JobStarted {
            let mut jobs = self.jobs.values_mut();
            if let Some(job) = jobs.find(|job| job.id == envelope.root_id) {
                job.apply(event);
            }
            return;
        }
        let Some(started) = read::<JobStarted>(event) else {
            return;
        };
        let job = Job {
            id: envelope.id,
            sequence: event.sequence,
            started_at: envelope.time,
            started,
            state: JobState::Running,
            changed_at: envelope.time,
            position: 0,
            counts: JobCounts::default(),
            ordered: None,
            error: None,
        };
        self.jobs.insert(event.sequence, job);
        let oldest_ended = self.jobs.values().find(|job| job.state.has_ended());
        if self.jobs.len() > MAX_JOBS
            && let Some(ended) = oldest_ended.map(|job| job.sequence)
        {
            self.jobs.remove(&ended);
        }
    }

    /// A job.
    pub fn job(&self, id: EventId) -> Option<&Job> {
        self.jobs.values().find(|job| job.id == id)
    }

    /// All of them, in the order in which they were started.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    /// The one to work on: the first that runs.
    pub fn next_to_do(&self) -> Option<&Job> {
        self.jobs.values().find(|job| job.state == JobState::Running)
    }
}
