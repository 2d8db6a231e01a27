//! Applies records from other instances, from operators, and from the stream to the limits.

use std::{collections::HashSet, sync::atomic::Ordering};

use super::{Limits, blocks::BlockTarget, lock, now_ms, stored::LimitRecord};

impl Limits {
    /// Applies a record of another instance or of an operator, or this instance's own that came back.
    pub(super) fn hear(&self, record: LimitRecord) {
        let now = now_ms();
        match record {
            LimitRecord::Blocked(BlockTarget::Address(address), _) if lock(&self.addresses).is_known(address, now) => {
                // The blocking instance has not seen the verified webhook that this one has.
                self.vouch(address, now);
                self.tell(LimitRecord::Lifted(BlockTarget::Address(address)));
            }
            LimitRecord::Blocked(_, block) if block.until_ms <= now => {}
            LimitRecord::Blocked(who, block) => {
                self.put(who, block, true);
            }
            LimitRecord::Lifted(who) => {
                if self.lift(&who) {
                    tracing::info!(?who, "block lifted");
                }
                if let BlockTarget::Address(address) = who {
                    lock(&self.addresses).pardon(address);
                }
            }
            LimitRecord::Known(address, verified_ms) => {
                lock(&self.addresses).learn(address, verified_ms);
                self.lift(&BlockTarget::Address(address));
            }
        }
    }

    /// All that the stream has.
    pub(super) fn hear_all(&self, known: Vec<LimitRecord>, blocks: Vec<LimitRecord>) {
        let stored: HashSet<BlockTarget> = blocks
            .iter()
            .filter_map(|record| match record {
                LimitRecord::Blocked(who, _) => Some(who.clone()),
                _ => None,
            })
            .collect();
        known.into_iter().chain(blocks).for_each(|record| self.hear(record));
        self.is_informed.store(true, Ordering::Relaxed);
        let mut own = lock(&self.blocks);
        let lifted = own.lift_missing(|who| stored.contains(who), now_ms());
        self.note_blocks(own.len());
        drop(own);
        for who in lifted {
            tracing::info!(?who, "block lifted");
            if let BlockTarget::Address(address) = who {
                lock(&self.addresses).pardon(address);
            }
        }
    }

    /// Forgets blocks that have ended.
    pub(super) fn sweep(&self) {
        let left = lock(&self.blocks).sweep(now_ms());
        self.note_blocks(left);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            address::Address,
            blocks::Block,
            tests::{careem, limits},
        },
        *,
    };
    use crate::event::Principal;

    fn address() -> Address {
        "203.0.113.9".parse().unwrap()
    }

    fn who() -> BlockTarget {
        BlockTarget::Address(address())
    }

    /// A block that began a while ago.
    fn block() -> Block {
        Block {
            since_ms: now_ms() - 60_000,
            until_ms: now_ms() + 60_000,
            provider: "careem".into(),
            requests: 100,
        }
    }

    fn is_blocked(limits: &Limits) -> bool {
        lock(&limits.blocks).until(&who(), now_ms()).is_some()
    }

    fn told(limits: &Limits) -> Vec<LimitRecord> {
        lock(&limits.records).drain(..).collect()
    }

    #[test]
    fn another_instances_block_holds_until_it_is_lifted() {
        let limits = limits("5/60s", "5/60s/300s");
        limits.hear(LimitRecord::Blocked(who(), block()));
        assert!(is_blocked(&limits));
        limits.hear(LimitRecord::Lifted(who()));
        assert!(!is_blocked(&limits));
        assert_eq!(told(&limits), [], "it was told already");
        let over = Block {
            until_ms: now_ms(),
            ..block()
        };
        limits.hear(LimitRecord::Blocked(who(), over));
        assert!(!is_blocked(&limits));
    }

    #[test]
    fn addresses_known_here_are_vouched_for() {
        let limits = limits("5/60s", "5/60s/300s");
        limits.note_accepted(&careem(&[]), &Principal::provider(), "203.0.113.9".parse().unwrap());
        assert!(matches!(told(&limits)[..], [LimitRecord::Known(..)]));
        limits.hear(LimitRecord::Blocked(who(), block()));
        assert!(!is_blocked(&limits));
        assert!(matches!(
            told(&limits)[..],
            [LimitRecord::Known(..), LimitRecord::Lifted(_)]
        ));
    }

    #[test]
    fn addresses_known_elsewhere_are_unblocked() {
        let limits = limits("5/60s", "1/60s/300s");
        limits.hear(LimitRecord::Blocked(who(), block()));
        limits.hear(LimitRecord::Known(address(), now_ms()));
        assert!(!is_blocked(&limits));
        limits.note_refused(None, "203.0.113.9".parse().unwrap());
        assert!(!is_blocked(&limits), "and is not blocked again");
    }

    #[test]
    fn blocks_missing_in_the_stream_are_lifted() {
        let limits = limits("5/60s", "5/60s/300s");
        limits.hear_all(vec![], vec![LimitRecord::Blocked(who(), block())]);
        assert!(is_blocked(&limits));
        limits.hear_all(vec![], vec![LimitRecord::Blocked(who(), block())]);
        assert!(is_blocked(&limits));
        limits.hear_all(vec![], vec![]);
        assert!(!is_blocked(&limits));
        // The stream has not had this block yet, so it is not lifted.
        limits.block(who(), block());
        limits.hear_all(vec![], vec![]);
        assert!(is_blocked(&limits));
    }
}
