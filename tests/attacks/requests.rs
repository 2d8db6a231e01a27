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

/// Answers that nobody reads: the connection is not kept for ever.
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

/// What proxies and servers may read in different ways; a request that was let in by one must not hide another.
#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_hide_something() {
    let siege = Siege::new().await;
    let hidden = good("CR-hidden");
    let body = order("CR-carrier");
    let head = |headers: &str| format!("POST {PATH} HTTP/1.1\r\nHost: hub\r\n{headers}\r\n");
    let length = body.len();
    for (what, attack, status) in [
        (
            "two lengths",
            format!("{}{body}{hidden}", head("Content-Length: 5\r\nContent-Length: 6\r\n")),
            400,
        ),
        (
            "a list of lengths",
            format!("{}{body}{hidden}", head("Content-Length: 5, 6\r\n")),
            400,
        ),
        (
            "a length with a sign",
            format!("{}{body}{hidden}", head("Content-Length: +5\r\n")),
            400,
        ),
        (
            "a negative length",
            format!("{}{body}{hidden}", head("Content-Length: -5\r\n")),
            400,
        ),
        (
            "a hexadecimal length",
            format!("{}{body}{hidden}", head("Content-Length: 0x5\r\n")),
            400,
        ),
        (
            "no number",
            format!("{}{body}{hidden}", head("Content-Length: five\r\n")),
            400,
        ),
        (
            "a length beyond all numbers",
            head("Content-Length: 99999999999999999999\r\n"),
            400,
        ),
        (
            "a space before the colon",
            format!("{}{body}{hidden}", head("Content-Length : 5\r\n")),
            400,
        ),
        (
            "a name that goes on",
            format!("{}{body}{hidden}", head("Content-Length: 5\r\n 0\r\n")),
            400,
        ),
        (
            "another encoding",
            format!("{}{body}{hidden}", head("Transfer-Encoding: xchunked\r\n")),
            400,
        ),
        (
            "chunks that are not last",
            format!("{}0\r\n\r\n{hidden}", head("Transfer-Encoding: chunked, identity\r\n")),
            400,
        ),
        (
            "chunks in HTTP/1.0",
            format!(
                "{}0\r\n\r\n{hidden}",
                head("Transfer-Encoding: chunked\r\n").replace("1.1", "1.0")
            ),
            400,
        ),
        ("zero in a value", format!("{}{hidden}", head("x-zero: a\0b\r\n")), 400),
        ("zero in a name", format!("{}{hidden}", head("x-ze\0ro: a\r\n")), 400),
        (
            "a carriage return alone",
            format!("{}{hidden}", head("x-cr: a\rX-Careem: b\r\n")),
            400,
        ),
        ("a method of two words", format!("PO ST {PATH} HTTP/1.1\r\n\r\n"), 400),
        ("another version", format!("POST {PATH} HTTP/3.7\r\n\r\n"), 400),
        (
            "another protocol",
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".to_owned() + &hidden,
            400,
        ),
        // The framing of a body is found out when the body is read.
        (
            "chunks of no size",
            format!(
                "{}zz\r\n{body}\r\n0\r\n\r\n{hidden}",
                head("Transfer-Encoding: chunked\r\n")
            ),
            400,
        ),
        (
            "chunks of a negative size",
            format!(
                "{}-5\r\n{body}\r\n0\r\n\r\n{hidden}",
                head("Transfer-Encoding: chunked\r\n")
            ),
            400,
        ),
        (
            "chunks beyond all sizes",
            format!("{}fffffffffffffffff\r\n{body}", head("Transfer-Encoding: chunked\r\n")),
            400,
        ),
        (
            "chunks that are longer than they say",
            format!(
                "{}5\r\n{body}\r\n0\r\n\r\n{hidden}",
                head("Transfer-Encoding: chunked\r\n")
            ),
            400,
        ),
        // Chunks count, as the standard has it, and the connection ends: what hides behind them is never read.
        (
            "a length and chunks",
            format!(
                "{}0\r\n\r\n{hidden}",
                head(&format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"))
            ),
            401,
        ),
        (
            "chunks and a length",
            format!(
                "{}0\r\n\r\n{hidden}",
                head(&format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"))
            ),
            401,
        ),
    ] {
        let mut client = Raw::connect(siege.hub.address()).await;
        client.write(&attack).await;
        let answer = client.answer().await.unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert!(client.is_closed().await, "{what}: the connection goes on");
        siege.stands(what).await;
    }
    // What is another protocol is not answered at all.
    let told = siege
        .told("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned() + &hidden)
        .await;
    assert_eq!(told, (0, String::new()));
    // Chunks as they should be, the same length twice, lines that end as some old senders end them.
    let id = siege.next();
    let body = order(&id);
    let chunks = format!(
        "{:x}\r\n{}\r\n{:x};ext=1\r\n{}\r\n0\r\n\r\n",
        9,
        &body[..9],
        body.len() - 9,
        &body[9..]
    );
    let headers = signed(&body).join("\r\n");
    let chunked = format!(
        "{}{chunks}",
        head(&format!("Transfer-Encoding: chunked\r\n{headers}\r\n"))
    );
    assert_eq!(siege.told(chunked).await.0, 200);
    let length = |text: &str| format!("Content-Length: {}\r\n", order(text).len());
    let id = siege.next();
    assert_eq!(
        siege
            .told(good(&id).replacen(&length(&id), &length(&id).repeat(2), 1))
            .await
            .0,
        200
    );
    let id = siege.next();
    let (head, body) = good(&id)
        .split_once("\r\n\r\n")
        .map(|(head, body)| (head.replace("\r\n", "\n"), body.to_owned()))
        .unwrap();
    assert_eq!(siege.told(format!("{head}\n\n{body}")).await.0, 200);
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
