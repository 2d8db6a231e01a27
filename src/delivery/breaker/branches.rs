//! What the breaker knows of each branch: what it counted, and whether the branch's requests wait.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    FailingBranch, Permit, RequestOutcome, TRIALS,
    counts::{Counts, WINDOW, WindowSum},
};

/// Most branches that are known at a time. More share one entry.
pub(super) const MAX_BRANCHES: usize = 10_000;
/// That entry.
const OTHERS: &str = "";
/// How often branches without recent requests are looked for, when there are many.
const TIDY_EVERY: Duration = Duration::from_secs(3);
/// How long a branch is known after its last request began or ended: longer than a request may take.
const KEEP: Duration = Duration::from_secs(900);
/// How long a failing branch is known after its last request.
const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// Most failing branches that are reported to other instances, and most bytes of each one's name.
pub const MAX_REPORTED: usize = 16;
const MAX_NAME_BYTES: usize = 64;
/// Most bytes of a failure's code that are kept. The hub's codes are shorter.
const MAX_CODE_BYTES: usize = 48;

/// The backend fails for a branch: its requests wait, then a few are trials.
#[derive(Debug)]
struct Failing {
    until: Instant,
    begun: u32,
    succeeded: u32,
    facts: FailingFacts,
}

/// For people.
#[derive(Debug, Clone)]
struct FailingFacts {
    since: Instant,
    waiting: u64,
    code: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Branch {
    counts: Counts,
    failing: Option<Failing>,
    /// At the next trials of all, other branches go first until then.
    yields_until: Option<Instant>,
    /// Number of the state that it is in, as in the breaker.
    turn: u64,
    last: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Branches {
    known: HashMap<Arc<str>, Branch>,
    /// Number of the newest state of any branch.
    turns: u64,
    tidied: Option<Instant>,
    /// How many failing branches another instance has beside those that it named.
    unnamed: usize,
}

/// What a request's outcome says about its branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BranchNews {
    /// The request began in an earlier state of its branch.
    Stale,
    /// It was not made after all, or says nothing.
    Nothing,
    /// It was answered.
    Answered,
    /// It failed; why the requests of the branch are to wait from now on, if they are.
    Failed(Option<String>),
    /// A trial failed of a branch that was known to fail.
    FailedAgain,
}

impl Branches {
    /// How long the branch's requests wait; zero: until its trials have ended.
    pub(super) fn wait(&self, now: Instant, branch: &str) -> Option<Duration> {
        let failing = self.find(branch)?.failing.as_ref()?;
        match failing.until.checked_duration_since(now).filter(|left| !left.is_zero()) {
            Some(left) => Some(left),
            None => (failing.begun >= TRIALS).then_some(Duration::ZERO),
        }
    }

