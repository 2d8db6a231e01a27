//! The unified order: what every provider's format becomes before it goes to the backend.
//!
//! [`money`] parses amounts from JSON text, [`node`] reads a provider's JSON and remembers where each fault was,
//! [`model`] is the order itself, [`status`] the platform's words, [`body`] what is posted to the backend.
//! Which field of a provider means what is left to [`crate::provider`].

pub mod money;
pub mod pointer;
pub mod scan;
pub mod tree;
pub mod fault;
pub mod status;
pub mod model;
pub mod body;
