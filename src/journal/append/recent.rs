//! The latest ids on the log and where they stand.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::event::EventId;

/// Ids of the latest events that are known to be on the log: a provider's quick repeat is answered without asking the
/// server, and cannot spoil a batch (one known id in it and the server refuses the whole). About 4 MB.
const MAX_RECENT: usize = 32_768;

/// Ids that this instance appended, no longer than the log itself knows them: afterwards a repeat must be told the same
/// here as by an instance that has to ask the log. The oldest goes first.
#[derive(Debug, Default)]
pub(super) struct Recent {
    places: HashMap<EventId, Place>,
    order: VecDeque<EventId>,
}

#[derive(Debug)]
struct Place {
    sequence: u64,
    /// When it was sent, which is before the log's own time of it.
    sent: Instant,
}

impl Recent {
    /// Where an event stands that was sent since then; none: at any time.
    pub(super) fn sequence(&self, id: EventId, since: Option<Instant>) -> Option<u64> {
        let place = self.places.get(&id)?;
        since.is_none_or(|since| place.sent > since).then_some(place.sequence)
    }

    pub(super) fn insert(&mut self, id: EventId, sequence: u64, sent: Instant) {
        if self.places.insert(id, Place { sequence, sent }).is_some() {
            // It was forgotten by the log, and taken anew.
            self.order.retain(|known| *known != id);
        }
        self.order.push_back(id);
        if self.order.len() > MAX_RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.places.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn ids_are_known_for_as_long_as_the_log_knows_them() {
        let (mut recent, sent) = (Recent::default(), Instant::now());
        let id = EventId(Uuid::now_v7());
        let after = |ms: u64| Some(sent + Duration::from_millis(ms));
        recent.insert(id, 7, sent);
        assert_eq!(recent.sequence(id, None), Some(7));
        assert_eq!(recent.sequence(id, sent.checked_sub(Duration::from_millis(1))), Some(7));
        assert_eq!(recent.sequence(id, Some(sent)), None, "the log has forgotten it");
        recent.insert(id, 9, sent + Duration::from_millis(2));
        assert_eq!(recent.sequence(id, after(1)), Some(9));
        assert_eq!(recent.sequence(id, after(2)), None);
        assert_eq!(recent.order.len(), 1);
    }

    #[test]
    fn the_oldest_goes_first() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        let ids: Vec<_> = (0..=MAX_RECENT).map(|_| EventId(Uuid::new_v4())).collect();
        for (sequence, id) in (1..).zip(&ids) {
            recent.insert(*id, sequence, now);
        }
        assert_eq!(recent.sequence(ids[0], None), None);
        assert_eq!(recent.sequence(ids[1], None), Some(2));
        assert_eq!((recent.places.len(), recent.order.len()), (MAX_RECENT, MAX_RECENT));
    }
}
