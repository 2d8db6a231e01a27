//! The faults that are reported for wrong files.

use super::{
    engine::{EVENTS, ORDER, WEBHOOK, minimal},
    *,
};

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
            "expected the tables [outbound]",
        ),
        (
            whole(
                "[webhook]\norder_id = \"/id\"\ndocument = { fetched = [\"order_created\"] }\n",
                EVENTS,
            ),
            11,
            "expected \"body:/id\"",
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
            whole(WEBHOOK, EVENTS).replace("[order.lines]", "[order.line]"),
            14,
            "expected a table [order.lines]",
        ),
        (
            whole(WEBHOOK, EVENTS).replace(
                "[order.pricing]\n",
                "[order.pricing]\ndiscounts = [{ name = \"/n\" }]\n",
            ),
            31,
            "discounts: missing field `amount`",
        ),
        (
            format!("{}\n[ordr]\n", whole(WEBHOOK, EVENTS)),
            35,
            "unknown field `ordr`",
        ),
        (
            whole(
                "[webhook]\norder_id = \"/id\"\nstore = [\"/a\", \"header:Authorization\"]\n",
                EVENTS,
            ),
            12,
            "a credential by its name",
        ),
        (
            whole("[webhook]\norder_id = \"/id\"\nevent_id = \"header:X-Knock\"\n", EVENTS)
                .replace("\"none\"", "\"static\"\ntoken = { header = \"x-knock\" }"),
            13,
            "holds what proves the caller",
        ),
        (
            whole(WEBHOOK, EVENTS).replace("\"none\"", "\"static\"\ntoken = \"Authorization\""),
            9,
            "expected { header = \"x-name\" } or { pointer = \"/place\" }",
        ),
        (
            whole("[webhook]\norder_id = \"/id\"\norder_id = \"/id\"\n", EVENTS),
            12,
            "order_id is there twice",
        ),
        (
            whole(WEBHOOK, EVENTS).replace("unit_price = {", "notes = { from = \"/n\" } # {"),
            21,
            "without them every line is free",
        ),
        (
            format!(
                "{}discounts = [{{ amount = \"/d\", funded_by = \"/who\" }}]\n",
                whole(WEBHOOK, EVENTS)
            ),
            34,
            "\"/who\" is not a party; expected one of merchant, provider, third_party",
        ),
        (
            format!("{}tax_mode = \"excluded\"\n", whole(WEBHOOK, EVENTS)),
            34,
            "tax_mode: expected a table with when, from, words, absent, other, of which { other = … } alone",
        ),
        (
            whole(
                "[webhook]\norder_id = \"/id\"\ntest = { from = \"/t\", is = [\"1\"] }\n",
                EVENTS,
            ),
            12,
            "test: expected a list, in [ ], found a table",
        ),
        (
            whole(WEBHOOK, EVENTS).replace("\"+03:00\"", "{ minute = \"/offset\" }"),
            17,
            "expected `minutes`",
        ),
        (
            whole(WEBHOOK, EVENTS).replace("\"+03:00\"", "3"),
            17,
            "expected an offset from UTC such as \"+03:00\", or { minutes",
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

#[test]
fn faults_of_a_scheme_have_the_lines_of_their_steps() {
    const STEPS: &str = r#"kind = "any_of"
[[verification.steps]]
kind = "static"
token = { header = "x-a" }
[[verification.steps]]
kind = "all_of"
[[verification.steps.steps]]
preset = "stripe"
[[verification.steps.steps]]
kind = "hmac"
algorithm = "sha256"
encoding = "hex"
signature = { header = "x-s" }
signed = "{body}""#;
    let whole = minimal(&format!("{WEBHOOK}{EVENTS}{ORDER}")).replace("kind = \"none\"", STEPS);
    load::load("f.toml", &whole).unwrap();
    for (said, wrong, line, message) in [
        (
            "\"{body}\"",
            "\"{method}\"",
            21,
            "steps[1].steps[1].signed: holds no part of the body",
        ),
        ("\"{body}\"", "\"{bdy}\"", 21, "{bdy} is not a part of a request"),
        ("\"hex\"", "\"hx\"", 19, "unknown variant `hx`"),
        ("encoding", "encodng", 19, "unknown field `encodng`"),
        ("\"x-s\"", "\"x s\"", 20, "cannot be a header's name"),
        ("token = { header = \"x-a\" }", "", 9, "missing field `token`"),
        (
            "{ header = \"x-a\" }",
            "{ pointer = \"/a\" }",
            11,
            "steps[0].token: in the body",
        ),
        ("\"stripe\"", "\"strip\"", 15, "unknown scheme \"strip\""),
        (
            "preset = \"stripe\"",
            "preset = \"stripe\"\ntimestamp = { tolerance = \"soon\" }",
            16,
            "tolerance: expected a duration",
        ),
    ] {
        let faults = load::load("f.toml", &whole.replace(said, wrong)).unwrap_err().faults;
        let told = faults.iter().map(|fault| (fault.line, fault.message.contains(message)));
        assert_eq!(told.collect::<Vec<_>>(), [(line, true)], "{message}: {faults:?}");
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
