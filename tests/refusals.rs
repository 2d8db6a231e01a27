//! Strangers and broken senders: what is refused, with which answer, and that its nearest neighbour is accepted.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use reqwest::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{
    World,
    at_end::Ends,
    careem::{self, MERCHANT, SECRET, order, sign},
    hub::Hub,
    packed::padded,
    wait::PATIENCE,
};

const MAX_BODY: usize = 5 * 1024 * 1024;

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn other_ways_to_call() {
    let world = World::new().await;
    let hub = world.hub().await;
    for (method, path, status, code) in [
        (Method::POST, "/api/webhooks/talabat", 404, "PROVIDER_NOT_FOUND"),
        (Method::POST, "/api/webhooks/CAREEM", 404, "PROVIDER_NOT_FOUND"),
        (Method::GET, "/api/webhooks/careem", 405, "METHOD_NOT_ALLOWED"),
        (Method::PUT, "/api/webhooks/careem", 405, "METHOD_NOT_ALLOWED"),
        (Method::POST, "/api/webhooks", 404, "NOT_FOUND"),
        (Method::GET, "/", 404, "NOT_FOUND"),
    ] {
        let answer = world
            .careem
            .request(method.clone(), &format!("{}{path}", hub.url()))
            .await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{method} {path}"
        );
        let body = answer.json();
        assert_eq!(body["success"], false, "{method} {path}");
        assert_eq!(body["requestId"], answer.header("x-request-id"), "{method} {path}");
    }
    world.careem.post(&hub, &order("CR-known")).await.event_id();
    world.at_end(Ends::forwarded(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_not_on_the_list() {
    let world = World::new().await;
    let listed = world
        .settings()
        .set("CAREEM_IP_WHITELIST", "203.0.113.0/24,2001:db8::/32");
    let direct = Hub::start(&listed).await;
    let behind_proxy = Hub::start(&listed.set("TRUSTED_PROXIES", "127.0.0.1")).await;
    for (hub, forwarded_for, status) in [
        (&direct, "", 403),
        (&direct, "203.0.113.9", 403),
        (&behind_proxy, "", 403),
        (&behind_proxy, "203.0.113.9", 200),
        (&behind_proxy, "198.51.100.1, 203.0.113.10", 200),
        (&behind_proxy, "203.0.113.9, 198.51.100.1", 403),
        (&behind_proxy, "2001:db8::7", 200),
        (&behind_proxy, "2001:db9::7", 403),
    ] {
        let body = order(&format!("CR-from-{}", forwarded_for.replace([':', '.', ' ', ','], "-")));
        let signature = sign(SECRET, body.as_bytes());
        let mut headers = vec![("x-careem-signature", signature.as_str()), ("x-merchant-id", MERCHANT)];
        headers.extend((!forwarded_for.is_empty()).then_some(("x-forwarded-for", forwarded_for)));
        let answer = world.careem.post_raw(hub, body, &headers).await;
        assert_eq!(answer.status, status, "{forwarded_for}: {answer:?}");
        assert_eq!(answer.code(), if status == 403 { "IP_NOT_ALLOWED" } else { "" });
    }
    world.at_end(Ends::forwarded(3)).await;
    let rows = world
        .database
        .rows("SELECT DISTINCT ip_address FROM webhook_logs ORDER BY ip_address")
        .await
        .unwrap();
    let addresses: Vec<_> = rows.iter().map(|row| row["ip_address"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["2001:db8::7", "203.0.113.10", "203.0.113.9"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_large() {
    let world = World::new().await;
    let hub = world.hub().await;
    assert_eq!(
        world.careem.post(&hub, &padded("CR-largest", MAX_BODY)).await.status,
        200
    );
    let answer = world.careem.post(&hub, &padded("CR-too-large", MAX_BODY + 1)).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "PAYLOAD_TOO_LARGE"));
    for (plain, status, code) in [
        (padded("CR-zipped", 200_000), 200, ""),
        (padded("CR-zipped-too-well", MAX_BODY), 413, "PAYLOAD_TOO_LARGE"),
        (padded("CR-bomb", MAX_BODY + 1), 413, "PAYLOAD_TOO_LARGE"),
        (padded("CR-large-bomb", 20 * MAX_BODY), 413, "PAYLOAD_TOO_LARGE"),
    ] {
        let signature = sign(SECRET, plain.as_bytes());
        let headers = [
            ("x-careem-signature", signature.as_str()),
            ("x-merchant-id", MERCHANT),
            ("content-encoding", "gzip"),
        ];
        let answer = world.careem.post_raw(&hub, gzip(plain.as_bytes()), &headers).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{} bytes",
            plain.len()
        );
    }
    world.at_end(Ends::forwarded(2)).await;
}

/// Sends these bytes and no more; the whole answer, which ends when the hub closes the connection.
async fn send_half(hub: &Hub, bytes: &str) -> String {
    let mut stream = TcpStream::connect(hub.address()).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    closed.expect("the hub closes the connection").unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_that_stop_half_way() {
    let world = World::new().await;
    let hub = Hub::start(&world.settings().set("REQUEST_TIMEOUT", "1s")).await;
    let began = Instant::now();
    let head = "POST /api/webhooks/careem HTTP/1.1\r\nHost: hub\r\n";
    let body = format!("{head}Content-Length: 100\r\n\r\n{{\"id\":");
    let (half_head, half_body, silent) =
        tokio::join!(send_half(&hub, head), send_half(&hub, &body), send_half(&hub, ""));
    assert!(
        half_body.starts_with("HTTP/1.1 408 ") && half_body.contains("REQUEST_TIMEOUT"),
        "{half_body}"
    );
    for answer in [half_head, silent] {
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    world.careem.post(&hub, &order("CR-whole")).await.event_id();
    world.at_end(Ends::forwarded(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_that_do_not_fit() {
    let world = World::new().await;
    let hub = Hub::start(&world.settings().set("CAREEM_WEBHOOK_SECRET", "new-secret, old-secret")).await;
    let body = order("CR-signed");
    let (new, old) = (sign("new-secret", body.as_bytes()), sign("old-secret", body.as_bytes()));
    let (wrong, of_other) = (sign("another", body.as_bytes()), sign("new-secret", b"{}"));
    let upper = new.to_uppercase();
    for (signature, status) in [
        (None, 401),
        (Some(""), 401),
        (Some("nonsense"), 401),
        (Some(&*wrong), 401),
        (Some(&*of_other), 401),
        (Some(&new[..62]), 401),
        (Some(&*new), 200),
        (Some(&*upper), 200),
        (Some(&*old), 200),
    ] {
        let mut headers = vec![("x-merchant-id", MERCHANT)];
        headers.extend(signature.map(|signature| ("x-careem-signature", signature)));
        let answer = world.careem.post_raw(&hub, body.as_str(), &headers).await;
        assert_eq!(answer.status, status, "{signature:?}: {answer:?}");
        assert_eq!(answer.code(), if status == 401 { "INVALID_SIGNATURE" } else { "" });
    }
    let metrics = world.metrics(&hub).await;
    assert!(
        metrics.contains("signature_failures_total{provider=\"careem\"} 6"),
        "{metrics}"
    );
    world.at_end(Ends::forwarded(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_that_are_no_order() {
    let world = World::new().await;
    let hub = world.hub().await;
    let (longest, too_long) = ("x".repeat(128), "x".repeat(129));
    let refused = [
        "".to_owned(),
        "[]".to_owned(),
        "\"CR1\"".to_owned(),
        "{".to_owned(),
        r#"{"id":"CR1"} and more"#.to_owned(),
        "{}".to_owned(),
        r#"{"id":null}"#.to_owned(),
        r#"{"id":""}"#.to_owned(),
        r#"{"id":" "}"#.to_owned(),
        r#"{"id":{}}"#.to_owned(),
        r#"{"id":true}"#.to_owned(),
        r#"{"id":"CR\u0000"}"#.to_owned(),
        r#"{"id":"CR\n"}"#.to_owned(),
        order(&too_long),
        format!("\u{feff}{}", order("CR-bom")),
        order("CR-twice").replacen('{', r#"{"id":"CR-other","#, 1),
        order("CR-twice").replacen(r#""name":"#, r#""n\u0061me":"x","name":"#, 1),
        order("CR-deep").replacen('{', &format!(r#"{{"a":{}{},"#, "[".repeat(64), "]".repeat(64)), 1),
        order("CR-large").replacen('{', r#"{"a":1e400,"#, 1),
        order("CR<script>"),
        order("../../admin"),
        order(".."),
    ];
    for body in refused {
        let answer = world.careem.post(&hub, &body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "INVALID_PAYLOAD"),
            "{body}"
        );
    }
    let number = order("CR-number").replace("\"CR-number\"", "9007199254740993123");
    let ids = [longest.as_str(), "9007199254740993123", "طلب ١", "..x?y"];
    for body in [order(ids[0]), number, order(ids[2]), order(ids[3])] {
        assert_eq!(world.careem.post(&hub, &body).await.status, 200, "{body}");
    }
    // As a piece of a path, too, an id stays what it is.
    world
        .careem
        .post(&hub, &careem::change("..x?y", "cancelled"))
        .await
        .event_id();
    world.at_end(Ends::forwarded(5)).await;
    let mut requests = world.backend.requests();
    let change = requests
        .iter()
        .position(|request| request.path.ends_with("/status"))
        .unwrap();
    assert_eq!(requests.remove(change).path, "/api/integration/orders/..x%3Fy/status");
    let mut arrived: Vec<_> = requests
        .iter()
        .map(|request| request.json()["transformedOrder"]["externalOrderId"].clone())
        .collect();
    arrived.sort_by_key(|id| ids.iter().position(|one| id == one));
    assert_eq!(json!(arrived), json!(ids));
}
