//! webhook-hub receives the webhooks of delivery platforms and delivers every order to the restaurant's backend: in order, and exactly once where the
//! backend honours the idempotency key.
//!
//! The path of an event:
//!
//! 1. [`intake`] receives a webhook; [`verification`] proves that it comes from the [`provider`].
//! 2. [`journal`] appends it to the stream `EVENTS`. Only then is it answered 200.
//! 3. [`transform`] is the first stage, on a durable consumer: it turns `webhook.received` into an [`order`] for the backend.
//! 4. [`forward`] is the second stage: it posts the order and records the outcome. [`memory`] knows the earlier orders.
//! 5. [`integration`] receives the backend's requests to providers. The stage [`push`] sends them; it also fetches orders that a
//!    webhook only refers to.
//! 6. [`reconcile`] asks providers for orders with webhooks that never came.
//! 7. [`projection`] writes the events into PostgreSQL. Every table can be dropped and filled again from the log.
//!
//! [`delivery`] is the engine that runs the stages, and [`hub`] builds and supervises everything. `ARCHITECTURE.md` has the
//! glossary, and a table of where to find what.
//!
//! In the list below a module uses only modules before it (`tests/layers.rs` checks that).

// Formats and types, without I/O.
pub mod text;
pub mod json;
pub mod event;
pub mod order;
pub mod verification;
pub mod provider;
pub mod retry;
pub mod config;

// What the hub runs on: the operating system, PostgreSQL, outgoing HTTP, metrics and logs.
pub mod fault_injection;
pub mod process;
pub mod tls;
pub mod database;
pub mod http;
pub mod telemetry;

// The log, and the engine that runs the stages.
pub mod journal;
pub mod delivery;

// What several stages know: branches, earlier orders, enabled providers.
pub mod branches;
pub mod memory;
pub mod remote;
pub mod registry;

// Where requests come in.
pub mod serving;
pub mod intake;

// The stages, the tables, and the backend's requests.
pub mod transform;
pub mod forward;
pub mod projection;
pub mod push;
pub mod integration;
pub mod reconcile;

// Dead letters on the log, and jobs that retry them.
pub mod dead_letters;
pub mod jobs;

// The whole: monitoring, the running hub, the operators' commands.
pub mod observer;
pub mod hub;
// Everything on a developer's machine. The shipped program does not contain it.
#[cfg(feature = "dev")]
pub mod dev;
pub mod operator;
