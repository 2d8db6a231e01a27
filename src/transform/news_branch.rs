//! Finds the branch that news of an order are for: the one to which the order went, even if that branch's row has changed since.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{NotYet, Transform};
use crate::{
    branches::BranchLookup,
    database::query,
    event::{NotYours, Recorded},
    memory::AnnouncedBy,
    order::body::BranchRef,
};

/// The branch in a new order's body.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnnouncementBody {
    transformed_order: Went,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Went {
    branch_id: String,
    company_id: String,
    store_ref: Option<String>,
}

/// An announcement, as far as the branch of its news depends on it.
pub(super) struct Announcement {
    /// The merchant that it named.
    pub(super) store: Option<String>,
    /// The provider proved it, and not a branch.
    pub(super) is_by_provider: bool,
    /// Where it went.
    pub(super) branch: BranchRef,
}

/// The branches of an order's announcements on the log.
enum BranchOnLog {
    /// The provider announced it, for this branch.
    ByProvider(BranchRef),
    /// The provider announced it for several branches.
    Several,
    /// Only branches announced it, each for itself; empty without any announcement.
    ByBranches(Vec<BranchRef>),
}

/// For which branch news are.
pub(super) enum OfNews {
    /// One at most.
    One(BranchLookup),
    /// Several branches have an order of that number, and the news do not say which one they mean.
    Several,
}

impl Transform {
    /// The branch of news that the provider proved. In this order: the active row of the store that they name, where the order
    /// went there or nothing is known of the order; the order's announcements on the log; its rows of the hub's own; an inactive
    /// row of the store. Without a store, what only a branch's secret announced never takes news from another branch.
    pub(super) async fn place_of_news(&self, received: &Recorded, store: Option<&str>) -> Result<OfNews, NotYet> {
        let envelope = &received.envelope;
        let row = self.branches.known(&envelope.provider, store);
        if let Some(row) = row.as_ref().filter(|_| store.is_some()) {
            let is_there = self
                .orders
                .is_of_branch(&envelope.provider, &envelope.external_order_id, &row.branch_id);
            if is_there != Some(false) {
                return Ok(OfNews::found(row.clone()));
            }
        }
        let announced = self.orders.announcements(received).await?;
        let announced: Vec<Announcement> = announced.iter().filter_map(Announcement::of).collect();
        let named = |order: &&Announcement| store.is_some() && order.store.as_deref() == store;
        if let Some(order) = announced.iter().find(named) {
            return Ok(OfNews::found(order.branch.clone()));
        }
        let by_branches = match BranchOnLog::of(announced.into_iter().filter(|order| !order.is_elsewhere(store))) {
            BranchOnLog::ByProvider(branch) => return Ok(OfNews::found(branch)),
            BranchOnLog::Several => return Ok(OfNews::Several),
            BranchOnLog::ByBranches(candidates) => candidates,
        };
        // A branch that was assumed because it is the only active row is no statement of the provider, and does not contradict another one.
        if let Some(row) = row
            && (store.is_some() || by_branches.is_empty())
        {
            return Ok(OfNews::found(row));
        }
        // The tables are needed only for orders that are older than the memory of orders.
        let in_tables = match self.branches_by_table(received).await {
            Ok(candidates) => Some(candidates),
            Err(error) if by_branches.is_empty() => {
                tracing::debug!(error = format!("{error:#}"), "cannot look up the branch of an order");
                None
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot look up which branches have an order; its news wait"
                );
                return Err(NotYet::Branches);
            }
        };
        let is_read = in_tables.is_some();
        let known = distinct(by_branches.into_iter().chain(in_tables.into_iter().flatten()));
        if let [branch] = known.as_slice() {
            return Ok(OfNews::found(branch.clone()));
        }
        if !known.is_empty() {
            let inactive = self.branches.inactive(&envelope.provider, store);
            let meant = inactive.filter(|branch| known.iter().any(|one| one.branch_id == branch.branch_id));
            return Ok(meant.map_or(OfNews::Several, OfNews::found));
        }
        let found = self.branches.find(&envelope.provider, store).await;
        Ok(OfNews::One(match found {
            BranchLookup::NotFound => match self.branches.inactive(&envelope.provider, store) {
                Some(branch) => BranchLookup::Found(branch),
                None if is_read => BranchLookup::NotFound,
                None => BranchLookup::Unknown,
            },
            found => found,
        }))
    }

    /// The branch of news that were proven by a branch's own secret: that branch, where it has the order, and where nobody is
    /// known to have one of that number: the news may come before their order. Where only others have one, it is theirs.
    pub(super) async fn place_of_own_news(
        &self,
        received: &Recorded,
        store: Option<&str>,
        own: &str,
    ) -> Result<Result<BranchLookup, NotYours>, NotYet> {
        let envelope = &received.envelope;
        let announced = self.orders.announced(received, own, 0).await?;
        if let AnnouncedBy::Own(order) = &announced
            && let Some(order) = Announcement::of(order)
        {
            return Ok(Ok(BranchLookup::Found(order.branch)));
        }
        // Only the table knows orders that are older than the memory of orders.
        let known = self.known_by_table(received, own).await.map_err(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot look up the branch of an order; its news wait"
            );
            NotYet::Branches
        })?;
        match (known, announced) {
            (Some((true, branch)), _) => return Ok(Ok(BranchLookup::Found(branch))),
            (None, AnnouncedBy::NotAnnounced | AnnouncedBy::Own(_)) => {}
            (Some((false, _)), _) | (None, AnnouncedBy::Others) => {
                let number = &envelope.external_order_id;
                let claimed = format!("order {number}, which is another branch's");
                return Ok(Err(envelope.principal.refused(claimed)));
            }
        }
        let found = self.branches.find(&envelope.provider, store).await;
        Ok(Ok(match found {
            BranchLookup::NotFound => match self.branches.inactive(&envelope.provider, store) {
                Some(branch) => BranchLookup::Found(branch),
                None => BranchLookup::NotFound,
            },
            found => found,
        }))
    }

    /// Whether the tables know an order as a branch's own, and where it went; as another one's where not; none if they do
    /// not know the number.
    async fn known_by_table(&self, received: &Recorded, own: &str) -> anyhow::Result<Option<(bool, BranchRef)>> {
        let connection = self.database.connect().await?;
        let statement = connection.prepare_cached(query::ORDER_OF_BRANCH).await?;
        let envelope = &received.envelope;
        let row = connection
            .query_opt(&statement, &[&&*envelope.provider, &envelope.external_order_id, &own])
            .await?;
        row.map(|row| {
            let branch = BranchRef {
                branch_id: row.try_get(1)?,
                company_id: row.try_get(2)?,
                auto_accept: false,
            };
            Ok((row.try_get(0)?, branch))
        })
        .transpose()
    }

    /// Where the tables have an order: the last two branches, the latest first.
    async fn branches_by_table(&self, received: &Recorded) -> anyhow::Result<Vec<BranchRef>> {
        let connection = self.database.connect().await?;
        let statement = connection.prepare_cached(query::BRANCH_OF_ORDER).await?;
        let envelope = &received.envelope;
        let rows = connection
            .query(
                &statement,
                &[&&*envelope.provider, &envelope.external_order_id, &None::<&str>],
            )
            .await?;
        let branch = |row: &tokio_postgres::Row| {
            Ok(BranchRef {
                branch_id: row.try_get(0)?,
                company_id: row.try_get(1)?,
                auto_accept: false,
            })
        };
        rows.iter().map(branch).collect()
    }
}

