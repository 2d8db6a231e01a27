//! `dev`.

pub mod servers;

use std::{path::Path, process::ExitCode};

/// placeholder
pub async fn run(_dir: &Path) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
