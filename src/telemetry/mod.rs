//! What is seen from outside: [`logs`], [`metrics`], [`health`] and the [`trace_context`] that is passed on; [`panics`].

pub mod logs;
pub mod metrics;
pub mod health;
pub mod trace_context;
pub mod panics;
