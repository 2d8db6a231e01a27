//! Which dead letters: filters that a command takes and a job keeps.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::letter::Letter;

/// Filters of dead letters. All that are set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Only this provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Only this branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Only given up in this stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Only this code; upper and lower case are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Only given up at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Only given up at this time or earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

impl Filter {
    /// Whether it lets every letter through.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a letter matches.
    pub fn lets_through(&self, letter: &Letter) -> bool {
        let envelope = &letter.event.envelope;
        let facts = letter.facts.as_ref().ok();
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted
                .as_deref()
                .is_none_or(|wanted| found.is_some_and(|found| found.eq_ignore_ascii_case(wanted)))
        };
        let own = envelope.principal.branch().map(|branch| &**branch);
        let branch = envelope.branch.as_deref().or(own);
        // Two providers can have one subject token.
        self.provider
            .as_deref()
            .is_none_or(|provider| *envelope.provider == *provider)
            && self.branch.as_deref().is_none_or(|wanted| branch == Some(wanted))
            && self.since.is_none_or(|since| envelope.time >= since)
            && self.until.is_none_or(|until| envelope.time <= until)
            && is(&self.stage, facts.and_then(|facts| facts.stage.as_deref()))
            && is(&self.code, facts.map(|facts| &*facts.error.code))
    }

    /// Whether it filters by nothing that a message that is no event lacks.
    pub(super) fn is_about_place_only(&self) -> bool {
        self.until.is_none() && self.branch.is_none() && self.stage.is_none() && self.code.is_none()
    }
}
