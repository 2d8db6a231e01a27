//! The servers of the benchmark: NATS as in production, PostgreSQL as in production, NATS without fsync for the bare
//! handler; and the hub as a process of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio_postgres::{Client, NoTls};
use webhook_hub::{
    config::{self, Environment},
    database::Database,
    dev::servers::{NatsPasswords, NatsServer, Postgres, PostgresOptions, Programs},
    journal::{
        connection::{Connection, HUB_INBOX, PROVISION_INBOX},
        streams,
    },
    projection::{indexes, schema},
};

use crate::process::{Child, cpu_seconds, cpu_seconds_of_all};

/// Key of the load generator's signatures.
pub(crate) const SECRET: &str = "bench-careem-secret";
/// Merchant of the only branch.
pub(crate) const MERCHANT: &str = "bench-merchant";
/// Time for a process to be ready, or to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Where the programs of NATS and PostgreSQL are, from the project's root.
pub(crate) const TOOLS: &str = ".dev/tools";
/// How long to wait at most for servers that still work, how often to look, and what they may take while they count as quiet.
const SETTLE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(300);
const QUIET_CORES: f64 = 0.05;

/// An address without a server, for a hub with waiting stages.
pub(crate) const NO_DATABASE: &str = "postgres://nobody@127.0.0.1:1/none";
pub(crate) const NO_BACKEND: &str = "http://127.0.0.1:1";
const NATS_CONFIG: &str = include_str!("../nats.conf");
/// The line that makes the server fsync before it acknowledges.
pub(crate) const FSYNC: &str = "sync_interval: always";
/// The bare handler makes its own stream, which no user of the real configuration may: it gets one, the first of the account that has
/// JetStream.
const ACCOUNT: &str = "\n  HUB {\n    jetstream: enabled\n";
const USERS: &str = "    users: [\n";
/// What keeps the users of that account from making one.
const NO_API: &str = "{ service: { account: \"$SYS\", subject: \"no-api.>\" }, to: \"$JS.API.>\" }\n";
const BARE_USER: &str = "{ user: bare, password: $NATS_HUB_PASSWORD }";
pub(crate) const BRANCH: &str = "
    INSERT INTO delivery_providers (id, code, name) VALUES ('bench-provider', 'careem', 'Careem');
    INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id)
    VALUES ('bench-config', 'bench-branch', 'bench-provider', 'bench-company', 'bench-merchant');";

/// All servers; they end when it is dropped.
pub(crate) struct Servers {
    /// The log of the accept figures: what they leave on it would have to be worked off by the others.
    intake: NatsServer,
    nats: NatsServer,
    unsynced: NatsServer,
    pub(crate) postgres: Postgres,
    passwords: NatsPasswords,
    folder: tempfile::TempDir,
}

impl Servers {
    pub(crate) async fn start() -> Result<Self> {
        let programs = Programs::find(Path::new(TOOLS))?;
        let folder = folder()?;
        let path = |name: &str| folder.path().join(name);
        let config = |name: &str, text: &str| -> Result<PathBuf> {
            std::fs::write(path(name), text)?;
            Ok(path(name))
        };
        anyhow::ensure!(
            NATS_CONFIG.contains(FSYNC),
            "nats.conf does not fsync before the acknowledgement"
        );
        let synced = config("synced.conf", NATS_CONFIG)?;
        let plain = config("unsynced.conf", &without_fsync(NATS_CONFIG)?)?;
        let passwords = NatsPasswords::random();
        let servers = Self {
            intake: NatsServer::start(&programs, &synced, &path("intake"), &passwords).await?,
            nats: NatsServer::start(&programs, &synced, &path("nats"), &passwords).await?,
            unsynced: NatsServer::start(&programs, &plain, &path("unsynced"), &passwords).await?,
            postgres: Postgres::start(&programs, &path("postgres"), durable()).await?,
            passwords,
            folder,
        };
        for nats in [&servers.intake, &servers.nats] {
            let provision = servers.connection(nats, "provision", PROVISION_INBOX).await?;
            streams::apply(&provision, &streams::ApplyOptions::default(), |_| {}).await?;
        }
        Ok(servers)
    }

