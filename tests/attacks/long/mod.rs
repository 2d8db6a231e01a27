//! Attacks with a long duration: see `crate::long`.

use super::*;

mod crowds;
mod floods;
mod replays;
