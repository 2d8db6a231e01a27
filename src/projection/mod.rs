//! The projections: what the log says, as rows in PostgreSQL.
//!
//! One instance writes at a time, by a lease ([`writer`]); the others stand by. Events are applied in batches, in the log's order,
//! and the position moves in the same transaction as the rows: after any crash the tables are what the log says up to there. The
//! durable consumer is only the bell that rings; where it and the position disagree (a database restored from a backup, a
//! new database), the position counts and the gap is read from the log.
//!
//! Where the log went back or is another, the tables begin an [`era`].
//!
//! [`schema`] keeps the tables' shape and [`indexes`] what they are found by; `webhook_logs`, `delivery_error_logs` and
//! `provider_order_logs` are the tables, `retention` deletes what is old, `rules` says what the last word is, [`batch`] applies events to all of them, [`live`]
//! follows the log.

pub mod schema;
pub mod indexes;
pub mod writer;
pub mod era;
mod rules;
pub mod batch;
mod retention;
pub mod live;
pub mod providers;
mod webhook_logs;
mod delivery_error_logs;
mod provider_order_logs;

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::de::DeserializeOwned;

use crate::event::Recorded;

/// A time as the tables keep it: UTC without a zone, milliseconds.
fn timestamp(time: DateTime<Utc>) -> NaiveDateTime {
    time.naive_utc()
}

/// An outcome's payload; none, and a line in the log, where a later version wrote something that this one cannot read.
fn payload<T: DeserializeOwned>(event: &Recorded) -> Option<T> {
    let read = serde_json::from_slice(&event.payload);
    if let Err(error) = &read {
        tracing::error!(sequence = event.sequence, event = %event.envelope.event_type, %error, "an outcome's payload cannot be read");
    }
    read.ok()
}
