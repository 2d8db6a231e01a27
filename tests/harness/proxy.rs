//! A wire that can be cut or stalled, between the hub and NATS, PostgreSQL or the backend.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::port::Port;

/// What goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// All.
    Whole,
    /// From the hub all, back to it nothing: what is sent arrives, its answer does not.
    NoAnswers,
    /// Nothing; connections stay open.
    Stalled,
    /// Connections end, new ones are refused.
    Cut,
}

/// The wire.
pub(crate) struct Proxy {
    port: Arc<Port>,
    wire: watch::Sender<Wire>,
}

impl Proxy {
    pub(crate) fn to(upstream: SocketAddr) -> Self {
        let proxy = Self {
            port: Arc::new(Port::reserve()),
            wire: watch::Sender::new(Wire::Whole),
        };
        let (port, wire) = (Arc::clone(&proxy.port), proxy.wire.subscribe());
        tokio::spawn(run(port, upstream, wire));
        proxy
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Ends every connection and refuses new ones.
    pub(crate) fn cut(&self) {
        self.wire.send_replace(Wire::Cut);
    }

    /// Keeps connections, lets nothing through, either way.
    pub(crate) fn stall(&self) {
        self.wire.send_replace(Wire::Stalled);
    }

    /// Lets through what the hub sends, and no answer to it.
    pub(crate) fn lose_answers(&self) {
        self.wire.send_replace(Wire::NoAnswers);
    }

    pub(crate) fn heal(&self) {
        self.wire.send_replace(Wire::Whole);
    }
}

/// Listens whenever the wire is not cut.
async fn run(port: Arc<Port>, upstream: SocketAddr, mut wire: watch::Receiver<Wire>) {
    while wire.wait_for(|wire| *wire != Wire::Cut).await.is_ok() {
        let listener = TcpListener::from_std(port.listen()).unwrap();
        let mut connections = JoinSet::new();
        let mut until_cut = wire.clone();
        let cut = until_cut.wait_for(|wire| *wire == Wire::Cut);
        tokio::pin!(cut);
        loop {
            tokio::select! {
                _ = &mut cut => break,
                accepted = listener.accept() => {
                    let Ok((hub, _)) = accepted else { continue };
                    connections.spawn(connect(hub, upstream, wire.clone()));
                }
            }
        }
    }
}

async fn connect(hub: TcpStream, upstream: SocketAddr, wire: watch::Receiver<Wire>) {
    // Where the server is away, the hub sees its connection end.
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    let _ = (hub.set_nodelay(true), server.set_nodelay(true));
    let (from_hub, to_hub) = hub.into_split();
    let (from_server, to_server) = server.into_split();
    let there = pump(from_hub, to_server, wire.clone(), |wire| {
        matches!(wire, Wire::Whole | Wire::NoAnswers)
    });
    let back = pump(from_server, to_hub, wire, |wire| wire == Wire::Whole);
    // When one direction ends, both do: neither protocol here knows half-closed connections.
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut wire: watch::Receiver<Wire>,
    passes: impl Fn(Wire) -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if wire.wait_for(|wire| passes(*wire)).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
