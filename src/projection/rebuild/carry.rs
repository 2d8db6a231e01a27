//! Carries rows and columns that do not follow from the log from the live tables to the new ones.
//!
//! - Rows that are older than the log are copied unchanged, because their earlier events have expired. They are copied before the log is
//!   applied as well, because later events may change them.
//! - Rows of providers that have no event on the log belong to the platform.
//! - Rows of an earlier log, if the log went back or was replaced (`hub.log_eras`). If such an order was sent again, its row replaces the
//!   one that follows from the log.
//! - What people wrote: columns that the hub does not write, and the columns about the resolution of errors that a person resolved.
//!
//! Any other row that does not follow from the log is left out and counted. It stays in the replaced table.

use std::collections::BTreeSet;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use tokio_postgres::types::Oid;

use super::shape;
use crate::{
    database::{Connection, Transaction},
    event::EventId,
    projection::table::{Table, list, literal},
};

/// If events have expired, rows that began within this time after the log's first event count as older than the log: the clocks of
/// instances differ, and the log has events in the order of their arrival.
const AT_THE_EDGE: TimeDelta = TimeDelta::seconds(60);

/// Where the log begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beginning {
    /// Its first sequence.
    pub(super) sequence: u64,
    /// Rows that began earlier are older than the log.
    pub(super) time: DateTime<Utc>,
    /// When the first event happened.
    pub(super) first: DateTime<Utc>,
}

impl Beginning {
    /// From the log's first event.
    pub(super) fn new(sequence: u64, first: DateTime<Utc>) -> Self {
        let edge = if sequence > 1 { AT_THE_EDGE } else { TimeDelta::zero() };
        Self {
            sequence,
            time: first + edge,
            first,
        }
    }
}

/// The numbers of rows of a table that were carried over, and left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Carried {
    /// Rows that are older than the log.
    pub older: u64,
    /// Rows of providers without an event on the log, or of an earlier log.
    pub of_others: u64,
    /// Rows in which people wrote.
    pub by_people: u64,
    /// Other live rows that do not follow from the log: left out, unless `keep_extra`.
    pub extra: u64,
}

/// What a new table lacks of the live one.
#[derive(Debug)]
struct Lacking {
    /// The number of rows of the new table.
    rows: i64,
    /// Live rows that are older than the log, whether the new table has them or not.
    older: u64,
    /// Rows of both in which people wrote.
    by_people: u64,
    /// Missing rows that do not follow from the log and are not older.
    of_others: u64,
    /// All other rows that are missing.
    extra: u64,
}

impl Lacking {
    const fn is_nothing(&self) -> bool {
        self.older == 0 && self.by_people == 0 && self.of_others == 0 && self.extra == 0
    }
}

/// A live table and the new one.
pub(super) struct Carrier {
    pub(super) table: &'static Table,
    pub(super) live: String,
    made: String,
    /// All columns that can be written.
    columns: Vec<String>,
    /// The columns that the hub does not write.
    of_others: Vec<String>,
    beginning: Beginning,
    /// The condition for rows of the live table (`l`) that are older than the log.
    older: String,
    keep_extra: bool,
}

impl Carrier {
    /// For a live table (`oid`) and the new one in `schema`.
    ///
    /// # Errors
    /// If PostgreSQL does not answer.
    pub(super) async fn new(
        connection: &Connection,
        (table, oid): (&'static Table, Oid),
        schema: &str,
        beginning: Beginning,
        keep_extra: bool,
    ) -> anyhow::Result<Self> {
        let (names, made) = (connection.names(), table.made());
        let columns = shape::columns(connection, oid).await?;
        let of_others = columns.iter().filter(|column| !made.contains(&column.as_str()));
        Ok(Self {
            table,
            live: table.live(names),
            made: table.within(schema),
            of_others: of_others.cloned().collect(),
            columns,
            beginning,
            older: table.is_older(names, "l", beginning.time),
            keep_extra,
        })
    }

    /// Copies rows that are older than the log, so that events find them. A webhook with events on the log was not completed yet at the
    /// log's beginning.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub(super) async fn begin(&self, connection: &Connection) -> anyhow::Result<u64> {
        self.copy_older(connection, "true").await
    }

    async fn copy_older(&self, connection: &Connection, which: &str) -> anyhow::Result<u64> {
        let (live, made, older) = (&self.live, &self.made, &self.older);
        let (columns, read) = (list("", &self.columns), list("l.", &self.columns));
        let copy = format!("INSERT INTO {made} ({columns}) SELECT {read} FROM {live} l WHERE {older} AND {which}");
        let copied = connection.execute(&copy, &[]).await?;
        if self.table.bare() == "webhook_logs" {
            let first = self.beginning.first.format("%Y-%m-%d %H:%M:%S%.3f");
            let open = format!(
                "UPDATE {made} SET status = 'processing' WHERE status = 'completed' AND updated_at >= '{first}'::timestamp"
            );
            connection.execute(&open, &[]).await?;
        }
        Ok(copied)
    }

