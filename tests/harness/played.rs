//! What a played server is made of: a port that stays its own while it is down, and requests as they came.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use axum::{
    Router,
    body::Bytes,
    extract::Request,
    http::{HeaderMap, Method},
};
use axum_server::{
    Handle,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use serde_json::Value;

use super::{
    port::Port,
    wait::{PATIENCE, eventually},
};

/// Most bytes of a request that are taken.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) at: Instant,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Heard {
    /// None if the other side broke off.
    pub(crate) async fn of(request: Request) -> Option<Self> {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, MAX_BODY).await.ok()?;
        Some(Self {
            at: Instant::now(),
            method: parts.method,
            path: parts.uri.to_string(),
            headers: parts.headers,
            body,
        })
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Its body; `null` where that is no JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A server that plays what is behind it.
pub(crate) struct Played {
    name: &'static str,
    port: Port,
    router: Router,
    running: Mutex<Option<Handle<SocketAddr>>>,
    tls: Mutex<Option<Arc<rustls::ServerConfig>>>,
}

impl Played {
    /// It listens.
    pub(crate) fn start(name: &'static str, router: Router) -> Self {
        let played = Self {
            name,
            port: Port::reserve(),
            router,
            running: Mutex::default(),
            tls: Mutex::default(),
        };
        played.open();
        played
    }

    /// Speaks TLS from the next [`Self::open`] on; the URL is another one then.
    pub(crate) fn speaks_tls(&self, config: Arc<rustls::ServerConfig>) {
        *self.tls.lock().unwrap() = Some(config);
    }

    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.lock().unwrap().is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Listens again, on the same port, with all that it knows.
    pub(crate) fn open(&self) {
        let handle = Handle::new();
        let service = self.router.clone().into_make_service();
        let server = axum_server::from_tcp(self.port.listen())
            .unwrap()
            .handle(handle.clone());
        match self.tls.lock().unwrap().clone() {
            None => drop(tokio::spawn(server.serve(service))),
            Some(config) => {
                let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(config));
                tokio::spawn(server.acceptor(acceptor).serve(service));
            }
        }
        *self.running.lock().unwrap() = Some(handle);
    }

    /// Ends: connections are cut, new ones refused.
    pub(crate) async fn close(&self) {
        let handle = self.running.lock().unwrap().take().unwrap();
        handle.shutdown();
        let what = format!("{} refuses connections", self.name);
        eventually(&what, PATIENCE, async || {
            match tokio::net::TcpStream::connect(self.address()).await {
                Ok(_) => Err("it takes them"),
                Err(_) => Ok(()),
            }
        })
        .await;
    }
}

/// Waits until there was so much, and returns all of it.
pub(crate) async fn at_least<T>(what: &str, count: usize, so_far: impl Fn() -> Vec<T>) -> Vec<T> {
    eventually(&format!("{count} {what}"), PATIENCE, async || {
        let found = so_far();
        if found.len() >= count {
            Ok(found)
        } else {
            Err(found.len())
        }
    })
    .await
}
