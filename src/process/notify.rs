//! Reports the hub's state to the service manager (systemd, `Type=notify`): ready, alive, stopping.
//!
//! The protocol sends each message as one datagram of text to the socket that `NOTIFY_SOCKET` names; the name may be abstract.
//! The service manager sets these variables; they are no settings of the hub.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

const SOCKET: &str = "NOTIFY_SOCKET";
/// In which time the service manager wants to hear of the process, in microseconds.
const WATCHDOG: &str = "WATCHDOG_USEC";
/// Which process that is about.
const WATCHDOG_PID: &str = "WATCHDOG_PID";
/// Interval of status messages when the service manager requests none.
const USUALLY_EVERY: Duration = Duration::from_secs(10);

/// The service manager, where there is one.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    every: Duration,
    is_watched: bool,
}

impl Manager {
    /// The one that started this process; none without `NOTIFY_SOCKET`.
    ///
    /// # Errors
    /// If its socket cannot be reached.
    pub fn of_process() -> io::Result<Option<Self>> {
        let Some(name) = std::env::var_os(SOCKET).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A service manager that does not read must not block the hub.
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number(WATCHDOG_PID).is_none_or(|pid| pid == u64::from(std::process::id()));
        let within = number(WATCHDOG).filter(|within| is_ours && *within > 0);
        Ok(Some(Self {
            socket,
            // Half of the watchdog's time, as the protocol recommends.
            every: within.map_or(USUALLY_EVERY, |within| Duration::from_micros(within) / 2),
            is_watched: within.is_some(),
        }))
    }

    /// Reports that the hub is ready, then repeatedly that it lives, with `status`, until `stop`.
    /// `stopping` is cancelled at SIGTERM, which is before `stop`.
    ///
    /// # Errors
    /// None; as a task of the hub has it.
    pub async fn run(
        self,
        status: impl Fn() -> String + Send,
        stopping: CancellationToken,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        self.tell(&format!("READY=1\nSTATUS={}", status()));
        let mut is_stopping = false;
        let mut beat = tokio::time::interval(self.every);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = stopping.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    self.tell("STOPPING=1\nSTATUS=stopping");
                }
                _ = beat.tick() => {
                    let alive = if self.is_watched { "WATCHDOG=1\n" } else { "" };
                    let status = if is_stopping { "stopping".to_owned() } else { status() };
                    self.tell(&format!("{alive}STATUS={status}"));
                }
            }
        }
    }

    fn tell(&self, message: &str) {
        if let Err(error) = self.socket.send(message.as_bytes()) {
            tracing::debug!(%error, "the service manager cannot be told");
        }
    }
}
