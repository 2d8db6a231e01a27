//! Dead letters on the log: which there are, which were retried, and how a retry is requested.
//!
//! A dead letter is an `order.dead_lettered` or an `order.rejected`. It is open until an `order.retry_requested` names it as its
//! cause, or until an `order.forwarded` with `confirmedBy` says that the backend has the order. All is read from the subjects of these events on the log, so it also works while PostgreSQL is away. An ignored event is
//! no dead letter, but it can be retried, too.

pub mod causes;
pub(crate) mod confirmed;
pub mod filter;
pub mod find;
pub mod letter;
pub mod preview;
pub mod retried;
pub mod retry;

/// How far the clock of NATS may be behind a hub's. A search by time begins that much earlier.
pub const CLOCK_SKEW: chrono::TimeDelta = chrono::TimeDelta::minutes(5);
