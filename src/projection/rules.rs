//! Decides how an event changes an existing row. All of these rules are here.
//!
//! A batch reads what the tables know of its webhooks and orders, applies its events to that in memory, in the log's order,
//! and writes the result. So there is no second form of these rules in SQL, and the tables do not depend on where a batch
//! ends.
//!
//! - A webhook's row shows its last event, until the backend has it (`completed`). After that nothing changes it: later events
//!   come from an instance that was replaced, or from accepting the webhook again after the log had forgotten its id.
//! - Such late events change no order's row either, and an error among them is stored as resolved.
//! - A webhook that is received again has its row already. An outcome that says no more than that changes nothing.
//! - An order's row is made by its first creation. Its status is the provider's latest, until it has ended: then only a refund
//!   changes it. A further creation may change it, too, but never back to an earlier status.

use chrono::NaiveDateTime;

use super::decoded::{DecodedPayload, Event};
use crate::{
    event::{EventType, outcome::DUPLICATE_WEBHOOK},
    order::status::OrderStatus,
};

/// The state of a webhook's row before one of its events is applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WebhookKnowledge {
    /// It has a row.
    pub(super) is_known: bool,
    /// The backend has it.
    pub(super) is_settled: bool,
}

/// How the events of a batch come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventOrder {
    /// In the log's.
    Logs,
    /// Late, after events that stand behind them: what was skipped before.
    Late,
}

impl EventOrder {
    /// Whether an event may change a row that was changed at a time. One that comes late and is older only adds rows that are
    /// missing.
    pub(super) fn may_change(self, changed_at: NaiveDateTime, event_at: NaiveDateTime) -> bool {
        self == Self::Logs || event_at >= changed_at
    }
}

/// Whether an event only says that its webhook was there before.
pub(super) fn is_repeat(event: &Event) -> bool {
    matches!(event.decoded(), DecodedPayload::Ignored(ignored) if ignored.reason == DUPLICATE_WEBHOOK)
}

/// Resolution notes of errors that were overcome.
pub(super) const FORWARDED_LATER: &str = "forwarded by a later attempt";
pub(super) const NOTHING_LEFT: &str = "nothing was left to do";
pub(super) const PUSHED_LATER: &str = "the provider has it by a later attempt";

/// The resolution note of a webhook's or request's errors, when an event shows that they were overcome.
pub(super) fn overcomes(event: &Event) -> Option<&'static str> {
    match event.envelope.event_type {
        EventType::OrderForwarded | EventType::MenuSyncReported => Some(FORWARDED_LATER),
        EventType::OrderIgnored if !is_repeat(event) => Some(NOTHING_LEFT),
        EventType::OrderStatusPushed | EventType::MenuSynced | EventType::ItemsPushed | EventType::StorePushed => {
            Some(PUSHED_LATER)
        }
        _ => None,
    }
}

/// Whether an order's status may become another one.
pub(super) fn may_become(status: Option<OrderStatus>, next: Option<OrderStatus>) -> bool {
    let has_ended = matches!(
        status,
        Some(OrderStatus::Delivered | OrderStatus::Cancelled | OrderStatus::Refunded)
    );
    !has_ended || next == Some(OrderStatus::Refunded)
}

/// Whether a further creation of an order may change its status.
pub(super) fn may_be_announced(status: Option<OrderStatus>, next: Option<OrderStatus>) -> bool {
    let rank = |status| OrderStatus::ALL.iter().position(|one| Some(*one) == status);
    may_become(status, next) && rank(next) >= rank(status)
}

/// Whether an error of PostgreSQL (SQLSTATE) is about what was to be written, not about the state of the database: another row may
/// be taken.
///
/// - 22 data exception, 23 a constraint, 44 a view's or a policy's condition, 54 a limit;
/// - P0 (`RAISE EXCEPTION` and `ASSERT`), 09, 27, 2F, 38, 39 (triggers and functions), and codes that a trigger made up: every
///   class that SQL and PostgreSQL leave to others begins with 5 to 9 or I to Z, and those of PostgreSQL among them are known.
pub(super) fn refuses_the_row(code: &str) -> bool {
    const OF_A_ROW: [&str; 10] = ["22", "23", "44", "54", "P0", "09", "27", "2F", "38", "39"];
    const OF_THE_DATABASE: [&str; 6] = ["53", "55", "57", "58", "72", "XX"];
    let Some(class) = code.get(..2) else { return false };
    let is_made_up =
        code.starts_with(|first: char| matches!(first, '5'..='9' | 'I'..='Z')) && !OF_THE_DATABASE.contains(&class);
    OF_A_ROW.contains(&class) || is_made_up
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_rows_are_told_from_an_unavailable_database() {
        for code in [
            "22P05", "23505", "44000", "54000", "P0001", "P0004", "09000", "2F002", "39004", "U0001", "99999", "ZZ001",
        ] {
            assert!(refuses_the_row(code), "{code}");
        }
        // Lost connections, read-only, deadlocks, rights, missing tables, no space, shutdown, I/O, internal errors, foreign tables.
        for code in [
            "08006", "25006", "40P01", "42501", "42P01", "53100", "55P03", "57P01", "58030", "XX000", "HV000", "28P01",
            "0A000", "",
        ] {
            assert!(!refuses_the_row(code), "{code}");
        }
    }
}
