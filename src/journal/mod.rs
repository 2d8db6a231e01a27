//! The log on JetStream: the single source of truth.
//!
//! [`connection`] is the connection to NATS. [`streams`] describes, compares and applies the server's set-up. [`snapshot`] reads
//! and restores the whole log. [`codec`] turns an [`Envelope`](crate::event::Envelope) into headers and back; [`form`] decides
//! which of the two forms is written. [`append`] writes events (group commit) in JetStream's format ([`publish`]). [`read`] reads
//! by sequence, [`pull`] through a durable consumer. [`identity`] decides whether the log is still the one that a position
//! belongs to. [`crate::delivery`] runs the stages, which decide what an event means.

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
