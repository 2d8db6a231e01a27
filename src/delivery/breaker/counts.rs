//! What the breaker counts while it is closed: of one branch ([`Counts`]), and of all ([`SharedCounts`]).

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// How far the share of failures looks back: three times the contract's time limit of a request. Requests count by when they
/// began, so that those that hang are compared with the ones that were answered at the same time.
pub(super) const WINDOW: Duration = Duration::from_secs(30);
/// Parts of the window that are counted apart; with the next part the oldest is forgotten.
const SLICES: u64 = 10;
/// The share counts from so many times `CIRCUIT_BREAKER_FAILURE_THRESHOLD` requests in the window on: fewer say too little.
const SHARE_OF_REQUESTS: u32 = 4;
/// It counts where one request in so many failed.
const FAILED_ONE_IN: u32 = 2;
/// The breaker opens for all only where at least so many of the failures are of other branches than the one that failed most.
const OF_OTHERS: u32 = 2;

/// The requests of one branch.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Failures since the last success, of requests that began after the latest one that succeeded.
    in_a_row: u32,
    /// When the latest of the requests that succeeded began.
    pub(super) answered: Option<Instant>,
    pub(super) window: Window,
}

impl Counts {
    pub(super) fn succeeded(&mut self, begun: Instant) {
        self.in_a_row = 0;
        self.answered = self.answered.max(Some(begun));
        self.window.note(begun, false);
    }

    /// Why requests of the branch are to wait; none if they are not.
    pub(super) fn failed(&mut self, now: Instant, begun: Instant, threshold: u32) -> Option<String> {
        if self.answered.is_none_or(|answered| begun >= answered) {
            self.in_a_row += 1;
        }
        self.window.note(begun, true);
        if self.in_a_row >= threshold {
            return Some(row_of(self.in_a_row));
        }
        let sum = self.window.sum(now);
        sum.is_share(threshold).then(|| sum.text())
    }
}

/// The failures of all branches.
#[derive(Debug, Default)]
pub(super) struct SharedCounts {
    /// As in [`Counts`], by branch.
    in_a_row: HashMap<Arc<str>, u32>,
    answered: Option<Instant>,
}

impl SharedCounts {
    pub(super) fn succeeded(&mut self, begun: Instant) {
        self.in_a_row.clear();
        self.answered = self.answered.max(Some(begun));
    }

    /// Why the breaker is to open for all; none if it is not. Without the requests of any one branch, the others must show the same.
    /// `sums`: what each branch counted.
    pub(super) fn failed(
        &mut self,
        (branch, begun): (&Arc<str>, Instant),
        threshold: u32,
        sums: impl Iterator<Item = WindowSum>,
    ) -> Option<String> {
        if self.answered.is_none_or(|answered| begun >= answered) {
            *self.in_a_row.entry(Arc::clone(branch)).or_default() += 1;
        }
        let of_others = OF_OTHERS.min(threshold);
        let counts = self.in_a_row.values();
        let (row, most) = counts.fold((0, 0), |(row, most), count| (row + count, most.max(*count)));
        if row >= threshold && row - most >= of_others {
            return Some(row_of(row));
        }
        let (mut all, mut heaviest) = (WindowSum::default(), WindowSum::default());
        for sum in sums {
            all = all.plus(sum);
            heaviest = if sum.weight() > heaviest.weight() {
                sum
            } else {
                heaviest
            };
        }
        let failed = all.failed - heaviest.failed;
        let is_without =
            failed >= of_others && failed.saturating_mul(FAILED_ONE_IN) >= all.requests - heaviest.requests;
        (is_without && all.is_share(threshold)).then(|| all.text())
    }

    /// The branches that failed since the last success.
    pub(super) fn failing(&self) -> impl Iterator<Item = &Arc<str>> {
        self.in_a_row.keys()
    }

    /// The requests of this branch wait; its failures count no more.
    pub(super) fn forget(&mut self, branch: &str) {
        self.in_a_row.remove(branch);
    }
}

fn row_of(count: u32) -> String {
    format!("{count} requests in a row failed")
}

/// How many requests began lately and have ended, and how many of them failed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WindowSum {
    requests: u32,
    failed: u32,
}

impl WindowSum {
    const fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            failed: self.failed + other.failed,
        }
    }

    fn is_share(&self, threshold: u32) -> bool {
        self.requests >= threshold.saturating_mul(SHARE_OF_REQUESTS)
            && self.failed.saturating_mul(FAILED_ONE_IN) >= self.requests
    }

    /// How far a branch moves the share of all towards opening.
    fn weight(&self) -> i64 {
        i64::from(FAILED_ONE_IN) * i64::from(self.failed) - i64::from(self.requests)
    }

    fn text(&self) -> String {
        let seconds = WINDOW.as_secs();
        format!(
            "{} of the last {} requests failed, within {seconds} s",
            self.failed, self.requests
        )
    }
}

/// The requests of the last [`WINDOW`].
#[derive(Debug, Default)]
pub(super) struct Window {
    /// When counting began.
    since: Option<Instant>,
    /// Number of the slice, requests that began in it, those that failed. Each slice has its place.
    slices: [(u64, u32, u32); SLICES as usize],
}

impl Window {
    fn note(&mut self, begun: Instant, failed: bool) {
        let since = *self.since.get_or_insert(begun);
        let number = Self::number(since, begun);
        let slice = &mut self.slices[(number % SLICES) as usize];
        if slice.0 > number {
            return;
        }
        if slice.0 < number {
            *slice = (number, 0, 0);
        }
        slice.1 += 1;
        slice.2 += u32::from(failed);
    }

    pub(super) fn sum(&self, now: Instant) -> WindowSum {
        let Some(since) = self.since else {
            return WindowSum::default();
        };
        let number = Self::number(since, now);
        let recent = self.slices.iter().filter(|slice| slice.0 + SLICES > number);
        recent.fold(WindowSum::default(), |sum, slice| {
            let (requests, failed) = (slice.1, slice.2);
            sum.plus(WindowSum { requests, failed })
        })
    }

    fn number(since: Instant, at: Instant) -> u64 {
        let slice = WINDOW / SLICES as u32;
        u64::try_from(at.saturating_duration_since(since).as_millis() / slice.as_millis()).unwrap_or(u64::MAX)
    }
}
