//! The listener of a port: it accepts no more connections than there are file descriptors for, gives each a place (see
//! [`super::placing`]), holds it until there is something to serve (see [`super::waiting`]), and can leave new connections aside before it
//! closes.

use std::{
    future::pending,
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
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
    task::{coop::consume_budget, yield_now},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use super::{
    connections::{ConnectionSlot, Connections},
    layer::{Layer, Layered},
    placing::Placing,
    waiting::{Connection, Opening, Waiting},
};

/// Connections that are accepted beyond those that a port may have, so that they can be closed, or take the place of others.
/// They are part of the descriptors that [`crate::hub::budget`] keeps for the process itself.
const BEYOND: usize = 16;
/// Most connections that are accepted and have no place yet; and no more than half of those that a port may have. They count as some of
/// these, so no more descriptors are in use because of them.
const AHEAD: usize = 2048;
/// How many connections get their places each [`PLACING_PAUSE`], which are 2,000 a second. A burst of those that say nothing is spread over
/// time, and a client that opens a new connection for each that ended has to wait for that. If more come than can be kept meanwhile, there
/// is no pause.
const PLACED_AT_A_TIME: usize = 2;
/// See [`PLACED_AT_A_TIME`].
const PLACING_PAUSE: Duration = Duration::from_millis(1);
/// How many are accepted before others get their places, and those that are held are looked at.
const ACCEPTED_AT_A_TIME: usize = 64;
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
    connections: Arc<Connections>,
    placing: Arc<Placing>,
    /// How many may be accepted and have no place yet.
    ahead: usize,
    waiting: Waiting,
    /// When the next ones get their places, unless there is no time for a pause.
    place_at: Mutex<Instant>,
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
        let placing = Arc::new(Placing::new(Arc::clone(&connections)));
        Ok(Self {
            at_once: listener.try_clone()?,
            listener: tokio::net::TcpListener::from_std(listener)?,
            room: Arc::new(Semaphore::new(open)),
            ahead: AHEAD.min(connections.most() / 2),
            connections,
            waiting: Waiting::new(opening, most, release, Arc::clone(&placing)),
            placing,
            place_at: Mutex::new(Instant::now()),
            reported_at: Mutex::default(),
        })
    }

    /// Accepts what waits in the system's queue, as far as there is room, up to one that can be served at once.
    fn accept_waiting(&self) -> io::Result<Option<Connection>> {
        let mut accepted = 0;
        while accepted < ACCEPTED_AT_A_TIME
            && self.placing.len() < self.ahead
            && let Ok(permit) = Arc::clone(&self.room).try_acquire_owned()
            // What went wrong is met again, and told, when there is nothing else to do.
            && let Ok((stream, address)) = self.at_once.accept()
        {
            accepted += 1;
            stream.set_nonblocking(true)?;
            let stream = Layered::new(TcpStream::from_std(stream)?, permit);
            if let Some(connection) = self.waiting.hold(stream, address) {
                return Ok(Some(connection));
            }
        }
        Ok(None)
    }

    /// Whether the connections that wait for their places can wait longer.
    fn has_time(&self) -> bool {
        self.placing.len() < self.ahead / 4 * 3 && self.room.available_permits() > self.ahead / 8
    }

    /// Gives the next ones their places, if it is time. Returns when it is time again.
    fn place_due(&self) -> Instant {
        let mut place_at = self.place_at.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.has_time() {
            self.placing.place_next();
        } else if !self.placing.is_empty() && *place_at <= Instant::now() {
            (0..PLACED_AT_A_TIME).for_each(|_| self.placing.place_next());
            *place_at = Instant::now() + PLACING_PAUSE;
        }
        *place_at
    }

    /// Waits for a connection that can be served, or for a new one, until the pause ends.
    async fn wait(&self, pause: impl Future<Output = ()>) -> io::Result<Option<Connection>> {
        tokio::select! {
            biased;
            held = self.waiting.next() => Ok(Some(held)),
            accepted = self.accept() => accepted,
            () = pause => Ok(None),
        }
    }

    /// Waits for a connection, and accepts it. Returns it if it can be served at once.
    async fn accept(&self) -> io::Result<Option<Connection>> {
        let permit = self.room().await?;
        let (stream, address) = self.listener.accept().await?;
        Ok(self.waiting.hold(Layered::new(stream, permit), address))
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
        // Those that were returned before are served meanwhile, and others of this processor's tasks have their turn.
        yield_now().await;
        loop {
            // Those that say nothing have their turn, and those that were held, however many others can be served at once.
            let place_at = self.place_due();
            if let Some((stream, address)) = self.waiting.next_now().await {
                return Ok((stream, Peer(address)));
            }
            let next = match self.accept_waiting()? {
                Some(connection) => Some(connection),
                None if self.placing.is_empty() => self.wait(pending()).await?,
                None if self.has_time() => self.wait(sleep_until(place_at.into())).await?,
                None => self.waiting.next_now().await,
            };
            if let Some((stream, address)) = next {
                return Ok((stream, Peer(address)));
            }
            consume_budget().await;
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
pub(super) type Accepted = Layered<TcpStream, OwnedSemaphorePermit>;

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

#[cfg(test)]
mod tests {
    use std::{io::Write as _, net::TcpStream};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    /// A connection that waits in the queue is served; one that comes later is neither taken nor refused.
    #[cfg(target_os = "linux")]
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

    /// A listener with room for 272 connections, of which 128 without a place.
    fn listening() -> (Listening, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, most) = (Connections::private(256), Duration::from_secs(60));
        let release = CancellationToken::new();
        let listening = Listening::new(listener, connections, Opening::Request, most, release);
        (listening.unwrap(), address)
    }

    fn clients(address: SocketAddr, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
        let client = |_| {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(bytes).unwrap();
            client
        };
        (0..count).map(client).collect()
    }

    async fn next(listening: &Listening) -> SocketAddr {
        let next = tokio::time::timeout(Duration::from_secs(60), listening.accept_stream()).await;
        next.unwrap().unwrap().1.0
    }

    #[tokio::test]
    async fn a_request_does_not_wait_behind_connections_that_say_nothing() {
        let (listening, address) = listening();
        let _burst = clients(address, 20, b"P");
        let honest = clients(address, 1, REQUEST);
        assert_eq!(next(&listening).await, honest[0].local_addr().unwrap());
        assert_eq!(listening.placing.len(), 20, "none of them has got its place before");
    }

    #[tokio::test]
    async fn a_request_that_comes_later_than_its_connection_does_not_wait_either() {
        let (listening, address) = listening();
        let _burst = clients(address, 20, b"P");
        let mut honest = clients(address, 1, b"");
        let _burst = clients(address, 20, b"P");
        let mut accepting = std::pin::pin!(listening.accept_stream());
        while listening.placing.is_empty() {
            assert!(futures_util::poll!(&mut accepting).is_pending());
        }
        assert!(listening.placing.len() > 20, "the honest one has no place yet");
        honest[0].write_all(REQUEST).unwrap();
        let (_, served) = accepting.await.unwrap();
        assert_eq!(served.0, honest[0].local_addr().unwrap());
        assert!(listening.placing.len() > 4, "the others wait for theirs");
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_does_not_wait_behind_requests() {
        let (listening, address) = listening();
        let _slow = clients(address, 1, b"");
        let _burst = clients(address, 20, REQUEST);
        next(&listening).await;
        assert_eq!(listening.placing.len(), 1);
        next(&listening).await;
        assert!(listening.placing.is_empty());
    }

    /// A client that sends its request after others have begun to send theirs.
    #[tokio::test]
    async fn a_held_connection_does_not_wait_until_no_other_request_comes() {
        let (listening, address) = listening();
        let mut slow = clients(address, 1, b"");
        let first = clients(address, 1, REQUEST);
        assert_eq!(next(&listening).await, first[0].local_addr().unwrap());
        let _burst = clients(address, 20, REQUEST);
        slow[0].write_all(REQUEST).unwrap();
        let served = [next(&listening).await, next(&listening).await];
        assert!(served.contains(&slow[0].local_addr().unwrap()), "{served:?}");
    }

    #[tokio::test]
    async fn few_are_accepted_before_they_have_their_places() {
        let (listening, address) = listening();
        let room = listening.room.available_permits();
        let (mut clients, mut accepted) = (Vec::new(), 0);
        while clients.len() < listening.ahead + 16 {
            clients.extend(self::clients(address, 16, b"P"));
            assert!(listening.accept_waiting().unwrap().is_none());
            accepted = room - listening.room.available_permits();
        }
        assert_eq!((accepted, listening.placing.len()), (listening.ahead, listening.ahead));
        assert!(!listening.has_time(), "the next ones wait for them");
    }

    #[tokio::test]
    async fn it_waits_while_too_many_are_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        caller.write_all(REQUEST).unwrap();
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
