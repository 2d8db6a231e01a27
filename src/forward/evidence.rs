//! What the backend's answers say together, which one of them cannot say alone. Pure.
//!
//! A 404 may mean that the backend does not find this one order, or that `BACKEND_URL` is wrong; a redirect may be an accident.
//! Only new orders tell: news of an order is answered with 404 where the order is not there yet. That everything is answered so
//! is concluded from several different orders, with none in between that the backend took or refused for what it is.

use super::classify::Request;
use crate::journal::codec::OrderKey;

/// So many different orders that were answered in the same way mean that everything is.
const DIFFERENT_ORDERS: usize = 3;

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
    redirected: Vec<OrderKey>,
}

impl Evidence {
    /// Notes an answer, and what is known with it.
    pub fn note(&mut self, request: Request, order: OrderKey, status: u16) -> Standing {
        match (status, request) {
            (404, Request::NewOrder) => note(&mut self.not_found, order),
            (300..=399, Request::NewOrder) => note(&mut self.redirected, order),
            // Whoever says so has looked at the order.
            (200..=299 | 400 | 409 | 413 | 422, _) => {
                *self = Self {
                    is_proven: true,
                    ..Self::default()
                };
            }
            // What stands in between (a proxy, a gateway) can say the others, too.
            _ => {}
        }
        self.standing()
    }

    fn standing(&self) -> Standing {
        if self.not_found.len() >= DIFFERENT_ORDERS {
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
            assert_eq!(evidence.note(Request::NewOrder, key(1), 404), Standing::Unproven);
        }
        for number in 0..10 {
            assert_eq!(
                evidence.note(Request::StatusChange, key(number), 404),
                Standing::Unproven
            );
        }
        assert_eq!(evidence.note(Request::NewOrder, key(2), 404), Standing::Unproven);
        assert_eq!(evidence.note(Request::NewOrder, key(3), 404), Standing::NotFound);
        // News of an order is held up, too, once it is known.
        assert_eq!(evidence.note(Request::StatusChange, key(4), 404), Standing::NotFound);
        assert_eq!(evidence.note(Request::StatusChange, key(4), 200), Standing::Proven);
        assert_eq!(evidence.note(Request::NewOrder, key(5), 404), Standing::Proven);
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
                let standing = evidence.note(request, key(number), status);
                prop_assert_eq!(standing == Standing::NotFound, of(404) >= 3);
                prop_assert_eq!(standing == Standing::Redirects, of(302) >= 3 && of(404) < 3);
            }
        }
    }
}
