//! The log: the one truth, on JetStream.
//!
//! [`connection`] holds the wire to NATS, [`streams`] what the server must look like, [`snapshot`] reads and gives back the whole of it, [`codec`] turns an
//! [`Envelope`](crate::event::Envelope) into headers and back, [`form`] says in which of two forms, [`append`] is the way in (group commit, then the
//! acknowledgement), [`read`] the way back by sequence and [`pull`] by a durable consumer, [`identity`] knows whether that is still the log that a position was
//! about. What consumes the log is run by [`crate::delivery`]; what an event means is left to the stages.

pub mod connection;
pub mod unreachable;
pub mod streams;
pub mod snapshot;
pub mod codec;
pub mod form;
pub mod identity;
pub mod append;
pub mod read;
pub mod pull;

pub use append::{AppendError, Appended, Journal};

/// Name of the stream that holds every event.
pub const EVENTS: &str = "EVENTS";
