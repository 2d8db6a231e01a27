//! Events of a newer version: they are left to an instance of that version, with all later events of their orders.
//!
//! They are not acknowledged, so the consumer delivers them again every two minutes (`ack_wait`), and the next instance that
//! takes the stage over finds them open. They do not count against the queue's limit. The consumer's `max_ack_pending` limits
//! their number; when it is reached, nothing new is delivered until an instance of the newer version works.

use std::collections::{HashMap, HashSet};

use crate::journal::codec::{Newer, OrderKey};

/// Different reasons that are logged; of a hundred more the first says enough.
const MAX_REASONS: usize = 16;

/// The events that an instance has left to a newer version.
#[derive(Debug, Default)]
pub(super) struct NewerEvents {
    sequences: HashSet<u64>,
    /// Their orders, each with the first of them, which later events must not overtake.
    orders: HashMap<OrderKey, u64>,
    reasons: HashSet<String>,
}

impl NewerEvents {
    /// Leaves an event of a newer version; says so where that is news.
    pub(super) fn leave(&mut self, stage: &'static str, sequence: u64, newer: Newer) {
        if !self.sequences.insert(sequence) {
            return;
        }
        metrics::counter!("events_left_total", "stage" => stage).increment(1);
        if let Some(order) = newer.order {
            let first = self.orders.entry(order).or_insert(sequence);
            *first = sequence.min(*first);
        }
        if self.reasons.len() < MAX_REASONS && self.reasons.insert(newer.what.clone()) {
            tracing::error!(
                stage,
                sequence,
                what = newer.what,
                "an event of a newer version is left to an instance of that version; its order waits"
            );
        }
    }

    /// Whether an event comes after one of its order that was left, and so is left as well.
    pub(super) fn holds_up(&mut self, stage: &'static str, sequence: u64, order: OrderKey) -> bool {
        let holds_up = self.orders.get(&order).is_some_and(|first| *first < sequence);
        if holds_up && self.sequences.insert(sequence) {
            metrics::counter!("events_left_total", "stage" => stage).increment(1);
        }
        holds_up
    }
}
