//! The operating system's side of the process: [`descriptors`], [`memory`], the service manager ([`notify`]), and the signal
//! on which files are read again ([`look_again`]).

pub mod descriptors;
pub mod memory;
pub mod notify;
pub mod look_again;
