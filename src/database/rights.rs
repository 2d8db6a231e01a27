//! The rights of the running hub's role: `sql/grants.sql` for the administrator, and the check which of them are missing.
//!
//! PostgreSQL itself says "permission denied for table x", without the missing right, and one table at a time. So the texts
//! of the grants are read as the list of required rights, and PostgreSQL is asked for each of them.

use std::{collections::BTreeSet, fmt};

use super::{
    Connection, Error,
    names::{Names, identifier},
    query,
};

/// The grants that every hub needs, with `{own_tables}` for the tables of the hub's own that statements insert into.
const GRANTS: &str = include_str!("../../sql/grants.sql");
/// The grants that a hub also needs to delete old rows.
const RETENTION: &str = include_str!("../../sql/grants_retention.sql");
/// Rights that a hub needs only if something does not exist yet. If one is needed and missing, PostgreSQL reports it.
const SELDOM: (&str, &str) = ("INSERT", ".delivery_providers");
/// Columns that distinguish versions of rows. Without the right to read them the hub still works, and reads all rows instead.
const VERSIONS: [&str; 2] = ["xmin", "ctid"];
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
    let mut script = grants();
    if with_retention {
        script.push('\n');
        script.push_str(RETENTION);
    }
    // The comment at the script's head explains these placeholders.
    let text = names.fill(&script).into_owned();
    text.replace("{database}", &identifier(database))
        .replace("{role}", &identifier(role))
}

fn grants() -> String {
    let into = |sql: &'static str| sql.split_once("INSERT INTO {own}.")?.1.split_whitespace().next();
    let tables: BTreeSet<_> = query::all()
        .filter_map(into)
        .map(|table| format!("hub.{table}"))
        .collect();
    GRANTS.replace("{own_tables}", &Vec::from_iter(tables).join(", "))
}

/// Rights that a role does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    role: String,
    /// `DELETE on public.webhook_logs`.
    rights: Vec<String>,
    /// Whether they are among those that `RETENTION_…` needs.
    of_retention: bool,
}

impl Lacking {
    /// The role.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// What it lacks: `DELETE on public.webhook_logs` …
    pub fn rights(&self) -> &[String] {
        &self.rights
    }

    /// How they are granted.
    pub fn remedy(&self) -> String {
        let (role, option) = (&self.role, if self.of_retention { " --retention" } else { "" });
        format!("the owner of the tables grants it with: webhook-hub migrate --print-grants {role}{option} | psql")
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (role, rights, remedy) = (&self.role, self.rights.join(", "), self.remedy());
        write!(f, "PostgreSQL: the role {role} lacks {rights}; {remedy}")
    }
}

/// Fails where the role of a connection lacks a right that every hub needs; the error names all that it lacks.
///
/// # Errors
/// [`Error::Lacking`], or why PostgreSQL did not answer.
pub async fn check(connection: &Connection) -> anyhow::Result<()> {
    match lacking(connection, always(connection.names()), false).await? {
        None => Ok(()),
        Some(lacking) => Err(Error::Lacking(lacking).into()),
    }
}

/// The right to delete rows of a table of the platform, where the role of a connection lacks it.
///
/// # Errors
/// If PostgreSQL does not answer.
pub async fn lacking_to_delete(connection: &Connection, table: &str) -> anyhow::Result<Option<Lacking>> {
    lacking(connection, of_retention(connection.names(), table), true).await
}

async fn lacking(connection: &Connection, all: Vec<Right>, of_retention: bool) -> anyhow::Result<Option<Lacking>> {
    let (schemas, tables): (Vec<_>, Vec<_>) = all.into_iter().partition(|right| right.privilege == "USAGE");
    // Rights on tables can only be checked with the right to use their schema, so schemas come first.
    let of_schemas = "SELECT privilege, name, NULL, current_user::text FROM unnest($1::text[], $2::text[], $3::text[]) AS n (privilege, name, col)
                      WHERE NOT has_schema_privilege(name, privilege)";
    let of_tables = "SELECT privilege, name, col, current_user::text FROM unnest($1::text[], $2::text[], $3::text[]) AS n (privilege, name, col)
                     WHERE NOT CASE WHEN col IS NULL THEN has_table_privilege(name, privilege)
                               ELSE has_column_privilege(name, col, privilege) END";
    for (sql, rights) in [(of_schemas, schemas), (of_tables, tables)] {
        let column = |of: fn(&Right) -> Option<String>| rights.iter().map(of).collect::<Vec<_>>();
        let (privileges, names) = (
            column(|right| Some(right.privilege.clone())),
            // PostgreSQL's functions take a schema as a plain name, without quotes.
            column(|right| match right.privilege.as_str() {
                "USAGE" => Some(right.on.trim_matches('"').to_owned()),
                _ => Some(right.on.clone()),
            }),
        );
        let columns = column(|right| right.column.clone());
        let rows = connection.query(sql, &[&privileges, &names, &columns]).await?;
        let Some(first) = rows.first() else { continue };
        let role: String = first.try_get(3)?;
        let mut missing = Vec::with_capacity(rows.len());
        for row in &rows {
            let (privilege, on): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            missing.push(match row.try_get::<_, Option<String>>(2)? {
                Some(column) => format!("{privilege} ({column}) on {on}"),
                None => format!("{privilege} on {on}"),
            });
        }
        return Ok(Some(Lacking {
            role,
            rights: missing,
            of_retention,
        }));
    }
    Ok(None)
}

/// The rights that every hub needs.
fn always(names: &Names) -> Vec<Right> {
    let is_seldom = |right: &Right| right.privilege == SELDOM.0 && right.on.ends_with(SELDOM.1);
    let is_of_versions = |right: &Right| right.column.as_deref().is_some_and(|column| VERSIONS.contains(&column));
    let is_needed = |right: &Right| !is_seldom(right) && !is_of_versions(right);
    let grants = grants();
    let text = names.fill(&grants);
    text.lines().flat_map(rights).filter(is_needed).collect()
}

/// Those that deleting old rows of a table needs besides.
fn of_retention(names: &Names, table: &str) -> Vec<Right> {
    let text = names.fill(RETENTION);
    let is_of_table = |right: &Right| right.on.ends_with(&format!(".{table}"));
    text.lines().flat_map(rights).filter(is_of_table).collect()
}

/// The rights that a line grants; none if it grants nothing, or something of the database as a whole, which who is connected has.
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
    fn grants_are_parsed_as_the_list_of_rights() {
        let names = Names::new("shop");
        let mut all = always(&names);
        assert!(
            all.iter()
                .all(|right| right.privilege != "DELETE" || right.on.starts_with("hub."))
        );
        let deletes = of_retention(&names, "webhook_logs");
        assert_eq!(deletes.len(), 1);
        all.extend(deletes);
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
        has("TRUNCATE", "hub.orders", None);
        has("DELETE", "\"shop\".webhook_logs", None);
        // Every line with GRANT is parsed.
        for line in grants()
            .lines()
            .chain(RETENTION.lines())
            .filter(|line| line.starts_with("GRANT"))
        {
            assert!(line.contains(" DATABASE ") || !rights(line).is_empty(), "{line}");
        }
        // The platform's API credentials, which the hub must not read.
        assert!(!GRANTS.contains("api_key") && !GRANTS.contains("api_secret"));
    }
}
