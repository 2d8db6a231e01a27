//! What one branch may take of its provider's quota: a number of points in a window, by webhooks that its own secret proved.
//! Pure; the time is passed in.
//!
//! The windows are those of the provider's quota. Each instance counts for itself, and grants a branch its part divided by
//! the number of instances. So no branch spends the quota of the others, and the counter that all instances share has one
//! number a provider.

use std::{collections::HashMap, sync::Arc};

/// Points that branches took in the window of now. Of a branch that took none nothing is kept, so there are never more than the
/// provider's points.
#[derive(Debug)]
pub struct BranchShares {
    points: u64,
    length_ms: u64,
    /// Which window: time since 1970 by the window's length.
    number: u64,
    taken: HashMap<Arc<str>, u64>,
}

impl BranchShares {
    /// Of so many points a branch in a window of the provider's quota.
    pub fn new(points: u64, length_ms: u64) -> Self {
        Self {
            points,
            length_ms: length_ms.max(1),
            number: 0,
            taken: HashMap::new(),
        }
    }

    /// Takes so many points, which may be the last ones and some more; of which window.
    ///
    /// # Errors
    /// Milliseconds until the window ends, at least 1.
    pub fn take(&mut self, branch: &Arc<str>, points: u64, now_ms: u64, instances: u64) -> Result<u64, u64> {
        let number = now_ms / self.length_ms;
        if number != self.number {
            self.number = number;
            self.taken.clear();
        }
        let share = self.points.div_ceil(instances.max(1));
        let taken = self.taken.get(branch).copied().unwrap_or_default();
        if taken >= share {
            return Err((number + 1) * self.length_ms - now_ms);
        }
        self.taken.insert(Arc::clone(branch), taken + points);
        Ok(number)
    }

    /// Gives points back that were taken for nothing.
    pub fn give_back(&mut self, branch: &Arc<str>, window: u64, points: u64) {
        if self.number == window
            && let Some(taken) = self.taken.get_mut(branch)
        {
            *taken = taken.saturating_sub(points);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_branch_has_its_own_points_in_each_window() {
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let mut shares = BranchShares::new(2, 1000);
        assert_eq!(shares.take(&a, 1, 5_300, 1), Ok(5));
        assert_eq!(shares.take(&a, 1, 5_400, 1), Ok(5));
        assert_eq!(shares.take(&a, 1, 5_400, 1), Err(600));
        assert_eq!(shares.take(&b, 1, 5_999, 1), Ok(5));
        shares.give_back(&a, 4, 1);
        assert_eq!(shares.take(&a, 1, 5_999, 1), Err(1));
        shares.give_back(&a, 5, 1);
        assert_eq!(shares.take(&a, 1, 5_999, 1), Ok(5));
        assert_eq!(shares.take(&a, 1, 6_000, 1), Ok(6));
        assert!(!shares.taken.contains_key(&b), "an old window is forgotten");
        // A large webhook takes the points of many.
        assert_eq!(shares.take(&b, 80, 6_000, 1), Ok(6));
        assert!(shares.take(&b, 1, 6_000, 1).is_err());
    }

    #[test]
    fn each_instance_has_at_least_one_point() {
        let a = Arc::from("a");
        let mut shares = BranchShares::new(4, 1000);
        let taken = (0..9).filter(|_| shares.take(&a, 1, 1_000, 3).is_ok()).count();
        assert_eq!(taken, 2);
        let mut shares = BranchShares::new(1, 1000);
        assert!(shares.take(&a, 1, 1_000, 100).is_ok());
    }
}
