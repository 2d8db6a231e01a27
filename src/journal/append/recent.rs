//! The latest ids on the log and where they stand.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
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
    /// Where an event stands that was sent within this window.
    pub(super) fn sequence(&self, id: EventId, window: Duration, now: Instant) -> Option<u64> {
        let window = window.min(crate::fault_injection::time("recent_ids", Duration::MAX));
        let place = self.places.get(&id)?;
        (now.saturating_duration_since(place.sent) < window).then_some(place.sequence)
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
    use uuid::Uuid;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(300);

    #[test]
    fn ids_are_known_for_as_long_as_the_log_knows_them() {
        let (mut recent, sent) = (Recent::default(), Instant::now());
        let id = EventId(Uuid::now_v7());
        recent.insert(id, 7, sent);
        let just_before = sent + WINDOW - Duration::from_millis(1);
        assert_eq!(recent.sequence(id, WINDOW, just_before), Some(7));
        assert_eq!(recent.sequence(id, WINDOW, sent + WINDOW), None);
        assert_eq!(
            recent.sequence(id, 2 * WINDOW, sent + WINDOW),
            Some(7),
            "the log knows it for longer"
        );
        recent.insert(id, 9, sent + WINDOW);
        assert_eq!(recent.sequence(id, WINDOW, sent + WINDOW), Some(9));
        assert_eq!(recent.order.len(), 1);
    }

    #[test]
    fn the_oldest_goes_first() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        let ids: Vec<_> = (0..=MAX_RECENT).map(|_| EventId(Uuid::new_v4())).collect();
        for (sequence, id) in (1..).zip(&ids) {
            recent.insert(*id, sequence, now);
        }
        assert_eq!(recent.sequence(ids[0], WINDOW, now), None);
        assert_eq!(recent.sequence(ids[1], WINDOW, now), Some(2));
        assert_eq!((recent.places.len(), recent.order.len()), (MAX_RECENT, MAX_RECENT));
    }
}
