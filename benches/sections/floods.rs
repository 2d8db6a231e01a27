//! Honest webhooks while strangers hold connections: how many are lost, and how long they take, beside the same without an attack.
//!
//! An attack is as many connections as it is let have, with one byte each, opened anew half a second after they were ended. Its
//! thread gives way to all others, for an attacker does not take the hub's processors. Honest webhooks come on a connection each: some
//! from one address, some from addresses that were never seen.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;

use super::Bench;
use crate::{
    load::{Load, Origin, Pace, Report, wire::connect},
    process::cpu_seconds,
    results::row::{Goal, Samples},
    setup::PATIENCE,
    traffic::WARM_UP,
};

/// Connections of an attack: more than the hub holds.
const FLOOD: usize = 4200;
/// Pause before a connection is opened anew.
const REOPEN: Duration = Duration::from_millis(500);
/// Time for an attack to take what it is let have.
const SETTLE: Duration = Duration::from_secs(2);
/// Measured time of one attack.
const RUN: Duration = Duration::from_secs(10);
/// Honest webhooks a second, from one address; and from addresses that are new, each from another one. A thousand of each in a run: of fewer,
/// p99 would be the slowest one or two.
const HONEST_PER_SECOND: f64 = 100.0;
const NEW_PER_SECOND: f64 = 100.0;
/// Honest webhooks on their way at a time.
const HONEST_CONNECTIONS: usize = 32;
/// Addresses of a crowd, and how many of them are known.
const CROWD: u16 = 1000;
const KNOWN: u16 = 100;
/// How many times slower than without an attack honest webhooks may be.
const SLOWER: f64 = 2.0;

const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const PROVIDER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// Who attacks.
#[derive(Clone, Copy)]
enum Attack {
    None,
    OneAddress,
    Crowd,
    /// Of the crowd some sent a verified webhook before, and so did the honest address.
    CrowdWithKnown,
}

impl Attack {
    const ALL: [Self; 4] = [Self::None, Self::OneAddress, Self::Crowd, Self::CrowdWithKnown];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "no attack",
            Self::OneAddress => "4,200 connections of one address",
            Self::Crowd => "4,200 connections of 1,000 addresses",
            Self::CrowdWithKnown => "4,200 connections of 1,000 addresses, 100 of them known",
        }
    }

    /// The address of each of its connections.
    fn addresses(self) -> Vec<IpAddr> {
        match self {
            Self::None => Vec::new(),
            Self::OneAddress => vec![ATTACKER; FLOOD],
            Self::Crowd | Self::CrowdWithKnown => (0..CROWD).map(of_crowd).cycle().take(FLOOD).collect(),
        }
    }
}

fn of_crowd(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 1, high, low))
}

/// What came of honest webhooks under one attack.
struct Fared {
    lost: u64,
    p50: f64,
    p99: f64,
    new_lost: u64,
    new_p99: f64,
    /// Connections that the attack opened in a second.
    opened_per_s: f64,
    /// Of the hub, in the whole run.
    cores: f64,
}

impl Fared {
    /// Adds the figures of one attack, and how they are to those without one in the same round.
    fn add(&self, attack: Attack, (alone_p99, alone_new_p99): &(f64, f64), samples: &mut Samples) {
        let at = |what: &str| format!("{what}, {}", attack.name());
        samples.add(at("honest p50"), self.p50, "ms");
        samples.add(at("honest p99"), self.p99, "ms");
        samples.add(at("p99 from new addresses"), self.new_p99, "ms");
        samples.add(at("connections of the attack"), self.opened_per_s, "/s");
        samples.add(at("CPU of the hub"), self.cores, "cores");
        if matches!(attack, Attack::None) {
            return;
        }
        let slower = samples.add(at("honest p99 to that without"), self.p99 / alone_p99, "");
        slower.wants(Goal::AtMost(SLOWER));
        let what = at("p99 from new addresses to that without");
        let slower = samples.add(what, self.new_p99 / alone_new_p99, "");
        slower.wants(Goal::AtMost(SLOWER));
    }
}

