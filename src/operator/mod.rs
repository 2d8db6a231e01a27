//! The commands of the program, one a file. Exit status: 0 done, 1 failed, 2 wrong usage. The read commands (`output`) exit
//! with 0 fine, 1 a person is needed, 2 wrong usage or impossible.

use std::{
    fmt,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Subcommand;
use serde::Serialize;

use crate::{
    config::{self, Environment},
    dead_letters::CLOCK_SKEW,
    journal::connection::Connection,
    telemetry,
};

pub mod serve;
pub mod migrate;
pub mod streams;
pub mod backup;
pub mod restore;
pub mod send;
pub mod dead_letters;
pub mod providers;
pub mod blocks;
pub mod refusals;
pub mod healthcheck;
mod acts;
pub mod audit;
mod output;
mod step_text;
pub mod queries;
pub mod commands;
pub mod orders;
pub mod events;
pub mod status;
pub mod doctor;
pub mod completions;
pub mod rebuild;
pub mod verify;
pub mod replay;
mod progress;

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the hub (the default).
    Serve,
    /// Runs NATS, PostgreSQL, a sample backend and the hub on this machine, and sends a sample order.
    #[cfg(feature = "dev")]
    Dev {
        /// The folder of its data.
        #[arg(long, default_value = ".dev")]
        dir: PathBuf,
    },
    /// Brings the database schema up to date.
    Migrate {
        /// Prints the statements that grant this role the rights of the running hub, and changes nothing.
        #[arg(long, value_name = "ROLE", group = "role")]
        print_grants: Option<String>,
        /// Grants this role, which must exist, the rights of the running hub afterwards.
        #[arg(long, value_name = "ROLE", group = "role")]
        grant: Option<String>,
        /// With --print-grants or --grant: also grants the rights to delete old rows (RETENTION_…).
        #[arg(long, requires = "role")]
        retention: bool,
    },
    /// Creates, changes and compares the streams and consumers on the NATS server.
    #[command(subcommand)]
    Streams(streams::Action),
    /// Writes the whole log into a folder.
    Backup {
        /// The folder; it is created, or must be empty.
        folder: PathBuf,
    },
    /// Restores the log from a backup.
    Restore {
        /// The folder of the backup.
        folder: PathBuf,
        /// Options of the restore.
        #[command(flatten)]
        how: restore::How,
    },
    /// Lists, shows and retries what was given up or rejected.
    #[command(subcommand)]
    DeadLetters(dead_letters::Action),
    /// Lists providers, checks a provider's file, tries it on a sample.
    #[command(subcommand)]
    Providers(providers::Action),
    /// Lists and lifts the blocks of rate limits.
    #[command(subcommand)]
    Blocks(blocks::Action),
    /// Lists refused requests: from where, and why.
    #[command(subcommand)]
    Refusals(refusals::Action),
    /// Shows on one screen whether all is well. Exits with 1 if a person is needed.
    Status,
    /// Examines configuration, secrets, NATS, PostgreSQL, clocks and room, and says how to mend what is wrong. Exits with 1 if
    /// something is.
    Doctor,
    /// Prints the completions of a shell.
    Completions {
        /// The shell.
        shell: completions::Shell,
    },
    /// Lists orders and those that have not arrived; shows the story of one.
    #[command(subcommand)]
    Orders(orders::Action),
    /// Shows events of the log, past ones and new ones as they come.
    #[command(subcommand)]
    Events(events::Action),
    /// Makes tables from the log again, beside the live ones, and puts them in their place. Hubs run meanwhile.
    Rebuild(rebuild::Rebuild),
    /// Whether the tables are what the log says. Exits with 1 where they are not. Hubs run meanwhile.
    Verify(verify::Verify),
    /// Puts past webhooks through the current code and files.
    Replay(Box<replay::Replay>),
    /// Lists what operators of the hub did: who, when, why and what.
    #[command(subcommand)]
    Operator(audit::Action),
    /// Signs a payload as a provider would and posts it to a hub.
    Send {
        /// The provider, e.g. careem.
        provider: String,
        /// The payload; - for standard input.
        file: PathBuf,
        /// The hub.
        #[arg(long, default_value = "http://localhost:3002")]
        url: String,
        /// The merchant that the webhook names.
        #[arg(long)]
        merchant: Option<String>,
    },
    /// Checks whether a running hub accepts webhooks (for containers).
    Healthcheck {
        /// The hub's URL; by default the hub on this machine.
        #[arg(long)]
        url: Option<String>,
    },
}

impl Command {
    /// Whether it works for long on all cores, and nobody waits for each of its steps.
    const fn gives_way(&self) -> bool {
        matches!(
            self,
            Self::Rebuild(_) | Self::Verify(_) | Self::Replay(_) | Self::Backup { .. }
        )
    }
}

