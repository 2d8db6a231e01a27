//! Statuses that the backend sends to a provider: each is sent once, in order, whatever the provider does.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    at_end::Ends,
    backend,
    careem::{change, order},
    hub::{Hub, run},
    outside::{CAREEM_POS, DELIVERY_HERO, Outside, send},
    platform::Say,
    wait::{PATIENCE, eventually},
};

/// Without the limits of the real one, which some tests are not about.
fn unlimited(file: &str) -> String {
    file.replace("requests_per_second = 10\n", "")
}

fn states(outside: &Outside, order: &str) -> Vec<String> {
    let path = format!("/orders/{order}");
    let calls = outside.provider.calls().into_iter().filter(|call| call.path == path);
    calls
        .filter(|call| call.status == 200)
        .map(|call| call.json()["state"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_reaches_the_provider_with_its_branch() {
    let outside = Outside::new(CAREEM_POS).await;
    let another = "INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id, store_id)
        VALUES ('config-2', 'branch-2', 'provider-careem', 'company-uuid', 'merchant-2', 'store-8')";
    outside.world.database.run(another).await.unwrap();
    let hub = outside.hub().await;
    outside.world.post_orders(&hub, ["CR-told".to_owned()]).await;
    outside.world.log.settled().await;
    // Nothing names the branch, but the order was forwarded.
    let row = "SELECT 1 AS one FROM provider_order_logs";
    eventually("the order is in the tables", PATIENCE, async || {
        let rows = outside
            .world
            .database
            .rows(row)
            .await
            .map_err(|error| error.to_string())?;
        if rows.is_empty() {
            Err("no row".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    let body = json!({ "status": "confirmed", "preparationMinutes": 20 }).to_string();
    let answer = send(&hub, Method::POST, "orders/careem/CR-told/status", &body, &[]).await;
    assert_eq!((answer.status, answer.json()["success"].as_bool()), (202, Some(true)));
    let pushed = &outside.payloads(EventType::OrderStatusPushed, 1).await[0];
    assert_eq!(
        (&pushed["status"], &pushed["providerStatus"], &pushed["attempts"]),
        (&json!("accepted"), &json!(200), &json!(1))
    );
    let call = &outside.provider.wait_for(1).await[0];
    assert_eq!((call.method.as_str(), call.path.as_str()), ("PUT", "/orders/CR-told"));
    assert_eq!(call.json(), json!({ "state": "accepted" }));
    assert_eq!(
        (call.header("brand-id"), call.header("branch-id")),
        ("brand-7", "store-9")
    );
    // What Careem has no word for is passed over, and says so.
    outside.ask(&hub, "CR-told", "preparing").await;
    let pushed = &outside.payloads(EventType::OrderStatusPushed, 2).await[1];
    assert_eq!((&pushed["skipped"], &pushed["attempts"]), (&json!(true), &json!(0)));
    // What it is already is as good as told.
    outside.ask(&hub, "CR-told", "accepted").await;
    let pushed = &outside.payloads(EventType::OrderStatusPushed, 3).await[2];
    assert_eq!(
        (&pushed["already"], &pushed["providerStatus"]),
        (&json!(true), &json!(409))
    );
    assert_eq!((outside.provider.calls().len(), outside.provider.tokens()), (2, 1));
    // This branch accepts no order by itself.
    outside.payloads(EventType::OrderStatusRequested, 3).await;
    outside.world.at_end(Ends::forwarded(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_again_is_the_same_event() {
    let outside = Outside::new(CAREEM_POS).await;
    let hub = outside.hub().await;
    let body = json!({ "status": "ready" }).to_string();
    let ask = async |order: &str, key: &str| {
        let path = format!("orders/careem/{order}/status");
        let answer = send(&hub, Method::POST, &path, &body, &[("idempotency-key", key)]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()["data"].clone()
    };
    let (first, again) = (ask("CR-1", "k-1").await, ask("CR-1", "k-1").await);
    assert_eq!(first["eventId"], again["eventId"]);
    assert_eq!(
        (&first["duplicate"], &again["duplicate"]),
        (&json!(false), &json!(true))
    );
    let others = [ask("CR-1", "k-2").await, ask("CR-2", "k-1").await];
    assert!(others.iter().all(|other| other["eventId"] != first["eventId"]));
    outside.payloads(EventType::OrderStatusPushed, 3).await;
    outside.world.at_end(Ends::default()).await;
}

/// The backend's queue was held up for longer than the log remembers. The instance that took the request is gone.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_after_the_duplicate_window() {
    let outside = Outside::new(CAREEM_POS).await;
    let hub = outside.hub().await;
    let body = json!({ "status": "accepted", "branchId": "branch-uuid" }).to_string();
    let ask = async |hub: &Hub, key: &str| {
        let headers = [("idempotency-key", key)];
        let answer = send(hub, Method::POST, "orders/careem/CR-1/status", &body, &headers).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()["data"].clone()
    };
    let first = ask(&hub, "k-1").await;
    outside.payloads(EventType::OrderStatusPushed, 1).await;
    assert!(hub.terminate().await.0.success());
    let hub = outside.hub().await;
    outside.world.log_forgets(&hub).await;
    let again = ask(&hub, "k-1").await;
    assert_eq!(
        (&again["eventId"], &again["duplicate"]),
        (&first["eventId"], &json!(true))
    );
    // Without the stream a request is taken all the same, for nothing depends on it.
    outside
        .world
        .nats
        .provision()
        .await
        .delete_stream("KEYS")
        .await
        .unwrap();
    assert_eq!(ask(&hub, "k-2").await["duplicate"], false);
    assert_eq!(ask(&hub, "k-2").await["duplicate"], true, "the log knows it");
    outside.payloads(EventType::OrderStatusPushed, 2).await;
    outside.world.at_end(Ends::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiring_token_is_replaced_by_one_request() {
    let outside = Outside::new(&unlimited(CAREEM_POS)).await;
    let hub = outside.hub().await;
    for number in 0..10 {
        outside.ask(&hub, &format!("CR-{number}"), "accepted").await;
    }
    outside.payloads(EventType::OrderStatusPushed, 10).await;
    assert_eq!(outside.provider.tokens(), 1, "all of them wait for one");
    // Revoked before its time: refused, replaced, and said again, without an attempt.
    outside.provider.forget_tokens();
    for number in 0..10 {
        outside.ask(&hub, &format!("CR-{number}"), "ready").await;
    }
    let pushed = outside.payloads(EventType::OrderStatusPushed, 20).await;
    assert!(pushed.iter().all(|one| one["attempts"] == 1), "{pushed:#?}");
    assert_eq!(outside.provider.tokens(), 2);
    // A short-lived one is replaced before the provider has to refuse it: there it is good for an hour.
    outside.provider.tokens_hold(Duration::from_secs(1));
    outside.provider.tokens_are_kept_for(Duration::from_secs(3600));
    outside.provider.forget_tokens();
    outside.ask(&hub, "CR-a", "accepted").await;
    outside.payloads(EventType::OrderStatusPushed, 21).await;
    let refused = || {
        outside
            .provider
            .calls()
            .iter()
            .filter(|call| call.status == 401)
            .count()
    };
    let before = refused();
    let mut asked = 0;
    eventually("another token is had", PATIENCE, async || {
        asked += 1;
        outside.ask(&hub, &format!("CR-b-{asked}"), "accepted").await;
        outside.payloads(EventType::OrderStatusPushed, 21 + asked).await;
        let tokens = outside.provider.tokens();
        if tokens >= 4 { Ok(()) } else { Err(tokens) }
    })
    .await;
    assert_eq!(refused(), before);
    outside.world.at_end(Ends::default()).await;
}

/// A login, a token that the file gives a life, and every word of it.
#[tokio::test(flavor = "multi_thread")]
async fn delivery_hero_gets_statuses_in_its_words() {
    let outside = Outside::new(DELIVERY_HERO).await;
    outside.provider.next([Say::status(503)]);
    let hub = outside.hub().await;
    let path = "orders/careem/5f37/status";
    let accepted = json!({ "status": "accepted", "preparationMinutes": 15, "orderId": "order-77" }).to_string();
    assert_eq!(send(&hub, Method::POST, path, &accepted, &[]).await.status, 202);
    for status in ["ready", "picked_up", "delivered"] {
        outside.ask(&hub, "5f37", status).await;
    }
    let rejected = json!({ "status": "rejected", "reason": "no more chicken", "reasonCode": "out_of_stock" });
    assert_eq!(
        send(&hub, Method::POST, path, &rejected.to_string(), &[]).await.status,
        202
    );
    outside.payloads(EventType::OrderStatusPushed, 5).await;
    let calls = outside.provider.calls();
    let said: Vec<(String, Value)> = calls.iter().map(|call| (call.path.clone(), call.json())).collect();
    let requested = outside.world.log.wait_for(EventType::OrderStatusRequested, 1).await[0]
        .envelope
        .time;
    let time = (requested + chrono::TimeDelta::minutes(15)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let status = "/v2/order/status/5f37".to_owned();
    // The token of the order there, whatever the backend calls it: its later webhooks name it.
    let accepted = json!({ "status": "order_accepted", "acceptanceTime": time, "remoteOrderId": "5f37" });
    assert_eq!(
        said,
        [
            // A second later it is still the same.
            (status.clone(), accepted.clone()),
            (status.clone(), accepted),
            ("/v2/orders/5f37/preparation-completed".into(), Value::Null),
            (status.clone(), json!({ "status": "order_picked_up" })),
            (
                status,
                json!({ "status": "order_rejected", "reason": "ITEM_UNAVAILABLE", "message": "no more chicken" })
            ),
        ]
    );
    assert_eq!(outside.provider.tokens(), 1);
    outside.world.at_end(Ends::default()).await;
}

/// 429 with `Retry-After`: no request is sent before that, and all statuses arrive in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_answers_429_gets_its_pause() {
    let outside = Outside::new(&unlimited(CAREEM_POS)).await;
    outside.provider.allows(3);
    let hub = outside.hub().await;
    let ids: Vec<_> = (0..9).map(|number| format!("CR-{number}")).collect();
    futures_util::future::join_all(ids.iter().map(|id| outside.ask(&hub, id, "accepted"))).await;
    outside.payloads(EventType::OrderStatusPushed, 9).await;
    let calls = outside.provider.calls();
    // In each of the three seconds that it takes those that are under way may hear of it once.
    let refused = calls.iter().filter(|call| call.status == 429).count();
    assert!(
        (1..=12).contains(&refused),
        "{refused} of {} came too soon",
        calls.len()
    );
    let failed = outside.world.log.wait_for(EventType::OrderStatusPushFailed, 1).await;
    assert!(
        failed
            .iter()
            .all(|event| crate::harness::log::payload(event)["error"]["code"] == "PROVIDER_429")
    );
    outside.world.at_end(Ends::default()).await;
}

/// By the file's own limit it never comes to that.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_limit_is_kept() {
    let outside = Outside::new(&CAREEM_POS.replace("requests_per_second = 10", "requests_per_second = 4")).await;
    let hub = outside.hub().await;
    let began = Instant::now();
    for number in 0..14 {
        outside.ask(&hub, &format!("CR-{number}"), "accepted").await;
    }
    outside.payloads(EventType::OrderStatusPushed, 14).await;
    let calls = outside.provider.calls();
    // A second's worth at once, and four for each second that has passed.
    let earliest = |at: usize| Duration::from_millis(250) * (at.saturating_sub(3) as u32);
    for (at, call) in calls.iter().enumerate() {
        assert!(
            call.at - began + Duration::from_millis(50) >= earliest(at),
            "{at} came after {:?}",
            call.at - began
        );
    }
    assert_eq!(calls.len(), 14);
    outside.world.at_end(Ends::default()).await;
}

/// A refusal is for a person: it is in the list, and is said again when that person asks.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_refuses_is_dead_lettered_and_can_be_retried() {
    let outside = Outside::new(CAREEM_POS).await;
    let hub = outside.hub().await;
    outside.provider.next([Say {
        body: json!({ "error": { "code": "BAD_STATE", "message": "+962791234567 said no" } }).to_string(),
        ..Say::status(400)
    }]);
    outside.ask(&hub, "CR-no", "accepted").await;
    let dead = &outside.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(
        (
            &dead["stage"],
            &dead["error"]["code"],
            &dead["error"]["details"]["providerCode"],
            &dead["attempts"]
        ),
        (&json!("push"), &json!("PROVIDER_400"), &json!("BAD_STATE"), &json!(1))
    );
    assert!(!dead.to_string().contains("962791234567"));
    let failed = &outside.payloads(EventType::OrderStatusPushFailed, 1).await[0];
    assert_eq!((&failed["givenUp"], failed.get("nextAttemptAt")), (&json!(true), None));
    let operator = outside.world.nats.settings("hub");
    let list = run(&operator, &["dead-letters", "list"]).await.expect_success();
    assert!(
        list.stdout.contains("CR-no") && list.stdout.contains("PROVIDER_400"),
        "{}",
        list.stdout
    );
    // A later status of an order does not wait for one that was refused, and a retry does not put the old one over it.
    outside.provider.next([Say::status(400)]);
    outside.ask(&hub, "CR-over", "accepted").await;
    outside.payloads(EventType::OrderDeadLettered, 2).await;
    outside.ask(&hub, "CR-over", "ready").await;
    outside.payloads(EventType::OrderStatusPushed, 1).await;
    outside.world.retry_dead_letters().await;
    outside.payloads(EventType::OrderStatusPushed, 2).await;
    let superseded = &outside.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(superseded["reason"], "SUPERSEDED");
    assert_eq!(states(&outside, "CR-no"), ["accepted"]);
    assert_eq!(states(&outside, "CR-over"), ["ready"]);
    outside.world.at_end(Ends::default().ignored(1)).await;
}

/// Down, the hub restarted meanwhile, up again: everything is said, in the order of each order.
#[tokio::test(flavor = "multi_thread")]
async fn statuses_survive_an_outage_and_a_restart_in_order() {
    let outside = Outside::new(&unlimited(CAREEM_POS)).await;
    let settings = outside.settings().set("RETRY_MAX_ATTEMPTS", 50);
    let hub = Hub::start(&settings).await;
    outside.provider.close().await;
    for number in 0..8 {
        for status in ["accepted", "ready"] {
            outside.ask(&hub, &format!("CR-{number}"), status).await;
        }
    }
    outside.world.log.wait_for(EventType::OrderStatusPushFailed, 5).await;
    let open = r#"provider_circuit_breaker_state{provider="careem",state="open"} 1"#;
    outside.world.metrics_say(&hub, open).await;
    let world = &outside.world;
    let operator = world.nats.settings("hub").set("DATABASE_URL", &world.database.url);
    let status = run(&operator, &["status"]).await;
    let problem = "the circuit breaker of careem is ";
    assert!(status.stdout.contains(problem), "{}", status.said());
    hub.kill().await;
    let hub = Hub::start(&settings).await;
    outside.ask(&hub, "CR-0", "cancelled").await;
    // An order goes its way meanwhile: the backend is not the provider.
    outside.world.post_orders(&hub, ["CR-other".to_owned()]).await;
    outside.world.log.wait_for(EventType::OrderForwarded, 1).await;
    assert!(outside.provider.calls().is_empty());
    outside.provider.open();
    outside.payloads(EventType::OrderStatusPushed, 17).await;
    assert_eq!(states(&outside, "CR-0"), ["accepted", "ready", "cancelled"]);
    for number in 1..8 {
        assert_eq!(states(&outside, &format!("CR-{number}")), ["accepted", "ready"]);
    }
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::forwarded(1)).await;
}

/// Credentials that the provider refuses: nothing is used up, and all is said when they are right.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_use_no_attempts() {
    let outside = Outside::new(CAREEM_POS).await;
    // What the breaker holds back is parked until it may close, also across a restart.
    let wrong = outside
        .settings()
        .set("CAREEM_CLIENT_SECRET", "wrong-word")
        .set("CIRCUIT_BREAKER_RESET_TIMEOUT", "1s");
    let hub = Hub::start(&wrong).await;
    outside.ask(&hub, "CR-locked-out", "accepted").await;
    eventually("the log says so", PATIENCE, async || {
        if hub.logs_contain("CLIENT_SECRET right?") {
            Ok(())
        } else {
            Err(())
        }
    })
    .await;
    assert!(!hub.log().contains("wrong-word"));
    hub.terminate().await;
    let hub = outside.hub().await;
    let pushed = &outside.payloads(EventType::OrderStatusPushed, 1).await[0];
    assert_eq!(pushed["attempts"], 1);
    // The interface itself may refuse, also a token that is new: that is an attempt.
    outside.provider.next([Say::status(401), Say::status(401)]);
    outside.ask(&hub, "CR-refused", "accepted").await;
    let pushed = &outside.payloads(EventType::OrderStatusPushed, 2).await[1];
    assert_eq!(pushed["attempts"], 2);
    assert!(!hub.log().contains("secret-at-the-provider"));
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::default()).await;
}

/// A token endpoint that is down is an outage like any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_issued_for_now() {
    let outside = Outside::new(CAREEM_POS).await;
    outside.provider.next_tokens([500, 503]);
    let hub = outside.hub().await;
    outside.ask(&hub, "CR-late", "accepted").await;
    let pushed = &outside.payloads(EventType::OrderStatusPushed, 1).await[0];
    assert_eq!(pushed["attempts"], 3);
    outside.world.at_end(Ends::default()).await;
}

/// Where the branch accepts every order, the hub says so as soon as the backend has it; never sooner, and once.
#[tokio::test(flavor = "multi_thread")]
async fn orders_are_accepted_automatically_if_the_branch_wants_it() {
    let outside = Outside::new(CAREEM_POS).await;
    let auto = "UPDATE branch_delivery_configs SET auto_accept_orders = true";
    outside.world.database.run(auto).await.unwrap();
    let hub = outside.hub().await;
    outside
        .world
        .backend
        .next([backend::Answer::status(500), backend::Answer::Cut]);
    let answer = outside.world.careem.post(&hub, &order("CR-auto")).await;
    assert_eq!(answer.status, 200);
    outside.world.log.wait_for(EventType::OrderForwardFailed, 2).await;
    assert!(outside.provider.calls().is_empty(), "the backend has not said yes");
    let pushed = &outside.payloads(EventType::OrderStatusPushed, 1).await[0];
    assert_eq!(pushed["status"], "accepted");
    let requested = &outside.payloads(EventType::OrderStatusRequested, 1).await[0];
    assert_eq!(
        (&requested["automatic"], &requested["orderId"]),
        (&json!(true), &json!("order-1"))
    );
    // News about it is none that has to be accepted.
    outside
        .world
        .careem
        .post(&hub, &change("CR-auto", "picked_up"))
        .await
        .event_id();
    outside.world.log.wait_for(EventType::OrderForwarded, 2).await;
    outside.world.at_end(Ends::forwarded(2)).await;
    assert_eq!(states(&outside, "CR-auto"), ["accepted"]);
    let told = outside.world.backend.requests().into_iter();
    let told: Vec<_> = told.map(|one| one.json()["metadata"]["autoAccept"].clone()).collect();
    assert_eq!(told, [json!(true), json!(true), json!(true), Value::Null]);
}

/// No kitchen gets a test order, whichever part lets it through.
#[tokio::test(flavor = "multi_thread")]
async fn a_test_order_is_not_accepted_automatically() {
    let (careem, pos) = (include_str!("../providers/careem.toml"), CAREEM_POS);
    let outbound = |file: &str| file.find("\n[outbound]\n").unwrap();
    let file = format!("{}{}", &careem[..outbound(careem)], &pos[outbound(pos)..]);
    let file = file.replacen("[webhook]\n", "[webhook]\ntest = [\"/is_test\"]\n", 1);
    let outside = Outside::with_file("careem.toml", &file).await;
    let auto = "UPDATE branch_delivery_configs SET auto_accept_orders = true";
    outside.world.database.run(auto).await.unwrap();
    let hub = Hub::start(&outside.settings().set("CAREEM_FORWARD_TEST_ORDERS", true)).await;
    let mut test: Value = serde_json::from_str(&order("CR-test")).unwrap();
    test["is_test"] = true.into();
    outside.world.careem.post(&hub, &test.to_string()).await.event_id();
    outside.world.post_orders(&hub, ["CR-live".to_owned()]).await;
    outside.world.log.wait_for(EventType::OrderForwarded, 2).await;
    outside.payloads(EventType::OrderStatusPushed, 1).await;
    outside.payloads(EventType::OrderStatusRequested, 1).await;
    assert_eq!(states(&outside, "CR-live"), ["accepted"]);
    outside.world.at_end(Ends::forwarded(2)).await;
    let flags = |id: &str| {
        let requests = outside.world.backend.requests().into_iter();
        let mut of_order = requests.filter(|request| request.external_order_id() == id);
        of_order.next().unwrap().json()["transformedOrder"]["flags"].clone()
    };
    assert_eq!(
        (flags("CR-test"), flags("CR-live")),
        (json!(["test_order"]), Value::Null)
    );
}
