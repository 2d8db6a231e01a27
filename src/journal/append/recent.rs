//! Recently appended ids: one of them in a batch would make the server refuse the batch.

use std::collections::{HashSet, VecDeque};

use crate::event::EventId;

/// Ids of the latest events that this instance appended: one known id in a batch and the server refuses the whole. About 3 MB.
const MAX_RECENT: usize = 32_768;

/// Ids that this instance appended; the oldest goes first. It is no answer to a caller: the log may have gone back or be another one since,
/// so only the server says whether an event is there. It says which events go by themselves instead of in a batch.
#[derive(Debug, Default)]
pub(super) struct Recent {
    ids: HashSet<EventId>,
    order: VecDeque<EventId>,
}

impl Recent {
    /// Whether an event may be on the log already.
    pub(super) fn holds(&self, id: EventId) -> bool {
        self.ids.contains(&id)
    }

    pub(super) fn insert(&mut self, id: EventId) {
        if !self.ids.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > MAX_RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_oldest_goes_first() {
        let mut recent = Recent::default();
        let ids: Vec<_> = (0..=MAX_RECENT).map(|_| EventId(Uuid::new_v4())).collect();
        for id in ids.iter().chain(&ids[1..]) {
            recent.insert(*id);
        }
        assert!(!recent.holds(ids[0]) && ids[1..].iter().all(|id| recent.holds(*id)));
        assert_eq!((recent.ids.len(), recent.order.len()), (MAX_RECENT, MAX_RECENT));
    }
}
