//! How many events and bytes one transaction of the tables has at most.

/// Most events of one transaction. The more of an order's events are in it, the fewer times its row is written: while
/// the tables catch up, with a backlog between an order's first event and its last, this is most of what they cost.
pub const MAX_EVENTS: usize = 3000;
/// Most payload bytes of one transaction; a full batch of ordinary orders has half of it.
pub const MAX_BYTES: usize = 6 * 1024 * 1024;

/// How large a transaction may be.
#[derive(Debug, Clone, Copy)]
pub(in crate::projection) struct MaxBatch {
    /// Events.
    pub(in crate::projection) events: usize,
    /// Bytes of payload.
    pub(in crate::projection) bytes: usize,
}

impl MaxBatch {
    /// For the live tables, which others read and write meanwhile.
    pub(in crate::projection) const LIVE: Self = Self {
        events: MAX_EVENTS,
        bytes: MAX_BYTES,
    };
    /// For tables that `rebuild` and `verify` build beside the live ones. No other session uses them.
    pub(in crate::projection) const BESIDE: Self = Self {
        events: 2 * MAX_EVENTS,
        bytes: 2 * MAX_BYTES,
    };
}
