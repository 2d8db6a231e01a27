//! Explains in plain words why NATS cannot be reached: for each server, repeatedly in the log, and in health.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::Server;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use crate::fault_injection;

/// A connection that is away for less is not worth a line.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between the first two lines; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause between two lines.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The results of the latest attempts to connect. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempts(Arc<Mutex<Latest>>);

#[derive(Debug, Default)]
struct Latest {
    /// Each server with the client's last error, as far as the client keeps one.
    servers: Vec<(String, Option<String>)>,
    /// Of the last attempt at any server.
    kind: Option<String>,
}

impl Attempts {
    fn lock(&self) -> MutexGuard<'_, Latest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the client knows of its servers before it tries the next one.
    pub(super) fn note_servers(&self, servers: &[Server]) {
        let servers = servers
            .iter()
            .map(|server| (server.to_string(), server.last_error.clone()));
        self.lock().servers = servers.collect();
    }

    /// Notes the kind of the client's last error.
    pub(super) fn note_kind(&self, kind: String) {
        self.lock().kind = Some(kind);
    }

    /// Each server, and why it cannot be reached.
    pub(super) fn reasons(&self) -> String {
        let latest = self.lock();
        let reason = |(url, error): &(String, Option<String>)| {
            let error = error.as_deref().or(latest.kind.as_deref());
            format!(
                "{url}: {}",
                error.map_or_else(|| "no attempt has ended yet".to_owned(), plain)
            )
        };
        let reasons: Vec<_> = latest.servers.iter().map(reason).collect();
        reasons.join("; ")
    }
}

/// The client's error in plain words, with what to look at.
fn plain(error: &str) -> String {
    let lower = error.to_ascii_lowercase();
    let has = |part: &str| lower.contains(part);
    let words = if has("connection refused") {
        "nothing listens there (connection refused): is NATS running, is the port right?"
    } else if has("lookup address") || has("dns") {
        "its name cannot be resolved (DNS): is the host in NATS_URL right?"
    } else if has("authorization violation") || has("authentication") || has("nonce") {
        "NATS refuses the user: are NATS_USER and NATS_PASSWORD, or NATS_CREDS_FILE, right?"
    } else if has("certificate") {
        return format!("its certificate is not accepted, or it does not accept ours ({error}): is NATS_TLS_CA right?");
    } else if has("tls") || has("alert") || has("invalidcontenttype") {
        return format!("TLS fails ({error}): do both sides speak it?");
    } else if has("timed out") {
        "no answer in time: is the address right, does a firewall drop it, does the server stand still?"
    } else if has("too many open files") {
        "the hub has no file descriptor left: raise LimitNOFILE or ulimit -n"
    } else if has("expected info") {
        "the program that answers there is not a NATS server"
    } else if has("route to host") || has("network is unreachable") {
        "the network does not lead there"
    } else {
        error
    };
    words.to_owned()
}

/// Says in the log why there is no connection, while there is none: soon, then less and less often.
///
/// # Errors
/// None; as a task of the hub has it.
pub async fn tell(connection: Arc<Connection>, stop: CancellationToken) -> anyhow::Result<()> {
    let telling = async {
        loop {
            connection.wait_down().await;
            let mut pause = PATIENCE;
            let mut next = fault_injection::time("first_pause", FIRST_PAUSE);
            while tokio::time::timeout(pause, connection.wait_up()).await.is_err() {
                tracing::warn!(
                    servers = connection.unreachable(),
                    "NATS cannot be reached, connecting again: webhooks are not accepted meanwhile"
                );
                pause = next;
                next = (2 * next).min(LONGEST_PAUSE);
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = telling => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_its_reason() {
        let attempts = Attempts::default();
        assert_eq!(attempts.reasons(), "");
        attempts.lock().servers = vec![
            (
                "nats://one:4222".into(),
                Some("IO error: Connection refused (os error 111)".into()),
            ),
            ("nats://two:4222".into(), None),
        ];
        assert!(
            attempts
                .reasons()
                .ends_with("nats://two:4222: no attempt has ended yet")
        );
        attempts.note_kind("DNS error".into());
        let reasons = attempts.reasons();
        assert!(reasons.contains("nats://one:4222: nothing listens there"), "{reasons}");
        assert!(
            reasons.contains("nats://two:4222: its name cannot be resolved"),
            "{reasons}"
        );
        for (error, says) in [
            ("authorization violation: nats: authorization violation", "NATS_USER"),
            ("IO error: invalid peer certificate: UnknownIssuer", "NATS_TLS_CA"),
            ("TLS error: received fatal alert: HandshakeFailure", "TLS fails"),
            ("timed out", "firewall"),
            ("IO error: Too many open files (os error 24)", "LimitNOFILE"),
            ("something new", "something new"),
        ] {
            assert!(plain(error).contains(says), "{error}: {}", plain(error));
        }
    }
}
