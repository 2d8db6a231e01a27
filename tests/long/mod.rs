//! Tests that take long by their nature: servers that are away for minutes, thousands of orders, a crowd of connections.
//!
//! `make test` leaves out every test with `long::` in its path, here and in the files of other hazards; `make test-long` runs
//! these alone.

mod cluster;
mod identity_random;
mod log_identity;
mod long_night;
mod power_cut;
mod random_run;
mod wire_cut;
