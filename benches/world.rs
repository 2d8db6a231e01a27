//! NATS and PostgreSQL for one build of the hub, empty, with the configuration and the streams of that build.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use webhook_hub::dev::servers::{NatsPasswords, NatsServer, Postgres, Programs};

use crate::{
    load::Pace,
    process::Child,
    results::row::Samples,
    saturate::{COMPLETED, DRAIN, MB, Target, count, wait},
    setup::{
        BRANCH, FSYNC, NO_BACKEND, NO_DATABASE, PATIENCE, TOOLS, durable, folder, hub_command, listening_port, postgres,
    },
    traffic::{Traffic, steady},
};

/// Connections of its loads: those of the accept latency, and of the side-by-side figures.
pub(crate) const CONNECTIONS: usize = 64;
const DATABASE: &str = "bench";

/// A build of the hub.
pub(crate) struct Build {
    /// The program.
    pub(crate) binary: PathBuf,
    /// The folder of its source, of which `nats.conf` is read.
    pub(crate) tree: PathBuf,
}

impl Build {
    /// The one that cargo made together with this bench.
    pub(crate) fn own() -> Self {
        Self {
            binary: env!("CARGO_BIN_EXE_webhook-hub").into(),
            tree: ".".into(),
        }
    }
}

/// Its servers; they end when it is dropped.
pub(crate) struct World<'a> {
    build: &'a Build,
    nats: NatsServer,
    pub(crate) postgres: Postgres,
    passwords: NatsPasswords,
    pub(crate) database_url: String,
    _folder: tempfile::TempDir,
}

impl<'a> World<'a> {
    /// Starts empty servers, and lets the build itself make its streams and its tables.
    pub(crate) async fn start(build: &'a Build) -> Result<Self> {
        let programs = Programs::find(Path::new(TOOLS))?;
        let folder = folder()?;
        let path = |name: &str| folder.path().join(name);
        let config = build.tree.join("nats.conf");
        let text = std::fs::read_to_string(&config).with_context(|| format!("reading {}", config.display()))?;
        ensure!(
            text.contains(FSYNC),
            "{} does not fsync before the acknowledgement",
            config.display()
        );
        let passwords = NatsPasswords::random();
        let postgres = Postgres::start(&programs, &path("postgres"), durable()).await?;
        postgres.create_database(DATABASE, None).await?;
        let world = Self {
            build,
            nats: NatsServer::start(&programs, &config, &path("nats"), &passwords).await?,
            database_url: postgres.url(DATABASE),
            postgres,
            passwords,
            _folder: folder,
        };
        world.command(&["streams", "apply"])?;
        world.command(&["migrate"])?;
        self::postgres(&world.database_url).await?.batch_execute(BRANCH).await?;
        Ok(world)
    }

    /// Starts a hub with everything.
    pub(crate) fn hub(&self, backend: &str) -> Result<Child> {
        self.serve(&self.database_url, backend)
    }

    /// Starts a hub with only its intake at work.
    pub(crate) fn intake(&self) -> Result<Child> {
        self.serve(NO_DATABASE, NO_BACKEND)
    }

    fn serve(&self, database_url: &str, backend: &str) -> Result<Child> {
        let (nats, password) = (self.nats.url(), &self.passwords.hub);
        let command = hub_command(&self.build.binary, &nats, password, database_url, backend);
        Child::start(command, PATIENCE, listening_port)
    }

    /// Everything, from the provider's request to the backend and the completed row: first at a steady rate, then as much as goes in.
    pub(crate) async fn end_to_end(&self, traffic: &Traffic, samples: &mut Samples) -> Result<()> {
        let hub = self.hub(&traffic.backend())?;
        let run = traffic.load(hub.port(), CONNECTIONS, steady()).run().await?.good()?;
        let client = self::postgres(&self.database_url).await?;
        let accepted = i64::try_from(run.accepted_in_all)?;
        wait(DRAIN, async || Ok(count(&client, COMPLETED).await? >= accepted)).await?;
        let fared = traffic.fared(&run)?;
        let latency = |share: f64| fared.from_sent.milliseconds(share);
        samples.add("request due to order at the backend, 500/s, p50", latency(0.50), "ms");
        samples.add("request due to order at the backend, 500/s, p99", latency(0.99), "ms");
        let load = traffic.load(hub.port(), CONNECTIONS, Pace::Closed);
        let came = self.target(&hub).saturate(load).await?;
        let at = |what: &str| format!("{what}, {CONNECTIONS} connections");
        let latency = |share: f64| came.report.latency.milliseconds(share);
        samples.add(at("accept p50"), latency(0.50), "ms");
        samples.add(at("accept p99"), latency(0.99), "ms");
        samples.add(at("accepted"), came.report.rate_per_s, "accepts/s");
        samples.add(at("completed"), came.completed_per_s, "orders/s");
        came.add_cpu(samples);
        samples.add("resident memory under load, largest", came.largest as f64 / MB, "MB");
        hub.stop(PATIENCE)
    }

    /// The intake alone: no database, so the stages wait and take no CPU from it.
    pub(crate) async fn accept(&self, traffic: &Traffic, samples: &mut Samples) -> Result<()> {
        let hub = self.intake()?;
        let run = traffic
            .apart(hub.port(), CONNECTIONS, Pace::Closed)
            .run()
            .await?
            .good()?;
        let at = |what: &str| format!("{what}, {CONNECTIONS} connections");
        samples.add(at("accepted"), run.rate_per_s, "accepts/s");
        samples.add(at("accept p50"), run.latency.milliseconds(0.50), "ms");
        samples.add(at("accept p99"), run.latency.milliseconds(0.99), "ms");
        hub.stop(PATIENCE)
    }

    /// The hub of this world, for [`Target::saturate`].
    pub(crate) fn target<'b>(&'b self, hub: &'b Child) -> Target<'b> {
        Target {
            child: hub,
            nats: self.nats.pid(),
            postgres: self.postgres.pid(),
            database_url: &self.database_url,
            completed: COMPLETED,
        }
    }

    /// Ends the servers, and waits for it: what they would still do must not reach into what is measured next.
    pub(crate) async fn stop(self) -> Result<()> {
        self.nats.stop().await?;
        self.postgres.stop().await
    }

    /// Runs a command of the build as the user that may make streams and tables.
    fn command(&self, arguments: &[&str]) -> Result<()> {
        let binary = &self.build.binary;
        let output = Command::new(binary)
            .args(arguments)
            .env_clear()
            .envs([
                ("NATS_URL", self.nats.url().as_str()),
                ("NATS_USER", "provision"),
                ("NATS_PASSWORD", &self.passwords.provision),
                ("DATABASE_URL", &self.database_url),
            ])
            .output()
            .with_context(|| format!("running {}", binary.display()))?;
        ensure!(
            output.status.success(),
            "{} {} failed: {}{}",
            binary.display(),
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}
