//! The providers' files: what each word of theirs means, a provider that is not known here by its file alone, the commands that
//! check and try files.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use webhook_hub::{event::EventType, order::body::SCHEMA, provider::Catalogue};

use crate::harness::{
    World,
    at_end::Ends,
    golden::compact,
    hub::{Hub, Settings, run},
    log::payload,
    provider::{Provider, Webhook},
};

/// Whether a text is a time of now.
fn assert_now(text: &str) {
    let time: DateTime<Utc> = text.parse().unwrap();
    assert!(Utc::now() - time < TimeDelta::minutes(5), "{text}");
}

/// The golden text with the times in it that are not known before.
pub(crate) fn golden(text: &str, body: &Value) -> String {
    let transformed_at = body["metadata"]["transformedAt"].as_str().unwrap();
    assert_now(transformed_at);
    let mut golden = compact(text).replace("{transformedAt}", transformed_at);
    if golden.contains("{receivedAt}") {
        let received_at = body["originalWebhook"]["timestamp"].as_str().unwrap();
        assert_now(received_at);
        golden = golden.replace("{receivedAt}", received_at);
    }
    golden
}

/// Bodies by the schema that is documented.
pub(crate) struct Schema {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Schema {
    pub(crate) fn load() -> Self {
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        compiler
            .add_resource("backend-body.json", serde_json::from_str(SCHEMA).unwrap())
            .unwrap();
        let index = compiler.compile("backend-body.json", &mut schemas).unwrap();
        Self { schemas, index }
    }

