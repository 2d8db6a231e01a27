//! Careem's webhooks, valid and invalid, read by its file.

use axum::http::{Method, Uri};
use bytes::Bytes;
use chrono::Utc;
use proptest::prelude::*;

use super::*;
use crate::{
    order::{flag::Flag, model::Order, status::Status},
    provider::Catalogue,
    verification::{Keys, Unverified, sign, sign::Outgoing, verify},
};

const SAMPLE: &str = include_str!("../../dev/sample_order.json");

const NAME: &str = "careem";

fn careem() -> Declarative {
    let file = Catalogue::shipped().get(NAME).unwrap().file().clone();
    Declarative::new(file, Some("JOD".parse().unwrap()))
}

fn admit(body: &str) -> Result<Admission, AdmissionRefusal> {
    let (careem, keys, now) = (careem(), Keys::single("secret"), Utc::now());
    let signed = sign(careem.scheme(), &keys, Outgoing::post("http://hub/", body), now).unwrap();
    let uri = Uri::from_static("/");
    let request = Unverified::new(&Method::POST, None, &uri, &signed.headers, &signed.body);
    careem.read(&verify(careem.scheme(), request, &keys, now).unwrap())
}

fn received(body: &str, webhook_type: &str) -> Recorded {
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let order_id = json["id"].as_str().unwrap_or("CR1");
    let mut received = Recorded::sample(NAME, order_id, webhook_type, body.as_bytes(), Utc::now());
    let request = received.envelope.request.as_mut().unwrap();
    request.headers.insert("x-merchant-id".into(), "merchant-1".into());
    received
}

fn order(body: &str) -> Result<Order, Vec<Fault>> {
    match careem().transform(&received(body, "order_created")) {
        Ok(Fact {
            content: Content::NewOrder(order),
            ..
        }) => Ok(*order),
        Ok(other) => panic!("not a new order: {other:?}"),
        Err(TransformError::Faults(faults)) => Err(faults),
        Err(TransformError::NotJson) => panic!("not JSON"),
    }
}

#[test]
fn the_sample_is_read_exactly() {
    let order = order(&SAMPLE.replace("ORDER_ID", "CR123456789")).unwrap();
    assert_eq!(
        (order.external_id.as_str(), order.order_number.as_str()),
        ("CR123456789", "CAREEM-123456789")
    );
    assert_eq!(
        (order.status, order.fulfillment.order_type()),
        (Status::Received, "delivery")
    );
    let line = &order.lines[0];
    assert_eq!(
        (
            line.name.as_str(),
            line.names[0].language.as_str(),
            line.names[0].text.as_str()
        ),
        ("Chicken Burger", "ar", "برجر دجاج")
    );
    assert_eq!(
        (line.unit_price.minor, line.total_price.minor, line.quantity.get()),
        (5_500, 11_000, "2")
    );
    assert_eq!(
        (
            line.modifiers[0].group.as_deref(),
            line.modifiers[0].price.to_string().as_str()
        ),
        (Some("Add-ons"), "0.500")
    );
    let price = &order.pricing;
    assert_eq!(
        (price.subtotal.to_string(), price.total.to_string()),
        ("11.000".into(), "16.240".into())
    );
    assert_eq!(price.tax.unwrap().minor, 2_240);
    assert!(!order.payment.is_prepaid);
    assert_eq!(order.address.unwrap().latitude.unwrap().get(), "31.9539");
}

