//! Compares a live table with the new one, both at one position of the log.
//!
//! It goes through the keys in ranges. It compares the number of rows and a sum of their hashes; if these differ, it compares the rows,
//! column by column. The result contains no values, because they may be personal data.

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio_postgres::Row;

use super::{Progress, Tell};
use crate::{
    config::Retention,
    database::{Transaction, names::Names},
    projection::table::{Table, list, literal},
};

/// Rows of the new table in one key range.
const RANGE: i64 = 5000;
/// Most rows that are named, for each table and each kind of difference.
pub const MOST_NAMED: usize = 100;

/// The differences of a table.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TableDifferences {
    /// Its name.
    pub name: &'static str,
    /// Rows of the new table that were compared.
    pub rows: i64,
    /// Live rows that are older than the part of the log that was read: they cannot be compared.
    pub older: i64,
    /// Rows that the live table lacks.
    pub missing: Named<String>,
    /// Live rows that do not follow from the log.
    pub extra: Named<String>,
    /// Rows that differ.
    pub different: Named<DifferentRow>,
}

impl TableDifferences {
    /// Whether there are none.
    pub fn is_same(&self) -> bool {
        self.missing.count + self.extra.count + self.different.count == 0
    }
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DifferentRow {
    /// Its key.
    pub key: String,
    /// The columns that differ.
    pub columns: Vec<String>,
}

/// A number of things, and the first [`MOST_NAMED`] of them.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Named<T> {
    /// The number of all.
    pub count: usize,
    /// The first ones, in the order of their keys.
    pub first: Vec<T>,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self {
            count: 0,
            first: Vec::new(),
        }
    }
}

impl<T> Named<T> {
    /// Counts one more.
    pub fn push(&mut self, one: T) {
        self.count += 1;
        if self.first.len() < MOST_NAMED {
            self.first.push(one);
        }
    }
}

/// Which rows are compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Which<'a> {
    /// Those that began at this time or later.
    pub(super) since: DateTime<Utc>,
    /// Those that began before this time.
    pub(super) until: Option<DateTime<Utc>>,
    /// Those of this provider.
    pub(super) provider: Option<&'a str>,
    /// How long the hub keeps rows.
    pub(super) retention: &'a Retention,
}

/// A live table and the new one.
pub(super) struct Comparison<'a> {
    table: &'static Table,
    transaction: &'a Transaction<'a>,
    live: String,
    made: String,
    columns: Vec<&'static str>,
    /// The conditions for rows that are compared: of the live table (`l`), and of the new one (`s`).
    of_live: String,
    of_made: String,
    /// The condition for live rows (`l`) that do not follow from the log. They may be there, and may differ.
    is_of_others: String,
    /// The condition for rows of the new one that are of an order with another row in the live table.
    goes_on: String,
    /// The condition for rows of the new one that are old enough to be deleted.
    is_expired: String,
    /// The condition for rows of the live one that are older than the log.
    older: String,
}

impl<'a> Comparison<'a> {
    /// Of a live table and the new one in `schema`. `of_others`: the condition for live rows (`l`) that do not follow from the log.
    pub(super) fn new(
        transaction: &'a Transaction<'a>,
        (names, table, schema): (&Names, &'static Table, &str),
        which: Which<'_>,
        of_others: &str,
    ) -> Self {
        let filter = |alias: &str| {
            let mut filter = format!("NOT {}", table.is_older(names, alias, which.since));
            if let Some(until) = which.until {
                filter += &format!(" AND NOT {}", table.began_since(alias, until));
            }
            if let Some(provider) = which.provider {
                filter += &match table.is_own() {
                    true => format!(" AND {alias}.{} = {}", table.provider, literal(provider)),
                    false => format!(
                        " AND {alias}.{} = (SELECT p.id FROM {{platform}}.delivery_providers p WHERE p.code = {})",
                        table.provider,
                        literal(provider)
                    ),
                };
            }
            filter
        };
        let (live, made) = (table.live(names), table.within(schema));
        Self {
            table,
            transaction,
            goes_on: table.goes_on(&live, &made, of_others),
            live,
            made,
            columns: table.made(),
            of_live: filter("l"),
            is_of_others: format!("coalesce({of_others}, false)"),
            of_made: filter("s"),
            is_expired: table.is_expired("s", which.retention),
            older: table.is_older(names, "l", which.since),
        }
    }

    /// Compares all rows.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub(super) async fn run(&self, tell: Tell<'_>) -> anyhow::Result<TableDifferences> {
        let mut found = TableDifferences {
            name: self.table.name,
            rows: self.count(&format!("{} s WHERE {}", self.made, self.of_made)).await?,
            older: self.count(&format!("{} l WHERE {}", self.live, self.older)).await?,
            ..TableDifferences::default()
        };
        let (mut after, mut done) = (None, 0);
        loop {
            let end = self.end_of_range(after.as_deref()).await?;
            let range = |alias: &str| self.range(alias, after.as_deref(), end.as_deref());
            if self.hash(&self.live, "l", &range("l"), &self.of_live).await?
                != self.hash(&self.made, "s", &range("s"), &self.of_made).await?
            {
                self.rows(&range("l"), &range("s"), &mut found).await?;
            }
            done += RANGE.unsigned_abs();
            tell(Progress {
                phase: self.table.name,
                done: done.min(found.rows.unsigned_abs()),
                of: found.rows.unsigned_abs(),
            });
            if end.is_none() {
                return Ok(found);
            }
            after = end;
        }
    }

