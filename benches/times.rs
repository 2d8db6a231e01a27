//! The times of single orders on their way through the hub.

use std::{
    ops::{Deref, Range},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

/// Longest latency that a histogram holds; a longer one is recorded as this.
const LONGEST_MICROS: u64 = 600_000_000;

/// The number of an order of the load generator, from its external id.
pub(crate) fn order_number(external_id: &str) -> Option<u64> {
    external_id.strip_prefix("CR")?.parse().ok()
}

/// A histogram of microseconds, three digits exact.
#[derive(Clone, Debug)]
pub(crate) struct Micros(Histogram<u64>);

impl Micros {
    /// Adds one time.
    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(time.as_micros() as u64);
    }

    /// The time in milliseconds within which this share of them (0 to 1) lies.
    pub(crate) fn milliseconds(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1000.0
    }
}

impl Default for Micros {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_MICROS, 3).expect("1 < the longest, and 3 digits are allowed"))
    }
}

impl Deref for Micros {
    type Target = Histogram<u64>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// When each order was sent, accepted (its 200 read) and seen by the backend. One array slot an order, no locks: it is
/// written for every request while the measurement runs.
pub(crate) struct Times {
    start: Instant,
    first: u64,
    slots: Vec<Slot>,
    repeated: AtomicU64,
}

/// Microseconds since the start + 1; 0: not yet.
#[derive(Default)]
struct Slot {
    sent: AtomicU64,
    accepted: AtomicU64,
    arrived: AtomicU64,
}

/// How a range of orders fared from the load generator to the backend.
pub(crate) struct EndToEnd {
    /// Orders answered 200.
    pub(crate) accepted: u64,
    /// Of these, orders that the backend has seen.
    pub(crate) arrived: u64,
    /// Requests to the backend for an order that it had seen before (of all orders, not only of the range).
    pub(crate) repeated: u64,
    /// Time from sent to arrived; in an open loop from due to arrived.
    pub(crate) from_sent: Micros,
}

impl Times {
    /// Room for the order numbers from `first` on; higher ones than there is room for are not noted.
    pub(crate) fn new(first: u64, room: usize) -> Self {
        let slots = std::iter::repeat_with(Slot::default).take(room).collect();
        Self {
            start: Instant::now(),
            first,
            slots,
            repeated: AtomicU64::new(0),
        }
    }

    /// The order was sent, or in an open loop: was due.
    pub(crate) fn mark_sent(&self, order: u64, at: Instant) {
        if let Some(slot) = self.slot(order) {
            slot.sent.store(self.micros(at), Ordering::Relaxed);
        }
    }

    /// The order's 200 was read.
    pub(crate) fn mark_accepted(&self, order: u64, at: Instant) {
        if let Some(slot) = self.slot(order) {
            slot.accepted.store(self.micros(at), Ordering::Relaxed);
        }
    }

    /// The backend sees the order now. Returns whether it is the first time.
    pub(crate) fn mark_arrived(&self, order: u64) -> bool {
        let Some(slot) = self.slot(order) else { return true };
        let now = self.micros(Instant::now());
        let first = slot
            .arrived
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        self.repeated.fetch_add(u64::from(!first), Ordering::Relaxed);
        first
    }

    /// Sums up the orders of a range, such as [`crate::load::Report::orders`].
    pub(crate) fn summary(&self, orders: Range<u64>) -> EndToEnd {
        let mut accepted_count = 0;
        let mut from_sent = Micros::default();
        for slot in orders.filter_map(|order| self.slot(order)) {
            let [sent, accepted, arrived] =
                [&slot.sent, &slot.accepted, &slot.arrived].map(|time| time.load(Ordering::Relaxed));
            accepted_count += u64::from(accepted > 0);
            // One seen without a 200 having been read for it is not lost, and not in the figures.
            if arrived > 0 && accepted > 0 {
                from_sent.record(Duration::from_micros(arrived.saturating_sub(sent)));
            }
        }
        EndToEnd {
            accepted: accepted_count,
            arrived: from_sent.len(),
            repeated: self.repeated.load(Ordering::Relaxed),
            from_sent,
        }
    }

    fn slot(&self, order: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(order.checked_sub(self.first)?).ok()?)
    }

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_micros() as u64 + 1
    }
}
