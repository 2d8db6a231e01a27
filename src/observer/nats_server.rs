//! Monitors NATS through its monitoring port (`NATS_MONITORING_URL`): whether it is healthy, and how much space its store has.
//!
//! Only `/healthz` names a stream that cannot write; `/jsz` has the stored bytes and their limit. NATS does not report how full
//! the disk is. If NATS runs on this machine, which a loopback address shows, the hub checks the disk itself.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, Method};
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::{
    config,
    http::{self, Client, Request, Target},
    journal::{EVENTS, Journal},
};

/// Interval between two requests to each server.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// Wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Most bytes of an answer; `/jsz` without options has one.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Most characters of what a server says of itself that are kept.
const MAX_REASON_CHARS: usize = 300;
/// A disk with less than one part in so many free is nearly full.
const NEARLY_FULL: u64 = 10;
/// How often that is said.
const WARN_EVERY: Duration = Duration::from_secs(3600);

/// The state of the servers, by host and port of their monitoring URL. Empty without monitoring.
#[derive(Debug, Default)]
pub struct Servers(Mutex<BTreeMap<String, MonitoredServer>>);

/// One server, as it was seen last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct MonitoredServer {
    /// Why it is not well; none if it is.
    trouble: Option<String>,
    stored: u64,
    limit: u64,
    disk: Option<Disk>,
    warned: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disk {
    free: u64,
    size: u64,
}

/// `/healthz`.
#[derive(Deserialize)]
struct Healthz {
    #[serde(default)]
    error: String,
}

/// `/jsz`, as far as it matters here.
#[derive(Deserialize)]
struct Jsz {
    #[serde(default)]
    storage: u64,
    #[serde(default)]
    config: Store,
}

#[derive(Deserialize, Default)]
struct Store {
    #[serde(default)]
    max_storage: u64,
    #[serde(default)]
    store_dir: String,
}

/// One server, as a single look finds it.
#[derive(Debug, Clone)]
pub struct ServerLook {
    /// Host and port of its monitoring URL.
    pub name: String,
    /// Why it is not well; none if it is.
    pub trouble: Option<String>,
    /// Why its disk will be full before it refuses to store more.
    pub short_of_room: Option<String>,
    /// Free bytes of its disk; none if that is on another machine.
    pub disk_free: Option<u64>,
}

/// Looks once at each server that `NATS_MONITORING_URL` names, for at most some seconds.
///
/// # Errors
/// If the client cannot be set up.
pub async fn look_at_servers(settings: &config::Nats) -> anyhow::Result<Vec<ServerLook>> {
    let client = client(settings)?;
    let seen = join_all(settings.monitoring.iter().map(|url| look(&client, url))).await;
    let of = |(url, seen): (&String, MonitoredServer)| ServerLook {
        name: name(url),
        short_of_room: seen.short_of_room(),
        disk_free: seen.disk.map(|disk| disk.free),
        trouble: seen.trouble,
    };
    Ok(settings.monitoring.iter().zip(seen).map(of).collect())
}

fn client(settings: &config::Nats) -> anyhow::Result<Client> {
    http::client(
        ANSWER_TIMEOUT,
        settings.monitoring.len().max(1),
        HeaderMap::new(),
        &settings.tls,
    )
}

impl Servers {
    /// Polls the servers; never returns. When the only one reports that it cannot write the log, the log's state is updated.
    ///
    /// # Errors
    /// If the client cannot be set up.
    pub(super) fn watch(
        &self,
        journal: &Journal,
        settings: &config::Nats,
    ) -> anyhow::Result<impl Future<Output = ()> + Send> {
        let client = client(settings)?;
        let (urls, acknowledging) = (settings.monitoring.clone(), journal.acknowledging().clone());
        Ok(async move {
            while !urls.is_empty() {
                let seen = join_all(urls.iter().map(|url| look(&client, url))).await;
                for (url, server) in urls.iter().zip(seen) {
                    if let (Some(trouble), [_]) = (&server.trouble, urls.as_slice())
                        && is_about_log(trouble)
                    {
                        acknowledging.server_cannot_write(trouble);
                    }
                    self.note(&name(url), server);
                }
                tokio::time::sleep(crate::fault_injection::time("ask_nats", ASK_EVERY)).await;
            }
            std::future::pending().await
        })
    }

    /// For health: all of them.
    pub fn all(&self) -> Value {
        let of = |(name, server): (&String, &MonitoredServer)| {
            json!({
                "server": name,
                "healthy": server.trouble.is_none(),
                "reason": server.trouble,
                "storeBytes": server.stored,
                "storeLimitBytes": server.limit,
                "diskFreeBytes": server.disk.map(|disk| disk.free),
            })
        };
        self.lock().iter().map(of).collect()
    }

