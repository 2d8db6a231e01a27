//! Waits for conditions instead of for time.

use std::{fmt::Debug, time::Duration};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep},
};

/// Long enough for anything that happens by itself, on a slow and busy machine too, and shorter than the half minute after
/// which NATS hands out a message again: an order that only came through because of that was stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(28);
/// How often it is looked at first.
pub(crate) const POLL: Duration = Duration::from_millis(10);
/// How often it is looked after a while: what takes seconds is not found out much later, and tests run beside each other.
const POLL_LATER: Duration = Duration::from_millis(50);

/// Tests that take all of a machine, such as floods: so many at a time, or one is an attack on the other.
static HEAVY: Semaphore = Semaphore::const_new(2);

/// Waits for its turn among those; it lasts for as long as this is kept.
pub(crate) async fn heavy() -> SemaphorePermit<'static> {
    HEAVY.acquire().await.expect("it is never closed")
}

/// Looks until `look` returns what was waited for; fails with what it saw last.
pub(crate) async fn eventually<T, S: Debug>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let deadline = Instant::now() + within;
    let mut last = None;
    let mut pause = POLL;
    while Instant::now() < deadline {
        // A look may itself hang, on a server that is paused.
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(seen)) => last = Some(seen),
            Err(_) => break,
        }
        sleep(pause).await;
        pause = (pause + POLL / 10).min(POLL_LATER);
    }
    panic!("{what}: not within {within:?}; last seen: {last:#?}");
}
