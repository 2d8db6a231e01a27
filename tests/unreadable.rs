//! Unreadable values in accepted webhooks: an informative field loses no order, and an amount that is charged is not guessed at.

use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::{
    harness::{
        World,
        at_end::Ends,
        careem::{ORDER, ORDER_ID, change},
        hub::{Settings, run},
        log::payload,
        wait::{PATIENCE, eventually},
    },
    providers::Schema,
};

/// The sample order with other values at these places.
fn order(id: &str, changes: &[(&str, Value)]) -> String {
    let mut order: Value = serde_json::from_str(&ORDER.replace(ORDER_ID, id)).unwrap();
    for (place, value) in changes {
        let (parent, name) = place.rsplit_once('/').unwrap();
        order.pointer_mut(parent).unwrap()[name] = value.clone();
    }
    order.to_string()
}

/// An order in which every informative field has the wrong type reaches the kitchen, with flags.
#[tokio::test(flavor = "multi_thread")]
async fn unreadable_informative_fields_lose_no_order() {
    let world = World::new().await;
    let hub = world.hub().await;
    let body = order(
        "CR-odd",
        &[
            ("/customer/name", json!([])),
            ("/customer/email", json!("null")),
            ("/customer/phone_number", json!("+44 (0)20 7946 0958")),
            ("/customer/address/latitude", json!(false)),
            ("/created_at", json!("0000-00-00 00:00:00")),
            ("/notes", json!(false)),
            ("/order_number", json!({})),
            ("/delivery_type", json!("drone")),
            ("/price/subtotal", json!(null)),
            ("/price/tax_amount", json!("N/A")),
            ("/items/0/name", json!(null)),
            ("/items/0/notes", json!([])),
            ("/items/0/groups", json!({})),
        ],
    );
    world.careem.post(&hub, &body).await.event_id();
    let request = world.backend.wait_for(1).await.pop().unwrap();
    let posted = request.json();
    Schema::load().check(&posted);
    let order = &posted["transformedOrder"];
    let flags = json!([
        "total_mismatch",
        "subtotal_computed",
        "amount_unreadable",
        "text_unreadable",
        "number_unreadable",
        "time_zero",
        "list_unreadable",
        "unknown_fulfillment"
    ]);
    assert_eq!((&order["flags"], &posted["metadata"]["flags"]), (&flags, &flags));
    // What is charged is what was sent.
    let line = &order["items"][0];
    assert_eq!(
        (
            &line["quantity"],
            &line["unitPrice"],
            &line["totalPrice"],
            &order["pricing"]["total"]
        ),
        (&json!(2), &json!(5.5), &json!(11.0), &json!(16.24))
    );
    assert_eq!(line["name"], "برجر دجاج", "a name in another language stands in");
    assert_eq!(order["customerPhoneE164"], "+442079460958");
    assert_eq!(
        (&order["fulfillment"], &order["deliveryType"]),
        (&json!("merchant_courier"), &json!("drone"))
    );
    assert_eq!(order["extra"]["/price/tax_amount"], "N/A");
    for (field, value) in order.as_object().unwrap() {
        assert!(
            value.is_array() || value.is_object() || !["false", "null"].contains(&value.to_string().trim_matches('"')),
            "{field}"
        );
    }
    let metrics = world.metrics(&hub).await;
    for flag in flags.as_array().unwrap() {
        let line = format!("order_flags_total{{provider=\"careem\",flag={flag}}} 1");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    world.at_end(Ends::forwarded(1)).await;
}

/// What is charged, or says what was ordered, is read or the order is refused, each fault with its place.
#[tokio::test(flavor = "multi_thread")]
async fn unreadable_amounts_reject_the_order() {
    let world = World::new().await;
    let hub = world.hub().await;
    for (number, place) in [
        "/price/total_taxable_price",
        "/items/0/item_price",
        "/items/0/total_price",
        "/items/0/quantity",
        "/items/0/groups/0/options/0/price",
    ]
    .into_iter()
    .enumerate()
    {
        let body = order(&format!("CR-charged-{number}"), &[(place, json!("N/A"))]);
        world.careem.post(&hub, &body).await.event_id();
        let rejected = world.log.wait_for(EventType::OrderRejected, number + 1).await;
        let faults = &payload(&rejected[number])["error"]["details"]["faults"];
        assert_eq!(faults[0]["pointer"], place, "{faults}");
    }
    // One digit too many is no reason: it is rounded, said and held against the total.
    let body = order("CR-digits", &[("/price/total_taxable_price", json!("16.24051"))]);
    world.careem.post(&hub, &body).await.event_id();
    let posted = world.backend.wait_for(1).await.pop().unwrap().json();
    assert_eq!(posted["transformedOrder"]["pricing"]["total"], json!(16.241));
    assert_eq!(posted["metadata"]["flags"], json!(["total_mismatch", "price_rounded"]));
    assert_eq!(
        posted["transformedOrder"]["extra"]["/price/total_taxable_price"],
        "16.24051"
    );
    world.at_end(Ends::forwarded(1).rejected(5)).await;
}

/// What a platform left of an emoji is mended in the table as it is for the backend; the rest of the webhook is in both.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_surrogate_pair_is_replaced_in_the_table() {
    let world = World::new().await;
    let hub = world.hub().await;
    let body = order("CR-half", &[("/notes", json!("HALF"))]).replace("HALF", r"no \\ud83c onions \ud83c \ud83c\udf2f");
    world.careem.post(&hub, &body).await.event_id();
    let posted = world.backend.wait_for(1).await.pop().unwrap().json();
    let notes = "no \\ud83c onions \u{fffd} \u{1f32f}";
    assert_eq!(posted["transformedOrder"]["notes"], notes);
    eventually("the row of the webhook", PATIENCE, async || {
        let query = "SELECT payload->>'notes' AS notes, payload->>'id' AS id FROM webhook_logs WHERE external_order_id = 'CR-half'";
        let rows = world.database.rows(query).await.map_err(|error| format!("{error:#}"))?;
        match rows.first() {
            Some(row) if row["notes"] == notes && row["id"] == "CR-half" => Ok(()),
            row => Err(format!("{row:?}")),
        }
    })
    .await;
    world.at_end(Ends::forwarded(1)).await;
}

