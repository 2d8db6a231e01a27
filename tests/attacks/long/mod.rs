//! Attacks that take long: see `crate::long`.

use super::*;

mod floods;
mod replays;
