//! HTTP over a connection that the test writes byte for byte.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::wait::PATIENCE;

/// An open connection, and what was read of it beyond the last answer.
pub(crate) struct Raw<S> {
    pub(crate) stream: S,
    read: Vec<u8>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl RawAnswer {
    /// Its `error.code`.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Raw<TcpStream> {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// The same, from another address of this machine.
    pub(crate) async fn connect_from(from: IpAddr, address: SocketAddr) -> Self {
        let stream = Self::try_connect_from(from, address).await.unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// The bare connection from another address of this machine, where there is one.
    pub(crate) async fn try_connect_from(from: IpAddr, address: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Raw<TlsStream<TcpStream>> {
    pub(crate) async fn connect_tls(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::from(address.ip());
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Self {
            stream,
            read: Vec::new(),
        })
    }

    /// What the server showed.
    pub(crate) fn certificate(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// Writes this; the hub may have closed the connection already.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let write = async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        };
        tokio::time::timeout(PATIENCE, write)
            .await
            .expect("it takes what is written")
            .is_ok()
    }

    /// The next answer; none if the connection ends before one began.
    pub(crate) async fn answer(&mut self) -> Option<RawAnswer> {
        self.answer_within(PATIENCE).await
    }

    /// The same, with other patience.
    pub(crate) async fn answer_within(&mut self, within: Duration) -> Option<RawAnswer> {
        tokio::time::timeout(within, self.next())
            .await
            .expect("an answer, or the end of the connection")
    }

    /// Whether the connection ends now, without another word.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.answer().await.is_none()
    }

    async fn next(&mut self) -> Option<RawAnswer> {
        let end = loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.read[..end]).into_owned();
        let length = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length:")?
                    .trim()
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        while self.read.len() < end + length {
            self.more().await?;
        }
        let body = String::from_utf8_lossy(&self.read[end..end + length]).into_owned();
        self.read.drain(..end + length);
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(RawAnswer { status, head, body })
    }

    async fn more(&mut self) -> Option<()> {
        let mut piece = [0; 4096];
        // A reset is an end too.
        let count = self.stream.read(&mut piece).await.unwrap_or(0);
        self.read.extend_from_slice(&piece[..count]);
        (count > 0).then_some(())
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

/// A whole request with these headers, each `Name: value`.
pub(crate) fn request(method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: hub\r\n");
    for header in headers {
        text += &format!("{header}\r\n");
    }
    text + &format!("Content-Length: {}\r\n\r\n{body}", body.len())
}