/// By how much the priority of such a command is lower: a hub on the same machine gets nine tenths of a core that both want.
const NICE: i32 = 10;
/// Stack of a worker thread: twice the default. The stages' futures nest deeply, and in a debug build one overflowed 2 MiB.
/// Untouched pages cost no memory.
const STACK_BYTES: usize = 4 * 1024 * 1024;

/// Runs a command with the process's environment. `program`: the whole command tree.
pub fn execute(command: Command, json: bool, program: fn() -> clap::Command) -> ExitCode {
    let environment = Environment::of_process();
    if command.gives_way() {
        // The threads of the runtime inherit it. Where it is refused, the command is only as fast as the hub.
        let _ = rustix::process::nice(NICE);
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.enable_all().thread_stack_size(STACK_BYTES).build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::anyhow!("cannot start: {error}")),
    };
    let result = runtime.block_on(async {
        match command {
            Command::Serve => Box::pin(serve::run(&environment)).await,
            #[cfg(feature = "dev")]
            Command::Dev { dir } => Box::pin(crate::dev::run(&environment, &dir)).await,
            Command::Migrate {
                print_grants: Some(role),
                retention,
                ..
            } => migrate::print_grants(&environment, &role, retention, json),
            Command::Migrate { grant, retention, .. } => {
                Box::pin(migrate::run(&environment, grant.as_deref(), retention, json)).await
            }
            Command::Streams(action) => streams::run(&environment, &action, json).await,
            Command::Backup { folder } => backup::run(&environment, &folder, json).await,
            Command::Restore { folder, how } => restore::run(&environment, &folder, &how, json).await,
            Command::DeadLetters(action) => Box::pin(dead_letters::run(&environment, &action, json)).await,
            Command::Providers(action) => providers::run(&environment, &action, json),
            Command::Blocks(action) => blocks::run(&environment, &action, json).await,
            Command::Refusals(action) => refusals::run(&environment, &action, json).await,
            Command::Status => Ok(status::run(&environment, json).await),
            Command::Doctor => Ok(doctor::run(&environment, json).await),
            Command::Completions { shell } => completions::print(shell, program()),
            Command::Orders(action) => Ok(orders::run(&environment, &action, json).await),
            Command::Events(action) => Ok(events::run(&environment, &action, json).await),
            Command::Rebuild(what) => Ok(Box::pin(rebuild::run(&environment, &what, json)).await),
            Command::Verify(what) => Ok(Box::pin(verify::run(&environment, &what, json)).await),
            Command::Replay(what) => Ok(Box::pin(replay::run(&environment, &what, json)).await),
            Command::Operator(action) => Ok(audit::run(&environment, &action, json).await),
            Command::Send {
                provider,
                file,
                url,
                merchant,
            } => send::run(&environment, &provider, &file, &url, merchant.as_deref(), json).await,
            Command::Healthcheck { url } => healthcheck::run(&environment, url.as_deref(), json).await,
        }
    });
    let code = match result {
        Ok(code) => code,
        Err(error) => fail(&error),
    };
    telemetry::logs::flush();
    code
}

/// Runs requests to NATS, and ends them early if the user lacks a right: the server does not answer such a request, it reports
/// the missing right to the connection.
///
/// # Errors
/// The error of `work`, or the missing right.
async fn with_rights<T>(
    connection: &Connection,
    settings: &config::Nats,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let user = settings.user.as_deref().unwrap_or("without a name");
    tokio::select! {
        biased;
        right = connection.wait_right_missing() => anyhow::bail!(
            "NATS refuses user {user} what this needs: {right}; NATS_USER must be one that has this right (see nats.conf)"
        ),
        done = work => done,
    }
}

/// One line on standard error: what is wrong and why.
fn fail(error: &anyhow::Error) -> ExitCode {
    let line = format!("{error:#}").replace(['\n', '\r'], " ");
    // If standard error cannot be written either, the message is lost.
    let _ = writeln!(std::io::stderr(), "webhook-hub: {line}");
    ExitCode::FAILURE
}

/// Writes a line of progress to standard error: standard output carries the result alone.
fn tell(line: String) {
    // If standard error cannot be written either, the line is lost.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Reads the file that an argument names, or standard input for `-`.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Prints a result: text for people, or JSON.
fn print(json: bool, value: &impl Serialize, text: impl fmt::Display) -> anyhow::Result<()> {
    let out = std::io::stdout().lock();
    let written = if json {
        write_line(out, serde_json::to_string(value)?)
    } else {
        write_line(out, text)
    };
    Ok(written?)
}

/// Writes a line. A reader that closed the pipe (`| head`) is no failure.
fn write_line(mut out: impl Write, line: impl fmt::Display) -> io::Result<()> {
    match writeln!(out, "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Refusing(io::ErrorKind);

    impl Write for Refusing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert!(write_line(Refusing(io::ErrorKind::BrokenPipe), "x").is_ok());
        assert!(write_line(Refusing(io::ErrorKind::StorageFull), "x").is_err());
        let mut written = Vec::new();
        write_line(&mut written, "x").unwrap();
        assert_eq!(written, b"x\n");
    }
}
