//! The unified order: what every provider's format becomes before it goes to the backend.
//!
//! [`sanitise`] cleans text from outside, [`money`] parses amounts from JSON text, [`phone`] parses telephone numbers. [`node`] reads the hub's own formats
//! field by field. [`model`] is the order itself, [`status`] has its statuses, [`flag`] the remarks about it, [`body`] the body for the backend
//! and [`idempotency`] the key it is posted with. [`crate::provider`] knows the meaning of a provider's fields.

pub mod sanitise;
pub mod money;
pub mod phone;
pub mod node;
pub mod status;
pub mod flag;
pub mod model;
pub mod body;
pub mod idempotency;
