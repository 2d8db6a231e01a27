//! Which stages this instance works on.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The stages that an instance works on now, by name; for health and `stage_active`. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Roles(Arc<Mutex<BTreeSet<&'static str>>>);

impl Roles {
    /// This instance works on a stage for as long as the result lives.
    #[must_use]
    pub fn take(&self, stage: &'static str) -> Role {
        self.lock().insert(stage);
        show(stage, 1.0);
        Role {
            roles: self.clone(),
            stage,
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<&'static str> {
        self.lock().iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        // No code panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Roles::take`].
#[derive(Debug)]
pub struct Role {
    roles: Roles,
    stage: &'static str,
}

impl Drop for Role {
    fn drop(&mut self) {
        self.roles.lock().remove(self.stage);
        show(self.stage, 0.0);
    }
}

fn show(stage: &'static str, value: f64) {
    metrics::gauge!("stage_active", "stage" => stage).set(value);
}
