//! The client against servers that close, break off, redirect and compress.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{config::ClientTls, http};

const LIMIT: usize = 1000;
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server, and what it was sent.
struct Server {
    url: String,
    connections: AtomicUsize,
    closed: AtomicUsize,
    heads: Mutex<Vec<String>>,
}

/// What a server does with a request.
#[derive(Clone, Copy)]
enum Does {
    Say(&'static str),
    /// Says it and closes the connection.
    SayLast(&'static str),
    /// Closes the connection without an answer.
    Close,
    /// Says it and then nothing more, and keeps the connection.
    Hang(&'static str),
}

impl Server {
    /// One that does this, by connection and request on it, both counted from 0.
    async fn start(does: fn(usize, usize) -> Does) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Arc::new(Self {
            url: format!("http://{}/path?query", listener.local_addr().unwrap()),
            connections: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            heads: Mutex::default(),
        });
        let own = Arc::clone(&server);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (own, number) = (Arc::clone(&own), own.connections.fetch_add(1, Ordering::SeqCst));
                tokio::spawn(async move {
                    own.serve(stream, |request| does(number, request)).await;
                    own.closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    async fn serve(&self, mut stream: TcpStream, does: impl Fn(usize) -> Does) {
        for request in 0.. {
            let Some(head) = request_of(&mut stream).await else {
                return;
            };
            self.heads.lock().unwrap().push(head);
            match does(request) {
                Does::Say(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                Does::SayLast(answer) => return stream.write_all(answer.as_bytes()).await.unwrap(),
                Does::Close => return,
                Does::Hang(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
            }
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.heads.lock().unwrap().len()
    }

    fn request(&self) -> Request {
        Request::new(Method::POST, Target::parse(&self.url)).body("body")
    }
}

/// Reads a request with four bytes of body; none if the connection is closed.
async fn request_of(stream: &mut TcpStream) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(stream.read_u8().await.ok()?));
    }
    let mut body = [0; 4];
    stream.read_exact(&mut body).await.ok()?;
    assert_eq!(&body, b"body");
    Some(head)
}

fn client(timeout: Duration) -> Client {
    let headers = HeaderMap::from_iter([(HeaderName::from_static("x-own"), HeaderValue::from_static("1"))]);
    http::client(timeout, 2, headers, &ClientTls::of_machine("X")).unwrap()
}

const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until this is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let looked = tokio::time::timeout(PATIENCE, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    looked.await.expect(what);
}

#[tokio::test]
async fn one_connection_serves_requests_one_after_another() {
    let server = Server::start(|_, request| match request % 3 {
        0 => Does::Say(OK),
        1 => Does::Say("HTTP/1.1 503 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        _ => Does::Say("HTTP/1.1 204 No Content\r\nretry-after: 7\r\n\r\n"),
    })
    .await;
    let client = client(PATIENCE);
    for number in 0..12 {
        let answer = client.ask(server.request(), LIMIT).await.unwrap();
        let (status, body, after) = match number % 3 {
            0 => (200, "ok", None),
            1 => (503, "ok", None),
            _ => (204, "", Some(Duration::from_secs(7))),
        };
        assert_eq!(
            (answer.status, &*answer.body, answer.retry_after),
            (status, body.as_bytes(), after)
        );
        assert!(answer.incomplete.is_none());
    }
    assert_eq!((server.connections(), server.requests()), (1, 12));
    // Concurrent requests have a connection each, and no more than two connections are kept.
    let asked = futures_util::future::join_all((0..4).map(|_| client.ask(server.request(), LIMIT))).await;
    assert!(asked.iter().all(Result::is_ok));
    until("two are closed", || server.closed.load(Ordering::SeqCst) == 2).await;
    assert_eq!(server.connections(), 4);
}

#[tokio::test]
async fn what_a_request_carries() {
    let server = Server::start(|_, _| Does::Say(OK)).await;
    let client = client(PATIENCE);
    let accept = (ACCEPT, HeaderValue::from_static("text/plain"));
    let request = server
        .request()
        .header(accept.0.clone(), accept.1.clone())
        .basic_auth("user", "secret");
    client.ask(request, LIMIT).await.unwrap();
    let head = server.heads.lock().unwrap()[0].clone();
    let mut lines: Vec<_> = head.trim_end().split("\r\n").collect();
    assert_eq!(lines.remove(0), "POST /path?query HTTP/1.1");
    lines.sort_unstable();
    let host = format!(
        "host: {}",
        server.url.trim_start_matches("http://").trim_end_matches("/path?query")
    );
    let name = format!("user-agent: webhook-hub/{}", env!("CARGO_PKG_VERSION"));
    let expected = [
        "accept-encoding: gzip, deflate",
        "accept: text/plain",
        "authorization: Basic dXNlcjpzZWNyZXQ=",
        "content-length: 4",
        &host,
        &name,
        "x-own: 1",
    ];
    assert_eq!(lines, expected);
}

/// The server closes a connection that was idle for too long: the request goes on another one, once.
#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_no_request() {
    let server = Server::start(|_, _| Does::SayLast(OK)).await;
    let client = client(PATIENCE);
    for number in 1..=5 {
        let answer = client.ask(server.request(), LIMIT).await.unwrap();
        assert_eq!(answer.status, 200);
        until("it is closed", || server.closed.load(Ordering::SeqCst) == number).await;
    }
    assert_eq!((server.connections(), server.requests()), (5, 5));
}

/// Nobody knows what became of a request that was written: it is not made again.
#[tokio::test]
async fn a_request_that_was_written_is_not_repeated() {
    let server = Server::start(|_, request| if request == 0 { Does::Say(OK) } else { Does::Close }).await;
    let client = client(PATIENCE);
    client.ask(server.request(), LIMIT).await.unwrap();
    let error = client.ask(server.request(), LIMIT).await.unwrap_err();
    assert!(matches!(error, Failure::Lost(_)), "{error:?}");
    assert_eq!((server.connections(), server.requests()), (1, 2));
}

#[tokio::test]
async fn idle_connections_are_closed_when_the_other_side_closes_them() {
    let server = Server::start(|_, _| Does::SayLast(OK)).await;
    let client = client(PATIENCE);
    client.ask(server.request(), LIMIT).await.unwrap();
    until("nothing is kept", || client.idle.look()).await;
}

#[tokio::test]
async fn the_time_is_over_before_the_head_and_in_the_body() {
    let server = Server::start(|connection, _| match connection {
        0 => Does::Hang(""),
        1 => Does::Hang("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"),
        2 => Does::SayLast("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"),
        _ => Does::Say(OK),
    })
    .await;
    let client = client(Duration::from_millis(300));
    let error = client.ask(server.request(), LIMIT).await.unwrap_err();
    assert!(error.is_timeout() && !error.is_connect(), "{error:?}");
    for is_timeout in [true, false] {
        let answer = client.ask(server.request(), LIMIT).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (200, &b"ok"[..]));
        match answer.incomplete {
            Some(Incomplete::BrokeOff(error)) => assert_eq!(error.is_timeout(), is_timeout, "{error:?}"),
            other => panic!("{other:?}"),
        }
    }
    // None of them is used again.
    assert_eq!(client.ask(server.request(), LIMIT).await.unwrap().status, 200);
    assert_eq!(server.connections(), 4);
}

#[tokio::test]
async fn no_more_than_the_limit_is_read() {
    const LONG: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789";
    let server = Server::start(|_, _| Does::Say(LONG)).await;
    let client = client(PATIENCE);
    let answer = client.ask(server.request(), 9).await.unwrap();
    assert_eq!(answer.body, b"012345678");
    assert!(matches!(answer.incomplete, Some(Incomplete::TooLarge)));
    let answer = client.ask(server.request(), 10).await.unwrap();
    assert_eq!(answer.body, b"0123456789");
    assert!(answer.incomplete.is_none());
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn why_there_is_no_connection() {
    let client = client(PATIENCE);
    let ask = async |url: &str| {
        let request = Request::new(Method::GET, Target::parse(url));
        client.ask(request, LIMIT).await.unwrap_err()
    };
    let nobody = ask("http://127.0.0.1:1/").await;
    assert!(nobody.is_connect() && !nobody.is_dns() && !nobody.is_tls() && !nobody.is_timeout());
    let unknown = ask("http://no-such-host.invalid/").await;
    assert!(unknown.is_dns(), "{unknown:?}");
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", plain.local_addr().unwrap());
    let (error, _stream) = tokio::join!(ask(&url), async {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    });
    assert!(error.is_connect() && error.is_tls(), "{error:?}");
    assert!(matches!(ask("backend:3001").await, Failure::Url(_)));
}
