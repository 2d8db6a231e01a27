//! Serving HTTP: what the public port's routes share, whoever answers them.
//!
//! [`server`] serves what its listener accepts (no more than there are descriptors for), [`connections`] says which connections stay open, [`certificate`] is
//! the listener's own. [`client_ip`] says who calls, [`limit`] whether that is too much, [`body`] reads a body within its limits, [`heavy`] hands out turns for
//! what takes long. [`refusal`] is what a refused request is answered, [`audit`] takes note of it, `request_id` names a request, `paths` is for what no route takes.

pub mod server;
mod listening;
mod strict;
pub mod connections;
pub mod certificate;
pub mod client_ip;
pub(crate) mod request_id;
pub mod limit;
pub mod body;
pub mod heavy;
pub mod refusal;
pub mod audit;
pub(crate) mod paths;
