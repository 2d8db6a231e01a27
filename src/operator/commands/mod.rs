//! What the commands of operators do where they act. Each returns a typed, serialisable result and prints nothing; the commands print
//! it with `operator::output`.

pub mod replay_elsewhere;
pub mod replay_forward;