/// What `providers try` shows is what the stage posts, but for what only the hub can know: whose order it is, and when.
#[tokio::test(flavor = "multi_thread")]
async fn a_sample_is_shown_as_it_would_be_posted() {
    let world = World::new().await;
    let hub = world.hub().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let hostile = order(
        "CR-shown",
        &[
            ("/notes", json!("no onions<script>x()</script>")),
            ("/customer/name", json!("A\u{202e}li")),
        ],
    );
    world.careem.post(&hub, &hostile).await.event_id();
    let posted = world.backend.wait_for(1).await.pop().unwrap();
    let tried = run(
        &Settings::empty(),
        &["--json", "providers", "try", "careem", &file("order.json", &hostile)],
    )
    .await;
    let tried = tried.expect_success().stdout;
    let shown: Value = serde_json::from_str(&tried).unwrap();
    assert_eq!(
        shown["cleaned"],
        json!(["/transformedOrder/customerName", "/transformedOrder/notes"])
    );
    let same = |body: &Value| {
        let mut body = body.clone();
        body["metadata"]["transformedAt"] = Value::Null;
        for field in ["branchId", "companyId", "storeRef"] {
            body["transformedOrder"][field] = Value::Null;
        }
        body
    };
    assert_eq!(same(&shown["body"]), same(&posted.json()));
    let text = std::str::from_utf8(&posted.body).unwrap();
    let items = &text[text.find("\"items\":").unwrap()..text.find("\"payment\":").unwrap()];
    assert!(tried.contains(items), "{items} in {tried}");

    // What a provider says of a menu is about no order, and has no id.
    let word = |status: &str| {
        json!({ "event_type": "CATALOG_STATUS", "details": { "branch_id": "store-9", "catalog_id": "job-1", "status": status, "message": "item x" } }).to_string()
    };
    for (status, becomes) in [
        ("completed", "synced"),
        ("failed", "refused"),
        ("processing", "pending"),
    ] {
        let path = file(status, &word(status));
        let shown = run(&Settings::empty(), &["--json", "providers", "try", "careem", &path]).await;
        let shown: Value = serde_json::from_str(&shown.expect_success().stdout).unwrap();
        assert_eq!(
            (&shown["becomes"], &shown["menu"]["becomes"]),
            (&json!("menu_result"), &json!(becomes)),
            "{shown}"
        );
        assert_eq!(
            (&shown["store"], &shown["orderId"]),
            (&json!("store-9"), &json!("none"))
        );
    }
    // A hub that tells Careem nothing takes it, too.
    assert_eq!(world.careem.post(&hub, &word("completed")).await.status, 200);
    world.log.wait_for(EventType::OrderIgnored, 1).await;
    world
        .careem
        .post(&hub, &change("CR-shown", "teleported"))
        .await
        .event_id();
    let news = world.backend.wait_for(2).await.pop().unwrap().json();
    assert_eq!(news["metadata"]["flags"], json!(["unknown_status"]));
    world.at_end(Ends::forwarded(2).ignored(1)).await;
}
