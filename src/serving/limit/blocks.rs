//! Which addresses and providers are blocked, until when, and why. Pure; the time is passed in.

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use serde::{Deserialize, Serialize};

use super::address::Address;

/// Blocks that are kept at a time, some 200 bytes each; of more, those not met for longest are forgotten
/// here. The stream has room for them and all that is known (`max_msgs`).
const MAX_BLOCKS: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");
/// Age in milliseconds after which a block that the stream does not have was lifted, and not just on its way there.
const SETTLED_MS: u64 = 5000;

/// The subject of a block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BlockTarget {
    /// A client address, for all providers.
    Address(Address),
    /// A provider, from all addresses.
    Provider(Arc<str>),
}

/// A block, as it is sent, stored and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// When it began, in milliseconds since 1970.
    pub since_ms: u64,
    /// When it ends.
    pub until_ms: u64,
    /// Where the last request before it went; `_` for no provider that there is.
    pub provider: String,
    /// What was counted: refused requests of an address, verified ones of a provider.
    pub requests: u64,
}

struct Entry {
    block: Block,
    /// The stream has it.
    is_stored: bool,
}

/// See the module.
pub struct Blocks(LruCache<BlockTarget, Entry>);

impl Default for Blocks {
    fn default() -> Self {
        Self(LruCache::new(MAX_BLOCKS))
    }
}

impl Blocks {
    /// The end of a block.
    pub fn until(&mut self, who: &BlockTarget, now_ms: u64) -> Option<u64> {
        let until = self.0.get(who)?.block.until_ms;
        if until > now_ms {
            return Some(until);
        }
        self.0.pop(who);
        None
    }

    /// Adds a block. False when it is known already.
    pub fn put(&mut self, who: BlockTarget, block: Block, is_stored: bool) -> bool {
        if let Some(known) = self.0.get_mut(&who)
            && known.block == block
        {
            known.is_stored |= is_stored;
            return false;
        }
        self.0.put(who, Entry { block, is_stored });
        true
    }

    /// Ends a block; false if there was none.
    pub fn lift(&mut self, who: &BlockTarget) -> bool {
        self.0.pop(who).is_some()
    }

    /// Ends those that the stream had and has no more: they were lifted while this instance was disconnected. Returns them.
    pub fn lift_missing(&mut self, stored: impl Fn(&BlockTarget) -> bool, now_ms: u64) -> Vec<BlockTarget> {
        let is_missing = |(who, entry): &(&BlockTarget, &Entry)| {
            entry.is_stored && entry.block.since_ms + SETTLED_MS < now_ms && !stored(who)
        };
        let missing: Vec<_> = self.0.iter().filter(is_missing).map(|(who, _)| who.clone()).collect();
        for who in &missing {
            self.0.pop(who);
        }
        missing
    }

    /// Forgets those that have ended; returns how many are left.
    pub fn sweep(&mut self, now_ms: u64) -> usize {
        let ended: Vec<_> = self
            .0
            .iter()
            .filter(|(_, entry)| entry.block.until_ms <= now_ms)
            .map(|(who, _)| who.clone())
            .collect();
        for who in &ended {
            self.0.pop(who);
        }
        self.0.len()
    }

    /// How many are kept, ended ones that were not looked up since included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn who(number: u32) -> BlockTarget {
        BlockTarget::Address(Address::of(std::net::IpAddr::V4(number.into())))
    }

    fn block(until_ms: u64) -> Block {
        Block {
            since_ms: NOW,
            until_ms,
            provider: "careem".into(),
            requests: 100,
        }
    }

    #[test]
    fn a_block_ends() {
        let mut blocks = Blocks::default();
        assert!(blocks.put(who(1), block(NOW + 10), false));
        assert!(!blocks.put(who(1), block(NOW + 10), true), "no news");
        assert_eq!(blocks.until(&who(1), NOW + 9), Some(NOW + 10));
        assert_eq!(blocks.until(&who(2), NOW), None);
        assert_eq!(blocks.until(&who(1), NOW + 10), None);
        assert!(blocks.is_empty());
        blocks.put(who(1), block(NOW + 10), false);
        blocks.put(who(2), block(NOW + 20), false);
        assert_eq!(blocks.sweep(NOW + 10), 1);
        assert!(blocks.lift(&who(2)) && !blocks.lift(&who(1)));
    }

    #[test]
    fn a_providers_block_is_not_an_addresss() {
        let mut blocks = Blocks::default();
        blocks.put(BlockTarget::Provider("careem".into()), block(NOW + 10), false);
        assert_eq!(blocks.until(&BlockTarget::Provider("talabat".into()), NOW), None);
        assert!(blocks.until(&BlockTarget::Provider("careem".into()), NOW).is_some());
    }

    #[test]
    fn missed_lifts_are_found_in_the_stream() {
        let mut blocks = Blocks::default();
        for (number, is_stored) in [(1, true), (2, true), (3, false)] {
            blocks.put(who(number), block(NOW + 60_000), is_stored);
        }
        let stored = |one: &BlockTarget| *one == who(2);
        // The stream may not have it yet.
        assert_eq!(blocks.lift_missing(stored, NOW + SETTLED_MS), []);
        // The third was never stored, so its absence proves nothing.
        assert_eq!(blocks.lift_missing(stored, NOW + SETTLED_MS + 1), [who(1)]);
        assert_eq!(blocks.len(), 2);
    }

    #[test]
    fn remembered_blocks_are_limited() {
        let mut blocks = Blocks::default();
        for number in 0..100_000 {
            blocks.put(who(number), block(NOW + 1000), false);
            // A block that is still used is not dropped in favour of idle ones.
            blocks.until(&who(0), NOW);
        }
        assert_eq!(blocks.len(), MAX_BLOCKS.get());
        assert!(blocks.until(&who(0), NOW).is_some());
    }
}
