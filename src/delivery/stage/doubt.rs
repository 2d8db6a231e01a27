//! Orders in doubt: orders with lanes that may be incomplete while lanes are rebuilt from the log (see [`super::rebuild`]).
//!
//! An event of such an order joins its order's lane, which is taken up once it is complete: so no event overtakes an older
//! one of its order, and no event is acknowledged that is not in a lane. All other orders go on. In memory, no I/O.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::journal::codec::OrderKey;

/// What a stage knows about an event without the lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Something older of its order may be open.
    Unknown,
    /// This event need not wait for what is older. What comes after it may have to.
    Passes,
    /// Nothing older of its order is open, so what comes after it follows it.
    Nothing,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Doubt(Mutex<DoubtState>);

#[derive(Debug, Default)]
struct DoubtState {
    /// The log is being read, so any order may have a lane that is missing.
    is_reading: bool,
    /// Orders in doubt: those with a lane that may be incomplete, and those with events that joined one meanwhile.
    orders: HashSet<OrderKey>,
    /// Orders of which it was seen that nothing older can be open.
    sure: HashSet<OrderKey>,
    /// Orders in doubt with a lane that became due meanwhile.
    due: HashSet<OrderKey>,
}

impl Doubt {
    /// These orders have lanes that may not be as they should be. `any`: and any order may lack one.
    pub(super) fn of(orders: HashSet<OrderKey>, any: bool) -> Self {
        Self(Mutex::new(DoubtState {
            is_reading: any,
            orders,
            ..DoubtState::default()
        }))
    }

    fn state(&self) -> MutexGuard<'_, DoubtState> {
        // No code panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an event of this order has to wait. `before`: what the stage knows of it.
    pub(super) fn holds(&self, order: OrderKey, before: impl FnOnce() -> Before) -> bool {
        let mut state = self.state();
        if state.orders.contains(&order) {
            return true;
        }
        if !state.is_reading || state.sure.contains(&order) {
            return false;
        }
        match before() {
            Before::Unknown => state.orders.insert(order),
            Before::Passes => false,
            Before::Nothing => !state.sure.insert(order),
        }
    }

    /// Whether the lane of an order, which is due, is not to be taken up now; it is given back by [`Self::read`] or
    /// [`Self::mended`].
    pub(super) fn puts_off(&self, order: OrderKey) -> bool {
        let mut state = self.state();
        let is_in_doubt = state.orders.contains(&order);
        if is_in_doubt {
            state.due.insert(order);
        }
        is_in_doubt
    }

    /// The log was read: only these orders are in doubt still. Returns those with lanes that may be taken up.
    pub(super) fn read(&self, orders: HashSet<OrderKey>) -> Vec<OrderKey> {
        let mut state = self.state();
        (state.is_reading, state.sure) = (false, HashSet::new());
        state.orders = orders;
        let due = std::mem::take(&mut state.due);
        let (due, free): (HashSet<_>, HashSet<_>) = due.into_iter().partition(|order| state.orders.contains(order));
        state.due = due;
        free.into_iter().collect()
    }

    /// The lane of an order is as it should be. Returns whether it may be taken up at once.
    pub(super) fn mended(&self, order: OrderKey) -> bool {
        let mut state = self.state();
        state.orders.remove(&order);
        state.due.remove(&order)
    }

    /// Whether nothing is in doubt.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state();
        !state.is_reading && state.orders.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::{Before::*, *};

    fn key(order: &str) -> OrderKey {
        OrderKey::new("careem", order)
    }

    #[test]
    fn only_events_with_possible_predecessors_wait() {
        let doubt = Doubt::of(HashSet::from([key("lane")]), true);
        assert!(doubt.holds(key("lane"), || Nothing), "its lane may be an old one");
        assert!(doubt.holds(key("old"), || Unknown) && !doubt.holds(key("new"), || Nothing));
        assert!(!doubt.holds(key("new"), || Unknown), "what follows in its order");
        assert!(doubt.holds(key("old"), || Nothing), "what follows what waits");
        assert!(doubt.puts_off(key("old")) && doubt.puts_off(key("lane")) && !doubt.puts_off(key("new")));
        assert_eq!(doubt.read(HashSet::from([key("lane"), key("lost")])), [key("old")]);
        assert!(!doubt.holds(key("old"), || Unknown) && !doubt.holds(key("other"), || Unknown));
        assert!(doubt.holds(key("lost"), || Nothing) && !doubt.is_over());
        assert!(doubt.mended(key("lane")) && !doubt.mended(key("lost")));
        assert!(doubt.is_over() && !doubt.holds(key("lost"), || Unknown) && !doubt.puts_off(key("lane")));
    }

    /// An announcement of an order that may have been announced before: news of it wait, and so does what follows them.
    #[test]
    fn a_passing_event_does_not_let_later_ones_pass() {
        let doubt = Doubt::of(HashSet::new(), true);
        assert!(!doubt.holds(key("again"), || Passes) && !doubt.holds(key("again"), || Passes));
        assert!(!doubt.puts_off(key("again")));
        assert!(doubt.holds(key("again"), || Unknown) && doubt.holds(key("again"), || Passes));
    }

    #[test]
    fn orders_without_missing_lanes_go_on() {
        let doubt = Doubt::of(HashSet::from([key("lane")]), false);
        assert!(doubt.holds(key("lane"), || Nothing) && !doubt.holds(key("other"), || Unknown));
        assert!(!doubt.is_over() && Doubt::default().is_over());
    }
}
