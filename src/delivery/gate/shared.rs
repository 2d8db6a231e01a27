//! Shares the breaker's state between instances, on the core NATS subject `hub.breaker`.
//!
//! The instance that works on the stage reports each change at once and repeats its state: every `REPEAT_EVERY` while it is
//! not closed, so that a new instance knows it within a second, and at a longer interval while it is closed, so that no
//! instance keeps an old one. The other instances show the reported state in health and metrics, and start from it when they
//! take over. No message is essential: a lost one is repeated, and without NATS every instance continues with its own
//! knowledge.
//!
//! Rate limits have a protocol of their own (`serving::limit::shared`): there every instance counts, a stream keeps the sum, and
//! a lost message would let too many requests in. Here one instance knows the state and repeats it.
//!
//! Operators may subscribe to the same messages; `repeat` marks those that are no change.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Gate;
use crate::{
    delivery::breaker::{BreakerReport, BreakerState, FailingBranch, MAX_REPORTED},
    journal::connection::Connection,
};

/// The subject of the messages.
pub const SUBJECT: &str = "hub.breaker";
/// How often the state is repeated while it is not closed: twice in the second within which everyone must know it.
const REPEAT_EVERY: Duration = Duration::from_millis(500);
/// How often while it is closed: an instance that missed the change learns of it after this.
const REPEAT_CLOSED_EVERY: Duration = Duration::from_secs(5);
/// Most bytes of a message that are written or read. A report has about two hundred, and as many for each failing branch.
const MAX_MESSAGE_BYTES: usize = 4096;
/// Most characters of another instance's reason. The hub's reasons are sentences.
const MAX_REASON_CHARS: usize = 256;
/// Longest wait for the socket; what could not be said by then is said anew with the next repeat.
const SAY_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause before subscribing again, should the client end the subscription.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_millis(250);

/// A message: what an instance says of its breaker. Fields may be added.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BreakerMessage {
    /// The reporting instance; each start of an instance has a new name.
    instance: String,
    state: BreakerState,
    reason: Option<String>,
    /// How long it stays open.
    remaining_ms: u64,
    /// Whether it was said before, or is known for other reasons; false for a change.
    #[serde(default)]
    repeat: bool,
    /// Open, but only for the first of `branches`: requests of others are let through as trials. Earlier versions do not say it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    of_one_branch: bool,
    /// Branches that the backend fails for: their requests wait. Earlier versions do not say it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    branches: Vec<BranchMessage>,
    /// How many there are in all. Earlier versions do not say it.
    #[serde(default, skip_serializing_if = "is_zero")]
    branches_in_all: usize,
}

/// One of the branches that the backend fails for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BranchMessage {
    branch: String,
    remaining_ms: u64,
    /// How long the backend has failed for it. Earlier versions do not say it, nor what follows.
    #[serde(default)]
    since_ms: u64,
    /// How many of its events wait.
    #[serde(default)]
    waiting: u64,
    /// The code of its last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl From<FailingBranch> for BranchMessage {
    fn from(failing: FailingBranch) -> Self {
        Self {
            branch: failing.branch.to_string(),
            remaining_ms: millis(failing.remaining),
            since_ms: millis(failing.since),
            waiting: failing.waiting,
            code: failing.code.map(|code| code.to_string()),
        }
    }
}

impl From<BranchMessage> for FailingBranch {
    fn from(message: BranchMessage) -> Self {
        Self {
            branch: Arc::from(message.branch),
            remaining: Duration::from_millis(message.remaining_ms),
            since: Duration::from_millis(message.since_ms),
            waiting: message.waiting,
            code: message.code.map(Arc::from),
        }
    }
}

/// Publishes and receives reports until it is stopped.
///
/// # Errors
/// Never; trouble with NATS is waited out.
pub async fn run(connection: Arc<Connection>, gate: Arc<Gate>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut sharing = BreakerSharing {
        instance: Uuid::new_v4().simple().to_string(),
        turns: gate.turns(),
        connection,
        gate,
        last_said: None,
        is_asked: false,
    };
    tracing::info!(instance = sharing.instance, "sharing the circuit breaker's state");
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            error = sharing.share() => tracing::warn!(error = format!("{error:#}"), "subscribing again to {SUBJECT}"),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(PAUSE_AFTER_TROUBLE) => {}
        }
    }
}

