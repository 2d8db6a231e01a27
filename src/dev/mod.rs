//! `dev`: runs everything on this machine, for a first look and for development.
//!
//! It starts NATS and PostgreSQL of its own under `.dev/`, on free ports, a sample [`backend`], and the hub in this process. Then
//! a demonstration sends a signed order and shows its path. Ctrl-C stops only what was started here.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, Config, Environment},
    database::Database,
    hub::{self, Inputs},
    journal::{
        connection::{Connection, PROVISION_INBOX},
        streams,
    },
    projection::schema,
    provider::Catalogue,
    telemetry,
};

pub mod servers;
pub mod backend;
mod demo;

use servers::{NatsPasswords, NatsServer, Postgres, PostgresOptions, Programs};

/// The configuration that production uses, too.
const NATS_CONFIG: &str = include_str!("../../nats.conf");
const DATABASE: &str = "webhook_hub";
/// The webhook secret of the sample provider; there is nothing to keep secret on a developer's machine.
const WEBHOOK_SECRET: &str = "dev-careem-secret";
/// Ports that are taken where they are free, so that the URLs stay the same from run to run.
const USUAL_PORTS: [u16; 2] = [3002, 9090];

/// Addresses and what commands such as `dead-letters` need, for a shell; in the folder of the data.
const VARIABLES: &str = "hub.env";

/// What was started, and what the demonstration needs of it.
struct Dev {
    dir: PathBuf,
    /// What the caller's environment says of providers.
    of_providers: Vec<(String, String)>,
    nats: NatsServer,
    postgres: Postgres,
    passwords: NatsPasswords,
    backend: SocketAddr,
}

/// Starts everything, sends a sample order and stays until Ctrl-C.
///
/// # Errors
/// If a server is missing or does not start; the message names it and the remedy.
pub async fn run(environment: &Environment, dir: &Path) -> anyhow::Result<ExitCode> {
    let of_providers = of_providers(environment, &config::catalogue(environment)?);
    let level = std::env::var("LOG_LEVEL").unwrap_or_else(|_| "warn".into());
    telemetry::logs::init(&config::Logs { level, json: false })?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let dir = dir.canonicalize()?;
    let programs = Programs::find(&dir.join("tools"))?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let working = async {
        let backend = listen(0)?;
        let dev = Box::pin(start(&dir, of_providers, &programs, backend.local_addr()?)).await?;
        let served = Box::pin(serve(&dev, backend, stop.clone())).await;
        let (nats, postgres) = tokio::join!(dev.nats.stop(), dev.postgres.stop());
        served.and(nats).and(postgres)
    };
    tokio::pin!(working);
    let ended = tokio::select! {
        ended = &mut working => ended,
        _ = interrupt.recv() => { stop.cancel(); working.await }
        _ = terminate.recv() => { stop.cancel(); working.await }
    };
    ended.map(|()| ExitCode::SUCCESS)
}

/// NATS, PostgreSQL, the schema, the sample branch, the streams.
async fn start(
    dir: &Path,
    of_providers: Vec<(String, String)>,
    programs: &Programs,
    backend: SocketAddr,
) -> anyhow::Result<Dev> {
    let config_file = dir.join("nats.conf");
    std::fs::write(&config_file, NATS_CONFIG).with_context(|| format!("cannot write {}", config_file.display()))?;
    let passwords = NatsPasswords::random();
    let options = PostgresOptions {
        durable: true,
        ..PostgresOptions::default()
    };
    let (nats_dir, postgres_dir) = (dir.join("nats"), dir.join("postgres"));
    give_log_to_account(&nats_dir).context("cannot move the log of an earlier version")?;
    let (nats, postgres) = tokio::try_join!(
        NatsServer::start(programs, &config_file, &nats_dir, &passwords),
        Postgres::start(programs, &postgres_dir, options),
    )?;
    let dev = Dev {
        dir: dir.to_owned(),
        of_providers,
        nats,
        postgres,
        passwords,
        backend,
    };
    dev.prepare().await?;
    dev.write_variables()?;
    Ok(dev)
}

/// The log of earlier versions, whose `nats.conf` had no accounts, belongs to the server's global account. Now it is `HUB`'s.
fn give_log_to_account(nats: &Path) -> std::io::Result<()> {
    let store = nats.join("jetstream");
    let (global, hub) = (store.join("$G"), store.join("HUB"));
    if hub.exists() || !global.exists() {
        return Ok(());
    }
    std::fs::rename(global, hub)
}

