//! Which branch news are for: the one that their order went to, whatever became of that branch's row meanwhile.

use serde::Deserialize;

use super::{NotYet, Transform};
use crate::{
    database::query, event::Recorded, memory::Announced, order::body::Place, transform::branches::Lookup,
    verification::NotYours,
};

/// What a body of a new order says of where it went.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    transformed_order: Went,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Went {
    branch_id: String,
    company_id: String,
    store_ref: Option<String>,
}

impl Transform {
    /// The branch of news. In this order: the active row of the store, where the order went there or nothing is known of the
    /// order; the order's announcement on the log; its row of the hub's own; an inactive row of the store.
    pub(super) async fn place_of_news(&self, received: &Recorded, store: Option<&str>) -> Result<Lookup, NotYet> {
        let envelope = &received.envelope;
        let row = self.branches.known(&envelope.provider, store);
        if let Some(row) = &row {
            let is_there = self
                .orders
                .is_of_branch(&envelope.provider, &envelope.external_order_id, &row.branch_id);
            if is_there != Some(false) {
                return Ok(Lookup::Found(row.clone()));
            }
        }
        let announced = self.orders.announcements(received).await?;
        let of_store = announced.iter().find_map(|one| went_there(one, store));
        if let Some(place) = of_store.or(row) {
            return Ok(Lookup::Found(place));
        }
        // In the table only where it is older than what is remembered.
        let by_table = self.place_by_table(received).await;
        if let Ok(Some(place)) = by_table {
            return Ok(Lookup::Found(place));
        }
        let found = self.branches.find(&envelope.provider, store).await;
        Ok(match found {
            Lookup::NotFound => match self.branches.inactive(&envelope.provider, store) {
                Some(place) => Lookup::Found(place),
                None if by_table.is_err() => Lookup::Unknown,
                None => Lookup::NotFound,
            },
            found => found,
        })
    }

    /// The branch of news that were proven by a branch's own secret: that branch, where it has the order, and where nobody is
    /// known to have one of that number: the news may come before their order. Where only others have one, it is theirs.
    pub(super) async fn place_of_own_news(
        &self,
        received: &Recorded,
        store: Option<&str>,
        own: &str,
    ) -> Result<Result<Lookup, NotYours>, NotYet> {
        let envelope = &received.envelope;
        let announced = self.orders.announced(received, own, 0).await?;
        if let Announced::Own(order) = &announced
            && let Some(place) = went_there(order, None)
        {
            return Ok(Ok(Lookup::Found(place)));
        }
        // Only the table knows what is older than what is remembered.
        let known = self.known_by_table(received, own).await.map_err(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot look up whose an order is; its news wait"
            );
            NotYet::Branches
        })?;
        match (known, announced) {
            (Some((true, place)), _) => return Ok(Ok(Lookup::Found(place))),
            (None, Announced::Nobodys | Announced::Own(_)) => {}
            (Some((false, _)), _) | (None, Announced::Others) => {
                let number = &envelope.external_order_id;
                let claimed = format!("order {number}, which is another branch's");
                return Ok(Err(envelope.principal.refused(claimed)));
            }
        }
        let found = self.branches.find(&envelope.provider, store).await;
        Ok(Ok(match found {
            Lookup::NotFound => match self.branches.inactive(&envelope.provider, store) {
                Some(place) => Lookup::Found(place),
                None => Lookup::NotFound,
            },
            found => found,
        }))
    }

    /// Whether the tables know an order as a branch's own, and where it went; as another one's where not; none where they do
    /// not know the number.
    async fn known_by_table(&self, received: &Recorded, own: &str) -> anyhow::Result<Option<(bool, Place)>> {
        let connection = self.database.connect().await?;
        let statement = connection.prepare_cached(query::ORDER_OF_BRANCH).await?;
        let envelope = &received.envelope;
        let row = connection
            .query_opt(&statement, &[&&*envelope.provider, &envelope.external_order_id, &own])
            .await?;
        row.map(|row| {
            let place = Place {
                branch_id: row.try_get(1)?,
                company_id: row.try_get(2)?,
                auto_accept: false,
            };
            Ok((row.try_get(0)?, place))
        })
        .transpose()
    }

    async fn place_by_table(&self, received: &Recorded) -> anyhow::Result<Option<Place>> {
        let connection = self.database.connect().await?;
        let statement = connection.prepare_cached(query::BRANCH_OF_ORDER).await?;
        let envelope = &received.envelope;
        let row = connection
            .query(
                &statement,
                &[&&*envelope.provider, &envelope.external_order_id, &None::<&str>],
            )
            .await?;
        row.first()
            .map(|row| {
                Ok(Place {
                    branch_id: row.try_get(0)?,
                    company_id: row.try_get(1)?,
                    auto_accept: false,
                })
            })
            .transpose()
    }
}

/// Where an order went, unless it was for another store than the news.
fn went_there(announced: &Recorded, store: Option<&str>) -> Option<Place> {
    let went = serde_json::from_slice::<Body>(&announced.payload)
        .ok()?
        .transformed_order;
    let is_other = went
        .store_ref
        .as_deref()
        .zip(store)
        .is_some_and(|(one, other)| one != other);
    (!is_other).then_some(Place {
        branch_id: went.branch_id,
        company_id: went.company_id,
        auto_accept: false,
    })
}