struct BreakerSharing {
    instance: String,
    connection: Arc<Connection>,
    gate: Arc<Gate>,
    turns: broadcast::Receiver<BreakerReport>,
    last_said: Option<Instant>,
    /// Another instance reported a state although this one works on the stage: it gets the current state.
    is_asked: bool,
}

impl BreakerSharing {
    /// Returns when the subscription ends: why.
    async fn share(&mut self) -> anyhow::Error {
        let mut others: Subscriber = match self.connection.client.subscribe(SUBJECT).await {
            Ok(others) => others,
            Err(error) => return error.into(),
        };
        let mut ticks = tokio::time::interval(REPEAT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // A change is published before the next repeat.
                biased;
                turn = self.turns.recv() => match turn {
                    Ok(report) => self.say(report, false).await,
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return anyhow::anyhow!("the breaker is gone"),
                },
                message = others.next() => match message {
                    Some(message) => self.hear(&message),
                    None => return anyhow::anyhow!("the subscription ended"),
                },
                _ = ticks.tick() => self.repeat().await,
            }
        }
    }

    fn hear(&mut self, message: &Message) {
        let Some(report) = read(&message.payload, &self.instance) else {
            return;
        };
        if !self.gate.hear(report) {
            self.is_asked = true;
        }
    }

    async fn repeat(&mut self) {
        let Some(report) = self.gate.report() else { return };
        let is_due = report.state != BreakerState::Closed
            || !report.failing.is_empty()
            || self.is_asked
            || self.last_said.is_none_or(|last| last.elapsed() >= REPEAT_CLOSED_EVERY);
        if is_due {
            self.say(report, true).await;
        }
    }

    async fn say(&mut self, report: BreakerReport, repeat: bool) {
        // The client would keep the message and send it when NATS is back, when it is outdated.
        if !self.connection.is_up() {
            return;
        }
        let payload = written(BreakerMessage {
            instance: self.instance.clone(),
            state: report.state,
            reason: report.reason,
            remaining_ms: millis(report.remaining),
            repeat,
            of_one_branch: report.is_of_one,
            branches: report.failing.into_iter().map(BranchMessage::from).collect(),
            branches_in_all: report.failing_in_all,
        });
        let Ok(payload) = payload else { return };
        let publish = self.connection.client.publish(SUBJECT, Bytes::from(payload));
        match tokio::time::timeout(SAY_TIMEOUT, publish).await {
            Ok(Ok(())) => {
                self.last_said = Some(Instant::now());
                self.is_asked = false;
            }
            Ok(Err(error)) => tracing::debug!(%error, "circuit breaker's state not told"),
            Err(_) => tracing::debug!("circuit breaker's state not told in time"),
        }
    }
}

/// The message, with as many of the branches as it has room for.
fn written(mut message: BreakerMessage) -> serde_json::Result<Vec<u8>> {
    loop {
        let payload = serde_json::to_vec(&message)?;
        if payload.len() <= MAX_MESSAGE_BYTES || message.branches.pop().is_none() {
            return Ok(payload);
        }
    }
}

