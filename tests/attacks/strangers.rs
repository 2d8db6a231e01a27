//! Senders that pretend to be another one: by the path, the method, the address, or a signature of another message.

use futures_util::future::join_all;
use serde_json::Value;

use super::{PATH, Siege, good, order_to, signed};
use crate::harness::{
    at_end::Ends,
    careem::{MERCHANT, SECRET, order, sign},
    raw::{Raw, request},
};

/// Names that are no provider's.
const NOBODY: [&str; 16] = [
    "/api/webhooks/..%2fcareem",
    "/api/webhooks/%2e%2e%2fcareem",
    "/api/webhooks/careem%00",
    "/api/webhooks/careem%0d%0aX-Injected:%201",
    "/api/webhooks/careem%20",
    "/api/webhooks/careem%2f",
    "/api/webhooks/%2fcareem",
    "/api/webhooks/careem;x=1",
    "/api/webhooks/careem.json",
    "/api/webhooks/Careem",
    "/api/webhooks/CAREEM",
    "/api/webhooks/c%D0%B0reem",
    "/api/webhooks/%ff%fe",
    "/api/webhooks/_",
    "/api/webhooks/*",
    "/api/webhooks/talabat",
];
/// Paths that lead nowhere.
const NOWHERE: [&str; 8] = [
    "/api/webhooks/careem/x",
    "/api/webhooks/./careem",
    "/api/webhooks/x/../careem",
    "/api/webhooks/careem/..",
    "/api/webhooks/",
    "/api/webhooks",
    "/API/webhooks/careem",
    "/",
];

