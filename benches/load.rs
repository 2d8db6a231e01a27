//! The load generator: signed Careem webhooks over keep-alive HTTP/1.1, every one a distinct order.
//!
//! It shares its cores with all it measures, so it does as little as it can for a request: one preformatted buffer a
//! connection into which the order's number and the signature are patched, one write, usually one read, one thread
//! for all connections. Its HTTP reader knows status line and `content-length` only, and says so when a server
//! answers otherwise. Starting servers, judging the figures and the backend that sees the orders arrive are left to
//! others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

pub(crate) mod wire;

use self::wire::{ANSWER_ROOM, Request, connect, read_answer};
use crate::process::thread_cpu;
use crate::times::{Micros, Times};

/// How long answers may still come after the measured time, before they count as never answered.
const DRAIN: Duration = Duration::from_secs(15);
/// Connections opened at once, and the pause after them. A connect that finds the server's queue full (128 by default)
/// is dropped silently and tried again by the kernel a whole second later.
const CONNECT_BURST: usize = 32;
const CONNECT_PAUSE: Duration = Duration::from_millis(2);
/// Pause after a broken connection, so that a server that is gone does not make the generator spin.
const RECONNECT_PAUSE: Duration = Duration::from_millis(10);
/// Shortest sleep of the open loop's clock. Tokio's timer steps by 1 ms, which would be as long as the latencies to be
/// measured; waking more often than this would cost more CPU than it adds in precision.
const PACE_STEP: Duration = Duration::from_micros(200);

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Each connection sends its next request as soon as it has its answer: finds the most a server can take.
    Closed,
    /// So many requests a second are due whatever the server does. Latency counts from the time at which a request was
    /// due, so that a stall shows in every request that it held up, not only in those that were already sent.
    Open {
        /// Requests due in a second.
        per_second: f64,
    },
}

/// Says from which address of this machine the next connection comes.
pub(crate) type Origin = Arc<dyn Fn() -> IpAddr + Send + Sync>;

/// One run of the generator.
#[derive(Clone)]
pub(crate) struct Load {
    /// Server's address.
    pub(crate) address: SocketAddr,
    /// Path to post to, such as `/api/webhooks/careem`.
    pub(crate) path: String,
    /// Value of `x-merchant-id`.
    pub(crate) merchant: String,
    /// Key of the signature.
    pub(crate) secret: String,
    /// Connections, all opened before the first request.
    pub(crate) connections: usize,
    /// From where they come; as the system likes, where nothing is said.
    pub(crate) from: Option<Origin>,
    /// Each request has a connection of its own, which counts as part of it.
    pub(crate) one_each: bool,
    /// Time before the measured time, under the same load.
    pub(crate) warm_up: Duration,
    /// Measured time.
    pub(crate) duration: Duration,
    /// When requests are sent.
    pub(crate) pace: Pace,
    /// The next order number; shared by all runs against one log, for a number used twice is a duplicate.
    pub(crate) next_order: Arc<AtomicU64>,
    /// Where each order's times are noted, if anyone wants them.
    pub(crate) times: Option<Arc<Times>>,
}

/// What came of one run. Unless said otherwise it speaks of the requests that were due in the measured time.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Requests due in the measured time, sent or not.
    pub(crate) sent: u64,
    /// Answered 200.
    pub(crate) accepted_200: u64,
    /// Answered otherwise, by status.
    pub(crate) other_status: BTreeMap<u16, u64>,
    /// Not answered: connection broken, answer not understood, or no answer by the end of the drain.
    pub(crate) errors: u64,
    /// The first error's text.
    pub(crate) first_error: Option<String>,
    /// 200s that *arrived* in the measured time, a second. A server that falls behind an open loop shows it here.
    pub(crate) rate_per_s: f64,
    /// Time from due to answered, whatever the status. A request never answered is in it with the time that
    /// it had waited when the run gave it up.
    pub(crate) latency: Micros,
    /// Order numbers of the requests due in the measured time.
    pub(crate) orders: Range<u64>,
    /// 200s of the whole run, warm-up included: what the log must hold.
    pub(crate) accepted_in_all: u64,
    /// CPU that the generator itself took in the measured time, as a share of one core; `None` where the kernel does
    /// not tell.
    pub(crate) generator_cores: Option<f64>,
}

impl Report {
    /// A run in which something failed measures nothing.
    pub(crate) fn good(self) -> Result<Self> {
        ensure!(
            self.errors == 0 && self.other_status.is_empty(),
            "a run failed: {self:?}"
        );
        Ok(self)
    }
}

