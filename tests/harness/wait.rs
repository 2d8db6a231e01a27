//! Waiting for a position instead of for time.

use std::{fmt::Debug, time::Duration};

use tokio::time::{Instant, sleep};

/// Long enough for anything that will happen at all, on a slow and busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// Looks until `look` returns what was waited for; fails with what it saw last.
pub(crate) async fn eventually<T, S: Debug>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Result<T, S>) -> T {
    let deadline = Instant::now() + within;
    loop {
        // A look may itself hang, on a server that is paused.
        let seen = match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(seen)) => Some(seen),
            Err(_) => None,
        };
        match seen {
            Some(seen) if Instant::now() >= deadline => panic!("{what}: not within {within:?}; last seen: {seen:#?}"),
            None => panic!("{what}: not within {within:?}; the last look did not end"),
            Some(_) => sleep(POLL).await,
        }
    }
}
