//! What is measured, section by section.

mod branches;
mod floods;
mod limits;
mod parked;
mod postgres;
mod storage;
mod transform;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use chrono::Utc;
use webhook_hub::{
    config::EventLog,
    event::{Envelope, EventType, NewEvent, Recorded},
    journal::{Journal, append::MAX_WAITING, streams},
};

use self::postgres::Taken;
use crate::{
    backend, bare,
    load::{Load, Pace, Report},
    plain_insert::plain_insert,
    process::{Child, after_ready, cpu_seconds, resident_bytes},
    report::{Goal, Results, Row, Times},
    setup::{MERCHANT, PATIENCE, SECRET, Servers, postgres},
};

/// Measured time of one run and the time before it.
const RUN: Duration = Duration::from_secs(6);
const WARM_UP: Duration = Duration::from_secs(2);
/// The bare handler and the hub take turns so often; the median counts.
const ROUNDS: usize = 3;
/// The rate of the latency figures.
const STEADY_PER_SECOND: f64 = 500.0;
/// Connections of the open loops; more than are ever busy at a time.
const STEADY_CONNECTIONS: usize = 64;
/// Connections that any machine keeps up with.
const FEW_CONNECTIONS: usize = 8;
/// Connections that leave nothing idle.
const SATURATING_CONNECTIONS: usize = 256;
/// Orders whose times are kept.
const ROOM: usize = 4_000_000;
/// Time for a backlog to be worked off.
const DRAIN: Duration = Duration::from_secs(240);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(100);
/// Events on the log for the memory figure.
const LARGE_LOG: u64 = 1_000_000;
const MB: f64 = 1_000_000.0;

/// A running benchmark.
pub(crate) struct Bench {
    servers: Servers,
    results: Results,
    next_order: Arc<AtomicU64>,
    /// The same, on the logs of the intake alone and of the bare handler, of which no order comes to the backend.
    next_apart: Arc<AtomicU64>,
    times: Arc<Times>,
    backend: SocketAddr,
    backend_is_away: Arc<AtomicBool>,
    /// The bare handler's rate at 256 connections, the limit of the end-to-end figure.
    bare_at_256: Option<f64>,
    database_url: Option<String>,
}

impl Bench {
    pub(crate) async fn start(results: Results) -> Result<Self> {
        let times = Arc::new(Times::new(1, ROOM));
        let backend_is_away = Arc::new(AtomicBool::new(false));
        let backend = backend::start(Arc::clone(&times), Arc::clone(&backend_is_away))?;
        let next_order = Arc::new(AtomicU64::new(1));
        Ok(Self {
            servers: Servers::start().await?,
            results,
            next_order,
            next_apart: Arc::new(AtomicU64::new(1)),
            times,
            backend,
            backend_is_away,
            bare_at_256: None,
            database_url: None,
        })
    }

    pub(crate) fn finish(self) -> Results {
        self.results
    }

    fn load(&self, port: u16, connections: usize, pace: Pace) -> Load {
        Load {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            path: "/api/webhooks/careem".into(),
            merchant: MERCHANT.into(),
            secret: SECRET.into(),
            connections,
            from: None,
            one_each: false,
            warm_up: WARM_UP,
            duration: RUN,
            pace,
            next_order: Arc::clone(&self.next_order),
            times: Some(Arc::clone(&self.times)),
        }
    }

