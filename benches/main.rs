//! `make bench`: how fast, how late and how large the hub is, each figure beside a limit measured in the same run.
//!
//! Real servers, the hub and the bare handler as processes of their own, the load generator and the backend in this one:
//! everything shares the machine. The sections are in [`sections`]; arguments name those to run, all by default. Two builds of the hub
//! are measured by [`turns`].

mod arguments;
mod backend;
mod bare;
mod load;
mod plain_insert;
mod process;
mod results;
mod saturate;
mod sections;
mod setup;
mod times;
mod traffic;
mod turns;
mod world;

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use clap::Parser as _;

use arguments::Arguments;
use results::{LATEST, Results, compare, machine::Fingerprint};
use sections::Bench;
use traffic::Traffic;

#[expect(
    clippy::print_stderr,
    reason = "the reason of a failure, without a backtrace: the message is the point"
)]
fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let arguments: Vec<String> = std::env::args().filter(|one| one != "--bench").collect();
    if arguments.get(1).is_some_and(|one| one == bare::FIRST_ARGUMENT) {
        return bare::main_from_env();
    }
    let arguments = Arguments::parse_from(arguments);
    let earlier = arguments.compare.as_deref().map(Results::read).transpose()?;
    if let (Some(earlier), Some(with)) = (&earlier, &arguments.with) {
        return show_comparison(earlier, &Results::read(with)?);
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(run(&arguments, earlier.as_ref()))
}

async fn run(arguments: &Arguments, earlier: Option<&Results>) -> Result<()> {
    let traffic = Traffic::start(arguments.duration())?;
    let new = |fingerprint| Results::new(chrono::Utc::now().format("%Y-%m-%d").to_string(), fingerprint);
    if let Some(pair) = arguments.pair()? {
        let store = setup::folder()?;
        let fingerprint = Fingerprint::read(store.path(), arguments.duration().as_secs_f64());
        let turns = turns::run(
            &pair,
            &arguments.sections,
            arguments.rounds(),
            &traffic,
            new(fingerprint),
        );
        let (results, ratios) = Box::pin(turns).await?;
        save(&results, turns::LATEST, arguments.save.as_deref())?;
        results.print();
        show(&format!(
            "\nA is {}\nB is {}\n\n{ratios}",
            pair.a.binary.display(),
            pair.b.binary.display()
        ));
        return Ok(());
    }
    let mut bench = Bench::start(traffic, arguments.rounds(), arguments.events, new).await?;
    // Before the time is spent.
    if let Some(earlier) = earlier {
        compare::refuse(earlier, bench.results())?;
    }
    bench.run(&arguments.sections).await?;
    let results = bench.results();
    results.print();
    save(results, LATEST, arguments.save.as_deref())?;
    earlier.map_or(Ok(()), |earlier| show_comparison(earlier, results))
}

fn save(results: &Results, latest: &str, also: Option<&Path>) -> Result<()> {
    results.write(Path::new(latest))?;
    also.map_or(Ok(()), |path| results.write(path))
}

fn show_comparison(earlier: &Results, now: &Results) -> Result<()> {
    show(&format!("\n{}", compare::text(earlier, now)?));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is what the program is run for")]
fn show(text: &str) {
    println!("{text}");
}
