//! `make bench`: how fast, how late and how large the hub is, each figure beside a limit measured in the same run.
//!
//! Real servers, the hub and the bare handler as processes of their own, the load generator and the backend in this one:
//! everything shares the machine. The sections are in [`sections`]; arguments name those to run, all by default.

mod backend;
mod bare;
mod load;
mod plain_insert;
mod process;
mod report;
mod sections;
mod setup;

use std::{collections::BTreeMap, path::Path};

use anyhow::{Result, ensure};

use report::{LATEST, Results};
use sections::Bench;

const SECTIONS: [&str; 10] = [
    "accept",
    "limits",
    "floods",
    "transform",
    "end-to-end",
    "storage",
    "projection",
    "parked",
    "branches",
    "memory",
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|one| one != "--bench").collect();
    if arguments.first().is_some_and(|one| one == bare::FIRST_ARGUMENT) {
        return bare::main_from_env();
    }
    for section in &arguments {
        ensure!(
            SECTIONS.contains(&section.as_str()),
            "unknown section {section:?}; there are {}",
            SECTIONS.join(", ")
        );
    }
    let wanted = |section: &str| arguments.is_empty() || arguments.iter().any(|one| one == section);
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run(wanted))
}

async fn run(wanted: impl Fn(&str) -> bool) -> Result<()> {
    let mut bench = Bench::start(results()).await?;
    if wanted("accept") {
        bench.accept().await?;
    }
    if wanted("transform") {
        bench.transform()?;
    }
    if wanted("limits") {
        bench.limits().await?;
    }
    if wanted("floods") {
        bench.floods().await?;
    }
    if wanted("end-to-end") || wanted("projection") {
        // With what it leaves on the disks.
        Box::pin(bench.end_to_end()).await?;
    } else if wanted("storage") {
        Box::pin(bench.storage_alone()).await?;
    }
    if wanted("projection") {
        Box::pin(bench.projection()).await?;
    }
    if wanted("parked") {
        Box::pin(bench.parked()).await?;
    }
    if wanted("branches") {
        Box::pin(bench.branches()).await?;
    }
    if wanted("memory") {
        Box::pin(bench.memory()).await?;
    }
    let results = bench.finish();
    results.print();
    results.write(Path::new(LATEST))
}

fn results() -> Results {
    let versions = BTreeMap::from([("webhook-hub".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]);
    Results::new(chrono::Utc::now().format("%Y-%m-%d").to_string(), versions)
}
