//! What is seen from outside: [`logs`], [`metrics`], [`health`] and the [`trace_context`] that is passed on.

pub mod logs;
pub mod metrics;
pub mod health;
pub mod trace_context;
