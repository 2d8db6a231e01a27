//! `providers check`.

use std::{path::Path, process::ExitCode};

use serde_json::json;

use super::print;
use crate::provider::catalogue::{CatalogueError, load_file};

/// Says what is wrong; exit status 1 where anything is.
pub(super) fn run(path: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    match load_file(path) {
        Ok(file) => {
            let identity = &file.identity;
            let secrets: Vec<_> = file.verification.secrets().into_iter().collect();
            let prefix = crate::config::prefix(&identity.name);
            let mut variables: Vec<_> = secrets
                .iter()
                .map(|name| format!("{prefix}_{}", name.to_ascii_uppercase()))
                .collect();
            if file.order.head.currency.is_none() && file.order.head.default_currency.is_none() {
                variables.push(format!("{prefix}_CURRENCY"));
            }
            let needs = match variables.as_slice() {
                [] => String::new(),
                some => format!("; besides {prefix}_ENABLED=true it needs {}", some.join(", ")),
            };
            print(
                as_json,
                &json!({ "name": identity.name, "faults": [], "variables": variables }),
                format_args!("{}: {} can be used{needs}", path.display(), identity.display_name),
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Err(CatalogueError::Faults(faults)) => {
            print(as_json, &json!({ "faults": faults.faults }), &faults)?;
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}
