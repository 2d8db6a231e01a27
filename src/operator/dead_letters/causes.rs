//! The open dead letters, grouped by cause.

use std::{cmp::Reverse, collections::BTreeMap};

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    LetterFilter,
    find::{LetterKind, ListedMessage, Log},
};
use crate::journal::connection::Connection;

/// Stands for the stage or the code of a dead letter that this version cannot read.
const UNKNOWN: &str = "unknown";

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
}

/// The causes of all open dead letters on the log, those with most letters first.
///
/// # Errors
/// If NATS does not answer.
pub(in crate::operator) async fn open_by_cause(connection: &Connection) -> anyhow::Result<Vec<Cause>> {
    let log = Log::open(connection.clone()).await?;
    let filter = LetterFilter::default();
    let retried = log.retried(&filter).await?;
    let mut causes: BTreeMap<(String, String, String), Cause> = BTreeMap::new();
    let mut pages = log.letters(LetterKind::Dead, &filter);
    while let Some(page) = pages.next().await? {
        for found in page {
            let ListedMessage::Letter(letter) = found else { continue };
            if retried.contains(&letter.id()) {
                continue;
            }
            let facts = letter.facts.as_ref().ok();
            let stage = facts.and_then(|facts| facts.stage.clone());
            let stage = stage.unwrap_or_else(|| UNKNOWN.to_owned());
            let code = facts.map_or_else(|| UNKNOWN.to_owned(), |facts| facts.error.code.clone());
            let provider = letter.event.envelope.provider.to_string();
            let key = (stage.clone(), code.clone(), provider.clone());
            let cause = causes.entry(key).or_insert(Cause {
                stage,
                code,
                provider,
                count: 0,
                oldest_at: letter.event.envelope.time,
            });
            cause.count += 1;
            cause.oldest_at = cause.oldest_at.min(letter.event.envelope.time);
        }
    }
    let mut causes: Vec<_> = causes.into_values().collect();
    causes.sort_by_key(|cause| Reverse(cause.count));
    Ok(causes)
}
