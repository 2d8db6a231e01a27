//! The examination of an installation: configuration, secrets, NATS, PostgreSQL, clocks and room; each finding with how to mend it.
//!
//! It reads with the settings and the credentials of the hub beside which it runs, and changes nothing. Nothing is looked at twice: the
//! checks are those of the hub's start and of its observer.

use serde::Serialize;

use crate::config::{self, Environment};

mod clock;
mod nats;
mod nats_rights;
mod postgresql;
mod settings;

/// What was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Examination {
    /// There is no problem.
    pub is_well: bool,
    /// All findings, in the order in which they were made.
    pub findings: Vec<Finding>,
}

/// How a finding is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it must be.
    Fine,
    /// It works, but a person should know it.
    Note,
    /// A person is needed.
    Problem,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was looked at: `configuration`, `NATS` …
    pub area: &'static str,
    /// For machines: `right_missing` …
    pub code: &'static str,
    /// How it is judged.
    pub grade: Grade,
    /// What was found; never a secret's value.
    pub message: String,
    /// How to mend it; none where nothing is to be mended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn fine(area: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            area,
            code,
            grade: Grade::Fine,
            message: message.into(),
            remedy: None,
        }
    }

    fn note(area: &'static str, code: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            grade: Grade::Note,
            remedy: Some(remedy.into()),
            ..Self::fine(area, code, message)
        }
    }

    fn problem(area: &'static str, code: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            grade: Grade::Problem,
            ..Self::note(area, code, message, remedy)
        }
    }
}

/// Examines the installation that an environment describes. What cannot be reached is a finding.
pub async fn examine(environment: &Environment) -> Examination {
    let (mut findings, config) = settings::examine(environment);
    let retention = config.as_ref().map(|config| config.retention).unwrap_or_default();
    // A fault in one variable does not keep NATS and PostgreSQL from being examined.
    let nats = async {
        match config::Nats::from_environment(environment) {
            Ok(settings) => Box::pin(nats::examine(&settings, config::order_memory(environment).ok())).await,
            Err(_) => Vec::new(),
        }
    };
    let postgresql = async {
        match config::Database::from_environment(environment) {
            Ok(settings) => Box::pin(postgresql::examine(&settings, &retention)).await,
            Err(_) => Vec::new(),
        }
    };
    let (nats, postgresql) = tokio::join!(nats, postgresql);
    findings.extend(nats);
    findings.extend(postgresql);
    Examination {
        is_well: findings.iter().all(|finding| finding.grade != Grade::Problem),
        findings,
    }
}
