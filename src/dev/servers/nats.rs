//! A NATS server with JetStream, run with the project's own `nats.conf`.
//!
//! Not here: streams, consumers, and waiting for a cluster's leader. Ready means that this server greets a client, which it does
//! only after it has recovered its streams.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf, absolute};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::process::{Invocation, POLL, Process};
use super::{Programs, prepare_folder, remember_port, remembered_port};

/// How long a start may take. An empty server needs 50 ms; one with a large log that was killed reads it through first.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the greeting may take once the port is open: it is sent at once.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);

/// The passwords of the users in `nats.conf`. They reach the server in its environment, never as arguments.
#[derive(Clone)]
pub struct NatsPasswords {
    /// Of user `provision`, who makes streams and consumers.
    pub provision: String,
    /// Of user `backup`, who reads the whole log.
    pub backup: String,
    /// Of user `hub`, who runs the service.
    pub hub: String,
    /// Of user `subscriber`, who only listens.
    pub subscriber: String,
}

impl NatsPasswords {
    /// New ones that cannot be guessed.
    pub fn random() -> Self {
        let password = || Uuid::new_v4().simple().to_string();
        Self {
            provision: password(),
            backup: password(),
            hub: password(),
            subscriber: password(),
        }
    }
}

impl fmt::Debug for NatsPasswords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsPasswords").finish_non_exhaustive()
    }
}

/// How to run a NATS server, beyond what every one needs.
#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    /// More arguments of `nats-server`; they come last and so take precedence: `-m`, `--cluster`, `--routes`, …
    pub extra_args: Vec<OsString>,
    /// Removes the folder when the handle is dropped or this process ends: for tests.
    pub remove_dir_on_exit: bool,
}

/// A NATS server of this process. Its methods may be called from any tokio runtime, `stop`, `kill` and `restart` by one
/// caller at a time. Dropping it stops the server without waiting.
pub struct NatsServer {
    program: PathBuf,
    config_file: PathBuf,
    dir: PathBuf,
    env: Vec<(&'static str, OsString)>,
    extra_args: Vec<OsString>,
    port: AtomicU16,
    process: Process,
}

impl NatsServer {
    /// Starts a server that keeps its data, `nats.log` and `nats.port` in `dir`, on the port that it had there before
    /// if that is free, else on any. Returns when it greets a client.
    ///
    /// # Errors
    ///
    /// When another server runs in `dir`, or when this one ends or is not ready within 30 s: with the end of its log.
    pub async fn start(programs: &Programs, config_file: &Path, dir: &Path, passwords: &NatsPasswords) -> Result<Self> {
        Self::start_with(programs, config_file, dir, passwords, NatsOptions::default()).await
    }

    /// [`NatsServer::start`] with options.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn start_with(
        programs: &Programs,
        config_file: &Path,
        dir: &Path,
        passwords: &NatsPasswords,
        options: NatsOptions,
    ) -> Result<Self> {
        let dir = prepare_folder(dir)?;
        let Some(folder) = dir.to_str() else {
            bail!("the path of {} is not UTF-8", dir.display())
        };
        let remove = options.remove_dir_on_exit.then(|| dir.clone()).into_iter().collect();
        let server = Self {
            program: programs.nats_server.clone(),
            config_file: absolute(config_file)?,
            env: vec![
                ("NATS_STORE_DIR", quoted(folder)),
                ("NATS_PROVISION_PASSWORD", quoted(&passwords.provision)),
                ("NATS_BACKUP_PASSWORD", quoted(&passwords.backup)),
                ("NATS_HUB_PASSWORD", quoted(&passwords.hub)),
                ("NATS_SUBSCRIBER_PASSWORD", quoted(&passwords.subscriber)),
            ],
            extra_args: options.extra_args,
            port: AtomicU16::new(0),
            process: Process::new("nats-server", "TERM", dir.join("nats.log"), remove),
            dir,
        };
        match remembered_port(&server.port_file()) {
            // Another program may have taken the port since it was checked; then any other port will do.
            Some(port) => match server.launch(Some(port)).await {
                Ok(()) => {}
                Err(_) if remembered_port(&server.port_file()).is_none() => server.launch(None).await?,
                Err(error) => return Err(error),
            },
            None => server.launch(None).await?,
        }
        Ok(server)
    }

