//! What tests may change in a debug build: constants that take effect only after minutes, and points at which the process ends.
//!
//! A release build compiles [`time`] to its second argument, [`crash_at`] and [`panic_at`] to nothing, and
//! [`is_unknown`] to false. A debug build reads these variables of the environment once:
//!
//! - `HUB_TEST_TIMES=lease=400ms,ended_lane=2s` replaces the constants of these names;
//! - `HUB_TEST_CRASH_AT=after_outcome` or `after_outcome:3` ends the process, as SIGKILL would, when that point is reached
//!   for the first or third time; `HUB_TEST_STOP_AT` stops it there, as SIGSTOP would;
//! - `HUB_TEST_PANIC_AT=transform:CR-1,forward:CR-2` panics each time that the point is reached with this key;
//! - `HUB_TEST_UNKNOWN_TYPES=order.fetched` makes this instance behave like an older version that does not know these types of
//!   events.

use std::time::Duration;

#[cfg(debug_assertions)]
mod active {
    use std::{
        collections::HashMap,
        sync::{
            LazyLock,
            atomic::{AtomicU32, Ordering},
        },
        time::Duration,
    };

    use crate::text::parse_duration;

    static TIMES: LazyLock<HashMap<String, Duration>> = LazyLock::new(|| {
        let text = std::env::var("HUB_TEST_TIMES").unwrap_or_default();
        let pairs = text.split(',').filter(|pair| !pair.is_empty());
        let read = |pair: &str| {
            let (name, value) = pair.split_once('=').expect("HUB_TEST_TIMES: name=duration");
            (
                name.to_owned(),
                parse_duration(value).expect("HUB_TEST_TIMES: a duration"),
            )
        };
        pairs.map(read).collect()
    });

    /// A point, and how many times it is reached until something happens there.
    struct Point(String, AtomicU32);

    impl Point {
        fn of(variable: &str) -> Option<Self> {
            let text = std::env::var(variable).ok()?;
            let (point, count) = text.split_once(':').unwrap_or((&text, "1"));
            let count = count.parse().expect("HUB_TEST_…_AT: point or point:count");
            Some(Self(point.to_owned(), AtomicU32::new(count)))
        }

        fn is_reached(&self, point: &str) -> bool {
            self.0 == point && self.1.fetch_sub(1, Ordering::SeqCst) == 1
        }
    }

    /// Where the process ends.
    static CRASH: LazyLock<Option<Point>> = LazyLock::new(|| Point::of("HUB_TEST_CRASH_AT"));
    /// Where it stops, as by SIGSTOP, until it gets SIGCONT.
    static STOP: LazyLock<Option<Point>> = LazyLock::new(|| Point::of("HUB_TEST_STOP_AT"));

    /// Points and keys at which the thread panics.
    static PANICS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
        let text = std::env::var("HUB_TEST_PANIC_AT").unwrap_or_default();
        let pairs = text.split(',').filter(|pair| !pair.is_empty());
        let read = |pair: &str| {
            let (point, key) = pair.split_once(':').expect("HUB_TEST_PANIC_AT: point:key");
            (point.to_owned(), key.to_owned())
        };
        pairs.map(read).collect()
    });

    static UNKNOWN: LazyLock<Vec<String>> = LazyLock::new(|| {
        let text = std::env::var("HUB_TEST_UNKNOWN_TYPES").unwrap_or_default();
        text.split(',').map(str::to_owned).collect()
    });

    pub(super) fn is_unknown(event_type: &str) -> bool {
        UNKNOWN.iter().any(|unknown| unknown == event_type)
    }

    pub(super) fn panic_at(point: &str, key: &str) {
        let is_wanted = PANICS.iter().any(|(wanted, of)| wanted == point && of == key);
        assert!(!is_wanted, "HUB_TEST_PANIC_AT wants a panic at {point} for {key}");
    }

    pub(super) fn time(name: &str, regular: Duration) -> Duration {
        TIMES.get(name).copied().unwrap_or(regular)
    }

    pub(super) fn crash_at(point: &str) {
        if CRASH.as_ref().is_some_and(|crash| crash.is_reached(point)) {
            // As with SIGKILL, no destructor runs and no buffer is flushed.
            std::process::abort();
        }
        if STOP.as_ref().is_some_and(|stop| stop.is_reached(point)) {
            let itself = rustix::process::getpid();
            rustix::process::kill_process(itself, rustix::process::Signal::STOP).expect("a process may stop itself");
            // Another thread may take the signal, and this one runs until then.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// A constant, or what a hazard test replaces it with. `name` is the constant's, in lower case.
#[inline]
pub fn time(name: &str, regular: Duration) -> Duration {
    #[cfg(debug_assertions)]
    return active::time(name, regular);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        regular
    }
}

/// A point at which a hazard test may end or stop the process. `point` says what has just happened.
#[inline]
pub fn crash_at(point: &str) {
    #[cfg(debug_assertions)]
    active::crash_at(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}

/// As [`crash_at`], for a point that every stage reaches: `HUB_TEST_CRASH_AT=forward/after_outcome`.
#[inline]
pub fn crash_stage_at(stage: &str, point: &str) {
    #[cfg(debug_assertions)]
    active::crash_at(&format!("{stage}/{point}"));
    #[cfg(not(debug_assertions))]
    let _ = (stage, point);
}

/// A point at which a hazard test may make the code panic. `key` says what is being handled: an order's id.
#[inline]
pub fn panic_at(point: &str, key: &str) {
    #[cfg(debug_assertions)]
    active::panic_at(point, key);
    #[cfg(not(debug_assertions))]
    let _ = (point, key);
}

/// Whether a hazard test wants this instance not to know a type of event.
#[inline]
pub fn is_unknown(event_type: &str) -> bool {
    #[cfg(debug_assertions)]
    return active::is_unknown(event_type);
    #[cfg(not(debug_assertions))]
    {
        let _ = event_type;
        false
    }
}
