//! `migrate`: the database schema.

use std::process::ExitCode;

use serde_json::json;

use super::print;
use crate::{
    config::{self, Environment},
    database::Database,
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