    /// The same for a table that is only compared: it copies rows that later events may change. It copies no errors, because errors of
    /// older webhooks are not compared.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub(super) async fn begin_context(&self, connection: &Connection) -> anyhow::Result<u64> {
        let first = self.beginning.first.format("%Y-%m-%d %H:%M:%S%.3f");
        let which = match self.table.bare() {
            "delivery_error_logs" => return Ok(0),
            "webhook_logs" => format!("l.updated_at >= '{first}'::timestamp"),
            _ => "true".to_owned(),
        };
        self.copy_older(connection, &which).await
    }

    /// Carries over what the new table lacks: from all rows, or from those that transactions since `since` wrote. Returns also the number of
    /// rows of the new table, if it is about all of them.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub(super) async fn carry(
        &self,
        transaction: &Transaction<'_>,
        since: Option<&str>,
        seen: &BTreeSet<String>,
    ) -> anyhow::Result<(Carried, i64)> {
        let recent = since.map_or_else(
            || "true".to_owned(),
            |xid| format!("age(l.xmin) <= age({}::xid)", literal(xid)),
        );
        self.tell_apart(transaction).await?;
        let of_others = format!("({})", is_of_others(self.table, transaction, seen).await?);
        let lacking = self.lacking(transaction, since.map(|_| &*recent), &of_others).await?;
        let mut carried = Carried {
            extra: if self.keep_extra { 0 } else { lacking.extra },
            ..Carried::default()
        };
        if lacking.older > 0 {
            carried.older = self.carry_older(transaction, &recent).await?;
        }
        if lacking.by_people > 0 {
            carried.by_people = self.carry_columns(transaction, &recent).await?;
        }
        if since.is_none() && (lacking.of_others > 0 || lacking.older > 0) {
            // Later events find the row that is carried over.
            let made_twice = self.table.goes_on(&self.live, &self.made, &of_others);
            let remove = format!("DELETE FROM {} s WHERE {made_twice}", self.made);
            transaction.execute(&remove, &[]).await?;
        }
        if lacking.of_others > 0 || (self.keep_extra && lacking.extra > 0) {
            let which = if self.keep_extra { "true" } else { &of_others };
            let missing = format!("{recent} AND NOT {} AND {}", self.older, self.is_not_made());
            carried.of_others = transaction
                .execute(&self.insert(&format!("{missing} AND {which}")), &[])
                .await?;
        }
        let rows = if lacking.is_nothing() {
            lacking.rows
        } else {
            self.rows(transaction).await?
        };
        Ok((carried, rows))
    }

    /// Compares the live rows with the new ones in one pass, of both tables: usually there is nothing to carry over. `recent`: the condition
    /// for live rows that count; none if all do.
    async fn lacking(
        &self,
        transaction: &Transaction<'_>,
        recent: Option<&str>,
        of_others: &str,
    ) -> anyhow::Result<Lacking> {
        let (key, older) = (self.table.key[0], &self.older);
        let written: Vec<_> = self
            .columns_of_people()
            .into_iter()
            .map(|(which, columns)| {
                let (mine, theirs) = (list("s.", &columns), list("l.", &columns));
                format!("({which} AND ROW({mine}) IS DISTINCT FROM ROW({theirs}))")
            })
            .collect();
        let by_people = if written.is_empty() {
            "false".to_owned()
        } else {
            written.join(" OR ")
        };
        let (join, recent) = recent.map_or(("FULL", "true"), |recent| ("LEFT", recent));
        let is_missing = format!("l.{key} IS NOT NULL AND s.{key} IS NULL AND NOT {older}");
        let sql = format!(
            "SELECT count(s.{key}),
                 count(*) FILTER (WHERE l.{key} IS NOT NULL AND {older}),
                 count(*) FILTER (WHERE l.{key} IS NOT NULL AND s.{key} IS NOT NULL AND NOT {older} AND ({by_people})),
                 count(*) FILTER (WHERE {is_missing} AND {of_others}),
                 count(*) FILTER (WHERE {is_missing} AND NOT {of_others})
             FROM {} l {join} JOIN {} s ON {} WHERE {recent}",
            self.live,
            self.made,
            self.table.same_key("s", "l"),
        );
        let rows = transaction.query(&sql, &[]).await?;
        let row = rows.first().context("PostgreSQL counts no rows")?;
        let count = |column: usize| anyhow::Ok(u64::try_from(row.try_get::<_, i64>(column)?)?);
        Ok(Lacking {
            rows: row.try_get(0)?,
            older: count(1)?,
            by_people: count(2)?,
            of_others: count(3)?,
            extra: count(4)?,
        })
    }

    /// The number of rows of the new table.
    async fn rows(&self, transaction: &Transaction<'_>) -> anyhow::Result<i64> {
        let rows = transaction
            .query(&format!("SELECT count(*) FROM {}", self.made), &[])
            .await?;
        Ok(rows.first().map_or(Ok(0), |row| row.try_get(0))?)
    }

    fn is_not_made(&self) -> String {
        format!(
            "NOT EXISTS (SELECT FROM {} s WHERE {})",
            self.made,
            self.table.same_key("s", "l")
        )
    }

    fn insert(&self, which: &str) -> String {
        format!(
            "INSERT INTO {} ({}) SELECT {} FROM {} l WHERE {which} ON CONFLICT DO NOTHING",
            self.made,
            list("", &self.columns),
            list("l.", &self.columns),
            self.live,
        )
    }

    /// Copies older rows as they are now, also those that the log's events changed.
    async fn carry_older(&self, transaction: &Transaction<'_>, recent: &str) -> anyhow::Result<u64> {
        let differs = format!(
            "ROW({}) IS DISTINCT FROM ROW({})",
            list("s.", &self.columns),
            list("l.", &self.columns)
        );
        let remove = format!(
            "DELETE FROM {} s USING {} l WHERE {} AND {} AND {recent} AND {differs}",
            self.made,
            self.live,
            self.table.same_key("s", "l"),
            self.older
        );
        transaction.execute(&remove, &[]).await?;
        let insert = self.insert(&format!("{} AND {recent} AND {}", self.older, self.is_not_made()));
        Ok(transaction.execute(&insert, &[]).await?)
    }

    /// Copies what people wrote in rows that follow from the log.
    async fn carry_columns(&self, transaction: &Transaction<'_>, recent: &str) -> anyhow::Result<u64> {
        let mut carried = 0;
        for (which, columns) in self.columns_of_people() {
            let (mine, theirs) = (list("s.", &columns), list("l.", &columns));
            let update = format!(
                "UPDATE {} s SET ({}) = ROW({theirs}) FROM {} l
                 WHERE {} AND NOT {} AND {recent} AND {which} AND ROW({mine}) IS DISTINCT FROM ROW({theirs})",
                self.made,
                list("", &columns),
                self.live,
                self.table.same_key("s", "l"),
                self.older,
            );
            carried += transaction.execute(&update, &[]).await?;
        }
        Ok(carried)
    }

    /// The columns that people write, in groups, each with the condition for its rows.
    fn columns_of_people(&self) -> Vec<(String, Vec<&str>)> {
        let others = ("true".to_owned(), self.of_others.iter().map(String::as_str).collect());
        let by_people = self.table.by_people.map(|(which, columns)| (which(), columns.to_vec()));
        let groups: [_; 2] = [Some(others), by_people];
        let groups = groups.into_iter().flatten();
        groups
            .filter(|(_, columns): &(_, Vec<&str>)| !columns.is_empty())
            .collect()
    }

    /// Gives an error the id that it has in the live table, if an error of an earlier log has its own id (see `insert_error_logs.sql`).
    pub(super) async fn tell_apart(&self, transaction: &Transaction<'_>) -> anyhow::Result<()> {
        if self.table.bare() != "delivery_error_logs" || last_era(transaction).await?.is_none() {
            return Ok(());
        }
        let sql = format!(
            "SELECT s.id, (extract(epoch FROM s.occurred_at) * 1000)::bigint FROM {} s JOIN {} l ON l.id = s.id WHERE l.occurred_at <> s.occurred_at",
            self.made, self.live
        );
        let (mut ids, mut others) = (Vec::new(), Vec::new());
        for row in transaction.query(&sql, &[]).await? {
            let (id, at): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            others.push(id.parse::<EventId>()?.derive(&format!("of {at}")).to_string());
            ids.push(id);
        }
        let rename = format!(
            "UPDATE {0} s SET id = o.other FROM unnest($1::text[], $2::text[]) AS o (id, other)
             WHERE s.id = o.id AND NOT EXISTS (SELECT FROM {0} t WHERE t.id = o.other)",
            self.made
        );
        transaction.execute(&rename, &[&ids, &others]).await?;
        Ok(())
    }
}

