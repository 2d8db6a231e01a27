//! Queries of `hub.orders`: pages of orders, their number, and which have not arrived.
//!
//! They need `SELECT` on `hub.orders`, `hub.projections` and `hub.cursors`, and no NATS. Each filter reads an index.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use crate::{
    database::{Connection, query},
    projection::writer::CURSOR,
};

/// Most matching orders that are counted; a larger number is "more than" this.
pub const MOST_COUNTED: i64 = 1000;
/// Most orders of one page.
pub const MOST_ON_A_PAGE: u16 = 1000;
/// The projection that writes `hub.orders`.
const OWN: &str = "orders";

/// The state of an order in the hub; docs/orders-table.md explains the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum OrderState {
    /// Accepted, not transformed yet.
    Received,
    /// Its first request to the backend is due.
    Transformed,
    /// An attempt failed, another one follows.
    Waiting,
    /// A dead letter.
    GivenUp,
    /// All was delivered.
    Forwarded,
    /// Nothing was forwarded and nothing is left to do.
    Ignored,
}

impl OrderState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Transformed => "transformed",
            Self::Waiting => "waiting",
            Self::GivenUp => "given_up",
            Self::Forwarded => "forwarded",
            Self::Ignored => "ignored",
        }
    }

    /// Whether something of such an order has not reached the backend.
    const fn is_undelivered(self) -> bool {
        !matches!(self, Self::Forwarded | Self::Ignored)
    }
}

/// Filters of orders. All that are set must match.
#[derive(Debug, Clone, Default)]
pub struct OrderFilter {
    /// Of this provider (`careem`).
    pub provider: Option<String>,
    /// Of this branch.
    pub branch: Option<String>,
    /// In one of these states; in any state if empty.
    pub states: Vec<OrderState>,
    /// With this code as the cause (`BACKEND_422`).
    pub cause: Option<String>,
    /// First accepted at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// First accepted at this time or earlier.
    pub until: Option<DateTime<Utc>>,
    /// With this id: the provider's, the number that people see, the provider's short number, or the backend's.
    pub any_id: Option<String>,
    /// Something has not reached the backend.
    pub undelivered: bool,
    /// Something has not reached the backend since this time or longer.
    pub undelivered_since: Option<DateTime<Utc>>,
    /// Something has not reached the backend, and the deadline is at this time or earlier.
    pub deadline_until: Option<DateTime<Utc>>,
}

impl OrderFilter {
    /// Whether only orders that have not arrived match. Such a list begins with those that wait longest.
    pub fn is_undelivered(&self) -> bool {
        let by_state = !self.states.is_empty() && self.states.iter().all(|state| state.is_undelivered());
        self.undelivered || by_state || self.undelivered_since.is_some() || self.deadline_until.is_some()
    }
}

/// A row of `hub.orders`. It holds no personal data.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedOrder {
    /// The id of the order's first webhook.
    pub id: String,
    /// The provider's name.
    pub provider: String,
    /// The provider's id of the order.
    pub external_order_id: String,
    /// The number that people see.
    pub order_number: Option<String>,
    /// The provider's short number.
    pub display_id: Option<String>,
    /// The backend's id.
    pub order_id: Option<String>,
    /// The branch, once it is known.
    pub branch_id: Option<String>,
    /// The branch's company.
    pub company_id: Option<String>,
    /// Its state in the hub.
    pub state: String,
    /// The provider's last status, in the platform's words.
    pub status: Option<String>,
    /// The same in the provider's words.
    pub provider_status: Option<String>,
    /// When the webhook with that status was accepted.
    pub said_at: Option<DateTime<Utc>>,
    /// When its first webhook was accepted.
    pub first_at: DateTime<Utc>,
    /// When the last event about it was recorded.
    pub last_at: DateTime<Utc>,
    /// When the backend first accepted something of it.
    pub forwarded_at: Option<DateTime<Utc>>,
    /// When the oldest webhook that has not reached the backend was accepted.
    pub undelivered_since: Option<DateTime<Utc>>,
    /// When something of it was given up that no later event made up for.
    pub given_up_at: Option<DateTime<Utc>>,
    /// Requests made for the last webhook that was attempted.
    pub attempts: i32,
    /// When the next request is due.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// The stage in which the last attempt failed.
    pub cause_stage: Option<String>,
    /// The code of that failure, or of the reason why the order was ignored.
    pub cause_code: Option<String>,
    /// When the provider expects the order to be accepted, ready or delivered: the first time that it sent.
    pub deadline: Option<DateTime<Utc>>,
    /// It has not arrived, and its deadline has passed, by PostgreSQL's clock.
    pub is_overdue: bool,
    /// A test order.
    pub is_test: bool,
    /// Flags: remarks on the order.
    pub flags: Vec<String>,
    /// Sequence of the last event about it in the stream `EVENTS`.
    pub last_sequence: i64,
}

