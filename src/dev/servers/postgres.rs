//! A PostgreSQL server with a cluster of its own. The superuser `admin` needs no password on the loopback.
//!
//! Not here: tables (`migrate`), and the use of the databases.

use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::account::{self, Account};
use super::process::{Invocation, POLL, Process};
use super::{Programs, free_port, prepare_folder, remember_port, remembered_port};

/// The superuser that the cluster is made with.
const ADMIN: &str = "admin";

/// The database that every cluster has, for commands that concern others.
const MAINTENANCE: &str = "postgres";

/// How long a start may take. A fresh cluster needs 0.2 s; a durable one that was killed replays its log first.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long one connection may take while waiting for the start, so that a hung one is tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often another port is tried when another program takes the free one first.
const PORT_ATTEMPTS: u32 = 5;

/// Enough for the pools of all tests that run at a time; a slot costs some kilobytes.
const MAX_CONNECTIONS: u32 = 300;

/// The longest folder (bytes) for the socket: a socket's path ends at 107, and its file name takes 20 of them.
const MAX_SOCKET_DIR: usize = 80;

/// How to run a PostgreSQL server.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    /// Whether data survives the machine's crash. Without, commits are many times faster and still survive a kill.
    pub durable: bool,
    /// A fixed port; else the one that the folder's server had before if that is free, else any.
    pub port: Option<u16>,
    /// Removes the folder when the handle is dropped or this process ends: for tests.
    pub remove_dir_on_exit: bool,
}

/// A PostgreSQL server of this process. Its methods may be called from any tokio runtime, `stop`, `kill` and `restart` by
/// one caller at a time. Dropping it stops the server without waiting.
pub struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    socket_dir: PathBuf,
    durable: bool,
    account: Option<Account>,
    port: AtomicU16,
    process: Process,
}

impl Postgres {
    /// Starts a server that keeps its cluster, `postgres.log` and `postgres.port` in `dir`, and makes the cluster where
    /// there is none. As root it runs as `postgres` or `nobody`, who then owns `dir`; a folder that this account can't
    /// get to is replaced by one in the system's temporary folder, always the same. Returns when it answers a query.
    ///
    /// # Errors
    ///
    /// When another server runs in `dir`, when the cluster can't be made, or when the server ends or is not ready
    /// within 60 s: with the end of its log.
    pub async fn start(programs: &Programs, dir: &Path, options: PostgresOptions) -> Result<Self> {
        let bin = programs.postgres_bin.clone();
        let mut dir = prepare_folder(dir)?;
        let mut account = account::unprivileged(&dir.join("data"))?;
        if let Some(owner) = &account {
            if !owner.reaches(&bin.join("postgres")) {
                let (bin, name) = (bin.display(), &owner.name);
                bail!(
                    "PostgreSQL must not run as root, and {name} can't get to {bin}: set POSTGRES_BIN_DIR or open it"
                );
            }
            if !owner.reaches(&dir) {
                let instead = account::reachable_folder(&dir);
                tracing::info!(
                    "{} can't get to {}, using {}",
                    owner.name,
                    dir.display(),
                    instead.display()
                );
                dir = prepare_folder(&instead)?;
                account = account::unprivileged(&dir.join("data"))?;
            }
        }
        if let Some(owner) = &account {
            chown(&dir, Some(owner.uid), Some(owner.gid))?;
        }
        let socket_dir = socket_dir(&dir, account.as_ref())?;
        let mut remove = Vec::new();
        if options.remove_dir_on_exit {
            remove.push(dir.clone());
            if socket_dir != dir {
                remove.push(socket_dir.clone());
            }
        }
        let server = Self {
            bin,
            socket_dir,
            durable: options.durable,
            account,
            port: AtomicU16::new(0),
            process: Process::new("postgres", "INT", dir.join("postgres.log"), remove),
            dir,
        };
        server.make_cluster().await?;
        server.first_launch(options.port).await?;
        Ok(server)
    }

