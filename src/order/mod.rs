//! The unified order: what every provider's format becomes before it goes to the backend.
//!
//! [`sanitise`] cleans texts of strangers, [`money`] parses amounts from JSON text, [`phone`] numbers of telephones. [`node`] reads formats of our own field by
//! field. [`model`] is the order itself, [`amendment`] what later changes it, [`status`] its words, [`flag`] what is to be known about it, [`body`] what is posted to the backend. Which field of a
//! provider means what is left to [`crate::provider`].

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
