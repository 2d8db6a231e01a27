//! The rights of the running hub's role: `sql/grants.sql` for whoever grants them, and which of them are missing.
//!
//! PostgreSQL's own word is "permission denied for table x", without the right that is missing, and one table at a time. So
//! the texts of the grants are read as the list of what is needed, and PostgreSQL is asked for each of them.

use super::{
    Connection,
    names::{Names, identifier},
};

/// What every hub needs.
const GRANTS: &str = include_str!("../../sql/grants.sql");
/// What one needs besides that deletes old rows.
const RETENTION: &str = include_str!("../../sql/grants_retention.sql");
/// What a hub needs only where something is not there yet; where it is needed and missing PostgreSQL says so.
const SELDOM: (&str, &str) = ("INSERT", ".delivery_providers");
/// PostgreSQL's code where a right is missing.
pub const MISSING: &str = "42501";

/// A right on something in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Right {
    /// `SELECT` …
    privilege: String,
    /// A schema, or a table with its schema, as SQL takes it.
    on: String,
    /// Of a table.
    column: Option<String>,
}

/// The statements that grant a role what it needs, with this installation's names.
pub fn script(names: &Names, database: &str, role: &str, with_retention: bool) -> String {
    let mut script = GRANTS.to_owned();
    if with_retention {
        script.push('\n');
        script.push_str(RETENTION);
    }
    // The comment at its head tells how this text comes about.
    let text = names.fill(&script).into_owned();
    text.replace("{database}", &identifier(database))
        .replace("{role}", &identifier(role))
}

/// Fails where the role of a connection lacks a right, naming all that it lacks; `deletes` are the tables that it deletes old
/// rows of.
///
/// # Errors
/// The missing rights, or why PostgreSQL could not be asked.
pub async fn check(connection: &Connection, deletes: &[&str]) -> anyhow::Result<()> {
    let all = needed(connection.names(), deletes);
    let (schemas, tables): (Vec<_>, Vec<_>) = all.into_iter().partition(|right| right.privilege == "USAGE");
    // What is in a schema cannot be asked about without the right to use it.
    let of_schemas = "SELECT privilege, name, NULL, current_user::text FROM unnest($1::text[], $2::text[], $3::text[]) AS n (privilege, name, col)
                      WHERE NOT has_schema_privilege(name, privilege)";
    let of_tables = "SELECT privilege, name, col, current_user::text FROM unnest($1::text[], $2::text[], $3::text[]) AS n (privilege, name, col)
                     WHERE NOT CASE WHEN col IS NULL THEN has_table_privilege(name, privilege)
                               ELSE has_column_privilege(name, col, privilege) END";
    for (sql, rights) in [(of_schemas, schemas), (of_tables, tables)] {
        let column = |of: fn(&Right) -> Option<String>| rights.iter().map(of).collect::<Vec<_>>();
        let (privileges, names) = (
            column(|right| Some(right.privilege.clone())),
            // As the functions take them, a schema is a plain name.
            column(|right| match right.privilege.as_str() {
                "USAGE" => Some(right.on.trim_matches('"').to_owned()),
                _ => Some(right.on.clone()),
            }),
        );
        let columns = column(|right| right.column.clone());
        let rows = connection.query(sql, &[&privileges, &names, &columns]).await?;
        let Some(first) = rows.first() else { continue };
        let role: String = first.try_get(3)?;
        let mut missing = Vec::new();
        for row in &rows {
            let (privilege, on): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            missing.push(match row.try_get::<_, Option<String>>(2)? {
                Some(column) => format!("{privilege} ({column}) on {on}"),
                None => format!("{privilege} on {on}"),
            });
        }
        anyhow::bail!(
            "PostgreSQL: the role {role} lacks {}; the owner of the tables can grant it: webhook-hub migrate --print-grants {role} (with --retention \
             where RETENTION_… is set)",
            missing.join(", ")
        );
    }
    Ok(())
}

/// All rights of the texts, those to delete only for these tables.
fn needed(names: &Names, deletes: &[&str]) -> Vec<Right> {
    let (always, retention) = (names.fill(GRANTS), names.fill(RETENTION));
    let is_deleted_from = |right: &Right| deletes.iter().any(|table| right.on.ends_with(&format!(".{table}")));
    let of_retention = retention.lines().flat_map(rights).filter(is_deleted_from);
    let is_seldom = |right: &Right| right.privilege == SELDOM.0 && right.on.ends_with(SELDOM.1);
    let always = always.lines().flat_map(rights).filter(|right| !is_seldom(right));
    always.chain(of_retention).collect()
}

/// The rights that a line grants; none where it grants nothing, or something of the database as a whole, which who is connected has.
fn rights(line: &str) -> Vec<Right> {
    let granted = line
        .strip_prefix("GRANT ")
        .and_then(|rest| rest.split_once(" TO "))
        .and_then(|(grant, _)| grant.split_once(" ON "));
    let Some((privileges, on)) = granted else {
        return Vec::new();
    };
    if on.starts_with("DATABASE ") {
        return Vec::new();
    }
    let objects = on.strip_prefix("SCHEMA ").unwrap_or(on).split(", ");
    let (privileges, columns) = match privileges.split_once(" (") {
        Some((privilege, columns)) => (privilege, Some(columns.trim_end_matches(')'))),
        None => (privileges, None),
    };
    let mut rights = Vec::new();
    for on in objects {
        for privilege in privileges.split(", ") {
            let right = |column: Option<&str>| Right {
                privilege: privilege.to_owned(),
                on: on.to_owned(),
                column: column.map(str::to_owned),
            };
            match columns {
                Some(columns) => rights.extend(columns.split(", ").map(|column| right(Some(column)))),
                None => rights.push(right(None)),
            }
        }
    }
    rights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_are_read_as_the_list_of_what_is_needed() {
        let all = needed(&Names::new("shop"), &["webhook_logs"]);
        let has = |privilege: &str, on: &str, column: Option<&str>| {
            let wanted = Right {
                privilege: privilege.to_owned(),
                on: on.to_owned(),
                column: column.map(str::to_owned),
            };
            assert!(all.contains(&wanted), "{wanted:?} is not among {all:?}");
        };
        has("USAGE", "\"shop\"", None);
        has("USAGE", "hub", None);
        has("UPDATE", "\"shop\".provider_order_logs", None);
        has("SELECT", "\"shop\".branch_delivery_configs", Some("settings"));
        has("SELECT", "hub.migrations", None);
        has("DELETE", "\"shop\".webhook_logs", None);
        let deletes = all
            .iter()
            .filter(|right| right.privilege == "DELETE" && !right.on.starts_with("hub."));
        assert_eq!(deletes.count(), 1);
        // Every line that grants is understood.
        for line in GRANTS
            .lines()
            .chain(RETENTION.lines())
            .filter(|line| line.starts_with("GRANT"))
        {
            assert!(line.contains(" DATABASE ") || !rights(line).is_empty(), "{line}");
        }
        // The credentials of the platform that are none of the hub's.
        assert!(!GRANTS.contains("api_key") && !GRANTS.contains("api_secret"));
    }
}
