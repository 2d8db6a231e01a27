//! `providers`: lists known providers, checks a provider's file, tries it on a sample before it goes live, and writes its page.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::bail;
use clap::Subcommand;

use super::print;
use crate::{
    config::{self, Environment},
    order::money::Currency,
    provider::{
        Catalogue,
        catalogue::{CatalogueError, load_file},
        declarative::file::File,
    },
};

mod list;
mod check;
mod observe;
mod try_sample;
mod page;

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Lists the providers that this installation knows, and how certain their files are.
    List,
    /// Reports all faults of a provider's file.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// Says what to set so that a provider's signatures are observed for some days and not insisted on.
    Observe {
        /// The provider.
        name: String,
        /// For how many days.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=14))]
        days: u32,
    },
    /// Shows what a sample becomes, field by field. Exits with 1 if it would be refused or rejected.
    Try(Try),
    /// Writes a provider's page in Markdown: what comes, what is answered and told back, windows, limits, how sure.
    Page {
        /// A provider's file, or the name of a known provider.
        provider: PathBuf,
    },
}

/// Arguments of `try`.
#[derive(Debug, Clone, clap::Args)]
pub struct Try {
    /// A provider's file, or the name of a known provider.
    provider: PathBuf,
    /// The webhook's body; - for standard input.
    sample: PathBuf,
    /// The document that the hub would fetch for the sample.
    #[arg(long)]
    document: Option<PathBuf>,
    /// A header of the webhook, as `name: value`; may be repeated.
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The path below /api/webhooks/PROVIDER.
    #[arg(long, default_value = "")]
    path: String,
    /// The currency, for providers that send none; by default `<PROVIDER>_CURRENCY`.
    #[arg(long)]
    currency: Option<Currency>,
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read.
pub fn run(environment: &Environment, action: &Action, as_json: bool) -> anyhow::Result<ExitCode> {
    match action {
        Action::List => list::run(environment, as_json),
        Action::Check { file } => check::run(file, as_json),
        Action::Observe { name, days } => observe::run(environment, name, *days, as_json),
        Action::Try(what) => try_sample::run(environment, what, as_json),
        Action::Page { provider } => page::run(environment, provider, as_json),
    }
}

/// Whether it is the path of a file, and no provider's name.
fn is_path(which: &Path) -> bool {
    which.extension().is_some() || which.components().count() > 1 || which.is_file()
}

/// The file with that path, or of the known provider with that name.
fn file_or_name(environment: &Environment, which: &Path) -> anyhow::Result<Arc<File>> {
    if is_path(which) {
        return match load_file(which) {
            Ok(file) => Ok(Arc::new(file)),
            Err(CatalogueError::Faults(faults)) => bail!("{}", faults.to_string().replace('\n', "; ")),
            Err(error) => Err(error.into()),
        };
    }
    let catalogue = config::catalogue(environment)?;
    let name = which.to_string_lossy();
    match catalogue.get(&name) {
        Some(known) => Ok(Arc::clone(known.file())),
        None => bail!("{}", unknown(environment, &catalogue, &name)),
    }
}

/// The message for an unknown provider, with the folder of an operator's own files.
pub(super) fn unknown(environment: &Environment, catalogue: &Catalogue, name: &str) -> String {
    let names: Vec<_> = catalogue.names().collect();
    let has_folder = environment.iter().any(|(name, _)| name.starts_with("PROVIDERS_DIR"));
    let hint = match has_folder {
        true => "",
        false => "; PROVIDERS_DIR, the folder of your own files, is not set",
    };
    format!(
        "unknown provider {name:?}; this installation knows {}{hint}",
        names.join(", ")
    )
}