    /// `nats://127.0.0.1:PORT`, without a user.
    pub fn url(&self) -> String {
        format!("nats://{}:{}", Ipv4Addr::LOCALHOST, self.port())
    }

    /// The port for clients; the same over every restart.
    pub fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    /// The server's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// The folder with the data and `nats.log`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts the server again, on the same port and data; one that still runs is stopped before.
    ///
    /// # Errors
    ///
    /// As [`NatsServer::start`], also when the port was taken meanwhile.
    pub async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.launch(Some(self.port())).await
    }

    /// SIGTERM, and waits for the end; a SIGKILL after 10 s. Nothing happens where it doesn't run.
    ///
    /// # Errors
    ///
    /// When even the kill has no effect.
    pub async fn stop(&self) -> Result<()> {
        self.process.stop().await
    }

    /// SIGKILL, and waits for the end. Nothing happens where it doesn't run.
    ///
    /// # Errors
    ///
    /// When it has no effect within 5 s.
    pub async fn kill(&self) -> Result<()> {
        self.process.kill().await
    }

    /// SIGSTOP: connections stay, nothing answers, until [`NatsServer::resume`].
    ///
    /// # Errors
    ///
    /// When it doesn't run.
    pub async fn pause(&self) -> Result<()> {
        self.process.pause().await
    }

    /// SIGCONT.
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

    fn port_file(&self) -> PathBuf {
        self.dir.join("nats.port")
    }

    async fn launch(&self, port: Option<u16>) -> Result<()> {
        let wanted = port.map_or_else(|| "-1".into(), |port| port.to_string());
        let mut args: Vec<OsString> = vec!["-c".into(), self.config_file.clone().into()];
        args.extend([
            "-a".into(),
            Ipv4Addr::LOCALHOST.to_string().into(),
            "-p".into(),
            wanted.into(),
        ]);
        args.extend(["--ports_file_dir".into(), self.dir.clone().into()]);
        args.extend(self.extra_args.iter().cloned());
        let invocation = Invocation {
            program: self.program.clone(),
            args,
            env: self.env.clone(),
            current_dir: self.dir.clone(),
            account: None,
        };
        let ready = |pid| async move {
            let ready = timeout(START_TIMEOUT, self.ready(pid)).await;
            ready.unwrap_or_else(|_| Err(self.process.failure(&format!("was not ready after {START_TIMEOUT:?}"))))
        };
        let port = self.process.launch(&invocation, ready).await?;
        self.port.store(port, Ordering::Relaxed);
        remember_port(&self.port_file(), port)
    }

    /// Waits for the file in which the server says its port, and then for its greeting there.
    async fn ready(&self, pid: u32) -> Result<u16> {
        let program = self.program.file_name().unwrap_or_default().to_string_lossy();
        let file = self.dir.join(format!("{program}_{pid}.ports"));
        let port = loop {
            match fs::read_to_string(&file).ok().as_deref().and_then(client_port) {
                Some(port) => break port,
                None => sleep(POLL).await,
            }
        };
        // The server removes the file itself, but not when it is killed.
        let _ = fs::remove_file(&file);
        timeout(GREETING_TIMEOUT, greeting(port))
            .await
            .with_context(|| format!("nats-server listens on port {port} but does not greet"))??;
        Ok(port)
    }
}

async fn greeting(port: u16) -> Result<()> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    if !line.starts_with("INFO ") {
        bail!("what listens on port {port} is not a NATS server");
    }
    Ok(())
}

/// From the ports file, `{"nats":["nats://127.0.0.1:4222"],"cluster":[…],…}`; `None` until it is whole.
fn client_port(file: &str) -> Option<u16> {
    let file = file.trim_end().strip_suffix('}')?;
    let (_, clients) = file.split_once("\"nats\":")?;
    let (clients, _) = clients.split_once(']')?;
    let (_, port) = clients.rsplit_once(':')?;
    port.trim_end_matches('"').parse().ok()
}

/// As a string in the language of `nats.conf`, which would otherwise take `1e5` for a number.
fn quoted(value: &str) -> OsString {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")).into()
}