    /// Load for the intake alone, or the bare handler.
    fn apart(&self, port: u16, connections: usize, pace: Pace) -> Load {
        Load {
            next_order: Arc::clone(&self.next_apart),
            times: None,
            ..self.load(port, connections, pace)
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

    /// (a) The intake alone beside the bare handler: no database, so the stages wait and take no CPU from it.
    pub(crate) async fn accept(&mut self) -> Result<()> {
        const SECTION: &str = "accept";
        // First, for the unsynced runs leave the disk with much to write.
        let child = self.servers.intake()?;
        let steady = good(self.apart(child.port(), STEADY_CONNECTIONS, steady()).run().await?)?;
        child.stop(PATIENCE)?;
        let row = |what: &str, share: f64| Row::number(SECTION, what, steady.latency.milliseconds(share), "ms");
        self.push(row("fsynced at 500/s, p50", 0.50).goal(Goal::AtMost(2.0)));
        self.push(row("fsynced at 500/s, p99", 0.99).goal(Goal::AtMost(10.0)));
        for (connections, goal) in [(64, None), (256, Some(0.60)), (1000, Some(0.85))] {
            let (mut bare_runs, mut hub_runs) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                let child = self.bare()?;
                bare_runs.push(good(self.apart(child.port(), connections, Pace::Closed).run().await?)?);
                child.stop(PATIENCE)?;
                let child = self.servers.intake()?;
                hub_runs.push(good(self.apart(child.port(), connections, Pace::Closed).run().await?)?);
                child.stop(PATIENCE)?;
            }
            let (bare, hub) = (median(bare_runs), median(hub_runs));
            if connections == 256 {
                self.bare_at_256 = Some(bare.rate_per_s);
            }
            let at = |what: &str| format!("{what}, {connections} connections");
            self.push(Row::number(
                SECTION,
                at("bare handler, no fsync"),
                bare.rate_per_s,
                "accepts/s",
            ));
            self.push(Row::number(SECTION, at("hub, fsynced"), hub.rate_per_s, "accepts/s"));
            self.push(Row::number(
                SECTION,
                at("hub p50"),
                hub.latency.milliseconds(0.50),
                "ms",
            ));
            self.push(Row::number(
                SECTION,
                at("hub p99"),
                hub.latency.milliseconds(0.99),
                "ms",
            ));
            let generator = hub.generator_cores.unwrap_or(f64::NAN);
            self.push(Row::number(SECTION, at("load generator"), generator, "cores"));
            let share = Row::number(
                SECTION,
                at("share of the bare handler"),
                hub.rate_per_s / bare.rate_per_s,
                "",
            );
            self.push(match goal {
                Some(goal) => share.goal(Goal::AtLeast(goal)),
                None => share,
            });
        }
        Ok(())
    }

    /// (b) Everything: from the provider's request to the backend and the completed row.
    pub(crate) async fn end_to_end(&mut self) -> Result<()> {
        const SECTION: &str = "end to end";
        if self.bare_at_256.is_none() {
            let child = self.bare()?;
            let bare = good(self.apart(child.port(), 256, Pace::Closed).run().await?)?;
            child.stop(PATIENCE)?;
            self.bare_at_256 = Some(bare.rate_per_s);
        }
        let url = self.servers.new_database("end_to_end").await?;
        let child = self.servers.hub(&url, &format!("http://{}", self.backend))?;
        let idle = resident_bytes(child.pid())?;
        let run = good(self.load(child.port(), STEADY_CONNECTIONS, steady()).run().await?)?;
        self.wait_completed(&url).await?;
        let fared = self.times.summary(run.orders.clone());
        ensure!(
            fared.accepted == run.accepted_200,
            "the times of {} of {} orders were noted: is ROOM too small?",
            fared.accepted,
            run.accepted_200
        );
        ensure!(
            fared.arrived == fared.accepted,
            "{} of {} orders did not arrive",
            fared.accepted - fared.arrived,
            fared.accepted
        );
        let row = |what: &str, share: f64| Row::number(SECTION, what, fared.from_sent.milliseconds(share), "ms");
        self.push(row("request due to order at the backend, 500/s, p50", 0.50).goal(Goal::AtMost(15.0)));
        self.push(row("request due to order at the backend, 500/s, p99", 0.99).goal(Goal::AtMost(60.0)));
        self.push(Row::number(
            SECTION,
            "resident memory, before the load",
            idle as f64 / MB,
            "MB",
        ));
        self.saturate(&child, &url).await?;
        self.storage(&url).await?;
        child.stop(PATIENCE)?;
        self.database_url = Some(url);
        Ok(())
    }

    /// As much as goes in, and the time until the last row of it is completed.
    async fn saturate(&mut self, child: &Child, url: &str) -> Result<()> {
        const SECTION: &str = "end to end";
        let before = completed(url).await?;
        let cpu_before = cpu_seconds(child.pid())?;
        let taken_before = Taken::so_far(&self.servers, url).await?;
        let largest = Arc::new(AtomicU64::new(0));
        let watching = Arc::new(AtomicBool::new(true));
        let watcher = tokio::spawn(watch(child.pid(), Arc::clone(&largest), Arc::clone(&watching)));
        let began = Instant::now();
        let run = good(
            self.load(child.port(), SATURATING_CONNECTIONS, Pace::Closed)
                .run()
                .await?,
        )?;
        self.wait_completed(url).await?;
        let took = began.elapsed().as_secs_f64();
        watching.store(false, Ordering::Relaxed);
        watcher.await??;
        let orders = completed(url).await? - before;
        ensure!(
            orders >= run.accepted_in_all as i64,
            "{orders} completed of {} accepted",
            run.accepted_in_all
        );
        let cpu_us = (cpu_seconds(child.pid())? - cpu_before) / orders as f64 * 1e6;
        let repeats = self.times.summary(run.orders.clone()).repeated;
        let rate = orders as f64 / took;
        let bare = self.bare_at_256.unwrap_or(f64::NAN);
        self.push(Row::number(
            SECTION,
            "bare handler at 256 connections",
            bare,
            "accepts/s",
        ));
        self.push(Row::number(SECTION, "accepted meanwhile", run.rate_per_s, "accepts/s"));
        self.push(Row::number(SECTION, "completed at saturation", rate, "orders/s"));
        self.push(Row::number(SECTION, "share of the bare handler", rate / bare, "").goal(Goal::AtLeast(0.25)));
        self.push(Row::number(
            SECTION,
            "orders that the backend got twice",
            repeats as f64,
            "",
        ));
        self.push(Row::number(SECTION, "CPU of the hub an order", cpu_us, "µs"));
        for row in Taken::so_far(&self.servers, url)
            .await?
            .rows_since(&taken_before, orders as f64)
        {
            self.push(row);
        }
        let memory = largest.load(Ordering::Relaxed) as f64 / MB;
        self.push(Row::number(SECTION, "resident memory under load, largest", memory, "MB").goal(Goal::AtMost(80.0)));
        Ok(())
    }

    /// (c) All tables from the log, beside a plain insert of the same rows.
    pub(crate) async fn projection(&mut self) -> Result<()> {
        const SECTION: &str = "projection";
        let Some(source) = self.database_url.clone() else {
            return Ok(());
        };
        let connection = self.servers.hub_connection().await?;
        let events = streams::last_sequence(&connection).await?;
        let (mut rebuilds, mut inserts) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let url = self.servers.new_database(&format!("rebuild_{round}")).await?;
            let client = postgres(&url).await?;
            let began = Instant::now();
            let child = self.servers.hub(&url, &format!("http://{}", self.backend))?;
            wait(DRAIN, async || Ok(position(&client).await? >= events as i64)).await?;
            rebuilds.push(began.elapsed().as_secs_f64());
            child.stop(PATIENCE)?;
            let plain = self.servers.new_database(&format!("plain_{round}")).await?;
            inserts.push(plain_insert(&source, &plain).await?);
        }
        let (rebuild, insert) = (middle(rebuilds), middle(inserts));
        self.push(Row::number(SECTION, "events on the log", events as f64, ""));
        self.push(Row::number(
            SECTION,
            "tables from an empty database",
            events as f64 / rebuild,
            "events/s",
        ));
        self.push(Row::number(
            SECTION,
            "the same rows by plain UNNEST inserts",
            insert,
            "s",
        ));
        self.push(Row::number(
            SECTION,
            "tables from an empty database, start of the hub included",
            rebuild,
            "s",
        ));
        self.push(Row::number(SECTION, "share of the plain insert", insert / rebuild, "").goal(Goal::AtLeast(0.7)));
        Ok(())
    }

