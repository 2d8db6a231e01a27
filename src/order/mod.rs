//! The unified order: the form that the order of every provider gets before it goes to the backend.
//!
//! [`sanitise`] cleans texts from outside, [`money`] parses amounts from JSON text, [`phone`] parses telephone numbers. [`node`] reads JSON
//! with known fields. [`model`] is the order itself, [`amendment`] a later change of it, [`status`] has the words for its status, [`flag`]
//! the remarks about it. [`body`] is the text for the backend, [`idempotency`] the key that it is posted with. [`crate::provider`] decides
//! which field of a provider means what.

pub mod sanitise;
pub mod money;
pub mod phone;
pub mod node;
pub mod status;
pub mod flag;
pub mod model;
pub mod amendment;
pub mod body;
pub mod idempotency;
