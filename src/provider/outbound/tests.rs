use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
struct File {
    outbound: Option<Outbound>,
    fetch: Option<Fetch>,
    reconcile: Option<Reconcile>,
}

fn read(text: &str) -> Result<Option<Spec>, Vec<String>> {
    let file: File = toml::from_str(text).map_err(|error| vec![error.message().to_owned()])?;
    let check = |outbound| {
        Spec::check(
            outbound,
            (file.fetch.as_ref(), file.reconcile.as_ref()),
            &["order_created"],
        )
    };
    file.outbound.as_ref().map(check).transpose()
}

const GOOD: &str = r#"
[outbound]
base_url = "https://pos.example/api/"
headers = { "Brand-Id" = "{setting.brandId}" }
requests_per_second = 5
retry = [404]
auth = { kind = "oauth2", token_url = "/token", scopes = ["pos"] }

[[outbound.status]]
words = ["accepted", "ready"]
method = "PUT"
path = "/orders/{external_id}"
body = '{"state": "{status}"}'
done = [409]

[outbound.menu]
method = "PUT"
path = "/catalogs"
body = '{"items": {"$each": "menu.items", "do": "{item.id}"}}'
every = "2m"
result = { status = "/status", ok = ["done"], failed = ["failed"] }

[fetch]
href = "/resource_href"
paths = ["/v1/orders/{external_id}"]
"#;

#[test]
fn a_whole_file_is_taken() {
    let spec = read(GOOD).unwrap().unwrap();
    assert_eq!(spec.base_url, "https://pos.example/api");
    assert_eq!(spec.status.len(), 2);
    assert_eq!(spec.menu.unwrap().every, Duration::from_secs(120));
    assert!(matches!(spec.fetch.unwrap().place, FetchPlace::Href(..)));
    assert!(read("[identity]\nname = \"x\"").unwrap().is_none());
}

/// A body is written as those of `[response]` are, or as JSON.
#[test]
fn a_body_may_be_a_table() {
    let table = GOOD
        .replace("'{\"state\": \"{status}\"}'", "{ state = \"{status}\" }")
        .replace(
            "'{\"items\": {\"$each\": \"menu.items\", \"do\": \"{item.id}\"}}'",
            "{ items = { \"$each\" = \"menu.items\", do = \"{item.id}\" } }",
        );
    assert_ne!(table, GOOD);
    let bodies = |text: &str| {
        let spec = read(text).unwrap().unwrap();
        format!(
            "{:?} {:?}",
            spec.status[&PushStatus::Ready][0].body,
            spec.menu.unwrap().call.body
        )
    };
    assert_eq!(bodies(&table), bodies(GOOD));
    let faults = read(&table.replace("{status}", "{state}")).unwrap_err();
    assert!(faults[0].starts_with("outbound.status[0].body/state:"), "{faults:?}");
    let faults = read(&GOOD.replace("'{\"state\": \"{status}\"}'", "7")).unwrap_err();
    assert_eq!(faults, ["body: expected a table, or JSON in a text, found integer"]);
}

#[test]
fn every_fault_is_named() {
    let bad = GOOD
        .replace("https://pos", "http://pos")
        .replace("\"PUT\"", "\"GET\"")
        .replace("{external_id}", "{access_token}")
        .replace("{setting.brandId}", "Bearer {access_token}")
        .replace("{status}", "{access_token|}")
        .replace("[409]", "[200]")
        .replace("\"2m\"", "\"soon\"")
        .replace("\"/status\"", "\"status\"")
        .replace("requests_per_second = 5", "requests_per_second = 0")
        .replace("\"/token\"", "\"token\"")
        .replace("menu.items", "menu.dishes")
        .replace("href =", "hosts = []\npath = \"x\"\nhref =");
    let faults = read(&bad).unwrap_err();
    for place in [
        "outbound.base_url:",
        "outbound.requests_per_second:",
        "outbound.auth.token_url:",
        "outbound.status[0].method:",
        "outbound.headers.Brand-Id: {access_token} stands in paths only",
        "outbound.status[0].path:",
        "outbound.status[0].body: {access_token} stands in paths only",
        "outbound.status[0].done:",
        "outbound.menu.method:",
        "outbound.menu.body/items:",
        "outbound.menu.every:",
        "outbound.menu.result.status:",
        "fetch:",
    ] {
        assert!(
            faults.iter().any(|fault| fault.starts_with(place)),
            "{place} in {faults:#?}"
        );
    }
}

