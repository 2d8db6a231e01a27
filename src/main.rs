//! The command tree of `webhook-hub`.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use webhook_hub::operator::{self, Command};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Receives the webhooks of food-delivery platforms and gets every order to the restaurant's backend.
#[derive(Parser)]
#[command(name = "webhook-hub", version, about, arg_required_else_help = false)]
struct Arguments {
    /// Machine-readable output: one JSON value.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

fn main() -> ExitCode {
    // clap itself exits with 2 where it was used wrongly.
    let arguments = Arguments::parse();
    operator::execute(
        arguments.command.unwrap_or(Command::Serve),
        arguments.json,
        Arguments::command,
    )
}
