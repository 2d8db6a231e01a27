//! A provider's quota: a number of points in a window of time, shared by all instances. Pure; the time is passed in.
//!
//! Windows follow each other by the clock, so every instance identifies one by the same number. A common counter says how
//! many points all instances have taken. Of the rest an instance may take its share, one part in as many as there are
//! instances, before it needs the counter again: so much it spends without a request. Each report of its own and each message
//! of another instance brings the count, and with it a new share of the rest; so an instance that gets all the traffic takes
//! nearly all, and no instance keeps points that it does not need. Without the counter an instance has its share of the whole
//! window.

use crate::config::Rule;

/// How much of its share an instance takes before it wants to hear again, one part in so many.
const PARTS_OF_SHARE: u64 = 4;
/// Milliseconds to wait where others may have left some: news comes sooner, and `Retry-After` knows no less.
const NEWS_MS: u64 = 1000;

/// Points of one provider.
#[derive(Debug, Clone)]
pub struct Quota {
    points: u64,
    length_ms: u64,
    /// Which window: time since 1970 by the window's length.
    number: u64,
    /// Points that all instances took, as far as is known.
    counted: u64,
    /// Own points that the counter does not know of yet …
    waiting: u64,
    /// … in the report that waits for an answer …
    asking: u64,
    /// … and that were reported to it without an answer.
    unsure: u64,
    /// Points that were given back after they were reported to the counter; they are taken again first.
    credit: u64,
    /// Whether the counter did not answer the last report.
    is_cut_off: bool,
}

/// A report to the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaReport {
    /// Of which window.
    pub window: u64,
    /// By how many points it grows.
    pub points: u64,
}

/// The result of a [`QuotaReport`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportOutcome {
    /// The counter's value now.
    Counted(u64),
    /// It did not reach the counter.
    NotSent,
    /// Unknown.
    Unanswered,
}

/// A point that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaPoint {
    /// Of which window.
    pub window: u64,
    /// As [`Quota::is_urgent`].
    pub is_urgent: bool,
}

/// No point is left for this instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaWait {
    /// Milliseconds until there may be one, at least 1.
    pub ms: u64,
    /// The window's points are spent, not just this instance's share of them.
    pub is_spent: bool,
}

impl Quota {
    /// Nothing taken.
    pub fn new(rule: &Rule) -> Self {
        Self {
            points: rule.points,
            length_ms: u64::try_from(rule.window.as_millis()).unwrap_or(u64::MAX).max(1),
            number: 0,
            counted: 0,
            waiting: 0,
            asking: 0,
            unsure: 0,
            credit: 0,
            is_cut_off: false,
        }
    }

    /// Length of a window in milliseconds.
    pub const fn length_ms(&self) -> u64 {
        self.length_ms
    }

    /// Whether a point is left, which stays where it is.
    ///
    /// # Errors
    /// How long to wait for one.
    pub fn check(&mut self, now_ms: u64, instances: u64) -> Result<(), QuotaWait> {
        self.roll(now_ms);
        if self.credit > 0 || self.own() < self.share(instances) {
            return Ok(());
        }
        let until_end = (self.number + 1) * self.length_ms - now_ms;
        let is_spent = self.counted + self.own() >= self.points;
        Err(QuotaWait {
            ms: if is_spent || self.is_cut_off {
                until_end
            } else {
                until_end.min(NEWS_MS)
            },
            is_spent,
        })
    }

    /// Takes a point.
    ///
    /// # Errors
    /// How long to wait for one.
    pub fn take(&mut self, now_ms: u64, instances: u64) -> Result<QuotaPoint, QuotaWait> {
        self.check(now_ms, instances)?;
        let is_urgent = if self.credit > 0 {
            self.credit -= 1;
            false
        } else {
            self.waiting += 1;
            self.is_urgent(instances)
        };
        Ok(QuotaPoint {
            window: self.number,
            is_urgent,
        })
    }

    /// Whether the counter should hear soon of what was taken, rather than with the next tick.
    pub fn is_urgent(&self, instances: u64) -> bool {
        instances > 1 && self.waiting >= self.share(instances).div_ceil(PARTS_OF_SHARE).max(1)
    }

    /// Gives a point back that was taken for nothing; where the counter knows of it already, this instance keeps it for itself.
    pub fn give_back(&mut self, window: u64) {
        if self.number != window {
            return;
        }
        match self.waiting.checked_sub(1) {
            Some(waiting) => self.waiting = waiting,
            None => self.credit += 1,
        }
    }

    /// The next report to the counter; none while one waits for its answer.
    pub fn report(&mut self, now_ms: u64) -> Option<QuotaReport> {
        self.roll(now_ms);
        if self.asking > 0 || self.waiting == 0 {
            return None;
        }
        self.asking = std::mem::take(&mut self.waiting);
        Some(QuotaReport {
            window: self.number,
            points: self.asking,
        })
    }

    /// Records the result of the last [`Self::report`].
    pub fn reported(&mut self, window: u64, outcome: ReportOutcome) {
        self.is_cut_off = !matches!(outcome, ReportOutcome::Counted(_));
        if self.number != window {
            return;
        }
        let asked = std::mem::take(&mut self.asking);
        match outcome {
            ReportOutcome::Counted(total) => {
                self.counted = self.counted.max(total);
                // A counter that answers has most likely counted the earlier, unanswered reports.
                self.unsure = 0;
            }
            ReportOutcome::NotSent => self.waiting += asked,
            // If repeated, it might be counted twice, and orders within the quota would be refused.
            ReportOutcome::Unanswered => self.unsure += asked,
        }
    }

    /// The counter's value, as another instance says it.
    pub fn hear(&mut self, now_ms: u64, window: u64, total: u64) {
        self.roll(now_ms);
        if self.number == window {
            self.counted = self.counted.max(total);
        }
    }

    /// The counter's last known value and of which window; none if it is zero.
    pub fn counted(&mut self, now_ms: u64) -> Option<(u64, u64)> {
        self.roll(now_ms);
        (self.counted > 0).then_some((self.number, self.counted))
    }

    fn roll(&mut self, now_ms: u64) {
        let number = now_ms / self.length_ms;
        if number != self.number {
            let is_cut_off = self.is_cut_off;
            *self = Self {
                number,
                counted: 0,
                waiting: 0,
                asking: 0,
                unsure: 0,
                credit: 0,
                is_cut_off,
                ..*self
            };
        }
    }

    const fn own(&self) -> u64 {
        self.waiting + self.asking + self.unsure
    }

    fn share(&self, instances: u64) -> u64 {
        self.points.saturating_sub(self.counted).div_ceil(instances.max(1))
    }
}

#[cfg(test)]
mod tests;
