//! The unified order: what every provider's format becomes before it goes to the backend.
//!
//! [`sanitise`] cleans texts of strangers, [`money`] parses amounts from JSON text, [`phone`] numbers of telephones. [`scan`] and [`tree`] read a provider's
//! JSON by [`mod@pointer`], [`node`] formats of our own field by field, and [`fault`] names what is wrong. [`model`] is the
//! order itself, [`status`] its words, [`flag`] what is to be known about it, [`body`] what is posted to the backend. Which field of a provider means what is left to
//! [`crate::provider`].

pub mod sanitise;
pub mod money;
pub mod phone;
pub mod pointer;
pub mod scan;
pub mod tree;
pub mod node;
pub mod fault;
pub mod status;
pub mod flag;
pub mod model;
pub mod body;