impl Bench {
    /// The intake under attacks, each in a process of its own, in turns.
    pub(crate) async fn floods(&mut self) -> Result<()> {
        let mut samples = Samples::new("floods");
        let lost = [const { Cell::new((0, 0)) }; Attack::ALL.len()];
        self.in_steady_rounds("floods", &mut samples, async |bench, round| {
            let mut alone = None;
            for (attack, lost) in Attack::ALL.into_iter().zip(&lost) {
                let fared = bench.flood(attack).await?;
                let (before, new_before) = lost.get();
                lost.set((before + fared.lost, new_before + fared.new_lost));
                fared.add(attack, alone.get_or_insert((fared.p99, fared.new_p99)), round);
            }
            Ok(())
        })
        .await?;
        // Of all rounds together, those that are left out included: the median would hide what one of them lost.
        for (attack, lost) in Attack::ALL.into_iter().zip(lost) {
            let (lost, new_lost) = lost.get();
            let at = |what: &str| format!("{what}, {}", attack.name());
            let lost = samples.add(at("honest webhooks lost, in all rounds"), lost as f64, "");
            lost.wants(Goal::AtMost(0.0));
            let lost = samples.add(at("lost from new addresses, in all rounds"), new_lost as f64, "");
            lost.wants(Goal::AtMost(0.0));
        }
        self.push(samples);
        Ok(())
    }

    async fn flood(&self, attack: Attack) -> Result<Fared> {
        let child = self.servers.intake()?;
        let honest = |from: Origin, per_second: f64| Load {
            duration: RUN,
            from: Some(from),
            one_each: true,
            ..self
                .traffic
                .apart(child.port(), HONEST_CONNECTIONS, Pace::Open { per_second })
        };
        if matches!(attack, Attack::CrowdWithKnown) {
            let known = (0..KNOWN).map(of_crowd).chain([PROVIDER]);
            for from in known {
                let status = honest(Arc::new(move || from), 1.0).post_one().await?;
                ensure!(status == 200, "{from} cannot make itself known: {status}");
            }
        }
        let flood = Flood::of(child.port(), attack.addresses())?;
        tokio::time::sleep(SETTLE).await;
        let (before, opened) = (cpu_seconds(child.pid())?, flood.opened());
        let next = AtomicU32::new(0);
        let new = move || {
            let [_, high, middle, low] = next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(127, 64 + high, middle, low))
        };
        let (of_provider, of_new) = tokio::join!(
            honest(Arc::new(|| PROVIDER), HONEST_PER_SECOND).run(),
            honest(Arc::new(new), NEW_PER_SECOND).run()
        );
        let (of_provider, of_new) = (of_provider?, of_new?);
        let seconds = (WARM_UP + RUN).as_secs_f64();
        let cores = (cpu_seconds(child.pid())? - before) / seconds;
        let opened_per_s = (flood.opened() - opened) as f64 / seconds;
        flood.end()?;
        child.stop(PATIENCE)?;
        Ok(Fared {
            lost: lost(&of_provider),
            p50: of_provider.latency.milliseconds(0.50),
            p99: of_provider.latency.milliseconds(0.99),
            new_lost: lost(&of_new),
            new_p99: of_new.latency.milliseconds(0.99),
            opened_per_s,
            cores,
        })
    }
}

/// Webhooks that were not accepted; shows why.
#[expect(clippy::print_stderr, reason = "for whoever waits")]
fn lost(report: &Report) -> u64 {
    let lost = report.errors + report.other_status.values().sum::<u64>();
    if lost > 0 {
        eprintln!(
            "{lost} of {} lost: {:?} {:?}",
            report.sent, report.other_status, report.first_error
        );
    }
    lost
}

/// An attack, on a thread of its own.
struct Flood {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Result<()>>,
}

impl Flood {
    fn of(port: u16, addresses: Vec<IpAddr>) -> Result<Self> {
        let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&opened));
        let hub = SocketAddr::from(([127, 0, 0, 1], port));
        let thread = std::thread::Builder::new()
            .name("flood".to_owned())
            .spawn(move || -> Result<()> {
                // Of this thread alone. Where it is not allowed, the attack takes more of the processors.
                let _ = rustix::process::nice(19);
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let mut tasks = JoinSet::new();
                    for from in addresses {
                        tasks.spawn(hold(hub, from, Arc::clone(&counted)));
                    }
                    while !told.load(Ordering::Relaxed) {
                        tokio::time::sleep(REOPEN / 10).await;
                    }
                    tasks.shutdown().await;
                });
                Ok(())
            });
        Ok(Self {
            stop,
            opened,
            thread: thread.context("starting the attack")?,
        })
    }

    fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the attack's thread died"))?
    }
}

/// Holds a connection for as long as the hub lets it, and opens the next one.
async fn hold(hub: SocketAddr, from: IpAddr, opened: Arc<AtomicU64>) {
    loop {
        if let Ok(stream) = connect(hub, Some(from)).await {
            opened.fetch_add(1, Ordering::Relaxed);
            let _ = stream.try_write(b"P");
            // Nothing is ever answered, so it is readable when the hub has ended it.
            let _ = stream.readable().await;
        }
        tokio::time::sleep(REOPEN).await;
    }
}
