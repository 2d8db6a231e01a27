//! `replay --to`: past orders to another backend, which cannot be taken for the hub's own.

use serde_json::{Value, json};
use webhook_hub::event::EventType;

use super::{
    rebuild::found,
    replay::{changed, written},
};
use crate::harness::{
    SERVICE_TOKEN, World,
    at_end::Ends,
    backend::{Answer, Backend, ORDERS},
    careem::{change, order},
    hub::{Settings, run},
};

/// The environment of the command: what it knows of the hub's own backend is only there to be compared.
fn settings(world: &World) -> Settings {
    world
        .nats
        .settings("hub")
        .set("BACKEND_URL", world.backend.url())
        .set("SERVICE_TOKEN", SERVICE_TOKEN)
}

/// By another name, because the host of the hub's own backend is refused.
fn by_name(backend: &Backend) -> String {
    backend.url().replace("127.0.0.1", "localhost")
}

#[tokio::test(flavor = "multi_thread")]
async fn past_orders_go_to_another_backend() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.always_for("CR-refused", Some(Answer::status(422)));
    let posted = [
        order("CR-1"),
        order("CR-refused"),
        change("CR-1", "preparing"),
        order("CR-2"),
        change("CR-1", "ready"),
    ];
    for body in &posted {
        assert_eq!(world.careem.post(&hub, body).await.status, 200);
    }
    // The same order again, with another time of the message: the backend does not get it twice.
    let mut again: Value = serde_json::from_str(&order("CR-2")).unwrap();
    again["sent_again"] = json!(true);
    world.careem.post(&hub, &again.to_string()).await;
    world.at_end(Ends::forwarded(4).ignored(1).dead_lettered(1)).await;
    hub.terminate().await;
    let (before, own) = (written(&world).await, world.backend.requests());
    let other = Backend::start();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "token-of-the-other\n").unwrap();
    let (token, url) = (token.display().to_string(), by_name(&other));
    let arguments = ["--json", "replay", "--to", &url, "--token-file", &token];
    let with = |more: &[&str]| -> Vec<String> { arguments.iter().chain(more).map(|text| (*text).to_owned()).collect() };
    let ran = async |more: &[&str]| {
        let arguments = with(more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(&settings(&world), &arguments).await
    };

    let unconfirmed = ran(&[]).await;
    assert_eq!(unconfirmed.code, Some(2), "{}", unconfirmed.said());
    let dry = ran(&["--dry-run"]).await;
    let planned = found(&dry);
    let counts = |sent: &Value| {
        [&sent["newOrders"], &sent["statusChanges"], &sent["notSentThen"]].map(|count| count.as_u64().unwrap())
    };
    assert_eq!(counts(&planned), [3, 2, 1], "{planned}");
    assert_eq!(other.count(), 0);

    other.always_for("CR-2", Some(Answer::status(422)));
    let sent = ran(&["--yes", "--rate", "1000"]).await;
    assert_eq!(sent.code, Some(1), "one was refused: {}", sent.said());
    let sent = found(&sent);
    assert_eq!(counts(&sent), [3, 2, 1], "{sent}");
    assert_eq!(sent["answers"], json!({ "success": 4, "validation": 1 }));
    let requests = other.requests();
    assert_eq!(requests.len(), 5);
    for request in &requests {
        assert_eq!(
            (request.header("x-replay"), request.header("x-service-token")),
            ("true", "token-of-the-other")
        );
        assert!(own.iter().all(|one| one.key() != request.key()), "another key");
        let same = own
            .iter()
            .find(|one| one.body == request.body)
            .expect("the body of then");
        assert_eq!(same.path, request.path);
    }
    let paths: Vec<_> = requests
        .iter()
        .filter(|one| one.external_order_id() == "CR-1")
        .map(|one| one.path.clone())
        .collect();
    let status = format!("{ORDERS}/CR-1/status");
    assert_eq!(paths, [ORDERS.to_owned(), status.clone(), status], "in order");

    // By another file, and to a backend that fails.
    let changed = changed(&[("number_prefix = \"CAREEM-\"", "number_prefix = \"NEW-\"")]);
    let changed = changed.path().display().to_string();
    let one = ran(&[
        "--yes",
        "--order",
        "CR-1",
        "--type",
        "order_created",
        "--providers-dir",
        &changed,
    ])
    .await;
    assert_eq!(one.code, Some(0), "{}", one.said());
    let last = other.requests().pop().unwrap();
    let number = last.json()["transformedOrder"]["orderNumber"].clone();
    assert!(number.as_str().unwrap().starts_with("NEW-"), "{number}");
    assert_eq!(
        last.key(),
        requests
            .iter()
            .find(|one| one.external_order_id() == "CR-1")
            .unwrap()
            .key(),
        "the same each time"
    );
    other.otherwise(Answer::status(503));
    other.always_for("CR-2", None);
    let failing = ran(&["--yes", "--stop-after", "1", "--rate", "10"]).await;
    assert_eq!(failing.code, Some(1), "{}", failing.said());
    let failing = found(&failing);
    assert_eq!(
        (&failing["stopped"], &failing["answers"]),
        (&json!(true), &json!({ "temporary": 1 })),
        "{failing}"
    );

    // What is refused: the hub's own backend by its name, by another one and by other addresses, and its token.
    let requests = world.backend.count();
    std::fs::write(folder.path().join("own"), SERVICE_TOKEN).unwrap();
    let own_token = folder.path().join("own").display().to_string();
    let another = "this is another name of BACKEND_URL";
    let at = |host: &str| world.backend.url().replace("127.0.0.1", host);
    for (url, token, why) in [
        (other.url(), &token, "this is the host of BACKEND_URL"),
        (by_name(&world.backend), &token, another),
        (at("0.0.0.0"), &token, another),
        (at("127.0.0.2"), &token, another),
        (at("[::ffff:127.0.0.1]"), &token, another),
        (at("[::]"), &token, another),
        (at("[::1]"), &token, another),
        (url.clone(), &own_token, "this is the hub's SERVICE_TOKEN"),
    ] {
        let refused = run(
            &settings(&world),
            &["replay", "--to", &url, "--token-file", token, "--yes"],
        )
        .await;
        assert_eq!(refused.code, Some(2), "{}", refused.said());
        assert!(refused.stderr.contains(why), "{}", refused.said());
    }
    let unknown = world.nats.settings("hub");
    let refused = run(&unknown, &["replay", "--to", &url, "--token-file", &token, "--yes"]).await;
    assert_eq!(
        (refused.code, refused.stderr.contains("BACKEND_URL: missing")),
        (Some(2), true),
        "{}",
        refused.said()
    );
    assert_eq!(world.backend.count(), requests);
    // Nothing is recorded but the three acts: each before it, and with its result.
    let mut expected = before;
    for (_, sequence) in expected.iter_mut().filter(|(name, _)| name == "EVENTS") {
        *sequence += 3 * 2;
    }
    assert_eq!(written(&world).await, expected);
    let acts = world.log.payloads(EventType::OperatorActed, 6).await;
    assert!(
        acts.iter()
            .all(|act| act["kind"] == "replay-elsewhere" && act["arguments"]["to"] == url),
        "{acts:?}"
    );
}
