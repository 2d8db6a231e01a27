//! Panics: where each one began, and a guard for code that handles one event.
//!
//! A panic's message may quote the event, so it is neither logged nor recorded; the location, a line of source code, is
//! enough to find it.

use std::{cell::RefCell, panic::AssertUnwindSafe};

use futures_util::FutureExt as _;

thread_local! {
    /// Where the last panic of this thread began.
    static LAST_PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A panic that was caught.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the code panicked at {place}")]
pub struct Panicked {
    /// `file:line:column`; empty if [`install_hook`] was not called.
    pub place: String,
}

/// Makes every panic of this process log its place, and keep it for [`catch`].
pub fn install_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic");
        LAST_PLACE.with_borrow_mut(|last| *last = place);
    }));
}

/// Runs a future and catches its panic, which is counted in `panics_total{stage}`.
///
/// What the future borrows is used again after a panic: it must hold no state that is broken half-way. Locks are taken with
/// `PoisonError::into_inner` throughout, and everything that a handler reserves is given back by `Drop`.
///
/// # Errors
/// [`Panicked`] where it panicked.
pub async fn catch<T>(stage: &'static str, future: impl Future<Output = T>) -> Result<T, Panicked> {
    let caught = AssertUnwindSafe(future).catch_unwind().await;
    caught.map_err(|_message| {
        metrics::counter!("panics_total", "stage" => stage).increment(1);
        // The future panicked in this poll, so the place was recorded on this thread.
        Panicked {
            place: LAST_PLACE.take(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_caught_where_it_happens_and_nowhere_else() {
        assert_eq!(catch("test", async { 7 }).await, Ok(7));
        let panics = async {
            tokio::task::yield_now().await;
            assert!(std::hint::black_box(false), "secret");
        };
        let panicked = catch("test", panics).await.unwrap_err();
        assert!(!panicked.to_string().contains("secret"), "{panicked}");
    }
}
