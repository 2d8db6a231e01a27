//! `migrate`: the database schema.

use std::process::ExitCode;

use serde_json::json;

use super::print;
use crate::{
    config::{self, Environment},
    database::Database,
    projection::schema,
};

/// Applies what is not applied yet.
///
/// # Errors
/// Where PostgreSQL is away or refuses.
pub async fn run(environment: &Environment, as_json: bool) -> anyhow::Result<ExitCode> {
    let database = Database::new(&config::Database::from_environment(environment)?)?;
    let applied = schema::migrate(&database).await?;
    let text = if applied.is_empty() {
        "the schema is up to date".to_owned()
    } else {
        format!("applied {}", applied.join(", "))
    };
    print(as_json, &json!({ "applied": applied }), text)?;
    Ok(ExitCode::SUCCESS)
}
