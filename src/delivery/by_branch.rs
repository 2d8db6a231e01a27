//! Counts of what waits, by branch.

use std::{collections::HashMap, sync::Arc};

/// As many as are counted at a time have a name here.
#[derive(Debug, Default)]
pub(super) struct ByBranch(HashMap<Arc<str>, u64>);

impl ByBranch {
    /// So many more of this branch; its name, which is kept once.
    pub(super) fn add(&mut self, branch: &str, count: u64) -> Arc<str> {
        let known = self.0.get_key_value(branch);
        let name = known.map_or_else(|| Arc::from(branch), |(name, _)| Arc::clone(name));
        *self.0.entry(Arc::clone(&name)).or_default() += count;
        name
    }

    /// So many fewer.
    pub(super) fn remove(&mut self, branch: &str, count: u64) {
        if let Some(known) = self.0.get_mut(branch) {
            *known = known.saturating_sub(count);
            if *known == 0 {
                self.0.remove(branch);
            }
        }
    }

    /// How many are counted.
    pub(super) fn of(&self, branch: &str) -> u64 {
        self.0.get(branch).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_has_one_name_until_it_is_gone() {
        let mut counts = ByBranch::default();
        let names = [counts.add("b-1", 2), counts.add("b-1", 1)];
        assert!(Arc::ptr_eq(&names[0], &names[1]));
        assert_eq!((counts.of("b-1"), counts.of("b-2")), (3, 0));
        counts.remove("b-1", 1);
        assert_eq!(counts.of("b-1"), 2);
        counts.remove("b-1", 2);
        counts.remove("b-2", 1);
        assert!(counts.0.is_empty());
    }
}
