//! The last finding about the log's identity: shown in health until an operator had the time to see it.
//!
//! It is kept on the server, as the last message of a subject of the stream `LEASES`, so a restarted hub and every other instance show it,
//! too. It is shown for [`SHOWN_FOR`]; after that `hub.log_eras` and the hub's log still have it.

use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::journal::{connection::Connection, read::last_of, streams::LEASES};

/// How long a finding is shown: longer than a weekend with a public holiday on each side.
pub const SHOWN_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// Where it is kept. `LEASES` keeps the last message of each subject, without an end.
const SUBJECT: &str = "hub.lease.identity";
/// Wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A finding about the log's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// When.
    pub at: DateTime<Utc>,
    /// The reader with the position that did not match: `hub`, `tables`, `orders` or a stage.
    pub by: String,
    /// What, for people.
    pub what: String,
}

impl Finding {
    /// What an operator should do.
    pub const ADVICE: &str = "find out who restored or replaced the data of NATS; ask the providers to send again everything since the \
                              common point, because those webhooks are on no log";

    /// Whether it is still to be shown.
    pub fn is_shown(&self, now: DateTime<Utc>) -> bool {
        (now - self.at).to_std().is_ok_and(|age| age < SHOWN_FOR) || self.at > now
    }
}

/// The newer one of this instance's finding and the one that the server has, which has it afterwards.
///
/// # Errors
/// If NATS does not answer.
pub(super) async fn agree(connection: &Connection, own: Option<Finding>) -> anyhow::Result<Option<Finding>> {
    let last = last_of(connection, LEASES, SUBJECT, ANSWER_TIMEOUT).await?;
    // A finding that this version cannot read counts as none.
    let kept: Option<Finding> = last.and_then(|last| serde_json::from_slice(&last.payload).ok());
    match (own, kept) {
        (Some(own), kept) if kept.as_ref().is_none_or(|kept| kept.at < own.at) => {
            let payload = serde_json::to_vec(&own)?.into();
            let written = async { connection.context.publish(SUBJECT, payload).await?.await };
            tokio::time::timeout(ANSWER_TIMEOUT, written)
                .await
                .context("NATS does not answer about a finding")??;
            Ok(Some(own))
        }
        (_, kept) => Ok(kept),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn it_is_shown_for_a_week() {
        let now = Utc::now();
        let found = |age: TimeDelta| Finding {
            at: now - age,
            by: "hub".to_owned(),
            what: String::new(),
        };
        for (age, is_shown) in [
            (TimeDelta::zero(), true),
            (TimeDelta::days(7) - TimeDelta::seconds(1), true),
            (TimeDelta::days(7), false),
            // The clock of the reporting instance is ahead.
            (TimeDelta::seconds(-5), true),
        ] {
            assert_eq!(found(age).is_shown(now), is_shown, "{age}");
        }
    }
}
