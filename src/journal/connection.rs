//! The connection to NATS, with least privilege, and its state.
//!
//! A lost connection is no error: the client reconnects without end, and everything that waits for it has limits of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use async_nats::{Client, ClientError, ConnectOptions, Event, ServerError, jetstream};
use secrecy::ExposeSecret;
use tokio::sync::watch;

use super::unreachable::Attempts;
use crate::{config, tls};

/// Prefix of reply subjects of the running hub: each user of nats.conf may listen to its own only, so no other user can read
/// another's replies.
pub const HUB_INBOX: &str = "_INBOX_hub";
/// Prefix of reply subjects of the user that provisions.
pub const PROVISION_INBOX: &str = "_INBOX";
/// Prefix of reply subjects of the user that makes backups.
pub const BACKUP_INBOX: &str = "_INBOX_backup";
/// Wait for one answer of the JetStream interface (stream and consumer look-ups).
const API_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait for the TCP and NATS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a command waits for NATS.
const REACH_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest pause between two attempts to connect: an order that waits for NATS waits no longer than this after it is back.
const MAX_RECONNECT_DELAY: Duration = Duration::from_millis(250);
/// Interval of pings to a silent server; two unanswered pings end the connection.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Commands that wait for the socket; publishing blocks beyond that.
const CLIENT_CAPACITY: usize = 4096;
/// Messages that one subscription holds before it counts as slow.
const SUBSCRIPTION_CAPACITY: usize = 8192;

/// A connection, its JetStream context and its state.
#[derive(Clone)]
pub struct Connection {
    /// Core NATS.
    pub client: Client,
    /// JetStream.
    pub context: jetstream::Context,
    up: watch::Receiver<bool>,
    /// How often it was made.
    times: Arc<AtomicU64>,
    missing_right: watch::Receiver<Option<String>>,
    attempts: Attempts,
    has_other_servers: bool,
}

impl Connection {
    /// Opens it. If NATS cannot be reached yet, this returns anyway, and the client keeps trying.
    ///
    /// # Errors
    /// If the settings themselves cannot work (a credentials file that is not there).
    pub async fn open(settings: &config::Nats, name: &str, inbox: &str) -> anyhow::Result<Self> {
        let (set_up, up) = watch::channel(false);
        let set_up = Arc::new(set_up);
        let times = Arc::new(AtomicU64::new(0));
        let made = Arc::clone(&times);
        let (set_missing_right, missing_right) = watch::channel(None);
        let set_missing_right = Arc::new(set_missing_right);
        let attempts = Attempts::default();
        let (before_attempts, failed_attempts) = (attempts.clone(), attempts.clone());
        let options = ConnectOptions::new()
            .name(name)
            .custom_inbox_prefix(inbox)
            .retry_on_initial_connect()
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(API_TIMEOUT))
            .ping_interval(PING_INTERVAL)
            .client_capacity(CLIENT_CAPACITY)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .reconnect_delay_callback(|attempts| {
                let delay = Duration::from_millis(25).saturating_mul(u32::try_from(attempts).unwrap_or(u32::MAX));
                delay.min(MAX_RECONNECT_DELAY)
            })
            // The client calls this before each attempt. Only its argument contains the reason of a failed attempt.
            .reconnect_to_server_callback(move |servers, _| {
                before_attempts.note_servers(&servers);
                std::future::ready(None)
            })
            .event_callback(move |event| {
                if let Event::ClientError(ClientError::Other(kind)) = &event {
                    failed_attempts.note_kind(kind.clone());
                }
                let (set_up, set_missing_right) = (Arc::clone(&set_up), Arc::clone(&set_missing_right));
                if matches!(event, Event::Connected) {
                    made.fetch_add(1, Ordering::SeqCst);
                }
                async move {
                    if let Some(right) = missing_right_of(&event) {
                        set_missing_right.send_replace(Some(right));
                    }
                    note(&event, &set_up);
                }
            });
        let options = with_identity(options, settings).await?;
        let client = options
            .connect(settings.urls.as_slice())
            .await
            .context("NATS_URL: cannot set up the connection")?;
        let context = jetstream::context::ContextBuilder::new()
            .timeout(API_TIMEOUT)
            .build(client.clone());
        Ok(Self {
            client,
            context,
            up,
            times,
            missing_right,
            attempts,
            has_other_servers: settings.urls.len() > 1,
        })
    }

    /// Whether the connection is up now.
    pub fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Why there is no connection, server by server; none while it is up.
    pub fn unreachable(&self) -> Option<String> {
        (!self.is_up()).then(|| self.attempts.reasons())
    }

    /// How often the connection was made: after a change of this number the server may have other data.
    pub fn times(&self) -> u64 {
        self.times.load(Ordering::SeqCst)
    }

    /// Changes whenever the connection comes or goes, also if it is back before anyone has looked.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.up.clone()
    }

    /// Waits until it is up.
    pub async fn wait_up(&self) {
        let mut up = self.up.clone();
        // It cannot fail: the client's callback holds the sender.
        let _ = up.wait_for(|up| *up).await;
    }

    /// Waits for a first connection, for commands that are of no use without.
    ///
    /// # Errors
    /// If there is none in time.
    pub async fn reach(&self) -> anyhow::Result<()> {
        tokio::time::timeout(REACH_TIMEOUT, self.wait_up()).await.map_err(|_| {
            anyhow::anyhow!(
                "NATS_URL: no connection within {} s: {}",
                REACH_TIMEOUT.as_secs(),
                self.attempts.reasons()
            )
        })
    }

    /// Leaves the server for another one, where `NATS_URL` names several.
    pub async fn try_another_server(&self) {
        if self.has_other_servers
            && let Err(error) = self.client.force_reconnect().await
        {
            tracing::debug!(%error, "cannot leave the server");
        }
    }

    /// Waits until the server refuses something because the user has no right to it, and says what: `publish to "…"`.
    /// To the caller it looks like a server that does not answer.
    pub async fn wait_right_missing(&self) -> String {
        let mut missing = self.missing_right.clone();
        let right = missing
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|right| right.clone());
        match right {
            Some(right) => right,
            // The client has ended, and with it every request that waits for an answer.
            None => std::future::pending().await,
        }
    }

    /// The same, of what is refused from now on.
    pub async fn next_right_missing(&self) -> String {
        let mut missing = self.missing_right.clone();
        missing.mark_unchanged();
        if missing.changed().await.is_err() {
            return std::future::pending().await;
        }
        missing.borrow_and_update().clone().unwrap_or_default()
    }

    /// Waits until it is lost.
    pub async fn wait_down(&self) {
        let mut up = self.up.clone();
        let _ = up.wait_for(|up| !*up).await;
    }
}

