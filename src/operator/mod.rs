//! What operators run: one command a file. Exit status: 0 done, 1 failed, 2 used wrongly.

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
mod output;
mod step_text;
pub mod queries;
pub mod orders;
pub mod events;
pub mod status;
pub mod rebuild;
pub mod verify;
mod progress;

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the hub (the default).
    Serve,
    /// Runs everything on this machine: NATS, PostgreSQL, a sample backend and the hub, and sends a sample order through.
    #[cfg(feature = "dev")]
    Dev {
        /// Where its data is kept.
        #[arg(long, default_value = ".dev")]
        dir: PathBuf,
    },
    /// Brings the database schema up to date.
    Migrate {
        /// Changes nothing and prints the statements that give this role the rights of the running hub.
        #[arg(long, value_name = "ROLE", group = "role")]
        print_grants: Option<String>,
        /// Gives this role, which must exist, the rights of the running hub afterwards.
        #[arg(long, value_name = "ROLE", group = "role")]
        grant: Option<String>,
        /// Together with --print-grants or --grant: also the rights to delete old rows (RETENTION_…).
        #[arg(long, requires = "role")]
        retention: bool,
    },
    /// The streams and consumers on the NATS server.
    #[command(subcommand)]
    Streams(streams::Action),
    /// Writes the whole log into a folder.
    Backup {
        /// The folder; it is made, or is empty.
        folder: PathBuf,
    },
    /// Makes the log again of a backup.
    Restore {
        /// The folder of the backup.
        folder: PathBuf,
        /// How.
        #[command(flatten)]
        how: restore::How,
    },
    /// What was given up, and how it is taken up again.
    #[command(subcommand)]
    DeadLetters(dead_letters::Action),
    /// Providers: which are known, whether a file is right, what a sample becomes.
    #[command(subcommand)]
    Providers(providers::Action),
    /// Whom the rate limits keep out, and how that is ended.
    #[command(subcommand)]
    Blocks(blocks::Action),
    /// Who was turned away, from where and why.
    #[command(subcommand)]
    Refusals(refusals::Action),
    /// Whether all is well, on one screen. Exits with 1 where something needs a person.
    Status,
    /// Orders: which there are, what has not arrived, the story of one.
    #[command(subcommand)]
    Orders(orders::Action),
    /// The events of the log, past and as they come.
    #[command(subcommand)]
    Events(events::Action),
    /// Makes tables from the log again, beside the live ones, and puts them in their place. Hubs run meanwhile.
    Rebuild(rebuild::Rebuild),
    /// Whether the tables are what the log says. Exits with 1 where they are not. Hubs run meanwhile.
    Verify(verify::Verify),
    /// Signs a payload as a provider would and posts it to a hub.
    Send {
        /// The provider, e.g. careem.
        provider: String,
        /// The payload; - for standard input.
        file: PathBuf,
        /// The hub.
        #[arg(long, default_value = "http://localhost:3002")]
        url: String,
        /// The merchant to name.
        #[arg(long)]
        merchant: Option<String>,
    },
    /// Asks a running hub whether it takes webhooks (for containers).
    Healthcheck {
        /// The hub; by default the one of PORT on this machine.
        #[arg(long)]
        url: Option<String>,
    },
}

/// Stack of a worker thread: twice the usual. Futures of the stages go deep, and in a debug build one was too deep for 2 MiB.
/// Pages that are never touched cost no memory.
const STACK_BYTES: usize = 4 * 1024 * 1024;

/// Runs a command with the process's environment.
pub fn execute(command: Command, json: bool) -> ExitCode {
    let environment = Environment::of_process();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.enable_all().thread_stack_size(STACK_BYTES).build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::anyhow!("cannot start: {error}")),
    };
    let result = runtime.block_on(async {
        match command {
            Command::Serve => serve::run(&environment).await,
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
            Command::DeadLetters(action) => dead_letters::run(&environment, &action, json).await,
            Command::Providers(action) => providers::run(&environment, &action, json),
            Command::Blocks(action) => blocks::run(&environment, &action, json).await,
            Command::Refusals(action) => refusals::run(&environment, &action, json).await,
            Command::Status => Ok(status::run(&environment, json).await),
            Command::Orders(action) => Ok(orders::run(&environment, &action, json).await),
            Command::Events(action) => Ok(events::run(&environment, &action, json).await),
            Command::Rebuild(what) => Ok(Box::pin(rebuild::run(&environment, &what, json)).await),
            Command::Verify(what) => Ok(Box::pin(verify::run(&environment, &what, json)).await),
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

/// Asks NATS for something, and does not wait for an answer that cannot come: the server says to the connection alone which
/// right the user does not have.
///
/// # Errors
/// As the work, or the missing right.
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
    // Where even that cannot be written there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "webhook-hub: {line}");
    ExitCode::FAILURE
}

/// A line about what is going on, on standard error, so that it is in nobody's way who reads the result.
fn tell(line: String) {
    // Where even that cannot be written there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What an argument names: a file, or `-` for standard input.
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

/// A reader that has seen enough (`| head`) is no failure.
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
    fn a_reader_that_has_seen_enough_is_no_failure() {
        assert!(write_line(Refusing(io::ErrorKind::BrokenPipe), "x").is_ok());
        assert!(write_line(Refusing(io::ErrorKind::StorageFull), "x").is_err());
        let mut written = Vec::new();
        write_line(&mut written, "x").unwrap();
        assert_eq!(written, b"x\n");
    }
}
