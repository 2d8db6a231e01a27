//! Both forms of the envelope, there and back; and what subjects and keys are made of.

use proptest::prelude::*;

use super::*;
use crate::event::WebhookOrigin;

const FORMS: [Form; 2] = [Form::Headers, Form::Compact];

fn envelope(order: &str, branch: Option<String>) -> Envelope {
    let time = DateTime::from_timestamp_millis(1_759_320_000_123).unwrap();
    Envelope {
        branch,
        cause_sequence: Some(41),
        received_at: DateTime::from_timestamp_millis(1_759_320_000_001).unwrap(),
        ..Recorded::sample("careem", order, "order_created", order.as_bytes(), time).envelope
    }
}

/// The partition of an order may never change while it has events on the log.
#[test]
fn partitions_are_stable() {
    let of = |order: &str| partition("careem", order, 64);
    assert_eq!((of("CR123456789"), of("CR1"), of("")), (38, 13, 36));
    assert_eq!(partition("careem", "CR1", 1), 0);
    let key = OrderKey::new("careem", "CR1");
    assert_eq!(OrderKey::parse(&key.to_string()), Some(key));
}

#[test]
fn a_branch_principal_has_order_keys_of_its_own() {
    let by = |principal: Option<&str>, event_type, webhook_type: &str| {
        let mut envelope = envelope("CR1", None);
        envelope.principal = Principal::recorded(principal).unwrap();
        (envelope.event_type, envelope.webhook_type) = (event_type, webhook_type.to_owned());
        let [older, compact] = FORMS.map(|form| {
            let headers = headers(&envelope, form).unwrap();
            OrderKey::of(&decode(Some(&headers), Bytes::new(), 1).unwrap())
        });
        assert_eq!(older, compact);
        compact
    };
    let received = |principal| by(principal, EventType::WebhookReceived, "order_created");
    let (plain, a, b) = (received(None), received(Some("branch:a")), received(Some("branch:b")));
    assert_eq!(plain, OrderKey::new("careem", "CR1"));
    assert!(plain != a && plain != b && a != b);
    assert_eq!(by(Some("branch:a"), EventType::OrderFetched, "order_created"), a);
    // All requests to the provider share one order key.
    let accepted = by(Some("branch:a"), EventType::OrderStatusRequested, "status_request");
    let given_up = by(Some("branch:a"), EventType::OrderDeadLettered, "status_request");
    assert_eq!((accepted, given_up), (plain, plain));
    assert_eq!(by(Some("branch:a"), EventType::MenuSyncReported, "ignored"), plain);
}

/// Where a webhook came from is a field that earlier versions leave alone, and this one the words of later ones.
#[test]
fn the_origin_of_a_webhook_reads_back() {
    let mut made = envelope("CR1", None);
    let facts = made.request.as_mut().unwrap();
    facts.origin = Some(WebhookOrigin::Reconciled);
    for form in FORMS {
        let written = headers(&made, form).unwrap();
        let read = decode(Some(&written), Bytes::new(), 1).unwrap().envelope;
        assert_eq!(read.request, made.request);
    }
    let mut later = headers(&made, Form::Compact).unwrap();
    with_hub(&mut later, |hub| hub["request"]["origin"] = "beamed".into());
    let read = decode(Some(&later), Bytes::new(), 1).unwrap().envelope;
    assert_eq!(read.request.unwrap().origin, Some(WebhookOrigin::Unknown));
}

#[test]
fn a_principal_of_a_later_version_is_left_to_it() {
    let mut older = headers(&envelope("CR1", None), Form::Headers).unwrap();
    older.insert(name::PRINCIPAL, "company:c-1");
    let mut compact = headers(&envelope("CR1", None), Form::Compact).unwrap();
    with_hub(&mut compact, |hub| hub["principal"] = "company:c-1".into());
    for headers in [older, compact] {
        let left = decode(Some(&headers), Bytes::new(), 1);
        assert!(matches!(left, Err(CodecError::Newer(_))), "{left:?}");
    }
}

/// Replaces the header `hub`.
fn with_hub(headers: &mut HeaderMap, change: impl FnOnce(&mut serde_json::Value)) {
    let mut hub = serde_json::from_str(headers.get(name::HUB).unwrap().as_str()).unwrap();
    change(&mut hub);
    headers.insert(name::HUB, hub.to_string());
}

