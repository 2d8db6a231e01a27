//! Decides which of two reports about an order is the newer one. Pure.
//!
//! A provider may send a webhook again after it was given up. A report (`Word`) is as old as the first acceptance of its webhook,
//! however often it is sent: the last report about an order stays the last one if only earlier ones are sent again.

use chrono::{DateTime, Utc};

use crate::{event::EventId, order::status::Status};

/// When a webhook was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Where its webhook was accepted first ([`crate::event::Recorded::accepted_at`]); none if it is unknown.
    pub first: Option<u64>,
    /// The time of this acceptance, which may not be the first.
    pub received_at: DateTime<Utc>,
}

impl Accepted {
    /// Whether it is the later one.
    pub(crate) fn is_after(self, other: Self) -> bool {
        match (self.first, other.first) {
            (Some(one), Some(other)) => one > other,
            _ => self.received_at > other.received_at,
        }
    }
}

/// A report of the provider about an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// The webhook that it came with.
    pub webhook: EventId,
    /// When the webhook was accepted.
    pub accepted: Accepted,
    /// The reported status; none if it names no known one.
    pub status: Option<Status>,
}

/// How a report was sent to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToldAs {
    /// As a change of the order's status, which only later reports replace.
    News,
    /// As a new order, or as a second announcement that ended as a duplicate. It is news only if its status is further than
    /// the one that it is compared with.
    Announcement,
}

/// The effect of a report that the backend has on one that it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// None: the other report still holds.
    Holds,
    /// It is the same webhook, so the backend has the other report too.
    Repeated,
    /// It is newer: the other report would overwrite it.
    Superseded,
}

/// Compares a report that the backend has with one that it does not have.
pub fn judge(word: &Word, told: &Word, told_as: ToldAs) -> Verdict {
    if told.webhook == word.webhook {
        return Verdict::Repeated;
    }
    let is_news = match told_as {
        ToldAs::News => true,
        ToldAs::Announcement => told
            .status
            .zip(word.status)
            .is_some_and(|(told, status)| told.follows(status)),
    };
    if is_news && told.accepted.is_after(word.accepted) {
        Verdict::Superseded
    } else {
        Verdict::Holds
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn webhook(number: u8) -> EventId {
        EventId::of_webhook("careem", &[&[number]])
    }

    fn word(number: u8, first: Option<u64>, received: i64, status: Status) -> Word {
        Word {
            webhook: webhook(number),
            accepted: Accepted {
                first,
                received_at: DateTime::UNIX_EPOCH + TimeDelta::seconds(received),
            },
            status: Some(status),
        }
    }

    /// An order (its creation C, news R and the last report X) was given up and sent again (C', R', X'). Each row: the retried
    /// report, the one that the backend has, and the verdict.
    #[test]
    fn originals_and_repeats_of_creation_and_news() {
        use Status::{Cancelled, Ready, Received};
        use ToldAs::{Announcement, News};
        use Verdict::{Holds, Repeated, Superseded};
        // A repeat has the original's first acceptance and a time of its own.
        let original = |number: u8, status| word(number, Some(u64::from(number)), i64::from(number), status);
        let again = |number: u8, status| word(number, Some(u64::from(number)), 100 + i64::from(number), status);
        let [c, c2] = [original(1, Received), again(1, Received)];
        let [r, r2] = [original(2, Ready), again(2, Ready)];
        let [x, x2] = [original(3, Cancelled), again(3, Cancelled)];
        let rows = [
            ("X after C'", x, c2, Announcement, Holds),
            ("X after R'", x, r2, News, Holds),
            ("X after X'", x, x2, News, Repeated),
            ("X' after C", x2, c, Announcement, Holds),
            ("X' after R", x2, r, News, Holds),
            ("X' after R'", x2, r2, News, Holds),
            ("X' after X", x2, x, News, Repeated),
            ("R after C'", r, c2, Announcement, Holds),
            ("R after X", r, x, News, Superseded),
            ("R after X'", r, x2, News, Superseded),
            ("R' after X", r2, x, News, Superseded),
            ("R' after X'", r2, x2, News, Superseded),
            ("R' after R", r2, r, News, Repeated),
            ("C' after C", c2, c, Announcement, Repeated),
            ("C after C'", c, c2, Announcement, Repeated),
        ];
        for (name, word, told, told_as, expected) in rows {
            assert_eq!(judge(&word, &told, told_as), expected, "{name}");
        }
        // A later announcement by another webhook: its status counts if it is further.
        let announced = |status| word(4, Some(4), 4, status);
        assert_eq!(judge(&r, &announced(Status::PickedUp), Announcement), Superseded);
        assert_eq!(judge(&r, &announced(Status::Accepted), Announcement), Holds);
        assert_eq!(judge(&r, &announced(Status::Ready), Announcement), Holds);
        let unknown = Word { status: None, ..r };
        assert_eq!(judge(&unknown, &announced(Status::PickedUp), Announcement), Holds);
        // If the log no longer shows which came first, the times of acceptance decide.
        let forgotten = |number, received| word(number, None, received, Ready);
        assert_eq!(judge(&forgotten(1, 1), &forgotten(2, 2), News), Superseded);
        assert_eq!(judge(&forgotten(1, 2), &x, News), Superseded);
        assert_eq!(judge(&forgotten(1, 9), &x, News), Holds);
    }

    proptest! {
        /// However often each of an order's reports is accepted, given up and retried, and in whatever order: the backend gets
        /// each at most once, never an older one after a newer one, and always the last one.
        #[test]
        fn the_last_word_wins(turns in prop::collection::vec((0u8..5, 1i64..1000), 0..40), last in 1i64..2000) {
            let words = |number: u8, received| word(number, Some(u64::from(number)), received, Status::Ready);
            let mut told: Vec<Word> = Vec::new();
            for (number, received) in turns.into_iter().chain([(5, last)]) {
                let word = words(number, received);
                let verdicts: Vec<_> = told.iter().map(|told| judge(&word, told, ToldAs::News)).collect();
                let is_new = verdicts.iter().all(|verdict| *verdict == Verdict::Holds);
                prop_assert!(is_new || number != 5, "the last word was left out: {verdicts:?}");
                if is_new {
                    told.push(word);
                }
            }
            let order: Vec<_> = told.iter().map(|told| told.accepted.first).collect();
            prop_assert!(order.is_sorted_by(|one, next| one < next), "{order:?}");
        }
    }
}
