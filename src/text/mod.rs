//! Formats of short texts: a [`duration`], one [`segment`] of a path, and enums of words (`word_list`).

pub mod duration;
pub mod segment;
mod word_list;

pub use self::duration::parse_duration;
pub(crate) use self::word_list::words;
