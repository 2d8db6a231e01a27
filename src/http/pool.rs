//! Idle connections, kept for the next request.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{connection::HttpConnection, target::Origin};

/// How long an idle connection is kept.
const IDLE_FOR: Duration = Duration::from_secs(90);
/// How often idle connections are looked at, so that those which the other side has closed are closed here.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Idle connections, those that were used last at the end.
pub(super) struct Pool {
    most: usize,
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    idle: Vec<Idle>,
    /// A task looks at them.
    is_watched: bool,
}

struct Idle {
    origin: Arc<Origin>,
    since: Instant,
    connection: HttpConnection,
}

impl Pool {
    /// An empty one that keeps at most so many.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            state: Mutex::default(),
        }
    }

    /// An open connection to there; none if none is kept.
    pub(super) fn take(&self, origin: &Arc<Origin>) -> Option<HttpConnection> {
        loop {
            let mut found = {
                let mut state = self.lock();
                let at = state
                    .idle
                    .iter()
                    .rposition(|idle| Arc::ptr_eq(&idle.origin, origin) || idle.origin == *origin)?;
                state.idle.remove(at)
            };
            if found.since.elapsed() < IDLE_FOR && found.connection.is_idle() {
                return Some(found.connection);
            }
        }
    }

    /// Keeps a connection after its last answer was read to its end; closes any other.
    pub(super) fn keep(self: &Arc<Self>, origin: &Arc<Origin>, mut connection: HttpConnection) {
        if !connection.is_idle() {
            return;
        }
        let idle = Idle {
            origin: Arc::clone(origin),
            since: Instant::now(),
            connection,
        };
        let mut state = self.lock();
        // Dropped, and so closed, after the lock is released.
        let _oldest = (state.idle.len() >= self.most && !state.idle.is_empty()).then(|| state.idle.remove(0));
        state.idle.push(idle);
        if !state.is_watched {
            state.is_watched = true;
            self.watch();
        }
        drop(state);
    }

    /// Looks at idle connections until there are none, or no client.
    fn watch(self: &Arc<Self>) {
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let Some(pool) = pool.upgrade() else { return };
                if pool.look() {
                    return;
                }
            }
        });
    }

    /// Closes what is closed on the other side or was not used for long. Whether none is left; then the watching task ends.
    pub(super) fn look(&self) -> bool {
        let mut state = self.lock();
        state
            .idle
            .retain_mut(|idle| idle.since.elapsed() < IDLE_FOR && idle.connection.is_idle());
        state.is_watched = !state.idle.is_empty();
        !state.is_watched
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        // No code panics while it holds this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
