//! Work that takes a processor for milliseconds before the caller is verified: decompressing a large body, and verifying one.
//! It runs apart from the threads that serve other requests, and little of it at a time: one piece at a time for all
//! strangers together, so that known addresses wait for one at most.

use std::{num::NonZeroUsize, sync::Arc, thread::available_parallelism, time::Duration};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{body::SenderClass, refusal::Reason};

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
pub struct HeavyPermit {
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
    pub async fn permit(&self, class: SenderClass) -> Result<HeavyPermit, Reason> {
        let permit = async {
            let of_strangers = match class {
                SenderClass::Stranger => Some(Arc::clone(&self.strangers).acquire_owned().await.ok()?),
                SenderClass::Known | SenderClass::Backend => None,
            };
            Some(HeavyPermit {
                _of_all: Arc::clone(&self.all).acquire_owned().await.ok()?,
                _of_strangers: of_strangers,
            })
        };
        let permit = tokio::time::timeout(MAX_WAIT, permit).await.ok().flatten();
        let outcome = if permit.is_some() { "done" } else { "refused" };
        metrics::counter!("heavy_work_total", "outcome" => outcome).increment(1);
        permit.ok_or(Reason::Overloaded)
    }
}

/// Does work while this thread's other tasks go on elsewhere.
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        // A runtime with one thread, as in unit tests, cannot move its other tasks.
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
        let first = heavy.permit(SenderClass::Stranger).await.unwrap();
        assert_eq!(
            heavy.permit(SenderClass::Stranger).await.unwrap_err(),
            Reason::Overloaded
        );
        let known = heavy.permit(SenderClass::Known).await.unwrap();
        assert_eq!(heavy.permit(SenderClass::Known).await.unwrap_err(), Reason::Overloaded);
        drop(first);
        assert!(heavy.permit(SenderClass::Stranger).await.is_ok());
        drop(known);
        assert_eq!(heavy.all.available_permits(), 2);
    }
}
