//! Payloads of the events of jobs. Each but the first names the job's first event as its cause and its root.
//!
//! Fields are added, never renamed or removed.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{
    dead_letters::filter::Filter,
    event::{EventId, outcome::ErrorReport},
};

/// Letters a second that a job may request. The log takes some 4,000 single events a second.
pub const RATES: RangeInclusive<u32> = 1..=1000;
/// Letters a second where the operator names no rate.
pub const DEFAULT_RATE: u32 = 20;
/// Most letters that could not be retried that a job names; the others are counted.
pub const MAX_FAILURES: usize = 20;

/// Payload of `operator.job_started`. The event's id is the job's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobStarted {
    /// Which letters.
    pub filter: Filter,
    /// Whether menus are among them.
    pub menus: bool,
    /// Letters behind this sequence are not part of the job.
    pub last_sequence: u64,
    /// How many letters matched when the operator started it.
    pub expected: u64,
    /// Letters a second.
    pub rate: u32,
    /// Who started it.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How far a job is. Letters up to [`JobProgressed::position`] are counted, and no others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobCounts {
    /// Letters that the job requested a retry of.
    pub requested: u64,
    /// Letters that others had retried.
    pub already_retried: u64,
    /// Menus that were left out.
    pub menus_left_out: u64,
    /// Letters that cannot be retried.
    pub failed: u64,
    /// The first of those.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<LetterFailure>,
}

/// A letter that cannot be retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LetterFailure {
    /// The letter.
    pub letter: EventId,
    /// Why.
    pub error: String,
}

/// Payload of `operator.job_progressed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobProgressed {
    /// The sequence of the last letter that is done.
    pub position: u64,
    /// How many are done.
    #[serde(flatten)]
    pub counts: JobCounts,
}

/// Payload of `operator.job_stopped` and `operator.job_resumed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobOrdered {
    /// Who.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The new rate of a job that goes on; absent where it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
}

/// Payload of `operator.job_ended`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobEnded {
    /// Why it ended before its end; absent where it did all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// How many are done.
    #[serde(flatten)]
    pub counts: JobCounts,
}

impl JobCounts {
    /// How many letters are done.
    pub const fn done(&self) -> u64 {
        self.requested + self.already_retried + self.menus_left_out + self.failed
    }

    /// Counts a letter that cannot be retried.
    pub(super) fn note_failure(&mut self, letter: EventId, error: String) {
        self.failed += 1;
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(LetterFailure { letter, error });
        }
    }
}
