//! The unified order: what every provider's format becomes before it goes to the backend.
//!
//! [`sanitise`] cleans texts of strangers, [`money`] parses amounts from JSON text, [`node`] reads a provider's JSON and
//! remembers where each fault was, [`model`] is the order itself, [`status`] the platform's words, [`body`] what is
//! posted to the backend.
//! Which field of a provider means what is left to [`crate::provider`].

pub mod sanitise;
pub mod money;
pub mod node;
pub mod status;
pub mod model;
pub mod body;
