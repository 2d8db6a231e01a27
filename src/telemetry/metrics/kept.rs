//! Handles of metrics that are counted for each webhook or event. They are kept, because a look-up in the recorder's registry
//! costs more than the count itself.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{PoisonError, RwLock},
};

/// Most handles that are kept by one [`HandleCache`]; beyond that each is looked up.
const MAX_KEPT: usize = 4096;

/// Handles by what their labels say, made when they are first needed.
#[derive(Debug)]
pub struct HandleCache<K, H>(RwLock<HashMap<K, H>>);

impl<K, H> Default for HandleCache<K, H> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Clone + Eq + Hash, H: Clone> HandleCache<K, H> {
    /// The handle of this key; `make` asks the recorder for it.
    pub fn of(&self, key: &K, make: impl FnOnce(&K) -> H) -> H {
        if let Some(handle) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return handle.clone();
        }
        let handle = make(key);
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MAX_KEPT {
            kept.insert(key.clone(), handle.clone());
        }
        handle
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_handle_is_made_once_and_no_more_are_kept_than_that() {
        let (kept, made) = (HandleCache::default(), Cell::new(0));
        let of = |key: usize| {
            kept.of(&key, |key| {
                made.set(made.get() + 1);
                *key
            })
        };
        for key in (0..=MAX_KEPT).chain(0..MAX_KEPT) {
            assert_eq!(of(key), key);
        }
        assert_eq!(made.get(), MAX_KEPT + 1);
        of(MAX_KEPT);
        assert_eq!(made.get(), MAX_KEPT + 2);
    }
}
