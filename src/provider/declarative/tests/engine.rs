//! What files can say, and what is told of those that say it wrongly.

use super::*;

/// A file that says as little as it may, and what is added to it.
fn minimal(tables: &str) -> String {
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

const WEBHOOK: &str = "[webhook]\norder_id = \"/id\"\n";
const EVENTS: &str = "[events]\nother = \"order_created\"\n";
const ORDER: &str = r#"[order]
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
fn what_has_no_field_is_kept_up_to_a_limit() {
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
fn faults_of_the_whole_file_have_their_lines() {
    let told = |text: &str| {
        let faults = load::load("f.toml", text).unwrap_err().faults;
        faults
            .into_iter()
            .map(|fault| (fault.line, fault.message))
            .collect::<Vec<_>>()
    };
    let whole = |webhook: &str, events: &str| minimal(&format!("{webhook}{events}{ORDER}"));
    for (text, line, message) in [
        (
            whole(WEBHOOK, EVENTS).replace("\"small\"", "\"Small one\""),
            2,
            "name: expected 1 to 32",
        ),
        (
            whole(WEBHOOK, EVENTS).replace("\"small\"", "\"health\""),
            2,
            "means something else",
        ),
        (
            whole("[webhook]\norder_id = \"path:order\"\n", EVENTS),
            11,
            "no path of webhook.paths has a part {order}",
        ),
        (
            whole("[webhook]\norder_id = \"/a/*/id\"\n", EVENTS),
            11,
            "* cannot stand here",
        ),
        (
            whole(
                "[webhook]\norder_id = \"/id\"\ndocument = { fetched = [\"order_created\"] }\n",
                EVENTS,
            ),
            10,
            "there is no table [fetch]",
        ),
        (
            whole(WEBHOOK, "[events]\ntype = \"/t\"\nother = \"ignored\"\n"),
            12,
            "expected absent",
        ),
        (
            whole(WEBHOOK, "[events]\ntypes = { a = \"ignored\" }\nother = \"ignored\"\n"),
            12,
            "no type says",
        ),
        (minimal(&format!("{WEBHOOK}{EVENTS}")), 1, "expected a table [order]"),
        (
            format!("{}\n[ordr]\n", whole(WEBHOOK, EVENTS)),
            35,
            "unknown field `ordr`",
        ),
        ("name = ".into(), 1, ""),
        ("x".repeat(load::MAX_FILE_BYTES + 1), 1, "larger than"),
    ] {
        let faults = told(&text);
        assert!(
            faults.iter().any(|(at, told)| *at == line && told.contains(message)),
            "{line} {message}: {faults:?}"
        );
    }
}

proptest! {
    /// Whatever a file says and a webhook holds, reading them ends.
    #[test]
    fn files_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), which in 0..11usize) {
        let (name, text) = Catalogue::shipped_files()[which];
        let mut bytes = text.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(file) = load::load(name, &String::from_utf8_lossy(&bytes)) {
            let provider = Declarative::new(Arc::new(file), Some("JOD".parse().unwrap()));
            let _ = provider.transform(&received(SAMPLE, "order_created"));
        }
    }
}
