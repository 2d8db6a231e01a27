//! The servers: one PostgreSQL cluster for all tests, a database of its own for each, and a NATS server for each.
//!
//! They are started by the library's own `servers` module, which ends them with this process, however it ends.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
};

use anyhow::Context as _;
use async_nats::{ConnectOptions, jetstream};
use serde_json::Value;
use tokio::sync::{Mutex, OnceCell};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;
use webhook_hub::dev::servers::{NatsOptions, NatsPasswords, NatsServer, Postgres, PostgresOptions, Programs};

use super::{
    PARTITIONS,
    certificates::Files,
    copies,
    hub::{Settings, run},
    nats_cluster::{NODES, Routes},
    port::Port,
};

/// The database that each test's is a copy of: migrated, with one restaurant in it.
const TEMPLATE: &str = "template_hub";
/// How much of the log of NATS a failed test shows.
const SHOWN_LINES: usize = 40;
/// What the platform knows before the first order.
const RESTAURANT: &str = "
    INSERT INTO delivery_providers (id, code, name) VALUES ('provider-careem', 'careem', 'Careem');
    INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id)
    VALUES ('config-1', 'branch-uuid', 'provider-careem', 'company-uuid', 'merchant-1');";

pub(crate) static PROGRAMS: LazyLock<Programs> = LazyLock::new(|| Programs::find(&in_project(".dev/tools")).unwrap());
static SHARED: OnceCell<Arc<Cluster>> = OnceCell::const_new();
/// A stopped server with the streams that each test's server begins with.
static WITH_STREAMS: OnceCell<Nats> = OnceCell::const_new();

/// A program that may come with PostgreSQL: `pg_dump`.
pub(crate) fn postgres_program(name: &str) -> Option<PathBuf> {
    let program = PROGRAMS.postgres_bin.join(name);
    program.is_file().then_some(program)
}

fn in_project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Where the servers of tests keep their files: in memory where there is room for all of them, for what these tests are
/// about does not depend on a disk, and a run of all waits for some ten thousand writes of one otherwise. Tests that fill a
/// disk or cut its power make one of their own.
static FOLDERS: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let is_chosen = std::env::var_os("TMPDIR").is_some();
    let free = rustix::fs::statvfs(memory).map_or(0, |shown| shown.f_bavail * shown.f_frsize);
    if !is_chosen && free >= FILES_OF_ALL && available_memory() >= 2 * FILES_OF_ALL {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
});
/// Bytes that the servers of all tests keep at most, with room for more tests: 3.9 GB were seen.
const FILES_OF_ALL: u64 = 6 << 30;

/// Bytes that programs can have without swapping, where the system says so.
fn available_memory() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// A folder that the server removes when it ends.
fn folder() -> PathBuf {
    let made = tempfile::Builder::new().prefix("hub-test-").tempdir_in(&*FOLDERS);
    made.unwrap().keep()
}

/// A folder for a NATS server, and the port that it comes up on, also when it comes back.
fn place() -> (PathBuf, Port) {
    let (dir, port) = (folder(), Port::reserve());
    // A server comes up on the port that it had in its folder before.
    std::fs::write(dir.join("nats.port"), port.number().to_string()).unwrap();
    (dir, port)
}

/// A PostgreSQL server with the template.
pub(crate) struct Cluster {
    pub(crate) server: Postgres,
    _port: Port,
}

impl Cluster {
    /// The one that all tests share; no test stops it.
    pub(crate) async fn shared() -> Arc<Self> {
        Arc::clone(SHARED.get_or_init(|| async { Arc::new(Self::start().await) }).await)
    }

    /// One of the test's own, which it may stop.
    pub(crate) async fn start() -> Self {
        Self::start_with(false).await
    }

    /// One of the test's own. `durable`: as it is where the hub is used, with fsync and autovacuum.
    pub(crate) async fn start_with(durable: bool) -> Self {
        let port = Port::reserve();
        let options = PostgresOptions {
            port: Some(port.number()),
            remove_dir_on_exit: true,
            durable,
        };
        let server = Postgres::start(&PROGRAMS, &folder(), options).await.unwrap();
        server.create_database(TEMPLATE, None).await.unwrap();
        let url = server.url(TEMPLATE);
        run(&Settings::empty().set("DATABASE_URL", &url), &["migrate"])
            .await
            .expect_success();
        let database = Database {
            url,
            client: Mutex::default(),
        };
        database.run(RESTAURANT).await.unwrap();
        Self { server, _port: port }
    }

