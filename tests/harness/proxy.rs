//! A wire that can be cut or stalled, between the hub and NATS, PostgreSQL or the backend: now, or after so many bytes.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
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

impl Wire {
    fn passes(self, direction: Direction) -> bool {
        self == Self::Whole || self == Self::NoAnswers && direction == Direction::FromHub
    }
}

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    FromHub,
    ToHub,
}

/// How a wire fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Break {
    /// Connections end, new ones are refused.
    Cut,
    /// Nothing goes through any more, connections stay.
    Stall,
}

/// What breaks the wire after so many bytes.
struct Fuse {
    direction: Direction,
    bytes: usize,
    then: Wire,
}

/// The wire.
pub(crate) struct Proxy {
    port: Arc<Port>,
    shared: Arc<Shared>,
}

struct Shared {
    wire: watch::Sender<Wire>,
    fuse: Mutex<Option<Fuse>>,
}

impl Shared {
    /// How many of these bytes go through, and what the wire is after them, where it breaks.
    fn pass(&self, direction: Direction, bytes: usize) -> (usize, Option<Wire>) {
        let mut held = self.fuse.lock().unwrap();
        match held.as_mut() {
            Some(fuse) if fuse.direction == direction && fuse.bytes <= bytes => {
                let broken = (fuse.bytes, Some(fuse.then));
                *held = None;
                broken
            }
            Some(fuse) if fuse.direction == direction => {
                fuse.bytes -= bytes;
                (bytes, None)
            }
            _ => (bytes, None),
        }
    }
}

impl Proxy {
    pub(crate) fn to(upstream: SocketAddr) -> Self {
        let proxy = Self {
            port: Arc::new(Port::reserve()),
            shared: Arc::new(Shared {
                wire: watch::Sender::new(Wire::Whole),
                fuse: Mutex::default(),
            }),
        };
        tokio::spawn(run(Arc::clone(&proxy.port), upstream, Arc::clone(&proxy.shared)));
        proxy
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Ends every connection and refuses new ones.
    pub(crate) fn cut(&self) {
        self.shared.wire.send_replace(Wire::Cut);
    }

    /// Keeps connections, lets nothing through, either way.
    pub(crate) fn stall(&self) {
        self.shared.wire.send_replace(Wire::Stalled);
    }

    /// Lets through what the hub sends, and no answer to it.
    pub(crate) fn lose_answers(&self) {
        self.shared.wire.send_replace(Wire::NoAnswers);
    }

    pub(crate) fn heal(&self) {
        self.shared.wire.send_replace(Wire::Whole);
    }

    /// Breaks when so many bytes more have gone this way, on all connections together.
    pub(crate) fn break_after(&self, direction: Direction, bytes: usize, how: Break) {
        let then = match how {
            Break::Cut => Wire::Cut,
            Break::Stall => Wire::Stalled,
        };
        *self.shared.fuse.lock().unwrap() = Some(Fuse { direction, bytes, then });
    }

    /// Whether it is whole.
    pub(crate) fn is_whole(&self) -> bool {
        *self.shared.wire.borrow() == Wire::Whole
    }
}

/// Listens whenever the wire is not cut. For as long as the runtime lives: a test's.
async fn run(port: Arc<Port>, upstream: SocketAddr, shared: Arc<Shared>) {
    let mut wire = shared.wire.subscribe();
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
                    connections.spawn(connect(hub, upstream, Arc::clone(&shared)));
                }
            }
        }
    }
}

async fn connect(hub: TcpStream, upstream: SocketAddr, shared: Arc<Shared>) {
    // Where the server is away, the hub sees its connection end.
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    let _ = (hub.set_nodelay(true), server.set_nodelay(true));
    let (from_hub, to_hub) = hub.into_split();
    let (from_server, to_server) = server.into_split();
    // When one direction ends, both do: neither protocol here knows half-closed connections.
    tokio::select! {
        () = pump(from_hub, to_server, &shared, Direction::FromHub) => {}
        () = pump(from_server, to_hub, &shared, Direction::ToHub) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared, direction: Direction) {
    let mut wire = shared.wire.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            if wire.wait_for(|wire| wire.passes(direction)).await.is_err() {
                return;
            }
            let (passing, broken) = shared.pass(direction, rest.len());
            if to.write_all(&rest[..passing]).await.is_err() {
                return;
            }
            rest = &rest[passing..];
            if let Some(broken) = broken {
                shared.wire.send_replace(broken);
                if broken == Wire::Cut {
                    return;
                }
            }
        }
    }
}
