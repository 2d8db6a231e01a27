//! Rounds during which the CPU kept its speed: only these count. A round in which it did not is taken again.
//!
//! The speed of a virtual machine moves within seconds, whatever runs on it. A long run in which it never moves is rare, but each round only
//! compares what was measured within it.

use super::{
    statistics::MAY_MOVE,
    yardstick::{Yardstick, movement},
};

/// How many rounds are taken at most for each that is wanted.
const TRIES: usize = 4;

/// The rounds of one part of a run; see the module.
#[derive(Debug)]
pub(crate) struct Rounds {
    wanted: usize,
    taken: usize,
    /// Of the round that goes on.
    looks: Vec<Yardstick>,
    /// Looks of the rounds that count, round by round.
    counted: Vec<Vec<Yardstick>>,
}

impl Rounds {
    /// None taken yet; `before`: the CPU's speed now.
    pub(crate) fn new(wanted: usize, before: Yardstick) -> Self {
        Self {
            wanted,
            taken: 0,
            looks: vec![before],
            counted: Vec::new(),
        }
    }

    /// Whether another one is to be taken.
    pub(crate) fn are_due(&self) -> bool {
        self.counted.len() < self.wanted && self.taken < self.wanted * TRIES
    }

    /// How many count so far.
    pub(crate) fn counted(&self) -> usize {
        self.counted.len()
    }

    /// The CPU's speed in the middle of a round.
    pub(crate) fn look(&mut self, look: Yardstick) {
        self.looks.push(look);
    }

    /// A round ended with this speed, at which the next one begins. Whether it counts.
    pub(crate) fn end(&mut self, look: Yardstick) -> bool {
        self.taken += 1;
        self.looks.push(look);
        let looks = std::mem::replace(&mut self.looks, vec![look]);
        let is_steady = movement(&looks) <= MAY_MOVE;
        if is_steady {
            self.counted.push(looks);
        }
        is_steady
    }

    /// How many were left out.
    pub(crate) fn left_out(&self) -> usize {
        self.taken - self.counted.len()
    }

    /// Whether as many count as were wanted.
    pub(crate) fn are_enough(&self) -> bool {
        self.counted.len() >= self.wanted
    }

    /// The looks of the rounds that count.
    pub(crate) fn into_looks(self) -> Vec<Yardstick> {
        self.counted.into_iter().flatten().collect()
    }
}
