//! The log: the one truth, on JetStream.
//!
//! [`connection`] holds the wire to NATS, [`streams`] what the server must look like, [`snapshot`] reads and gives back the whole of it, [`codec`] turns an
//! [`Envelope`](crate::event::Envelope) into headers and back, [`form`] says in which of two forms, [`append`] is the way in (group commit, then the
//! acknowledgement), [`read`] the way back by sequence and [`pull`] by a durable consumer, [`stage`] runs what consumes the
//! log, [`identity`] knows whether that is still the log that a position was about, [`lease`] says on which instance, [`lanes`] holds what waits for long, [`settle`] decides what becomes of a
//! message and [`superseded`] whether one that is taken up again still holds. What an event means is left to the stages.

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
pub mod superseded;
pub mod lease;
pub mod lanes;
pub mod stage;

pub use append::{AppendError, Appended, Journal};

/// Name of the stream that holds every event.
pub const EVENTS: &str = "EVENTS";
