//! The description of a table that follows from the log, for all code that treats such tables alike: `fill`, `retention`, `rebuild` and
//! `verify`. Each projection has one.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::webhook_logs;
use crate::{
    config::Retention,
    database::names::{Names, identifier},
};

/// The prefix of names of tables in the schema `hub`.
const OWN: &str = "hub.";

/// A table.
pub(crate) struct Table {
    /// Its name for operators: `webhook_logs`, `hub.orders`. A table of the schema `hub` is the hub's own: all of its rows follow from the log.
    pub(super) name: &'static str,
    /// The version of the rules by which events become rows. A table of the hub's own is emptied and filled from the log if a smaller
    /// version wrote its rows.
    pub(super) version: i32,
    /// The columns by which a row is found.
    pub(super) key: &'static [&'static str],
    /// The column with the time at which a row's first event happened.
    pub(super) began: &'static str,
    /// The column with the provider's id; in a table of the hub's own, with its code.
    pub(super) provider: &'static str,
    /// The statement that inserts its rows. Its list of columns is the list of those that the hub writes.
    pub(super) insert: &'static str,
    /// The columns that people write, if there are any.
    pub(super) by_people: Option<ByPeople>,
    /// The condition under which a made row (`s`) and a live one (`l`) with another key are of one order, as the live path finds the
    /// order of an event; none where a row is of one event.
    pub(super) same_order: Option<fn() -> String>,
    /// Which rows the hub deletes; none if it deletes none.
    pub(super) retention: Option<RowRetention>,
}

/// The condition for rows of the live table (`l`) that a person wrote in, and the columns that are that person's.
pub(super) type ByPeople = (fn() -> String, &'static [&'static str]);

/// Which rows of a table are deleted when they are old.
pub(super) struct RowRetention {
    /// For how long a row is kept after its last change; none if the operator set no limit.
    pub(super) kept: fn(&Retention) -> Option<Duration>,
    /// The column with the time of a row's last change.
    pub(super) changed: &'static str,
    /// The condition for rows with nothing left to happen, about the row alone; it begins with a column. None if it is true of all.
    pub(super) ended: Option<&'static str>,
    /// The statement that deletes some of them.
    pub(super) delete: &'static str,
}

/// The tables of all projections, in the order in which a batch is applied to them.
pub(super) fn all() -> impl DoubleEndedIterator<Item = &'static Table> {
    super::ALL.iter().map(|projection| projection.table())
}

impl Table {
    /// The table of a name, as operators write it. `orders` is the platform's own table, which does not follow from the log.
    pub(super) fn of(name: &str) -> Option<&'static Self> {
        all().find(|table| table.name == name)
    }

    /// Its name in its schema.
    pub(super) fn bare(&self) -> &'static str {
        self.name.strip_prefix(OWN).unwrap_or(self.name)
    }

    /// Whether it is in the schema `hub`.
    pub(super) fn is_own(&self) -> bool {
        self.name.starts_with(OWN)
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

    /// The statement by which many rows with those columns are added.
    pub(super) fn copy(&self) -> String {
        let (_, rest) = self.insert.split_once("INSERT INTO").unwrap_or_default();
        let (name, _) = rest.split_once('(').unwrap_or_default();
        format!("COPY {} ({}) FROM STDIN", name.trim(), self.made().join(", "))
    }

    /// Whether a row (`alias`) began before a time, and may so have events that the log does not hold any more. An error began with its
    /// webhook.
    pub(super) fn is_older(&self, names: &Names, alias: &str, than: DateTime<Utc>) -> String {
        let older = format!("{alias}.{} < {}", self.began, self.moment(than));
        if self.bare() != "delivery_error_logs" {
            return older;
        }
        let webhooks = &webhook_logs::TABLE;
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

    /// Whether a row (`alias`) is old enough to be deleted, as far as the row itself shows.
    pub(super) fn is_expired(&self, alias: &str, kept: &Retention) -> String {
        let rule = self.retention.as_ref();
        match rule.and_then(|rule| Some((rule, (rule.kept)(kept)?))) {
            None => "false".to_owned(),
            Some((RowRetention { changed, ended, .. }, kept)) => format!(
                "({alias}.{changed} < now() - interval '{} seconds' AND {})",
                kept.as_secs(),
                ended.map_or_else(|| "true".to_owned(), |ended| format!("{alias}.{ended}"))
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

    /// Which rows of the made table (`s`) are of an order that has a row of an earlier log in the live table: the hub went on with that
    /// row when the order came again. `of_others`: which live rows (`l`) are not the log's.
    pub(super) fn goes_on(&self, live: &str, made: &str, of_others: &str) -> String {
        let Some(is_same) = self.same_order.map(|condition| condition()) else {
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

    #[test]
    fn each_table_has_the_columns_that_it_names() {
        for table in all() {
            let made = table.made();
            for column in table.key.iter().chain([&table.began, &table.provider]) {
                assert!(made.contains(column), "{}: {column} is not among {made:?}", table.name);
            }
        }
        assert!(Table::of("hub.orders").is_some_and(Table::is_own));
        assert!(Table::of("orders").is_none());
    }
}
