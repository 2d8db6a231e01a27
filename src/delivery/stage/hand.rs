//! What an instance has in hand while it works on a stage, and where more comes from.

use std::collections::HashMap;

use async_nats::jetstream::consumer::PullConsumer;
use futures_util::future::BoxFuture;

use super::{
    Stage, attempt::Ground, gauges::Gauges, handover::Freed, held::Held, left::Left, rebuild::Mends,
    recovery::Unsettled, stray::Stray,
};
use crate::journal::{codec::OrderKey, pull::Messages};

/// Where work comes from.
pub(super) struct Sources {
    pub(super) consumer: PullConsumer,
    pub(super) messages: Messages,
    pub(super) gauges: Gauges,
    /// Says which lanes are to be mended, when the log was read for that; once, or never where it need not be.
    pub(super) rebuild: BoxFuture<'static, anyhow::Result<Mends>>,
}

/// What an instance has in hand.
pub(super) struct Hand {
    pub(super) held: Held,
    pub(super) left: Left,
    pub(super) stray: Stray,
    /// Lanes that are to be mended yet.
    pub(super) mends: Option<Mends>,
    /// Events that another instance is still asking about, and their orders, which are held back.
    elsewhere: HashMap<u64, OrderKey>,
}

impl Hand {
    /// What was found when the stage was taken over.
    pub(super) fn of<S: Stage>(unsettled: Unsettled) -> Self {
        let (mut held, mut left) = (Held::new(), Left::default());
        unsettled.elsewhere.values().for_each(|key| held.hold_back(*key));
        for (sequence, newer) in unsettled.left {
            left.leave(S::NAME, sequence, newer);
        }
        for item in unsettled.open {
            if !left.holds_up(S::NAME, item.event.sequence, OrderKey::of(&item.event)) {
                held.push(item);
            }
        }
        let stray = Stray {
            last: unsettled.handed_out,
            suspect: None,
        };
        Self {
            held,
            left,
            stray,
            mends: None,
            elsewhere: unsettled.elsewhere,
        }
    }

    /// Lets orders go on whose events another instance does not ask about any more.
    pub(super) fn release(&mut self, freed: Freed, ground: &Ground) {
        ground.note_ended(freed.ended);
        for event in freed.events {
            ground.tenure.has_ended(event);
            let Some(key) = self.elsewhere.remove(&event) else {
                continue;
            };
            if !self.elsewhere.values().any(|other| *other == key) {
                self.held.release(key);
            }
        }
    }
}
