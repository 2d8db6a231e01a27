//! What waits in the stage `push`: in its lane and not in memory, without an attempt where nothing was tried, found again
//! where the lanes are lost, and in the way of no other provider.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::post};
use axum_server::Handle;
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    at_end::Ends,
    hub::Hub,
    ids,
    log::payload,
    outside::{CAREEM_POS, Outside, send},
    platform::{CLIENT_ID, CLIENT_SECRET, Call, Say, TOKEN},
    wait::{PATIENCE, eventually},
};

const MENU: &str = include_str!("fixtures/menu.json");
/// More than an event waits for in memory, in seconds.
const LONG: u64 = 12;
/// The least time between two calls of which the second one had to wait that long; a bell may ring a bit early.
const AT_LEAST: Duration = Duration::from_millis(LONG * 1000 - 20);

/// The provider wants to be left alone for long.
fn later(status: u16) -> Say {
    Say {
        retry_after: Some(LONG),
        ..Say::status(status)
    }
}

/// Careem, without a limit of its own in the way.
fn without_limit() -> String {
    CAREEM_POS.replace("requests_per_second = 10\n", "")
}

async fn unlimited() -> Outside {
    Outside::new(&without_limit()).await
}

fn calls(outside: &Outside, order: &str) -> Vec<Call> {
    let path = format!("/orders/{order}");
    let calls = outside.provider.calls().into_iter();
    calls.filter(|call| call.path == path).collect()
}

fn states(calls: &[Call]) -> Vec<String> {
    let states = calls.iter().map(|call| call.json()["state"].clone());
    states.map(|state| state.as_str().unwrap().to_owned()).collect()
}

impl Outside {
    /// The lanes, once they are as they are to be; the one with the earliest event first.
    async fn lanes_once(&self, what: &str, is: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        eventually(what, PATIENCE, async || {
            let mut lanes = self.world.lanes().await;
            lanes.sort_by_key(|lane| lane["head"].as_u64());
            if is(&lanes) { Ok(lanes) } else { Err(lanes) }
        })
        .await
    }
}

fn waiting(lane: &Value) -> usize {
    lane["waiting"].as_array().map_or(0, Vec::len)
}

/// Another order found out that the provider is to be left alone: nothing is tried, and that is no attempt, whoever takes it
/// up when its time has come.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_was_not_tried_is_parked_without_an_attempt() {
    let outside = unlimited().await;
    let hub = outside.hub().await;
    outside.provider.next([later(429)]);
    outside.ask(&hub, "CR-first", "accepted").await;
    outside.payloads(EventType::OrderStatusPushFailed, 1).await;
    for status in ["accepted", "ready"] {
        outside.ask(&hub, "CR-second", status).await;
    }
    let lanes = outside
        .lanes_once("both wait, and the later word behind its order", |lanes| {
            lanes.len() == 2 && waiting(&lanes[1]) == 1
        })
        .await;
    assert_eq!((&lanes[0]["requests"], &lanes[1]["requests"]), (&json!(1), &json!(0)));
    hub.kill().await;
    let _hub = outside.hub().await;
    outside.world.log.wait_for(EventType::OrderStatusPushed, 1).await;
    let pushed = outside.payloads(EventType::OrderStatusPushed, 3).await;
    let mut attempts: Vec<_> = pushed.iter().map(|one| one["attempts"].as_u64()).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [Some(1), Some(1), Some(2)]);
    let (first, second) = (calls(&outside, "CR-first"), calls(&outside, "CR-second"));
    assert_eq!(states(&second), ["accepted", "ready"]);
    assert!(second[0].at - first[0].at >= AT_LEAST, "it was not left alone");
    outside.payloads(EventType::OrderStatusPushFailed, 1).await;
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::default()).await;
}

