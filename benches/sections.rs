//! The sections: what is measured.

mod accept;
mod branches;
mod end_to_end;
mod floods;
mod grown;
mod limits;
mod long_log;
mod memory;
mod node;
mod parked;
mod postgres;
mod projection;
mod storage;
mod transform;

use anyhow::Result;
use clap::ValueEnum;
use webhook_hub::journal::streams;

use crate::{
    bare,
    process::{Child, after_ready},
    results::{Results, machine::Fingerprint, row::Samples, steady::Rounds, yardstick::Yardstick},
    saturate::{COMPLETED, DRAIN, count, wait},
    setup::{PATIENCE, SECRET, Servers, postgres},
    traffic::Traffic,
};

/// Connections that any machine keeps up with.
const FEW_CONNECTIONS: usize = 8;
/// Connections of the open loops; more than are ever busy at a time.
const STEADY_CONNECTIONS: usize = 64;
/// Connections that leave nothing idle.
const SATURATING_CONNECTIONS: usize = 256;

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Section {
    /// The intake alone beside the bare handler
    Accept,
    /// A webhook to the backend's body, on one core
    Transform,
    /// What rate limits cost
    Limits,
    /// Honest webhooks under attack
    Floods,
    /// From the provider's request to the completed row
    EndToEnd,
    /// The hub beside a plain design in Node.js
    Node,
    /// Bytes an order on the log and in the tables
    Storage,
    /// All tables from the log
    Projection,
    /// What orders that wait cost
    Parked,
    /// Many branches and providers
    Branches,
    /// Memory with a large log
    Memory,
    /// Five million rows and events behind; takes half an hour and 20 GB, so only where it is named
    Grown,
}

impl Section {
    /// Whether it notes by itself, for each of its rounds, that the CPU kept its speed.
    const fn is_in_rounds(self) -> bool {
        matches!(self, Self::Accept | Self::Floods)
    }
}

/// A running benchmark.
pub(crate) struct Bench {
    servers: Servers,
    results: Results,
    traffic: Traffic,
    /// How often each figure is taken.
    rounds: usize,
    /// How long the log of the projection is made.
    events: Option<u64>,
    /// The bare handler's rate at 256 connections, the limit of the end-to-end figure.
    bare_at_256: Option<f64>,
    /// The tables of the end-to-end figures.
    database_url: Option<String>,
}

impl Bench {
    /// Starts the servers. `results` makes an empty table for the folder that they write to.
    pub(crate) async fn start(
        traffic: Traffic,
        rounds: usize,
        events: Option<u64>,
        results: impl FnOnce(Fingerprint) -> Results,
    ) -> Result<Self> {
        let servers = Servers::start().await?;
        let fingerprint = Fingerprint::read(servers.folder(), traffic.duration.as_secs_f64());
        Ok(Self {
            servers,
            results: results(fingerprint),
            traffic,
            rounds,
            events,
            bare_at_256: None,
            database_url: None,
        })
    }

    /// What came of it so far.
    pub(crate) fn results(&self) -> &Results {
        &self.results
    }

    /// Measures the sections, in an order of its own, with a look at the CPU's speed before, between and after them.
    pub(crate) async fn run(&mut self, sections: &[Section]) -> Result<()> {
        let wanted =
            |section: &Section| sections.contains(section) || (sections.is_empty() && *section != Section::Grown);
        // The tables of (b) are what the projection makes again from the log.
        let is_due =
            |section: &Section| wanted(section) || (*section == Section::EndToEnd && wanted(&Section::Projection));
        let mut before = self.look().await?;
        for section in Section::value_variants().iter().filter(|section| is_due(section)) {
            let (rows, looks) = (self.results.rows.len(), self.results.yardsticks.len());
            self.section(*section).await?;
            let after = self.look().await?;
            if !section.is_in_rounds() {
                self.results.note_part(&[before, after]);
            }
            self.results.normalise(rows, looks);
            before = after;
        }
        Ok(())
    }

    /// The CPU's speed, once the servers are quiet.
    async fn look(&self) -> Result<Yardstick> {
        self.servers.settle().await?;
        Ok(Yardstick::take())
    }

    /// Measures rounds until enough count, see [`Rounds`].
    async fn in_steady_rounds(
        &mut self,
        part: &str,
        samples: &mut Samples,
        round: impl AsyncFn(&Self, &mut Samples) -> Result<()>,
    ) -> Result<()> {
        let mut rounds = Rounds::new(self.rounds, self.look().await?);
        while rounds.are_due() {
            let mut taken = Samples::new(samples.section());
            round(self, &mut taken).await?;
            if rounds.end(self.look().await?) {
                samples.take_in(taken);
            } else {
                left_out(part);
            }
        }
        self.results.note_rounds(part, rounds);
        Ok(())
    }

    async fn section(&mut self, section: Section) -> Result<()> {
        match section {
            Section::Accept => self.accept().await,
            Section::Transform => self.transform(),
            Section::Limits => self.limits().await,
            Section::Floods => self.floods().await,
            // With what it leaves on the disks.
            Section::EndToEnd => Box::pin(self.end_to_end()).await,
            Section::Node => Box::pin(self.node()).await,
            Section::Storage if self.database_url.is_some() => Ok(()),
            Section::Storage => Box::pin(self.storage_alone()).await,
            Section::Projection => Box::pin(self.projection()).await,
            Section::Parked => Box::pin(self.parked()).await,
            Section::Branches => Box::pin(self.branches()).await,
            Section::Memory => Box::pin(self.memory()).await,
            Section::Grown => Box::pin(self.grown()).await,
        }
    }

    fn bare(&self) -> Result<Child> {
        let (nats_url, login) = self.servers.unsynced();
        let settings = bare::Settings {
            nats_url,
            login: Some(login),
            secret: SECRET.into(),
        };
        Child::start(settings.command()?, PATIENCE, after_ready)
    }

    /// Notes the figures of a section.
    fn push(&mut self, samples: Samples) {
        self.results.rows.extend(samples.into_rows());
    }

    /// Waits until no accepted webhook is without its outcome.
    async fn wait_completed(&self, url: &str) -> Result<()> {
        let connection = self.servers.hub_connection().await?;
        let client = postgres(url).await?;
        wait(DRAIN, async || {
            let last = streams::last_sequence(&connection).await? as i64;
            let open = "SELECT NOT EXISTS (SELECT 1 FROM webhook_logs WHERE status <> 'completed')";
            Ok(position(&client).await? >= last && client.query_one(open, &[]).await?.try_get(0)?)
        })
        .await
    }
}

#[expect(clippy::print_stderr, reason = "progress for whoever waits")]
pub(crate) fn left_out(part: &str) {
    eprintln!("{part}: the CPU changed its speed, so this round is left out");
}

async fn position(client: &tokio_postgres::Client) -> Result<i64> {
    let row = client.query_opt("SELECT position FROM hub.cursors", &[]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or(0))
}

async fn completed(url: &str) -> Result<i64> {
    count(&postgres(url).await?, COMPLETED).await
}
