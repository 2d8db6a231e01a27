//! `<PROVIDER>_RESPONSE_WAIT`: the answer to a webhook waits for its outcome, and is never worse than the answer without waiting.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{answer, change, http, order, sign},
    hub::Hub,
    ids,
};

/// Longer than any outcome that is not held back takes.
const LONG: Duration = Duration::from_secs(20);
/// Shorter than the test lets the backend think.
const SHORT: Duration = Duration::from_secs(1);

async fn hub_that_waits(world: &World, time: Duration) -> Hub {
    let time = format!("{}ms", time.as_millis());
    Hub::start(&world.settings().set("CAREEM_RESPONSE_WAIT", time)).await
}

/// Posts a webhook: what the answer says besides the ids of the request and the event, and how long it took.
async fn posted(world: &World, hub: &Hub, body: &str) -> (Value, Duration) {
    let began = Instant::now();
    let answer = world.careem.post(hub, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut said = answer.json();
    let (message, data) = (said["message"].take(), &said["data"]);
    let said = json!([message, data["orderId"], data["status"], data["duplicate"]]);
    (said, began.elapsed())
}

/// The id that the backend gave to an order.
async fn backends_id(world: &World, id: &str) -> Value {
    let sql = format!("SELECT order_id FROM hub.orders WHERE external_order_id = '{id}'");
    world.database.rows(&sql).await.unwrap().remove(0)["order_id"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_has_the_outcome_that_comes_in_time() {
    let world = World::new().await;
    let hub = hub_that_waits(&world, LONG).await;
    let [first, refused] = ["CR-waited-0", "CR-refused-0"];
    let (created, took) = posted(&world, &hub, &order(first)).await;
    assert!(took < LONG, "{took:?}");
    // A repeat, and news: their outcomes are on the log already, or come.
    let (repeated, _) = posted(&world, &hub, &order(first)).await;
    let (news, _) = posted(&world, &hub, &change(first, "picked_up")).await;
    // The backend refuses it: the webhook is accepted all the same, and the refusal is not waited for any longer.
    world.backend.always_for(refused, Some(Answer::status(422)));
    let (given_up, took) = posted(&world, &hub, &order(refused)).await;
    assert!(took < LONG, "{took:?}");
    let (again, took) = posted(&world, &hub, &order(refused)).await;
    assert!(took < LONG, "{took:?}");
    world.at_end(Ends::forwarded(2).dead_lettered(1)).await;

    let processed = "Webhook processed successfully";
    let id = backends_id(&world, first).await;
    assert!(id.is_string(), "{id}");
    assert_eq!(created, json!([processed, id, "created", false]));
    assert_eq!(repeated, json!([processed, id, "created", true]));
    assert_eq!(news, json!([processed, null, "forwarded", false]));
    assert_eq!(given_up, json!(["Webhook accepted", null, "accepted", false]));
    assert_eq!(again, json!(["Webhook accepted", null, "accepted", true]));
    for (result, count) in [("forwarded", 3), ("not_forwarded", 2)] {
        let line = format!("response_waits_total{{provider=\"careem\",result=\"{result}\"}} {count}");
        world.metrics_say(&hub, &line).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_outcome_is_answered_as_without_waiting() {
    let world = World::new().await;
    let hub = hub_that_waits(&world, SHORT).await;
    world.backend.hold();
    let id = &ids("slow", 1)[0];
    let waiting = async {
        world.backend.wait_for(1).await;
        // It waits, and holds nothing of the body.
        world.metrics(&hub).await
    };
    let ((said, took), metrics) = tokio::join!(async { posted(&world, &hub, &order(id)).await }, waiting);
    assert_eq!(said, json!(["Webhook accepted", null, "accepted", false]));
    assert!(took >= SHORT, "{took:?}");
    assert!(metrics.lines().any(|line| line == "body_bytes_held 0"), "{metrics}");
    let late = "response_waits_total{provider=\"careem\",result=\"late\"} 1";
    assert!(!metrics.contains(late), "it had been answered before");
    world.metrics_say(&hub, late).await;
    world.backend.release();
    world.at_end(Ends::forwarded(1)).await;
}

/// Another instance works on the stages: the outcome comes from the log.
#[tokio::test(flavor = "multi_thread")]
async fn another_instance_forwards() {
    let world = World::new().await;
    let working = world.hub().await;
    world.post_orders(&working, ids("before", 1)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let waiting = hub_that_waits(&world, LONG).await;
    let (created, took) = posted(&world, &waiting, &order("CR-elsewhere-0")).await;
    world.at_end(Ends::forwarded(2)).await;
    let id = backends_id(&world, "CR-elsewhere-0").await;
    assert_eq!(created, json!(["Webhook processed successfully", id, "created", false]));
    assert!(took < LONG, "{took:?}");
    // An instance that stops answers at once.
    world.backend.hold();
    let stopping = async {
        world.backend.wait_for(3).await;
        waiting.tell_to_stop().await;
    };
    let last = order("CR-elsewhere-1");
    let (posted, ()) = tokio::join!(posted(&world, &waiting, &last), stopping);
    assert_eq!(posted.0[2], "accepted");
    assert!(posted.1 < LONG, "{:?}", posted.1);
    world.backend.release();
    // The instance that stopped may have written the tables, and pulled what it did not write any more.
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
}

/// Repeats of a webhook that waits: one more may wait, the others are answered at once.
#[tokio::test(flavor = "multi_thread")]
async fn few_repeats_of_a_webhook_wait() {
    let world = World::new().await;
    let hub = hub_that_waits(&world, LONG).await;
    world.backend.hold();
    let body = order(&ids("repeated", 1)[0]);
    let first = posted(&world, &hub, &body);
    let others = async {
        world.backend.wait_for(1).await;
        let (mut one, mut other) = (
            Box::pin(posted(&world, &hub, &body)),
            Box::pin(posted(&world, &hub, &body)),
        );
        tokio::select! {
            at_once = &mut one => {
                world.backend.release();
                (at_once, other.await)
            }
            at_once = &mut other => {
                world.backend.release();
                (at_once, one.await)
            }
        }
    };
    let ((first, _), ((third, took), (second, _))) = tokio::join!(first, others);
    assert!(took < LONG, "{took:?}");
    assert_eq!((&first[2], &second[2]), (&json!("created"), &json!("created")));
    assert_eq!(third, json!(["Webhook accepted", null, "accepted", true]));
    world.at_end(Ends::forwarded(1)).await;
}

/// The holder of one branch's secret takes all places that it can get: the provider's own webhooks wait all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_has_a_share_of_the_places() {
    const SHARE: usize = 128;
    let world = World::new().await;
    let secret = "UPDATE branch_delivery_configs SET webhook_secret = 'secret-of-a'";
    world.database.run(secret).await.unwrap();
    let time = format!("{}ms", LONG.as_millis());
    let settings = world.settings().set("CAREEM_RESPONSE_WAIT", time);
    let hub = Hub::start(&settings.set("CAREEM_BRANCH_SECRETS", true)).await;
    world.backend.hold();
    let post = |id: &str| {
        let body = order(id);
        let post = http().post(format!("{}/api/webhooks/careem", hub.url()));
        let post = post.header("x-careem-signature", sign("secret-of-a", body.as_bytes()));
        post.header("x-merchant-id", "merchant-1").body(body)
    };
    let mut waiting = tokio::task::JoinSet::new();
    for id in ids("place", SHARE) {
        waiting.spawn(answer(post(&id)));
    }
    // Each had its place before it was on the log.
    world.log.wait_for(EventType::WebhookReceived, SHARE).await;
    let began = Instant::now();
    let beyond = answer(post("CR-beyond-0")).await.unwrap();
    assert!(began.elapsed() < LONG, "{beyond:?}");
    assert_eq!(beyond.json()["data"]["status"], json!("accepted"));
    let own = async {
        let (said, _) = posted(&world, &hub, &order("CR-own-0")).await;
        said
    };
    let release = async {
        world.log.wait_for(EventType::WebhookReceived, SHARE + 2).await;
        world.backend.release();
    };
    let (own, ()) = tokio::join!(own, release);
    assert_eq!(own[2], json!("created"));
    while let Some(answered) = waiting.join_next().await {
        assert_eq!(answered.unwrap().unwrap().status, 200);
    }
    world.at_end(Ends::forwarded(SHARE + 2)).await;
}
