//! The features of provider files.

use super::*;

/// A file that says as little as it may, and what is added to it.
pub(super) fn minimal(tables: &str) -> String {
    format!(
        r#"
name = "small"
display_name = "Small"
sure = "assumed"
about = "Nothing."

[verification]
kind = "none"

{tables}
"#
    )
}

pub(super) const WEBHOOK: &str = "[webhook]\norder_id = \"/id\"\n";
pub(super) const EVENTS: &str = "[events]\nother = \"order_created\"\n";
pub(super) const ORDER: &str = r#"[order]
default_currency = "JOD"
amounts = "decimal"
zone = "+03:00"
placed_at = "/at"
scheduled = { from = "/later", is = ["1", "yes"], absent = false }
fulfillment = { from = ["/take", "/how"], words = { TRUE = "pickup", table = "dine_in" }, other = "merchant_courier" }
[order.lines]
each = ["/none", "/lists/*/lines"]
name = "/name"
unit_price = { lookup = { list = "/prices", key = "/sku", is = "/sku", take = "/each" } }
quantity = "/n"
[order.modifiers]
each = "/m"
name = "/name"
price = "/p"
[order.pricing]
other_fees = { sum = ["/fees/*/amount", "/fee"] }
total = "/total"
"#;

fn small() -> Declarative {
    let file = load::load("small.toml", &minimal(&format!("{WEBHOOK}{EVENTS}{ORDER}"))).unwrap();
    Declarative::new(Arc::new(file), None)
}

fn small_order(body: &str) -> Order {
    match small().transform(&received(body, "order_created")).unwrap().content {
        Content::NewOrder(order) => *order,
        other => panic!("{other:?}"),
    }
}

#[test]
fn rows_sums_choices_and_times() {
    let order = small_order(
        r#"{"id":"1","at":"2025-10-01T12:00:00","later":1.0,"take":true,"how":"table","total":"7.4",
            "fees":[{"amount":0.1},{"amount":"0.2"},{"amount":null}],"fee":"0.1",
            "prices":[{"sku":"b","each":2.5},{"sku":"a","each":"1"},{"sku":"a","each":9}],
            "lists":[{"lines":[{"name":"A","sku":"a","n":"2"}]},{},{"lines":null},{"lines":[{"name":"B","sku":"b","n":2}]}]}"#,
    );
    let lines: Vec<_> = order
        .lines
        .iter()
        .map(|line| (line.name.as_str(), line.unit_price.minor, line.total_price.minor))
        .collect();
    assert_eq!(
        lines,
        [("A", 1_000, 2_000), ("B", 2_500, 5_000)],
        "of two rows the first counts"
    );
    assert_eq!(order.pricing.other_fees.unwrap().minor, 400);
    assert_eq!(order.pricing.total.minor, 7_400);
    assert_eq!(
        order.flags,
        [Flag::SubtotalComputed, Flag::LineTotalComputed],
        "7 + 0.4"
    );
    assert_eq!(order.placed_at.unwrap().to_rfc3339(), "2025-10-01T09:00:00+00:00");
    assert_eq!((order.scheduled, order.fulfillment.as_str()), (Some(true), "pickup"));
    let extra: Vec<_> = order
        .extra
        .0
        .iter()
        .map(|(pointer, value)| format!("{pointer} {value}"))
        .collect();
    assert_eq!(
        extra,
        [
            r#"/how "table""#,
            r#"/fees/2 {"amount":null}"#,
            r#"/prices/2 {"sku":"a","each":9}"#,
            r#"/lists/0/lines/0/sku "a""#,
            "/lists/1 {}",
            r#"/lists/2 {"lines":null}"#,
            r#"/lists/3/lines/0/sku "b""#,
        ]
    );
}

