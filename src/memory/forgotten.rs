//! Orders that the memory has forgotten. A retry may come at any time while the webhook is on the log, and a webhook may wait behind an
//! outage for longer than the memory reaches; they must end as they would have ended while the memory had the order. So the log is read
//! for what became of the order.

use chrono::{DateTime, Utc};

use super::{OrderEvents, Orders, index::Index, lock, settle};
use crate::{
    delivery::superseded,
    event::{EventType, Recorded, outcome::Ignored},
    journal::codec,
};

/// The events that say what became of an order. The bodies themselves are large, and only read where one is needed.
const ENDS: [EventType; 3] = [
    EventType::OrderForwarded,
    EventType::OrderDeadLettered,
    EventType::OrderIgnored,
];

impl Orders {
    /// The known events of an event's order. Where the event is taken up so late that the memory may have forgotten some, they are read
    /// from the log: all outcomes from the window before the event's acceptance up to now.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(crate) async fn history(&self, event: &Recorded) -> anyhow::Result<OrderEvents> {
        let mut known = self.known(event);
        let since = event.envelope.received_at - self.window;
        if lock(&self.index).complete_since <= since {
            return Ok(known);
        }
        let ends = self.ends(event, since).await?;
        let mut forgotten = lock(&self.index).alike();
        ends.iter().for_each(|end| note(&mut forgotten, end));
        let order = forgotten.prints_of(&event.envelope).order;
        known.add(forgotten.of(order));
        Ok(known)
    }

    /// The outcomes about an event's order since a time, in the log's order.
    async fn ends(&self, event: &Recorded, since: DateTime<Utc>) -> anyhow::Result<Vec<Recorded>> {
        let start = superseded::from(since);
        let branch = superseded::branch_token(event);
        let mut ends = Vec::new();
        let of_branch = ENDS.map(|event_type| superseded::subjects(event, event_type, &branch));
        // Webhooks with a branch that was not found, or that could not be read.
        let without_branch = [EventType::OrderDeadLettered, EventType::OrderRejected]
            .map(|event_type| superseded::subjects(event, event_type, &codec::token("")));
        for subjects in of_branch.into_iter().chain(without_branch) {
            let about = (subjects, start);
            ends.extend(superseded::find(&self.connection, Some(&self.searches), event, about, |_| true).await?);
        }
        ends.sort_unstable_by_key(|end| end.sequence);
        Ok(ends)
    }
}

/// Notes an outcome, and what it is about.
fn note(index: &mut Index, end: &Recorded) {
    let envelope = &end.envelope;
    // Only a body that `forward` ended as a duplicate has a place there; its entry is settled below.
    let duplicate = (envelope.event_type == EventType::OrderIgnored)
        .then(|| serde_json::from_slice::<Ignored>(&end.payload).ok()?.sequence)
        .flatten();
    if let Some(sequence) = duplicate {
        let open = super::body_state(envelope);
        index.put(index.prints_of(envelope), sequence, open, envelope.time);
    }
    settle(index, envelope, &end.payload, end.sequence);
}
