use super::*;

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
webhooks = ["order_created"]
href = "/resource_href"
"#;

#[test]
fn a_whole_file_is_taken() {
    let spec = Spec::from_toml(GOOD).unwrap().unwrap();
    assert_eq!(spec.base_url, "https://pos.example/api");
    assert_eq!(spec.status.len(), 2);
    assert_eq!(spec.menu.unwrap().every, Duration::from_secs(120));
    assert!(matches!(spec.fetch.unwrap().place, FetchPlace::Href(..)));
    assert!(Spec::from_toml("[identity]\nname = \"x\"").unwrap().is_none());
}

#[test]
fn every_fault_is_named() {
    let bad = GOOD
        .replace("https://pos", "http://pos")
        .replace("\"PUT\"", "\"GET\"")
        .replace("{external_id}", "{access_token}")
        .replace("[409]", "[200]")
        .replace("\"2m\"", "\"soon\"")
        .replace("\"/status\"", "\"status\"")
        .replace("requests_per_second = 5", "requests_per_second = 0")
        .replace("\"/token\"", "\"token\"")
        .replace("menu.items", "menu.dishes")
        .replace("href =", "hosts = []\npath = \"x\"\nhref =");
    let faults = Spec::from_toml(&bad).unwrap_err();
    for place in [
        "outbound.base_url:",
        "outbound.requests_per_second:",
        "outbound.auth.token_url:",
        "outbound.status[0].method:",
        "outbound.status[0].path:",
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

#[test]
fn what_is_not_known_is_refused() {
    for (text, said) in [
        ("[outbound]\nbase_url = \"https://x\"\ncolour = 1", "outbound: "),
        (
            "[outbound]\nbase_url = \"https://x\"\nauth = { kind = \"magic\" }",
            "outbound: ",
        ),
        (
            "[outbound]\nbase_url = \"https://x\"\n[[outbound.status]]\nwords = [\"eaten\"]\nmethod = \"PUT\"\npath = \"/x\"",
            "outbound: ",
        ),
        (
            "[fetch]\nwebhooks = [\"order_created\"]\npath = \"/x\"",
            "fetch: goes together",
        ),
        ("[outbound", ""),
    ] {
        let faults = Spec::from_toml(text).unwrap_err();
        assert!(faults[0].starts_with(said), "{text}: {faults:?}");
    }
}
