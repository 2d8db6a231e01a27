//! Exchanges the live tables with the new ones, in one short transaction.
//!
//! Rows, indexes, constraints and rights belong to a table and move with it. Foreign keys of other tables, views and triggers refer to the
//! live table by its `oid`. Foreign keys and triggers are dropped and created again with the same text, which then means the new table; views
//! are replaced in the same way. Foreign keys are created as `NOT VALID` and validated after the transaction, without a lock that others
//! would notice.

use std::collections::BTreeSet;

use super::beside::{self, Beside, REPLACED};
use crate::{
    database::{
        Connection, Transaction,
        names::{Names, identifier},
    },
    fault_injection::crash_at,
    projection::table::{Table, literal},
};

/// The schema of the live tables while the names are exchanged.
const LEAVING: &str = "hub_leaving";
/// How long the transaction waits for a table that is in use. Meanwhile the tables' position is locked, and other sessions wait for that table.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '200ms'; SET LOCAL search_path = ''";

/// How long the exchange waits for a vacuum or another maintenance command on a table. Other sessions do not wait meanwhile.
const MAINTENANCE_TIMEOUT: &str = "SET LOCAL lock_timeout = '5s'";
/// How long the exchange then waits for the lock on the tables' position. A session that alters a table waits for the exchange, and the hub's
/// writer, which holds the position, waits for that session. The exchange must give up before PostgreSQL looks for a deadlock
/// (`deadlock_timeout`, 1 s) and ends one of the other two.
const POSITION_TIMEOUT: &str = "SET LOCAL lock_timeout = '800ms'";

/// For each foreign key to a live table (`$1`: its oid), or from it: the statement that drops it, the one that creates it again for the
/// table that has the name then, and the one that validates it.
const FOREIGN_KEYS: &str = "
    SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
        format('ALTER TABLE %s ADD CONSTRAINT %I %s%s', conrelid::regclass, conname, pg_get_constraintdef(oid),
            CASE WHEN convalidated THEN ' NOT VALID' ELSE '' END),
        CASE WHEN convalidated THEN format('ALTER TABLE %s VALIDATE CONSTRAINT %I', conrelid::regclass, conname) END
    FROM pg_constraint WHERE contype = 'f' AND $1 IN (conrelid, confrelid) ORDER BY oid";
/// The same for triggers, which need no validation.
const TRIGGERS: &str = "
    SELECT format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass),
        pg_get_triggerdef(oid) || CASE tgenabled WHEN 'O' THEN '' ELSE format('; ALTER TABLE %s %s TRIGGER %I', tgrelid::regclass,
            CASE tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, tgname) END,
        NULL::text
    FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal ORDER BY oid";
/// The same for views, which need not be dropped: the second statement replaces them.
const VIEWS: &str = "
    SELECT DISTINCT 'SELECT 1', format('CREATE OR REPLACE VIEW %s %s AS %s', v.oid::regclass,
            coalesce('WITH (' || array_to_string(v.reloptions, ', ') || ')', ''), pg_get_viewdef(v.oid)),
        NULL::text
    FROM pg_depend d JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype = 'n' AND v.relkind = 'v'";

/// Something that refers to a live table: the statement that drops it, and the one that creates it again for the new table.
struct Tie {
    take: String,
    tie: String,
    /// The statement that validates a foreign key.
    check: Option<String>,
}

/// Keeps maintenance away from the live tables and the new ones until the transaction ends: `VACUUM`, `ANALYZE`, and indexes that are created
/// `CONCURRENTLY`. PostgreSQL ends an autovacuum that stands in the way of a lock, but only after `deadlock_timeout` (1 s), which is longer
/// than [`exchange`] may wait: its locks hold up everyone. These hold up no reader and no writer.
///
/// # Errors
/// If another maintenance command on one of the tables takes longer, or PostgreSQL does not answer.
pub(super) async fn keep_maintenance_away(
    transaction: &Transaction<'_>,
    names: &Names,
    beside: &Beside,
) -> anyhow::Result<()> {
    let made = beside.tables.iter().map(|table| table.within(beside.schema()));
    let all: Vec<_> = live(names, beside).chain(made).collect();
    lock_out_maintenance(transaction, &all).await
}

/// Ends the maintenance of live tables that is under way, so that [`keep_maintenance_away`] need not wait for that later.
///
/// # Errors
/// The same as of [`keep_maintenance_away`].
pub(super) async fn end_maintenance(connection: &mut Connection, beside: &Beside) -> anyhow::Result<()> {
    let names = connection.names().clone();
    let transaction = connection.transaction().await?;
    lock_out_maintenance(&transaction, &live(&names, beside).collect::<Vec<_>>()).await?;
    Ok(transaction.commit().await?)
}

/// The live tables that are to be exchanged.
fn live<'n>(names: &'n Names, beside: &'n Beside) -> impl Iterator<Item = String> + 'n {
    beside.wanted.iter().map(|table| table.live(names))
}

