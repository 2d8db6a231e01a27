//! Decides what is at fault if a provider refuses the hub's credentials (401) or fails: one branch, or the credentials and the provider as a
//! whole. Pure: the time is passed in.
//!
//! A branch with a row that names a foreign store is refused whatever the token is, and only its own requests fail. When
//! several branches are refused, and none is accepted meanwhile, the credentials are the cause.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

/// So many branches must be refused, with none taken between, before the provider's breaker opens. Two rows that are wrong
/// happen: one is copied from the other.
const SEVERAL: usize = 3;
/// How long after a new token was refused for a branch no other is asked for because of it. Each token costs a request, and
/// some providers end the one before.
const NO_OTHER_TOKEN: Duration = Duration::from_secs(60);
/// Branches that are remembered; of more than these a new token may be asked for more often.
const MAX_BRANCHES: usize = 10_000;

/// The refusals of one provider.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Branches that were refused since one was taken.
    in_a_row: BTreeSet<String>,
    /// When a token that was new was refused, by branch.
    with_new_token: HashMap<String, Instant>,
}

impl Refusals {
    /// A request of this branch was refused, with a token that could not be better. Whether several branches agree.
    pub fn refused(&mut self, now: Instant, branch: &str) -> bool {
        self.note_new_token(now, branch);
        if self.in_a_row.len() < SEVERAL {
            self.in_a_row.insert(branch.to_owned());
        }
        self.in_a_row.len() >= SEVERAL
    }

    /// A token that could not be better was refused, which says nothing about the provider.
    pub fn note_new_token(&mut self, now: Instant, branch: &str) {
        if self.with_new_token.len() >= MAX_BRANCHES {
            self.with_new_token
                .retain(|_, at| now.saturating_duration_since(*at) < NO_OTHER_TOKEN);
        }
        if self.with_new_token.len() < MAX_BRANCHES || self.with_new_token.contains_key(branch) {
            // Only the first time is recorded, so a branch that is retried often still gets another token from time to time.
            if self.may_ask_for_another(now, branch) {
                self.with_new_token.insert(branch.to_owned(), now);
            }
        }
    }

    /// A request of this branch was taken: the credentials are good.
    pub fn taken(&mut self, branch: &str) {
        self.in_a_row.clear();
        self.with_new_token.remove(branch);
    }

    /// Whether another token may help this branch.
    pub fn may_ask_for_another(&self, now: Instant, branch: &str) -> bool {
        let last = self.with_new_token.get(branch);
        last.is_none_or(|at| now.saturating_duration_since(*at) >= NO_OTHER_TOKEN)
    }
}

/// Which branches a provider fails for (5xx, no answer in time) since it answered one as it should. A single one is no reason
/// to tell the others nothing.
#[derive(Debug, Default)]
pub struct Troubles {
    first: Option<String>,
    several: bool,
}

impl Troubles {
    /// A request of this branch failed. Whether it is the provider that fails: for more than one branch.
    pub fn failed(&mut self, branch: &str) -> bool {
        match &self.first {
            None => self.first = Some(branch.to_owned()),
            Some(first) => self.several |= first != branch,
        }
        self.several
    }

    /// A request was answered as it should be.
    pub fn over(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_branches_must_agree() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        assert!(
            (0..100).all(|_| !refusals.refused(now, "b-1")),
            "one alone is its own fault"
        );
        assert!(!refusals.refused(now, "b-2"));
        refusals.taken("b-9");
        assert!(!refusals.refused(now, "b-3") && !refusals.refused(now, "b-2"));
        assert!(refusals.refused(now, "b-1"), "three, and none was taken between");
        assert!(refusals.refused(now, "b-1"), "a trial that is refused says the same");
        refusals.taken("b-1");
        assert!(!refusals.refused(now, "b-1"));
    }

    #[test]
    fn a_branch_that_is_refused_costs_a_token_a_minute() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        assert!(refusals.may_ask_for_another(now, "b-1"));
        refusals.refused(now, "b-1");
        let later = now + NO_OTHER_TOKEN - Duration::from_secs(1);
        refusals.refused(later, "b-1");
        assert!(!refusals.may_ask_for_another(later, "b-1"));
        assert!(refusals.may_ask_for_another(later, "b-2"));
        assert!(refusals.may_ask_for_another(now + NO_OTHER_TOKEN, "b-1"));
        refusals.taken("b-1");
        assert!(refusals.may_ask_for_another(later, "b-1"));
    }

    #[test]
    fn one_branch_that_fails_says_nothing_about_the_provider() {
        let mut troubles = Troubles::default();
        assert!((0..100).all(|_| !troubles.failed("b-1")));
        assert!(troubles.failed("b-2") && troubles.failed("b-1"));
        troubles.over();
        assert!(!troubles.failed("b-2"));
    }

    #[test]
    fn remembered_branches_are_limited() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        for number in 0..MAX_BRANCHES + 10 {
            refusals.refused(now, &number.to_string());
        }
        assert_eq!(refusals.with_new_token.len(), MAX_BRANCHES);
        refusals.refused(now + NO_OTHER_TOKEN, "b-new");
        assert_eq!(refusals.with_new_token.len(), 1);
    }
}