impl ListedOrder {
    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            provider: row.try_get("provider")?,
            external_order_id: row.try_get("external_order_id")?,
            order_number: row.try_get("order_number")?,
            display_id: row.try_get("display_id")?,
            order_id: row.try_get("order_id")?,
            branch_id: row.try_get("branch_id")?,
            company_id: row.try_get("company_id")?,
            state: row.try_get("state")?,
            status: row.try_get("status")?,
            provider_status: row.try_get("provider_status")?,
            said_at: row.try_get("said_at")?,
            first_at: row.try_get("first_at")?,
            last_at: row.try_get("last_at")?,
            forwarded_at: row.try_get("forwarded_at")?,
            undelivered_since: row.try_get("undelivered_since")?,
            given_up_at: row.try_get("given_up_at")?,
            attempts: row.try_get("attempts")?,
            next_attempt_at: row.try_get("next_attempt_at")?,
            cause_stage: row.try_get("cause_stage")?,
            cause_code: row.try_get("cause_code")?,
            deadline: row.try_get("deadline")?,
            is_overdue: row.try_get("is_overdue")?,
            is_test: row.try_get("is_test")?,
            flags: row.try_get("flags")?,
            last_sequence: row.try_get("last_sequence")?,
        })
    }
}

/// The position after the last order of a page, where the next page begins. Its text form is for the command line and for URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCursor {
    /// Of a list of orders that have not arrived, which is sorted in its own way.
    is_undelivered: bool,
    time: DateTime<Utc>,
    id: Uuid,
}

impl PageCursor {
    fn behind(order: &ListedOrder, is_undelivered: bool) -> Option<Self> {
        let time = if is_undelivered {
            order.undelivered_since?
        } else {
            order.first_at
        };
        let id = order.id.parse().ok()?;
        Some(Self {
            is_undelivered,
            time,
            id,
        })
    }
}

impl fmt::Display for PageCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = if self.is_undelivered { 'u' } else { 'n' };
        write!(f, "{list}{}.{}", self.time.timestamp_millis(), self.id.simple())
    }
}

impl FromStr for PageCursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let is_undelivered = match text.get(..1)? {
                "u" => true,
                "n" => false,
                _ => return None,
            };
            let (time, id) = text.get(1..)?.split_once('.')?;
            Some(Self {
                is_undelivered,
                time: DateTime::from_timestamp_millis(time.parse().ok()?)?,
                id: id.parse().ok()?,
            })
        };
        read().ok_or_else(|| "expected the cursor at the end of the previous page".to_owned())
    }
}

impl Serialize for PageCursor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The number of matching orders on all pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderCounts {
    /// How many; at most [`MOST_COUNTED`].
    pub orders: i64,
    /// There are more than that. The other counts then cover only the counted orders.
    pub is_more: bool,
    /// How many of them have something that was given up.
    pub given_up: i64,
    /// How many of them have not arrived and are past their deadline.
    pub overdue: i64,
    /// How many of them are one of these, or both.
    pub need_a_person: i64,
}

/// A page of orders.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// The newest first; of orders that have not arrived, the ones that wait longest first.
    pub orders: Vec<ListedOrder>,
    /// How many match.
    pub count: OrderCounts,
    /// Where the next page begins; none on the last page.
    pub next: Option<PageCursor>,
    /// The sequence up to which the table was filled from the log.
    pub made_up_to: Option<i64>,
    /// The table lacks orders: it is still being filled from the log, or filling never began.
    pub is_incomplete: bool,
}

