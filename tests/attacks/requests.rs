//! Heads that are slow, too large or ambiguous, and what stands behind a refused request on the same connection.

use std::time::Duration;

use futures_util::future::join_all;

use super::{PATH, Siege, good, order_to, signed};
use crate::harness::{
    careem::order,
    raw::{Raw, request},
    wait::{PATIENCE, POLL},
};

/// Connections that do as little as possible for as long as they can.
const SLOW: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_never_end() {
    let siege = Siege::with(&[("REQUEST_TIMEOUT", "1s")]).await;
    let head = good("CR-slow");
    let drip = async |number: usize| {
        let mut client = Raw::connect(siege.hub.address()).await;
        // Each byte would be in time by itself.
        for byte in head.bytes().skip(number % 40).cycle() {
            let step = tokio::time::timeout(POLL, client.answer());
            match step.await {
                Ok(answer) => return answer.map(|answer| answer.status),
                Err(_) => drop(client.write([byte]).await),
            }
        }
        None
    };
    let started = tokio::time::Instant::now();
    let (answers, ()) = tokio::join!(
        join_all((0..SLOW).map(drip)),
        siege.stands("slow heads, while they come")
    );
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    for answer in answers {
        assert!(matches!(answer, None | Some(400 | 408)), "{answer:?}");
    }
    siege.stands("slow heads").await;
    siege.ends().await;
}