impl Load {
    /// Runs on a thread of its own with a runtime of its own, so that nothing else delays its clock.
    pub(crate) async fn run(self) -> Result<Report> {
        let (done, result) = oneshot::channel();
        std::thread::Builder::new().name("load".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let report = runtime
                .map_err(anyhow::Error::from)
                .and_then(|runtime| runtime.block_on(self.generate()));
            // The receiver is only gone when the caller gave the run up.
            let _ = done.send(report);
        })?;
        result.await.context("the load generator's thread died")?
    }

    async fn connect(&self) -> Result<TcpStream> {
        connect(self.address, self.from.as_ref().map(|from| from())).await
    }

    /// One order on a connection of its own; its status.
    pub(crate) async fn post_one(self) -> Result<u16> {
        let order = self.next_order.fetch_add(1, Ordering::Relaxed);
        let mut stream = self.connect().await?;
        let mut request = Request::new(&self)?;
        stream.write_all(request.for_order(order)).await?;
        Ok(read_answer(&mut stream, &mut [0; ANSWER_ROOM]).await?.status)
    }

    async fn generate(self) -> Result<Report> {
        let request = Request::new(&self)?;
        let mut streams = Vec::with_capacity(self.connections);
        for number in 0..self.connections {
            if self.one_each {
                streams.push(None);
                continue;
            }
            let stream = self.connect().await;
            streams.push(Some(stream.with_context(|| {
                format!("connection {number} (is `ulimit -n` large enough?)")
            })?));
            if number % CONNECT_BURST == CONNECT_BURST - 1 {
                tokio::time::sleep(CONNECT_PAUSE).await;
            }
        }
        let from = Instant::now() + self.warm_up;
        let shared = Arc::new(Shared::new(self, from)?);
        let pacer = shared.schedule.is_some().then(|| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("load-clock".to_owned())
                .spawn(move || shared.keep_pace())
        });
        let mut workers = JoinSet::new();
        for stream in streams {
            workers.spawn(Worker::new(Arc::clone(&shared), request.clone(), stream).run());
        }
        tokio::time::sleep_until(shared.window.start.into()).await;
        let before = (thread_cpu(), Instant::now());
        tokio::time::sleep_until(shared.window.end.into()).await;
        let after = (thread_cpu(), Instant::now());
        while let Some(ended) = workers.join_next().await {
            ended.context("a connection's task died")?;
        }
        if let Some(pacer) = pacer {
            pacer?
                .join()
                .map_err(|_| anyhow::anyhow!("the open loop's clock died"))?;
        }
        let cores = before.0.zip(after.0).map(|(before_cpu, after_cpu)| {
            after_cpu.saturating_sub(before_cpu).as_secs_f64() / after.1.duration_since(before.1).as_secs_f64()
        });
        Ok(shared.report(cores))
    }
}

/// What all connections of a run share.
struct Shared {
    load: Load,
    window: Range<Instant>,
    gives_up_at: Instant,
    schedule: Option<Schedule>,
    stats: Mutex<Stats>,
}

/// The open loop's time table.
struct Schedule {
    start: Instant,
    interval: f64,
    total: u64,
    taken: AtomicU64,
    due: Semaphore,
}

impl Schedule {
    fn due_at(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(self.interval * number as f64)
    }
}

/// The counts of a run, while it runs: the report without its rates.
#[derive(Default)]
struct Stats {
    report: Report,
    arrived_in_window: u64,
}

impl Shared {
    fn new(load: Load, from: Instant) -> Result<Self> {
        let until = from + load.duration;
        let schedule = match load.pace {
            Pace::Closed => None,
            Pace::Open { per_second } => {
                ensure!(per_second > 0.0, "an open loop needs a rate above 0");
                Some(Schedule {
                    start: from - load.warm_up,
                    interval: 1.0 / per_second,
                    total: ((load.warm_up + load.duration).as_secs_f64() * per_second) as u64,
                    taken: AtomicU64::new(0),
                    due: Semaphore::new(0),
                })
            }
        };
        Ok(Self {
            load,
            window: from..until,
            gives_up_at: until + DRAIN,
            schedule,
            stats: Mutex::default(),
        })
    }

    /// Releases the open loop's requests as they fall due, then lets every connection see that none is left.
    fn keep_pace(&self) {
        let Some(schedule) = &self.schedule else { return };
        let mut released = 0;
        while released < schedule.total {
            let passed = schedule.start.elapsed().as_secs_f64() / schedule.interval;
            let due = (passed as u64 + 1).min(schedule.total);
            schedule.due.add_permits((due - released) as usize);
            released = due;
            let wait = schedule.due_at(due).saturating_duration_since(Instant::now());
            std::thread::sleep(wait.max(PACE_STEP));
        }
        schedule.due.add_permits(self.load.connections);
    }

