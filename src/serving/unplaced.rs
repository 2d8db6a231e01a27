//! Connections that were accepted and have no place yet.
//!
//! To give a connection its place, and to end another one for it, takes several times as long as to accept it. So the listener accepts
//! all that wait in the system's queue, up to a number, and those whose opening is there go first: a client that sends its request at
//! once does not wait behind a burst of connections that say nothing. The others get their places in the order in which they came.

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
};

use tokio::sync::OwnedSemaphorePermit;

use super::waiting::Opening;

/// One of them.
pub(super) struct UnplacedConnection {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// It counts as open as long as it lives.
    pub(super) permit: OwnedSemaphorePermit,
}

/// Those of a port, the oldest first.
pub(super) struct Unplaced {
    opening: Opening,
    /// How many there may be.
    most: usize,
    /// Those whose opening was not there when they were looked at.
    silent: VecDeque<UnplacedConnection>,
    /// The newest ones. They are looked at when they come, and once more the next time: the opening of a connection often comes right
    /// after the connection.
    new: Vec<UnplacedConnection>,
    /// Those whose opening is there.
    open: VecDeque<UnplacedConnection>,
    /// Whether the next one is one of the silent ones, if there are any. They take turns with those whose opening is there, so that a
    /// burst of either kind does not keep the other one waiting.
    is_turn_of_silent: bool,
}

impl Unplaced {
    pub(super) const fn new(opening: Opening, most: usize) -> Self {
        Self {
            opening,
            most,
            silent: VecDeque::new(),
            new: Vec::new(),
            open: VecDeque::new(),
            is_turn_of_silent: false,
        }
    }

    fn len(&self) -> usize {
        self.silent.len() + self.new.len() + self.open.len()
    }

    /// The next one to get its place, after all that wait in the system's queue were accepted, as far as there is room for them.
    pub(super) fn next(
        &mut self,
        listener: &TcpListener,
        room: impl Fn() -> Option<OwnedSemaphorePermit>,
    ) -> Option<UnplacedConnection> {
        let (opening, before) = (self.opening, std::mem::take(&mut self.new));
        while self.len() + before.len() < self.most
            && let Some(permit) = room()
            // What went wrong is met again, and told, when there is nothing else to do.
            && let Ok((stream, address)) = accept(listener)
        {
            self.new.push(UnplacedConnection {
                stream,
                address,
                permit,
            });
        }
        for connection in before {
            if is_open(opening, &connection) {
                &mut self.open
            } else {
                &mut self.silent
            }
            .push_back(connection);
        }
        self.open
            .extend(self.new.extract_if(.., |connection| is_open(opening, connection)));
        self.is_turn_of_silent = !self.is_turn_of_silent;
        let (first, second) = if self.is_turn_of_silent {
            (&mut self.silent, &mut self.open)
        } else {
            (&mut self.open, &mut self.silent)
        };
        let next = first.pop_front().or_else(|| second.pop_front());
        next.or_else(|| (!self.new.is_empty()).then(|| self.new.remove(0)))
    }
}

/// Whether its opening is there, or its client has ended it, which is found out when it gets its place.
fn is_open(opening: Opening, connection: &UnplacedConnection) -> bool {
    !matches!(opening.look(&connection.stream), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// The next connection in the system's queue. `WouldBlock`: there is none.
fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, address) = listener.accept()?;
    stream.set_nonblocking(true)?;
    Ok((stream, address))
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, sync::Arc};

    use tokio::sync::Semaphore;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n";

    const MOST: usize = 50;

    struct Port {
        listener: TcpListener,
        room: Arc<Semaphore>,
        unplaced: Unplaced,
    }

    impl Port {
        /// With room for so many connections.
        fn new(room: usize) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            Self {
                listener,
                room: Arc::new(Semaphore::new(room)),
                unplaced: Unplaced::new(Opening::Request, MOST),
            }
        }

        fn clients(&self, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
            let address = self.listener.local_addr().unwrap();
            let client = |_| {
                let mut client = TcpStream::connect(address).unwrap();
                client.write_all(bytes).unwrap();
                client
            };
            (0..count).map(client).collect()
        }

        /// The address of the next one, which keeps its room as long as the result lives.
        fn next(&mut self) -> Option<UnplacedConnection> {
            let room = || Arc::clone(&self.room).try_acquire_owned().ok();
            self.unplaced.next(&self.listener, room)
        }
    }

    fn of(client: &TcpStream) -> SocketAddr {
        client.local_addr().unwrap()
    }

    /// How many get their places before this one, all told.
    fn before(port: &mut Port, client: &TcpStream) -> usize {
        let mut places = Vec::new();
        while let Some(next) = port.next() {
            if next.address == of(client) {
                return places.len();
            }
            places.push(next);
        }
        panic!("it got no place");
    }

    #[test]
    fn a_request_does_not_wait_behind_connections_that_say_nothing() {
        let mut port = Port::new(100);
        let _burst = port.clients(40, b"P");
        let honest = port.clients(1, REQUEST);
        assert!(before(&mut port, &honest[0]) <= 1);
    }

    #[test]
    fn a_connection_that_says_nothing_does_not_wait_behind_requests() {
        let mut port = Port::new(100);
        let _burst = port.clients(20, REQUEST);
        let slow = port.clients(1, b"");
        let _burst = port.clients(20, REQUEST);
        assert!(before(&mut port, &slow[0]) <= 4);
    }

    #[test]
    fn an_opening_may_come_right_after_its_connection() {
        let mut port = Port::new(100);
        let _burst = port.clients(20, b"P");
        let mut honest = port.clients(1, b"");
        let _burst = port.clients(20, b"P");
        let first = port.next().unwrap();
        honest[0].write_all(REQUEST).unwrap();
        assert!(before(&mut port, &honest[0]) <= 1);
        drop(first);
    }

    #[test]
    fn all_get_their_places_in_their_order() {
        let mut port = Port::new(100);
        let clients = port.clients(30, b"P");
        let next = |_| port.next().map(|next| next.address);
        let order: Vec<_> = (0..30).map_while(next).collect();
        assert_eq!(order, clients.iter().map(of).collect::<Vec<_>>());
        assert!(port.next().is_none());
    }

    #[test]
    fn no_more_are_accepted_than_there_is_room_for() {
        let mut port = Port::new(3);
        let clients = port.clients(5, b"P");
        let places: Vec<_> = std::iter::from_fn(|| port.next()).collect();
        assert_eq!(places.len(), 3);
        drop(places);
        assert!(port.next().is_some_and(|next| next.address == of(&clients[3])));
        let mut port = Port::new(2 * MOST);
        let _clients = port.clients(MOST + 10, b"P");
        let next = port.next().unwrap();
        assert_eq!(
            port.room.available_permits(),
            MOST,
            "the others wait in the system's queue"
        );
        drop(next);
    }
}