/// LANES is emptied while a status waits for its time, with a later one behind it, and a menu for the provider's word.
#[tokio::test(flavor = "multi_thread")]
async fn the_lanes_are_lost() {
    let outside = unlimited().await;
    let hub = outside.hub().await;
    let answer = send(&hub, Method::PUT, "menus/careem/branch-uuid", MENU, &[]).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    outside.payloads(EventType::MenuSyncAccepted, 1).await;
    outside.provider.next([later(503)]);
    for status in ["accepted", "ready"] {
        outside.ask(&hub, "CR-lost", status).await;
    }
    let without_time = |lanes: &[Value]| {
        let mut lanes = lanes.to_vec();
        // To the millisecond it is not the same: what was recorded, and when that was. Which of those that wait create their order
        // is not looked for before it is needed.
        for lane in &mut lanes {
            lane["dueAt"] = Value::Null;
            lane.as_object_mut().unwrap().remove("creations");
        }
        lanes
    };
    let is_whole = |lanes: &[Value]| lanes.len() == 2 && waiting(&lanes[1]) == 1;
    let before = outside.lanes_once("all wait", is_whole).await;
    assert_eq!(
        (&before[0]["forCreation"], &before[1]["forCreation"]),
        (&json!(true), &json!(false))
    );
    assert!(hub.terminate().await.0.success());
    let provision = outside.world.nats.provision().await;
    provision.get_stream("LANES").await.unwrap().purge().await.unwrap();

    let hub = outside.hub().await;
    let after = outside.lanes_once("all wait again", is_whole).await;
    assert_eq!(without_time(&after), without_time(&before));
    hub.says("lanes made again from the log").await;
    // The word wakes the menu long before its time is over.
    let menus = outside
        .provider
        .calls()
        .into_iter()
        .filter(|call| call.path == "/catalogs");
    let menus: Vec<_> = menus.map(|call| call.json()["catalog_id"].clone()).collect();
    let body = json!({
        "id": "word-1", "event_type": "CATALOG_STATUS",
        "details": { "branch_id": "store-9", "catalog_id": menus[0], "status": "completed" },
    });
    let answer = outside.world.careem.post(&hub, &body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    outside.payloads(EventType::MenuSynced, 1).await;
    outside.payloads(EventType::OrderStatusPushed, 2).await;
    assert_eq!(menus.len(), 1, "it was sent once");
    let calls = calls(&outside, "CR-lost");
    assert_eq!(states(&calls), ["accepted", "accepted", "ready"]);
    assert!(calls[1].at - calls[0].at >= AT_LEAST, "its time was kept");
    outside.world.at_end(Ends::default()).await;
}

/// Requests that wait at a provider that hangs.
#[derive(Default)]
struct UnderWay {
    now: AtomicUsize,
    /// All that ever came.
    came: AtomicUsize,
}

/// One of them, until it is answered or the hub gives it up.
struct One(Arc<UnderWay>);

impl Drop for One {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A provider that gives tokens and no other answer; it counts who waits.
fn hangs(under_way: &Arc<UnderWay>) -> (Handle<SocketAddr>, String) {
    let under_way = Arc::clone(under_way);
    let token = async || json!({ "access_token": "token", "expires_in": 3600 }).to_string();
    let router = Router::new().route(TOKEN, post(token)).fallback(move || {
        under_way.came.fetch_add(1, Ordering::SeqCst);
        under_way.now.fetch_add(1, Ordering::SeqCst);
        let one = One(Arc::clone(&under_way));
        async move {
            std::future::pending::<()>().await;
            drop(one);
        }
    });
    let (listener, handle) = (TcpListener::bind(("127.0.0.1", 0)).unwrap(), Handle::new());
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = axum_server::from_tcp(listener).unwrap().handle(handle.clone());
    tokio::spawn(server.serve(router.into_make_service()));
    (handle, url)
}

/// A pause that one order's answer requested applies to all requests to this provider.
#[tokio::test(flavor = "multi_thread")]
async fn later_events_also_respect_the_providers_pause() {
    let outside = Outside::new(CAREEM_POS).await;
    let hub = outside.hub().await;
    outside.provider.next([Say {
        retry_after: Some(2),
        ..Say::status(429)
    }]);
    outside.ask(&hub, "CR-first", "accepted").await;
    outside.payloads(EventType::OrderStatusPushFailed, 1).await;
    outside.ask(&hub, "CR-second", "accepted").await;
    let pushed = outside.payloads(EventType::OrderStatusPushed, 2).await;
    let attempts: u64 = pushed.iter().map(|one| one["attempts"].as_u64().unwrap()).sum();
    assert_eq!(attempts, 3, "only the first had to be said again");
    let calls = outside.provider.calls();
    assert!(calls[1].at - calls[0].at >= Duration::from_millis(1900));
    outside.world.at_end(Ends::default()).await;
}

/// The tables are behind, and the backend does not say of which branch its order is: the log knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_without_a_branch_does_not_wait_for_the_tables() {
    let outside = Outside::new(CAREEM_POS).await;
    let another = "INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id, store_id)
        VALUES ('config-2', 'branch-2', 'provider-careem', 'company-uuid', 'merchant-2', 'store-8')";
    outside.world.database.run(another).await.unwrap();
    let hub = outside.hub().await;
    outside.world.post_orders(&hub, ["CR-before".to_owned()]).await;
    outside.world.at_end(Ends::forwarded(1)).await;
    // Who holds the cursor holds the projection.
    outside
        .world
        .database
        .run("BEGIN; SELECT position FROM hub.cursors FOR UPDATE")
        .await
        .unwrap();
    outside.world.post_orders(&hub, ["CR-new".to_owned()]).await;
    outside.world.log.wait_for(EventType::OrderForwarded, 2).await;
    let body = json!({ "status": "accepted" }).to_string();
    for order in ["CR-new", "CR-before"] {
        let path = format!("orders/careem/{order}/status");
        assert_eq!(send(&hub, Method::POST, &path, &body, &[]).await.status, 202);
    }
    let pushed = outside.payloads(EventType::OrderStatusPushed, 2).await;
    assert!(pushed.iter().all(|one| one["attempts"] == 1), "{pushed:#?}");
    let calls = outside.provider.calls();
    assert!(calls.iter().all(|call| call.header("branch-id") == "store-9"));
    // One that nobody has heard of is given up once the tables have all that was there before it was asked for.
    assert_eq!(
        send(&hub, Method::POST, "orders/careem/CR-never/status", &body, &[])
            .await
            .status,
        202
    );
    outside.world.database.run("COMMIT").await.unwrap();
    let dead = &outside.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(dead["error"]["code"], "ORDER_NOT_KNOWN");
    outside.world.at_end(Ends::forwarded(2).dead_lettered(1)).await;
}

mod long {
    use super::*;

    /// More for a provider that hangs than the stage holds at a time: another provider is told at once.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_crowd_for_one_provider_delays_no_other() {
        const CROWD: usize = 1200;
        // No request gives up before the others are counted.
        let file = CAREEM_POS.replace("requests_per_second = 10\n", "");
        let outside = Outside::new(&file.replace("timeout = \"10s\"", "timeout = \"60s\"")).await;
        let under_way = Arc::new(UnderWay::default());
        let (silent, hanging) = hangs(&under_way);
        let settings = outside.settings().set("RETRY_MAX_ATTEMPTS", 50);
        let settings = settings
            .set("DELIVERY_HERO_ENABLED", true)
            .set("DELIVERY_HERO_JWT_SECRET", "jwt-secret-of-the-tests")
            .set("DELIVERY_HERO_CURRENCY", "EGP")
            .set("DELIVERY_HERO_API_URL", outside.provider.url())
            .set("DELIVERY_HERO_CLIENT_ID", CLIENT_ID)
            .set("DELIVERY_HERO_CLIENT_SECRET", CLIENT_SECRET);
        let hub = Hub::start(&settings.clone().set("CAREEM_API_URL", hanging)).await;
        futures_util::stream::iter(0..CROWD)
            .for_each_concurrent(32, async |number| {
                outside.ask(&hub, &format!("CR-crowd-{number}"), "accepted").await;
            })
            .await;
        let ready = json!({ "status": "ready", "branchId": "branch-uuid" }).to_string();
        let answer = send(&hub, Method::POST, "orders/delivery-hero/5f37/status", &ready, &[]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let call = &outside.provider.wait_for(1).await[0];
        assert_eq!(call.path, "/v2/orders/5f37/preparation-completed");
        // It was told while the crowd waits: none of that was answered. A request that the hub has given up (its minute is over,
        // or the stage was begun anew on a slow machine) is not under way any more, as soon as its connection is seen to be closed.
        eventually("requests at a time", PATIENCE, async || {
            let (now, came) = (
                under_way.now.load(Ordering::SeqCst),
                under_way.came.load(Ordering::SeqCst),
            );
            if now == 16 { Ok(()) } else { Err((now, came)) }
        })
        .await;
        assert!(
            outside
                .world
                .log
                .events()
                .await
                .iter()
                .all(|event| event.envelope.event_type != EventType::OrderStatusPushed
                    || &*event.envelope.provider == "delivery-hero")
        );

        // The provider answers again, and all statuses are sent.
        hub.kill().await;
        silent.shutdown();
        let _hub = Hub::start(&settings).await;
        // A part of them after the other: how long all of them take is the machine's matter.
        for told in (CROWD / 8..CROWD).step_by(CROWD / 8).chain([CROWD + 1]) {
            outside.world.log.wait_for(EventType::OrderStatusPushed, told).await;
        }
        outside.world.hand_out_again().await;
        outside.world.at_end(Ends::default()).await;
    }

    /// The provider hangs: orders go to the backend as fast as ever.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_provider_that_hangs_slows_no_order() {
        // Many times what may be under way at a provider.
        const SILENT: usize = 60;
        let file = without_limit().replace("timeout = \"10s\"", "timeout = \"15s\"");
        let outside = Outside::new(&file).await;
        let nowhere = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let silent = format!("http://{}", nowhere.local_addr().unwrap());
        let settings = outside.settings().set("RETRY_MAX_ATTEMPTS", 50);
        let hub = Hub::start(&settings.clone().set("CAREEM_API_URL", silent)).await;
        for number in 0..SILENT {
            outside.ask(&hub, &format!("CR-silent-{number}"), "accepted").await;
        }
        outside.world.post_orders(&hub, ids("quick", 50)).await;
        let forwarded = outside.world.log.wait_for(EventType::OrderForwarded, 50).await;
        let failed = outside.world.log.wait_for(EventType::OrderStatusPushFailed, 1).await;
        assert_eq!(payload(&failed[0])["error"]["code"], "PROVIDER_TIMEOUT");
        // All of them before the first request to the provider was given up.
        assert!(forwarded[49].sequence < failed[0].sequence);
        hub.kill().await;
        drop(nowhere);
        let hub = Hub::start(&settings).await;
        outside.payloads(EventType::OrderStatusPushed, SILENT).await;
        outside.world.hand_out_again().await;
        outside.world.at_end(Ends::forwarded(50)).await;
        drop(hub);
    }
}
