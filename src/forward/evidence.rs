//! What the backend's answers prove together that one of them cannot prove alone. Pure.
//!
//! A 404 may mean that the backend does not find this one order, or that `BACKEND_URL` is wrong; a redirect may be an
//! accident. Only new orders are evidence: news of an order is answered 404 when the order is not there yet. The URL is
//! judged wrong after several different orders with such an answer, with none in between that the backend accepted or refused
//! for its content. Orders of one branch that the backend never knew are no evidence about the URL while it knows others.
//!
//! Until then the first of them cannot be judged either. So no order is given up for a 404 before the backend has answered a
//! later request as it should: an order that gets a 404 again after that is at fault itself.

use std::{collections::BTreeSet, num::NonZeroUsize, time::Instant};

use lru::LruCache;

use super::classify::RequestKind;
use crate::journal::codec::OrderKey;

/// So many different orders that were answered in the same way mean that everything is.
const DIFFERENT_ORDERS: usize = 3;
/// Branches that are remembered as known to the backend; one of more than these counts as unknown to it.
const MAX_BRANCHES: usize = 10_000;
/// Most remembered orders with a 404. A forgotten one gets one more request.
const MAX_DOUBTFUL: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// An answer, and to what.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// The kind of the request.
    pub request: RequestKind,
    /// About which order.
    pub order: OrderKey,
    /// Of which branch, where that is known.
    pub branch: Option<&'a str>,
    /// HTTP status.
    pub status: u16,
    /// When the request began.
    pub asked: Instant,
    /// When the answer came.
    pub came: Instant,
}

/// What the answers show about the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendEvidence {
    /// No answer yet by which the backend could be known; a 404 may be the order's fault or the URL's.
    Unproven,
    /// The URL is right: the backend gave an answer about an order.
    Proven,
    /// There is a backend, or was: whether this 404 is the order's fault is not known before it has answered to something later.
    Doubtful,
    /// It answers 404 to everything.
    NotFound,
    /// It redirects everything.
    Redirects,
}

/// The answers since the last one that proved the backend.
#[derive(Debug)]
pub struct Evidence {
    is_proven: bool,
    /// When the latest request was made with an answer that proved the backend.
    proof_asked: Option<Instant>,
    /// Orders, and news of them, with a 404, and when that came.
    doubtful: LruCache<(OrderKey, RequestKind), Instant>,
    not_found: Vec<OrderKey>,
    /// The branches of orders that were not found; no more than needed to see several.
    not_found_of: BTreeSet<String>,
    /// One of them is of a branch that the backend knew before, or of which no branch is known.
    is_of_known_branch: bool,
    redirected: Vec<OrderKey>,
    /// Branches of which the backend took something, ever.
    known_branches: BTreeSet<String>,
}

impl Default for Evidence {
    fn default() -> Self {
        Self {
            is_proven: false,
            proof_asked: None,
            doubtful: LruCache::new(MAX_DOUBTFUL),
            not_found: Vec::new(),
            not_found_of: BTreeSet::new(),
            is_of_known_branch: false,
            redirected: Vec::new(),
            known_branches: BTreeSet::new(),
        }
    }
}

impl Evidence {
    /// Notes an answer, and what is known with it.
    pub fn note(&mut self, answered: &Answered<'_>) -> BackendEvidence {
        let Answered {
            request,
            order,
            branch,
            status,
            ..
        } = *answered;
        match (status, request) {
            (404, RequestKind::NewOrder) => {
                note(&mut self.not_found, order);
                self.is_of_known_branch |= branch.is_none_or(|branch| self.known_branches.contains(branch));
                if let Some(branch) = branch.filter(|_| self.not_found_of.len() < 2) {
                    self.not_found_of.insert(branch.to_owned());
                }
            }
            (300..=399, RequestKind::NewOrder) => note(&mut self.redirected, order),
            // These answers show that the backend has checked the order.
            (200..=299 | 400 | 409 | 413 | 422, _) => {
                if let Some(branch) = branch.filter(|_| self.known_branches.len() < MAX_BRANCHES) {
                    self.known_branches.insert(branch.to_owned());
                }
                self.proven(answered.asked);
            }
            // Any other status may come from a proxy or gateway in between.
            _ => {}
        }
        let is_doubtful = status == 404 && self.is_doubtful(answered);
        match self.standing() {
            BackendEvidence::Proven if is_doubtful => BackendEvidence::Doubtful,
            BackendEvidence::Proven if (status, request) == (404, RequestKind::NewOrder) => {
                // The order is given up; a retry starts without this doubt.
                self.doubtful.pop(&(order, request));
                BackendEvidence::Proven
            }
            standing => standing,
        }
    }

