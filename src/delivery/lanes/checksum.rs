//! Checks whether `LANES` holds what its writer left there. Pure: no clock, no I/O.
//!
//! A lane that ended can come back: its message is replaced by a marker that expires, and when NATS is killed after that, the
//! replaced message is visible again (2.15.1: the server persists that the marker expired, and not that the message was
//! replaced). An older copy of the stream brings back more, and lacks lanes. So the writer stores a checksum of its lanes
//! with its lease ([`LanesChecksum`]), and each message names the earlier revisions of its lane (`LanePast`). From both the
//! next instance knows whether the lanes that it finds follow from those of the checksum.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::journal::codec::OrderKey;

/// The header of a lane's message, and of the mark of one that ended, that holds its [`LanePast`].
pub(super) const HEADER: &str = "Hub-Lane-Past";
/// Revisions that a lane's past goes back. The lease is written every 0.8 s, in which a lane is seldom written twice.
const MAX_PAST: usize = 16;

/// The lanes of a stage, as the instance that writes them knew them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanesChecksum {
    /// The newest revision among those that it had written or read.
    pub newest: u64,
    /// How many were open.
    pub open: u64,
    /// Their checksum, of orders and revisions, in any order.
    pub sum: u64,
    /// The oldest event on the log that is in one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<u64>,
}

impl LanesChecksum {
    /// Of lanes that are other ones than those there are: whatever is found does not follow from this, so it is compared with the
    /// log, from this event on.
    pub const fn of_others(oldest: u64) -> Self {
        Self {
            newest: 0,
            open: u64::MAX,
            sum: 0,
            oldest: Some(oldest),
        }
    }

    pub(super) fn add(&mut self, key: OrderKey, revision: u64) {
        self.open += 1;
        self.sum ^= mixed(key, revision);
    }

    pub(super) fn remove(&mut self, key: OrderKey, revision: u64) {
        self.open = self.open.saturating_sub(1);
        self.sum ^= mixed(key, revision);
    }

    /// Whether these are the messages that there are to be: every one on a lane's subject, the marks of ended lanes among
    /// them. False also if that cannot be known: a lane ended since and began anew, or was written too often.
    pub(super) fn explains<'a>(self, found: impl IntoIterator<Item = (OrderKey, &'a LaneMessage)>) -> bool {
        let mut then = Self::default();
        for (key, found) in found {
            let revision = if found.revision <= self.newest {
                Some(found.revision).filter(|_| found.is_open)
            } else {
                match found.past.at(self.newest) {
                    Some(revision) => revision,
                    None => return false,
                }
            };
            if let Some(revision) = revision {
                then.add(key, revision);
            }
        }
        (then.open, then.sum) == (self.open, self.sum)
    }
}

/// A message that was found on a lane's subject.
#[derive(Debug, Default)]
pub(super) struct LaneMessage {
    pub(super) revision: u64,
    /// False: the mark of a lane that ended.
    pub(super) is_open: bool,
    pub(super) past: LanePast,
}

/// The revisions of a lane before one of its messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LanePast {
    /// There was no lane from this revision on, until the first of `revisions`; none if it was open before those, or that is
    /// not known.
    none_from: Option<u64>,
    revisions: Vec<u64>,
}

impl LanePast {
    /// Of a lane that begins: the revision of the mark that it replaces; 0 where there is none.
    pub(super) const fn none_since(revision: u64) -> Self {
        Self {
            none_from: Some(revision),
            revisions: Vec::new(),
        }
    }

    /// Of what replaces this revision.
    pub(super) fn then(&self, revision: u64) -> Self {
        let mut next = self.clone();
        next.revisions.push(revision);
        if next.revisions.len() > MAX_PAST {
            next.revisions.remove(0);
            next.none_from = None;
        }
        next
    }

    /// Which revision the lane had when the stream was so far, if it was open then; none if that is not known.
    fn at(&self, newest: u64) -> Option<Option<u64>> {
        let last = self.revisions.iter().rev().find(|revision| **revision <= newest);
        match (last, self.none_from) {
            (Some(revision), _) => Some(Some(*revision)),
            (None, Some(from)) if from <= newest => Some(None),
            (None, _) => None,
        }
    }

    /// As in the header: `12: 40 47`.
    pub(super) fn to_text(&self) -> String {
        let mut text = self.none_from.map(|from| from.to_string()).unwrap_or_default();
        text.push(':');
        for revision in &self.revisions {
            // Writing to a String cannot fail.
            let _ = write!(text, " {revision}");
        }
        text
    }

