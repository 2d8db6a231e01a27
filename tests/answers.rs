//! How the backend's answers are read: a success counts in any encoding, and an answer about one order is not
//! taken for what the backend says of everything.

use std::io::Write as _;

use flate2::{Compression, write::DeflateEncoder};
use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    hub::{Hub, Settings},
    ids,
    log::payload,
    packed::{gzip, zlib},
    wait::{PATIENCE, eventually},
};

/// What an honest backend says.
fn yes(id: &Value) -> String {
    json!({ "success": true, "orderId": id, "status": "pending" }).to_string()
}

fn coded(body: Vec<u8>, coding: &str) -> Answer {
    Answer::Bytes(200, body, vec![("content-encoding", coding.to_owned())])
}

fn deflate(plain: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// A breaker that would stay open for longer than any test waits.
fn unforgiving(world: &World) -> Settings {
    world.settings().set("CIRCUIT_BREAKER_RESET_TIMEOUT", "60s")
}

async fn breaker_is_closed(world: &World, hub: &Hub) {
    let breaker = world.breaker(hub).await;
    assert_eq!(breaker["state"], "closed", "{breaker}");
}

/// Each order is answered in another wrapping. The second value is the id that the hub must have read, the third whether the
/// event says that the answer could not be read whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_success_counts_in_any_encoding() {
    let large = |early: &str, late: &str| format!("{{{early}\"echo\":\"{}\"{late}}}", "x".repeat(100_000));
    let plain = |name: &str| yes(&json!(format!("id-{name}")));
    let id = |name: &str| json!(format!("id-{name}"));
    let answers: Vec<(&str, Answer, Value, bool)> = vec![
        (
            "bom",
            Answer::Say(200, format!("\u{feff}{}", plain("bom")), Vec::new()),
            id("bom"),
            false,
        ),
        (
            "number",
            Answer::Say(201, yes(&json!(4711)), Vec::new()),
            json!("4711"),
            false,
        ),
        (
            "long-number",
            Answer::Say(200, "{\"orderId\":123456789012345678901234567890}".into(), Vec::new()),
            json!("123456789012345678901234567890"),
            false,
        ),
        (
            "text",
            Answer::Say(200, plain("text"), vec![("content-type", "text/plain".into())]),
            id("text"),
            false,
        ),
        ("gzip", coded(gzip(plain("gzip").as_bytes()), "gzip"), id("gzip"), false),
        (
            "x-gzip",
            coded(gzip(plain("x-gzip").as_bytes()), "X-GZIP"),
            id("x-gzip"),
            false,
        ),
        (
            "zlib",
            coded(zlib(plain("zlib").as_bytes()), "deflate"),
            id("zlib"),
            false,
        ),
        (
            "deflate",
            coded(deflate(plain("deflate").as_bytes()), "deflate"),
            id("deflate"),
            false,
        ),
        (
            "large-early",
            Answer::Say(200, large("\"data\":{\"orderId\":77},", ""), Vec::new()),
            json!("77"),
            false,
        ),
        (
            "large-late",
            Answer::Say(200, large("", ",\"orderId\":77"), Vec::new()),
            Value::Null,
            true,
        ),
        ("bomb", coded(gzip(&vec![b' '; 10_000_000]), "gzip"), Value::Null, true),
        (
            "not-gzip",
            coded(plain("not-gzip").into_bytes(), "gzip"),
            Value::Null,
            true,
        ),
        ("not-offered", coded(b"\x0b\x02\x80".to_vec(), "br"), Value::Null, true),
        ("cut", Answer::BreakOff, Value::Null, true),
    ];
    let world = World::new().await;
    let hub = Hub::start(&world.settings()).await;
    for (name, answer, ..) in &answers {
        let id = format!("CR-{name}");
        world.backend.next_for(&id, [answer.clone()]);
        world.post_orders(&hub, [id]).await;
    }
    let forwarded = world.log.wait_for(EventType::OrderForwarded, answers.len()).await;
    for (name, _, id, is_unread) in &answers {
        let order = format!("CR-{name}");
        let event = forwarded.iter().find(|event| event.envelope.external_order_id == order);
        let said = payload(event.unwrap());
        assert_eq!(said.get("internalOrderId").cloned().unwrap_or_default(), *id, "{name}");
        assert_eq!(said["attempts"], 1, "{name}");
        assert_eq!(said.get("answerUnread").is_some(), *is_unread, "{name}: {said}");
    }
    hub.says("accepted without an order id").await;
    let requests = world.backend.requests();
    assert_eq!(requests.len(), answers.len(), "none was asked for again");
    assert!(
        requests
            .iter()
            .all(|request| request.header("accept-encoding") == "gzip, deflate")
    );
    world.at_end(Ends::forwarded(answers.len())).await;
}

/// Whoever answers in place of the backend is named, and no order is given up meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_redirects_everything_is_named() {
    let world = World::new().await;
    let hub = Hub::start(&unforgiving(&world)).await;
    let elsewhere = Answer::redirect(301, "https://login.example:8443/orders?token=of-the-customer");
    world.backend.otherwise(elsewhere);
    world.post_orders(&hub, ids("astray", 4)).await;
    let breaker = world.breaker_becomes(&hub, "open").await;
    let reason = breaker["reason"].as_str().unwrap();
    for named in ["redirects", "https://login.example:8443", "BACKEND_URL"] {
        assert!(reason.contains(named), "{named} in {reason}");
    }
    hub.says("https://login.example:8443").await;
    assert!(!hub.logs_contain("of-the-customer") && !reason.contains("of-the-customer"));
    // Mended.
    world.backend.otherwise(Answer::Accept);
    assert!(hub.terminate().await.0.success());
    let _hub = world.hub().await;
    world.log.wait_for(EventType::OrderForwarded, 4).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(4)).await;
}

