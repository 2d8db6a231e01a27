//! `replay --to`: sends the bodies of past webhooks, made by the current code and files, to another backend. Nothing is recorded.
//!
//! The other backend gets what the hub's own backend got, in the same order for each order: bodies that were not sent are left out. Its
//! requests carry another token, `X-Replay: true` and an `Idempotency-Key` of their own, so no backend can take them for the hub's.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinSet, time::MissedTickBehavior};
use url::Url;

use crate::{
    config::{self, ClientTls, Environment},
    event::{Envelope, EventId, outcome::ErrorReport},
    forward::{
        classify::{AnswerVerdict, RequestKind},
        client::BackendClient,
        identity::Posting,
    },
    journal::{codec::OrderKey, connection::Connection},
    operator::queries::replay::{Asked, BodyEnd, InOrder, Logged, Now, Pair, Range, Readings, now},
    projection::rebuild::{Progress, Tell},
};

/// Label of the keys of replayed requests (see [`EventId::derive`]).
const REPLAY: &str = "replay";
/// Requests that are under way at a time. The requests of one order follow each other.
const LANES: usize = 16;
/// Requests that wait for those of their lane.
const WAITING: usize = 4;
/// Time limit of one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for looking up the addresses of a host.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Another backend, which is not the hub's own.
pub struct OtherBackend(BackendClient);

impl OtherBackend {
    /// Checks that it is another one, and prepares the requests to it.
    ///
    /// # Errors
    /// If the URL or the token is unusable, or the hub's own; or if `BACKEND_URL` is not set, because then it cannot be known.
    pub async fn new(env: &Environment, url: &str, token: SecretString, ca: Option<PathBuf>) -> anyhow::Result<Self> {
        let own = env
            .text("BACKEND_URL")?
            .context("BACKEND_URL: missing; it names the hub's own backend, to which this must never send")?;
        let parse = |text: &str| {
            Url::parse(text)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https"))
        };
        let parsed =
            parse(url).filter(|url| url.username().is_empty() && url.query().is_none() && url.fragment().is_none());
        let other = parsed.with_context(|| format!("--to {url}: expected an http or https URL without credentials"))?;
        let own = parse(&own).context("BACKEND_URL: expected a URL such as http://localhost:3001")?;
        ensure!(
            host(&own) != host(&other),
            "--to {url}: this is the host of BACKEND_URL, to which nothing is replayed; see `replay --forward`"
        );
        let (own, others) = (addresses(&own).await, addresses(&other).await);
        ensure!(
            !others.iter().any(|address| own.contains(address)),
            "--to {url}: this is another name of BACKEND_URL, to which nothing is replayed; see `replay --forward`"
        );
        let of_hub = env.secrets("SERVICE_TOKEN")?;
        let is_of_hub = of_hub.iter().any(|one| one.expose_secret() == token.expose_secret());
        ensure!(
            !is_of_hub,
            "--token-file: this is the hub's SERVICE_TOKEN; another backend needs another token"
        );
        let settings = config::Backend {
            url: url.trim_end_matches('/').to_owned(),
            service_tokens: vec![token],
            timeout: TIMEOUT,
            max_requests: LANES,
            tls: ClientTls {
                ca,
                ..ClientTls::of_machine("--tls")
            },
        };
        Ok(Self(BackendClient::replaying(&settings)?))
    }
}

fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    host.trim_end_matches('.').to_owned()
}

/// The addresses of a URL, in the form in which they are compared; none if its host is not known here.
async fn addresses(url: &Url) -> Vec<SocketAddr> {
    let place = (
        host(url).trim_matches(['[', ']']).to_owned(),
        url.port_or_known_default().unwrap_or(80),
    );
    let found = tokio::time::timeout(LOOK_UP_TIMEOUT, tokio::net::lookup_host(place)).await;
    let found = found.into_iter().flatten().flatten();
    found
        .map(|found| (canonical(found.ip()), found.port()).into())
        .collect()
}

/// One form for one machine: IPv4 in IPv6 is IPv4, and each address of this machine is the loopback.
fn canonical(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    // The unspecified address reaches this machine. Only an address of this machine can be bound.
    let is_here = address.is_loopback() || address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok();
    match is_here {
        true => IpAddr::V4(Ipv4Addr::LOCALHOST),
        false => address,
    }
}

/// How it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Requests a second.
    pub rate: u32,
    /// It stops after so many requests that failed without a fault of the order.
    pub stop_after: u64,
    /// Only counts what would be sent.
    pub is_dry_run: bool,
}

/// What was sent.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// Nothing was sent, only counted.
    pub dry_run: bool,
    /// The first sequence of the range, and the last.
    pub first_sequence: u64,
    /// See `first_sequence`.
    pub last_sequence: u64,
    /// Requests: new orders, changes of status, amendments.
    pub new_orders: u64,
    /// See `new_orders`.
    pub status_changes: u64,
    /// See `new_orders`.
    pub amendments: u64,
    /// Answers by class: `success`, `validation`, `unknown_order`, `temporary`, `configuration`, `unknown`.
    pub answers: BTreeMap<&'static str, u64>,
    /// Bodies that the hub's own backend did not get either: it had them, or something newer.
    pub not_sent_then: u64,
    /// Later announcements of an order, which were sent as changes of it.
    pub sent_as_news: u64,
    /// Webhooks of which the current code and files make no body.
    pub without_body: u64,
    /// Events of the range without an end on the log, rejected ones included.
    pub waiting: u64,
    /// It stopped early, because too many requests failed.
    pub stopped: bool,
}

impl Sent {
    /// How many requests were made, or would be.
    pub const fn requests(&self) -> u64 {
        self.new_orders + self.status_changes + self.amendments
    }

