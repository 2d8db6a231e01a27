//! Bodies that are too large, too slow, too many, compressed too much or nested too deeply.

use std::time::Duration;

use futures_util::future::join_all;

use super::{PATH, Siege, good, signed};
use crate::harness::{
    careem::{SECRET, order, sign},
    packed::{empty_blocks, gzip, padded, zlib},
    raw::{Raw, request},
    wait::{PATIENCE, eventually},
};

const MAX_BODY: usize = 5 * 1024 * 1024;
/// Most memory (kB) that a hub may ever have had, whatever is sent: bodies have 32 MiB, and the rest is the program.
const MAX_MEMORY_KB: u64 = 160 * 1024;

/// The same of text that packs four times, as a large honest body does.
fn dense(id: &str, bytes: usize) -> String {
    let order = order(id);
    let head = order.trim_end().strip_suffix('}').unwrap();
    let mut body = format!(r#"{head},"pad":["#);
    let mut state = 1_u64;
    while body.len() < bytes - 1200 {
        body.push('"');
        for _ in 0..130 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            body += &format!("{:08x}", state >> 32);
        }
        body += "\",";
    }
    let rest = "x".repeat(bytes - body.len() - 4);
    format!(r#"{body}"{rest}"]}}"#)
}

/// A request with a packed body, signed as what it unpacks to.
fn packed(encoding: &str, plain: &str, body: &[u8]) -> Vec<u8> {
    let mut head = format!("POST {PATH} HTTP/1.1\r\nHost: hub\r\nContent-Encoding: {encoding}\r\n");
    for header in signed(plain) {
        head += &format!("{header}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The most memory that the hub has had so far, kB.
fn memory(siege: &Siege) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", siege.hub.pid())).unwrap_or_default();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    most.map_or(0, |most| most.trim().trim_end_matches(" kB").parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused() {
    let siege = Siege::new().await;
    let (fits, over) = (|id: &str| padded(id, MAX_BODY), padded("CR-over", MAX_BODY + 1));
    let refused = (413, "PAYLOAD_TOO_LARGE".to_owned());
    let headers = signed(&over);
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    assert_eq!(siege.told(request("POST", PATH, &headers, &over)).await, refused);
    // Without saying so before.
    let chunked = format!(
        "POST {PATH} HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n{}\r\n\r\n{:x}\r\n{over}\r\n0\r\n\r\n",
        headers.join("\r\n"),
        over.len()
    );
    assert_eq!(siege.told(chunked).await, refused);
    // It says that it is large, and waits to be told to go on.
    let waiting = format!(
        "POST {PATH} HTTP/1.1\r\nHost: hub\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        1_u64 << 40
    );
    let started = tokio::time::Instant::now();
    let told = siege.told(waiting).await;
    assert!(told == refused || told.0 == 100, "{told:?}");
    assert!(started.elapsed() < PATIENCE);
    siege.stands("a body of a byte too much").await;
    let plain = fits(&siege.next());
    let headers = signed(&plain);
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    assert_eq!(siege.told(request("POST", PATH, &headers, &plain)).await.0, 200);
    siege.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_cannot_be_decompressed_is_refused() {
    let siege = Siege::new().await;
    let plain = order("CR-packed");
    let whole = gzip(plain.as_bytes());
    for (what, encoding, body) in [
        ("half of it", "gzip", whole[..whole.len() / 2].to_vec()),
        ("without its end", "gzip", whole[..whole.len() - 4].to_vec()),
        ("not packed at all", "gzip", plain.clone().into_bytes()),
        ("packed in another way", "gzip", zlib(plain.as_bytes())),
        ("packed twice", "gzip, gzip", gzip(&whole)),
        ("in a way that nobody knows", "br", whole.clone()),
        ("with something behind it", "gzip", [&whole[..], b"and more"].concat()),
        ("with zeros behind it", "gzip", [&whole[..], &[0; 512]].concat()),
        (
            "of empty members",
            "gzip",
            [gzip(b"").repeat(200_000), whole.clone()].concat(),
        ),
        ("of empty blocks", "deflate", empty_blocks(800_000, plain.as_bytes())),
        (
            "with something behind it",
            "deflate",
            [&zlib(plain.as_bytes())[..], b"{}"].concat(),
        ),
    ] {
        let told = siege.told(packed(encoding, &plain, &body)).await;
        assert_eq!(told, (400, "INVALID_PAYLOAD".to_owned()), "{what}");
        siege.stands(what).await;
    }
    // Compressed twice but declared once, the body is not JSON, and its signature fits no provider.
    let told = siege.told(packed("gzip", &plain, &gzip(&whole))).await;
    assert_eq!(told, (401, "INVALID_SIGNATURE".to_owned()));
    // The signature is that of what was packed, not of the package.
    let mut wrong = packed("gzip", &plain, &whole);
    let at = wrong
        .windows(64)
        .position(|window| window == sign(SECRET, plain.as_bytes()).as_bytes())
        .unwrap();
    wrong[at..at + 64].copy_from_slice(sign(SECRET, &whole).as_bytes());
    assert_eq!(siege.told(wrong).await, (401, "INVALID_SIGNATURE".to_owned()));
    let plain = order(&siege.next());
    assert_eq!(siege.told(packed("gzip", &plain, &gzip(plain.as_bytes()))).await.0, 200);
    siege.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_slow_is_refused() {
    let siege = Siege::with(&[("REQUEST_TIMEOUT", "2s")]).await;
    let drip = async || {
        let mut client = Raw::connect(siege.hub.address()).await;
        let (head, body) = good("CR-slow")
            .split_once("\r\n\r\n")
            .map(|(head, body)| (head.to_owned(), body.to_owned()))
            .unwrap();
        client.write(format!("{head}\r\n\r\n")).await;
        // Its end never comes, though something always does.
        for byte in body.bytes().cycle() {
            match tokio::time::timeout(Duration::from_millis(50), client.answer()).await {
                Ok(answer) => return (answer, client.is_closed().await),
                Err(_) => drop(client.write([byte]).await),
            }
        }
        (None, false)
    };
    let (told, ()) = tokio::join!(
        join_all((0..50).map(|_| drip())),
        siege.stands("slow bodies, while they come")
    );
    for (answer, closed) in told {
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, answer.code().as_str()), (408, "REQUEST_TIMEOUT"));
        assert!(closed, "what follows could be taken for a request");
    }
    // In two pieces, and in time.
    let request = good(&siege.next());
    let (first, second) = request.split_at(request.len() - 20);
    let mut client = Raw::connect(siege.hub.address()).await;
    client.write(first).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.write(second).await;
    assert_eq!(client.answer().await.unwrap().status, 200);
    siege.stands("slow bodies").await;
    siege.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_beyond_the_memory_budget_are_refused() {
    let siege = Siege::new().await;
    // Ten bodies that are all there but for their last byte; not more than six have room.
    let body = padded("CR-crowd", MAX_BODY);
    let whole = request("POST", PATH, &[], &body);
    let mut crowd = join_all((0..10).map(|_| async {
        let mut client = Raw::connect(siege.hub.address()).await;
        client.write(&whole[..whole.len() - 1]).await;
        client
    }))
    .await;
    let told = join_all(crowd.iter_mut().map(async |client| {
        tokio::time::timeout(Duration::from_secs(2), client.answer())
            .await
            .ok()
            .flatten()
    }))
    .await;
    let refused: Vec<_> = told.into_iter().flatten().collect();
    // Who got so far as to be in the way of the others may be turned away as well.
    assert!((4..10).contains(&refused.len()), "{refused:?}");
    for answer in refused {
        assert_eq!((answer.status, answer.code().as_str()), (503, "OVERLOADED"));
        assert!(answer.head.to_ascii_lowercase().contains("retry-after: "), "{answer:?}");
    }
    // Ordinary orders still have room, and the rest when the crowd is gone.
    siege.stands("a crowd of large bodies, while it stands").await;
    drop(crowd);
    let plain = padded(&siege.next(), MAX_BODY);
    let headers = signed(&plain);
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let large = request("POST", PATH, &headers, &plain);
    eventually("there is room again", PATIENCE, async || {
        match siege.told(&large).await {
            (200, _) => Ok(()),
            told => Err(told),
        }
    })
    .await;
    assert!(memory(&siege) < MAX_MEMORY_KB, "{} kB", memory(&siege));
    siege.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_nested_too_deeply_is_refused() {
    let siege = Siege::new().await;
    const DEPTH: usize = 100_000;
    let lists = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let objects = format!("{}1{}", r#"{"a":"#.repeat(DEPTH), "}".repeat(DEPTH));
    for (what, body) in [
        ("lists", lists.clone()),
        ("objects", objects.clone()),
        ("lists as the id", format!(r#"{{"id":{lists}}}"#)),
        ("lists that do not end", "[".repeat(DEPTH)),
        ("objects that do not end", r#"{"a":"#.repeat(DEPTH)),
    ] {
        // A stranger does not get as far as that.
        let told = siege.told(request("POST", PATH, &[], &body)).await;
        assert_eq!(told, (401, "INVALID_SIGNATURE".to_owned()), "{what}");
        let headers = signed(&body);
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let told = siege.told(request("POST", PATH, &headers, &body)).await;
        assert_eq!(told, (400, "INVALID_PAYLOAD".to_owned()), "{what}");
        siege.stands(what).await;
    }
    // By the provider itself, beside what an order needs: one level too many, and the last that is let in.
    for (depth, status) in [(DEPTH, 400), (64, 400), (63, 200)] {
        let id = if status == 200 {
            siege.next()
        } else {
            "CR-deep".to_owned()
        };
        let order = order(&id);
        let order = order.trim_end().strip_suffix('}').unwrap();
        let body = format!(r#"{order}, "deep": {}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        let headers = signed(&body);
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let told = siege.told(request("POST", PATH, &headers, &body)).await;
        assert_eq!(told.0, status, "{depth}: {told:?}");
        siege.stands("depth in a signed order").await;
    }
    siege.ends().await;
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn decompression_bombs_are_refused() {
        let _turn = crate::harness::wait::heavy().await;
        let siege = Siege::new().await;
        let (fits, over) = (|id: &str| dense(id, MAX_BODY), dense("CR-over", MAX_BODY + 1));
        let refused = (413, "PAYLOAD_TOO_LARGE".to_owned());

        // Megabytes of nothing make small bombs.
        let many = |pack: fn(&[u8]) -> Vec<u8>| pack(&vec![b' '; 1 << 20]).repeat(200);
        let all_of_it = " ".repeat(200 << 20);
        for (encoding, bomb) in [
            ("gzip", gzip(over.as_bytes())),
            ("deflate", zlib(over.as_bytes())),
            ("gzip", gzip(all_of_it.as_bytes())),
            ("x-gzip", gzip(all_of_it.as_bytes())),
            ("deflate", zlib(all_of_it.as_bytes())),
            // One after the other, each small enough.
            ("gzip", many(gzip)),
        ] {
            let bytes = bomb.len();
            assert_eq!(
                siege.told(packed(encoding, "", &bomb)).await,
                refused,
                "{encoding}, {bytes} bytes"
            );
            siege.stands("a bomb").await;
        }
        let bomb = packed("gzip", "", &gzip(all_of_it.as_bytes()));
        drop(all_of_it);
        let told = join_all((0..20).map(|_| siege.told(&bomb))).await;
        for (status, code) in told {
            assert!(
                matches!((status, &*code), (413, "PAYLOAD_TOO_LARGE") | (503, "OVERLOADED")),
                "{status} {code}"
            );
        }
        siege.stands("twenty bombs at a time").await;
        assert!(memory(&siege) < MAX_MEMORY_KB, "{} kB", memory(&siege));

        // What just fits is let in.
        let plain = fits(&siege.next());
        assert_eq!(siege.told(packed("gzip", &plain, &gzip(plain.as_bytes()))).await.0, 200);
        let plain = fits(&siege.next());
        assert_eq!(
            siege.told(packed("deflate", &plain, &zlib(plain.as_bytes()))).await.0,
            200
        );
        let plain = fits(&siege.next());
        let parts = [gzip(&plain.as_bytes()[..1000]), gzip(&plain.as_bytes()[1000..])].concat();
        assert_eq!(siege.told(packed("gzip", &plain, &parts)).await.0, 200);
        siege.ends().await;
    }
}
