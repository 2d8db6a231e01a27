//! The cause of each flag, and the fate of its field.

use super::{super::*, *};

#[test]
fn unreadable_informative_fields_are_flagged() {
    let ready = READY.iter().find(|ready| ready.case.provider == "careem").unwrap();
    let order = |place: &str, wrong: Value| {
        let body = ready.becomes(&ready.with(place, &Some(wrong))).unwrap();
        (flags_of(&body), body["transformedOrder"].clone())
    };
    for (place, wrong, flag, field) in [
        ("/customer/name", json!([]), Flag::TextUnreadable, "/customerName"),
        ("/customer/name", json!("null"), Flag::TextUnreadable, "/customerName"),
        ("/customer", json!([]), Flag::TextUnreadable, "/customerName"),
        (
            "/customer/address",
            json!("Amman"),
            Flag::TextUnreadable,
            "/deliveryAddress",
        ),
        ("/order_number", json!(false), Flag::TextUnreadable, "/displayId"),
        (
            "/customer/address/latitude",
            json!(false),
            Flag::NumberUnreadable,
            "/deliveryAddress/latitude",
        ),
        ("/created_at", json!("yesterday"), Flag::TimeUnreadable, "/placedAt"),
        (
            "/created_at",
            json!("2025-10-01T12:00:00"),
            Flag::TimeUnreadable,
            "/placedAt",
        ),
        ("/created_at", json!("0001-01-01T00:00:00"), Flag::TimeZero, "/placedAt"),
        (
            "/price/tax_amount",
            json!("N/A"),
            Flag::AmountUnreadable,
            "/pricing/taxAmount",
        ),
        ("/price/subtotal", json!({}), Flag::AmountUnreadable, "/none"),
        ("/items/0/groups", json!({}), Flag::ListUnreadable, "/none"),
        (
            "/merchant_pay_type",
            json!([]),
            Flag::AnswerUnreadable,
            "/payment/method",
        ),
        ("/delivery_type", json!("drone"), Flag::UnknownFulfillment, "/none"),
    ] {
        let (flags, order) = order(place, wrong.clone());
        assert!(flags.iter().any(|said| said == flag.as_str()), "{place}: {flags:?}");
        assert_eq!(order.pointer(field), None, "{place}");
        if flag != Flag::UnknownFulfillment {
            assert_eq!(order["extra"][place], wrong, "{place} is kept as it came");
        }
    }
    let (flags, drone) = order("/delivery_type", json!("drone"));
    assert_eq!(flags, ["unknown_fulfillment"]);
    assert_eq!(
        (&drone["fulfillment"], &drone["deliveryType"]),
        (&json!("merchant_courier"), &json!("drone"))
    );
    let (_, unpaid) = order("/merchant_pay_type", json!(false));
    assert_eq!(
        unpaid["payment"],
        json!({ "isPrepaid": false }),
        "what cannot be read is not paid"
    );
}

#[test]
fn an_unknown_fulfillment_without_an_address_is_handed_out() {
    let ready = READY.iter().find(|ready| ready.case.provider == "careem").unwrap();
    let mut value = ready.with("/delivery_type", &Some(json!({ "by": "drone" })));
    value["customer"].as_object_mut().unwrap().remove("address");
    let body = ready.becomes(&value).unwrap();
    assert_eq!(body["transformedOrder"]["fulfillment"], "pickup");
    assert!(flags_of(&body).contains(&"unknown_fulfillment".to_owned()));
    assert_eq!(
        body["transformedOrder"]["extra"]["/delivery_type"],
        json!({ "by": "drone" })
    );
}

