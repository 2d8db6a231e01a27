//! The delivery engine: what runs the stages that consume the log, keeps each order's order, and tries again.
//!
//! [`stage`] is the runner, [`lease`] says on which instance it works, [`lanes`] hold what waits for long, [`superseded`] says whether an event that is taken up
//! again still holds. [`breaker`] decides whether whoever is asked is left alone, [`gate`] waits for it and shares its state. What an event means is left to the
//! stages.

pub mod lease;
pub mod lanes;
pub mod superseded;
pub mod breaker;
pub mod gate;
pub mod stage;

/// The stage that reads webhooks: its name as a consumer, in leases, in metrics and on dead letters.
pub const TRANSFORM: &str = "transform";
/// The stage that asks the backend.
pub const FORWARD: &str = "forward";
/// The stage that asks providers.
pub const PUSH: &str = "push";