/// The offset that a document holds counts for its times, whatever the season.
#[test]
fn the_zone_may_stand_in_a_field() {
    let order = ORDER.replace("\"+03:00\"", "{ minutes = \"/offset\" }");
    let file = load::load("small.toml", &minimal(&format!("{WEBHOOK}{EVENTS}{order}"))).unwrap();
    let provider = Declarative::new(Arc::new(file), None);
    let read = |fields: &str| {
        let body = format!(
            r#"{{"id":"1","total":1,"prices":[{{"sku":"a","each":1}}],"lists":[{{"lines":[{{"name":"A","sku":"a"}}]}}],{fields}}}"#
        );
        match provider.transform(&received(&body, "order_created")) {
            Ok(Fact {
                content: Content::NewOrder(order),
                ..
            }) => order.placed_at.map(|time| time.to_rfc3339()).ok_or(order.flags),
            Ok(other) => panic!("{other:?}"),
            Err(error) => panic!("{error}"),
        }
    };
    for (fields, time) in [
        (
            r#""at":"2026-01-15 13:24:53","offset":"60""#,
            "2026-01-15T12:24:53+00:00",
        ),
        (r#""at":"2026-02-25 13:24:53","offset":0"#, "2026-02-25T13:24:53+00:00"),
        (
            r#""at":"2026-01-15T13:24:53","offset":-210"#,
            "2026-01-15T16:54:53+00:00",
        ),
        (
            r#""at":"2026-01-15T13:24:53Z","offset":"soon""#,
            "2026-01-15T13:24:53+00:00",
        ),
    ] {
        assert_eq!(read(fields).as_deref(), Ok(time), "{fields}");
    }
    for fields in [
        r#""at":"2026-01-15 13:24:53","offset":"+01:00""#,
        r#""at":"2026-01-15 13:24:53""#,
    ] {
        let flags = read(fields).unwrap_err();
        assert!(flags.contains(&Flag::TimeUnreadable), "{fields}: {flags:?}");
    }
}

/// A branch's zone goes before the file's, and after what the document says.
#[test]
fn a_branch_may_have_its_own_zone() {
    let branch = "-06:00".parse().ok();
    for (zone, fields, of_branch, time) in [
        ("\"+03:00\"", r#""at":"2026-01-15 13:24:53""#, None, "10:24:53"),
        ("\"+03:00\"", r#""at":"2026-01-15 13:24:53""#, branch, "19:24:53"),
        ("\"+03:00\"", r#""at":"2026-01-15 13:24:53Z""#, branch, "13:24:53"),
        (
            "{ minutes = \"/offset\" }",
            r#""at":"2026-01-15 13:24:53","offset":60"#,
            branch,
            "12:24:53",
        ),
        (
            "{ minutes = \"/offset\" }",
            r#""at":"2026-01-15 13:24:53""#,
            branch,
            "19:24:53",
        ),
    ] {
        let order = ORDER.replace("\"+03:00\"", zone);
        let file = load::load("small.toml", &minimal(&format!("{WEBHOOK}{EVENTS}{order}"))).unwrap();
        let body = format!(
            r#"{{"id":"1","total":1,"prices":[{{"sku":"a","each":1}}],"lists":[{{"lines":[{{"name":"A","sku":"a"}}]}}],{fields}}}"#
        );
        let fact =
            Declarative::new(Arc::new(file), None).transform_in(&received(&body, "order_created"), None, of_branch);
        let fact = fact.unwrap();
        let names_none = !fields.contains('Z') && !fields.contains("offset");
        assert_eq!(fact.has_local_times, names_none, "{fields}");
        let Content::NewOrder(order) = fact.content else {
            panic!("an order")
        };
        let placed_at = order.placed_at.unwrap();
        assert_eq!(placed_at.format("%H:%M:%S").to_string(), time, "{zone} {fields}");
    }
}

#[test]
fn joined_texts_have_labels_where_they_are_there() {
    let order = ORDER.replace(
        "placed_at",
        "notes = { join = [{ label = \"Allergy: \", from = \"/allergy\" }, \"/wish\"], with = \" | \" }\nplaced_at",
    );
    let file = load::load("small.toml", &minimal(&format!("{WEBHOOK}{EVENTS}{order}"))).unwrap();
    let provider = Declarative::new(Arc::new(file), None);
    for (fields, notes) in [
        (r#""allergy":"nuts","wish":"hot""#, Some("Allergy: nuts | hot")),
        (r#""allergy":"","wish":"hot""#, Some("hot")),
        (r#""allergy":"nuts""#, Some("Allergy: nuts")),
        (r#""allergy":null"#, None),
    ] {
        let body = format!(
            r#"{{"id":"1","total":1,"prices":[{{"sku":"a","each":1}}],"lists":[{{"lines":[{{"name":"A","sku":"a"}}]}}],{fields}}}"#
        );
        let read = provider.transform(&received(&body, "order_created")).unwrap().content;
        let Content::NewOrder(order) = read else {
            panic!("{read:?}")
        };
        assert_eq!(order.notes.as_deref(), notes, "{fields}");
    }
}

/// A list that is not read is money that is not charged.
#[test]
fn all_of_several_lists_may_be_read() {
    let read = |each: &str| {
        let order = ORDER.replace("each = \"/m\"", each);
        let file = load::load("small.toml", &minimal(&format!("{WEBHOOK}{EVENTS}{order}"))).unwrap();
        let body = r#"{"id":"1","total":1,"prices":[{"sku":"a","each":1}],"lists":[{"lines":[{"name":"A","sku":"a",
            "m":[{"name":"M","p":0.1,"extra":[{"name":"X","p":0.02}]}],"none":null,"extra":[{"name":"Y","p":0.003}]}]}]}"#;
        let read = Declarative::new(Arc::new(file), None).transform(&received(body, "order_created"));
        let Content::NewOrder(order) = read.unwrap().content else {
            panic!("no order")
        };
        let line = &order.lines[0];
        let names: Vec<_> = line.modifiers.iter().map(|modifier| modifier.name.clone()).collect();
        (names.join(" "), line.total_price.minor, order.extra.0.len())
    };
    assert_eq!(
        read("each = { all = [\"/none\", \"/m\", \"/extra\"] }"),
        ("M Y".into(), 1_123, 2),
        "what is chosen within a choice, too"
    );
    assert_eq!(
        read("each = [\"/none\", \"/m\", \"/extra\"]"),
        ("M".into(), 1_120, 3),
        "the first that has some"
    );
}

/// An author who mistook a place learns which.
#[test]
fn an_ignored_sample_has_its_reason() {
    let part = WEBHOOK.replace("order_id", "document = { part = [\"/order\"] }\norder_id");
    let events = r#"[events]
when = [{ has = "/menu", becomes = "ignored" }]
type = "/type"
types = { new = "order_created", ping = "ignored" }
absent = "ignored"
other = "ignored"
"#;
    let why = |webhook: &str, events: &str, body: &str| {
        let file = load::load("small.toml", &minimal(&format!("{webhook}{events}{ORDER}"))).unwrap();
        let sample = sample::Sample {
            body: body.as_bytes(),
            headers: &axum::http::HeaderMap::new(),
            path: "",
            document: None,
            now: Utc::now(),
        };
        match Declarative::new(Arc::new(file), None)
            .try_sample(&sample)
            .unwrap()
            .outcome
        {
            sample::Outcome::Ignored(why) => why,
            other => panic!("{other:?}"),
        }
    };
    for (webhook, body, said) in [
        (
            WEBHOOK,
            r#"{"id":"1","type":"NEU"}"#,
            "events.types does not know \"NEU\", at /type",
        ),
        (
            WEBHOOK,
            r#"{"id":"1","type":"Ping"}"#,
            "events.types says so of \"Ping\", at /type",
        ),
        (WEBHOOK, r#"{"id":"1"}"#, "no word was found at /type"),
        (WEBHOOK, r#"{"menu":{}}"#, "events.when says so of /menu"),
        (
            &part,
            r#"{"type":"new","order":{"id":"1"}}"#,
            "no word was found at /type; places begin at webhook.document, those after body: at the body",
        ),
    ] {
        assert_eq!(why(webhook, events, body), said, "{body}");
    }
    let shapes = "[events]\nwhen = [{ has = \"/x\", becomes = \"order_created\" }]\nother = \"ignored\"\n";
    assert_eq!(why(WEBHOOK, shapes, "{}"), "no shape of events.when fits it");
}

/// JSON in a text is a body like any other.
#[test]
fn a_document_in_a_text_is_held_to_the_limits_of_bodies() {
    let webhook = "[webhook]\norder_id = \"/id\"\ndocument = { text = \"/message\" }\n";
    let file = load::load("small.toml", &minimal(&format!("{webhook}{EVENTS}{ORDER}"))).unwrap();
    let read = |inner: &str| {
        let body = serde_json::json!({ "message": inner }).to_string();
        let arriving = Arriving {
            body: body.as_bytes(),
            headers: &axum::http::HeaderMap::new(),
            path: "",
        };
        head::read(&file, &arriving).map(|head| head.order_id)
    };
    assert_eq!(read(r#"{"id":"1"}"#).as_deref(), Ok("1"));
    assert_eq!(
        read(r#"{"id":"1","total":1,"total":2}"#),
        Err("/message: the same key twice, at /total".into())
    );
}

/// An unreadable part of a required sum is reported once, and not also as missing.
#[test]
fn an_unreadable_value_is_not_also_reported_missing() {
    let order = ORDER.replace("total = \"/total\"", "total = { sum = [\"/total\"], required = true }");
    let file = load::load("small.toml", &minimal(&format!("{WEBHOOK}{EVENTS}{order}"))).unwrap();
    let provider = Declarative::new(Arc::new(file), None);
    let told = |total: &str| {
        let body = format!(
            r#"{{"id":"1","prices":[{{"sku":"a","each":1}}],"lists":[{{"lines":[{{"name":"A","sku":"a"}}]}}]{total}}}"#
        );
        match provider.transform(&received(&body, "order_created")) {
            Err(TransformError::Faults(faults)) => faults,
            other => panic!("{other:?}"),
        }
    };
    let faults = told(r#","total":"1.2.3""#);
    assert_eq!((faults.len(), faults[0].pointer.as_str()), (1, "/total"), "{faults:?}");
    assert_ne!(faults[0].message, "missing");
    let faults = told("");
    assert_eq!(
        (faults.len(), faults[0].pointer.as_str(), faults[0].message.as_str()),
        (1, "/total", "missing")
    );
}

#[test]
fn choices_in_choices_are_read_to_a_depth_and_kept_below_it() {
    let nest = |depth: usize| {
        (0..depth).fold(r#"{"name":"x","p":"0.1"}"#.to_owned(), |inner, at| {
            format!(r#"{{"name":"n{at}","p":0,"m":[{inner}]}}"#)
        })
    };
    let body = |depth: usize| {
        let line = nest(depth).replacen("\"p\":0", "\"sku\":\"a\"", 1);
        format!(r#"{{"id":"1","total":1,"prices":[{{"sku":"a","each":1}}],"lists":[{{"lines":[{line}]}}]}}"#)
    };
    let depth_of = |order: &Order| {
        let (mut depth, mut modifiers) = (0, &order.lines[0].modifiers);
        while let Some(modifier) = modifiers.first() {
            (depth, modifiers) = (depth + 1, &modifier.modifiers);
        }
        depth
    };
    let order = small_order(&body(12));
    assert_eq!((depth_of(&order), order.extra.0.len()), (12, 1), "the line's code");
    assert_eq!(
        order.lines[0].total_price.minor, 1_100,
        "what is chosen deep down costs as well"
    );
    let order = small_order(&body(14));
    assert_eq!((depth_of(&order), order.extra.0.len()), (12, 2));
}

#[test]
fn unread_values_are_kept_up_to_a_limit() {
    let body = format!(
        r#"{{"id":"1","total":1,"prices":[{{"sku":"a","each":1}}],"lists":[{{"lines":[{{"name":"A","sku":"a"}}]}}],
            "big":"{}","small":"{}","n":1}}"#,
        "x".repeat(40_000),
        "y".repeat(20_000)
    );
    let order = small_order(&body);
    let kept: Vec<_> = order.extra.0.iter().map(|(pointer, _)| pointer.as_str()).collect();
    assert_eq!(kept, ["/lists/0/lines/0/sku", "/small", "/n"]);
    assert!(order.flags.contains(&Flag::ExtraTruncated));
}

#[test]
fn lists_quantities_and_places_have_limits() {
    let body = |lines: usize, quantity: &str, name: &str| {
        let line = format!(r#"{{"name":"A","sku":"a","n":{quantity}}}"#);
        let lines = vec![line; lines].join(",");
        format!(
            r#"{{"id":"1","total":1,"prices":[{{"sku":"a","each":1}}],"lists":[{{"lines":[{lines}]}}],"{name}":1}}"#
        )
    };
    let read = |body: &str| small().transform(&received(body, "order_created")).map(|_| ());
    let fault = |body: &str| match read(body).unwrap_err() {
        TransformError::Faults(faults) => faults[0].message.clone(),
        TransformError::NotJson => panic!("it is JSON"),
    };
    assert!(read(&body(2000, "1", "x")).is_ok());
    assert_eq!(fault(&body(2001, "1", "x")), "more than 2000 elements");
    assert!(read(&body(1, "1000000000", "x")).is_ok());
    assert_eq!(fault(&body(1, "1000000001", "x")), "number out of range");
    for (bytes, is_kept) in [(511, true), (512, false)] {
        let order = small_order(&body(1, "1", &"k".repeat(bytes)));
        assert_eq!(order.extra.0.iter().any(|(pointer, _)| pointer.len() > 500), is_kept);
        assert_eq!(order.flags.contains(&Flag::ExtraTruncated), !is_kept);
    }
}

#[test]
fn an_amount_that_is_read_wrongly_says_how_it_was_read() {
    let told = |unit: &str| {
        let order = ORDER.replace("\"decimal\"", &format!("\"{unit}\""));
        let file = load::load("small.toml", &minimal(&format!("{WEBHOOK}{EVENTS}{order}"))).unwrap();
        let provider = Declarative::new(Arc::new(file), None);
        let body = r#"{"id":"1","lists":[{"lines":[{"name":"a","sku":"x"},{"name":"b","sku":"y"}]}],
            "prices":[{"sku":"x","each":11},{"sku":"y","each":5.5}]}"#;
        match provider.transform(&received(body, "order_created")) {
            Err(TransformError::Faults(faults)) => faults.into_iter().map(|fault| fault.message).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    let e9 = told("e9");
    assert!(
        e9.contains(&"expected a whole number; by the file amounts are e9".to_owned()),
        "{e9:?}"
    );
    let minor = told("minor");
    assert!(
        minor.contains(&"expected a whole number; by the file amounts are minor".to_owned()),
        "{minor:?}"
    );
}