    /// When the request that a free connection is to send next was due; waits for it. `None`: the run is over.
    async fn next_due(&self) -> Option<Instant> {
        let Some(schedule) = &self.schedule else {
            let now = Instant::now();
            return (now < self.window.end).then_some(now);
        };
        schedule.due.acquire().await.ok()?.forget();
        let number = schedule.taken.fetch_add(1, Ordering::Relaxed);
        (number < schedule.total).then(|| schedule.due_at(number))
    }

    fn stats(&self) -> MutexGuard<'_, Stats> {
        // Nothing in here can be left half done by a panic.
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what became of a request. `order` is `None` for one that was never sent.
    fn note(&self, order: Option<u64>, due: Instant, ended: Instant, outcome: Result<u16>) {
        let mut stats = self.stats();
        let accepted = u64::from(matches!(outcome, Ok(200)));
        stats.arrived_in_window += accepted * u64::from(self.window.contains(&ended));
        let report = &mut stats.report;
        report.accepted_in_all += accepted;
        if let (Err(error), None) = (&outcome, &report.first_error) {
            report.first_error = Some(format!("{error:#}"));
        }
        if !self.window.contains(&due) {
            return;
        }
        report.sent += 1;
        report.latency.record(ended.saturating_duration_since(due));
        match outcome {
            Ok(200) => report.accepted_200 += 1,
            Ok(status) => *report.other_status.entry(status).or_default() += 1,
            Err(_) => report.errors += 1,
        }
        if let Some(order) = order {
            let first = if report.orders.is_empty() {
                order
            } else {
                report.orders.start.min(order)
            };
            report.orders = first..report.orders.end.max(order + 1);
        }
    }

    fn report(&self, generator_cores: Option<f64>) -> Report {
        if let Some(schedule) = &self.schedule {
            for number in schedule.taken.load(Ordering::Relaxed)..schedule.total {
                let never = Err(anyhow::anyhow!("due, but no connection came free to send it"));
                self.note(None, schedule.due_at(number), self.gives_up_at, never);
            }
        }
        let Stats {
            report,
            arrived_in_window,
        } = std::mem::take(&mut *self.stats());
        Report {
            rate_per_s: arrived_in_window as f64 / self.load.duration.as_secs_f64(),
            generator_cores,
            ..report
        }
    }
}

/// One connection.
struct Worker {
    shared: Arc<Shared>,
    request: Request,
    stream: Option<TcpStream>,
    answer: Vec<u8>,
    /// Order and due time of the request that has no answer yet.
    in_flight: Option<(u64, Instant)>,
}

impl Worker {
    fn new(shared: Arc<Shared>, request: Request, stream: Option<TcpStream>) -> Self {
        Self {
            shared,
            request,
            stream,
            answer: vec![0; ANSWER_ROOM],
            in_flight: None,
        }
    }

    async fn run(mut self) {
        let gives_up_at = self.shared.gives_up_at;
        // One timer for the whole run: one a request would cost more than the request's own bookkeeping.
        let ended = tokio::time::timeout_at(gives_up_at.into(), self.work()).await;
        if ended.is_err()
            && let Some((order, due)) = self.in_flight
        {
            self.shared.note(
                Some(order),
                due,
                gives_up_at,
                Err(anyhow::anyhow!("no answer by the end of the run")),
            );
        }
    }

    async fn work(&mut self) {
        while let Some(due) = self.shared.next_due().await {
            let order = self.shared.load.next_order.fetch_add(1, Ordering::Relaxed);
            self.in_flight = Some((order, due));
            let outcome = self.exchange(order, due).await;
            let ended = Instant::now();
            let broken = outcome.is_err();
            if let (Some(times), Ok(200)) = (&self.shared.load.times, &outcome) {
                times.mark_accepted(order, ended);
            }
            self.shared.note(Some(order), due, ended, outcome);
            self.in_flight = None;
            if broken {
                self.stream = None;
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }

    /// Sends one order and returns the answer's status.
    async fn exchange(&mut self, order: u64, due: Instant) -> Result<u16> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            closed => closed.insert(self.shared.load.connect().await?),
        };
        let bytes = self.request.for_order(order);
        if let Some(times) = &self.shared.load.times {
            times.mark_sent(order, due);
        }
        stream.write_all(bytes).await.context("sending")?;
        let head = read_answer(stream, &mut self.answer).await?;
        if head.closes || self.shared.load.one_each {
            self.stream = None;
        }
        Ok(head.status)
    }
}
