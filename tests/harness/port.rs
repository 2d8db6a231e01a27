//! A reserved port of the loopback: it stays reserved while nothing listens on it, so that a server can come back to it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use tokio::net::TcpSocket;

/// A port. While this lives the system assigns its number to no other program.
pub(crate) struct Port {
    number: u16,
    /// Bound, not listening: it refuses connections, and Linux lets a listener with SO_REUSEADDR in beside it. Elsewhere
    /// it would keep that out, so there the number is only remembered.
    _held: Option<TcpSocket>,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let number = socket.local_addr().unwrap().port();
        Self {
            number,
            _held: cfg!(target_os = "linux").then_some(socket),
        }
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }

    /// Listens; only one listener at a time.
    pub(crate) fn listen(&self) -> TcpListener {
        let listener = TcpListener::bind(self.address()).expect("the port is reserved for us");
        listener.set_nonblocking(true).unwrap();
        listener
    }
}