/// The first answer that a hub hears after its start is about one order: nothing follows from it for any other.
async fn one_order_is_not_known(first: &str, news: bool) -> (World, Hub) {
    let world = World::new().await;
    let hub = Hub::start(&unforgiving(&world)).await;
    world.backend.next_for(first, [Answer::status(404)]);
    let body = if news { change(first, "cancelled") } else { order(first) };
    world.careem.post(&hub, &body).await.event_id();
    world.backend.wait_for(1).await;
    world.post_orders(&hub, ids("after", 3)).await;
    for event in world.log.wait_for(EventType::OrderForwarded, 3).await {
        assert_eq!(payload(&event)["attempts"], 1);
    }
    breaker_is_closed(&world, &hub).await;
    (world, hub)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_404_to_news_does_not_open_the_breaker() {
    let (world, hub) = one_order_is_not_known("CR-unknown", true).await;
    world.post_orders(&hub, ["CR-unknown".to_owned()]).await;
    world.at_end(Ends::forwarded(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_404_to_an_order_does_not_open_the_breaker() {
    let (world, hub) = one_order_is_not_known("CR-nowhere", false).await;
    // It is asked for once more: by then it is known that the backend answers otherwise.
    world.backend.next_for("CR-nowhere", [Answer::status(404)]);
    let dead = world.log.payloads(EventType::OrderDeadLettered, 1).await.remove(0);
    assert_eq!(dead["error"]["code"], "BACKEND_404");
    breaker_is_closed(&world, &hub).await;
    world.at_end(Ends::forwarded(3).dead_lettered(1)).await;
}

/// The same order again and again is one order, and news of many are none.
#[tokio::test(flavor = "multi_thread")]
async fn not_found_is_concluded_from_different_new_orders() {
    let world = World::new().await;
    let hub = Hub::start(&unforgiving(&world)).await;
    let unknown = ids("unknown", 5);
    for id in &unknown {
        world.backend.always_for(id, Some(Answer::status(404)));
        world.careem.post(&hub, &change(id, "cancelled")).await.event_id();
    }
    world.log.wait_for(EventType::OrderForwardFailed, 5).await;
    world.backend.next_for(
        "CR-one",
        [Answer::status(404), Answer::status(404), Answer::status(404)],
    );
    world.post_orders(&hub, ["CR-one".to_owned()]).await;
    // Its quick attempts, each of them a 404: it is not known yet whether the URL or the order is wrong.
    eventually("the order was asked for three times", PATIENCE, async || {
        let requests = world.backend.requests();
        let of = |id: &str| {
            requests
                .iter()
                .filter(|request| request.external_order_id() == id)
                .count()
        };
        if of("CR-one") >= 3 { Ok(()) } else { Err(of("CR-one")) }
    })
    .await;
    breaker_is_closed(&world, &hub).await;
    for id in &unknown {
        world.backend.always_for(id, None);
    }
    world.post_orders(&hub, unknown).await;
    world.at_end(Ends::forwarded(11)).await;
}

/// Orders of one branch that the backend does not find, in a row: while it has others', it is that branch's trouble.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_is_not_found_holds_up_no_other() {
    let world = World::new().await;
    world.add_branch(2, "{}").await;
    let hub = Hub::start(&unforgiving(&world)).await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    for id in ids("not-there", 4) {
        world.backend.always_for(&id, Some(Answer::status(404)));
        world.post_for(&hub, "merchant-2", &id).await;
    }
    world.log.wait_for(EventType::OrderForwardFailed, 4).await;
    breaker_is_closed(&world, &hub).await;
    // Only now is it known that the backend is there for others.
    world.post_orders(&hub, ids("after", 1)).await;
    let dead = world.log.payloads(EventType::OrderDeadLettered, 4).await;
    assert!(dead.iter().all(|one| one["error"]["code"] == "BACKEND_404"), "{dead:?}");
    world.at_end(Ends::forwarded(2).dead_lettered(4)).await;
}

/// A new order without a known id at the backend changes no row: the number may have been another order's before.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_without_an_id_leaves_older_orders_of_its_number_alone() {
    let world = World::new().await;
    let older = "INSERT INTO provider_order_logs (id, order_id, provider_id, branch_id, company_id, external_order_id, provider_status,
                     mapped_status, captain_name, created_at, updated_at)
                 VALUES ('older', 'order-of-last-year', 'provider-careem', 'branch-uuid', 'company-uuid', 'CR-reused', 'READY',
                     'ready_for_pickup', 'Omar', '2024-10-01', '2024-10-02')";
    world.database.run(older).await.unwrap();
    let query = "SELECT * FROM provider_order_logs";
    let before = world.database.rows(query).await.unwrap();
    world.backend.next_for("CR-reused", [Answer::BreakOff]);
    let hub = world.hub().await;
    world
        .post_orders(&hub, ["CR-reused".to_owned(), "CR-behind".to_owned()])
        .await;
    eventually("both webhooks are in the tables", PATIENCE, async || {
        let query = "SELECT id FROM webhook_logs WHERE status = 'completed'";
        let rows = world.database.rows(query).await.map_err(|error| error.to_string())?;
        if rows.len() == 2 {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    })
    .await;
    let mut after = world.database.rows(query).await.unwrap();
    after.retain(|row| row["external_order_id"] == "CR-reused");
    assert_eq!(after, before);
}
