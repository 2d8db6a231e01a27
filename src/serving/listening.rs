//! The listener of a port: it accepts no more connections than there are file descriptors for, those first that bring their opening (see
//! [`super::unplaced`]), holds each until there is something to serve (see [`super::waiting`]), and can leave new connections aside before
//! it closes.

use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::extract::connect_info::Connected;
use axum_server::{AddrListener, Address};
#[cfg(target_os = "linux")]
use socket2::{SockFilter, SockRef};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::coop::consume_budget,
};
use tokio_util::sync::CancellationToken;

use super::{
    connections::{ConnectionSlot, Connections},
    layer::{Layer, Layered},
    unplaced::Unplaced,
    waiting::{Connection, Opening, Waiting},
};

/// Connections that are accepted beyond those that a port may have, so that they can be closed, or take the place of others.
/// They are part of the descriptors that [`crate::hub::budget`] keeps for the process itself.
const BEYOND: usize = 16;
/// Most connections that are accepted and have no place yet. They are some of those that a port may have, so no more descriptors are in use
/// because of them.
const AHEAD: usize = 512;
/// Shortest pause between two lines in the log about a listener that waits.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The peer of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(SocketAddr);

impl Address for Peer {
    type Stream = Placed;
    type Listener = Listening;
}

impl Connected<Peer> for SocketAddr {
    fn connect_info(peer: Peer) -> Self {
        peer.0
    }
}

/// A listener that waits with accepting while too many connections are open; what comes meanwhile waits in the system's queue.
pub struct Listening {
    listener: tokio::net::TcpListener,
    /// The same, to accept without waiting.
    at_once: TcpListener,
    room: Arc<Semaphore>,
    unplaced: Mutex<Unplaced>,
    connections: Arc<Connections>,
    waiting: Waiting,
    reported_at: Mutex<Option<Instant>>,
}

impl Listening {
    /// For a port with these connections. `most`: how long a connection may take for its opening. Once `release` is cancelled, connections are
    /// served without waiting for it.
    ///
    /// # Errors
    /// If the runtime cannot take the listener.
    pub(super) fn new(
        listener: TcpListener,
        connections: Arc<Connections>,
        opening: Opening,
        most: Duration,
        release: CancellationToken,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let open = connections.most() + BEYOND;
        Ok(Self {
            at_once: listener.try_clone()?,
            listener: tokio::net::TcpListener::from_std(listener)?,
            room: Arc::new(Semaphore::new(open)),
            unplaced: Mutex::new(Unplaced::new(opening, AHEAD)),
            connections,
            waiting: Waiting::new(opening, most, release),
            reported_at: Mutex::default(),
        })
    }

    /// Gives the next connection its place; returns it if it can be served at once. Waits while there is none.
    async fn next(&self) -> io::Result<Option<Connection>> {
        let room = || Arc::clone(&self.room).try_acquire_owned().ok();
        let next = self.unplaced().next(&self.at_once, room);
        if let Some(next) = next {
            return Ok(self.place(TcpStream::from_std(next.stream)?, next.address, next.permit));
        }
        let permit = self.room().await?;
        let (stream, address) = self.listener.accept().await?;
        Ok(self.place(stream, address, permit))
    }

    fn place(&self, stream: TcpStream, address: SocketAddr, permit: OwnedSemaphorePermit) -> Option<Connection> {
        // A connection that gets no place was counted there.
        let place = self.connections.open(address.ip()).ok()?;
        let stream = Layered::new(Layered::new(stream, permit), place);
        self.waiting.hold((stream, address))
    }

    /// Room for one more, as soon as there is some.
    async fn room(&self) -> io::Result<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
            return Ok(permit);
        }
        metrics::counter!("accept_paused_total").increment(1);
        self.tell();
        // It fails only if the semaphore is closed, which never happens.
        Arc::clone(&self.room).acquire_owned().await.map_err(io::Error::other)
    }

    fn unplaced(&self) -> MutexGuard<'_, Unplaced> {
        // Taken by one task only.
        self.unplaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        let mut reported_at = self.reported_at.lock().unwrap_or_else(PoisonError::into_inner);
        if reported_at.is_none_or(|reported_at| reported_at.elapsed() >= TELL_EVERY) {
            *reported_at = Some(Instant::now());
            let connections = self.connections.most();
            tracing::warn!(
                connections,
                "all connections of a port are in use: new ones wait until others end"
            );
        }
    }
}

impl AddrListener<Placed, Peer> for Listening {
    async fn bind_to(_: Peer) -> io::Result<Self> {
        // Never called: the hub provides its own listener.
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn accept_stream(&self) -> io::Result<(Placed, Peer)> {
        loop {
            // In a flood there is always something to do.
            consume_budget().await;
            let connection = tokio::select! {
                biased;
                held = poll_fn(|context| self.waiting.poll_next(context)) => Some(held),
                placed = self.next() => placed?,
            };
            if let Some((stream, address)) = connection {
                return Ok((stream, Peer(address)));
            }
        }
    }

    fn get_local_addr(&self) -> io::Result<Peer> {
        self.listener.local_addr().map(Peer)
    }
}

/// Has the system drop requests for new connections and go on with those that have begun. A listener that just closes resets
/// the connections in its queue, and with them requests that were sent already. A client whose request for a connection is
/// dropped asks again after a second, and is refused then, before it has sent anything.
#[cfg(target_os = "linux")]
pub(super) fn leave_new_ones(listener: &TcpListener) {
    // A BPF program on the TCP header: if byte 13 has the flag SYN, drop the packet, else keep it.
    let filter = [
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x45, 0, 1, 0x02),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];
    if let Err(error) = SockRef::from(listener).attach_filter(&filter) {
        tracing::debug!(%error, "new connections cannot be left aside before the listener closes");
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn leave_new_ones(_: &TcpListener) {}

/// An accepted connection, which counts as long as it lives.
type Accepted = Layered<TcpStream, OwnedSemaphorePermit>;

impl Layer for OwnedSemaphorePermit {}

/// An accepted connection that has its place as long as it lives.
pub(super) type Placed = Layered<Accepted, ConnectionSlot>;

impl Layer for ConnectionSlot {
    fn before_read(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.poll_end(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{io::Write as _, net::TcpStream};

    use super::*;

    /// A connection that waits in the queue is served; one that comes later is neither taken nor refused.
    #[test]
    fn connections_that_have_begun_are_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _begun = TcpStream::connect(address).unwrap();
        leave_new_ones(&listener);
        let later = TcpStream::connect_timeout(&address, Duration::from_millis(200)).unwrap_err();
        assert_eq!(later.kind(), io::ErrorKind::TimedOut);
        assert!(listener.accept().is_ok());
    }

    #[tokio::test]
    async fn it_waits_while_too_many_are_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        caller.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let (connections, most) = (Connections::private(1), Duration::from_secs(60));
        let release = CancellationToken::new();
        let listening = Listening::new(listener, connections, Opening::Request, most, release).unwrap();
        let open: Vec<_> = (0..=BEYOND)
            .map(|_| Arc::clone(&listening.room).try_acquire_owned().unwrap())
            .collect();
        let one_more = tokio::time::timeout(Duration::from_millis(50), listening.accept_stream()).await;
        assert!(one_more.is_err(), "there is no room for it");
        drop(open);
        assert!(listening.accept_stream().await.is_ok());
    }
}
