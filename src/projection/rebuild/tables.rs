//! The tables that the log makes, as `rebuild` and `verify` know them: their keys, the columns that the hub writes, and what people
//! write in them.

use chrono::{DateTime, Utc};

use crate::config::Retention;
use crate::database::{
    names::{Names, identifier},
    query,
};
use crate::projection::{
    Projection,
    delivery_error_logs::{DeliveryErrorLogs, NOTES},
    orders::{Orders, SAME_ORDER_FOR},
    provider_order_logs::ProviderOrderLogs,
    webhook_logs::WebhookLogs,
};

/// A table.
pub(super) struct Table {
    /// Its name for operators: `webhook_logs`, `hub.orders`.
    pub(super) name: &'static str,
    /// What makes its rows. It has the table's name in its schema.
    pub(super) projection: &'static dyn Projection,
    /// The columns by which a row is found.
    pub(super) key: &'static [&'static str],
    /// The column with the time at which a row's first event happened.
    began: &'static str,
    /// The column with the provider's code or id.
    pub(super) provider: &'static str,
    /// The statement that makes its rows.
    insert: &'static str,
    /// What people write there, if they do.
    pub(super) by_people: Option<ByPeople>,
}

/// The condition for rows of the live table (`l`) that a person wrote in, and the columns that are that person's.
pub(super) type ByPeople = (fn() -> String, &'static [&'static str]);

/// All of them, in the order in which a batch is applied to them.
pub(super) static TABLES: [Table; 4] = [
    Table {
        name: "webhook_logs",
        projection: &WebhookLogs,
        key: &["id"],
        began: "received_at",
        provider: "provider_id",
        insert: query::INSERT_WEBHOOK_LOGS,
        by_people: None,
    },
    Table {
        name: "delivery_error_logs",
        projection: &DeliveryErrorLogs,
        key: &["id"],
        began: "occurred_at",
        provider: "provider_id",
        insert: query::INSERT_ERROR_LOGS,
        by_people: Some((
            resolved_by_a_person,
            &[
                "is_resolved",
                "resolved_at",
                "resolved_by",
                "resolution_notes",
                "updated_at",
            ],
        )),
    },
    Table {
        name: "provider_order_logs",
        projection: &ProviderOrderLogs,
        key: &["id"],
        began: "created_at",
        provider: "provider_id",
        insert: query::INSERT_ORDER_LOGS,
        by_people: None,
    },
    Table {
        name: "hub.orders",
        projection: &Orders,
        key: &["external_order_id", "provider", "id"],
        began: "first_at",
        provider: "provider",
        insert: query::PUT_ORDERS,
        by_people: None,
    },
];

/// An error that a person resolved, or wrote a note about.
fn resolved_by_a_person() -> String {
    let notes: Vec<_> = NOTES.iter().map(|note| literal(note)).collect();
    format!(
        "coalesce(l.is_resolved AND l.resolved_by IS DISTINCT FROM 'webhook-hub' OR l.resolution_notes NOT IN ({}), false)",
        notes.join(", ")
    )
}