impl Dev {
    /// The environment of a hub on these servers.
    fn environment(&self, user: &str, password: &str) -> Environment {
        [
            ("NATS_URL", self.nats.url()),
            ("NATS_USER", user.to_owned()),
            ("NATS_PASSWORD", password.to_owned()),
            ("DATABASE_URL", self.postgres.url(DATABASE)),
            ("BACKEND_URL", format!("http://{}", self.backend)),
            ("SERVICE_TOKEN", backend::SERVICE_TOKEN.to_owned()),
            ("CAREEM_ENABLED", "true".to_owned()),
            ("CAREEM_WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
            ("LISTEN_ADDRESS", Ipv4Addr::LOCALHOST.to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .chain(self.of_providers.iter().cloned())
        .collect()
    }

    /// The passwords are new at every start, so they cannot be known otherwise.
    fn write_variables(&self) -> anyhow::Result<()> {
        let file = self.dir.join(VARIABLES);
        let text = format!(
            "export NATS_URL='{}' NATS_USER=hub NATS_PASSWORD={}\nexport POSTGRESQL='{}' BACKEND='http://{}'\n",
            self.nats.url(),
            self.passwords.hub,
            self.postgres.url(DATABASE),
            self.backend
        );
        let mut options = std::fs::OpenOptions::new();
        let written = options.write(true).create(true).truncate(true).mode(0o600).open(&file);
        let written = written.and_then(|mut file| file.write_all(text.as_bytes()));
        written.with_context(|| format!("cannot write {}", file.display()))
    }

    async fn prepare(&self) -> anyhow::Result<()> {
        let known = self.postgres.create_database(DATABASE, None).await;
        let settings = config::Database::from_environment(&self.environment("hub", &self.passwords.hub))?;
        let database = Database::new(&settings)?;
        // If a connection succeeds, the database exists from an earlier run.
        let connection = match (database.connect().await, known) {
            (Ok(connection), _) => connection,
            (Err(_), Err(error)) => return Err(error),
            (Err(error), Ok(())) => return Err(error),
        };
        schema::migrate(&database).await?;
        connection.batch_execute(include_str!("sample_branch.sql")).await?;
        let nats = config::Nats::from_environment(&self.environment("provision", &self.passwords.provision))?;
        let connection = Connection::open(&nats, "webhook-hub dev", PROVISION_INBOX).await?;
        connection.reach().await?;
        streams::apply(&connection, &streams::ApplyOptions::default(), |_| {}).await?;
        Ok(())
    }
}

/// The backend, the hub and the demonstration, until it is stopped or until one of them fails.
async fn serve(dev: &Dev, backend: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    let config = Config::from_environment(&dev.environment("hub", &dev.passwords.hub))?;
    let [port, metrics_port] = USUAL_PORTS.map(|port| listen(port).or_else(|_| listen(0)));
    let (listener, metrics) = (port?, metrics_port?);
    let hub_address = listener.local_addr()?;
    let metrics_address = metrics.local_addr()?;
    let inputs = Inputs {
        config,
        listener,
        metrics: Some((metrics, telemetry::metrics::install()?)),
    };
    let providers = inputs.config.providers.iter().map(|provider| &*provider.name);
    let providers = providers.collect::<Vec<_>>().join(", ");
    let backend_stop = CancellationToken::new();
    let backend = backend::serve(backend, dev.postgres.url(DATABASE), backend_stop.clone());
    let hub = async {
        let ended = hub::run(inputs, stop.clone(), stop.clone()).await;
        // The hub drains into the backend, so the backend stops last.
        backend_stop.cancel();
        ended
    };
    let demonstration = async {
        demo::run(dev, hub_address, metrics_address, &providers).await?;
        stop.cancelled().await;
        Ok(())
    };
    let servers = async {
        let ended = tokio::select! {
            ended = dev.nats.exited() => ended,
            ended = dev.postgres.exited() => ended,
            () = stop.cancelled() => return Ok(()),
        };
        stop.cancel();
        anyhow::bail!("{ended}")
    };
    let demonstration = async {
        let shown: anyhow::Result<()> = demonstration.await;
        if shown.is_err() {
            stop.cancel();
        }
        shown
    };
    let (backend, hub, demonstration, servers) = tokio::join!(backend, hub, demonstration, servers);
    servers.and(hub).and(demonstration).and(backend)
}

/// What the environment says of providers, but for the one of the sample, which is set up here.
fn of_providers(environment: &Environment, catalogue: &Catalogue) -> Vec<(String, String)> {
    let prefixes: Vec<_> = catalogue
        .names()
        .map(|name| format!("{}_", config::prefix(name)))
        .collect();
    let is_wanted = |name: &str| {
        if ["PROVIDERS_DIR", "PROVIDERS_DIR_FILE", "PUBLIC_URL"].contains(&name) {
            return true;
        }
        // CAREEM_POS_ENABLED also begins with careem's prefix, so the longest prefix decides.
        let prefixes = prefixes.iter().filter(|prefix| name.starts_with(prefix.as_str()));
        prefixes
            .max_by_key(|prefix| prefix.len())
            .is_some_and(|prefix| prefix != "CAREEM_")
    };
    environment
        .iter()
        .filter(|(name, _)| is_wanted(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn listen(port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("cannot listen on port {port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_variables_are_passed_on() {
        let environment: Environment = [
            ("PROVIDERS_DIR", "/files"),
            ("CAREEM_ENABLED", "false"),
            ("CAREEM_WEBHOOK_SECRET_FILE", "/careem"),
            ("CAREEM_POS_ENABLED", "true"),
            ("CAREEM_POS_API_KEY", "key"),
            ("JUST_EAT_CURRENCY", "GBP"),
            ("DATABASE_URL", "postgres://production"),
            ("NATS_URL", "nats://production"),
            ("BACKEND_URL", "https://production"),
        ]
        .into_iter()
        .collect();
        let passed = of_providers(&environment, &Catalogue::shipped());
        let names: Vec<_> = passed.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "CAREEM_POS_API_KEY",
                "CAREEM_POS_ENABLED",
                "JUST_EAT_CURRENCY",
                "PROVIDERS_DIR"
            ]
        );
    }
}