/// What a later version makes of the header is not known, but for its version and the principal: the event is left to it, and
/// its order waits.
#[test]
fn a_hub_header_of_a_later_version_is_left_to_it() {
    let mut event = envelope("CR1", None);
    event.principal = Principal::recorded(Some("branch:a")).unwrap();
    let key = OrderKey::of(&decode(Some(&headers(&event, Form::Compact).unwrap()), Bytes::new(), 1).unwrap());
    for change in [
        r#"{"v":2,"principal":"branch:a"}"#,
        r#"{"rootId":[1],"principal":"branch:a","v":3}"#,
    ] {
        let mut headers = headers(&event, Form::Compact).unwrap();
        headers.insert(name::HUB, change);
        match decode(Some(&headers), Bytes::new(), 1) {
            Err(CodecError::Newer(newer)) => {
                assert_eq!(newer.order, Some(key));
                assert!(newer.what.starts_with("header hub "), "{newer}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn garbage_in_the_hub_header_is_no_event() {
    for garbage in [
        "",
        "{",
        "2",
        "[]",
        "null",
        r#"{"v":0}"#,
        r#"{"principal":"branch:a"}"#,
        r#"{"v":1,"rootId":"x"}"#,
    ] {
        let mut headers = headers(&envelope("CR1", None), Form::Compact).unwrap();
        headers.insert(name::HUB, garbage);
        let read = decode(Some(&headers), Bytes::new(), 1);
        assert!(
            matches!(read, Err(CodecError::Malformed(name::HUB, _))),
            "{garbage}: {read:?}"
        );
    }
}

/// The header as it was written first: an event that was written then is read for ever.
#[test]
fn the_first_version_of_the_hub_header_stays_readable() {
    let (id, root) = (
        "5d0e2c1a-6f5b-5c57-9d1e-0a5f4e2b7c11",
        "0b8d6c84-5a3a-5c55-8d0e-3e1f8f0f9a21",
    );
    let hub = r#"{"v":1,"rootId":"ROOT","causeId":"ROOT","causeSequence":41,"webhookType":"order_created","branch":"b\u00e9",
        "principal":"branch:b\u00e9","requestId":"r-1","receivedTime":"2025-10-01T12:00:00.001Z","addedLater":[1],
        "request":{"method":"POST","path":"/p","clientAddress":"::1","scheme":"hmac-sha256","headers":{"a":"b"}}}"#;
    let hub = hub.replace("ROOT", root).replace('\n', "");
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (name::SPEC_VERSION, "1.0"),
        (name::ID, id),
        (name::SOURCE, "/providers/careem"),
        (name::TYPE, "order.transformed"),
        (name::SUBJECT, "CR1"),
        (name::TIME, "2025-10-01T12:00:00.123Z"),
        (name::HUB, &hub),
    ] {
        headers.insert(name, value);
    }
    let read = decode(Some(&headers), Bytes::new(), 1).unwrap().envelope;
    assert_eq!(
        (read.root_id.to_string(), read.cause_id.map(|id| id.to_string())),
        (root.to_owned(), Some(root.to_owned()))
    );
    assert_eq!((read.cause_sequence, read.branch.as_deref()), (Some(41), Some("bé")));
    assert_eq!(read.principal.branch().map(|branch| &**branch), Some("bé"));
    assert_eq!((&*read.webhook_type, &*read.request_id), ("order_created", "r-1"));
    assert_eq!(read.received_at.timestamp_subsec_millis(), 1);
    assert_eq!(read.request.unwrap().headers["a"], "b");
}

#[test]
fn subjects_hold_only_safe_tokens() {
    let mut event = envelope("CR1", Some("main branch.>*é".into()));
    assert_eq!(subject(&event, 64), "webhooks.received.careem.p13");
    event.event_type = EventType::OrderForwarded;
    assert_eq!(subject(&event, 64), "orders.forwarded.careem.main_branch____.p13");
    event.branch = None;
    assert_eq!(subject(&event, 64), "orders.forwarded.careem._.p13");
}

#[test]
fn subjects_beside_another_keep_its_partition() {
    let beside = |subject: &str| subject_beside(subject, EventType::OrderRetryRequested);
    assert_eq!(
        beside("orders.dead_lettered.careem.main.p99").as_deref(),
        Some("orders.retry_requested.careem.main.p99")
    );
    for other in [
        "webhooks.received.careem.p13",
        "orders.dead_lettered",
        "orders.dead_lettered.careem.p13",
    ] {
        assert_eq!(beside(other), None, "{other}");
    }
}

proptest! {
    #[test]
    fn both_forms_read_back(
        order in "\\PC{1,40}", branch in proptest::option::of("\\PC{1,40}"), of in proptest::option::of("\\PC{1,40}"),
        texts in prop::array::uniform3("\\PC{0,40}"), is_root: bool, same_time: bool, cause in proptest::option::of(any::<u64>()),
        key in proptest::option::of(any::<u128>()), trace in proptest::option::of("[0-9a-f-]{1,55}"), payload in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let principal = Principal::recorded(of.map(|of| format!("branch:{of}")).as_deref()).unwrap();
        let mut event = Envelope { principal, traceparent: trace, cause_sequence: cause, ..envelope(&order, branch) };
        let [webhook_type, request_id, header] = texts;
        (event.webhook_type, event.request_id) = (webhook_type, request_id);
        if let Some(request) = &mut event.request {
            request.headers.insert(header.clone(), header.into());
        }
        if !is_root {
            event.root_id = event.id.derive("root");
            event.cause_id = Some(event.id.derive("cause"));
        }
        if same_time {
            event.received_at = event.time;
        }
        event.idempotency_key = key.map(Uuid::from_u128);
        for form in FORMS {
            let headers = headers(&event, form).unwrap();
            for (_, values) in headers.iter() {
                prop_assert!(values.iter().all(|value| !value.as_str().contains(['\r', '\n'])));
            }
            prop_assert_eq!(Form::of(&headers), form);
            if form == Form::Compact {
                prop_assert!(headers.get(name::HUB).unwrap().as_str().is_ascii());
                prop_assert!(headers.len() <= 10, "{:?}", headers);
            }
            let back = decode(Some(&headers), Bytes::from(payload.clone()), 7).unwrap();
            let expected = match form {
                Form::Compact => event.clone(),
                // An older reader does not know the key, so this form leaves it out.
                Form::Headers => Envelope { idempotency_key: None, ..event.clone() },
            };
            prop_assert_eq!(&back.envelope, &expected);
            prop_assert_eq!(&back.payload[..], &payload[..]);
        }
    }

    /// Additional fields of another version make an event neither unreadable nor newer.
    #[test]
    fn only_type_and_envelope_version_are_of_a_newer_version(kind in "[a-z_]{1,12}\\.[a-z_]{1,12}", order in "\\PC{1,20}") {
        prop_assume!(kind.parse::<EventType>().is_err());
        let event = envelope(&order, None);
        for form in FORMS {
            let mut headers = headers(&event, form).unwrap();
            headers.insert("ce-addedlater", "x");
            if form == Form::Compact {
                with_hub(&mut headers, |hub| hub["addedLater"] = "x".into());
            }
            prop_assert!(decode(Some(&headers), Bytes::new(), 1).is_ok());
            headers.insert(name::TYPE, kind.as_str());
            let key = Some(OrderKey::new("careem", &order));
            for version in ["1.0", "2.0"] {
                headers.insert(name::SPEC_VERSION, version);
                match decode(Some(&headers), Bytes::new(), 1) {
                    Err(CodecError::Newer(newer)) => prop_assert_eq!(newer.order, key),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            headers.insert(name::SPEC_VERSION, "1.0");
            headers.insert(name::TYPE, "Order Eaten");
            prop_assert!(matches!(decode(Some(&headers), Bytes::new(), 1), Err(CodecError::Malformed(..))));
        }
    }

    #[test]
    fn never_panics(name in "ce-(id|type|source|time)|hub", value in "\\PC{0,30}", is_compact: bool) {
        let form = if is_compact { Form::Compact } else { Form::Headers };
        let mut headers = headers(&envelope("CR1", None), form).unwrap();
        headers.insert(name.as_str(), value.as_str());
        let _ = decode(Some(&headers), Bytes::new(), 1);
    }
}