    /// (d) Memory without load, and with a large log.
    pub(crate) async fn memory(&mut self) -> Result<()> {
        const SECTION: &str = "memory";
        let connection = Arc::new(self.servers.hub_connection().await?);
        let mut last = streams::last_sequence(&connection).await?;
        let (journal, writer) = Journal::open(connection, EventLog::default());
        let writing = tokio::spawn(writer.run());
        while last < LARGE_LOG {
            let appends = (0..(MAX_WAITING / 2).min((LARGE_LOG - last) as usize)).map(|_| journal.append(filler()));
            for appended in futures_util::future::join_all(appends).await {
                last = last.max(appended?.sequence);
            }
        }
        drop(journal);
        writing.await??;
        let url = self.servers.new_database("memory").await?;
        let client = postgres(&url).await?;
        let child = self.servers.hub(&url, &format!("http://{}", self.backend))?;
        let pid = child.pid();
        let mut largest = 0;
        wait(DRAIN, async || {
            largest = largest.max(resident_bytes(pid)?);
            Ok(position(&client).await? >= last as i64)
        })
        .await?;
        self.push(Row::number(SECTION, "events on the log", last as f64, ""));
        let catching_up = Row::number(
            SECTION,
            "resident while the tables catch up, largest",
            largest as f64 / MB,
            "MB",
        );
        self.push(catching_up.goal(Goal::AtMost(80.0)));
        let idle = Row::number(
            SECTION,
            "resident afterwards, idle",
            resident_bytes(pid)? as f64 / MB,
            "MB",
        );
        self.push(idle.goal(Goal::AtMost(80.0)));
        child.stop(PATIENCE)
    }

