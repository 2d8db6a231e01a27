//! Which keys of rows a run has seen, so that it does not look for rows that cannot be there.
//!
//! Nearly every order on the log is new when its first event comes, and a look-up that finds nothing costs PostgreSQL as much as adding a
//! row to an index. While each row of the new tables is the run's own, a key that it has not seen has no row.

use std::sync::{Mutex, PoisonError};

use fastbloom::BloomFilter;

/// Size of the filter: 16 MB, whatever the length of the log. Of 10 million keys, three an order, it takes one in 200 for one that was
/// seen; of 30 million one in eight. Those are looked up.
const BITS: usize = 16 * 1024 * 1024 * 8;
/// Bits of a key. Four is the best number for 20 million keys.
const HASHES: u32 = 4;

/// The keys.
pub(in crate::projection) struct SeenKeys {
    /// None where rows may be there that the run has not written.
    filter: Mutex<Option<BloomFilter>>,
}

impl SeenKeys {
    /// Of tables that may have rows.
    pub(super) const fn unknown() -> Self {
        Self {
            filter: Mutex::new(None),
        }
    }

    /// From now on the tables, which are empty, have only rows of keys that this has seen.
    pub(super) fn begin(&self) {
        *self.filter() = Some(BloomFilter::with_num_bits(BITS).hashes(HASHES));
    }

    /// Rows come in another way.
    pub(super) fn end(&self) {
        *self.filter() = None;
    }

    /// Whether a row with this key may be there. `what` tells keys of one column from those of another. From then on the key is seen.
    pub(in crate::projection) fn may_be_there(&self, what: &str, key: (&str, &str)) -> bool {
        let mut filter = self.filter();
        filter.as_mut().is_none_or(|filter| filter.insert(&(what, key)))
    }

    fn filter(&self) -> std::sync::MutexGuard<'_, Option<BloomFilter>> {
        // No code panics while it holds the lock.
        self.filter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_looked_up_unless_it_is_new() {
        let seen = SeenKeys::unknown();
        assert!(seen.may_be_there("orders", ("careem", "CR-1")), "rows of others");
        seen.begin();
        let is_new = |what: &str, key| !seen.may_be_there(what, key);
        assert!(is_new("orders", ("careem", "CR-1")) && !is_new("orders", ("careem", "CR-1")));
        assert!(is_new("webhooks", ("careem", "CR-1")) && is_new("orders", ("talabat", "CR-1")));
        assert!(
            is_new("orders", ("caree", "mCR-1")),
            "the provider and the number are compared separately"
        );
        seen.end();
        assert!(seen.may_be_there("orders", ("careem", "CR-2")));
    }

    /// What it forgets would become a second row of an order; what it takes for seen costs time.
    #[test]
    fn no_key_is_forgotten_and_few_are_taken_for_seen() {
        const KEYS: usize = 300_000;
        let seen = SeenKeys::unknown();
        seen.begin();
        let mut mistaken = 0;
        for key in 0..KEYS {
            mistaken += usize::from(seen.may_be_there("orders", ("careem", &key.to_string())));
        }
        assert!(mistaken < KEYS / 10_000, "{mistaken}");
        for key in 0..KEYS {
            assert!(seen.may_be_there("orders", ("careem", &key.to_string())));
        }
    }
}
