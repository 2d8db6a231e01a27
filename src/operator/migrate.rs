//! `migrate`: applies the database schema, and grants the running hub's role its rights.

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;

use super::print;
use crate::{
    config::{self, Environment},
    database::{Database, names::Names, rights},
    projection::{indexes, schema},
};

/// Applies pending migrations and creates missing indexes, then grants a role the rights of the running hub if one is given.
/// Progress goes to standard error.
///
/// # Errors
/// If PostgreSQL is away or refuses.
pub async fn run(
    environment: &Environment,
    grant: Option<&str>,
    with_retention: bool,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let settings = config::Database::from_environment(environment)?;
    let database = Database::new(&settings)?;
    let applied = schema::migrate(&database).await?;
    if !applied.is_empty() {
        eprintln!("applied {}", applied.join(", "));
    }
    let made = indexes::make(&database, &|progress| eprintln!("{progress}")).await?;
    let done = [&applied[..], &made].concat();
    let mut text = if done.is_empty() {
        "the schema is up to date".to_owned()
    } else {
        format!("the schema is up to date: applied {}", done.join(", "))
    };
    if let Some(role) = grant {
        let granted = database.own().await?;
        let granted = granted.batch_execute(&grants(&settings, role, with_retention)).await;
        granted.with_context(|| format!("cannot grant the role {role} the rights of the running hub"))?;
        text += &format!("; the role {role} has the rights of the running hub");
    }
    print(
        as_json,
        &json!({ "applied": applied, "indexes": made, "granted": grant }),
        text,
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the statements that grant a role the rights of the running hub. It needs no database.
///
/// # Errors
/// If the configuration is wrong.
pub fn print_grants(
    environment: &Environment,
    role: &str,
    with_retention: bool,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let settings = config::Database::from_environment(environment)?;
    let script = grants(&settings, role, with_retention);
    print(as_json, &json!({ "grants": script }), script.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn grants(settings: &config::Database, role: &str, with_retention: bool) -> String {
    let database = settings.postgres.get_dbname().or(settings.postgres.get_user());
    let database = database.unwrap_or("postgres");
    rights::script(&Names::new(&settings.schema), database, role, with_retention)
}