#[test]
fn extra_digits_are_rounded_and_flagged() {
    let ready = READY.iter().find(|ready| ready.case.provider == "careem").unwrap();
    let read = |place: &str, digits: &str| {
        let text = ready
            .with(place, &Some(json!("DIGITS")))
            .to_string()
            .replace("\"DIGITS\"", digits);
        let sample = sample::Sample {
            body: text.as_bytes(),
            headers: &HeaderMap::new(),
            path: "",
            document: None,
            now: Utc::now(),
        };
        match ready.provider.try_sample(&sample).unwrap().outcome {
            sample::Outcome::Posted(posted) => {
                let body: Value = serde_json::from_slice(&posted.body).unwrap();
                let text = String::from_utf8(posted.body).unwrap();
                (flags_of(&body), body["transformedOrder"]["extra"][place].clone(), text)
            }
            other => panic!("{other:?}"),
        }
    };
    let (flags, kept, text) = read("/price/tax_amount", "2.2400000000000002");
    assert_eq!((flags, kept), (vec![], Value::Null), "noise");
    assert!(text.contains("\"taxAmount\":2.240"), "{text}");
    let (flags, kept, text) = read("/price/tax_amount", "2.24051");
    assert_eq!(flags, ["amount_rounded"], "half a unit is no mismatch");
    assert!(
        kept.is_number() && text.contains("\"/price/tax_amount\":2.24051"),
        "{text}"
    );
    let (flags, _, text) = read("/price/total_taxable_price", "16.24001");
    assert_eq!(flags, ["price_rounded"]);
    assert!(text.contains("\"total\":16.240"), "{text}");
    let (flags, _, _) = read("/price/total_taxable_price", "16.2461");
    assert_eq!(flags, ["total_mismatch", "price_rounded"]);
    let (flags, _, _) = read("/items/0/total_price", "11.00049");
    assert_eq!(flags, ["price_rounded"], "the lines still come to the subtotal");
    let (flags, _, _) = read("/items/0/total_price", "12.5001");
    assert_eq!(flags, ["subtotal_mismatch", "price_rounded"]);
}

#[test]
fn a_change_without_a_status_is_news_all_the_same() {
    let body = r#"{"id":"CR1","status":["accepted"],"captain":{"name":"Sami"}}"#;
    let fact = careem().transform(&received(body, "order_status_updated")).unwrap();
    let Content::StatusChange(change) = fact.content else {
        panic!("no change")
    };
    assert_eq!((change.status, change.provider_status), (None, None));
    assert_eq!(change.flags, [Flag::TextUnreadable, Flag::StatusMissing]);
    assert_eq!(change.courier.unwrap().name.as_deref(), Some("Sami"));
}

/// A webhook that is ignored because its word is unknown differs from one that the file does not want.
#[test]
fn an_unknown_event_is_told_from_an_unwanted_one() {
    let read = |name: &str, body: &str| {
        let provider = Declarative::new(
            Catalogue::shipped().get(name).unwrap().file().clone(),
            Some("JOD".parse().unwrap()),
        );
        let fact = provider.transform(&received(body, "ignored")).unwrap();
        assert!(matches!(fact.content, Content::Ignored(_)));
        fact.is_unknown
    };
    assert!(read("generic", r#"{"type":"order.exploded","data":{"id":"1"}}"#));
    assert!(!read("generic", r#"{"data":{"id":"1"}}"#), "no word at all");
    assert!(!read("just-eat", r#"{"restaurantId":"1"}"#), "the file knows the shape");
}

#[test]
fn documents_name_every_flag() {
    let (said, schema) = (
        include_str!("../../../../../docs/backend-body.md"),
        crate::order::body::SCHEMA,
    );
    for flag in Flag::ALL {
        assert!(said.contains(&format!("`{}`", flag.as_str())), "{flag:?}");
        assert!(schema.contains(&format!("\"{}\"", flag.as_str())), "{flag:?}");
    }
    let table = said.split("### flags").nth(1).unwrap().split("## ").next().unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let named = rows.flat_map(|row| {
        row.split('|')
            .nth(1)
            .unwrap()
            .split(',')
            .map(|word| word.trim().trim_matches('`').to_owned())
    });
    for word in named {
        assert!(Flag::ALL.iter().any(|flag| flag.as_str() == word), "{word}");
    }
}