/// The options with the user, and with the files of TLS.
async fn with_identity(mut options: ConnectOptions, settings: &config::Nats) -> anyhow::Result<ConnectOptions> {
    if let Some(user) = &settings.user {
        let password = settings
            .password
            .as_ref()
            .map(|one| one.expose_secret().to_owned())
            .unwrap_or_default();
        options = options.user_and_password(user.clone(), password);
    }
    if let Some(file) = &settings.credentials_file {
        let shown = file.display();
        options = options
            .credentials_file(file)
            .await
            .with_context(|| format!("NATS_CREDS_FILE: cannot read {shown}"))?;
    }
    if settings.tls.is_set() {
        // The client reads the files at each connection, so they may be renewed. An unusable file would look like an
        // unreachable server, so it is checked here.
        tls::client(&settings.tls)?;
        options = options.require_tls(true);
    }
    if let Some(file) = &settings.tls.ca {
        options = options.add_root_certificates(file.clone());
    }
    if let Some(files) = &settings.tls.client {
        options = options.add_client_certificate(files.certificate.clone(), files.key.clone());
    }
    Ok(options)
}

/// The right that the user does not have, where a server says so.
fn missing_right_of(event: &Event) -> Option<String> {
    let Event::ServerError(ServerError::Other(reason)) = event else {
        return None;
    };
    let refused = reason.trim_matches('\'').strip_prefix("Permissions Violation for ")?;
    let right = match refused.split_once(' ')? {
        ("Publish", subject) => format!("publish {subject}"),
        ("Subscription", subject) => format!("subscribe {subject}"),
        _ => refused.to_owned(),
    };
    Some(right)
}

fn note(event: &Event, up: &watch::Sender<bool>) {
    match event {
        Event::Connected => {
            up.send_replace(true);
            tracing::info!("connected to NATS");
        }
        Event::Disconnected => {
            if up.send_replace(false) {
                tracing::warn!("lost the connection to NATS, connecting again");
            }
        }
        // The owner of the client closed it, so nothing was lost.
        Event::Closed => drop(up.send_replace(false)),
        // To the caller a refused permission looks like a time-out; only here can it be distinguished.
        Event::ServerError(error) => tracing::error!(%error, "NATS reported an error"),
        Event::SlowConsumer(subscription) => tracing::warn!(subscription, "a subscription fell behind"),
        Event::ClientError(error) => tracing::debug!(%error, "NATS client"),
        Event::LameDuckMode | Event::Draining => tracing::info!(%event, "NATS is shutting down (lame duck mode)"),
    }
}
