//! Formats of short texts, whoever wrote them: a [`duration`], one [`segment`] of a path.

pub mod duration;
pub mod segment;

pub use self::duration::parse_duration;