    /// A new database like the template.
    pub(crate) async fn database(&self) -> Database {
        let name = format!("test_{}", Uuid::new_v4().simple());
        self.server.create_database(&name, Some(TEMPLATE)).await.unwrap();
        Database {
            url: self.server.url(&name),
            client: Mutex::default(),
        }
    }
}

/// A test's database, as the test looks at it.
pub(crate) struct Database {
    pub(crate) url: String,
    client: Mutex<Option<Arc<Client>>>,
}

impl Database {
    /// The rows of a query, each as a JSON object.
    pub(crate) async fn rows(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        let client = self.client().await?;
        let rows = client
            .query(&format!("SELECT to_jsonb(row) FROM ({query}) AS row"), &[])
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Runs statements.
    pub(crate) async fn run(&self, statements: &str) -> anyhow::Result<()> {
        Ok(self.client().await?.batch_execute(statements).await?)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.url.rsplit_once('/').unwrap().1
    }

    /// Keeps no connection, so that it can be copied.
    pub(crate) async fn disconnect(&self) {
        self.client.lock().await.take();
    }

    /// Its port and the rest of its URL pointed at another one: a proxy's.
    pub(crate) fn url_through(&self, address: std::net::SocketAddr) -> String {
        let (head, name) = self.url.rsplit_once('/').unwrap();
        let (user, _) = head.rsplit_once('@').unwrap();
        format!("{user}@{address}/{name}")
    }

    /// The connection of the last time, or a new one where the server was away meanwhile.
    async fn client(&self) -> anyhow::Result<Arc<Client>> {
        let mut held = self.client.lock().await;
        if let Some(client) = held.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls)
            .await
            .context("no connection to PostgreSQL")?;
        tokio::spawn(connection);
        Ok(Arc::clone(held.insert(Arc::new(client))))
    }
}

/// A NATS server with the project's configuration and passwords of its own, or a cluster of them.
pub(crate) struct Nats {
    /// The only server, or the first.
    pub(crate) server: NatsServer,
    pub(crate) others: Vec<NatsServer>,
    pub(crate) routes: Option<Routes>,
    passwords: NatsPasswords,
    /// The authority of its certificate and what a client shows it, where it speaks TLS.
    tls: Option<(PathBuf, Files)>,
    _ports: Vec<Port>,
}

impl Nats {
    /// One server, without streams.
    pub(crate) async fn start() -> Self {
        Self::start_with(str::to_owned, None).await
    }

    /// One server with the project's streams, as `streams apply` makes them. They are made once and copied: half a test's start
    /// would go into making them.
    pub(crate) async fn start_with_streams() -> Self {
        let made = WITH_STREAMS.get_or_init(Self::make_streams).await;
        let (dir, port) = place();
        copies::copy_store(made.server.dir(), &dir);
        Self::start_in(dir, port, str::to_owned, None).await
    }

    async fn make_streams() -> Self {
        let nats = Self::start().await;
        nats.apply_streams().await;
        nats.server.stop().await.unwrap();
        nats
    }

    /// Makes the project's streams.
    pub(crate) async fn apply_streams(&self) {
        let settings = self.settings("provision").set("PARTITIONS", PARTITIONS);
        run(&settings, &["streams", "apply"]).await.expect_success();
    }

    /// One server by a variant of the project's configuration; its clients show a certificate where one is given.
    pub(crate) async fn start_with(variant: impl FnOnce(&str) -> String, tls: Option<(PathBuf, Files)>) -> Self {
        let (dir, port) = place();
        Self::start_in(dir, port, variant, tls).await
    }

