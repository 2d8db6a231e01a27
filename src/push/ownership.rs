//! Of which branch the order is that a provider is told about, where the request names the order alone.
//!
//! Such a provider knows an order by its number, and does what the platform's credentials ask for. But a branch may announce any number
//! by its own secret. So a number is the branch's for which the provider announced it. Where only branches announced it, it is the
//! first one's: before an order is announced, only its own branch and the provider know a number that cannot be guessed.

use std::collections::BTreeSet;

use super::{Push, branch::away};
use crate::{
    event::{
        Recorded,
        outcome::{ErrorReport, ErrorType, NOT_YOURS, ORDER_AMBIGUOUS},
        stage::PUSH,
    },
    retry::Failure,
};

/// A branch for which an order's number was announced.
#[derive(Debug, Clone, Copy)]
struct Claim<'a> {
    branch: &'a str,
    /// By the provider, and not by the branch's own secret.
    is_by_provider: bool,
    /// Place on the log.
    sequence: u64,
}

impl<'a> Claim<'a> {
    fn of(announced: &'a Recorded) -> Option<Self> {
        Some(Self {
            branch: announced.envelope.branch.as_deref()?,
            is_by_provider: announced.envelope.principal.branch().is_none(),
            sequence: announced.sequence,
        })
    }
}

/// Whether the provider understands a number as the order that is meant.
#[derive(Debug, PartialEq, Eq)]
enum Meant {
    /// It does, as far as is known.
    Clear,
    /// It is the order of another branch.
    Anothers,
    /// Several branches announced it, and none is named.
    Several,
}

/// Whose a number is, of that branch or of none that is named.
fn meant(claims: &[Claim<'_>], branch: Option<&str>) -> Meant {
    let by_provider = claims.iter().filter(|claim| claim.is_by_provider);
    let by_provider: BTreeSet<&str> = by_provider.map(|claim| claim.branch).collect();
    let first = claims.iter().min_by_key(|claim| claim.sequence);
    let is_clear = match branch {
        Some(branch) if by_provider.is_empty() => first.is_none_or(|first| first.branch == branch),
        Some(branch) => by_provider.contains(branch),
        None => {
            let branches: BTreeSet<&str> = claims.iter().map(|claim| claim.branch).collect();
            if by_provider.is_empty() && branches.len() > 1 {
                return Meant::Several;
            }
            true
        }
    };
    if is_clear { Meant::Clear } else { Meant::Anothers }
}

/// The backend has to say which branch it means.
pub(super) fn ambiguous() -> ErrorReport {
    let message = "several branches have an order of that number; ask again with branchId, or with the orderId of a forwarded order";
    ErrorReport::new(ErrorType::Validation, ORDER_AMBIGUOUS, message)
}

impl Push {
    /// Why the provider is told nothing about an order on behalf of a branch: by the number alone it would take it for another
    /// branch's order.
    ///
    /// # Errors
    /// If NATS does not answer.
    pub(super) async fn not_meant(
        &self,
        event: &Recorded,
        branch: Option<&str>,
    ) -> Result<Option<ErrorReport>, Failure> {
        let envelope = &event.envelope;
        let branch = branch.or(envelope.principal.branch().map(|own| &**own));
        self.orders.know_all_before(event).await.map_err(|error| away(&error))?;
        let announced = self.orders.announcements_of_others(event, branch).await;
        let announced = announced.map_err(|error| away(&error))?;
        let claims: Vec<_> = announced.iter().filter_map(Claim::of).collect();
        Ok(match meant(&claims, branch) {
            Meant::Clear => None,
            Meant::Several => Some(ambiguous()),
            Meant::Anothers => {
                let provider = envelope.provider.to_string();
                metrics::counter!("not_yours_total", "provider" => provider, "stage" => PUSH.name).increment(1);
                let message = format!(
                    "branch {} may not act for order {}: the provider is told the number alone, and another branch has that order",
                    branch.unwrap_or_default(),
                    envelope.external_order_id
                );
                Some(ErrorReport::new(ErrorType::Validation, NOT_YOURS, message))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_providers_word_counts_and_then_the_first_branchs() {
        let of = |claims: &[(&'static str, bool)], branch| {
            let claims = claims
                .iter()
                .zip(1..)
                .map(|((branch, is_by_provider), sequence)| Claim {
                    branch,
                    is_by_provider: *is_by_provider,
                    sequence,
                });
            meant(&claims.collect::<Vec<_>>(), branch)
        };
        let all = |claims: &[(&'static str, bool)]| [Some("a"), Some("b"), None].map(|branch| of(claims, branch));
        use Meant::{Anothers, Clear, Several};
        assert_eq!(all(&[]), [Clear, Clear, Clear]);
        assert_eq!(all(&[("b", false)]), [Anothers, Clear, Clear]);
        assert_eq!(all(&[("b", false), ("a", false)]), [Anothers, Clear, Several]);
        assert_eq!(all(&[("a", false), ("b", true)]), [Anothers, Clear, Clear]);
        assert_eq!(all(&[("b", true), ("a", false), ("a", true)]), [Clear, Clear, Clear]);
    }
}