    /// How long it lets other branches go first.
    pub(super) fn yields(&self, now: Instant, branch: &str) -> Option<Duration> {
        let until = self.find(branch)?.yields_until?;
        until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    fn find(&self, branch: &str) -> Option<&Branch> {
        match self.known.get(branch) {
            Some(known) => Some(known),
            None if self.known.len() >= MAX_BRANCHES => self.known.get(OTHERS),
            None => None,
        }
    }

    /// A request of the branch begins: the name under which it is counted, its state, and whether it is a trial of the branch.
    pub(super) fn begin(&mut self, now: Instant, branch: &str) -> (Arc<str>, u64, bool) {
        self.unnamed = 0;
        let name = self.name(now, branch);
        let turns = &mut self.turns;
        let branch = self.known.entry(Arc::clone(&name)).or_insert_with(|| Branch {
            turn: next(turns),
            ..Branch::default()
        });
        branch.last = Some(now);
        if let Some(failing) = &mut branch.failing {
            failing.begun += 1;
        }
        (name, branch.turn, branch.failing.is_some())
    }

    fn name(&mut self, now: Instant, branch: &str) -> Arc<str> {
        if let Some((name, _)) = self.known.get_key_value(branch) {
            return Arc::clone(name);
        }
        if self.known.len() >= MAX_BRANCHES {
            self.tidy(now);
        }
        let is_full = self.known.len() >= MAX_BRANCHES;
        Arc::from(if is_full { OTHERS } else { branch })
    }

    /// Forgets branches without recent requests, at times; returns whether it is such a time.
    pub(super) fn tidy(&mut self, now: Instant) -> bool {
        if self
            .tidied
            .is_some_and(|last| now.saturating_duration_since(last) < TIDY_EVERY)
        {
            return false;
        }
        self.tidied = Some(now);
        self.known.retain(|_, branch| {
            let idle = branch
                .last
                .map_or(FORGET_AFTER, |last| now.saturating_duration_since(last));
            let is_needed = branch.failing.is_some() || branch.yields_until.is_some_and(|until| until > now);
            idle < if is_needed { FORGET_AFTER } else { KEEP }
        });
        true
    }

    /// Notes how a request ended. A trial of a branch that fails makes it wait anew.
    pub(super) fn record(
        &mut self,
        now: Instant,
        permit: &Permit,
        outcome: &RequestOutcome,
        (threshold, pause): (u32, Duration),
    ) -> BranchNews {
        let known = self.known.get_mut(&permit.branch);
        let Some(branch) = known.filter(|branch| branch.turn == permit.branch_turn) else {
            return BranchNews::Stale;
        };
        branch.last = Some(now);
        match (outcome, &mut branch.failing) {
            (RequestOutcome::Success, None) => branch.counts.succeeded(permit.begun),
            (RequestOutcome::Success, Some(failing)) => {
                failing.succeeded += 1;
                if failing.succeeded >= TRIALS {
                    branch.turn = next(&mut self.turns);
                    branch.failing = None;
                }
                branch.counts.succeeded(permit.begun);
            }
            (RequestOutcome::Failure, None) => {
                return BranchNews::Failed(branch.counts.failed(now, permit.begun, threshold));
            }
            (RequestOutcome::Failure, Some(_)) => {
                self.fails(&permit.branch, now, now + pause);
                return BranchNews::FailedAgain;
            }
            (RequestOutcome::Misconfigured(_) | RequestOutcome::Abandoned, failing) => {
                if let Some(failing) = failing {
                    failing.begun = failing.begun.saturating_sub(1);
                }
                return BranchNews::Nothing;
            }
        }
        BranchNews::Answered
    }

    /// The branch's requests wait until then.
    pub(super) fn fails(&mut self, name: &Arc<str>, now: Instant, until: Instant) {
        let known = self.known.get(name).and_then(|known| known.failing.as_ref());
        let facts = known.map(|failing| failing.facts.clone());
        let failing = Failing {
            until,
            begun: 0,
            succeeded: 0,
            facts: facts.unwrap_or(FailingFacts {
                since: now,
                waiting: 0,
                code: None,
            }),
        };
        let branch = Branch {
            failing: Some(failing),
            turn: next(&mut self.turns),
            last: Some(now),
            ..Branch::default()
        };
        self.known.insert(Arc::clone(name), branch);
    }

    /// Notes the code of the last failure of a branch, if it is failing.
    pub(super) fn note_code(&mut self, branch: &str, code: &str) {
        let known = self.known.get_mut(branch).and_then(|branch| branch.failing.as_mut());
        if let Some(failing) = known {
            failing.facts.code = kept(code);
        }
    }

    /// Notes how many events wait of each failing branch.
    pub(super) fn note_waiting(&mut self, count: impl Fn(&str) -> u64) {
        for (name, branch) in &mut self.known {
            if let Some(failing) = &mut branch.failing {
                failing.facts.waiting = count(name);
            }
        }
    }

    /// The breaker opened for all: no branch is at fault alone. The ones that failed let the others go first until then.
    pub(super) fn all_wait(&mut self, failed: &[Arc<str>], yield_until: Instant) {
        for (name, branch) in &mut self.known {
            let yields = branch.failing.is_some() || failed.contains(name);
            *branch = Branch {
                yields_until: yields.then_some(yield_until),
                turn: next(&mut self.turns),
                last: branch.last,
                ..Branch::default()
            };
        }
    }

    /// Whether another branch than this was answered lately.
    pub(super) fn others_answered(&self, now: Instant, name: &str) -> bool {
        let lately = |branch: &Branch| {
            let answered = branch.counts.answered;
            answered.is_some_and(|at| now.saturating_duration_since(at) < WINDOW)
        };
        let mut others = self.known.iter().filter(|(known, _)| &***known != name);
        others.any(|(_, branch)| branch.failing.is_none() && lately(branch))
    }

    /// What each branch counted.
    pub(super) fn sums(&self, now: Instant) -> impl Iterator<Item = WindowSum> {
        self.known.values().map(move |branch| branch.counts.window.sum(now))
    }

    /// Whether the backend fails for this branch.
    pub(super) fn is_failing(&self, name: &str) -> bool {
        self.known.get(name).is_some_and(|branch| branch.failing.is_some())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// How many branches the backend fails for.
    pub(super) fn count_failing(&self) -> usize {
        let named = self.known.values().filter(|branch| branch.failing.is_some());
        named.count() + self.unnamed
    }

    /// For other instances and for people: the failing branches, this one first, then those that most events wait for.
    pub(super) fn report(&self, now: Instant, first: Option<&Arc<str>>) -> Vec<FailingBranch> {
        let failing = self.known.iter().filter_map(|(name, branch)| {
            let failing = branch.failing.as_ref()?;
            (name.len() <= MAX_NAME_BYTES).then(|| FailingBranch {
                branch: Arc::clone(name),
                remaining: failing.until.saturating_duration_since(now),
                since: now.saturating_duration_since(failing.facts.since),
                waiting: failing.facts.waiting,
                code: failing.facts.code.clone(),
            })
        });
        let mut failing: Vec<_> = failing.collect();
        failing.sort_by(|a, b| {
            let place = |one: &FailingBranch| (first != Some(&one.branch), Reverse(one.waiting));
            (place(a), &a.branch).cmp(&(place(b), &b.branch))
        });
        failing.truncate(MAX_REPORTED);
        failing
    }

    /// What another instance reported, and how many there are in all, in place of all that was known.
    pub(super) fn adopt(&mut self, now: Instant, (failing, in_all): (&[FailingBranch], usize), longest: Duration) {
        self.known.clear();
        for one in failing.iter().take(MAX_REPORTED) {
            self.fails(&one.branch, now, now + one.remaining.min(longest));
            if let Some(failing) = self.known.get_mut(&one.branch).and_then(|known| known.failing.as_mut()) {
                failing.facts = FailingFacts {
                    // A clock that began later than that cannot say it.
                    since: now.checked_sub(one.since).unwrap_or(now),
                    waiting: one.waiting,
                    code: one.code.as_deref().and_then(kept),
                };
            }
        }
        self.unnamed = in_all.saturating_sub(self.known.len());
    }
}

/// A code, unless it is too long to be one.
fn kept(code: &str) -> Option<Arc<str>> {
    (code.len() <= MAX_CODE_BYTES).then(|| Arc::from(code))
}

fn next(turns: &mut u64) -> u64 {
    *turns += 1;
    *turns
}
