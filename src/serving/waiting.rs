//! Holds new connections until there is something to serve: a whole request head, or the client's hello where the port speaks TLS.
//!
//! To accept a connection, hold it and end it takes about 24 µs of CPU; with HTTP set up for it, it took some 40. So connections that say
//! nothing, or a byte, and give their places to the next ones of their address, take less from the others. The bytes that came are looked at
//! and left in the socket, so the server reads them from the beginning and answers what is wrong with them.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use rustix::net::{RecvFlags, recv};
use tokio::{io::Interest, net::TcpStream};
use tokio_util::sync::CancellationToken;

use super::{
    connections::ConnectionSlot,
    layer::Layered,
    listening::{Accepted, Placed},
    paths::MAX_HEADERS,
    placing::Placing,
    strict::Scanner,
};

/// Bytes of a connection that are looked at. A longer head is left to the server as soon as so much of it is there.
const LOOKED_AT: usize = 4096;
/// The type of the TLS record with the client's hello: its first byte, before two of the version and two of the length.
const HANDSHAKE: u8 = 22;

/// What the first bytes of a connection have to be before it is served.
#[derive(Debug, Clone, Copy)]
pub(super) enum Opening {
    /// A request's head.
    Request,
    /// The record with a client's hello.
    TlsHello,
}

/// What is there of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// A part, or nothing.
    Partly,
    /// A request's head, to its end.
    Request,
    /// A hello, or what the server has to refuse, or too much to look at.
    Other,
}

impl Opening {
    /// What these first bytes of a connection are.
    fn came(self, bytes: &mut [u8]) -> Came {
        let is_partly = match self {
            Self::Request => {
                let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
                match httparse::Request::new(&mut headers).parse(bytes) {
                    Ok(httparse::Status::Complete(_)) => return Came::Request,
                    Ok(httparse::Status::Partial) => !Scanner::refuses(bytes),
                    Err(_) => false,
                }
            }
            Self::TlsHello => match &*bytes {
                [HANDSHAKE, _, _, high, low, record @ ..] => {
                    record.len() < usize::from(u16::from_be_bytes([*high, *low]))
                }
                [HANDSHAKE, ..] | [] => true,
                _ => false,
            },
        };
        if is_partly && bytes.len() < LOOKED_AT {
            Came::Partly
        } else {
            Came::Other
        }
    }

    /// What has come of a connection so far. `WouldBlock`: too little.
    fn look(self, stream: &TcpStream) -> io::Result<Came> {
        let mut bytes = [0; LOOKED_AT];
        let (length, _) = recv(stream, &mut bytes, RecvFlags::PEEK)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match self.came(&mut bytes[..length]) {
            Came::Partly => Err(io::ErrorKind::WouldBlock.into()),
            came => Ok(came),
        }
    }

    /// Waits until enough has come.
    async fn come(self, stream: &TcpStream) -> io::Result<Came> {
        loop {
            let ready = stream.ready(Interest::READABLE).await?;
            // `WouldBlock` also has the system tell of the next bytes.
            match stream.try_io(Interest::READABLE, || self.look(stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ready.is_read_closed() => {}
                done => return done,
            }
        }
    }
}

/// A connection with its place, and the address of its client.
pub(super) type Connection = (Placed, SocketAddr);

/// The connections of a port that are not served yet. The task that accepts connections looks after all of them: a task for each would
/// have the other processors wake for connections that end unserved.
pub(super) struct Waiting {
    opening: Opening,
    /// How long one may wait.
    most: Duration,
    /// Cancelled when none is to wait any longer, but to be served as it is.
    release: CancellationToken,
    placing: Arc<Placing>,
    held: Mutex<FuturesUnordered<BoxFuture<'static, Option<Connection>>>>,
}

impl Waiting {
    pub(super) fn new(opening: Opening, most: Duration, release: CancellationToken, placing: Arc<Placing>) -> Self {
        Self {
            opening,
            most,
            release,
            placing,
            held: Mutex::default(),
        }
    }

    /// The connection with its place if it can be served at once. Otherwise it is held, and [`Self::next`] returns it as soon as it can
    /// be. It gets its place in its turn, or when it can be served.
    pub(super) fn hold(&self, stream: Accepted, address: SocketAddr) -> Option<Connection> {
        match self.opening.look(&stream) {
            Ok(came) => return serve(stream, address, self.placing.place(address.ip())?, came),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return None,
            Err(_) => {}
        }
        let (opening, most, release) = (self.opening, self.most, self.release.clone());
        let (ticket, placing) = (self.placing.wait(address.ip()), Arc::clone(&self.placing));
        self.held().push(Box::pin(async move {
            let came = tokio::select! {
                biased;
                came = opening.come(&stream) => came.ok()?,
                () = poll_fn(|context| ticket.poll_end(context)) => return None,
                () = release.cancelled() => Came::Other,
                () = tokio::time::sleep(most) => {
                    // Closed with bytes unread it would be reset: the client is slow, not one of too many.
                    let _ = recv(&*stream, &mut [0; LOOKED_AT], RecvFlags::empty());
                    return None;
                }
            };
            serve(stream, address, ticket.take(&placing)?, came)
        }));
        None
    }

    /// The next one that was held and can be served. Never ready while there is none.
    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Connection> {
        let mut held = self.held();
        while let Some(ended) = ready!(held.poll_next_unpin(context)) {
            if let Some(connection) = ended {
                return Poll::Ready(connection);
            }
        }
        Poll::Pending
    }

    /// The next one that was held and can be served.
    pub(super) async fn next(&self) -> Connection {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The next one that was held and can be served; none if there is none now.
    pub(super) async fn next_now(&self) -> Option<Connection> {
        poll_fn(|context| match self.poll_next(context) {
            Poll::Ready(connection) => Poll::Ready(Some(connection)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    fn held(&self) -> MutexGuard<'_, FuturesUnordered<BoxFuture<'static, Option<Connection>>>> {
        // Taken by one task only.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection if it is to be served. From its first request on it does not give its place to another one.
fn serve(stream: Accepted, address: SocketAddr, place: ConnectionSlot, came: Came) -> Option<Connection> {
    let is_served = came != Came::Request || place.begin();
    is_served.then(|| (Layered::new(stream, place), address))
}

#[cfg(test)]
mod tests;
