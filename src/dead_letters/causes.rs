//! Dead letters grouped by cause.

use std::{cmp::Reverse, collections::BTreeMap};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::letter::Letter;

/// Stands for the stage or the code of a dead letter that this version cannot read.
const UNKNOWN: &str = "unknown";
/// Maximum number of distinct causes. There are few stages and providers, and the codes are constants of the program.
const MOST_CAUSES: usize = 10_000;

/// Dead letters that share stage, code and provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// The stage that gave up.
    pub stage: String,
    /// The error's code: `BACKEND_422` …
    pub code: String,
    /// The provider's name.
    pub provider: String,
    /// How many are open.
    pub count: u64,
    /// When the oldest of them was given up.
    pub oldest_at: DateTime<Utc>,
    /// When the newest of them was given up.
    pub newest_at: DateTime<Utc>,
}

/// Counts letters by cause.
#[derive(Default)]
pub struct Causes(BTreeMap<(String, String, String), Cause>);

impl Causes {
    /// Counts a letter.
    pub fn add(&mut self, letter: &Letter) {
        let facts = letter.facts.as_ref().ok();
        let stage = facts.and_then(|facts| facts.stage.clone());
        let mut stage = stage.unwrap_or_else(|| UNKNOWN.to_owned());
        let mut code = facts.map_or_else(|| UNKNOWN.to_owned(), |facts| facts.error.code.clone());
        let envelope = &letter.event.envelope;
        let (mut provider, time) = (envelope.provider.to_string(), envelope.time);
        if self.0.len() >= MOST_CAUSES && !self.0.contains_key(&(stage.clone(), code.clone(), provider.clone())) {
            for one in [&mut stage, &mut code, &mut provider] {
                UNKNOWN.clone_into(one);
            }
        }
        let key = (stage.clone(), code.clone(), provider.clone());
        let cause = self.0.entry(key).or_insert(Cause {
            stage,
            code,
            provider,
            count: 0,
            oldest_at: time,
            newest_at: time,
        });
        cause.count += 1;
        cause.oldest_at = cause.oldest_at.min(time);
        cause.newest_at = cause.newest_at.max(time);
    }

    /// Those with most letters first.
    pub fn sorted(self) -> Vec<Cause> {
        let mut causes: Vec<_> = self.0.into_values().collect();
        causes.sort_by_key(|cause| Reverse(cause.count));
        causes
    }
}