    /// Reads the header; where that cannot be read, nothing is known.
    pub(super) fn parse(text: &str) -> Self {
        let read = || {
            let (from, revisions) = text.split_once(':')?;
            let none_from = match from {
                "" => None,
                from => Some(from.parse().ok()?),
            };
            let revisions: Result<_, _> = revisions.split_whitespace().map(str::parse).collect();
            Some(Self {
                none_from,
                revisions: revisions.ok()?,
            })
        };
        read().unwrap_or_default()
    }
}

/// 64 bits of an order and a revision (the finaliser of splitmix64, twice): the same in every version.
fn mixed(key: OrderKey, revision: u64) -> u64 {
    let mix = |mut bits: u64| {
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    };
    mix(mix(key.head()).wrapping_add(revision.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> OrderKey {
        OrderKey::new("careem", &number.to_string())
    }

    /// The stream, and its writer.
    #[derive(Default)]
    struct Played {
        last: u64,
        messages: BTreeMap<u8, LaneMessage>,
        open: HashMap<u8, (u64, LanePast)>,
        checksum: LanesChecksum,
    }

    impl Played {
        /// Writes a lane, or ends it.
        fn write(&mut self, lane: u8, is_open: bool) {
            let past = match (self.open.remove(&lane), self.messages.get(&lane)) {
                (Some((revision, past)), _) => {
                    self.checksum.remove(key(lane), revision);
                    past.then(revision)
                }
                (None, _) if !is_open => return,
                (None, mark) => LanePast::none_since(mark.map_or(0, |mark| mark.revision)),
            };
            self.last += 1;
            let revision = self.last;
            self.checksum.newest = revision;
            if is_open {
                self.checksum.add(key(lane), revision);
                self.open.insert(lane, (revision, past.clone()));
            }
            let past = LanePast::parse(&past.to_text());
            let found = LaneMessage {
                revision,
                is_open,
                past,
            };
            self.messages.insert(lane, found);
        }

        fn is_explained_by(&self, checksum: LanesChecksum) -> bool {
            checksum.explains(self.messages.iter().map(|(lane, found)| (key(*lane), found)))
        }
    }

    #[test]
    fn nothing_follows_from_other_lanes() {
        let mut played = Played::default();
        assert!(!played.is_explained_by(LanesChecksum::of_others(7)));
        played.write(1, true);
        assert!(!played.is_explained_by(LanesChecksum::of_others(7)));
    }

    #[test]
    fn an_ended_lane_that_comes_back_is_noticed() {
        let mut played = Played::default();
        played.write(1, true);
        played.write(2, true);
        let revision = played.messages[&2].revision;
        played.write(2, false);
        // The marker expired.
        played.messages.remove(&2);
        let checksum = played.checksum;
        assert!(played.is_explained_by(checksum));
        played.write(1, true);
        played.write(3, true);
        assert!(
            played.is_explained_by(checksum),
            "what came later says what was there before"
        );
        let back = LaneMessage {
            revision,
            is_open: true,
            past: LanePast::default(),
        };
        played.messages.insert(2, back);
        assert!(!played.is_explained_by(checksum) && !played.is_explained_by(played.checksum));
    }

    proptest! {
        /// Any later writes follow from the checksum. A missing or an older message does not.
        #[test]
        fn later_writes_match_the_checksum(
            before in prop::collection::vec((0u8..6, any::<bool>()), 0..40),
            // Fewer writes of each lane than its past can name.
            since in prop::collection::vec((0u8..6, any::<bool>()), 0..12),
            which in any::<prop::sample::Index>(),
        ) {
            let mut played = Played::default();
            before.iter().for_each(|(lane, is_open)| played.write(*lane, *is_open));
            let checksum = played.checksum;
            for (lane, is_open) in since {
                // A lane that ended and began again since then does not show that it existed before.
                let ended_since = played.messages.get(&lane).is_some_and(|last| !last.is_open && last.revision > checksum.newest);
                if !ended_since {
                    played.write(lane, is_open);
                }
            }
            prop_assert!(played.is_explained_by(checksum));
            let old: Vec<u8> = played.messages.iter()
                .filter(|(_, found)| found.is_open && found.revision <= checksum.newest)
                .map(|(lane, _)| *lane).collect();
            if !old.is_empty() {
                let lane = old[which.index(old.len())];
                let found = played.messages.get_mut(&lane).unwrap();
                found.revision -= 1;
                prop_assert!(!played.is_explained_by(checksum), "an older revision");
                played.messages.remove(&lane);
                prop_assert!(!played.is_explained_by(checksum), "none");
            }
        }
    }
}