/// A word may have several calls, each for orders of its own.
#[test]
fn calls_of_one_word_are_for_different_orders() {
    let with = |first: &str, second: &str| {
        let call = |only_for: &str| {
            format!("[[outbound.status]]\nwords = [\"delivered\"]\n{only_for}method = \"POST\"\npath = \"/x\"\n")
        };
        let calls = format!("{}{}[outbound.menu]", call(first), call(second));
        read(&GOOD.replace("[outbound.menu]", &calls))
    };
    let spec = with(
        "only_for = [\"pickup\"]\n",
        "only_for = [\"merchant_courier\", \"dine_in\"]\n",
    );
    let calls = &spec.unwrap().unwrap().status[&PushStatus::Delivered];
    assert_eq!(calls.iter().map(|call| call.only_for.len()).collect::<Vec<_>>(), [1, 2]);
    for (first, second) in [
        ("", ""),
        ("", "only_for = [\"pickup\"]\n"),
        ("only_for = [\"pickup\"]\n", "only_for = [\"dine_in\", \"pickup\"]\n"),
    ] {
        let faults = with(first, second).unwrap_err();
        assert_eq!(faults, ["outbound.status[2].words: delivered has a call already"]);
    }
    let faults = with("only_for = [\"drone\"]\n", "").unwrap_err();
    assert!(
        faults[0].starts_with("only_for: expected platform_courier"),
        "{faults:?}"
    );
}

