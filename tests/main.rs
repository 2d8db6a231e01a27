//! The hub as it runs in production, against real servers: the real binary, a real NATS with the project's `nats.conf`,
//! a real PostgreSQL, and a backend that fails on demand. One file a hazard; `harness` holds what they share.
//!
//! A test waits for positions (an event on the log, a row, a request at the backend), never for time, and proves at its
//! end with `World::at_end` that nothing is left over.

// Every function here is part of a test, which clippy sees only of those that carry the attribute.
#![allow(clippy::unwrap_used)]

mod harness;

mod layers;
mod flow;
mod providers;
mod samples;
mod conformance;
mod refusals;
mod limits;
mod attacks;
mod secrets;
mod permissions;
mod reply_subjects;
mod accounts;
mod at_rest;
mod tls;
mod sanitising;
mod unreadable;
mod schemes;
mod rotation;
mod audit;
mod log_down;
mod log_full;
mod disk_full;
mod log_quotas;
mod door;
mod database_down;
mod tables_behind;
mod visible;
mod batches;
mod database_frozen;
mod migrations;
mod schemas;
mod rights;
mod retention;
mod pooler;
mod skipped;
mod enabled_later;
mod branches;
mod principals;
mod identity;
mod identity_again;
mod identity_branches;
mod backend_down;
mod answers;
mod no_loop;
mod breaker;
mod redelivery;
mod response_wait;
mod handover;
mod crash_points;
mod takeover;
mod frozen;
mod deploy;
mod retries;
mod parked;
mod lanes_come_back;
mod lanes_made_again;
mod poison;
mod versions;
mod idempotency;
mod upgrade;
mod orders_table;
mod operators;
mod panics;
mod dead_letters;
mod retry_jobs;
mod way_back;
mod superseded;
mod used_again;
mod amendments;
mod announced_twice;
mod push;
mod provider_words;
mod push_keeta;
mod push_branch;
mod push_waits;
mod push_tenants;
mod push_limits;
mod menus;
mod fetch;
mod reconcile;
mod observe;
mod remote_urls;
mod path_segments;
mod integration;
mod shutdown;
mod rolling;
mod process;
mod log_output;
mod starting;
mod streams;
mod backup;
mod statements;
mod fuzzing;
mod sdks;
mod bench_results;
mod long;
