//! Orders that are changed after they were announced: by a webhook of its own, or by the same order once more.

use serde_json::{Value, json};
use webhook_hub::{event::EventType, provider::Catalogue};

use crate::{
    harness::{
        World,
        at_end::Ends,
        backend::{Answer, ORDERS},
        careem::{answer, change, http},
        hub::{Hub, run},
        log::payload,
        provider::{Provider, Webhook},
    },
    identity::announced,
    providers::Schema,
};

const JUST_EAT: &str = include_str!("fixtures/providers/just-eat/shape.free_item.json");
const ADJUSTMENT: &str = include_str!("fixtures/providers/doordash/shape.adjustment.json");

fn provider(name: &str) -> Provider {
    let all = Provider::all(&Catalogue::shipped());
    all.into_iter().find(|one| one.name == name).unwrap()
}

/// A world, a hub with this provider and its branch.
async fn world_of(provider: &Provider, store: &str, currency: &str) -> (World, Hub) {
    let world = World::new().await;
    provider.branch(&world, store).await;
    let hub = Hub::start(&provider.enable(world.settings(), currency)).await;
    (world, hub)
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Paths and bodies that the backend got.
fn got(world: &World) -> Vec<(String, Value)> {
    let requests = world.backend.requests().into_iter();
    requests.map(|request| (request.path.clone(), request.json())).collect()
}

/// Just Eat posts the order as it was picked, in the shape in which it announced it.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_as_it_was_picked_amends_the_order() {
    let just_eat = provider("just-eat");
    let mut order = json_of(JUST_EAT);
    let lines = order["items"].as_array_mut().unwrap();
    lines.push(json!({ "name": "Bread", "plu": "B1", "price": 120, "children": [] }));
    let (world, hub) = world_of(&just_eat, order["posLocationId"].as_str().unwrap(), "GBP").await;
    assert_eq!(just_eat.post(&hub, &Webhook::new(&order)).await.status, 200);
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    // The same once more with another wish: no change.
    let mut same = order.clone();
    same["kitchen_notes"] = "no hurry".into();
    assert_eq!(just_eat.post(&hub, &Webhook::new(&same)).await.status, 200);
    world.log.wait_for(EventType::OrderIgnored, 1).await;
    let mut picked = order.clone();
    picked["items"].as_array_mut().unwrap().pop();
    assert_eq!(just_eat.post(&hub, &Webhook::new(&picked)).await.status, 200);
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.at_end(Ends::forwarded(2).ignored(1)).await;
    let got = got(&world);
    let id = order["id"].as_str().unwrap();
    let paths: Vec<&str> = got.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, [ORDERS, &format!("{ORDERS}/{id}/amendment")]);
    let (announced, amended) = (&got[0].1, &got[1].1);
    let count = |order: &Value| order["items"].as_array().unwrap().len();
    assert_eq!(amended["amendment"]["kind"], "picked");
    let (now, before) = (count(&amended["amendment"]), count(&announced["transformedOrder"]));
    assert_eq!(now + 1, before, "{amended:#}");
    let schema = Schema::load();
    got.iter().for_each(|(_, body)| schema.check(body));
    // The bread was found, and the restaurant's courier is to bring it elsewhere. No amendment says that, so a person is told.
    let mut moved = order.clone();
    moved["delivery"]["line_one"] = "99 Elsewhere Road".into();
    assert_eq!(just_eat.post(&hub, &Webhook::new(&moved)).await.status, 200);
    let told = &world.log.payloads(EventType::OrderForwarded, 3).await[2];
    assert_eq!(
        (&told["asNews"], &told["differs"]),
        (&json!(true), &json!(true)),
        "{told}"
    );
    world.at_end(Ends::forwarded(3).ignored(1)).await;
}

