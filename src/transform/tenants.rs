//! For which branch a webhook may act: its claim, compared with the principal that verification found.
//!
//! A webhook names stores in its header, its body and its document, and orders by their number. All of that is unproven.
//! [`allow`] is the only way from a claimed branch to an [`Allowed`] one, and nothing is made of a webhook without it.

use super::{NotYet, Transform, news_branch::OfNews};
use crate::{
    branches::BranchLookup,
    event::{NotYours, Principal, Recorded},
    order::body::BranchRef,
    provider::{Content, Fact, StoreOfDocument, merchant_header},
};

/// A branch that the webhook's principal may act for.
#[derive(Debug)]
pub(super) struct Allowed(BranchRef);

impl Allowed {
    /// The id of the branch.
    pub(super) fn id(&self) -> &str {
        &self.0.branch_id
    }

    /// The branch.
    pub(super) const fn branch(&self) -> &BranchRef {
        &self.0
    }

    /// The same.
    pub(super) fn into_branch(self) -> BranchRef {
        self.0
    }
}

/// The result of checking a claim.
#[derive(Debug)]
pub(super) enum Resolved {
    /// The webhook goes on, for this branch.
    Allowed(Allowed),
    /// No active row fits.
    NotFound,
    /// The claimed branch is another one's.
    NotYours(NotYours),
    /// News of an order that several branches may have.
    Several,
}

/// Holds a claimed branch against the principal.
///
/// # Errors
/// If the table of branches cannot be read.
pub(super) fn allow(principal: &Principal, claimed: BranchLookup) -> Result<Resolved, NotYet> {
    Ok(match claimed {
        BranchLookup::Found(branch) => match principal.may_act_for(&branch.branch_id) {
            Ok(()) => Resolved::Allowed(Allowed(branch)),
            Err(not_yours) => Resolved::NotYours(not_yours),
        },
        BranchLookup::NotFound => Resolved::NotFound,
        BranchLookup::Unknown => return Err(NotYet::Branches),
    })
}

impl Transform {
    /// The branch of a webhook: of a new order by its store, of news by their order.
    ///
    /// # Errors
    /// If that cannot be known yet.
    pub(super) async fn resolve(&self, received: &Recorded, fact: &Fact) -> Result<Resolved, NotYet> {
        let (envelope, store) = (&received.envelope, fact.store_ref.as_deref());
        let claimed = match (&fact.content, envelope.principal.branch()) {
            (Content::NewOrder(_), _) => self.branches.find(&envelope.provider, store).await,
            (_, None) => match self.place_of_news(received, store).await? {
                OfNews::One(claimed) => claimed,
                OfNews::Several => return Ok(Resolved::Several),
            },
            (_, Some(own)) => match self.place_of_own_news(received, store, own).await? {
                Ok(claimed) => claimed,
                Err(not_yours) => return Ok(Resolved::NotYours(not_yours)),
            },
        };
        allow(&envelope.principal, claimed)
    }

    /// Makes the store that a webhook names itself the one that counts. The merchant header is not signed: anyone who has a copy of a
    /// webhook may send it again with another header. So the header counts only where the webhook, and the document that was fetched
    /// for it, name no store of a known branch.
    pub(super) fn settle_store(&self, received: &Recorded, fact: &mut Fact) {
        let provider = &received.envelope.provider;
        let Some(header) = merchant_header(&received.envelope) else {
            return;
        };
        let known = fact
            .stores
            .named()
            .find_map(|store| Some((store, self.branch_of_row(provider, store)?)));
        let Some((store, branch)) = known else { return };
        let by_header = self.branch_of_row(provider, header);
        if by_header.is_some_and(|by_header| by_header.branch_id == branch.branch_id) {
            return;
        }
        tracing::warn!(
            provider = &**provider,
            order_id = received.envelope.external_order_id,
            request_id = received.envelope.request_id,
            branch_id = branch.branch_id,
            "the header x-merchant-id names another store than the webhook; the webhook's store counts"
        );
        let store = store.to_owned();
        fact.stands_for(&store);
    }

    /// The branch with a row for this store, active or not.
    fn branch_of_row(&self, provider: &str, store: &str) -> Option<BranchRef> {
        let active = self.branches.known(provider, Some(store));
        active.or_else(|| self.branches.inactive(provider, Some(store)))
    }

    /// Whether all stores that a webhook names are its principal's. That one of them is decides nothing: the header is not
    /// signed, and a document was fetched with the platform's token. A document must name the order's branch.
    ///
    /// # Errors
    /// If that cannot be known yet.
    pub(super) async fn claims(&self, received: &Recorded, fact: &Fact) -> Result<Result<(), NotYours>, NotYet> {
        let (principal, provider) = (&received.envelope.principal, &received.envelope.provider);
        if principal.branch().is_none() {
            return Ok(Ok(()));
        }
        let known = |store: &str| self.branch_of_row(provider, store);
        // A store that belongs to no branch may be the provider's own name for it.
        if let Some(branch) = fact.stores.of_payload.as_deref().and_then(known)
            && let Err(not_yours) = principal.may_act_for(&branch.branch_id)
        {
            return Ok(Err(not_yours));
        }
        let store = match &fact.stores.of_document {
            StoreOfDocument::NotFetched => return Ok(Ok(())),
            StoreOfDocument::Unnamed => {
                let claimed = "an order with a document that names no store".to_owned();
                return Ok(Err(principal.refused(claimed)));
            }
            StoreOfDocument::Named(store) => store,
        };
        let branch = match known(store) {
            Some(branch) => branch,
            None => match self.branches.find(provider, Some(store)).await {
                BranchLookup::Found(branch) => branch,
                BranchLookup::NotFound => {
                    let claimed = format!("an order of store {store}, which is no known branch's");
                    return Ok(Err(principal.refused(claimed)));
                }
                BranchLookup::Unknown => return Err(NotYet::Branches),
            },
        };
        Ok(principal.may_act_for(&branch.branch_id))
    }
}