    /// `postgres://admin@127.0.0.1:PORT/DATABASE`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{ADMIN}@{}:{}/{database}", Ipv4Addr::LOCALHOST, self.port())
    }

    /// The port; the same over every restart.
    pub fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    /// The postmaster's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// The folder with the cluster and `postgres.log`; another one than requested if that could not be used.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of the Unix socket, for `psql -h`.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// Creates a database, as a copy of `template` if one is given. No session may be connected to the template meanwhile.
    ///
    /// # Errors
    ///
    /// When it exists, or the template is in use.
    pub async fn create_database(&self, name: &str, template: Option<&str>) -> Result<()> {
        // Copied as files: the other way writes each page to the WAL, too.
        let template = template
            .map(|template| format!(" template {} strategy file_copy", identifier(template)))
            .unwrap_or_default();
        self.execute(&format!("create database {}{template}", identifier(name)))
            .await?;
        Ok(())
    }

    /// Drops a database if it exists, together with the connections to it.
    ///
    /// # Errors
    ///
    /// When the server is away.
    pub async fn drop_database(&self, name: &str) -> Result<()> {
        self.execute(&format!("drop database if exists {} with (force)", identifier(name)))
            .await?;
        Ok(())
    }

    /// Starts the server again, on the same port and data; one that still runs is stopped before.
    ///
    /// # Errors
    ///
    /// As [`Postgres::start`], also when the port was taken meanwhile.
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.launch(self.port()).await
    }

    /// SIGINT: cuts connections, rolls back, syncs and ends. Waits for it; a SIGKILL after 10 s. Nothing happens where it
    /// doesn't run.
    ///
    /// # Errors
    ///
    /// When even the kill has no effect.
    pub async fn stop(&self) -> Result<()> {
        self.process.stop().await
    }

    /// SIGKILL to all of its processes, and waits for the end. Nothing happens where it doesn't run.
    ///
    /// # Errors
    ///
    /// When it has no effect within 5 s.
    pub async fn kill(&self) -> Result<()> {
        self.process.kill().await
    }

    /// SIGSTOP to all of its processes: connections stay, nothing answers, until [`Postgres::resume`].
    ///
    /// # Errors
    ///
    /// When it doesn't run.
    pub async fn pause(&self) -> Result<()> {
        self.process.pause().await
    }

    /// SIGCONT to all of its processes.
    ///
    /// # Errors
    ///
    /// When it doesn't run.
    pub async fn resume(&self) -> Result<()> {
        self.process.resume().await
    }

    /// Resolves with the reason when the server ends without having been stopped here. It borrows nothing, and stays
    /// valid over restarts.
    pub fn exited(&self) -> impl Future<Output = String> + Send + use<> {
        self.process.exited()
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Runs `initdb` beside the place and moves the result there, so that an interrupted one is not taken for a cluster.
    async fn make_cluster(&self) -> Result<()> {
        let data = self.data();
        if data.join("PG_VERSION").exists() {
            return Ok(());
        }
        let unfinished = self.dir.join("data.unfinished");
        let _ = fs::remove_dir_all(&unfinished);
        let mut command = Command::new(self.bin.join("initdb"));
        command
            .args([
                "--no-sync",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "-U",
                ADMIN,
                "-D",
            ])
            .arg(&unfinished)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        let output = command.output().await.context("cannot run initdb")?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        fs::rename(&unfinished, &data).with_context(|| format!("cannot move the new cluster to {}", data.display()))
    }

    async fn first_launch(&self, wanted: Option<u16>) -> Result<()> {
        let port_file = self.dir.join("postgres.port");
        let mut attempt = 1;
        loop {
            let port = match wanted.or_else(|| remembered_port(&port_file)) {
                Some(port) => port,
                None => free_port().context("no free port on the loopback")?,
            };
            match self.launch(port).await {
                Ok(()) => return remember_port(&port_file, port),
                Err(error) if wanted.is_some() || attempt == PORT_ATTEMPTS || !is_taken(&error) => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    async fn launch(&self, port: u16) -> Result<()> {
        let mut args: Vec<OsString> = vec![
            "-D".into(),
            self.data().into(),
            "-k".into(),
            self.socket_dir.clone().into(),
        ];
        let mut set = |name: &str, value: &str| args.extend(["-c".into(), format!("{name}={value}").into()]);
        set("port", &port.to_string());
        set("listen_addresses", &Ipv4Addr::LOCALHOST.to_string());
        set("max_connections", &MAX_CONNECTIONS.to_string());
        set("timezone", "UTC");
        if !self.durable {
            set("fsync", "off");
            set("synchronous_commit", "off");
            set("full_page_writes", "off");
            // Each test has a database, and a worker is started for one of them every 100 ms, to find nothing to do.
            set("autovacuum", "off");
        }
        let invocation = Invocation {
            program: self.bin.join("postgres"),
            args,
            env: Vec::new(),
            current_dir: self.dir.clone(),
            account: self.account.clone(),
        };
        let ready = |_| async move {
            self.port.store(port, Ordering::Relaxed);
            self.ready().await.map_err(|last| {
                self.process
                    .failure(&format!("was not ready after {START_TIMEOUT:?} ({last:#})"))
            })
        };
        self.process.launch(&invocation, ready).await
    }

    /// Waits until it answers a query, and makes sure that it is this server and no other one on the same port. Fails with
    /// the last reason after [`START_TIMEOUT`].
    async fn ready(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let last = match self.execute("show data_directory").await {
                Ok(Some(folder)) if Path::new(&folder) == self.data() => return Ok(()),
                Ok(_) => anyhow!("another server answers on port {}", self.port()),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(last);
            }
            sleep(POLL).await;
        }
    }

    /// One statement in the maintenance database, over a connection of its own; the first value that it returns.
    async fn execute(&self, statement: &str) -> Result<Option<String>> {
        let (client, connection) = timeout(CONNECT_TIMEOUT, tokio_postgres::connect(&self.url(MAINTENANCE), NoTls))
            .await
            .map_err(|_| anyhow!("PostgreSQL took no connection within {CONNECT_TIMEOUT:?}"))?
            .context("cannot connect to PostgreSQL")?;
        // Polled here and not in a task of its own, so that no task is left behind.
        tokio::select! {
            answer = client.simple_query(statement) => {
                let answer = answer.with_context(|| format!("`{statement}` failed"))?;
                Ok(answer.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                }))
            }
            ended = connection => match ended {
                Ok(()) => bail!("PostgreSQL closed the connection"),
                Err(error) => Err(error).context("the connection to PostgreSQL broke"),
            },
        }
    }
}

