//! webhook-hub: every order of the delivery platforms, to the restaurant's backend: once, in order, whatever breaks.
//!
//! The modules stand in the order in which an event passes through them:
//!
//! 1. [`intake`] takes a webhook, lets [`verification`] say whether it is the [`provider`]'s, and
//! 2. [`journal`] appends it to the stream `EVENTS`; only then is it answered with 200.
//! 3. [`transform`] is the first stage on a durable consumer: `webhook.received` becomes an [`order`] for the backend.
//! 4. [`forward`] is the second: it posts the order and records what became of it; [`memory`] says which orders were there before.
//! 5. [`integration`] takes from the backend what a provider is to be told, and [`push`] is the stage that tells it; it also
//!    fetches orders that a webhook only points at.
//! 6. [`projection`] writes what the log says into PostgreSQL; every table can be dropped and made again.
//!
//! [`process`] is what the operating system gives. [`hub`] builds all of this, supervises it and drains it; [`operator`] holds the commands, [`telemetry`] what is seen
//! from outside. [`fault_injection`] lets hazard tests shorten constants and end the process at a named point. [`tls`] is what it connects with, [`http`] how it asks others. [`event`] and [`config`] are the words that the others speak; neither does any I/O of its own.

pub mod config;
pub mod text;
pub mod json;
pub mod event;
pub mod retry;
pub mod intake;
pub mod integration;
pub mod verification;
pub mod provider;
pub mod order;
pub mod journal;
pub mod delivery;
pub mod database;
pub mod tls;
pub mod http;
pub mod branches;
pub mod remote;
pub mod registry;
pub mod transform;
pub mod memory;
pub mod forward;
pub mod push;
pub mod projection;
pub mod process;
pub mod hub;
pub mod operator;
pub mod telemetry;
pub mod observer;
pub mod fault_injection;
