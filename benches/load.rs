//! The load generator: signed Careem webhooks over keep-alive HTTP/1.1, every one a distinct order.
//!
//! It shares its cores with all it measures, so it does as little as it can for a request: one preformatted buffer a
//! connection into which the order's number and the signature are patched, one write, usually one read, one thread
//! for all connections. Its HTTP reader knows status line and `content-length` only, and says so when a server
//! answers otherwise. Starting servers, judging the figures and the backend that sees the orders arrive are left to
//! others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::process::thread_cpu;
use crate::report::{Micros, Times};

/// The header that carries the hex HMAC-SHA256 of the raw body.
pub(crate) const SIGNATURE_HEADER: &str = "x-careem-signature";
/// Digits of an order number after `CR`: fixed, so that the number can be patched into a finished request.
const ORDER_DIGITS: usize = 9;
/// Hex digits of an HMAC-SHA256.
const SIGNATURE_DIGITS: usize = 64;
/// Room for one answer. The hub's and the bare handler's take some hundred bytes; a longer one is an error.
const ANSWER_ROOM: usize = 4096;
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

/// A careem order; the number takes the place of `#########`.
const BODY: &str = concat!(
    r##"{"id":"CR#########","status":"created","order_number":"ORD-001","created_at":"2025-10-01T12:00:00Z","##,
    r#""customer":{"name":"Ahmed Ali","phone_number":"+962791234567","email":"ahmed@example.com","#,
    r#""address":{"street":"King Abdullah Street","area":"Abdoun","city":"Amman","#,
    r#""latitude":31.9539,"longitude":35.9106}},"items":[{"id":"item-001","name":"Chicken Burger","#,
    r#""name_ar":"برجر دجاج","quantity":2,"item_price":5.5,"total_price":11.0,"groups":[{"name":"Add-ons","#,
    r#""options":[{"id":"opt-001","name":"Extra Cheese","price":0.5,"quantity":1}]}]}],"#,
    r#""price":{"subtotal":11.0,"delivery_fee":2.0,"service_fee":1.0,"tax_amount":2.24,"total_taxable_price":16.24},"#,
    r#""delivery_type":"careem","merchant_pay_type":"cash"}"#,
);

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

    async fn generate(self) -> Result<Report> {
        let request = Request::new(&self)?;
        let mut streams = Vec::with_capacity(self.connections);
        for number in 0..self.connections {
            let stream = connect(self.address).await;
            streams.push(stream.with_context(|| format!("connection {number} (is `ulimit -n` large enough?)"))?);
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
    fn new(shared: Arc<Shared>, request: Request, stream: TcpStream) -> Self {
        Self {
            shared,
            request,
            stream: Some(stream),
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
            closed => closed.insert(connect(self.shared.load.address).await?),
        };
        let bytes = self.request.for_order(order);
        if let Some(times) = &self.shared.load.times {
            times.mark_sent(order, due);
        }
        stream.write_all(bytes).await.context("sending")?;
        let head = read_answer(stream, &mut self.answer).await?;
        if head.closes {
            self.stream = None;
        }
        Ok(head.status)
    }
}

/// A finished request with places to patch.
#[derive(Clone)]
struct Request {
    bytes: Vec<u8>,
    body: usize,
    digits: Range<usize>,
    signature: Range<usize>,
    /// Keyed once: cloning it saves two of the compressions of every signature.
    mac: Hmac<Sha256>,
}

impl Request {
    fn new(load: &Load) -> Result<Self> {
        let mac = Hmac::<Sha256>::new_from_slice(load.secret.as_bytes()).context("the signature's key")?;
        let (path, address, merchant) = (&load.path, load.address, &load.merchant);
        let start = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nuser-agent: load\r\n\
             x-merchant-id: {merchant}\r\ncontent-length: {}\r\n{SIGNATURE_HEADER}: ",
            BODY.len()
        );
        let head = format!("{start}{}\r\n\r\n", "0".repeat(SIGNATURE_DIGITS));
        let digits = head.len() + BODY.find('#').context("the body has no place for the order's number")?;
        Ok(Self {
            body: head.len(),
            digits: digits..digits + ORDER_DIGITS,
            signature: start.len()..start.len() + SIGNATURE_DIGITS,
            bytes: (head + BODY).into_bytes(),
            mac,
        })
    }

    fn for_order(&mut self, order: u64) -> &[u8] {
        let mut rest = order;
        for digit in self.bytes[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let mut mac = self.mac.clone();
        mac.update(&self.bytes[self.body..]);
        hex::encode_to_slice(mac.finalize().into_bytes(), &mut self.bytes[self.signature.clone()])
            .expect("the place for the signature is twice as long as an HMAC-SHA256");
        &self.bytes
    }
}

/// What the generator reads of an answer's head.
struct Head {
    status: u16,
    whole_length: usize,
    closes: bool,
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn read_answer(stream: &mut TcpStream, answer: &mut [u8]) -> Result<Head> {
    let mut filled = 0;
    let mut head = None;
    loop {
        let read = stream.read(&mut answer[filled..]).await.context("reading the answer")?;
        ensure!(read > 0, "the server closed the connection before its answer was whole");
        filled += read;
        if head.is_none() {
            head = parse_head(&answer[..filled])?;
        }
        match head {
            Some(head) if head.whole_length == filled => return Ok(head),
            Some(head) if head.whole_length < filled => bail!("more bytes came than the answer's content-length"),
            _ => ensure!(filled < answer.len(), "an answer of more than {ANSWER_ROOM} bytes"),
        }
    }
}

/// Reads status, `content-length` and `connection`; `None` while the head is not whole.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end]).context("the answer's head is not text")?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 "))
        .and_then(|line| line.get(..3));
    let status = status
        .and_then(|status| status.parse().ok())
        .context("the answer has no HTTP/1.1 status line")?;
    let (mut length, mut closes) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>().context("the answer's content-length")?);
        } else if name.eq_ignore_ascii_case("connection") {
            closes = value.trim().eq_ignore_ascii_case("close");
        }
    }
    let length = length.context("an answer without content-length: this reader understands no other")?;
    Ok(Some(Head {
        status,
        whole_length: end + 4 + length,
        closes,
    }))
}
