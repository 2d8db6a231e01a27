//! `migrate`: the database schema, and the rights of the role that works with it.

use std::process::ExitCode;

use serde_json::json;

use super::print;
use crate::{
    config::{self, Environment},
    database::{Database, names::Names, rights},
    projection::{indexes, schema},
};

/// Applies what is not applied yet and makes the indexes that are missing; says what it does on the error output.
///
/// # Errors
/// Where PostgreSQL is away or refuses.
pub async fn run(environment: &Environment, as_json: bool) -> anyhow::Result<ExitCode> {
    let database = Database::new(&config::Database::from_environment(environment)?)?;
    let applied = schema::migrate(&database).await?;
    if !applied.is_empty() {
        eprintln!("applied {}", applied.join(", "));
    }
    let made = indexes::make(&database, &|progress| eprintln!("{progress}")).await?;
    let done = [&applied[..], &made].concat();
    let text = if done.is_empty() {
        "the schema is up to date".to_owned()
    } else {
        format!("the schema is up to date: applied {}", done.join(", "))
    };
    print(as_json, &json!({ "applied": applied, "indexes": made }), text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the statements that give a role what the running hub needs; asks no database.
///
/// # Errors
/// Where the configuration is wrong.
pub fn print_grants(
    environment: &Environment,
    role: &str,
    with_retention: bool,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let settings = config::Database::from_environment(environment)?;
    let database = settings.postgres.get_dbname().or(settings.postgres.get_user());
    let database = database.unwrap_or("postgres");
    let script = rights::script(&Names::new(&settings.schema), database, role, with_retention);
    print(as_json, &json!({ "grants": script }), script.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
