//! The queries behind the read commands. Each returns a typed, serialisable result and prints nothing; the commands print it with
//! `operator::output`.

pub mod acts;
pub mod orders;
pub mod mask;
pub mod difference;
pub mod steps;
pub mod story;
pub mod events;
pub mod status;
pub mod doctor;
pub mod log_check;
pub mod replay;
mod problems;