/// Just Eat picks an order without the bread, finds the bread, and says that once more.
#[tokio::test(flavor = "multi_thread")]
async fn an_amendment_is_taken_back() {
    let just_eat = provider("just-eat");
    let mut order = json_of(JUST_EAT);
    let lines = order["items"].as_array_mut().unwrap();
    lines.push(json!({ "name": "Bread", "plu": "B1", "price": 120, "children": [] }));
    let (world, hub) = world_of(&just_eat, order["posLocationId"].as_str().unwrap(), "GBP").await;
    let mut picked = order.clone();
    picked["items"].as_array_mut().unwrap().pop();
    let mut noted = picked.clone();
    noted["kitchen_notes"] = "no bread".into();
    let mut found = order.clone();
    found["kitchen_notes"] = "the bread was found".into();
    let mut repeated = found.clone();
    repeated["kitchen_notes"] = "it really was".into();
    for (webhook, forwarded, ignored) in [
        (&order, 1, 0),
        (&picked, 2, 0),
        (&noted, 2, 1),
        (&found, 3, 1),
        (&repeated, 3, 2),
    ] {
        assert_eq!(just_eat.post(&hub, &Webhook::new(webhook)).await.status, 200);
        world.log.wait_for(EventType::OrderForwarded, forwarded).await;
        world.log.wait_for(EventType::OrderIgnored, ignored).await;
    }
    world.at_end(Ends::forwarded(3).ignored(2)).await;
    let lines = |(_, body): &(String, Value)| {
        let order = body.get("amendment").unwrap_or(&body["transformedOrder"]);
        order["items"].as_array().unwrap().len()
    };
    let counts: Vec<usize> = got(&world).iter().map(lines).collect();
    assert_eq!(counts, [3, 2, 3]);
    for ignored in world.log.payloads(EventType::OrderIgnored, 2).await {
        assert_eq!(ignored["differs"], Value::Null, "{ignored}");
    }
}

/// A Careem that announces an order anew for each change of its lines or its status.
async fn announcing_anew() -> (World, Hub) {
    let folder = tempfile::tempdir().unwrap();
    let words = r#"created = "order_created","#;
    let file = include_str!("../providers/careem.toml");
    assert!(file.contains(words) && file.contains("absent = "));
    let more = r#"accepted = "order_created", ready = "order_created","#;
    let file = file.replace(words, &format!("{words} {more}"));
    let file = file.replacen("absent = ", "announced_again = \"edited\"\nabsent = ", 1);
    std::fs::write(folder.path().join("careem.toml"), file).unwrap();
    let world = World::new().await;
    let settings = world.settings().set("RETRY_DELAYS", "100ms");
    let hub = Hub::start(&settings.set("PROVIDERS_DIR", folder.path().display())).await;
    (world, hub)
}

fn total(text: &str, total: &str) -> String {
    let at = "\"total_taxable_price\": 16.24";
    assert!(text.contains(at));
    text.replace(at, &format!("\"total_taxable_price\": {total}"))
}

/// With another total and a further status, the backend gets both. While it refuses the status, the amendment comes again under its
/// key. Another order with the number amends none, and tells no status of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_amendment_with_a_further_status_says_both() {
    let (world, hub) = announcing_anew().await;
    let order = announced("CR-both", "created");
    let accepted = announced("CR-both", "accepted");
    world.careem.post(&hub, &order).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    world.backend.next_for("CR-both", [Answer::Accept, Answer::status(503)]);
    world.careem.post(&hub, &total(&accepted, "26.24")).await.event_id();
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    // Once more in another webhook, then another order.
    let repeated = total(&accepted, "26.24").replacen('{', "{\"attempt\": 2,", 1);
    world.careem.post(&hub, &repeated).await.event_id();
    world.log.wait_for(EventType::OrderIgnored, 1).await;
    let other = total(&announced("CR-both", "ready"), "36.24").replace("2025-10-01T12:00:00Z", "2025-10-02T19:00:00Z");
    world.careem.post(&hub, &other).await.event_id();
    world.at_end(Ends::forwarded(2).ignored(2)).await;
    let requests = world.backend.requests();
    let paths: Vec<&str> = requests.iter().map(|request| request.path.as_str()).collect();
    let [amendment, status] = ["amendment", "status"].map(|what| format!("{ORDERS}/CR-both/{what}"));
    assert_eq!(paths, [ORDERS, &amendment, &status, &amendment, &status]);
    assert_eq!(requests[1].key(), requests[3].key());
    assert_eq!(requests[2].key(), requests[4].key());
    assert_ne!(requests[1].key(), requests[2].key());
    assert_eq!(requests[4].json()["statusChange"]["canonicalStatus"], "accepted");
    let ignored = world.log.payloads(EventType::OrderIgnored, 2).await;
    assert_eq!(
        (&ignored[0]["differs"], &ignored[1]["differs"]),
        (&Value::Null, &json!(true))
    );
}

