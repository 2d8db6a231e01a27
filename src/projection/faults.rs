//! What the failure of a batch is about.

use super::rules;
use crate::{database, telemetry::panics::Panicked};

/// Whether an event is at fault: PostgreSQL, or a trigger of the platform, refused what it says, or the code panicked; as opposed
/// to a database that is away or not as it must be.
pub(super) fn is_events_fault(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<database::Error>().and_then(database::Error::code);
    error.is::<Panicked>() || code.is_some_and(rules::refuses_the_row)
}

/// Whether PostgreSQL may have refused a statement because it copies: a table with policies for rows or a view takes rows by `INSERT`
/// alone.
pub(super) fn is_about_copy(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<database::Error>().and_then(database::Error::code);
    matches!(code, Some("0A000" | "42809"))
}

/// Whether a time limit ended a statement.
pub(super) fn is_time_limit(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<database::Error>()
        .is_some_and(database::Error::is_time_limit)
}