    /// Earlier 404s and redirects no longer count as evidence.
    fn proven(&mut self, asked: Instant) {
        self.is_proven = true;
        self.proof_asked = self.proof_asked.max(Some(asked));
        self.not_found.clear();
        self.not_found_of.clear();
        self.is_of_known_branch = false;
        self.redirected.clear();
    }

    /// Whether the backend has answered to nothing yet that it was asked after the first 404 of this order.
    fn is_doubtful(&mut self, answered: &Answered<'_>) -> bool {
        let key = (answered.order, answered.request);
        let since = *self.doubtful.get_or_insert(key, || answered.came);
        self.proof_asked.is_none_or(|asked| asked <= since)
    }

    fn standing(&self) -> BackendEvidence {
        // While the backend answers other orders normally, 404s of one branch that it never knew concern that branch alone.
        let is_of_one_branch = self.is_proven && !self.is_of_known_branch && self.not_found_of.len() < 2;
        if self.not_found.len() >= DIFFERENT_ORDERS && !is_of_one_branch {
            BackendEvidence::NotFound
        } else if self.redirected.len() >= DIFFERENT_ORDERS {
            BackendEvidence::Redirects
        } else if self.is_proven {
            BackendEvidence::Proven
        } else {
            BackendEvidence::Unproven
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
    use std::{collections::HashSet, time::Duration};

    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> OrderKey {
        OrderKey::new("careem", &number.to_string())
    }

    /// An answer that comes at once; time goes on by a second from one to the next.
    struct Asking {
        evidence: Evidence,
        now: Instant,
    }

    impl Asking {
        fn new() -> Self {
            Self {
                evidence: Evidence::default(),
                now: Instant::now(),
            }
        }

        fn at(&mut self, request: RequestKind, number: u8, branch: Option<&str>, status: u16) -> BackendEvidence {
            self.now += Duration::from_secs(1);
            self.evidence.note(&Answered {
                request,
                order: key(number),
                branch,
                status,
                asked: self.now,
                came: self.now,
            })
        }

        fn order(&mut self, number: u8, status: u16) -> BackendEvidence {
            self.at(RequestKind::NewOrder, number, None, status)
        }
    }

    #[test]
    fn one_order_proves_nothing_however_often_it_is_not_found() {
        let mut asking = Asking::new();
        for _ in 0..10 {
            assert_eq!(asking.order(1, 404), BackendEvidence::Unproven);
        }
        for number in 0..10 {
            assert_eq!(
                asking.at(RequestKind::StatusChange, number, None, 404),
                BackendEvidence::Unproven
            );
        }
        assert_eq!(asking.order(2, 404), BackendEvidence::Unproven);
        assert_eq!(asking.order(3, 404), BackendEvidence::NotFound);
        // Once that is known, news of an order wait, too.
        assert_eq!(
            asking.at(RequestKind::StatusChange, 4, None, 404),
            BackendEvidence::NotFound
        );
        assert_eq!(
            asking.at(RequestKind::StatusChange, 4, None, 200),
            BackendEvidence::Proven
        );
        assert_eq!(asking.order(5, 404), BackendEvidence::Doubtful);
    }

    /// The backend was proven, and then answers 404 to everything: the first orders that meet this wait like all others.
    #[test]
    fn no_order_is_at_fault_before_the_backend_answered_to_something_later() {
        let mut asking = Asking::new();
        assert_eq!(asking.order(0, 200), BackendEvidence::Proven);
        assert_eq!(
            [asking.order(1, 404), asking.order(2, 404)],
            [BackendEvidence::Doubtful; 2]
        );
        assert_eq!(asking.order(1, 404), BackendEvidence::Doubtful, "however often");
        assert_eq!(asking.order(3, 404), BackendEvidence::NotFound);
        // The URL is fixed; one order is still not found.
        assert_eq!(asking.order(1, 200), BackendEvidence::Proven);
        assert_eq!(asking.order(2, 404), BackendEvidence::Proven);
        assert_eq!(
            asking.order(2, 404),
            BackendEvidence::Doubtful,
            "a retry by a person begins anew"
        );
    }

    /// An answer that was asked for before the 404 came says nothing about what the backend does since.
    #[test]
    fn an_answer_to_an_earlier_request_proves_nothing() {
        let mut asking = Asking::new();
        asking.order(0, 200);
        let earlier = asking.now;
        assert_eq!(asking.order(1, 404), BackendEvidence::Doubtful);
        let late = Answered {
            request: RequestKind::NewOrder,
            order: key(2),
            branch: None,
            status: 200,
            asked: earlier,
            came: asking.now + Duration::from_secs(1),
        };
        assert_eq!(asking.evidence.note(&late), BackendEvidence::Proven);
        assert_eq!(asking.order(1, 404), BackendEvidence::Doubtful);
        asking.order(2, 200);
        assert_eq!(asking.order(1, 404), BackendEvidence::Proven);
    }

    #[test]
    fn an_unknown_branch_is_no_evidence_about_the_url() {
        let mut asking = Asking::new();
        let mut note = |branch, number, status| asking.at(RequestKind::NewOrder, number, Some(branch), status);
        assert_eq!(note("known", 0, 200), BackendEvidence::Proven);
        assert!((1..10).all(|number| note("new", number, 404) == BackendEvidence::Doubtful));
        assert_eq!(note("other", 10, 404), BackendEvidence::NotFound, "it is not one alone");
        assert_eq!(note("known", 11, 200), BackendEvidence::Proven);
        assert_eq!(note("new", 1, 404), BackendEvidence::Proven, "others were taken since");
        assert_eq!(note("known", 11, 200), BackendEvidence::Proven);
        assert!((12..14).all(|number| note("known", number, 404) == BackendEvidence::Doubtful));
        assert_eq!(
            note("known", 14, 404),
            BackendEvidence::NotFound,
            "it knew this one before"
        );
        // Before the backend has accepted anything, the URL may be wrong.
        let mut asking = Asking::new();
        let mut note = |number| asking.at(RequestKind::NewOrder, number, Some("new"), 404);
        assert_eq!(
            [note(1), note(2), note(3)],
            [
                BackendEvidence::Unproven,
                BackendEvidence::Unproven,
                BackendEvidence::NotFound
            ]
        );
    }

    proptest! {
        /// That everything is answered so is never concluded from fewer than three new orders since the last answer that
        /// proves the backend; and no order is at fault for a 404 without such an answer between two of its own.
        #[test]
        fn concluded_from_different_new_orders_only(
            answers in prop::collection::vec((any::<bool>(), 0u8..5, prop::sample::select(vec![200u16, 302, 401, 404, 422, 500])), 1..60),
        ) {
            let mut asking = Asking::new();
            let mut since: Vec<(bool, u8, u16)> = Vec::new();
            let mut before_proof: HashSet<(bool, u8)> = HashSet::new();
            for (is_new, number, status) in answers {
                let request = if is_new { RequestKind::NewOrder } else { RequestKind::StatusChange };
                if [200, 422].contains(&status) {
                    before_proof.extend(since.iter().filter(|one| one.2 == 404).map(|one| (one.0, one.1)));
                    since.clear();
                }
                since.push((is_new, number, status));
                let of = |wanted: u16| since.iter().filter(|one| one.0 && one.2 == wanted).map(|one| one.1).collect::<HashSet<_>>().len();
                let standing = asking.at(request, number, None, status);
                prop_assert_eq!(standing == BackendEvidence::NotFound, of(404) >= 3);
                prop_assert_eq!(standing == BackendEvidence::Redirects, of(302) >= 3 && of(404) < 3);
                if status == 404 && standing == BackendEvidence::Proven {
                    prop_assert!(before_proof.contains(&(is_new, number)));
                }
            }
        }
    }
}