    /// Where they keep their data.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// An empty database with the schema and one branch.
    pub(crate) async fn new_database(&self, name: &str) -> Result<String> {
        self.postgres.create_database(name, None).await?;
        let url = self.postgres.url(name);
        let settings = config::Database::from_environment(&Environment::from_iter([("DATABASE_URL", url.clone())]))?;
        let database = Database::new(&settings)?;
        schema::migrate(&database).await?;
        indexes::make(&database, &|_| {}).await?;
        database.connect().await?.batch_execute(BRANCH).await?;
        Ok(url)
    }

    /// NATS without fsync, for the bare handler: its URL and who may make a stream there.
    pub(crate) fn unsynced(&self) -> (String, (String, String)) {
        (self.unsynced.url(), ("bare".to_owned(), self.passwords.hub.clone()))
    }

    async fn connection(&self, nats: &NatsServer, user: &str, inbox: &str) -> Result<Connection> {
        let password = if user == "provision" {
            &self.passwords.provision
        } else {
            &self.passwords.hub
        };
        let environment = Environment::from_iter([
            ("NATS_URL", nats.url().as_str()),
            ("NATS_USER", user),
            ("NATS_PASSWORD", password),
        ]);
        let connection = Connection::open(&config::Nats::from_environment(&environment)?, "bench", inbox).await?;
        connection.reach().await?;
        Ok(connection)
    }

    /// A connection with the hub's own rights.
    pub(crate) async fn hub_connection(&self) -> Result<Connection> {
        self.connection(&self.nats, "hub", HUB_INBOX).await
    }

    /// Starts a hub with only its intake at work, on a log of its own: it has no database, so the stages wait.
    pub(crate) fn intake(&self) -> Result<Child> {
        let command = self.command(&self.intake, NO_DATABASE, NO_BACKEND);
        Child::start(command, PATIENCE, listening_port)
    }

    /// The same, without rate limits.
    pub(crate) fn intake_without_limits(&self) -> Result<Child> {
        let mut command = self.command(&self.intake, NO_DATABASE, NO_BACKEND);
        command.env("RATE_LIMIT_ENABLED", "false");
        Child::start(command, PATIENCE, listening_port)
    }

    /// Starts the hub as a process of its own.
    pub(crate) fn hub(&self, database_url: &str, backend: &str) -> Result<Child> {
        Child::start(
            self.command(&self.nats, database_url, backend),
            PATIENCE,
            listening_port,
        )
    }

    /// The same, for orders that wait: without a breaker, so that a backend that refuses everything is asked all the same;
    /// and parked for so long that none of them comes back while the others are measured.
    pub(crate) fn hub_that_parks(&self, database_url: &str, backend: &str) -> Result<Child> {
        let mut command = self.command(&self.nats, database_url, backend);
        command
            .env("CIRCUIT_BREAKER_ENABLED", "false")
            .env("RETRY_DELAYS", "1h");
        Child::start(command, PATIENCE, listening_port)
    }

    /// A command of an operator, on the log of [`Self::hub`] and a database.
    pub(crate) fn operator(&self, database_url: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_webhook-hub"));
        command.args(arguments).env_clear().envs([
            ("NATS_URL", self.nats.url().as_str()),
            ("NATS_USER", "hub"),
            ("NATS_PASSWORD", &self.passwords.hub),
            ("DATABASE_URL", database_url),
        ]);
        command
    }

    /// Process id of the NATS server of all that [`Self::hub`] starts.
    pub(crate) fn nats_pid(&self) -> Option<u32> {
        self.nats.pid()
    }

    /// Bytes that the event log of [`Self::hub`] takes on the disk.
    pub(crate) fn log_bytes(&self) -> Result<u64> {
        bytes_of_stream(self.nats.dir(), "EVENTS", false)
    }