    async fn count(&self, from: &str) -> anyhow::Result<i64> {
        let row = self.row(&format!("SELECT count(*) FROM {from}")).await?;
        Ok(row.try_get(0)?)
    }

    async fn row(&self, sql: &str) -> anyhow::Result<Row> {
        let rows = self.transaction.query(sql, &[]).await?;
        rows.into_iter().next().context("PostgreSQL answered without a row")
    }

    /// The last key of the next range, as SQL literals; none if this range is the last one.
    async fn end_of_range(&self, after: Option<&str>) -> anyhow::Result<Option<String>> {
        let keys = list("s.", self.table.key);
        let literals: Vec<_> = self
            .table
            .key
            .iter()
            .map(|key| format!("quote_literal(s.{key}::text)"))
            .collect();
        let sql = format!(
            "SELECT concat_ws(', ', {}) FROM {} s WHERE {} ORDER BY {keys} OFFSET {} LIMIT 1",
            literals.join(", "),
            self.made,
            self.range("s", after, None),
            RANGE - 1
        );
        let rows = self.transaction.query(&sql, &[]).await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?)
    }

    fn range(&self, alias: &str, after: Option<&str>, end: Option<&str>) -> String {
        let keys = list(&format!("{alias}."), self.table.key);
        let after = after.map_or_else(|| "true".to_owned(), |after| format!("({keys}) > ({after})"));
        let end = end.map_or_else(|| "true".to_owned(), |end| format!("({keys}) <= ({end})"));
        format!("{after} AND {end}")
    }

    /// The number of rows of a range, and a sum of their hashes.
    async fn hash(&self, table: &str, alias: &str, range: &str, filter: &str) -> anyhow::Result<(i64, String)> {
        let columns = list(&format!("{alias}."), &self.columns);
        let row = self
            .row(&format!(
                "SELECT count(*), coalesce(sum(hashtextextended(ROW({columns})::text, 0)), 0)::text FROM {table} {alias} WHERE {range} AND {filter}"
            ))
            .await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    /// Finds the rows of a range that differ.
    async fn rows(&self, live_range: &str, made_range: &str, found: &mut TableDifferences) -> anyhow::Result<()> {
        let Self { columns, table, .. } = self;
        let (first, key) = (table.key[0], table.key);
        let name = |alias: &str| {
            let parts: Vec<_> = key.iter().map(|column| format!("{alias}.{column}::text")).collect();
            format!("concat_ws(' ', {})", parts.join(", "))
        };
        let mut differs = Vec::with_capacity(columns.len());
        let by_people = table.by_people.map(|(which, columns)| (which(), columns));
        for column in columns {
            let theirs = by_people.as_ref().filter(|(_, columns)| columns.contains(column));
            let unless = theirs.map(|(which, _)| format!(" AND NOT {which}")).unwrap_or_default();
            differs.push(format!(
                "CASE WHEN s.{column} IS DISTINCT FROM l.{column}{unless} THEN '{column}' END"
            ));
        }
        let sql = format!(
            "SELECT * FROM (
                 SELECT l.{first} IS NULL AS is_missing, s.{first} IS NULL AS is_extra, coalesce({}, {}) AS key,
                     array_remove(ARRAY[{}], NULL) AS columns, l.{first} IS NULL AND ({} OR {}) AS is_accounted_for, {} AS is_of_others
                 FROM (SELECT * FROM {} l WHERE {live_range} AND {}) l
                 FULL JOIN (SELECT * FROM {} s WHERE {made_range} AND {}) s ON {}
             ) AS r WHERE is_missing AND NOT is_accounted_for OR (is_extra OR NOT is_missing AND cardinality(columns) > 0) AND NOT is_of_others
             ORDER BY key",
            self.nothing_as_null(&name("l"), "l"),
            name("s"),
            differs.join(", "),
            self.is_expired,
            self.goes_on,
            self.is_of_others,
            self.live,
            self.of_live,
            self.made,
            self.of_made,
            table.same_key("s", "l"),
        );
        for row in self.transaction.query(&sql, &[]).await? {
            let key: String = row.try_get("key")?;
            if row.try_get("is_missing")? {
                found.missing.push(key);
            } else if row.try_get("is_extra")? {
                found.extra.push(key);
            } else {
                let columns = row.try_get("columns")?;
                found.different.push(DifferentRow { key, columns });
            }
        }
        Ok(())
    }

    /// Without this, `concat_ws` gives an empty text for a missing row.
    fn nothing_as_null(&self, name: &str, alias: &str) -> String {
        format!("CASE WHEN {alias}.{} IS NOT NULL THEN {name} END", self.table.key[0])
    }
}
