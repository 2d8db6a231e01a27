//! What operators ask: each answers with a typed result that serialises, and prints nothing. The command line shows the results by
//! `operator::output`.

pub mod orders;
pub mod mask;
pub mod difference;
pub mod steps;
pub mod story;
pub mod events;
pub mod status;
pub mod log_check;
mod problems;
