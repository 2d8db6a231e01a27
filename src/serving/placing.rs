//! The order in which accepted connections get their places.
//!
//! To give a connection its place, and to end another one for it, takes several times as long as to accept it. So the listener accepts
//! what waits in the system's queue first, and the connections get their places one by one, in the order in which they came. One whose
//! opening is there gets its place at once: a client that sends its request does not wait behind a burst of connections that say nothing.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

use super::connections::{ConnectionSlot, Connections};

/// The connections of a port that have no place yet.
pub(super) struct Placing {
    connections: Arc<Connections>,
    queue: Mutex<VecDeque<Arc<Turn>>>,
}

/// The turn of a connection, shared with its place in the queue.
struct Turn {
    address: IpAddr,
    state: Mutex<State>,
    /// Wakes the task that waits for the end of the connection, because it has to wait for the end of the place from now on.
    waiter: AtomicWaker,
}

/// What became of it.
enum State {
    Waiting,
    Placed(ConnectionSlot),
    /// It got no place, or the connection needs it no longer.
    Over,
}

/// A connection's right to a place. Without it, its turn is over.
pub(super) struct PlaceTicket(Arc<Turn>);

impl Placing {
    pub(super) const fn new(connections: Arc<Connections>) -> Self {
        Self {
            connections,
            queue: Mutex::new(VecDeque::new()),
        }
    }

    /// How many wait for their turn, or had it before because they did not need to wait.
    pub(super) fn len(&self) -> usize {
        self.queue().len()
    }

    /// A place for a connection of this address at once; none if it gets none, which is counted.
    pub(super) fn place(&self, address: IpAddr) -> Option<ConnectionSlot> {
        self.connections.open(address).ok()
    }

    /// The turn of a connection of this address, behind those of all others.
    pub(super) fn wait(&self, address: IpAddr) -> PlaceTicket {
        let turn = Arc::new(Turn {
            address,
            state: Mutex::new(State::Waiting),
            waiter: AtomicWaker::new(),
        });
        self.queue().push_back(Arc::clone(&turn));
        PlaceTicket(turn)
    }

    /// Whether none waits for its turn.
    pub(super) fn is_empty(&self) -> bool {
        self.queue().is_empty()
    }

    /// Gives the next connection its place.
    pub(super) fn place_next(&self) {
        while let Some(turn) = self.queue().pop_front() {
            if matches!(*turn.state(), State::Waiting) {
                let place = self.place(turn.address);
                *turn.state() = place.map_or(State::Over, State::Placed);
                turn.waiter.wake();
                return;
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Arc<Turn>>> {
        // Taken by one task only, like the states.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PlaceTicket {
    /// Ready when the connection has to end: it gets no place, or a newer one took it.
    pub(super) fn poll_end(&self, context: &Context<'_>) -> Poll<()> {
        match &*self.0.state() {
            State::Waiting => {
                self.0.waiter.register(context.waker());
                Poll::Pending
            }
            State::Placed(place) => place.poll_end(context),
            State::Over => Poll::Ready(()),
        }
    }

    /// The place, before its turn if that has not come yet; none if it gets none.
    pub(super) fn take(self, placing: &Placing) -> Option<ConnectionSlot> {
        let state = std::mem::replace(&mut *self.0.state(), State::Over);
        match state {
            State::Waiting => placing.place(self.0.address),
            State::Placed(place) => Some(place),
            State::Over => None,
        }
    }
}

impl Drop for PlaceTicket {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.0.state(), State::Over);
        drop(state);
    }
}