/// - `CR-back`: the backend took another total and refused the status that came with it. The provider takes the total back.
/// - `CR-cancelled`: the backend refused another total, and the order was cancelled. The total is not told afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn an_amendment_of_which_the_status_was_refused_is_taken_back() {
    let (world, hub) = announcing_anew().await;
    let [back, cancelled] = ["CR-back", "CR-cancelled"];
    world
        .backend
        .next_for(back, [Answer::Accept, Answer::Accept, Answer::status(422)]);
    world.backend.next_for(cancelled, [Answer::Accept, Answer::status(422)]);
    for id in [back, cancelled] {
        world.careem.post(&hub, &announced(id, "created")).await.event_id();
    }
    let accepted = announced(back, "accepted");
    for body in [
        &total(&accepted, "26.24"),
        &total(&announced(cancelled, "created"), "26.24"),
    ] {
        world.careem.post(&hub, body).await.event_id();
    }
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    // The backend has that total for certain: said once more, it is no amendment.
    let same = total(&announced(back, "created"), "26.24");
    world.careem.post(&hub, &same).await.event_id();
    world.log.wait_for(EventType::OrderIgnored, 1).await;
    let counted = accepted.replacen('{', "{\"attempt\": 2,", 1);
    world.careem.post(&hub, &counted).await.event_id();
    world
        .careem
        .post(&hub, &change(cancelled, "cancelled"))
        .await
        .event_id();
    world.log.wait_for(EventType::OrderForwarded, 4).await;
    let requests = world.backend.requests().into_iter();
    let of_back: Vec<_> = requests.filter(|one| one.external_order_id() == back).collect();
    let paths: Vec<&str> = of_back.iter().map(|one| one.path.as_str()).collect();
    let [amendment, status] = ["amendment", "status"].map(|what| format!("{ORDERS}/{back}/{what}"));
    assert_eq!(paths, [ORDERS, &amendment, &status, &amendment, &status]);
    let told = of_back[3].json()["amendment"]["pricing"]["total"].as_f64();
    assert_eq!(told, Some(16.24), "as before");
    // What both failed announcements say is older than what the backend was told last.
    let count = world.backend.count();
    world.retry_dead_letters().await;
    for ignored in &world.log.payloads(EventType::OrderIgnored, 3).await[1..] {
        assert_eq!(ignored["reason"], "SUPERSEDED", "{ignored}");
    }
    assert_eq!(world.backend.count(), count);
    world.at_end(Ends::forwarded(4).ignored(3)).await;
}