impl Table {
    /// The table of a name, as operators write it; `orders` alone is the platform's own table, which the log does not make.
    pub(super) fn of(name: &str) -> Option<&'static Self> {
        TABLES.iter().find(|table| table.name == name)
    }

    /// Its name in its schema.
    pub(super) fn bare(&self) -> &'static str {
        self.projection.name()
    }

    /// Whether it is in the schema `hub`, so that all of its rows are the hub's.
    pub(super) fn is_own(&self) -> bool {
        self.projection.reset().is_some()
    }

    /// The schema of the live table.
    pub(super) fn schema(&self, names: &Names) -> String {
        if self.is_own() {
            "hub".to_owned()
        } else {
            names.schema().to_owned()
        }
    }

    /// The live table, as SQL takes it.
    pub(super) fn live(&self, names: &Names) -> String {
        self.within(&self.schema(names))
    }

    /// The table of its name in another schema, as SQL takes it.
    pub(super) fn within(&self, schema: &str) -> String {
        format!("{}.{}", identifier(schema), identifier(self.bare()))
    }

    /// The columns that the hub writes.
    pub(super) fn made(&self) -> Vec<&'static str> {
        let (_, list) = self.insert.split_once("INSERT INTO").unwrap_or_default();
        let (_, list) = list.split_once('(').unwrap_or_default();
        let (list, _) = list.split_once(')').unwrap_or_default();
        list.split(',').map(str::trim).collect()
    }

    /// Whether a row (`alias`) began before a time, and may so have events that the log does not hold any more. An error began with its
    /// webhook.
    pub(super) fn is_older(&self, names: &Names, alias: &str, than: DateTime<Utc>) -> String {
        let older = format!("{alias}.{} < {}", self.began, self.moment(than));
        if self.bare() != "delivery_error_logs" {
            return older;
        }
        let webhooks = &TABLES[0];
        format!(
            "({older} OR EXISTS (SELECT FROM {} w WHERE w.id = {alias}.webhook_log_id AND {}))",
            webhooks.live(names),
            webhooks.is_older(names, "w", than)
        )
    }

    /// Whether a row (`alias`) began at a time or later.
    pub(super) fn began_since(&self, alias: &str, since: DateTime<Utc>) -> String {
        format!("{alias}.{} >= {}", self.began, self.moment(since))
    }

    /// Whether a row (`alias`) is so old that the hub deletes it, as far as the row itself tells.
    pub(super) fn is_expired(&self, alias: &str, kept: &Retention) -> String {
        let (kept, ended) = match self.name {
            "webhook_logs" => (kept.webhook_logs, "status IN ('completed', 'ignored', 'failed')"),
            "delivery_error_logs" => (kept.delivery_error_logs, "is_resolved"),
            "provider_order_logs" => (kept.provider_order_logs, "true"),
            _ => (kept.orders, "undelivered_since IS NULL"),
        };
        let changed = if self.is_own() { "last_at" } else { "updated_at" };
        match kept {
            None => "false".to_owned(),
            Some(kept) => format!(
                "({alias}.{changed} < now() - interval '{} seconds' AND {})",
                kept.as_secs(),
                if ended == "true" {
                    ended.to_owned()
                } else {
                    format!("{alias}.{ended}")
                }
            ),
        }
    }

    /// A time as its columns keep it.
    fn moment(&self, time: DateTime<Utc>) -> String {
        let text = time.format("%Y-%m-%d %H:%M:%S%.3f");
        if self.is_own() {
            format!("'{text}+00'::timestamptz")
        } else {
            format!("'{text}'::timestamp")
        }
    }

    /// Whether a row of one alias is that of another.
    pub(super) fn same_key(&self, one: &str, other: &str) -> String {
        let same: Vec<_> = self
            .key
            .iter()
            .map(|column| format!("{one}.{column} = {other}.{column}"))
            .collect();
        same.join(" AND ")
    }

    /// The condition under which a made row (`s`) and a live one (`l`) with another key are of one order, as the live path finds the
    /// order of an event; none where a row is of one event.
    fn is_same_order(&self) -> Option<String> {
        match self.name {
            "provider_order_logs" => Some("l.provider_id = s.provider_id AND l.order_id = s.order_id".to_owned()),
            "hub.orders" => Some(format!(
                "l.external_order_id = s.external_order_id AND l.provider = s.provider
                 AND (l.branch_id = s.branch_id OR l.branch_id IS NULL OR s.branch_id IS NULL)
                 AND s.first_at - l.first_at BETWEEN -interval '{0} seconds' AND interval '{0} seconds'",
                SAME_ORDER_FOR.num_seconds()
            )),
            _ => None,
        }
    }

    /// Which rows of the made table (`s`) are of an order that has a row of an earlier log in the live table: the hub went on with that
    /// row when the order came again. `of_others`: which live rows (`l`) are not the log's.
    pub(super) fn goes_on(&self, live: &str, made: &str, of_others: &str) -> String {
        let Some(is_same) = self.is_same_order() else {
            return "false".to_owned();
        };
        format!(
            "EXISTS (SELECT FROM {live} l WHERE {is_same} AND ({of_others}) AND NOT EXISTS (SELECT FROM {made} t WHERE {}))
             AND NOT EXISTS (SELECT FROM {live} k WHERE {})",
            self.same_key("t", "l"),
            self.same_key("k", "s"),
        )
    }
}

/// Text as SQL takes it.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Columns as a list of SQL, each of an alias.
pub(super) fn list<T: AsRef<str>>(alias: &str, columns: &[T]) -> String {
    let named: Vec<_> = columns
        .iter()
        .map(|column| format!("{alias}{}", identifier(column.as_ref())))
        .collect();
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::ALL;

    #[test]
    fn each_projection_has_its_table() {
        let applied: Vec<_> = ALL.iter().map(|projection| projection.name()).collect();
        assert_eq!(TABLES.iter().map(Table::bare).collect::<Vec<_>>(), applied);
        for table in &TABLES {
            let made = table.made();
            for column in table.key.iter().chain([&table.began, &table.provider]) {
                assert!(made.contains(column), "{}: {column} is not among {made:?}", table.name);
            }
            assert!(made.len() > 15, "{made:?}");
        }
        assert!(Table::of("orders").is_none());
    }
}
