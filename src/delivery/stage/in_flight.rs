//! The events and lanes that an instance has in memory while it holds a stage, and the sources of more.

use std::{collections::HashMap, sync::Arc};

use async_nats::jetstream::consumer::PullConsumer;
use futures_util::future::BoxFuture;

use super::{
    Stage, attempt::TaskContext, delivery_gap::GapDetector, gauges::Gauges, handover::Freed,
    newer_version::NewerEvents, rebuild::Mends, recovery::OpenWork, work_queue::WorkQueue,
};
use crate::journal::{codec::OrderKey, pull::Messages};

/// The sources of work.
pub(super) struct WorkSources {
    pub(super) consumer: PullConsumer,
    pub(super) messages: Messages,
    pub(super) gauges: Gauges,
    /// Returns the lanes to repair once the log was read for that; never returns where no rebuild is needed.
    pub(super) rebuild: BoxFuture<'static, anyhow::Result<Mends>>,
}

/// The work in memory.
pub(super) struct InFlight {
    pub(super) queue: WorkQueue,
    pub(super) newer: NewerEvents,
    pub(super) gaps: GapDetector,
    /// Lanes that still have to be repaired.
    pub(super) mends: Option<Mends>,
    /// Events with requests under way on another instance, and their orders, which are held back.
    elsewhere: HashMap<u64, OrderKey>,
}

impl InFlight {
    /// The open work that was found at the takeover.
    pub(super) fn of<S: Stage>(open_work: OpenWork, context: &TaskContext) -> Self {
        let (mut queue, mut newer) = (WorkQueue::new(Arc::clone(&context.behind)), NewerEvents::default());
        open_work.elsewhere.values().for_each(|key| queue.hold_back(*key));
        for (sequence, event) in open_work.left {
            newer.leave(S::NAME, sequence, event);
        }
        for item in open_work.open {
            if !newer.holds_up(S::NAME, item.event.sequence, OrderKey::of(&item.event)) {
                queue.push(item);
            }
        }
        let gaps = GapDetector {
            last: open_work.handed_out,
            suspect: None,
        };
        Self {
            queue,
            newer,
            gaps,
            mends: None,
            elsewhere: open_work.elsewhere,
        }
    }

    /// Releases orders when another instance no longer has a request for their events.
    pub(super) fn release(&mut self, freed: Freed, context: &TaskContext) {
        context.note_ended(freed.ended);
        for event in freed.events {
            context.tenure.has_ended(event);
            let Some(key) = self.elsewhere.remove(&event) else {
                continue;
            };
            if !self.elsewhere.values().any(|other| *other == key) {
                self.queue.release(key);
            }
        }
    }
}