/// DoorDash says that it adjusted an order. The amendment waits for the order, which the backend does not know yet.
#[tokio::test(flavor = "multi_thread")]
async fn an_adjustment_follows_its_order() {
    let doordash = provider("doordash");
    let adjustment = json_of(ADJUSTMENT);
    let mut order = adjustment.clone();
    order["event"]["type"] = "OrderCreate".into();
    order.as_object_mut().unwrap().remove("order_adjustment_metadata");
    let store = order["order"]["store"]["merchant_supplied_id"].as_str().unwrap();
    let (world, hub) = world_of(&doordash, store, "USD").await;
    // Of an order that the backend has and the hub has not seen, it is told first that there is none.
    world.backend.next([Answer::status(404)]);
    assert_eq!(doordash.post(&hub, &Webhook::new(&adjustment)).await.status, 200);
    world.log.wait_for(EventType::OrderForwardFailed, 1).await;
    assert_eq!(doordash.post(&hub, &Webhook::new(&order)).await.status, 200);
    world.at_end(Ends::forwarded(2)).await;
    let got = got(&world);
    let id = order["order"]["id"].as_str().unwrap();
    let amendment = format!("{ORDERS}/{id}/amendment");
    let paths: Vec<&str> = got.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, [&amendment, ORDERS, &amendment]);
    assert_eq!(got[0].1, got[2].1);
    let amended = &got[2].1["amendment"];
    assert_eq!(
        (&amended["kind"], &amended["externalOrderId"]),
        (&json!("adjusted"), &json!(id))
    );
    let schema = Schema::load();
    got.iter().for_each(|(_, body)| schema.check(body));
    // The tables have one order, and both webhooks.
    let events = world.log.events().await;
    let announced = events
        .iter()
        .filter(|event| event.envelope.event_type == EventType::OrderTransformed)
        .count();
    assert_eq!(announced, 2);
}

/// Keeta asks from time to time whether the hub is there. What it sends is not signed and becomes no event.
#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_is_answered_and_no_webhook() {
    let keeta = provider("keeta");
    let (world, hub) = world_of(&keeta, "123", "SAR").await;
    let url = format!("{}/api/webhooks/keeta", hub.url());
    let said = answer(http().post(&url).body("{}")).await.unwrap();
    assert_eq!((said.status, said.json()), (200, json!({ "code": 0 })));
    // Anything that says more has to be signed.
    let body = json!({ "eventId": 1001 }).to_string();
    assert_eq!(answer(http().post(url).body(body)).await.unwrap().status, 401);
    assert!(world.log.events().await.is_empty());
    world.at_end(Ends::default()).await;
}

/// Retries all dead letters: first only as a dry run, which says that one is superseded; the retry ends so without a request.
async fn one_is_superseded(world: &World) {
    let arguments = ["dead-letters", "retry", "--all", "--dry-run"];
    let dry = run(&world.nats.settings("hub"), &arguments)
        .await
        .expect_success()
        .stdout;
    assert!(dry.contains("1 would end as superseded"), "{dry}");
    let requests = world.backend.count();
    world.retry_dead_letters().await;
    let ignored = world.log.payloads(EventType::OrderIgnored, 1).await;
    assert_eq!(ignored[0]["reason"], "SUPERSEDED", "{}", ignored[0]);
    assert_eq!(world.backend.count(), requests, "{}", ignored[0]);
}

/// The provider sends an old amendment again, which the backend refused: it does not replace the newer one, either.
async fn repeated(world: &World, hub: &Hub, provider: &Provider, body: &Value) {
    let requests = world.backend.count();
    world.log_forgets(hub).await;
    assert_eq!(provider.post(hub, &Webhook::new(body)).await.status, 200);
    let ignored = world.log.payloads(EventType::OrderIgnored, 2).await;
    assert_eq!(ignored[1]["reason"], "SUPERSEDED", "{}", ignored[1]);
    assert_eq!(world.backend.count(), requests, "{}", ignored[1]);
}

/// The backend refused an amendment and took a later one.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_amendment_does_not_replace_a_newer_one() {
    let doordash = provider("doordash");
    let adjustment = json_of(ADJUSTMENT);
    let mut order = adjustment.clone();
    order["event"]["type"] = "OrderCreate".into();
    order.as_object_mut().unwrap().remove("order_adjustment_metadata");
    let store = order["order"]["store"]["merchant_supplied_id"].as_str().unwrap();
    let (world, hub) = world_of(&doordash, store, "USD").await;
    let mut newer = adjustment.clone();
    newer["order"]["subtotal"] = 1100.into();
    newer["event"]["event_timestamp"] = "2026-10-04T17:55:29Z".into();
    let id = order["order"]["id"].as_str().unwrap();
    world.backend.next_for(id, [Answer::Accept, Answer::status(422)]);
    for body in [&order, &adjustment, &newer] {
        assert_eq!(doordash.post(&hub, &Webhook::new(body)).await.status, 200);
    }
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    one_is_superseded(&world).await;
    repeated(&world, &hub, &doordash, &adjustment).await;
    world.at_end(Ends::forwarded(2).ignored(2)).await;
    // One of which no later one was taken is sent.
    world.backend.next_for(id, [Answer::status(422)]);
    newer["order"]["subtotal"] = 1200.into();
    assert_eq!(doordash.post(&hub, &Webhook::new(&newer)).await.status, 200);
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.retry_dead_letters().await;
    world.at_end(Ends::forwarded(3).ignored(2)).await;
}

