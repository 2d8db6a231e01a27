//! Which addresses each branch made known by its own secret. A known address has room that is kept for it and is never blocked, and whoever
//! has a network of IPv6 has as many addresses as he likes; so one branch may make only a few known. Pure; the time is passed in.

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;

use super::address::{Address, KNOWN_FOR_MS};

/// Addresses that one branch may have made known at a time: its own, and those of a provider that sends from several.
const MAX_OF_BRANCH: usize = 32;
/// Most branches that are remembered, 3 KB each at most; of more, those that sent nothing for longest are forgotten.
const MAX_BRANCHES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// A branch of a provider.
type BranchOf = (Arc<str>, Arc<str>);

/// See the module.
pub(super) struct Vouched(LruCache<BranchOf, Vec<(Address, u64)>>);

impl Default for Vouched {
    fn default() -> Self {
        Self(LruCache::new(MAX_BRANCHES))
    }
}

impl Vouched {
    /// Whether an address becomes known, or stays it, by a webhook of this branch. An address counts until it is known no more.
    pub(super) fn may(&mut self, branch: BranchOf, address: Address, now_ms: u64) -> bool {
        let addresses = self.0.get_or_insert_mut(branch, Vec::new);
        if let Some((_, at)) = addresses.iter_mut().find(|(known, _)| *known == address) {
            *at = now_ms;
            return true;
        }
        addresses.retain(|(_, at)| now_ms < at + KNOWN_FOR_MS);
        let has_room = addresses.len() < MAX_OF_BRANCH;
        if has_room {
            addresses.push((address, now_ms));
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn addresses(count: usize) -> impl Iterator<Item = Address> {
        (0..count).map(|number| format!("2001:db8:0:{number:x}::1").parse().unwrap())
    }

    #[test]
    fn one_branch_makes_a_few_addresses_known() {
        let mut vouched = Vouched::default();
        let branch = |name: &str| (Arc::from("careem"), Arc::from(name));
        let mut known = |name, now| {
            let all = addresses(5 * MAX_OF_BRANCH);
            all.filter(|one| vouched.may(branch(name), *one, now))
                .collect::<Vec<_>>()
        };
        let first = known("a", NOW);
        assert_eq!(first, addresses(MAX_OF_BRANCH).collect::<Vec<_>>());
        assert_eq!(
            known("a", NOW + KNOWN_FOR_MS - 1),
            first,
            "the same ones, however often"
        );
        assert_eq!(known("b", NOW), first, "each branch for itself");
        assert_eq!(known("a", NOW + 3 * KNOWN_FOR_MS).len(), MAX_OF_BRANCH);
        let last = addresses(5 * MAX_OF_BRANCH).last().unwrap();
        assert!(!vouched.may(branch("a"), last, NOW + 3 * KNOWN_FOR_MS));
        assert!(
            vouched.may(branch("a"), last, NOW + 5 * KNOWN_FOR_MS),
            "the others are forgotten"
        );
    }
}