    async fn start_in(
        dir: PathBuf,
        port: Port,
        variant: impl FnOnce(&str) -> String,
        tls: Option<(PathBuf, Files)>,
    ) -> Self {
        let passwords = NatsPasswords::random();
        let config = dir.join("nats.conf");
        let project = std::fs::read_to_string(in_project("nats.conf")).unwrap();
        std::fs::write(&config, variant(&project)).unwrap();
        let options = NatsOptions {
            remove_dir_on_exit: true,
            ..NatsOptions::default()
        };
        let server = NatsServer::start_with(&PROGRAMS, &config, &dir, &passwords, options)
            .await
            .unwrap();
        assert_eq!(server.port(), port.number());
        Self {
            server,
            others: Vec::new(),
            routes: None,
            passwords,
            tls,
            _ports: vec![port],
        }
    }

    /// A cluster, without streams.
    pub(crate) async fn start_cluster() -> Self {
        let (passwords, routes) = (NatsPasswords::random(), Routes::lay());
        let (dirs, ports): (Vec<_>, Vec<_>) = (0..NODES).map(|_| place()).unzip();
        let mut servers = routes
            .start(&PROGRAMS, &in_project("nats.conf"), &passwords, &dirs)
            .await;
        Self {
            server: servers.remove(0),
            others: servers,
            routes: Some(routes),
            passwords,
            tls: None,
            _ports: ports,
        }
    }

    /// The addresses of all servers.
    pub(crate) fn urls(&self) -> Vec<String> {
        let servers = std::iter::once(&self.server).chain(&self.others);
        servers.map(NatsServer::url).collect()
    }

    /// The same as a setting of the hub.
    pub(crate) fn url(&self) -> String {
        self.urls().join(",")
    }

    /// How the binary reaches it as this user.
    pub(crate) fn settings(&self, user: &str) -> Settings {
        let settings = Settings::empty()
            .set("NATS_URL", self.url())
            .set("NATS_USER", user)
            .set("NATS_PASSWORD", self.password(user));
        match &self.tls {
            None => settings,
            Some((ca, files)) => settings
                .set("NATS_TLS_CA", ca.display())
                .set("NATS_TLS_CERT", files.certificate.display())
                .set("NATS_TLS_KEY", files.key.display()),
        }
    }

    /// A connection of this user, with its own inbox as `nats.conf` demands it.
    pub(crate) fn options(&self, user: &str) -> ConnectOptions {
        let inbox = if user == "provision" {
            "_INBOX".to_owned()
        } else {
            format!("_INBOX_{user}")
        };
        let options = ConnectOptions::with_user_and_password(user.into(), self.password(user).into());
        let options = options.custom_inbox_prefix(inbox);
        match &self.tls {
            None => options,
            Some((ca, files)) => options
                .add_root_certificates(ca.clone())
                .add_client_certificate(files.certificate.clone(), files.key.clone()),
        }
    }

    pub(crate) async fn connect(&self, user: &str) -> async_nats::Client {
        self.options(user).connect(self.urls()).await.unwrap()
    }

    /// JetStream with all rights.
    pub(crate) async fn provision(&self) -> jetstream::Context {
        jetstream::new(self.connect("provision").await)
    }

    pub(crate) fn password(&self, user: &str) -> &str {
        match user {
            "provision" => &self.passwords.provision,
            "backup" => &self.passwords.backup,
            "hub" => &self.passwords.hub,
            "subscriber" => &self.passwords.subscriber,
            other => panic!("nats.conf has no user {other}"),
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for server in std::iter::once(&self.server).chain(&self.others) {
                let log = std::fs::read_to_string(server.dir().join("nats.log")).unwrap_or_default();
                let lines: Vec<_> = log.lines().collect();
                eprintln!(
                    "--- log of NATS ---\n{}\n---",
                    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
                );
            }
        }
    }
}

/// A block of `nats.conf` that stands there as a comment, `# NAME {` to `# }`, switched on.
pub(crate) fn switched_on(config: &str, name: &str) -> String {
    let (mut inside, mut found) = (false, false);
    let mut lines = Vec::new();
    for line in config.lines() {
        inside |= line == format!("# {name} {{");
        found |= inside;
        let bare = line.strip_prefix("# ").filter(|_| inside).unwrap_or(line);
        lines.push(bare);
        inside &= bare != "}";
    }
    assert!(found && !inside, "nats.conf has no block {name} to switch on");
    lines.join("\n")
}