/// The condition for rows of a live table (`l`) that do not follow from the log: those of providers without an event on it, and those of an
/// earlier log. In tables of the hub's own only the latter exist.
///
/// # Errors
/// If PostgreSQL does not answer.
pub(super) async fn is_of_others(
    table: &Table,
    transaction: &Transaction<'_>,
    seen: &BTreeSet<String>,
) -> anyhow::Result<String> {
    let mut which = match last_era(transaction).await? {
        Some(began) => format!("NOT {}", table.began_since("l", began)),
        None => "false".to_owned(),
    };
    if !table.is_own() {
        let codes: Vec<_> = seen.iter().map(|code| literal(code)).collect();
        let known = if codes.is_empty() {
            "false".to_owned()
        } else {
            format!("p.code IN ({})", codes.join(", "))
        };
        which += &format!(
            " OR NOT EXISTS (SELECT FROM {{platform}}.delivery_providers p WHERE p.id = l.{} AND {known})",
            table.provider
        );
    }
    Ok(which)
}

/// When the log was last replaced or went back; none if it never did.
async fn last_era(transaction: &Transaction<'_>) -> anyhow::Result<Option<DateTime<Utc>>> {
    let rows = transaction.query("SELECT max(began_at) FROM hub.log_eras", &[]).await?;
    Ok(rows.first().map(|row| row.try_get(0)).transpose()?.flatten())
}