async fn lock_out_maintenance(transaction: &Transaction<'_>, tables: &[String]) -> anyhow::Result<()> {
    let lock = format!(
        "{MAINTENANCE_TIMEOUT}; LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE; {POSITION_TIMEOUT}",
        tables.join(", ")
    );
    Ok(transaction.batch_execute(&lock).await?)
}

/// Exchanges live tables with those of the same names in `beside`. The tables' position must be locked, and both must be at the same
/// position. [`keep_replaced`] must follow.
///
/// # Errors
/// If PostgreSQL refuses, for example because a table is in use for longer than the transaction waits.
pub(super) async fn exchange(
    transaction: &Transaction<'_>,
    names: &Names,
    beside: &Beside,
    tables: &[&'static Table],
) -> anyhow::Result<()> {
    transaction.batch_execute(LOCK_TIMEOUT).await?;
    let live: Vec<_> = tables.iter().map(|table| table.live(names)).collect();
    transaction
        .batch_execute(&format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", live.join(", ")))
        .await?;
    crash_at("rebuild_locked");
    let ties = ties(transaction, &live).await?;
    for tie in &ties {
        transaction.batch_execute(&tie.take).await?;
    }
    let mut moves = format!("CREATE SCHEMA {LEAVING};");
    for table in tables {
        let (live, made) = (table.live(names), table.within(beside.schema()));
        let home = identifier(&table.schema(names));
        moves += &format!("ALTER TABLE {live} SET SCHEMA {LEAVING}; ALTER TABLE {made} SET SCHEMA {home};");
    }
    // Tables that were only needed to fill others are needed again if this is undone.
    let exchanged: BTreeSet<_> = tables.iter().map(|table| table.name).collect();
    for table in beside.tables.iter().filter(|table| !exchanged.contains(table.name)) {
        moves += &format!("ALTER TABLE {} SET SCHEMA {LEAVING};", table.within(beside.schema()));
    }
    moves += &format!(
        "ALTER TABLE {0}.cursor SET SCHEMA {LEAVING}; DROP SCHEMA {0};",
        beside.schema()
    );
    transaction.batch_execute(&moves).await?;
    for tie in &ties {
        transaction.batch_execute(&tie.tie).await?;
    }
    let checks: Vec<_> = ties.iter().filter_map(|tie| tie.check.as_deref()).collect();
    transaction
        .execute(&format!("UPDATE {LEAVING}.cursor SET unchecked = $1"), &[&checks])
        .await?;
    crash_at("rebuild_moved");
    Ok(())
}

/// Moves the replaced tables to the schema [`REPLACED`], and drops those of an earlier rebuild.
///
/// # Errors
/// If PostgreSQL refuses.
pub(super) async fn keep_replaced(transaction: &Transaction<'_>) -> anyhow::Result<()> {
    let sql = "SELECT format('DROP TABLE %s', string_agg(c.oid::regclass::text, ', ')) FROM pg_class c
               JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r' HAVING count(*) > 0";
    for row in transaction.query(sql, &[&REPLACED]).await? {
        transaction.batch_execute(row.try_get(0)?).await?;
    }
    transaction
        .batch_execute(&format!(
            "DROP SCHEMA IF EXISTS {REPLACED}; ALTER SCHEMA {LEAVING} RENAME TO {REPLACED}"
        ))
        .await?;
    Ok(())
}

async fn ties(transaction: &Transaction<'_>, live: &[String]) -> anyhow::Result<Vec<Tie>> {
    let (mut ties, mut known) = (Vec::new(), BTreeSet::new());
    for what in [FOREIGN_KEYS, TRIGGERS, VIEWS] {
        for table in live {
            let sql = what.replace("$1", &format!("({}::regclass)", literal(table)));
            for row in transaction.query(&sql, &[]).await? {
                let tie = Tie {
                    take: row.try_get(0)?,
                    tie: row.try_get(1)?,
                    check: row.try_get(2)?,
                };
                // A foreign key between two of the tables, or a view of both, comes twice.
                if known.insert(tie.tie.clone()) {
                    ties.push(tie);
                }
            }
        }
    }
    Ok(ties)
}

/// Validates the foreign keys that an exchange left unchecked. Returns why some could not be validated.
///
/// # Errors
/// If PostgreSQL does not answer.
pub(super) async fn check_foreign_keys(connection: &Connection) -> anyhow::Result<Vec<String>> {
    if !beside::exists(connection, REPLACED).await? {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT unchecked FROM {REPLACED}.cursor");
    let checks: Vec<String> = connection.query_one(&sql, &[]).await?.try_get(0)?;
    let mut failed = Vec::new();
    for check in &checks {
        match connection.batch_execute(check).await {
            Ok(()) => {}
            Err(error) if error.code().is_some() => failed.push(format!("{check}: {error}")),
            Err(error) => return Err(error.into()),
        }
    }
    if failed.len() < checks.len() {
        let left: Vec<_> = checks
            .iter()
            .filter(|check| failed.iter().any(|one| one.starts_with(*check)))
            .collect();
        connection
            .execute(&format!("UPDATE {REPLACED}.cursor SET unchecked = $1"), &[&left])
            .await?;
    }
    Ok(failed)
}
