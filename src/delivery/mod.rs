//! The delivery engine: it runs the stages that consume the log, keeps the events of each order in sequence, and retries.
//!
//! [`stage`] is the runner. A [`lease`] decides on which instance a stage runs. [`lanes`] hold events that wait for long. [`superseded`]
//! decides whether an event that is retried is still current. The circuit [`breaker`] decides whether requests may be made; [`gate`] waits
//! for it and shares its state between instances. The stages themselves (`transform`, `forward`, `push`) decide what an event means.

pub mod lease;
pub mod lanes;
pub mod superseded;
pub mod breaker;
pub mod gate;
pub mod stage;
mod by_branch;