/// A page of at most `limit` matching orders ([`MOST_ON_A_PAGE`]).
///
/// # Errors
/// If PostgreSQL does not answer or refuses, or the cursor belongs to another list.
pub async fn list(
    connection: &Connection,
    filter: &OrderFilter,
    after: Option<PageCursor>,
    limit: u16,
) -> anyhow::Result<Page> {
    let is_undelivered = filter.is_undelivered();
    if after.is_some_and(|cursor| cursor.is_undelivered != is_undelivered) {
        anyhow::bail!(
            "the cursor belongs to a list that is sorted differently; use it with the filters of its own page"
        );
    }
    let limit = i64::from(limit.clamp(1, MOST_ON_A_PAGE));
    let states: Option<Vec<&str>> =
        (!filter.states.is_empty()).then(|| filter.states.iter().map(|state| state.as_str()).collect());
    let which: [&(dyn ToSql + Sync); 10] = [
        &filter.provider,
        &filter.branch,
        &states,
        &filter.cause,
        &filter.since,
        &filter.until,
        &filter.any_id,
        &is_undelivered,
        &filter.undelivered_since,
        &filter.deadline_until,
    ];
    let statement = if is_undelivered {
        query::ORDERS_WAITING_LONGEST
    } else {
        query::ORDERS_NEWEST
    };
    let (time, id) = (after.map(|one| one.time), after.map(|one| one.id.to_string()));
    // One more row shows whether there is a next page.
    let one_more = limit + 1;
    let page: [&(dyn ToSql + Sync); 3] = [&time, &id, &one_more];
    // Not a prepared statement: PostgreSQL plans it for these values, so a filter that is not set costs nothing.
    let rows = connection.query(statement, &[&which[..], &page].concat()).await?;
    let mut orders = rows.iter().map(ListedOrder::read).collect::<Result<Vec<_>, _>>()?;
    let has_next = orders.len() > usize::try_from(limit)?;
    orders.truncate(usize::try_from(limit)?);
    let next = orders
        .last()
        .filter(|_| has_next)
        .and_then(|last| PageCursor::behind(last, is_undelivered));
    let count = count(connection, &which).await?;
    let made_up_to = own_position(connection).await?;
    let tables = connection.query_opt(query::POSITION, &[&CURSOR]).await?;
    let tables: Option<i64> = tables.map(|row| row.try_get("position")).transpose()?;
    Ok(Page {
        orders,
        count,
        next,
        made_up_to,
        is_incomplete: made_up_to.is_none_or(|own| tables.is_some_and(|tables| own < tables)),
    })
}

async fn count(connection: &Connection, which: &[&(dyn ToSql + Sync)]) -> anyhow::Result<OrderCounts> {
    let one_more = MOST_COUNTED + 1;
    let parameters = [which, &[&one_more]].concat();
    let row = connection.query_one(query::ORDERS_COUNTED, &parameters).await?;
    let orders: i64 = row.try_get("orders")?;
    Ok(OrderCounts {
        orders: orders.min(MOST_COUNTED),
        is_more: orders > MOST_COUNTED,
        given_up: row.try_get("given_up")?,
        overdue: row.try_get("overdue")?,
        need_a_person: row.try_get("need_a_person")?,
    })
}

/// The sequence up to which `hub.orders` was filled from the log; none if filling never began.
async fn own_position(connection: &Connection) -> anyhow::Result<Option<i64>> {
    for row in connection.query(query::OWN_PROJECTIONS, &[]).await? {
        if row.try_get::<_, &str>("name")? == OWN {
            return Ok(Some(row.try_get("position")?));
        }
    }
    Ok(None)
}

/// The orders of a provider that have this as one of their ids, the newest first; at most [`MOST_ON_A_PAGE`].
///
/// # Errors
/// The same as [`list`].
pub async fn with_id(connection: &Connection, provider: &str, any_id: &str) -> anyhow::Result<Vec<ListedOrder>> {
    let filter = OrderFilter {
        provider: Some(provider.to_owned()),
        any_id: Some(any_id.to_owned()),
        ..OrderFilter::default()
    };
    Ok(list(connection, &filter, None, MOST_ON_A_PAGE).await?.orders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back() {
        let cursor = PageCursor {
            is_undelivered: true,
            time: DateTime::from_timestamp_millis(1_759_320_000_123).unwrap(),
            id: Uuid::from_u128(7),
        };
        let text = cursor.to_string();
        assert_eq!(text, "u1759320000123.00000000000000000000000000000007");
        assert_eq!(text.parse(), Ok(cursor));
        for wrong in [
            "",
            "u",
            "é",
            "x1.00000000000000000000000000000007",
            "u1",
            "n1.7",
            "n9999999999999999999.7",
        ] {
            assert!(wrong.parse::<PageCursor>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn filters_that_select_undelivered_orders() {
        let of = |states: &[OrderState]| OrderFilter {
            states: states.to_vec(),
            ..OrderFilter::default()
        };
        assert!(!of(&[]).is_undelivered());
        assert!(of(&[OrderState::Waiting, OrderState::GivenUp]).is_undelivered());
        assert!(!of(&[OrderState::Waiting, OrderState::Ignored]).is_undelivered());
    }
}