/// Rounded up, so that no instance sends a request earlier than this one would.
fn millis(remaining: Duration) -> u64 {
    u64::try_from(remaining.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// The report that a message holds, for one that is no instance; none if it is unreadable.
pub fn report_in(payload: &[u8]) -> Option<BreakerReport> {
    read(payload, "")
}

/// The report of another instance; none if the message is this instance's own, or unreadable.
fn read(payload: &[u8], own_name: &str) -> Option<BreakerReport> {
    if payload.len() > MAX_MESSAGE_BYTES {
        tracing::debug!(bytes = payload.len(), "too large for a breaker's state");
        return None;
    }
    let message: BreakerMessage = serde_json::from_slice(payload)
        .inspect_err(|error| tracing::debug!(%error, "not a breaker's state"))
        .ok()?;
    // The text goes into this instance's health and log.
    let tidy = |reason: String| {
        let printable = reason.chars().filter(|one| !one.is_control());
        printable.take(MAX_REASON_CHARS).collect()
    };
    (message.instance != own_name).then(|| BreakerReport {
        state: message.state,
        reason: message.reason.map(tidy),
        remaining: Duration::from_millis(message.remaining_ms),
        is_of_one: message.of_one_branch,
        failing: message
            .branches
            .into_iter()
            .take(MAX_REPORTED)
            .map(FailingBranch::from)
            .collect(),
        failing_in_all: message.branches_in_all,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_json(message: &serde_json::Value) -> Option<BreakerReport> {
        read(message.to_string().as_bytes(), "me")
    }

    #[test]
    fn reads_reports_of_other_instances() {
        let message = json!({
            "instance": "you", "state": "open", "reason": "why", "remainingMs": 1500, "repeat": true, "later": "more",
        });
        let expected = BreakerReport {
            state: BreakerState::Open,
            reason: Some("why".into()),
            remaining: Duration::from_millis(1500),
            is_of_one: false,
            failing: Vec::new(),
            failing_in_all: 0,
        };
        assert_eq!(read_json(&message), Some(expected.clone()));
        // What this version adds.
        let mut message = message;
        message["ofOneBranch"] = json!(true);
        message["branches"] = json!([{ "branch": "b-1", "remainingMs": 1500 }]);
        let failing = FailingBranch {
            branch: "b-1".into(),
            remaining: expected.remaining,
            since: Duration::ZERO,
            waiting: 0,
            code: None,
        };
        let expected = BreakerReport {
            is_of_one: true,
            failing: vec![failing.clone()],
            ..expected
        };
        assert_eq!(read_json(&message), Some(expected.clone()));
        message["branchesInAll"] = json!(20);
        let (since, waiting) = (Duration::from_secs(60), 7);
        let facts = json!({ "sinceMs": 60_000, "waiting": waiting, "code": "BACKEND_500" });
        for (name, value) in facts.as_object().unwrap() {
            message["branches"][0][name] = value.clone();
        }
        let failing = FailingBranch {
            since,
            waiting,
            code: Some("BACKEND_500".into()),
            ..failing
        };
        assert_eq!(
            read_json(&message),
            Some(BreakerReport {
                failing: vec![failing],
                failing_in_all: 20,
                ..expected
            })
        );
        for state in ["closed", "half_open"] {
            let message = json!({ "instance": "you", "state": state, "remainingMs": 0 });
            assert_eq!(read_json(&message).map(|report| report.state.as_str()), Some(state));
        }
    }

    #[test]
    fn ignores_its_own_reports_and_garbage() {
        let message = |instance: &str, state: &str, remaining: serde_json::Value, reason: &str| json!({ "instance": instance, "state": state, "reason": reason, "remainingMs": remaining });
        assert!(read_json(&message("you", "open", json!(1), "x")).is_some());
        assert_eq!(read_json(&message("me", "open", json!(1), "x")), None);
        assert_eq!(read_json(&message("you", "ajar", json!(1), "x")), None);
        assert_eq!(read_json(&message("you", "open", json!(-1), "x")), None);
        assert_eq!(
            read_json(&message("you", "open", json!(1), &"x".repeat(MAX_MESSAGE_BYTES))),
            None
        );
        assert_eq!(read(b"", "me"), None);
        assert_eq!(read(b"\xff", "me"), None);
    }

    /// However long names are, other instances read the message, and how many branches there are.
    #[test]
    fn a_message_is_no_longer_than_what_is_read() {
        let failing = |number: usize| FailingBranch {
            branch: format!("{number}{}", "\u{1}".repeat(60)).into(),
            remaining: Duration::MAX,
            since: Duration::MAX,
            waiting: u64::MAX,
            code: Some("C".repeat(48).into()),
        };
        let message = BreakerMessage {
            instance: "you".into(),
            state: BreakerState::Closed,
            reason: None,
            remaining_ms: 0,
            repeat: true,
            of_one_branch: false,
            branches: (0..MAX_REPORTED).map(|number| failing(number).into()).collect(),
            branches_in_all: 40,
        };
        let report = read(&written(message).unwrap(), "me").unwrap();
        assert_eq!(
            (&*report.failing[0].branch, report.failing_in_all),
            (&*failing(0).branch, 40)
        );
        assert!(
            (4..MAX_REPORTED).contains(&report.failing.len()),
            "{}",
            report.failing.len()
        );
    }

    #[test]
    fn a_reason_is_short_and_printable() {
        let reason = format!("line\n\u{1b}[31m{}", "é".repeat(1000));
        let message = json!({ "instance": "you", "state": "open", "reason": reason, "remainingMs": 1 });
        let read = read_json(&message).unwrap().reason.unwrap();
        assert_eq!(read.chars().count(), MAX_REASON_CHARS);
        assert!(read.starts_with("line[31mé"), "{read}");
    }
}