    fn note(&self, name: &str, mut seen: MonitoredServer) {
        let mut servers = self.lock();
        let before = servers.entry(name.to_owned()).or_default();
        seen.warned = before.warned;
        if before.trouble != seen.trouble {
            match &seen.trouble {
                Some(reason) => tracing::warn!(server = name, reason, "NATS reports that it is unhealthy"),
                None => tracing::info!(server = name, "NATS is healthy again"),
            }
        }
        if let Some(reason) = seen.short_of_room()
            && seen.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY)
        {
            seen.warned = Some(Instant::now());
            tracing::warn!(
                server = name,
                reason,
                "the disk of NATS runs full; a full one stops the log until NATS is restarted"
            );
        }
        seen.show(name);
        *before = seen;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, MonitoredServer>> {
        // No code panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MonitoredServer {
    /// Why the disk will be full before NATS refuses to store more; none if it will not.
    fn short_of_room(&self) -> Option<String> {
        let disk = self.disk?;
        if disk.free < disk.size / NEARLY_FULL {
            return Some(format!("{} of {} bytes are free", disk.free, disk.size));
        }
        let left = self.limit.saturating_sub(self.stored);
        (left > disk.free).then(|| {
            format!(
                "max_file_store lets {left} bytes more be stored, and the disk has {} free: lower it, so that appends are refused \
                 before the disk is full",
                disk.free
            )
        })
    }

    fn show(&self, name: &str) {
        let label = || name.to_owned();
        metrics::gauge!("nats_healthy", "server" => label()).set(if self.trouble.is_none() { 1.0 } else { 0.0 });
        // Without a limit the server's store was never read.
        if self.limit > 0 {
            metrics::gauge!("nats_store_bytes", "server" => label()).set(self.stored as f64);
            metrics::gauge!("nats_store_limit_bytes", "server" => label()).set(self.limit as f64);
        }
        if let Some(disk) = self.disk {
            metrics::gauge!("nats_disk_free_bytes", "server" => label()).set(disk.free as f64);
            metrics::gauge!("nats_disk_size_bytes", "server" => label()).set(disk.size as f64);
        }
    }
}

async fn look(client: &Client, url: &str) -> MonitoredServer {
    let trouble = match get::<Healthz>(client, &format!("{url}/healthz")).await {
        Ok(health) if health.error.is_empty() => None,
        Ok(health) => Some(health.error.chars().take(MAX_REASON_CHARS).collect()),
        Err(reason) => Some(reason),
    };
    let Ok(jsz) = get::<Jsz>(client, &format!("{url}/jsz")).await else {
        return MonitoredServer {
            trouble,
            ..MonitoredServer::default()
        };
    };
    MonitoredServer {
        trouble,
        stored: jsz.storage,
        limit: jsz.config.max_storage,
        disk: if is_here(url) {
            disk_of(jsz.config.store_dir).await
        } else {
            None
        },
        warned: None,
    }
}

/// An answer, whatever its status is: `/healthz` says 503 with its reason.
async fn get<T: for<'a> Deserialize<'a>>(client: &Client, url: &str) -> Result<T, String> {
    let answer = client
        .ask(Request::new(Method::GET, Target::parse(url)), MAX_ANSWER_BYTES)
        .await;
    let answer = answer.map_err(|error| format!("no answer of its monitoring port: {error}"))?;
    serde_json::from_slice(&answer.body).map_err(|_| format!("its monitoring port answered with {}", answer.status))
}

/// Whether a server says that it cannot write the log itself, as NATS 2.14 and later words it.
fn is_about_log(trouble: &str) -> bool {
    trouble.contains("write error") && trouble.contains(&format!("> {EVENTS}'"))
}

/// Host and port, which distinguish servers.
fn name(url: &str) -> String {
    let host_and_port = url.split_once("://").map_or(url, |(_, rest)| rest);
    host_and_port.split('/').next().unwrap_or(host_and_port).to_owned()
}

/// Whether a URL leads to this machine.
fn is_here(url: &str) -> bool {
    let url = Url::parse(url).ok();
    url.as_ref().and_then(Url::host_str).is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

/// The disk that a folder is on; none if there is no such folder here, as in another container.
async fn disk_of(folder: String) -> Option<Disk> {
    // A network file system may block.
    let looked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(folder)).await;
    let found = looked.ok()?.ok()?;
    Some(Disk {
        free: found.f_bavail * found.f_frsize,
        size: found.f_blocks * found.f_frsize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_their_trouble_are_told_apart() {
        assert_eq!(name("http://nats-1:8222"), "nats-1:8222");
        for (url, here) in [
            ("http://127.0.0.1:8222", true),
            ("http://localhost:8222", true),
            ("https://[::1]:8222", true),
            ("http://nats:8222", false),
            ("http://10.0.0.7:8222", false),
        ] {
            assert_eq!(is_here(url), here, "{url}");
        }
        let of = |stream: &str| format!("JetStream stream '$G > {stream}' write error: no space left on device");
        assert!(is_about_log(&of("EVENTS")));
        assert!(!is_about_log(&of("REFUSALS")) && !is_about_log("JetStream is not current"));
    }

    #[test]
    fn a_disk_that_is_full_before_the_limit_is_told() {
        let server = |stored, limit, free, size| MonitoredServer {
            stored,
            limit,
            disk: Some(Disk { free, size }),
            ..MonitoredServer::default()
        };
        assert_eq!(server(10, 100, 500, 1000).short_of_room(), None);
        assert!(
            server(10, 100, 99, 1000).short_of_room().is_some(),
            "less than a tenth is free"
        );
        let reason = server(10, 700, 500, 1000).short_of_room().unwrap();
        assert!(reason.contains("max_file_store"), "{reason}");
        assert_eq!(MonitoredServer::default().short_of_room(), None);
    }

    #[tokio::test]
    async fn the_disk_of_a_folder_is_seen_and_none_of_a_missing_one() {
        let here = disk_of(env!("CARGO_MANIFEST_DIR").to_owned()).await.unwrap();
        assert!(here.size > 0 && here.free <= here.size);
        assert_eq!(disk_of("/no/such/folder".to_owned()).await, None);
    }
}
