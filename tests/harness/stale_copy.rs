//! NATS as a hub sees it in a cluster where a copy of the log answers that is behind: the next reads of some subjects bring nothing.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Mutex,
};

use super::port::Port;

const READ_LOG: &str = "$JS.API.DIRECT.GET.EVENTS";
const NOTHING: &str = "NATS/1.0 404 Message Not Found\r\n\r\n";

/// Between a hub and NATS.
pub(crate) struct StaleCopy {
    port: Port,
    shared: Arc<Shared>,
}

struct Shared {
    /// What subjects begin with that are read in vain.
    subjects: &'static str,
    /// How many reads.
    left: AtomicUsize,
}

impl StaleCopy {
    /// Of the server at this address. It lacks events on subjects that begin like this, once it is behind.
    pub(crate) fn of(upstream: SocketAddr, subjects: &'static str) -> Self {
        let (port, left) = (Port::reserve(), AtomicUsize::new(0));
        let shared = Arc::new(Shared { subjects, left });
        let listener = TcpListener::from_std(port.listen()).unwrap();
        let of_connections = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((hub, _)) = listener.accept().await {
                tokio::spawn(connect(hub, upstream, Arc::clone(&of_connections)));
            }
        });
        Self { port, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// So many reads bring nothing.
    pub(crate) fn is_behind_for(&self, reads: usize) {
        self.shared.left.store(reads, Ordering::SeqCst);
    }

    /// How many reads more bring nothing.
    pub(crate) fn left(&self) -> usize {
        self.shared.left.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn takes(&self, payload: &str) -> bool {
        let of_subjects = format!(r#""next_by_subj":"{}"#, self.subjects);
        payload.contains(&of_subjects)
            && self
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok()
    }
}

async fn connect(hub: TcpStream, upstream: SocketAddr, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    let _ = (hub.set_nodelay(true), server.set_nodelay(true));
    let (from_hub, to_hub) = hub.into_split();
    let (from_server, to_server) = server.into_split();
    let to_hub = Mutex::new(to_hub);
    tokio::select! {
        () = to_the_server(Frames::of(from_hub), to_server, &to_hub, &shared) => {}
        () = to_the_hub(Frames::of(from_server), &to_hub) => {}
    }
}

async fn to_the_server(mut frames: Frames, mut to: OwnedWriteHalf, to_hub: &Mutex<OwnedWriteHalf>, shared: &Shared) {
    let mut subscriptions: HashMap<String, String> = HashMap::new();
    while let Some(frame) = frames.next().await {
        let text = String::from_utf8_lossy(&frame).into_owned();
        let (line, payload) = text.split_once("\r\n").unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["SUB", subject, .., id] => {
                subscriptions.insert((*subject).to_owned(), (*id).to_owned());
            }
            ["PUB", READ_LOG, inbox, _] if shared.takes(payload) => {
                let id = &subscriptions[*inbox];
                let answer = format!("HMSG {inbox} {id} {0} {0}\r\n{NOTHING}\r\n", NOTHING.len());
                to_hub.lock().await.write_all(answer.as_bytes()).await.unwrap();
                continue;
            }
            _ => {}
        }
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}

async fn to_the_hub(mut frames: Frames, to_hub: &Mutex<OwnedWriteHalf>) {
    while let Some(frame) = frames.next().await {
        if to_hub.lock().await.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// The frames of NATS's protocol.
struct Frames {
    from: OwnedReadHalf,
    read: Vec<u8>,
}

impl Frames {
    const fn of(from: OwnedReadHalf) -> Self {
        Self { from, read: Vec::new() }
    }

    /// A line, with its payload where it has one. None at the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = self.length().filter(|length| *length <= self.read.len()) {
                let rest = self.read.split_off(length);
                return Some(std::mem::replace(&mut self.read, rest));
            }
            self.from.read_buf(&mut self.read).await.ok().filter(|read| *read > 0)?;
        }
    }

    fn length(&self) -> Option<usize> {
        let end = self.read.windows(2).position(|two| two == b"\r\n")? + 2;
        let line = String::from_utf8_lossy(&self.read[..end - 2]);
        let has_payload = ["PUB ", "HPUB ", "MSG ", "HMSG "]
            .iter()
            .any(|verb| line.starts_with(verb));
        let bytes = line.rsplit(' ').next().filter(|_| has_payload);
        Some(end + bytes.map_or(0, |bytes| bytes.parse::<usize>().unwrap() + 2))
    }
}
