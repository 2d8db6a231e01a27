//! Payloads of the events about what operators of the hub do.
//!
//! Fields are added, never renamed or removed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Stands where an event of an order names its provider: what an operator does is about no provider's order.
pub const PROVIDER: &str = "hub";
/// `webhookType` of these events.
pub const WEBHOOK_TYPE: &str = "operator";
/// Label of the event with an act's result (see [`EventId::derive`](super::EventId::derive)).
pub const RESULT: &str = "result";

/// Payload of `operator.acted`. An act is recorded twice: before it, and with its result after it. The second event names the first
/// as its cause. An act without a second event was interrupted, or its result could not be recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acted {
    /// The kind of act: `retry`, `rebuild` …
    pub kind: String,
    /// Who.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The arguments, without secrets and personal data.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub arguments: Value,
    /// What came of it; absent in the event before the act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ActResult>,
}

/// What came of an act.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ActResult {
    /// Why it failed; absent where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it changed, in numbers.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub counts: Value,
}