#[tokio::test(flavor = "multi_thread")]
async fn tricks_in_the_path() {
    let siege = Siege::new().await;
    let long = format!("/api/webhooks/{}", "a".repeat(20_000));
    let nobody = NOBODY
        .into_iter()
        .chain([&*long])
        .map(|path| (path, "PROVIDER_NOT_FOUND"));
    for (path, code) in nobody.chain(NOWHERE.map(|path| (path, "NOT_FOUND"))) {
        let mut client = Raw::connect(siege.hub.address()).await;
        client.write(order_to(path, &[], "CR-path")).await;
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (404, code), "{path}");
        assert!(!answer.head.to_ascii_lowercase().contains("x-injected"), "{answer:?}");
        siege.stands(path).await;
    }
    // The same place, written in another way.
    for path in [
        "/api/webhooks/%63areem",
        "/api/webhooks/careem/",
        "//api/webhooks/careem",
        "/api//webhooks/careem",
        "/api/webhooks//careem",
        "/api/webhooks/careem?x=../..&y=%00",
        "http://elsewhere/api/webhooks/careem",
    ] {
        assert_eq!(siege.told(order_to(path, &[], &siege.next())).await.0, 200, "{path}");
    }
    // A provider that is known but not enabled.
    let off = Siege::with(&[("CAREEM_ENABLED", "false")]).await;
    let told = off.told(good("CR-off")).await;
    assert_eq!(told, (404, "PROVIDER_NOT_FOUND".to_owned()));
    off.ends().await;
    // Names that anyone may make up are no labels.
    let metrics = siege.world.metrics(&siege.hub).await;
    let labels: Vec<_> = metrics
        .lines()
        .filter(|line| line.starts_with("webhooks_rejected_total") && !line.ends_with(" 0"))
        .collect();
    let is_known = |line: &str| line.contains(r#"provider="_""#) || line.contains(r#"provider="careem""#);
    assert!(labels.iter().all(|line| is_known(line)), "{labels:?}");
    siege.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tricks_with_the_method() {
    let siege = Siege::new().await;
    let body = order("CR-method");
    let headers = signed(&body);
    let mut headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    headers.extend([
        "X-HTTP-Method-Override: POST",
        "X-Method-Override: POST",
        "X-HTTP-Method: POST",
    ]);
    for method in [
        "GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", "Post", "POSTX", "PROPFIND",
    ] {
        let mut client = Raw::connect(siege.hub.address()).await;
        client.write(request(method, PATH, &headers, &body)).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (405, "METHOD_NOT_ALLOWED"),
            "{method}"
        );
        assert!(answer.head.to_ascii_lowercase().contains("allow: post"), "{answer:?}");
        // A request is not told back to whoever sent it.
        assert!(!answer.body.contains("CR-method"), "{answer:?}");
        siege.stands(method).await;
    }
    for connect in [
        "CONNECT careem:443 HTTP/1.1\r\n\r\n",
        "CONNECT /api/webhooks/careem HTTP/1.1\r\n\r\n",
    ] {
        let told = siege.told(connect).await;
        assert!((400..500).contains(&told.0), "{connect}: {told:?}");
        siege.stands(connect).await;
    }
    assert_eq!(siege.told(good(&siege.next())).await.0, 200);
    siege.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_addresses() {
    const LIST: (&str, &str) = ("CAREEM_IP_WHITELIST", "203.0.113.0/24");
    let direct = Siege::with(&[LIST]).await;
    let behind = Siege::with(&[LIST, ("TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/8")]).await;
    let crowd = format!("X-Forwarded-For: {}198.51.100.1", "203.0.113.9, ".repeat(1000));
    let far = format!("X-Forwarded-For: 203.0.113.9{}", ", 10.0.0.1".repeat(1000));
    let refused = (403, "IP_NOT_ALLOWED".to_owned());
    // Without trusted proxies no header is believed.
    for header in [
        "X-Forwarded-For: 203.0.113.9",
        "X-Real-IP: 203.0.113.9",
        "Forwarded: for=203.0.113.9",
        "True-Client-IP: 203.0.113.9",
        "X-Forwarded-For: 127.0.0.1",
    ] {
        assert_eq!(
            direct.told(order_to(PATH, &[header], "CR-forged")).await,
            refused,
            "{header}"
        );
    }
    for headers in [
        &[][..],
        &["X-Forwarded-For: 198.51.100.1"],
        // What the caller wrote stands to the left of what our proxy saw.
        &["X-Forwarded-For: 203.0.113.9, 198.51.100.1"],
        &["X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 198.51.100.1"],
        &["X-Forwarded-For: 203.0.113.9, 10.0.0.1, 198.51.100.1"],
        &["X-Forwarded-For: 203.0.113.9, ::ffff:198.51.100.1"],
        &["X-Forwarded-For: 203.0.113.9, nobody"],
        &["X-Forwarded-For: 203.0.113.9, "],
        &["X-Forwarded-For: 203.0.113.9, nobody, 10.0.0.1"],
        &["X-Forwarded-For: 203.0.113.9\u{e9}"],
        &["X-Forwarded-For: 203.0.113.09"],
        &["X-Forwarded-For: 3405803785"],
        &["X-Forwarded-For: 203.0.113.9/24"],
        &["X-Real-IP: 203.0.113.9"],
        &["Forwarded: for=203.0.113.9"],
        &[&crowd],
        &[&far],
    ] {
        let told = behind.told(order_to(PATH, headers, "CR-forged")).await;
        assert_eq!(told, refused, "{headers:?}");
    }
    // The neighbours: our proxy saw an address of the list, however it writes it, and whatever stands before.
    for header in [
        "203.0.113.9",
        "203.0.113.9:4711",
        "::ffff:203.0.113.9",
        "[::ffff:203.0.113.9]:4711",
        "198.51.100.1, 203.0.113.9",
        "nobody, 203.0.113.9",
        "203.0.113.9, 10.0.0.1",
        "203.0.113.9, ::ffff:10.0.0.1, 127.0.0.1",
    ] {
        let header = format!("X-Forwarded-For: {header}");
        let told = behind.told(order_to(PATH, &[&header], &behind.next())).await;
        assert_eq!(told.0, 200, "{header}: {told:?}");
    }
    let addresses = behind.world.log.settled().await;
    let addresses = addresses.iter().filter_map(|event| event.envelope.request.as_ref());
    for address in addresses {
        assert_eq!(address.client_address, "203.0.113.9");
    }
    behind.ends().await;
    direct.ends().await;
}

/// On a socket for both families a peer of the old one has an address of the new one.
#[tokio::test(flavor = "multi_thread")]
async fn addresses_on_a_socket_for_both_families() {
    if std::net::TcpListener::bind("[::]:0").is_err() {
        eprintln!("this machine has no IPv6");
        return;
    }
    let listen = ("LISTEN_ADDRESS", "::");
    let listed = Siege::with(&[listen, ("CAREEM_IP_WHITELIST", "127.0.0.0/8")]).await;
    let other = Siege::with(&[listen, ("CAREEM_IP_WHITELIST", "::/96,203.0.113.0/24")]).await;
    for (siege, status) in [(&listed, 200), (&other, 403)] {
        let mut client = Raw::connect(([127, 0, 0, 1], siege.hub.address().port()).into()).await;
        let id = if status == 200 {
            siege.next()
        } else {
            "CR-other".to_owned()
        };
        client.write(good(&id)).await;
        assert_eq!(client.answer().await.unwrap().status, status);
    }
    listed.ends().await;
    other.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_request_is_replayed() {
    let siege = Siege::new().await;
    let replayed = good(&siege.next());
    let told = async || {
        let mut client = Raw::connect(siege.hub.address()).await;
        client.write(&replayed).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let data = serde_json::from_str::<Value>(&answer.body).unwrap()["data"].clone();
        (
            data["duplicate"].as_bool().unwrap(),
            data["eventId"].as_str().unwrap().to_owned(),
        )
    };
    let (duplicate, id) = told().await;
    assert!(!duplicate);
    assert_eq!(told().await, (true, id.clone()));
    for told in join_all((0..20).map(|_| told())).await {
        assert_eq!(told, (true, id.clone()));
    }
    siege.stands("twenty-one replays").await;
    // Also from another sender, with another address and other header names.
    let elsewhere = replayed
        .replace("x-merchant-id", "X-MERCHANT-ID")
        .replace("Host: hub", "Host: other\r\nX-Request-Id: 7");
    let (status, _) = siege.told(elsewhere).await;
    assert_eq!(status, 200);
    let good = siege.good.into_inner();
    siege.world.at_end(Ends::forwarded(good)).await;
    assert_eq!(siege.world.backend.count(), good, "each is forwarded once");
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_of_something_else() {
    let siege = Siege::new().await;
    let body = order("CR-tampered");
    let signature = sign(SECRET, body.as_bytes());
    let again = serde_json::from_str::<Value>(&body).unwrap();
    let pretty = serde_json::to_string_pretty(&again).unwrap();
    let merchant = format!("x-merchant-id: {MERCHANT}");
    let under = |header: &str, body: &str| request("POST", PATH, &[header, &merchant], body);
    let signed_as = |signature: &str| format!("x-careem-signature: {signature}");
    let tampered = [
        ("the same JSON, written again", again.to_string()),
        ("the same JSON, in lines", pretty),
        ("a byte more", format!("{body} ")),
        ("a line more", format!("{body}\n")),
        ("a byte less", body[..body.len() - 1].to_owned()),
        ("a byte before", format!(" {body}")),
        ("a mark before", format!("\u{feff}{body}")),
        ("another price", body.replacen('5', "6", 1)),
        ("another case", body.to_uppercase()),
        ("nothing", String::new()),
    ];
    for (what, other) in &tampered {
        assert_ne!(other, &body, "{what}");
        let told = siege.told(under(&signed_as(&signature), other)).await;
        assert_eq!(told, (401, "INVALID_SIGNATURE".to_owned()), "{what}");
        siege.stands(what).await;
    }
    let shifted: String = signature.chars().rev().collect();
    for header in [
        signed_as(&shifted),
        signed_as(&format!("{signature}00")),
        signed_as(&signature[..62]),
        signed_as(&sign("", body.as_bytes())),
        signed_as(&sign(&SECRET.to_uppercase(), body.as_bytes())),
        signed_as(&"0".repeat(64)),
        signed_as(&"f".repeat(10_000)),
        signed_as(""),
        format!("x-signature: {signature}"),
        format!("authorization: Bearer {SECRET}"),
    ] {
        let told = siege.told(under(&header, &body)).await;
        assert_eq!(told, (401, "INVALID_SIGNATURE".to_owned()), "{header}");
    }
    siege.stands("wrong signatures").await;
    siege.ends().await;
}