/// Answers that the client does not read: the connection is not kept for ever.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_read() {
    let siege = Siege::with(&[("REQUEST_TIMEOUT", "1s")]).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(siege.hub.address()).await.unwrap();
    let asking = request("GET", "/openapi.json", &[], "").repeat(100);
    let writing = async {
        // Until the hub, which cannot answer, takes no more; and then until it gives the connection up.
        while tokio::io::AsyncWriteExt::write_all(&mut stream, asking.as_bytes())
            .await
            .is_ok()
        {}
    };
    tokio::time::timeout(PATIENCE, writing)
        .await
        .expect("the hub ends the connection");
    siege.stands("unread answers").await;
    siege.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large() {
    let siege = Siege::new().await;
    let many = |count: usize| -> String { (0..count).map(|number| format!("x-{number}: y\r\n")).collect() };
    let large = |bytes: usize| format!("x-large: {}\r\n", "y".repeat(bytes));
    let with = |extra: &str, id: &str| good(id).replacen("Host: hub\r\n", &format!("Host: hub\r\n{extra}"), 1);
    for (what, extra) in [
        ("101 headers", many(98)),
        ("ten thousand headers", many(10_000)),
        ("a header of 33 KB", large(33_000)),
        ("a header of 45 KB", large(45_000)),
        ("a header of 70 KB", large(70_000)),
        ("a header of 5 MB", large(5_000_000)),
    ] {
        let (status, _) = siege.told(with(&extra, "CR-flood")).await;
        // Where much of it is still under way the answer may get lost with the connection.
        assert!(status == 431 || status == 0, "{what}: {status}");
        assert!(status == 431 || extra.len() > 60_000, "{what}: {status}");
        siege.stands(what).await;
    }
    let (status, _) = siege
        .told(format!("POST /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)))
        .await;
    assert!(matches!(status, 414 | 431), "{status}");
    // A hundred headers, and 30 KB of them, are none too many.
    for extra in [many(96), large(30_000)] {
        assert_eq!(siege.told(with(&extra, &siege.next())).await.0, 200);
    }
    siege.stands("floods of headers").await;
    siege.ends().await;
}

/// Headers that a proxy and a server may read in different ways.
const AMBIGUOUS: [(&str, &str); 22] = [
    ("two lengths", "Content-Length: 5\r\nContent-Length: 6"),
    ("the same length twice", "Content-Length: 5\r\nContent-Length: 5"),
    ("a length and chunks", "Content-Length: 5\r\nTransfer-Encoding: chunked"),
    ("chunks and a length", "Transfer-Encoding: chunked\r\nContent-Length: 5"),
    ("an encoding before chunks", "Transfer-Encoding: gzip, chunked"),
    ("an unknown encoding before chunks", "Transfer-Encoding: foo, chunked"),
    (
        "an encoding before chunks, in two lines",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
    ),
    ("chunks of chunks", "Transfer-Encoding: chunked, chunked"),
    (
        "chunks twice",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    ),
    ("a list of lengths", "Content-Length: 5, 6"),
    ("a length with a sign", "Content-Length: +5"),
    ("a negative length", "Content-Length: -5"),
    ("a hexadecimal length", "Content-Length: 0x5"),
    ("no number", "Content-Length: five"),
    ("a length beyond all numbers", "Content-Length: 99999999999999999999"),
    ("a space before the colon", "Content-Length : 5"),
    ("a value that goes on", "Content-Length: 5\r\n 0"),
    ("another encoding", "Transfer-Encoding: xchunked"),
    ("chunks that are not last", "Transfer-Encoding: chunked, identity"),
    ("zero in a value", "x-zero: a\0b"),
    ("zero in a name", "x-ze\0ro: a"),
    ("a carriage return alone", "x-cr: a\rX-Careem: b"),
];
/// Beginnings of a request that are none.
const NO_REQUEST: [(&str, &str); 5] = [
    ("a tunnel", "CONNECT hub:443 HTTP/1.1\r\nHost: hub\r\n\r\n"),
    (
        "chunks in HTTP/1.0",
        "POST /api/webhooks/careem HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    ("a method of two words", "PO ST /api/webhooks/careem HTTP/1.1\r\n\r\n"),
    ("another version", "POST /api/webhooks/careem HTTP/3.7\r\n\r\n"),
    ("another protocol", "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0"),
];
/// Sizes of a chunk of five bytes and more.
const NO_SIZES: [(&str, &str); 10] = [
    ("a line feed in an extension", "5;a\nb"),
    ("a line feed in a quoted extension", "5;a=\"\nb\""),
    ("a carriage return in an extension", "5;a\rb"),
    ("a line feed in a size", "5\nb"),
    ("a size of sixteen digits", "0000000000000005"),
    ("no size", "zz"),
    ("a negative size", "-5"),
    ("a size with a prefix", "0x5"),
    ("a size beyond all numbers", "fffffffffffffffff"),
    ("a size that is too small", "5"),
];

/// Trailers behind the last chunk.
const NO_TRAILERS: [(&str, &str); 3] = [
    ("a line feed behind the last chunk", "\nGET / HTTP/1.1"),
    ("a line feed in a trailer", "t: u\nv: w"),
    ("a carriage return in a trailer", "t: u\rv: w"),
];

/// A request's line and these headers.
fn head(headers: &str) -> String {
    format!("POST {PATH} HTTP/1.1\r\nHost: hub\r\n{headers}\r\n\r\n")
}

/// A request that was let in by one must not hide another: what is read in different ways is refused, and its connection ends.
#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_hide_something() {
    let siege = Siege::new().await;
    let (hidden, body) = (good("CR-hidden"), order("CR-carrier"));
    let chunked = "Transfer-Encoding: chunked";
    let headers = AMBIGUOUS.map(|(what, headers)| (what, format!("{}0\r\n\r\n{hidden}", head(headers))));
    let lines = NO_REQUEST.map(|(what, line)| (what, format!("{line}{hidden}")));
    // The framing of a body is found out when the body is read.
    let sizes = NO_SIZES.map(|(what, size)| {
        let body = format!("{size}\r\n{body}\r\n0\r\n\r\n{hidden}");
        (what, head(chunked) + &body)
    });
    let whole = format!("{:x}\r\n{body}\r\n0\r\n", body.len());
    let trailers = NO_TRAILERS.map(|(what, trailer)| {
        let body = format!("{whole}{trailer}\r\n\r\n{hidden}");
        (what, head(chunked) + &body)
    });
    for (what, attack) in headers.into_iter().chain(lines).chain(sizes).chain(trailers) {
        let mut client = Raw::connect(siege.hub.address()).await;
        client.write(&attack).await;
        let answer = client.answer().await.unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!(answer.status, 400, "{what}: {answer:?}");
        assert!(client.is_closed().await, "{what}: the connection goes on");
        siege.stands(what).await;
    }
    // What is another protocol is not answered at all.
    let told = siege
        .told("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned() + &hidden)
        .await;
    assert_eq!(told, (0, String::new()));
    siege.stands("HTTP/2").await;
    siege.ends().await;
}

/// The neighbours: chunks as they should be.
#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_are_clear() {
    let siege = Siege::new().await;
    let body = order(&siege.next());
    let (first, second) = body.split_at(9);
    let chunks = format!(
        "9\r\n{first}\r\n{:x};ext=1\r\n{second}\r\n0\r\nt: u\r\n\r\n",
        second.len()
    );
    let headers = format!("Transfer-Encoding: chunked\r\n{}", signed(&body).join("\r\n"));
    assert_eq!(siege.told(head(&headers) + &chunks).await.0, 200);
    siege.stands("other ways to say how long").await;
    siege.ends().await;
}

/// Lines that end with LF alone, and heads with no host or with two: a proxy in front may read another request.
#[tokio::test(flavor = "multi_thread")]
async fn heads_that_proxies_read_differently() {
    let siege = Siege::new().await;
    let whole = good("CR-lines");
    let (head, body) = whole.split_once("\r\n\r\n").unwrap();
    let hosts = |hosts: &str| whole.replacen("Host: hub\r\n", hosts, 1);
    // In the body a line ends as it likes.
    let first = good(&siege.next()).replace("\": ", "\":\n");
    assert_ne!(first, good("CR-good-0"));
    let body_of = first.split_once("\r\n\r\n").unwrap().1.to_owned();
    let signed_first = {
        let headers = signed(&body_of);
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        request("POST", PATH, &headers, &body_of)
    };
    let mut status = vec![200, 400];
    for (what, before, attack) in [
        (
            "lines without CR",
            "",
            format!("{}\n\n{body}", head.replace("\r\n", "\n")),
        ),
        (
            "one line without CR",
            "",
            whole.replacen("\r\n", "\n", 2).replacen('\n', "\r\n", 1),
        ),
        ("an empty line without CR", "", format!("{head}\r\n\n{body}")),
        ("a hidden header", "", hosts("Host: hub\r\nX-A: b\nX-B: c\r\n")),
        (
            "a line without CR behind a good request",
            &signed_first,
            hosts("Host: hub\n"),
        ),
        ("no host", "", hosts("")),
        ("two hosts", "", hosts("Host: hub\r\nHost: hub\r\n")),
        ("no host in HTTP/1.0", "", hosts("").replacen("HTTP/1.1", "HTTP/1.0", 1)),
    ] {
        let mut client = Raw::connect(siege.hub.address()).await;
        client.write(format!("{before}{attack}{}", good("CR-behind"))).await;
        for expected in status.drain(usize::from(before.is_empty())..) {
            let answer = client.answer().await.unwrap_or_else(|| panic!("{what}: no answer"));
            assert_eq!(answer.status, expected, "{what}: {answer:?}");
        }
        assert!(client.is_closed().await, "{what}: the connection goes on");
        status = vec![200, 400];
    }
    siege.stands("heads that proxies read differently").await;
    siege.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_behind_a_refused_one() {
    let siege = Siege::with(&[("MAX_PAYLOAD_SIZE", "64kb")]).await;
    let large = "x".repeat(65 * 1024);
    let unsigned = request("POST", PATH, &[], &order("CR-unsigned"));
    let unknown = order_to("/api/webhooks/nobody", &[], "CR-nobody");
    for (what, refused, status) in [
        ("a stranger's", &unsigned, 401),
        ("one for nobody", &unknown, 404),
        ("another method", &request("PUT", PATH, &[], &large), 405),
    ] {
        // What comes behind is read as what it is, and where it should begin.
        let ids = [siege.next(), siege.next()];
        let mut client = Raw::connect(siege.hub.address()).await;
        let all = [refused, &good(&ids[0]), refused, &good(&ids[1])]
            .map(String::as_str)
            .concat();
        client.write(all).await;
        for expected in [status, 200, status, 200] {
            let answer = client.answer().await.unwrap_or_else(|| panic!("{what}: no answer"));
            assert_eq!(answer.status, expected, "{what}: {answer:?}");
        }
        siege.stands(what).await;
    }
    // A body that is not read to its end ends the connection: nothing in it can be taken for a request.
    let hiding = request("POST", PATH, &[], &format!("{large}{}", good("CR-hidden")));
    let mut client = Raw::connect(siege.hub.address()).await;
    client.write(hiding + &good("CR-behind")).await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (413, "PAYLOAD_TOO_LARGE"));
    assert!(
        answer.head.to_ascii_lowercase().contains("connection: close"),
        "{answer:?}"
    );
    assert!(client.is_closed().await);
    siege.stands("requests in a body that is too large").await;
    // So many at once, on one connection.
    let ids: Vec<String> = (0..50).map(|_| siege.next()).collect();
    let mut client = Raw::connect(siege.hub.address()).await;
    client
        .write(ids.iter().map(|id| unsigned.clone() + &good(id)).collect::<String>())
        .await;
    for _ in &ids {
        let (first, second) = (client.answer().await.unwrap(), client.answer().await.unwrap());
        assert_eq!((first.status, second.status), (401, 200));
    }
    // Nothing more comes.
    let more = tokio::time::timeout(Duration::from_millis(50), client.answer()).await;
    assert!(more.is_err(), "{more:?}");
    siege.ends().await;
}