    /// Notes a figure, and shows it while the rest is being measured.
    #[expect(clippy::print_stderr, reason = "progress for whoever waits")]
    fn push(&mut self, row: Row) {
        eprintln!("{}: {} = {:.2} {}", row.section, row.what, row.measured, row.unit);
        self.results.push(row);
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

const fn steady() -> Pace {
    Pace::Open {
        per_second: STEADY_PER_SECOND,
    }
}

/// A run in which something failed measures nothing.
fn good(report: Report) -> Result<Report> {
    ensure!(
        report.errors == 0 && report.other_status.is_empty(),
        "a run failed: {report:?}"
    );
    Ok(report)
}

fn median(mut reports: Vec<Report>) -> Report {
    reports.sort_by(|a, b| a.rate_per_s.total_cmp(&b.rate_per_s));
    reports.swap_remove(reports.len() / 2)
}

fn middle(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

async fn wait(limit: Duration, mut done: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !done().await? {
        ensure!(Instant::now() < deadline, "not done within {limit:?}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn watch(pid: u32, largest: Arc<AtomicU64>, watching: Arc<AtomicBool>) -> Result<()> {
    while watching.load(Ordering::Relaxed) {
        largest.fetch_max(resident_bytes(pid)?, Ordering::Relaxed);
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn position(client: &tokio_postgres::Client) -> Result<i64> {
    let row = client.query_opt("SELECT position FROM hub.cursors", &[]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or(0))
}

async fn completed(url: &str) -> Result<i64> {
    let row = postgres(url)
        .await?
        .query_one("SELECT count(*) FROM webhook_logs WHERE status = 'completed'", &[])
        .await?;
    Ok(row.try_get(0)?)
}

/// An event that nothing follows from.
fn filler() -> NewEvent {
    let order = uuid::Uuid::new_v4().to_string();
    let envelope = Envelope {
        event_type: EventType::OrderIgnored,
        request: None,
        ..Recorded::sample("careem", &order, "order_created", order.as_bytes(), Utc::now()).envelope
    };
    NewEvent {
        envelope,
        payload: Bytes::from_static(br#"{"reason":"BENCH","message":"filler of the benchmark's log"}"#),
    }
}
