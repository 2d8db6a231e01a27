//! What the operating system gives the process: [`descriptors`], [`memory`], the service manager that is told how the hub is ([`notify`]), and the signal by
//! which files are looked at again ([`look_again`]).

pub mod descriptors;
pub mod memory;
pub mod notify;
pub mod look_again;
