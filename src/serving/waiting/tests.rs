use std::{net::TcpListener, sync::Arc};

use axum::extract::connect_info::Connected as _;
use axum_server::AddrListener as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::*;
use crate::serving::{
    connections::{Connections, Peer},
    listening::Listening,
};

const REQUEST: &[u8] = b"POST /api/webhooks/careem HTTP/1.1\r\nHost: hub\r\nContent-Length: 2\r\n\r\n{}";
/// Its first bytes, up to the end of the head.
const HEAD: usize = REQUEST.len() - 2;
/// Longer than anything takes here.
const LONG: Duration = Duration::from_secs(60);
/// After so long it is certain that nothing comes.
const SHORT: Duration = Duration::from_millis(100);

/// A listener and its address. Strangers may have 24 connections, one address 12 of them.
fn listening(most: Duration, release: &CancellationToken) -> (Listening, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Connections::public(32, |_| Peer::Stranger);
    let listening = Listening::new(listener, connections, Opening::Request, most, release.clone());
    (listening.unwrap(), address)
}

async fn client(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(bytes).await.unwrap();
    client
}

/// Whether the other side ends it.
async fn ends(client: &mut TcpStream) -> bool {
    matches!(timeout(10 * SHORT, client.read(&mut [0; 8])).await, Ok(Ok(0) | Err(_)))
}

/// The bytes of the next connection that is served.
async fn served(listening: &Listening) -> Vec<u8> {
    let (mut stream, _) = timeout(LONG, listening.accept_stream()).await.unwrap().unwrap();
    let mut bytes = vec![0; REQUEST.len()];
    let length = stream.read(&mut bytes).await.unwrap();
    bytes.truncate(length);
    bytes
}

async fn none_is_served(listening: &Listening) {
    let next = timeout(SHORT, listening.accept_stream()).await;
    assert!(next.is_err(), "nothing is to be served yet");
}

fn came(opening: Opening, bytes: &[u8]) -> Came {
    opening.came(&mut bytes.to_vec())
}

#[test]
fn a_head_is_whole_at_its_end() {
    for length in 0..HEAD {
        assert_eq!(came(Opening::Request, &REQUEST[..length]), Came::Partly, "{length}");
    }
    for length in HEAD..=REQUEST.len() {
        assert_eq!(came(Opening::Request, &REQUEST[..length]), Came::Request, "{length}");
    }
    let long = [&REQUEST[..HEAD - 2], b"X-Long: ", &[b'y'; LOOKED_AT]].concat();
    assert_eq!(came(Opening::Request, &long[..LOOKED_AT - 1]), Came::Partly);
    assert_eq!(came(Opening::Request, &long[..LOOKED_AT]), Came::Other);
}

/// The server refuses them without waiting for more.
#[test]
fn what_is_refused_is_not_waited_for() {
    let many = [&REQUEST[..HEAD - 2], "A: b\r\n".repeat(MAX_HEADERS).as_bytes()].concat();
    for bytes in [
        &b"\x16\x03\x01\x02\x00"[..],
        b"GET / HTTP/3",
        b"GET / HTTP/1.1\nHost",
        b"CONNECT hub:1 HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        &many,
    ] {
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(came(Opening::Request, bytes), Came::Other, "{text}");
    }
}

#[test]
fn a_hello_is_whole_with_its_record() {
    let hello = [&[HANDSHAKE, 3, 1, 2, 1][..], &[0; 513]].concat();
    for length in 0..hello.len() {
        assert_eq!(came(Opening::TlsHello, &hello[..length]), Came::Partly, "{length}");
    }
    assert_eq!(came(Opening::TlsHello, &hello), Came::Other);
    assert_eq!(came(Opening::TlsHello, b"GET / HTTP/1.1\r\n"), Came::Other);
    let large = [&[HANDSHAKE, 3, 1, 64, 0][..], &[0; LOOKED_AT]].concat();
    assert_eq!(came(Opening::TlsHello, &large[..LOOKED_AT]), Came::Other);
}

#[tokio::test]
async fn a_connection_is_served_when_its_head_is_whole() {
    let (listening, address) = listening(LONG, &CancellationToken::new());
    let _silent = client(address, b"").await;
    let mut slow = client(address, &REQUEST[..1]).await;
    none_is_served(&listening).await;
    let _quick = client(address, REQUEST).await;
    assert_eq!(served(&listening).await, REQUEST);
    slow.write_all(&REQUEST[1..20]).await.unwrap();
    none_is_served(&listening).await;
    slow.write_all(&REQUEST[20..]).await.unwrap();
    assert_eq!(served(&listening).await, REQUEST, "nothing of it is lost");
}

/// Of one address: the flood ends its own connections, and not the one that sent its request before.
#[tokio::test]
async fn a_flood_takes_no_place_of_a_request() {
    let (listening, address) = listening(LONG, &CancellationToken::new());
    let mut silent = client(address, b"P").await;
    let _honest = client(address, REQUEST).await;
    let (mut honest, _) = timeout(LONG, listening.accept_stream()).await.unwrap().unwrap();
    let mut flood = Vec::new();
    for _ in 0..40 {
        flood.push(client(address, b"P").await);
        none_is_served_at_once(&listening).await;
    }
    assert!(ends(&mut silent).await && ends(&mut flood[20]).await);
    assert!(
        timeout(SHORT, flood[39].read(&mut [0; 8])).await.is_err(),
        "the newest stay"
    );
    let mut bytes = vec![0; REQUEST.len()];
    assert_eq!(honest.read(&mut bytes).await.unwrap(), REQUEST.len());
    let _later = client(address, REQUEST).await;
    assert_eq!(served(&listening).await, REQUEST);
}

async fn none_is_served_at_once(listening: &Listening) {
    let next = timeout(Duration::from_millis(5), listening.accept_stream()).await;
    assert!(next.is_err(), "nothing is to be served yet");
}

#[tokio::test]
async fn nobody_waits_for_ever() {
    let (listening, address) = listening(SHORT, &CancellationToken::new());
    let mut silent = client(address, b"").await;
    let mut partly = client(address, &REQUEST[..20]).await;
    let accepting = Arc::new(listening);
    let task = tokio::spawn({
        let accepting = Arc::clone(&accepting);
        async move { accepting.accept_stream().await.map(drop) }
    });
    for client in [&mut silent, &mut partly] {
        let read = timeout(LONG, client.read(&mut [0; 8])).await.unwrap();
        assert_eq!(read.unwrap(), 0, "closed, not reset");
    }
    // One that is half closed has sent all that it will send.
    let mut half = client(address, &REQUEST[..20]).await;
    half.shutdown().await.unwrap();
    assert!(ends(&mut half).await);
    assert!(!task.is_finished());
    task.abort();
}

#[tokio::test]
async fn those_that_wait_are_served_before_the_port_closes() {
    let release = CancellationToken::new();
    let (listening, address) = listening(LONG, &release);
    let mut partly = client(address, &REQUEST[..20]).await;
    none_is_served(&listening).await;
    release.cancel();
    let later = client(address, &REQUEST[..20]).await;
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(timeout(LONG, listening.accept_stream()).await.unwrap().unwrap());
    }
    let (mut first, peer) = open.swap_remove(0);
    assert_eq!(
        SocketAddr::connect_info(peer),
        partly.local_addr().unwrap(),
        "in the order in which they came"
    );
    partly.write_all(&REQUEST[20..]).await.unwrap();
    let mut bytes = vec![0; REQUEST.len()];
    timeout(LONG, first.read_exact(&mut bytes)).await.unwrap().unwrap();
    assert_eq!(bytes, REQUEST);
    drop(later);
}
