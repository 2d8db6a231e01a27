//! Formats of short texts: a [`duration`], and one [`segment`] of a path.

pub mod duration;
pub mod segment;

pub use self::duration::parse_duration;