#[test]
fn admission_reads_what_it_must() {
    let admission = admit(r#"{"id": 90071992547409931234, "status": "Cancelled"}"#).unwrap();
    assert_eq!(
        (admission.external_order_id.as_str(), &*admission.webhook_type),
        ("90071992547409931234", "order_cancelled")
    );
    for body in [
        "[]",
        "\"x\"",
        "",
        "  ",
        "{",
        "null",
        "{}",
        r#"{"id":null}"#,
        r#"{"id":""}"#,
        r#"{"id":{}}"#,
        r#"{"id":true}"#,
        r#"{"id":"a\u0000b"}"#,
        r#"{"id":"a\ud83c"}"#,
        r#"{"id":"a\u202eb"}"#,
        r#"{"id":"<script>a</script>b"}"#,
    ] {
        assert!(
            matches!(admit(body), Err(AdmissionRefusal::InvalidPayload(_))),
            "{body}"
        );
    }
    assert!(admit(&format!(r#"{{"id":"{}"}}"#, "x".repeat(128))).is_ok());
    assert!(admit(&format!(r#"{{"id":"{}"}}"#, "x".repeat(129))).is_err());
}

#[test]
fn a_repeat_has_the_same_id_and_news_another() {
    let id = |body: &str| admit(body).unwrap().event_id;
    assert_eq!(
        id(r#"{"id":"CR1","status":"created"}"#),
        id(r#"{"id":"CR1","status":"created"}"#)
    );
    assert_ne!(
        id(r#"{"id":"CR1","status":"created"}"#),
        id(r#"{"id":"CR1","status":"ready"}"#)
    );
    assert_ne!(
        id(r#"{"id":"CR1","status":"created"}"#),
        id(r#"{"id":"CR1","status":"created" }"#)
    );
}

#[test]
fn every_fault_is_named_with_its_place() {
    let body = r#"{"id":"CR1","created_at":"yesterday","items":[{"name":"x","item_price":"cheap","total_price":true,"quantity":[]}],"price":{"subtotal":1}}"#;
    let places: Vec<_> = order(body)
        .unwrap_err()
        .into_iter()
        .map(|fault| fault.pointer)
        .collect();
    assert_eq!(
        places,
        [
            "/items/0/total_price",
            "/items/0/item_price",
            "/items/0/quantity",
            "/price/total_taxable_price",
        ],
        "when it was placed is no reason"
    );
    assert!(
        order(r#"{"id":"CR1","items":[],"price":{"subtotal":1,"total_taxable_price":1}}"#).unwrap_err()[0].pointer
            == "/items"
    );
}

#[test]
fn statuses_are_mapped_and_unknown_ones_passed_on() {
    let change = |status: &str| {
        let body = format!(r#"{{"id":"CR1","status":"{status}","captain":{{"name":"Sami","phone_number":0}}}}"#);
        match careem()
            .transform(&received(&body, "order_status_updated"))
            .unwrap()
            .content
        {
            Content::StatusChange(change) => change,
            other => panic!("no change: {other:?}"),
        }
    };
    for (word, status) in [
        ("accepted", Some(Status::Accepted)),
        ("ready", Some(Status::Ready)),
        ("out_for_delivery", Some(Status::PickedUp)),
        ("delivered", Some(Status::Delivered)),
        ("Cancelled", Some(Status::Cancelled)),
        ("teleported", None),
    ] {
        let change = change(word);
        assert_eq!(change.flags.contains(&Flag::UnknownStatus), status.is_none());
        assert_eq!((change.status, change.provider_status.as_deref()), (status, Some(word)));
        assert_eq!(change.courier.unwrap().phone, None, "0 is no phone");
    }
}

#[test]
fn the_merchant_header_goes_before_the_payload() {
    let body = r#"{"id":"CR1","status":"ready","branch":{"id":"main_branch"}}"#;
    let mut event = received(body, "order_status_updated");
    assert_eq!(
        careem().transform(&event).unwrap().store_ref.as_deref(),
        Some("merchant-1")
    );
    event.envelope.request.as_mut().unwrap().headers.clear();
    assert_eq!(
        careem().transform(&event).unwrap().store_ref.as_deref(),
        Some("main_branch")
    );
}

proptest! {
    /// Whatever is on the log, transforming it ends.
    #[test]
    fn never_panics(body in "\\PC{0,200}") {
        let _ = careem().transform(&received(&body, "order_created"));
        let _ = admit(&body);
    }

    #[test]
    fn never_panics_on_a_sample_with_one_change(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = careem().transform(&Recorded { payload: Bytes::from(bytes), ..received("", "order_created") });
    }
}

#[test]
fn every_shipped_file_can_be_used() {
    for (name, text) in Catalogue::shipped_files() {
        match load::load(name, text) {
            Ok(file) => assert_eq!(format!("{}.toml", file.identity.name), *name),
            Err(faults) => panic!("{faults}"),
        }
    }
}

#[test]
fn a_header_is_read_as_it_is_kept() {
    let mut headers = axum::http::HeaderMap::new();
    for value in [&b"m-1"[..], "م\t2".as_bytes(), b"\xff"] {
        headers.append("x-merchant-id", axum::http::HeaderValue::from_bytes(value).unwrap());
    }
    let kept = crate::provider::kept_header(&headers, "x-merchant-id");
    assert_eq!(kept.as_deref(), Some("m-1, م 2, \u{fffd}"));
    assert_eq!(crate::provider::kept_header(&headers, "x-other"), None);
}

/// The store that selects the secret is the store that the order is for.
#[test]
fn the_store_is_the_same_before_and_after_it_is_verified() {
    let careem = careem();
    for (header, body) in [
        (Some("m-1"), r#"{"id":"CR1","status":"x","branch":{"id":"b-1"}}"#),
        (Some(" "), r#"{"id":"CR1","status":"x","branch":{"id":12}}"#),
        (Some("مطعم"), r#"{"id":"CR1","status":"x","branch":{"id":"b-1"}}"#),
        (None, r#"{"id":"CR1","status":"x","branch":{"id":"b-1"}}"#),
        (None, r#"{"id":"CR1","status":"x"}"#),
        (None, r#"{"id":"CR1","status":"x","branch":7}"#),
    ] {
        let mut request = Outgoing::post("http://hub/", body);
        let mut recorded = received(body, "order_status_updated");
        let headers = &mut recorded.envelope.request.as_mut().unwrap().headers;
        headers.clear();
        if let Some(merchant) = header {
            let sent = axum::http::HeaderValue::from_bytes(merchant.as_bytes()).unwrap();
            request.headers.insert("x-merchant-id", sent);
            headers.insert("x-merchant-id".into(), merchant.into());
        }
        let uri = Uri::from_static("/");
        let before = Unverified::new(&Method::POST, None, &uri, &request.headers, &request.body);
        let after = careem.transform(&recorded).unwrap().store_ref;
        assert_eq!(careem.store_ref(&before), after, "{header:?} {body}");
    }
}

mod engine;
mod facts;
mod leniency;
mod faults;
mod guide;
mod shapes;

/// Slashes that were doubled on the way make no other path, neither for its route nor for what its parts say.
#[test]
fn parts_of_a_path_are_read_however_many_slashes_there_are() {
    let file = Catalogue::shipped().get("delivery-hero").unwrap().file().clone();
    let provider = Declarative::new(file, Some("EGP".parse().unwrap()));
    for path in [
        "/api/webhooks/delivery-hero/order/store-9",
        "/api/webhooks/delivery-hero/order/store-9/",
        "//api/webhooks/delivery-hero/order/store-9",
        "/api//webhooks///delivery-hero//order//store-9//",
    ] {
        let (uri, headers, body) = (
            path.parse().unwrap(),
            axum::http::HeaderMap::new(),
            Bytes::from_static(b"{}"),
        );
        let request = Unverified::new(&Method::POST, None, &uri, &headers, &body);
        assert_eq!(provider.store_ref(&request).as_deref(), Some("store-9"), "{path}");
        let order =
            include_bytes!("../../../tests/fixtures/providers/delivery-hero/order_dispatch.minimal.pedidosya.json");
        let mut received = Recorded::sample("delivery-hero", "TEST-1", "order_created", order, Utc::now());
        received.envelope.request.as_mut().unwrap().path = path.to_owned();
        let fact = provider.transform(&received).unwrap();
        assert_eq!(fact.store_ref.as_deref(), Some("store-9"), "{path}");
    }
}

/// A program's rendering of a missing id is no id: news with it would look like repeats of one another.
#[test]
fn an_events_id_that_is_none_joins_nothing() {
    let file = Catalogue::shipped().get("uber-eats").unwrap().file().clone();
    let provider = Declarative::new(file, None);
    let (keys, now, uri) = (Keys::single("secret"), Utc::now(), Uri::from_static("/"));
    let event_id = |id: &str, status: &str| {
        let body = format!(
            r#"{{"event_type":"orders.cancel","event_id":"{id}","meta":{{"resource_id":"o-1","status":"{status}"}}}}"#
        );
        let signed = sign(
            provider.scheme(),
            &keys,
            Outgoing::post("http://hub/", body.as_str()),
            now,
        )
        .unwrap();
        let request = Unverified::new(&Method::POST, None, &uri, &signed.headers, &signed.body);
        let verified = verify(provider.scheme(), request, &keys, now).unwrap();
        provider.read(&verified).unwrap().event_id
    };
    assert_eq!(
        event_id("e-1", "pos"),
        event_id("e-1", "other"),
        "the id says that it is the same"
    );
    for none in ["null", "undefined", "", " NaN "] {
        assert_ne!(event_id(none, "pos"), event_id(none, "other"), "{none:?}");
    }
}
