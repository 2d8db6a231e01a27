//! Whether an instance is the one that works on the stage.

use std::time::{Duration, Instant};

/// How long after its last look at the breaker an instance still counts as the one that works on the stage. The stage
/// looks every two seconds even if there is nothing to do, so this is that and room for a slow machine.
pub(super) const LINGER: Duration = Duration::from_secs(4);

/// Whether this instance is the one that works on the stage, as far as its use of the breaker tells: who stands by never
/// looks at it.
#[derive(Debug, Default)]
pub struct Attendance {
    waiting: u32,
    under_way: u32,
    last: Option<Instant>,
}

impl Attendance {
    /// A caller checked whether requests are let through.
    pub fn looked(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// A caller begins to wait for the breaker.
    pub fn wait_begins(&mut self, now: Instant) {
        self.waiting += 1;
        self.last = Some(now);
    }

    /// And does no more.
    pub fn wait_ends(&mut self, now: Instant) {
        self.waiting = self.waiting.saturating_sub(1);
        self.last = Some(now);
    }

    /// A request is permitted.
    pub fn request_begins(&mut self, now: Instant) {
        self.under_way += 1;
        self.last = Some(now);
    }

    /// And has ended, in whatever way.
    pub fn request_ends(&mut self, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        self.last = Some(now);
    }

    /// Whether it works on the stage.
    pub fn works(&self, now: Instant) -> bool {
        let lately = |last| now.saturating_duration_since(last) < LINGER;
        self.waiting > 0 || self.under_way > 0 || self.last.is_some_and(lately)
    }
}
