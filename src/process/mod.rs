//! What the operating system gives the process: [`descriptors`], [`memory`], the [`budget`] that follows from both, and
//! the service manager that is told how the hub is ([`notify`]).

pub mod descriptors;
pub mod memory;
pub mod budget;
pub mod notify;
pub mod watch;
