//! The hub beside the plain design that one would write in Node.js: store, forward, answer (`benches/node/server.mjs`).
//!
//! Both have the same load, the same backend and an empty PostgreSQL of their own with the same settings, fsync among them; they take turns.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::Bench;
use crate::{
    load::Pace,
    process::{Child, after_ready},
    results::row::{Goal, Samples},
    saturate::{MB, Saturated, Target},
    setup::{PATIENCE, SECRET},
    world::{Build, CONNECTIONS, World},
};

/// Where it is, from the project's root, and the folder for its packages, in that in which cargo builds.
const SOURCE: &str = "benches/node";
const INSTALLED: &str = "bench-node";
const FILES: [&str; 3] = ["package.json", "package-lock.json", "server.mjs"];
/// The file that npm writes when all packages are there.
const INSTALLED_BY_NPM: &str = "node_modules/.package-lock.json";
const COMPLETED: &str = "SELECT count(*) FROM plain_webhook_logs WHERE status = 'completed'";
const SHARE: &str = "completed by the hub ÷ completed by Node.js";

impl Bench {
    pub(crate) async fn node(&mut self) -> Result<()> {
        let mut samples = Samples::new("node");
        match install() {
            Ok(folder) => {
                for _ in 0..self.rounds {
                    self.beside_node(&folder, &mut samples).await?;
                }
            }
            Err(why) => {
                let row = samples.not_measured(SHARE, &format!("{why:#}"), "");
                row.wants(Goal::AtLeast(1.8));
            }
        }
        self.push(samples);
        Ok(())
    }

    async fn beside_node(&self, folder: &Path, samples: &mut Samples) -> Result<()> {
        let build = Build::own();
        let load = |child: &Child| self.traffic.load(child.port(), CONNECTIONS, Pace::Closed);
        let world = World::start(&build).await?;
        let child = start(folder, &world.database_url, &self.traffic.backend())?;
        let target = Target {
            nats: None,
            completed: COMPLETED,
            ..world.target(&child)
        };
        let node = target.saturate(load(&child)).await?;
        child.stop(PATIENCE)?;
        world.stop().await?;
        let world = World::start(&build).await?;
        let child = world.hub(&self.traffic.backend())?;
        let hub = world.target(&child).saturate(load(&child)).await?;
        child.stop(PATIENCE)?;
        world.stop().await?;
        for (name, came) in [("Node.js", &node), ("the hub", &hub)] {
            add(name, came, samples);
        }
        let share = samples.add(SHARE, hub.completed_per_s / node.completed_per_s, "");
        share.wants(Goal::AtLeast(1.8));
        Ok(())
    }
}

fn add(name: &str, came: &Saturated, samples: &mut Samples) {
    let at = |what: &str| format!("{what}, {CONNECTIONS} connections, {name}");
    samples.add(at("completed"), came.completed_per_s, "orders/s");
    samples.add(at("answered"), came.report.rate_per_s, "accepts/s");
    let p99 = came.report.latency.milliseconds(0.99);
    samples.add(at("answer p99"), p99, "ms");
    let cpu = came.of_child + came.of_nats + came.of_postgres;
    samples.add(at("CPU of all programs an order"), cpu, "µs");
    samples.add(at("resident memory, largest"), came.largest as f64 / MB, "MB");
}

fn start(folder: &Path, database_url: &str, backend: &str) -> Result<Child> {
    let mut command = Command::new("node");
    command.arg("server.mjs").current_dir(folder).envs([
        ("DATABASE_URL", database_url),
        ("BACKEND_URL", backend),
        ("CAREEM_WEBHOOK_SECRET", SECRET),
        ("NODE_ENV", "production"),
    ]);
    Child::start(command, PATIENCE, after_ready)
}

/// Puts the program and its pinned packages into [`INSTALLED`]; the error says what is missing on this machine.
fn install() -> Result<PathBuf> {
    let is_there = |program: &str| {
        let version = Command::new(program).arg("--version").stdout(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    };
    ensure!(is_there("node"), "no Node.js");
    // The bench is TARGET/PROFILE/deps/hub-….
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(3).context("the folder in which cargo builds")?;
    let folder = target.join(INSTALLED);
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let read = |path: PathBuf| std::fs::read(path).ok();
    let lock = |folder: &Path| read(folder.join("package-lock.json"));
    let is_installed = lock(&folder) == lock(Path::new(SOURCE)) && folder.join(INSTALLED_BY_NPM).exists();
    for file in FILES {
        std::fs::copy(Path::new(SOURCE).join(file), folder.join(file)).with_context(|| format!("copying {file}"))?;
    }
    if !is_installed {
        ensure!(is_there("npm"), "no npm, which Node.js brings along");
        let output = Command::new("npm")
            .args(["ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&folder)
            .output()?;
        let why = String::from_utf8_lossy(&output.stderr);
        let why = why.lines().next().unwrap_or("it did not say why");
        ensure!(output.status.success(), "npm ci failed: {why}");
    }
    Ok(folder)
}