    /// Waits until no server works on anything that is left of the load, so that the yardstick measures the machine and not them.
    /// It goes on after [`SETTLE`] all the same; the yardstick then says that the machine was busy.
    pub(crate) async fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + SETTLE;
        let mut before = self.cpu()?;
        while Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
            let now = self.cpu()?;
            if now - before < QUIET_CORES * LOOK.as_secs_f64() {
                return Ok(());
            }
            before = now;
        }
        Ok(())
    }

    /// CPU time that all servers have taken.
    fn cpu(&self) -> Result<f64> {
        let mut seconds = 0.0;
        for pid in [&self.intake, &self.nats, &self.unsynced]
            .into_iter()
            .filter_map(NatsServer::pid)
        {
            seconds += cpu_seconds(pid)?;
        }
        match self.postgres.pid() {
            Some(pid) => Ok(seconds + cpu_seconds_of_all(pid)?),
            None => Ok(seconds),
        }
    }

    fn command(&self, nats: &NatsServer, database_url: &str, backend: &str) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_webhook-hub"));
        hub_command(binary, &nats.url(), &self.passwords.hub, database_url, backend)
    }
}

/// How a hub is started: with everything on, and a rate limit that it never comes to.
pub(crate) fn hub_command(binary: &Path, nats: &str, password: &str, database_url: &str, backend: &str) -> Command {
    let mut command = Command::new(binary);
    command.arg("serve").env_clear().envs([
        ("NATS_URL", nats),
        ("NATS_USER", "hub"),
        ("NATS_PASSWORD", password),
        ("DATABASE_URL", database_url),
        ("BACKEND_URL", backend),
        ("SERVICE_TOKEN", "bench-token"),
        ("CAREEM_ENABLED", "true"),
        ("CAREEM_WEBHOOK_SECRET", SECRET),
        ("LISTEN_ADDRESS", "127.0.0.1"),
        ("PORT", "0"),
        ("METRICS_PORT", "0"),
        ("RATE_LIMIT_CAREEM", "1000000000/60s"),
    ]);
    command
}

/// As [`Servers`] and every [`crate::world::World`] have it: fsync and all else as in production.
pub(crate) fn durable() -> PostgresOptions {
    PostgresOptions {
        durable: true,
        ..PostgresOptions::default()
    }
}

/// A folder for servers, which PostgreSQL can reach: where this is root, it runs as another user.
pub(crate) fn folder() -> Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new().prefix("webhook-hub-bench").tempdir()?;
    #[cfg(unix)]
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(folder)
}

/// The configuration of the server for the bare handler.
fn without_fsync(text: &str) -> Result<String> {
    let (before, account) = text
        .split_once(ACCOUNT)
        .context("nats.conf has no account HUB with JetStream")?;
    let (settings, users) = account
        .split_once(USERS)
        .context("the account HUB of nats.conf has no users")?;
    anyhow::ensure!(
        settings.contains(NO_API),
        "HUB of nats.conf has JetStream's whole interface"
    );
    let settings = settings.replace(NO_API, "");
    Ok([before, ACCOUNT, &settings, USERS, BARE_USER, "\n", users]
        .concat()
        .replace(FSYNC, ""))
}

/// The port of the hub's log line that says where it listens.
pub(crate) fn listening_port(line: &str) -> Option<u16> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    if line["message"] != "listening" {
        return None;
    }
    line["metadata"]["address"].as_str()?.rsplit(':').next()?.parse().ok()
}

/// A plain connection to PostgreSQL; it ends with the client.
pub(crate) async fn postgres(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .context("connecting to PostgreSQL")?;
    tokio::spawn(connection);
    Ok(client)
}

/// Sizes of all files below the folder of a stream, wherever in `folder` that is: its place depends on the account.
fn bytes_of_stream(folder: &Path, stream: &str, within: bool) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            bytes += bytes_of_stream(&entry.path(), stream, within || entry.file_name() == stream)?;
        } else if within {
            bytes += metadata.len();
        }
    }
    Ok(bytes)
}