    fn count(&mut self, request: RequestKind) {
        match request {
            RequestKind::NewOrder => self.new_orders += 1,
            RequestKind::StatusChange => self.status_changes += 1,
            RequestKind::Amendment => self.amendments += 1,
        }
    }
}

/// A request to make.
struct Request {
    envelope: Envelope,
    posting: Posting,
}

/// What the lanes share.
struct Sending {
    backend: OtherBackend,
    answers: Mutex<BTreeMap<&'static str, u64>>,
    failed: Mutex<u64>,
    stop_after: u64,
    has_stopped: AtomicBool,
}

/// Sends the bodies of a range.
///
/// # Errors
/// If NATS does not answer, or the settings of a provider are incomplete.
pub async fn send(
    log: &Connection,
    readings: &Readings,
    asked: Asked,
    backend: OtherBackend,
    pace: Pace,
    tell: Tell<'_>,
) -> anyhow::Result<Sent> {
    let range = Range::of(log, asked).await?;
    let sending = Arc::new(Sending {
        backend,
        answers: Mutex::default(),
        failed: Mutex::new(0),
        stop_after: pace.stop_after,
        has_stopped: AtomicBool::new(false),
    });
    let (mut lanes, mut senders) = (JoinSet::new(), Vec::new());
    for _ in 0..LANES {
        let (sender, requests) = mpsc::channel(WAITING);
        lanes.spawn(Arc::clone(&sending).lane(requests));
        senders.push(sender);
    }
    let mut sent = Sent {
        dry_run: pace.is_dry_run,
        first_sequence: range.first,
        last_sequence: range.last,
        ..Sent::default()
    };
    let mut tick = tokio::time::interval(Duration::from_secs(1) / pace.rate.max(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut bodies = InOrder::of(log, &range);
    'all: while let Some(ended) = bodies.next().await? {
        for ended in ended {
            let Some(request) = request(readings, &ended.pair, ended.end, &mut sent)? else {
                continue;
            };
            if pace.is_dry_run {
                sent.count(request.posting.request);
                continue;
            }
            tick.tick().await;
            if sending.has_stopped.load(Ordering::Relaxed) {
                break 'all;
            }
            sent.count(request.posting.request);
            let lane = lane_of(&request.envelope);
            // A lane ends only after its sender.
            senders[lane]
                .send(request)
                .await
                .ok()
                .context("a lane of the replay broke off")?;
        }
        tell(Progress {
            phase: "replaying",
            done: (bodies.position + 1).saturating_sub(range.first),
            of: (range.last + 1).saturating_sub(range.first),
        });
    }
    drop(senders);
    while let Some(ended) = lanes.join_next().await {
        ended.context("a lane of the replay broke off")?;
    }
    sent.waiting = bodies.open() as u64;
    sent.stopped = sending.has_stopped.load(Ordering::Relaxed);
    sent.answers = std::mem::take(&mut *lock(&sending.answers));
    Ok(sent)
}

/// The request that is made of a body; none if none is.
fn request(readings: &Readings, pair: &Pair, end: BodyEnd, sent: &mut Sent) -> anyhow::Result<Option<Request>> {
    match end {
        BodyEnd::Forwarded | BodyEnd::GivenUp => {}
        BodyEnd::AsNews => {
            sent.sent_as_news += 1;
            return Ok(None);
        }
        BodyEnd::Ignored => {
            sent.not_sent_then += 1;
            return Ok(None);
        }
    }
    let Now::Body(made) = now(readings, pair, &Logged::of(&pair.logged))? else {
        sent.without_body += 1;
        return Ok(None);
    };
    let envelope = made.envelope;
    let kind = if envelope.is_creation() {
        RequestKind::NewOrder
    } else if envelope.is_amendment() {
        RequestKind::Amendment
    } else {
        RequestKind::StatusChange
    };
    Ok(Some(Request {
        posting: Posting {
            request: kind,
            key: EventId(pair.logged.envelope.request_key()).derive(REPLAY).0,
            body: Bytes::from(made.posted.body),
        },
        envelope,
    }))
}

fn lane_of(envelope: &Envelope) -> usize {
    let mut hasher = DefaultHasher::new();
    OrderKey::new(&envelope.provider, &envelope.external_order_id).hash(&mut hasher);
    (hasher.finish() % LANES as u64) as usize
}

impl Sending {
    /// Makes the requests of a lane, one after another.
    async fn lane(self: Arc<Self>, mut requests: mpsc::Receiver<Request>) {
        while let Some(request) = requests.recv().await {
            if !self.has_stopped.load(Ordering::Relaxed) {
                let verdict = self.ask(&request).await;
                self.note(&verdict);
            }
        }
    }

    async fn ask(&self, request: &Request) -> AnswerVerdict {
        let (client, Request { envelope, posting }) = (&self.backend.0, request);
        match client.post(posting.request, envelope) {
            Ok(post) => client.forward(post, envelope, posting).await,
            Err(why) => AnswerVerdict::Invalid(ErrorReport::of_order_id(why)),
        }
    }

    fn note(&self, verdict: &AnswerVerdict) {
        *lock(&self.answers).entry(verdict.label()).or_default() += 1;
        let is_failure = matches!(
            verdict,
            AnswerVerdict::Temporary { .. } | AnswerVerdict::Misconfigured(_) | AnswerVerdict::Doubtful(_)
        );
        if is_failure {
            let mut failed = lock(&self.failed);
            *failed += 1;
            if *failed >= self.stop_after {
                self.has_stopped.store(true, Ordering::Relaxed);
            }
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
