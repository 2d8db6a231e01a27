//! `providers list`: shows all known providers.

use std::{fmt::Write as _, process::ExitCode};

use serde::Serialize;

use super::print;
use crate::{
    config::{self, ConfigError, Environment},
    provider::catalogue::{FileOrigin, KnownProvider},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    name: &'a str,
    display_name: &'a str,
    enabled: bool,
    sure: &'static str,
    file: Option<String>,
    about: &'a str,
}

/// Prints them, sorted by name.
pub(super) fn run(environment: &Environment, as_json: bool) -> anyhow::Result<ExitCode> {
    let catalogue = config::catalogue(environment)?;
    let rows = catalogue
        .iter()
        .map(|(_, known)| row(environment, known))
        .collect::<Result<Vec<_>, _>>()?;
    print(as_json, &rows, text(&rows))?;
    Ok(ExitCode::SUCCESS)
}

fn row<'a>(environment: &Environment, known: &'a KnownProvider) -> Result<Row<'a>, ConfigError> {
    let identity = &known.file().identity;
    Ok(Row {
        name: &identity.name,
        display_name: &identity.display_name,
        enabled: environment.flag(&format!("{}_ENABLED", config::prefix(&identity.name)), false)?,
        sure: identity.sure.as_str(),
        file: match known.origin() {
            FileOrigin::Shipped => None,
            FileOrigin::Folder(path) => Some(path.display().to_string()),
        },
        about: &identity.about,
    })
}

fn text(rows: &[Row<'_>]) -> String {
    let width = |column: fn(&Row<'_>) -> usize| rows.iter().map(column).max().unwrap_or_default();
    let (name, sure) = (width(|row| row.name.len()), width(|row| row.sure.len()));
    let mut text = format!("{:name$}  {:sure$}  ON   FILE", "PROVIDER", "HOW SURE");
    for row in rows {
        let on = if row.enabled { "yes" } else { "no" };
        let file = row.file.as_deref().unwrap_or("shipped");
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{:name$}  {:sure$}  {on:3}  {file}", row.name, row.sure);
    }
    text
}
