//! Jobs: retries of all dead letters that match a filter, by the hub.
//!
//! A job is on the log: an operator's command appends `operator.job_started`, `operator.job_stopped` and `operator.job_resumed`, the
//! instance that works on it `operator.job_progressed` and `operator.job_ended`. [`board`] makes of these events what jobs there are and how
//! far they are. One instance works on one job at a time, by a lease, so another one goes on with it after a crash. The filter is frozen:
//! letters behind the sequence that the job names are not part of it, so what fails again is not retried for ever.
//!
//! Each letter is retried once: the id of the request derives from the letter, and requests on the log are known before a letter is
//! handled. Letters are taken in the log's order, and of one order one at a time: the next one is requested only after the log has the one
//! before it.
//!
//! The instance's task also records acts that an operator did as the user `provision` (`noted`).

pub mod board;
mod noted;
mod pace;
pub mod payload;
mod run;
mod work;

pub use self::run::{Runner, WAKE_UP};
