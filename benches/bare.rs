//! The bare handler: the least that an HTTP server in front of JetStream can do, as the measure for the hub.
//!
//! It checks the HMAC, reads the order's id and publishes each webhook by itself, on the same server stack as the hub
//! and in a process of its own, so that it competes for the cores as the hub does. It knows one provider's signature,
//! commits no batches, keeps no rules and forwards nothing; whether the log is fsynced before its acknowledgement is
//! the NATS server's setting.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, stream};
use async_nats::{ConnectOptions, HeaderMap as Headers};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use sha2::Sha256;
use tokio::net::TcpSocket;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::load::wire::SIGNATURE_HEADER;
use crate::process::READY;

/// First argument with which the benchmark starts itself again as the bare handler.
pub(crate) const FIRST_ARGUMENT: &str = "bare-handler";
/// Stream it creates. It takes `webhooks.>`, so the hub's streams cannot be on the same NATS account.
pub(crate) const STREAM: &str = "BARE";
/// Connections that may wait to be taken. The standard library's 128 is less than the benchmark opens, and a connect
/// that finds the queue full takes a second longer.
const BACKLOG: u32 = 4096;
/// As the hub's stream has it.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(300);
/// As many subjects as the hub has partitions by default.
const PARTITIONS: u64 = 64;

const NATS_URL: &str = "BARE_NATS_URL";
const NATS_USER: &str = "BARE_NATS_USER";
const NATS_PASSWORD: &str = "BARE_NATS_PASSWORD";
const SECRET: &str = "BARE_SECRET";

/// What the bare handler needs to know.
#[derive(Clone)]
pub(crate) struct Settings {
    /// NATS server; one that does not fsync each message, if the hub's is to be compared with that.
    pub(crate) nats_url: String,
    /// User and password, where the server asks for them.
    pub(crate) login: Option<(String, String)>,
    /// Key of the signature.
    pub(crate) secret: String,
}

impl Settings {
    /// The command that starts this program again as the bare handler, see [`main_from_env`].
    pub(crate) fn command(&self) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("the path of this program")?);
        command
            .arg(FIRST_ARGUMENT)
            .env(NATS_URL, &self.nats_url)
            .env(SECRET, &self.secret);
        if let Some((user, password)) = &self.login {
            command.env(NATS_USER, user).env(NATS_PASSWORD, password);
        }
        Ok(command)
    }

    fn from_env() -> Result<Self> {
        let read = |name: &str| std::env::var(name).with_context(|| name.to_owned());
        let login = std::env::var(NATS_USER).ok().zip(std::env::var(NATS_PASSWORD).ok());
        Ok(Self {
            nats_url: read(NATS_URL)?,
            login,
            secret: read(SECRET)?,
        })
    }
}

/// The whole life of the child process: reads its settings from the environment, prints `ready PORT`, serves until
/// SIGTERM. Builds its own runtime.
#[expect(clippy::print_stdout, reason = "the line that the parent process waits for")]
pub(crate) fn main_from_env() -> Result<()> {
    let settings = Settings::from_env()?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut terminated = signal(SignalKind::terminate())?;
            let socket = TcpSocket::new_v4()?;
            socket
                .bind((Ipv4Addr::LOCALHOST, 0).into())
                .context("a port to listen on")?;
            let listener = socket.listen(BACKLOG)?.into_std()?;
            let port = listener.local_addr()?.port();
            let router = router(settings).await?;
            // Connections made from now on wait in the listener's queue until the server takes them.
            println!("{READY}{port}");
            tokio::select! {
                ended = serve(listener, router) => ended,
                _ = terminated.recv() => Ok(()),
            }
        })
}

struct Bare {
    log: jetstream::Context,
    mac: Hmac<Sha256>,
}

/// All that it reads of an order.
#[derive(Deserialize)]
struct Order {
    id: String,
}

async fn serve(listener: TcpListener, router: Router) -> Result<()> {
    let server = axum_server::from_tcp(listener)?.http1_only();
    server.serve(router.into_make_service()).await.context("serving HTTP")
}

async fn router(settings: Settings) -> Result<Router> {
    let mut options = ConnectOptions::new().name(FIRST_ARGUMENT);
    if let Some((user, password)) = settings.login {
        options = options.user_and_password(user, password);
    }
    let log = jetstream::new(
        options
            .connect(&settings.nats_url)
            .await
            .context("connecting to NATS")?,
    );
    let stream = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["webhooks.>".to_owned()],
        storage: stream::StorageType::File,
        num_replicas: 1,
        duplicate_window: DUPLICATE_WINDOW,
        ..stream::Config::default()
    };
    log.get_or_create_stream(stream)
        .await
        .with_context(|| format!("creating stream {STREAM}"))?;
    let mac = Hmac::new_from_slice(settings.secret.as_bytes()).context("the signature's key")?;
    Ok(Router::new()
        .route("/api/webhooks/{provider}", post(accept))
        .with_state(Arc::new(Bare { log, mac })))
}

async fn accept(
    State(bare): State<Arc<Bare>>,
    Path(provider): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, StatusCode> {
    let mut signature = [0; 32];
    let sent = headers.get(SIGNATURE_HEADER).ok_or(StatusCode::UNAUTHORIZED)?;
    hex::decode_to_slice(sent, &mut signature).map_err(|_| StatusCode::UNAUTHORIZED)?;
    let mut mac = bare.mac.clone();
    mac.update(&body);
    mac.verify_slice(&signature).map_err(|_| StatusCode::UNAUTHORIZED)?;
    let order: Order = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let event = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("{provider}/{}", order.id).as_bytes()).to_string();
    let subject = format!("webhooks.received.{provider}.p{:02}", partition(&order.id));
    let published = bare
        .log
        .publish_with_headers(subject, event_headers(&event, &provider, &order.id), body);
    let acknowledged = published.await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    acknowledged.await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let answer = format!(r#"{{"success":true,"message":"Webhook accepted","data":{{"eventId":"{event}"}}}}"#);
    Ok(([(header::CONTENT_TYPE, "application/json")], answer).into_response())
}

/// As many headers of about the same size as the hub gives an event.
fn event_headers(event: &str, provider: &str, order: &str) -> Headers {
    let millis = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    let mut headers = Headers::new();
    headers.insert(async_nats::header::NATS_MESSAGE_ID, event);
    headers.insert("ce-specversion", "1.0");
    headers.insert("ce-id", event);
    headers.insert("ce-source", format!("/api/webhooks/{provider}"));
    headers.insert("ce-type", "webhook.received");
    headers.insert("ce-subject", order);
    headers.insert("ce-time", millis.to_string());
    headers.insert("ce-rootid", event);
    headers.insert("content-type", "application/json");
    headers.insert("hub-method", "POST");
    headers
}

/// FNV-1a; any hash that spreads would do.
fn partition(order: &str) -> u64 {
    let hash = order.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash % PARTITIONS
}
