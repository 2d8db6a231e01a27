//! Facts about providers for which no sample stands: further words of a list, and fields that come instead of others.

use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::*;
use crate::provider::declarative::sample::{Outcome, Sample};

/// The body that the backend gets of a webhook.
fn posted(provider: &str, sent: &Value) -> Value {
    let file = Catalogue::shipped().get(provider).unwrap().file().clone();
    let text = sent.to_string();
    let sample = Sample {
        body: text.as_bytes(),
        headers: &HeaderMap::new(),
        path: "",
        document: None,
        now: Utc::now(),
    };
    let tried = Declarative::new(file, Some("AED".parse().unwrap())).try_sample(&sample);
    match tried.unwrap().outcome {
        Outcome::Posted(posted) => serde_json::from_slice(&posted.body).unwrap(),
        other => panic!("{provider}: {other:?}"),
    }
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn fixture(provider: &str, name: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/providers");
    json_of(&std::fs::read_to_string(format!("{folder}/{provider}/{name}.json")).unwrap())
}

/// Each word of the provider at a place, and the courier's state and the order's status that it means.
fn assert_words(provider: &str, webhook: &Value, place: &str, words: &[(Value, Value, Value)]) {
    for (word, state, status) in words {
        let mut webhook = webhook.clone();
        *webhook.pointer_mut(place).unwrap() = word.clone();
        let change = &posted(provider, &webhook)["statusChange"];
        let found = (
            &change["captain"]["state"],
            &change["canonicalStatus"],
            &change["flags"],
        );
        assert_eq!(found, (state, status, &Value::Null), "{provider} {word}: {change:#}");
    }
}

/// The slot of an order for later, or the time by which it must be ready, and what the merchant is told.
#[test]
fn careem_says_when_an_order_must_be_ready() {
    let mut webhook = fixture("careem-pos", "public.dubai");
    let details = &mut webhook["details"];
    details["prepare_time"] = "2026-10-04T10:00:00Z".into();
    details["notes"] = "Ring".into();
    details["metadata"] =
        json!({ "order_instructions": { "merchant_notes": "No bags", "merchant_instructions": "Back door" } });
    let order = posted("careem-pos", &webhook)["transformedOrder"].clone();
    assert_eq!(order["readyBy"], "2026-10-04T10:00:00Z");
    assert_eq!(order["notes"], "Ring\nNo bags\nBack door");
    let slot = json!({ "start": "2026-10-04T11:00:00Z", "end": "2026-10-04T11:30:00Z" });
    webhook["details"]["delivery"] = json!({ "schedule_detail": { "time_slot": slot } });
    let order = &posted("careem-pos", &webhook)["transformedOrder"];
    let times = (&order["readyBy"], &order["deliverBy"], &order["flags"]);
    let expected = json!(["2026-10-04T11:00:00Z", "2026-10-04T11:30:00Z", ["line_total_computed"]]);
    assert_eq!(json!([times.0, times.1, times.2]), expected);
}

#[test]
fn words_of_couriers_and_orders_are_known() {
    let careem = fixture("careem-pos", "shape.driver_coming");
    let words = [
        (json!("driver_here"), json!("arrived"), Value::Null),
        (json!("slot_upcoming"), Value::Null, json!("accepted")),
        (json!("slot_started"), Value::Null, json!("accepted")),
        (json!("trip_started"), json!("picked_up"), json!("picked_up")),
        (json!("trip_ended"), json!("delivered"), json!("delivered")),
    ];
    assert_words("careem-pos", &careem, "/details/status", &words);
    let deliveroo = fixture("deliveroo", "shape.rider_delivered");
    let words = [(json!("rider_check_in"), json!("arrived"), Value::Null)];
    assert_words("deliveroo", &deliveroo, "/body/riders/0/status_log/3/status", &words);
    let just_eat = fixture("just-eat", "shape.driver_at_restaurant");
    let words = [(json!("driverArrivingAtRestaurant"), json!("coming"), Value::Null)];
    assert_words("just-eat", &just_eat, "/driverStatus/code", &words);
    let keeta = fixture("keeta", "shape.courier");
    let message = keeta["message"].as_str().unwrap();
    let numbered =
        |number: u32| json!(message.replace("\"logisticsStatus\": 25", &format!("\"logisticsStatus\": {number}")));
    let words = [(20, "assigned"), (30, "picked_up"), (50, "delivered")];
    let words = words.map(|(number, state)| (numbered(number), json!(state), Value::Null));
    assert_words("keeta", &keeta, "/message", &words);
}

/// What a promotion only makes cheaper stands among the items already.
#[test]
fn items_of_a_discount_are_no_further_lines() {
    let mut order = fixture("just-eat", "shape.free_item");
    let lines = |order: &Value| {
        posted("just-eat", order)["transformedOrder"]["items"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(lines(&order), 2);
    order["promotions"][0]["type"] = "ITEM_DISCOUNT_PERCENTAGE".into();
    assert_eq!(lines(&order), 1);
}

/// An order that waits for a courier who never comes is lost: only the name of a channel says that the channel sends one.
#[test]
fn deliverect_says_who_delivers() {
    let by = |by: Value| {
        let mut order = fixture("deliverect", "order");
        order["courier"] = by;
        let body = posted("deliverect", &order);
        let order = &body["transformedOrder"];
        let is_unknown = order["flags"]
            .as_array()
            .unwrap()
            .contains(&json!("unknown_fulfillment"));
        (order["fulfillment"].as_str().unwrap().to_owned(), is_unknown)
    };
    assert_eq!(
        by(json!({ "deliveryBy": "Restaurant" })),
        ("merchant_courier".into(), false)
    );
    assert_eq!(
        by(json!({ "deliveryBy": "uberEats" })),
        ("platform_courier".into(), false)
    );
    for wrong in [
        json!({ "deliveryBy": false }),
        json!({ "deliveryBy": "null" }),
        json!({ "deliveryBy": [] }),
        json!({ "deliveryBy": "" }),
        json!({}),
        json!(null),
    ] {
        assert_eq!(by(wrong.clone()), ("merchant_courier".into(), true), "{wrong}");
    }
}

/// The platform's own formats are sent by the interfaces of `careem-pos` and `delivery-hero`, so what these are told holds for them.
#[test]
fn careem_and_talabat_are_told_as_their_own_interfaces_are() {
    let outbound = |name: &str| {
        let path = format!("{}/providers/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let file: toml::Table = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        file["outbound"].clone()
    };
    assert_eq!(outbound("careem"), outbound("careem-pos"));
    let mut delivery_hero = outbound("delivery-hero");
    // Orders of the platform's format list no calls.
    for call in delivery_hero["status"].as_array_mut().unwrap() {
        call.as_table_mut().unwrap().remove("offered");
    }
    assert_eq!(outbound("talabat"), delivery_hero);
}
