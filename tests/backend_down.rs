//! The backend is away, slow, confused or set up wrongly: every order reaches it in the end, once and in order, or is
//! given up on for a reason that a person can read.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use webhook_hub::event::{EventType, Recorded};

use crate::harness::{
    World,
    at_end::Ends,
    backend::{Answer, ORDERS},
    careem::{self, change, order, sign},
    hub::Hub,
    ids,
    log::payload,
    wait::{PATIENCE, eventually},
};

/// How long the breaker of these tests stays open.
const RESET: Duration = Duration::from_millis(500);

/// The attempts that are on the log as failed.
fn attempts(failed: &[impl AsRef<Recorded>]) -> Vec<Value> {
    failed
        .iter()
        .map(|event| payload(event.as_ref())["attempt"].clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_is_stopped() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.close().await;
    world.post_orders(&hub, ids("stopped", 4)).await;
    let failed = world.log.wait_for(EventType::OrderForwardFailed, 1).await;
    assert_eq!(payload(&failed[0])["error"]["code"], "BACKEND_UNREACHABLE");
    world.backend.open();
    world.at_end(Ends::forwarded(4)).await;
    assert_eq!(world.backend.count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_500_twice() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.next([Answer::status(500), Answer::status(500)]);
    world.post_orders(&hub, ids("twice", 1)).await;
    // A later word about the order waits behind it.
    world
        .careem
        .post(&hub, &careem::change("CR-twice-0", "cancelled"))
        .await
        .event_id();
    eventually("the row says retrying", PATIENCE, async || {
        let query = "SELECT status, retry_count, error_message, next_retry_at > received_at AS later
                     FROM webhook_logs WHERE webhook_type = 'order_created'";
        let rows = world.database.rows(query).await.map_err(|error| error.to_string())?;
        let row = rows.first().cloned().unwrap_or_default();
        let text = row["error_message"].as_str().unwrap_or_default();
        if row["status"] == "retrying" && row["retry_count"] == 0 && row["later"] == true && text.contains("500") {
            Ok(())
        } else {
            Err(row.to_string())
        }
    })
    .await;
    let forwarded = world.log.wait_for(EventType::OrderForwarded, 2).await;
    assert_eq!(payload(&forwarded[0])["attempts"], 3);
    world.at_end(Ends::forwarded(2)).await;

    let failed = world.log.wait_for(EventType::OrderForwardFailed, 2).await;
    assert_eq!(attempts(&failed), [json!(1), json!(2)]);
    let requests = world.backend.requests();
    let paths: Vec<_> = requests.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(
        paths,
        [ORDERS, ORDERS, ORDERS, "/api/integration/orders/CR-twice-0/status"]
    );
    let pauses: Vec<_> = requests.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(
        pauses[0] >= Duration::from_secs(1) && pauses[1] >= Duration::from_secs(2),
        "{pauses:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_opens_and_lets_it_recover() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.otherwise(Answer::status(503));
    world.post_orders(&hub, ids("storm", 20)).await;
    world.breaker_becomes(&hub, "open").await;
    let at_opening = world.backend.count();
    assert!((5..=20).contains(&at_opening), "{at_opening} requests before it opened");
    hub.says("circuit breaker open").await;
    let requests = world.backend.wait_for(at_opening + 2).await;
    // Whoever is ill is left alone: a few trials each time that the breaker closes half.
    for (at, request) in requests.iter().enumerate().skip(at_opening) {
        let soon_after = requests[at..]
            .iter()
            .filter(|other| other.at - request.at < RESET * 4 / 5)
            .count();
        assert!(
            soon_after <= 3,
            "{soon_after} requests at a time though the breaker is not closed"
        );
    }
    let metrics = world.metrics(&hub).await;
    assert!(
        !metrics.contains("circuit_breaker_state{state=\"closed\"} 1"),
        "{metrics}"
    );
    world.backend.otherwise(Answer::Accept);
    world.breaker_becomes(&hub, "closed").await;
    // None of those that waited is forgotten on the way: longer than a breaker's pause and a quick retry none waits.
    eventually("all are forwarded soon", Duration::from_secs(8), async || {
        let events = world.log.try_events().await.map_err(|error| error.to_string())?;
        let forwarded = events
            .iter()
            .filter(|event| event.envelope.event_type == EventType::OrderForwarded)
            .count();
        if forwarded == 20 {
            Ok(())
        } else {
            Err(forwarded.to_string())
        }
    })
    .await;
    world.at_end(Ends::forwarded(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_refuses_one_order() {
    let world = World::new().await;
    let hub = world.hub().await;
    for (id, status) in [("CR-bad-0", 422), ("CR-bad-1", 400), ("CR-bad-2", 413)] {
        let told = json!({ "error": { "code": "BAD_PHONE", "message": "+962791234567 is no phone" } }).to_string();
        world.backend.next_for(id, [Answer::Say(status, told, Vec::new())]);
    }
    world.post_orders(&hub, ids("bad", 4)).await;
    world.at_end(Ends::forwarded(1).dead_lettered(3)).await;
    assert_eq!(world.backend.count(), 4, "none is tried again");
    let query =
        "SELECT error_type, error_code, error_details, retry_count FROM delivery_error_logs ORDER BY error_code";
    let rows = world.database.rows(query).await.unwrap();
    let expected = ["BACKEND_400", "BACKEND_413", "BACKEND_422"].map(|code| {
        json!({ "error_type": "validation", "error_code": code, "error_details": { "backendCode": "BAD_PHONE" }, "retry_count": 0 })
    });
    assert_eq!(rows, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_already_has_the_order() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.next([Answer::Say(
        409,
        json!({ "existingOrderId": "order-77" }).to_string(),
        Vec::new(),
    )]);
    world.post_orders(&hub, ids("conflict", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    let forwarded = world.log.payloads(EventType::OrderForwarded, 1).await.remove(0);
    assert_eq!(
        (&forwarded["internalOrderId"], &forwarded["backendStatus"]),
        (&json!("order-77"), &json!(409))
    );
}

/// 401: no order is at fault, so none may lose an attempt, however long the fix takes.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_token_is_refused() {
    let world = World::new().await;
    let hub = Hub::start(&world.settings().set("CIRCUIT_BREAKER_RESET_TIMEOUT", "100ms")).await;
    world.backend.otherwise(Answer::status(401));
    world.post_orders(&hub, ids("unauthorised", 1)).await;
    world.breaker_becomes(&hub, "open").await;
    hub.says("SERVICE_TOKEN").await;
    // More refusals than an order has attempts.
    world.backend.wait_for(15).await;
    world.backend.next([Answer::status(500)]);
    let failed = world.log.wait_for(EventType::OrderForwardFailed, 1).await;
    assert_eq!(attempts(&failed), [json!(1)], "the refusals were no attempts");
    world.backend.otherwise(Answer::Accept);
    world.at_end(Ends::forwarded(1)).await;
    let forwarded = world.log.payloads(EventType::OrderForwarded, 1).await.remove(0);
    assert_eq!(forwarded["attempts"], 2);
}

/// The set-up is wrong in a way that no answer tells: the breaker opens and names it, and no order loses an attempt.
async fn wrong_set_up(backend_url: &str, reason: &str) {
    let world = World::new().await;
    let settings = world.settings().set("CIRCUIT_BREAKER_RESET_TIMEOUT", "60s");
    let hub = Hub::start(&settings.set("BACKEND_URL", backend_url)).await;
    world.post_orders(&hub, ids("nobody", 2)).await;
    let breaker = world.breaker_becomes(&hub, "open").await;
    assert!(
        breaker["reason"].as_str().unwrap_or_default().contains(reason),
        "{breaker}"
    );
    // Mended.
    assert!(hub.terminate().await.0.success());
    let _hub = world.hub().await;
    for event in world.log.wait_for(EventType::OrderForwarded, 2).await {
        assert_eq!(payload(&event)["attempts"], 1);
    }
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backends_host_name_does_not_resolve() {
    // RFC 6761: no resolver knows a name that ends so.
    wrong_set_up("http://backend.invalid:3001", "name cannot be resolved").await;
}

/// Takes connections and says these bytes to each, as soon as something was said to it.
async fn answers_with(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut hello = [0; 4096];
            let _ = connection.read(&mut hello).await;
            let _ = connection.write_all(bytes).await;
            // Until the other side has had enough: an early end could overtake the answer.
            while let Ok(1..) = connection.read(&mut hello).await {}
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_speak_tls() {
    let address = answers_with(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    wrong_set_up(&format!("https://{address}"), "TLS").await;
}

/// It speaks TLS, but not with us: alert 40, handshake_failure.
#[tokio::test(flavor = "multi_thread")]
async fn it_refuses_the_tls_handshake() {
    let address = answers_with(&[0x15, 3, 3, 0, 2, 2, 40]).await;
    wrong_set_up(&format!("https://{address}"), "TLS").await;
}

/// 404 to everything is a wrong URL; 404 to one order is that order's fault.
#[tokio::test(flavor = "multi_thread")]
async fn it_answers_404() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.otherwise(Answer::status(404));
    world.post_orders(&hub, ids("nowhere", 2)).await;
    world.breaker_becomes(&hub, "open").await;
    world.backend.otherwise(Answer::Accept);
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.backend.always_for("CR-one", Some(Answer::status(404)));
    world.post_orders(&hub, ["CR-one".to_owned()]).await;
    world.log.wait_for(EventType::OrderForwardFailed, 1).await;
    // It has answered to others since.
    world.post_orders(&hub, ids("other", 1)).await;
    world.at_end(Ends::forwarded(3).dead_lettered(1)).await;
}

/// From the first request on: the cause of the first orders' 404s is unknown, so none is given up, and each stays the same request.
#[tokio::test(flavor = "multi_thread")]
async fn it_answers_404_to_everything_from_the_start() {
    const ORDERS: usize = 6;
    let world = World::new().await;
    // As few attempts as there can be.
    let settings = world
        .settings()
        .set("RETRY_DELAYS", "100ms")
        .set("RETRY_MAX_ATTEMPTS", 1)
        .set("CIRCUIT_BREAKER_RESET_TIMEOUT", "200ms");
    let hub = Hub::start(&settings).await;
    world.backend.otherwise(Answer::status(404));
    let orders = ids("from-the-start", ORDERS);
    // The first two wait alone for a while.
    world.post_orders(&hub, orders[..2].to_vec()).await;
    world.backend.wait_for(8).await;
    let breaker = world.breaker(&hub).await;
    assert!(
        !breaker["reason"].to_string().contains("BACKEND_URL"),
        "two orders say nothing of the others: {breaker}"
    );
    world.post_orders(&hub, orders[2..].to_vec()).await;
    eventually("the breaker names BACKEND_URL", PATIENCE, async || {
        let breaker = world.breaker(&hub).await;
        if breaker["reason"].to_string().contains("BACKEND_URL") {
            Ok(())
        } else {
            Err(breaker)
        }
    })
    .await;
    // And for some trials more.
    world.backend.wait_for(world.backend.count() + 5).await;
    let ends = world.log.events().await;
    assert!(
        ends.iter()
            .all(|event| event.envelope.event_type != EventType::OrderDeadLettered)
    );
    world.backend.otherwise(Answer::Accept);
    world.at_end(Ends::forwarded(ORDERS)).await;

    let (requests, events) = (world.backend.requests(), world.log.events().await);
    for order in &orders {
        let mut of_order = requests.iter().filter(|one| one.external_order_id() == *order);
        let first = of_order.next().unwrap();
        assert!(
            of_order.all(|one| (one.key(), &one.body) == (first.key(), &first.body)),
            "{order}"
        );
        let of_order = events.iter().filter(|event| event.envelope.external_order_id == *order);
        let attempts = of_order.filter_map(|event| match event.envelope.event_type {
            EventType::OrderForwardFailed => payload(event)["attempt"].as_u64(),
            EventType::OrderForwarded => payload(event)["attempts"].as_u64(),
            _ => None,
        });
        let attempts: Vec<_> = attempts.collect();
        // A trial of the breaker has the number of the last attempt that counted.
        assert!(
            attempts.windows(2).all(|two| two[1] == two[0] || two[1] == two[0] + 1),
            "{order}: {attempts:?}"
        );
    }
}

/// It had answered as it should, and then answers 404 to everything: the first orders that meet this, and news of orders, wait
/// like those that come when it is known.
#[tokio::test(flavor = "multi_thread")]
async fn it_answers_404_to_everything_from_one_moment_on() {
    let world = World::new().await;
    let settings = world
        .settings()
        .set("RETRY_DELAYS", "200ms")
        .set("RETRY_MAX_ATTEMPTS", 100);
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("before", 2)).await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.backend.otherwise(Answer::status(404));
    for id in ids("first", 2) {
        world.post_orders(&hub, [id]).await;
    }
    world
        .careem
        .post(&hub, &change("CR-before-0", "cancelled"))
        .await
        .event_id();
    // Longer than news of an unknown order wait where the backend is known to be right.
    eventually("all have been tried", PATIENCE, async || {
        let events = world.log.events().await;
        let tried = |id: &str| {
            let of = events.iter().map(|event| &event.envelope).filter(|envelope| {
                envelope.event_type == EventType::OrderForwardFailed && envelope.external_order_id == id
            });
            of.count()
        };
        let tried = ["CR-first-0", "CR-first-1", "CR-before-0"].map(tried);
        if tried.iter().all(|tried| *tried >= 6) {
            Ok(())
        } else {
            Err(tried)
        }
    })
    .await;
    let breaker = world.breaker(&hub).await;
    assert_eq!(
        breaker["state"], "closed",
        "two orders say nothing of the others: {breaker}"
    );
    world.post_orders(&hub, ids("third", 1)).await;
    let breaker = world.breaker_becomes(&hub, "open").await;
    assert!(breaker["reason"].as_str().unwrap().contains("BACKEND_URL"), "{breaker}");
    world.backend.otherwise(Answer::Accept);
    world.at_end(Ends::forwarded(6)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_asks_to_wait() {
    let world = World::new().await;
    let hub = world.hub().await;
    world
        .backend
        .next([Answer::Say(429, String::new(), vec![("retry-after", "3".into())])]);
    world.post_orders(&hub, ids("busy", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    let requests = world.backend.requests();
    assert_eq!(requests.len(), 2);
    let pause = requests[1].at - requests[0].at;
    assert!(
        pause >= Duration::from_secs(3),
        "asked for 3 s, left alone for {pause:?}"
    );
}

/// It is unknown whether the backend has the order, so the same request is sent again, with the same key.
#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_answer_or_breaks_off() {
    let world = World::new().await;
    let hub = Hub::start(&world.settings().set("BACKEND_TIMEOUT", "500ms")).await;
    world.backend.next_for("CR-unclear-0", [Answer::Hang]);
    world.backend.next_for("CR-unclear-1", [Answer::Cut]);
    world
        .backend
        .next_for("CR-unclear-2", [Answer::Say(200, "{}".into(), Vec::new())]);
    world.backend.next_for(
        "CR-unclear-3",
        [Answer::Say(302, String::new(), vec![("location", "/elsewhere".into())])],
    );
    world.post_orders(&hub, ids("unclear", 4)).await;
    world.at_end(Ends::forwarded(4)).await;
    assert_eq!(world.backend.count(), 8);
    let mut codes: Vec<_> = world
        .log
        .wait_for(EventType::OrderForwardFailed, 4)
        .await
        .iter()
        .map(|event| payload(event)["error"]["code"].clone())
        .collect();
    codes.sort_by_key(Value::to_string);
    assert_eq!(
        json!(codes),
        json!([
            "BACKEND_200",
            "BACKEND_302",
            "BACKEND_CONNECTION_LOST",
            "BACKEND_TIMEOUT"
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_merchant_is_a_dead_letter() {
    let world = World::new().await;
    let hub = world.hub().await;
    let body = order("CR-stranger");
    let signature = sign(careem::SECRET, body.as_bytes());
    let headers = [
        ("x-careem-signature", signature.as_str()),
        ("x-merchant-id", "merchant-unknown"),
    ];
    world.careem.post_raw(&hub, body, &headers).await.event_id();
    world.at_end(Ends::default().dead_lettered(1)).await;
    let dead = world.log.payloads(EventType::OrderDeadLettered, 1).await.remove(0);
    assert_eq!(
        (&dead["error"]["type"], &dead["error"]["code"]),
        (&json!("configuration"), &json!("BRANCH_NOT_FOUND"))
    );
    assert!(
        dead["error"]["message"].as_str().unwrap().contains("merchant-unknown"),
        "{dead}"
    );
    hub.says("an operator must act").await;
    assert_eq!(world.backend.count(), 0);

    // Without a name, the only branch that there is is meant.
    let body = order("CR-nameless");
    let signature = sign(careem::SECRET, body.as_bytes());
    world
        .careem
        .post_raw(&hub, body, &[("x-careem-signature", signature.as_str())])
        .await
        .event_id();
    world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
}
