//! The examples in `docs/providers.md` and `docs/outbound.md` are valid files and work.

use axum::http::HeaderMap;

use super::*;

/// The examples in TOML up to a heading, one after the other.
fn examples(text: &str, until: &str) -> String {
    let (shown, _) = text.split_once(until).unwrap();
    let blocks = shown.split("```toml\n").skip(1);
    blocks.map(|block| block.split_once("```").unwrap().0).collect()
}

#[test]
fn the_parts_of_the_guide_are_a_file_that_works() {
    let parts = examples(include_str!("../../../../docs/providers.md"), "**5. ");
    let outbound = examples(include_str!("../../../../docs/outbound.md"), "## `[outbound]`");
    let file = load::load("guide.toml", &format!("{parts}{outbound}")).unwrap();
    assert_eq!(file.outbound.as_ref().unwrap().status.len(), 3, "a call a word");
    let provider = Declarative::new(Arc::new(file), None);
    let sample = sample::Sample {
        body: include_bytes!("../../../../tests/fixtures/providers.d/order.json"),
        headers: &HeaderMap::new(),
        path: "",
        document: None,
        now: Utc::now(),
    };
    let tried = provider.try_sample(&sample).unwrap();
    assert_eq!(tried.answer.unwrap().body, r#"{"ack":"ME-77001"}"#);
    let sample::Outcome::Posted(posted) = tried.outcome else {
        panic!("{:?}", tried.outcome)
    };
    let order = &serde_json::from_slice::<serde_json::Value>(&posted.body).unwrap()["transformedOrder"];
    assert_eq!(order["items"][0]["modifiers"][0]["price"].to_string(), "0.625");
    assert_eq!(order["pricing"]["total"].to_string(), "12.375");
    assert!(order.get("flags").is_none(), "{}", order["flags"]);
}

/// `…/orders` and `…/cancelled`, and nothing in the body that tells one from the other.
#[test]
fn the_path_alone_may_give_the_event_type() {
    let guide = examples(include_str!("../../../../docs/providers.md"), "**5. ");
    let (before, rest) = guide.split_once("[events]\n").unwrap();
    let (_, after) = rest.split_once("[order]\n").unwrap();
    let file = format!(
        "{before}paths = [\"/{{what}}\"]\n[events]\n\
         when = [{{ has = \"path:what\", is = [\"cancelled\"], becomes = \"order_cancelled\" }}]\n\
         other = \"order_created\"\n[order]\n{after}"
    );
    // Only the body is signed, so an order could be replayed as its own cancellation.
    let refused = load::load("guide.toml", &file).unwrap_err().to_string();
    assert!(
        refused.contains("events.when: \"path:what\" is not signed"),
        "{refused}"
    );
    let file = file.replace(".{body}\"", ".{url}|{body}\"");
    let provider = Declarative::new(Arc::new(load::load("guide.toml", &file).unwrap()), None);
    for (path, kind) in [
        ("/cancelled", "order_cancelled"),
        ("/orders", "order_created"),
        ("", "order_created"),
    ] {
        let sample = sample::Sample {
            body: include_bytes!("../../../../tests/fixtures/providers.d/order.json"),
            headers: &HeaderMap::new(),
            path,
            document: None,
            now: Utc::now(),
        };
        assert_eq!(provider.try_sample(&sample).unwrap().kind, kind, "{path}");
    }
}
