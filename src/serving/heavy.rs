//! Work that takes a processor for milliseconds before anybody has shown that it may ask for it: unpacking a large body, and
//! verifying one. It is kept from the threads that serve everybody else, and little of it is done at a time; one piece at a time
//! for all strangers together, so that those who are known wait for one at most.

use std::{num::NonZeroUsize, sync::Arc, thread::available_parallelism, time::Duration};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{body::Standing, refusal::Reason};

/// Longest wait for a turn; who waits for longer keeps the room of its body from others.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Bytes that are hashed at most where a request is handled, for all secrets together: some 0.3 ms of work. An order has a few
/// KB.
pub const AT_ONCE_BYTES: usize = 256 * 1024;

/// Turns for such work. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Heavy {
    all: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

/// A turn; the next one begins when it is dropped.
#[derive(Debug)]
pub struct Turn {
    _of_all: OwnedSemaphorePermit,
    _of_strangers: Option<OwnedSemaphorePermit>,
}

impl Default for Heavy {
    /// Half of the processors.
    fn default() -> Self {
        let processors = available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            all: Arc::new(Semaphore::new(processors.div_ceil(2))),
            strangers: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Heavy {
    /// Waits for a turn.
    ///
    /// # Errors
    /// [`Reason::Overloaded`] where it does not come in time.
    pub async fn turn(&self, standing: Standing) -> Result<Turn, Reason> {
        let turn = async {
            let of_strangers = match standing {
                Standing::Stranger => Some(Arc::clone(&self.strangers).acquire_owned().await.ok()?),
                Standing::Known | Standing::Backend => None,
            };
            Some(Turn {
                _of_all: Arc::clone(&self.all).acquire_owned().await.ok()?,
                _of_strangers: of_strangers,
            })
        };
        let turn = tokio::time::timeout(MAX_WAIT, turn).await.ok().flatten();
        let outcome = if turn.is_some() { "done" } else { "refused" };
        metrics::counter!("heavy_work_total", "outcome" => outcome).increment(1);
        turn.ok_or(Reason::Overloaded)
    }
}

/// Does work while this thread's other tasks go on elsewhere.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        // A runtime of one thread, as unit tests have it, has no other.
        RuntimeFlavor::CurrentThread => work(),
        _ => tokio::task::block_in_place(work),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn strangers_take_one_turn_at_a_time() {
        let heavy = Heavy {
            all: Arc::new(Semaphore::new(2)),
            strangers: Arc::new(Semaphore::new(1)),
        };
        let first = heavy.turn(Standing::Stranger).await.unwrap();
        assert_eq!(heavy.turn(Standing::Stranger).await.unwrap_err(), Reason::Overloaded);
        let known = heavy.turn(Standing::Known).await.unwrap();
        assert_eq!(heavy.turn(Standing::Known).await.unwrap_err(), Reason::Overloaded);
        drop(first);
        assert!(heavy.turn(Standing::Stranger).await.is_ok());
        drop(known);
        assert_eq!(heavy.all.available_permits(), 2);
    }
}
