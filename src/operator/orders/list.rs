//! `orders list`: shows orders, or those that have not arrived.

use std::fmt;

use anyhow::Context as _;

use super::List;
use crate::{
    config::Environment,
    operator::{
        dead_letters::time_text,
        output::{Table, Verdict, counted, show},
        queries::orders::{self, ListedOrder, Page},
    },
};

/// The remedy when the tables cannot be read.
const MEND: &str = "cannot read hub.orders; DATABASE_URL must name a role that has SELECT on hub.orders, hub.projections and hub.cursors, and \
                    `webhook-hub migrate` must have been run";

const HEAD: [&str; 10] = [
    "ACCEPTED",
    "PROVIDER",
    "ORDER",
    "BRANCH",
    "STATE",
    "STATUS",
    "ATTEMPTS",
    "NEXT ATTEMPT",
    "CAUSE",
    "DEADLINE",
];

/// Shows a page. A list of what has not arrived needs a person if something was given up or is past its deadline.
pub(super) async fn run(environment: &Environment, list: &List, as_json: bool) -> anyhow::Result<Verdict> {
    let filter = list.filter();
    let database = super::database(environment)?;
    let read = async { orders::list(&database.connect().await?, &filter, list.after, list.limit).await };
    let page = read.await.context(MEND)?;
    let is_undelivered = filter.is_undelivered();
    show(
        as_json,
        &page,
        PageText {
            page: &page,
            is_undelivered,
        },
    )?;
    Ok(Verdict::needs_a_person(is_undelivered && page.count.need_a_person > 0))
}

/// The page as text.
struct PageText<'a> {
    page: &'a Page,
    is_undelivered: bool,
}

impl fmt::Display for PageText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(HEAD);
        for order in &self.page.orders {
            table.push(cells(order, self.is_undelivered));
        }
        write!(f, "{table}")?;
        if self.page.is_incomplete {
            writeln!(
                f,
                "the table is still being filled from the event log: orders may be missing"
            )?;
        }
        if let Some(next) = self.page.next {
            writeln!(f, "more are not shown: the same with --after {next}")?;
        }
        self.summary(f)
    }
}

impl PageText<'_> {
    fn summary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = &self.page.count;
        let has_not = if self.is_undelivered {
            if count.orders == 1 {
                " has not arrived"
            } else {
                " have not arrived"
            }
        } else {
            ""
        };
        match count.orders {
            0 if self.is_undelivered => return write!(f, "nothing is undelivered"),
            0 => return write!(f, "no orders"),
            orders if count.is_more => write!(f, "more than {orders} orders{has_not}; of {orders} of them")?,
            orders => write!(f, "{}{has_not}", counted(orders, "order", "orders"))?,
        }
        let past = counted(count.overdue, "is past its deadline", "are past their deadline");
        let given_up = counted(count.given_up, "was given up", "were given up");
        match (count.given_up, count.overdue) {
            (0, 0) if self.is_undelivered => write!(f, "; none was given up, none is past its deadline"),
            (0, 0) => Ok(()),
            (0, _) => write!(f, "; {past}"),
            (_, 0) => write!(f, "; {given_up}"),
            _ => write!(f, "; {given_up}, {past}"),
        }
    }
}

fn cells(order: &ListedOrder, is_undelivered: bool) -> [String; 10] {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let accepted = order.undelivered_since.filter(|_| is_undelivered);
    let cause = match (&order.cause_stage, &order.cause_code) {
        (Some(stage), Some(code)) => format!("{stage} {code}"),
        (_, code) => or_dash(code),
    };
    let deadline = order.deadline.map_or_else(|| "-".into(), time_text);
    [
        time_text(accepted.unwrap_or(order.first_at)),
        order.provider.clone(),
        order.external_order_id.clone(),
        or_dash(&order.branch_id),
        order.state.clone(),
        or_dash(&order.status),
        order.attempts.to_string(),
        order.next_attempt_at.map_or_else(|| "-".into(), time_text),
        cause,
        if order.is_overdue {
            deadline + " passed"
        } else {
            deadline
        },
    ]
}