/// The same where the provider amends an order by another announcement of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_announcement_does_not_replace_a_newer_one() {
    let just_eat = provider("just-eat");
    let mut order = json_of(JUST_EAT);
    let lines = order["items"].as_array_mut().unwrap();
    for plu in ["B1", "B2"] {
        lines.push(json!({ "name": "Bread", "plu": plu, "price": 120, "children": [] }));
    }
    let (world, hub) = world_of(&just_eat, order["posLocationId"].as_str().unwrap(), "GBP").await;
    let without = |order: &Value| {
        let mut picked = order.clone();
        picked["items"].as_array_mut().unwrap().pop();
        picked
    };
    let picked = without(&order);
    let id = order["id"].as_str().unwrap();
    world.backend.next_for(id, [Answer::Accept, Answer::status(422)]);
    for body in [&order, &picked, &without(&picked)] {
        assert_eq!(just_eat.post(&hub, &Webhook::new(body)).await.status, 200);
    }
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    one_is_superseded(&world).await;
    repeated(&world, &hub, &just_eat, &picked).await;
    world.at_end(Ends::forwarded(2).ignored(2)).await;
}

/// The backend refused an order and its adjustment, and took the order when it was announced once more: that is the later word.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_amendment_does_not_change_an_order_that_was_announced_later() {
    let doordash = provider("doordash");
    let adjustment = json_of(ADJUSTMENT);
    let mut order = adjustment.clone();
    order["event"]["type"] = "OrderCreate".into();
    order.as_object_mut().unwrap().remove("order_adjustment_metadata");
    let store = order["order"]["store"]["merchant_supplied_id"].as_str().unwrap();
    let (world, hub) = world_of(&doordash, store, "USD").await;
    let mut again = order.clone();
    again["attempt"] = 2.into();
    world.backend.next([Answer::status(422), Answer::status(422)]);
    for (body, dead) in [(&order, 1), (&adjustment, 2), (&again, 2)] {
        assert_eq!(doordash.post(&hub, &Webhook::new(body)).await.status, 200);
        world.log.wait_for(EventType::OrderDeadLettered, dead).await;
    }
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    let id = dead[1].envelope.id.to_string();
    let arguments = ["dead-letters", "retry", &id];
    run(&world.nats.settings("hub"), &arguments).await.expect_success();
    let ignored = &world.log.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(ignored["reason"], "SUPERSEDED", "{ignored}");
    assert_eq!(world.backend.count(), 3);
    world.at_end(Ends::forwarded(1).ignored(1).dead_lettered(1)).await;
}

/// Just Eat, with a hub that gives up soon, and an order with bread, without it, and with it again in another webhook.
async fn picked_orders() -> (World, Hub, Provider, [Value; 3]) {
    let just_eat = provider("just-eat");
    let mut order = json_of(JUST_EAT);
    let lines = order["items"].as_array_mut().unwrap();
    lines.push(json!({ "name": "Bread", "plu": "B1", "price": 120, "children": [] }));
    let mut picked = order.clone();
    picked["items"].as_array_mut().unwrap().pop();
    let mut found = order.clone();
    found["kitchen_notes"] = "the bread was found".into();
    let world = World::new().await;
    just_eat.branch(&world, order["posLocationId"].as_str().unwrap()).await;
    let settings = world.settings().set("CIRCUIT_BREAKER_ENABLED", false);
    let settings = settings.set("RETRY_DELAYS", "100ms").set("RETRY_MAX_ATTEMPTS", 1);
    let hub = Hub::start(&just_eat.enable(settings, "GBP")).await;
    (world, hub, just_eat, [order, picked, found])
}