    pub(crate) fn check(&self, body: &Value) {
        if let Err(error) = self.schemas.validate(body, self.index) {
            panic!("{error:#}\n{body:#}");
        }
    }
}

/// No sample holds every word of its provider, so what each of them means was reviewed by itself.
#[test]
fn every_word_means_what_was_reviewed() {
    let mut said = Vec::new();
    for (_, known) in Catalogue::shipped().iter() {
        let file = known.file();
        let mut add = |table: &str, word: &str, meaning: &str| {
            said.push(format!("{} {table} {word} = {meaning}\n", file.identity.name));
        };
        let (kinds, fulfillments) = (&file.events.types, &file.order.head.fulfillment.words);
        kinds.iter().for_each(|(word, kind)| add("event", word, kind.as_str()));
        fulfillments
            .iter()
            .for_each(|(word, one)| add("fulfillment", word, one.as_str()));
        file.status
            .words
            .iter()
            .for_each(|(word, one)| add("status", word, one.as_str()));
        let couriers = file.courier.iter().flat_map(|courier| courier.words.iter());
        couriers.for_each(|(word, one)| add("courier", word, one.as_str()));
    }
    assert_eq!(said.concat(), include_str!("fixtures/words.txt"));
}

/// `docs/providers.md` is all that its author had.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_nobody_here_knows_is_a_file() {
    let world = World::new().await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/providers.d");
    let settings = world.settings().set("PROVIDERS_DIR", folder);
    let catalogue = Catalogue::load(Some(folder.as_ref())).unwrap();
    let providers = Provider::all(&catalogue);
    let mansaf = providers.iter().find(|one| one.name == "mansaf-express").unwrap();
    mansaf.branch(&world, "zarqa-1").await;
    let settings = mansaf.enable(settings, "JOD");
    let hub = Hub::start(&settings).await;
    let schema = Schema::load();
    for (at, (sent, expected)) in [
        (
            include_str!("fixtures/providers.d/order.json"),
            include_str!("fixtures/providers.d/order.body.json"),
        ),
        (
            include_str!("fixtures/providers.d/cancel.json"),
            include_str!("fixtures/providers.d/cancel.body.json"),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = mansaf.post(&hub, &Webhook::new(sent)).await;
        assert_eq!((answer.status, answer.text.as_str()), (202, r#"{"ack":"ME-77001"}"#));
        let request = world.backend.wait_for(at + 1).await.pop().unwrap();
        schema.check(&request.json());
        assert_eq!(
            std::str::from_utf8(&request.body).unwrap(),
            golden(expected, &request.json())
        );
    }
    let refused = mansaf.send(&hub, mansaf.signed(&Webhook::new("{}"), "x")).await;
    assert_eq!(
        (refused.status, refused.text.as_str()),
        (401, r#"{"problem":"INVALID_SIGNATURE"}"#)
    );
    world.at_end(Ends::forwarded(2)).await;
}

/// Standard output of a command, which must end with this status.
async fn said(args: &[&str], code: i32) -> String {
    let ran = run(&Settings::empty(), args).await;
    assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.said());
    ran.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_checked_and_tried_before_they_go_live() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let file = format!("{fixtures}/providers.d/mansaf-express.toml");
    let checked = said(&["providers", "check", &file], 0).await;
    assert!(checked.contains("MANSAF_EXPRESS_WEBHOOK_SECRET"), "{checked}");

    let broken = format!("{fixtures}/broken.toml");
    let faults = said(&["providers", "check", &broken], 1).await;
    assert_eq!(faults.replace(fixtures, ""), include_str!("fixtures/broken.txt"));
    let faults: Value = serde_json::from_str(&said(&["--json", "providers", "check", &broken], 1).await).unwrap();
    assert_eq!(faults["faults"][0]["line"], 3);

    let sample = format!("{fixtures}/providers.d/order.json");
    let tried = said(&["providers", "try", &file, &sample], 0).await;
    for (field, value) in [
        ("webhook", "order_created"),
        ("answer", r#"202 {"ack":"ME-77001"}"#),
        ("/transformedOrder/pricing/total", "12.375"),
        ("/transformedOrder/extra/~1campaign", r#"{"code":"EID","steps":[1,2]}"#),
    ] {
        let line = tried.lines().find(|line| line.split_whitespace().next() == Some(field));
        assert!(line.is_some_and(|line| line.ends_with(value)), "{field}: {tried}");
    }
    let tried: Value = serde_json::from_str(&said(&["--json", "providers", "try", &file, &sample], 0).await).unwrap();
    assert_eq!(
        (&tried["becomes"], &tried["body"]["transformedOrder"]["orderNumber"]),
        (&json!("forwarded"), &json!("MANSAF-77001"))
    );

    let uber = said(&["--json", "providers", "try", "uber-eats", &sample], 0).await;
    let uber: Value = serde_json::from_str(&uber).unwrap();
    assert_eq!(uber["why"], "no word was found at body:/event_type");
    let credentials = said(
        &[
            "providers",
            "check",
            concat!(env!("CARGO_MANIFEST_DIR"), "/providers/uber-eats.toml"),
        ],
        0,
    )
    .await;
    assert!(
        credentials.contains("UBER_EATS_CLIENT_ID, UBER_EATS_CLIENT_SECRET"),
        "{credentials}"
    );
    let ran = run(&Settings::empty(), &["providers", "try", "mansaf", &sample]).await;
    assert!(
        ran.said()
            .contains("PROVIDERS_DIR, the folder of your own files, is not set"),
        "{}",
        ran.said()
    );

    let order = format!("{fixtures}/providers/jahez/webhook_create_order.json");
    said(&["providers", "try", "jahez", &order], 1).await;
    said(&["providers", "try", "jahez", &order, "--currency", "SAR"], 0).await;
    let faulty = said(&["providers", "try", "careem-pos", &order, "--currency", "SAR"], 1).await;
    assert!(faulty.contains("/id: expected the order id"), "{faulty}");
    let list = said(&["providers", "list"], 0).await;
    assert_eq!(list, include_str!("fixtures/providers.list.txt"));
    said(&["providers", "try"], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn test_orders_stay_out_of_the_kitchen() {
    let world = World::new().await;
    let providers = Provider::all(&Catalogue::shipped());
    let generic = providers.iter().find(|one| one.name == "generic").unwrap();
    generic.branch(&world, "store-7").await;
    let settings = generic.enable(world.settings(), "KWD");
    let order = |id: &str| include_str!("fixtures/providers/generic/order.created.json").replace("A-1001", id);
    let test_order = |id: &str| order(id).replace("\"notes\": \"Ring twice\"", "\"test\": true");

    let hub = Hub::start(&settings).await;
    assert_eq!(generic.post(&hub, &Webhook::new(test_order("T-1"))).await.status, 200);
    let staged = Webhook::new(order("T-2")).with("x-environment", "Staging");
    assert_eq!(generic.post(&hub, &staged).await.status, 200);
    let live = Webhook::new(order("L-1")).with("x-environment", "production");
    assert_eq!(generic.post(&hub, &live).await.status, 200);
    for event in world.log.wait_for(EventType::OrderIgnored, 2).await {
        assert_eq!(payload(&event)["reason"], "TEST_ORDER");
    }
    assert_eq!(world.backend.wait_for(1).await[0].external_order_id(), "L-1");
    hub.terminate().await;

    let hub = Hub::start(&settings.set("GENERIC_FORWARD_TEST_ORDERS", true)).await;
    assert_eq!(generic.post(&hub, &Webhook::new(test_order("T-3"))).await.status, 200);
    let request = world.backend.wait_for(2).await.pop().unwrap();
    assert_eq!(request.json()["transformedOrder"]["flags"], json!(["test_order"]));
    world.at_end(Ends::forwarded(2).ignored(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_used_refuse_the_start() {
    let world = World::new().await;
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    for (name, value, message) in [
        ("PROVIDERS_DIR", "/nowhere", "PROVIDERS_DIR: cannot read /nowhere"),
        ("PROVIDERS_DIR", fixtures, "broken.toml:3:"),
        (
            "JAHEZ_ENABLED",
            "true",
            "JAHEZ_CURRENCY: missing; jahez sends no currency",
        ),
        ("JAHEZ_CURRENCY", "DINAR", "JAHEZ_CURRENCY:"),
    ] {
        let settings = world
            .settings()
            .set("JAHEZ_API_KEY", "x")
            .set("JAHEZ_ENABLED", name.starts_with("JAHEZ"));
        let ran = run(&settings.set(name, value), &["serve"]).await;
        assert_eq!(ran.code, Some(1), "{}", ran.said());
        assert!(ran.said().contains(message), "{}", ran.said());
    }
}
