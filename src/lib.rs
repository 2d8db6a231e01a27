//! webhook-hub: every order of the delivery platforms, to the restaurant's backend: in order, whatever breaks, exactly once where the backend honours the key.
//!
//! The way of an event:
//!
//! 1. [`intake`] takes a webhook, lets [`verification`] say whether it is the [`provider`]'s, and
//! 2. [`journal`] appends it to the stream `EVENTS`; only then is it answered with 200.
//! 3. [`transform`] is the first stage on a durable consumer: `webhook.received` becomes an [`order`] for the backend.
//! 4. [`forward`] is the second: it posts the order and records what became of it; [`memory`] says which orders were there before.
//! 5. [`integration`] takes from the backend what a provider is to be told, and [`push`] is the stage that tells it; it also
//!    fetches orders that a webhook only points at.
//! 6. [`projection`] writes what the log says into PostgreSQL; every table can be dropped and made again.
//!
//! Below, a module knows only those that stand before it (`tests/layers.rs` checks that).

// Formats and words. No I/O.
pub mod text;
pub mod json;
pub mod event;
pub mod order;
pub mod verification;
pub mod provider;
pub mod retry;
pub mod config;

// What the hub runs on: the operating system, PostgreSQL, HTTP to others, metrics and logs.
pub mod fault_injection;
pub mod process;
pub mod tls;
pub mod database;
pub mod http;
pub mod telemetry;

// The log, and the engine that runs what consumes it.
pub mod journal;
pub mod delivery;

// What more than one stage knows: branches, orders that were there before, providers that are switched on.
pub mod branches;
pub mod memory;
pub mod remote;
pub mod registry;

// Where requests come in.
pub mod serving;
pub mod intake;

// The stages, the tables, and where the backend comes in.
pub mod transform;
pub mod forward;
pub mod projection;
pub mod push;
pub mod integration;

// The whole: what is seen of it, what runs it, what its operators use.
pub mod observer;
pub mod hub;
// Everything on a developer's machine; no part of what is shipped.
#[cfg(feature = "dev")]
pub mod dev;
pub mod operator;
