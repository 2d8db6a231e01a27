//! HTTP serving: what all routes of the public port share.
//!
//! [`server`] serves the connections that its listener accepts (no more than there are descriptors for), [`connections`]
//! decides which stay open, [`certificate`] is the listener's certificate. [`client_ip`] finds the client's address,
//! [`limit`] its rate limits, [`body`] reads a body within its limits, [`heavy`] queues work that takes long. [`refusal`] is
//! the answer to a refused request, [`audit`] records it, `request_id` names a request, `paths` handles paths without a
//! route.

pub mod server;
mod listening;
mod placing;
mod waiting;
mod layer;
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
