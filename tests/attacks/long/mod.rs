//! Attacks with a long duration: see `crate::long`.

use super::*;

mod floods;
mod replays;