/// - The backend refused an amendment, and the provider took it back, which the backend need not be told.
/// - The backend refused an order and took a corrected announcement of it.
///
/// Neither a person's retry nor the provider's repeat of the refused one replaces the later word, unless a person insists.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_announcement_does_not_replace_a_later_word() {
    let (world, hub, just_eat, bodies) = picked_orders().await;
    let of = |id: &str| {
        bodies.clone().map(|mut body| {
            body["id"] = id.into();
            body
        })
    };
    let [order, picked, found] = of("taken-back");
    let [refused, corrected, _] = of("corrected");
    world
        .backend
        .next_for("taken-back", [Answer::Accept, Answer::status(422)]);
    world.backend.next_for("corrected", [Answer::status(422)]);
    for body in [&order, &picked, &found, &refused, &corrected] {
        assert_eq!(just_eat.post(&hub, &Webhook::new(body)).await.status, 200);
    }
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.log.wait_for(EventType::OrderIgnored, 1).await;
    let count = world.backend.count();
    world.log_forgets(&hub).await;
    for body in [&picked, &refused] {
        assert_eq!(just_eat.post(&hub, &Webhook::new(body)).await.status, 200);
    }
    world.log.wait_for(EventType::OrderIgnored, 3).await;
    world.retry_dead_letters().await;
    let ignored = world.log.wait_for(EventType::OrderIgnored, 5).await;
    for ignored in &ignored[1..] {
        assert_eq!(payload(ignored)["reason"], "SUPERSEDED", "{ignored:?}");
    }
    assert_eq!(world.backend.count(), count);
    // The two orders end in any order.
    let mut ends = ignored.iter().rev();
    let last = ends.find(|end| end.envelope.external_order_id == "taken-back").unwrap();
    let id = last.envelope.id.to_string();
    let arguments = ["dead-letters", "retry", &id];
    run(&world.nats.settings("hub"), &arguments).await.expect_success();
    world.log.wait_for(EventType::OrderForwarded, 3).await;
    // Now the backend has the lines without the bread: they are no amendment when they are announced once more.
    let mut noted = picked.clone();
    noted["kitchen_notes"] = "no bread".into();
    assert_eq!(just_eat.post(&hub, &Webhook::new(&noted)).await.status, 200);
    let same = &world.log.payloads(EventType::OrderIgnored, 6).await[5];
    assert_eq!(
        (&same["reason"], &same["differs"]),
        (&json!("DUPLICATE_ORDER"), &Value::Null),
        "{same}"
    );
    world.at_end(Ends::forwarded(3).ignored(5)).await;
}

mod long {
    use super::*;

    /// The backend took an amendment, and no answer arrived. The provider takes the amendment back: the backend is told the lines, though
    /// they are those of the first announcement.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_amendment_without_an_answer_is_taken_back() {
        let (world, hub, just_eat, [order, picked, found]) = picked_orders().await;
        assert_eq!(just_eat.post(&hub, &Webhook::new(&order)).await.status, 200);
        world.log.wait_for(EventType::OrderForwarded, 1).await;
        world.backend.next([Answer::Cut]);
        world.backend.otherwise(Answer::status(503));
        assert_eq!(just_eat.post(&hub, &Webhook::new(&picked)).await.status, 200);
        world.log.wait_for(EventType::OrderDeadLettered, 1).await;
        world.backend.otherwise(Answer::Accept);
        assert_eq!(just_eat.post(&hub, &Webhook::new(&found)).await.status, 200);
        world.log.wait_for(EventType::OrderForwarded, 2).await;
        let (path, body) = got(&world).pop().unwrap();
        assert!(path.ends_with("/amendment"), "{path}");
        assert_eq!(body["amendment"]["items"].as_array().unwrap().len(), 3);
        world.at_end(Ends::forwarded(2).dead_lettered(1)).await;
    }
}
