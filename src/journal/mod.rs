//! The log on JetStream: the single source of truth.
//!
//! [`connection`] is the connection to NATS, [`streams`] what the server must look like, [`snapshot`] reads and restores the
//! whole log. [`codec`] turns an [`Envelope`](crate::event::Envelope) into headers and back, [`form`] decides in which of two
//! forms. [`append`] is the way in (group commit, then the acknowledgement), [`publish`] the format of both, [`read`] reads by sequence and [`pull`] through
//! a durable consumer. [`identity`] decides whether the log is still the one that a position belongs to. [`crate::delivery`]
//! runs what consumes the log; the stages decide what an event means.

pub mod connection;
pub mod unreachable;
pub mod streams;
pub mod snapshot;
pub mod codec;
pub mod form;
pub mod identity;
pub mod publish;
pub mod append;
pub mod read;
pub mod pull;

pub use append::{AppendError, Appended, Journal};

/// Name of the stream that holds every event.
pub const EVENTS: &str = "EVENTS";