impl OfNews {
    const fn found(branch: BranchRef) -> Self {
        Self::One(BranchLookup::Found(branch))
    }
}

impl Announcement {
    /// None if an announcement does not say where it went.
    pub(super) fn of(announced: &Recorded) -> Option<Self> {
        let went = serde_json::from_slice::<AnnouncementBody>(&announced.payload)
            .ok()?
            .transformed_order;
        Some(Self {
            store: went.store_ref,
            is_by_provider: announced.envelope.principal.branch().is_none(),
            branch: BranchRef {
                branch_id: went.branch_id,
                company_id: went.company_id,
                auto_accept: false,
            },
        })
    }

    /// It was for another store than the news.
    fn is_elsewhere(&self, store: Option<&str>) -> bool {
        self.store
            .as_deref()
            .zip(store)
            .is_some_and(|(one, other)| one != other)
    }
}

impl BranchOnLog {
    /// Of the announcements that the news may be about. The owner of a branch's secret may announce any number, so that counts
    /// only if the provider announced none.
    fn of(announced: impl Iterator<Item = Announcement>) -> Self {
        let (by_provider, by_branches): (Vec<_>, Vec<_>) = announced.partition(|order| order.is_by_provider);
        let mut by_provider = distinct(by_provider.into_iter().map(|order| order.branch)).into_iter();
        match (by_provider.next(), by_provider.next()) {
            (Some(branch), None) => Self::ByProvider(branch),
            (Some(_), Some(_)) => Self::Several,
            (None, _) => Self::ByBranches(distinct(by_branches.into_iter().map(|order| order.branch))),
        }
    }
}

/// One place of each branch, the first.
fn distinct(candidates: impl Iterator<Item = BranchRef>) -> Vec<BranchRef> {
    let mut branches = BTreeSet::new();
    candidates
        .filter(|branch| branches.insert(branch.branch_id.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(branch: &str, is_by_provider: bool) -> Announcement {
        Announcement {
            store: None,
            is_by_provider,
            branch: BranchRef {
                branch_id: branch.into(),
                company_id: "company".into(),
                auto_accept: false,
            },
        }
    }

    #[test]
    fn announcements_by_the_provider_precede_those_by_branches() {
        let on_log = |orders: &[(&str, bool)]| {
            let orders = orders
                .iter()
                .map(|(branch, is_by_provider)| order(branch, *is_by_provider));
            match BranchOnLog::of(orders) {
                BranchOnLog::ByProvider(branch) => format!("the provider's {}", branch.branch_id),
                BranchOnLog::Several => "several".into(),
                BranchOnLog::ByBranches(candidates) => {
                    let branches: Vec<_> = candidates.iter().map(|branch| branch.branch_id.as_str()).collect();
                    format!("branches' {}", branches.join(" "))
                }
            }
        };
        assert_eq!(on_log(&[]), "branches' ");
        assert_eq!(on_log(&[("a", false), ("b", true)]), "the provider's b");
        assert_eq!(on_log(&[("b", true), ("a", false), ("b", true)]), "the provider's b");
        assert_eq!(on_log(&[("a", true), ("b", true)]), "several");
        assert_eq!(on_log(&[("a", false), ("a", false)]), "branches' a");
        assert_eq!(on_log(&[("a", false), ("b", false)]), "branches' a b");
    }
}