/// The folder itself where its name is short enough for a socket, else one in the temporary folder that only the server's
/// account can enter.
fn socket_dir(dir: &Path, account: Option<&Account>) -> Result<PathBuf> {
    // The setting is a list, so a comma would split the name.
    if dir.as_os_str().len() <= MAX_SOCKET_DIR && !dir.to_string_lossy().contains([',', '"']) {
        return Ok(dir.to_path_buf());
    }
    let short = std::env::temp_dir().join(account::stable_name(dir));
    let made = fs::DirBuilder::new().mode(0o700).create(&short);
    match made {
        Ok(()) => {
            if let Some(account) = account {
                chown(&short, Some(account.uid), Some(account.gid))?;
            }
        }
        // The link is from an earlier start, or another user made it, who must not get these connections.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let owner = fs::symlink_metadata(&short)?;
            let expected = account.map_or_else(account::own_uid, |account| Ok(account.uid))?;
            if !owner.is_dir() || owner.uid() != expected {
                bail!("{} belongs to another user", short.display());
            }
        }
        Err(error) => return Err(error).with_context(|| format!("cannot create {}", short.display())),
    }
    Ok(short)
}

/// Whether the server reported that its port is taken. Its messages are in English, because the locale is C.
fn is_taken(error: &anyhow::Error) -> bool {
    error.to_string().contains("Address already in use")
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
