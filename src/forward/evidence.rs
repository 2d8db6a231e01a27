//! What the backend's answers say together, which one of them cannot say alone. Pure.
//!
//! A 404 may mean that the backend does not find this one order, or that `BACKEND_URL` is wrong; a redirect may be an accident.
//! Only new orders tell: news of an order is answered with 404 where the order is not there yet. That everything is answered so
//! is concluded from several different orders, with none in between that the backend took or refused for what it is. Orders of
//! one branch that the backend never knew say nothing of the URL while it knows others.

use std::collections::BTreeSet;

use super::classify::Request;
use crate::journal::codec::OrderKey;

/// So many different orders that were answered in the same way mean that everything is.
const DIFFERENT_ORDERS: usize = 3;
/// Branches that are remembered as known to the backend; one of more than these counts as unknown to it.
const MAX_BRANCHES: usize = 10_000;

/// What is known of the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No answer yet by which the backend could be known; a 404 may be the order's fault or the URL's.
    Unproven,
    /// There is a backend: an answer was about what it was asked.
    Proven,
    /// It answers 404 to everything.
    NotFound,
    /// It redirects everything.
    Redirects,
}

/// What its answers were since the last one by which the backend could be known.
#[derive(Debug, Default)]
pub struct Evidence {
    is_proven: bool,
    not_found: Vec<OrderKey>,
    /// Whose orders were not found; no more than tell that there are several.
    not_found_of: BTreeSet<String>,
    /// One of them is of a branch that the backend knew before, or of which no branch is known.
    is_of_known_branch: bool,
    redirected: Vec<OrderKey>,
    /// Branches of which the backend took something, ever.
    known_branches: BTreeSet<String>,
}

impl Evidence {
    /// Notes an answer about an order of a branch, and what is known with it.
    pub fn note(&mut self, request: Request, order: OrderKey, branch: Option<&str>, status: u16) -> Standing {
        match (status, request) {
            (404, Request::NewOrder) => {
                note(&mut self.not_found, order);
                self.is_of_known_branch |= branch.is_none_or(|branch| self.known_branches.contains(branch));
                if let Some(branch) = branch.filter(|_| self.not_found_of.len() < 2) {
                    self.not_found_of.insert(branch.to_owned());
                }
            }
            (300..=399, Request::NewOrder) => note(&mut self.redirected, order),
            // Whoever says so has looked at the order.
            (200..=299 | 400 | 409 | 413 | 422, _) => {
                let mut known_branches = std::mem::take(&mut self.known_branches);
                if let Some(branch) = branch.filter(|_| known_branches.len() < MAX_BRANCHES) {
                    known_branches.insert(branch.to_owned());
                }
                *self = Self {
                    is_proven: true,
                    known_branches,
                    ..Self::default()
                };
            }
            // What stands in between (a proxy, a gateway) can say the others, too.
            _ => {}
        }
        self.standing()
    }

    fn standing(&self) -> Standing {
        // While it answers others as it should, one branch that it never knew is that branch's trouble.
        let is_of_one_branch = self.is_proven && !self.is_of_known_branch && self.not_found_of.len() < 2;
        if self.not_found.len() >= DIFFERENT_ORDERS && !is_of_one_branch {
            Standing::NotFound
        } else if self.redirected.len() >= DIFFERENT_ORDERS {
            Standing::Redirects
        } else if self.is_proven {
            Standing::Proven
        } else {
            Standing::Unproven
        }
    }
}

fn note(orders: &mut Vec<OrderKey>, order: OrderKey) {
    if orders.len() < DIFFERENT_ORDERS && !orders.contains(&order) {
        orders.push(order);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> OrderKey {
        OrderKey::new("careem", &number.to_string())
    }

    #[test]
    fn one_order_proves_nothing_however_often_it_is_not_found() {
        let mut evidence = Evidence::default();
        for _ in 0..10 {
            assert_eq!(evidence.note(Request::NewOrder, key(1), None, 404), Standing::Unproven);
        }
        for number in 0..10 {
            assert_eq!(
                evidence.note(Request::StatusChange, key(number), None, 404),
                Standing::Unproven
            );
        }
        assert_eq!(evidence.note(Request::NewOrder, key(2), None, 404), Standing::Unproven);
        assert_eq!(evidence.note(Request::NewOrder, key(3), None, 404), Standing::NotFound);
        // News of an order is held up, too, once it is known.
        assert_eq!(
            evidence.note(Request::StatusChange, key(4), None, 404),
            Standing::NotFound
        );
        assert_eq!(
            evidence.note(Request::StatusChange, key(4), None, 200),
            Standing::Proven
        );
        assert_eq!(evidence.note(Request::NewOrder, key(5), None, 404), Standing::Proven);
    }

    #[test]
    fn one_branch_that_was_never_known_says_nothing_of_the_url() {
        let mut evidence = Evidence::default();
        let mut note = |branch, number, status| evidence.note(Request::NewOrder, key(number), Some(branch), status);
        assert_eq!(note("known", 0, 200), Standing::Proven);
        assert!((1..10).all(|number| note("new", number, 404) == Standing::Proven));
        assert_eq!(note("other", 10, 404), Standing::NotFound, "it is not one alone");
        assert_eq!(note("known", 11, 200), Standing::Proven);
        assert!((12..14).all(|number| note("known", number, 404) == Standing::Proven));
        assert_eq!(note("known", 14, 404), Standing::NotFound, "it knew this one before");
        // Before anything is known of the backend it may be the URL all the same.
        let mut evidence = Evidence::default();
        let mut note = |number| evidence.note(Request::NewOrder, key(number), Some("new"), 404);
        assert_eq!(
            [note(1), note(2), note(3)],
            [Standing::Unproven, Standing::Unproven, Standing::NotFound]
        );
    }

    proptest! {
        /// That everything is answered so is never concluded from fewer than three new orders since the last answer that
        /// proves the backend.
        #[test]
        fn concluded_from_different_new_orders_only(
            answers in prop::collection::vec((any::<bool>(), 0u8..5, prop::sample::select(vec![200u16, 302, 401, 404, 422, 500])), 1..60),
        ) {
            let mut evidence = Evidence::default();
            let mut since: Vec<(bool, u8, u16)> = Vec::new();
            for (is_new, number, status) in answers {
                let request = if is_new { Request::NewOrder } else { Request::StatusChange };
                if [200, 422].contains(&status) { since.clear(); }
                since.push((is_new, number, status));
                let of = |wanted: u16| since.iter().filter(|one| one.0 && one.2 == wanted).map(|one| one.1).collect::<HashSet<_>>().len();
                let standing = evidence.note(request, key(number), None, status);
                prop_assert_eq!(standing == Standing::NotFound, of(404) >= 3);
                prop_assert_eq!(standing == Standing::Redirects, of(302) >= 3 && of(404) < 3);
            }
        }
    }
}