/// A token may be asked for with JSON and go in a header of its own; the base URL is the only thing that its request may name.
#[test]
fn a_token_has_its_own_form_and_header() {
    let auth = r#"auth = { kind = "oauth2", token_url = "/token", scopes = ["pos"] }"#;
    let spec = |more: &str| read(&GOOD.replace(auth, &auth.replace(" }", &format!(", {more} }}"))));
    let plain = read(GOOD).unwrap().unwrap().auth;
    assert_eq!(plain.header(), Some(("authorization", "Bearer ")));
    let own = r#"format = "json", header = "x-authorization", prefix = "", fields = { audience = "{base_url}" }"#;
    let own = spec(own).unwrap().unwrap().auth;
    assert_eq!(own.header(), Some(("x-authorization", "")));
    assert!(matches!(
        own,
        Auth::Oauth2 {
            format: TokenFormat::Json,
            ..
        }
    ));
    for (wrong, place) in [
        (
            r#"header = "x authorization""#,
            "outbound.auth.header: expected the name of a header",
        ),
        (r#"prefix = "Bearer\n""#, "outbound.auth.prefix:"),
        (
            r#"fields = { audience = "{external_id}" }"#,
            "outbound.auth.fields.audience:",
        ),
        (r#"format = "xml""#, "unknown variant `xml`"),
    ] {
        let faults = spec(wrong).unwrap_err();
        assert!(faults[0].starts_with(place), "{faults:?}");
    }
}

#[test]
fn a_signature_needs_a_body_and_an_answer_a_code() {
    let signed = "auth = { kind = \"signed_body\", id = \"app\", token = \"token\", time = \"time\", signature = \"sig\" }\nanswer = { code = \"/code\", ok = [\"0\"] }";
    let good = GOOD.replace(
        r#"auth = { kind = "oauth2", token_url = "/token", scopes = ["pos"] }"#,
        signed,
    );
    let without_fetch = &good[..good.find("[fetch]").unwrap()];
    let spec = read(without_fetch).unwrap().unwrap();
    assert!(spec.auth.needs_access_token() && spec.answer.is_some());
    for (text, fault) in [
        (good.clone(), "outbound.auth: signed_body cannot be used with [fetch]"),
        (
            without_fetch.replace("\"time\"", "\"app\""),
            "outbound.auth: expected four different",
        ),
        (
            without_fetch.replace("\"/code\"", "\"code\""),
            "outbound.answer.code: expected a JSON pointer",
        ),
        (
            without_fetch.replace("[\"0\"]", "[]"),
            "outbound.answer.ok: expected at least one",
        ),
    ] {
        let faults = read(&text).unwrap_err();
        assert!(faults[0].starts_with(fault), "{faults:?}");
    }
}

/// The reader of a file adds the location.
#[test]
fn unknown_keys_are_refused() {
    for (text, said) in [
        (
            "[outbound]\nbase_url = \"https://x\"\ncolour = 1",
            "unknown field `colour`",
        ),
        (
            "[outbound]\nbase_url = \"https://x\"\nauth = { kind = \"magic\" }",
            "unknown variant `magic`",
        ),
        (
            "[outbound]\nbase_url = \"https://x\"\n[[outbound.status]]\nwords = [\"eaten\"]\nmethod = \"PUT\"\npath = \"/x\"",
            "unknown variant `eaten`",
        ),
    ] {
        let faults = read(text).unwrap_err();
        assert!(faults[0].starts_with(said), "{text}: {faults:?}");
    }
}

#[test]
fn a_fault_of_a_providers_file_has_its_line() {
    let careem = include_str!("../../../providers/careem.toml").replace("method = \"PUT\"", "method = \"GET\"");
    let faults = crate::provider::declarative::load::load("careem.toml", &careem).unwrap_err();
    let said = faults.to_string();
    assert!(
        said.contains("outbound.status[0].method: expected POST, PUT or PATCH"),
        "{said}"
    );
}

/// The tables about branches are checked, and say which call is for what.
#[test]
fn calls_about_a_branch_are_checked_and_chosen() {
    use crate::event::branch::{Availability, EntryKind, StoreRequested, StoreState};

    let tables = |text: &str| read(&format!("[outbound]\nbase_url = \"https://x.example\"\n{text}"));
    let items = "[[outbound.items]]\nmethod = \"PUT\"\npath = \"/x\"\n";
    for (text, fault) in [
        ("body = \"[1]\"\nbatch = 0", "outbound.items[0].batch:"),
        ("body = { id = \"{id}\" }\nbatch = 2", "outbound.items[0].batch:"),
        ("body = { until = \"{until}\" }", "outbound.items[0].until:"),
        ("body = { v = \"{value}\" }\nmixed = true", "outbound.items[0].mixed:"),
        ("body = { v = \"{entry.id}\" }", "outbound.items[0].body/v:"),
        ("body = \"[1]\"\nevery = \"3s\"", "outbound.items[0].every:"),
        ("body = \"[1]\"\nsplit = [401]", "outbound.items[0].split:"),
        (
            "body = \"[1]\"\nrefused = { each = \"x\", id = \"/id\" }",
            "outbound.items[0].refused.each:",
        ),
        (
            "body = \"[1]\"\nrefused = { each = \"\", id = \"/id\", status = [200] }",
            "outbound.items[0].refused.status:",
        ),
    ] {
        let faults = tables(&format!("{items}{text}")).unwrap_err();
        assert!(faults[0].starts_with(fault), "{text}: {faults:?}");
    }
    let store = "[[outbound.store]]\nmethod = \"PUT\"\npath = \"/x\"\n";
    for (text, fault) in [
        ("states = []", "outbound.store[0].states:"),
        ("states = [\"open\"]\nuntil = \"always\"", "outbound.store[0].until:"),
    ] {
        let faults = tables(&format!("{store}{text}")).unwrap_err();
        assert!(faults[0].starts_with(fault), "{text}: {faults:?}");
    }
    let options = "kinds = [\"option\"]\nbody = { g = \"{group_id}\", o = \"{id}\" }";
    let spec = tables(&format!(
        "{items}{options}\n{store}states = [\"busy\"]\nbody = {{ m = \"{{preparation_minutes}}\" }}"
    ));
    let spec = spec.unwrap().unwrap();
    let mut entry = Availability {
        id: "o".into(),
        group_id: None,
        available: false,
        until: None,
    };
    let choose =
        |kind, entry: &Availability| branch::ItemsSpec::choose(&spec.items, kind, entry).map_err(|why| why.pointer);
    assert_eq!(choose(EntryKind::Item, &entry), Err(""));
    assert_eq!(choose(EntryKind::Option, &entry), Err("/groupId"));
    entry.group_id = Some("g".into());
    assert_eq!(choose(EntryKind::Option, &entry), Ok(0));
    entry.until = Some(chrono::Utc::now());
    assert_eq!(choose(EntryKind::Option, &entry), Err("/until"));
    let mut wanted = StoreRequested {
        state: StoreState::Busy,
        preparation_minutes: None,
        until: None,
        reason: None,
        reason_code: None,
    };
    let choose = |wanted: &StoreRequested| {
        let calls = branch::StoreSpec::choose(&spec.store, wanted);
        calls.map(|calls| calls.len()).map_err(|why| why.pointer)
    };
    assert_eq!(choose(&wanted), Err("/preparationMinutes"));
    wanted.preparation_minutes = Some(5);
    assert_eq!(choose(&wanted), Ok(1));
    wanted.state = StoreState::Open;
    assert_eq!(choose(&wanted), Err("/state"));
}
