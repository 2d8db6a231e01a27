//! `orders list` beside a hub at work: what has not arrived, and whether it is over; and what it says where it cannot answer.

use serde_json::{Value, json};

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::order,
    hub::{Ran, Settings, run},
    servers::Cluster,
    wait::{PATIENCE, eventually},
};

/// What a machine gets, once it is as expected: the tables follow the log.
async fn becomes(settings: &Settings, args: &[&str], what: &str, is: impl Fn(&Ran, &Value) -> bool) -> Ran {
    let args: Vec<_> = ["orders", "list", "--json"].iter().chain(args).copied().collect();
    eventually(what, PATIENCE, async || {
        let ran = run(settings, &args).await;
        let page = serde_json::from_str(&ran.stdout).map_err(|_| ran.said())?;
        if is(&ran, &page) { Ok(ran) } else { Err(ran.said()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_arrived_and_whether_it_is_over() {
    let world = World::new().await;
    world.backend.always_for("CR-waits", Some(Answer::status(503)));
    world.backend.always_for("CR-over", Some(Answer::status(422)));
    let hub = world.hub().await;
    let database = Settings::empty().set("DATABASE_URL", &world.database.url);
    for id in ["CR-arrives", "CR-waits"] {
        assert_eq!(world.careem.post(&hub, &order(id)).await.status, 200);
    }
    // Waiting orders need no person.
    let waiting = becomes(&database, &["--undelivered"], "one waits", |_, page| {
        page["orders"][0]["state"] == "waiting" && page["count"]["orders"] == 1
    })
    .await;
    assert_eq!(waiting.code, Some(0), "{}", waiting.said());
    assert_eq!(world.careem.post(&hub, &order("CR-over")).await.status, 200);
    let over = becomes(&database, &["--undelivered"], "one was given up", |_, page| {
        // Page and count are read one after the other.
        let states: Vec<_> = page["orders"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["state"])
            .collect();
        states.contains(&&json!("given_up")) && page["count"]["givenUp"] == 1 && page["count"]["orders"] == 2
    })
    .await;
    assert_eq!(over.code, Some(1), "{}", over.said());
    let page: Value = serde_json::from_str(&over.stdout).unwrap();
    assert_eq!(page["isIncomplete"], false);
    let given_up = page["orders"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["externalOrderId"] == "CR-over");
    let given_up = given_up.unwrap();
    assert_eq!(
        (&given_up["state"], &given_up["causeStage"], &given_up["causeCode"]),
        (&json!("given_up"), &json!("forward"), &json!("BACKEND_422"))
    );
    let text = run(&database, &["orders", "list", "--undelivered"]).await;
    assert!(text.stdout.starts_with("ACCEPTED"), "{}", text.said());
    assert!(
        text.stdout.contains("CR-waits") && text.stdout.contains("forward BACKEND_422"),
        "{}",
        text.stdout
    );
    assert!(
        text.stdout.ends_with("2 orders have not arrived; 1 was given up\n"),
        "{}",
        text.stdout
    );
    // A customer's name is in neither form.
    for said in [text.said(), over.said()] {
        assert!(!said.contains("Ahmed") && !said.contains("+962"), "{said}");
    }

    world.backend.always_for("CR-waits", None);
    world.backend.always_for("CR-over", None);
    world.retry_dead_letters().await;
    let nothing = becomes(&database, &["--undelivered"], "all has arrived", |_, page| {
        page["count"]["orders"] == 0
    })
    .await;
    assert_eq!(nothing.code, Some(0), "{}", nothing.said());
    let text = run(&database, &["orders", "list", "--undelivered"]).await;
    assert_eq!(text.stdout, "nothing is undelivered\n");
    let all = run(&database, &["orders", "list", "--state", "forwarded"])
        .await
        .expect_success();
    assert!(all.stdout.ends_with("3 orders\n"), "{}", all.stdout);
    world.at_end(Ends::forwarded(3)).await;
}

/// Where it cannot answer it says why, and what is needed: three tables to read, and nothing of NATS.
#[tokio::test(flavor = "multi_thread")]
async fn the_least_rights_and_what_it_says_without_them() {
    let database = Cluster::shared().await.database().await;
    let role = format!("reader_of_{}", database.name());
    let make = format!("CREATE ROLE {role} LOGIN PASSWORD 'reads'; GRANT USAGE ON SCHEMA hub TO {role}");
    database.run(&make).await.unwrap();
    let (_, server) = database.url.rsplit_once('@').unwrap();
    let url = format!("postgres://{role}:reads@{server}");
    let reader = Settings::empty().set("DATABASE_URL", &url);
    let refused = run(&reader, &["orders", "list"]).await;
    assert_eq!(refused.code, Some(2), "{}", refused.said());
    assert!(refused.stderr.contains("SELECT on hub.orders"), "{}", refused.stderr);
    assert!(!refused.said().contains("reads@"), "the password: {}", refused.said());
    let grant = format!("GRANT SELECT ON hub.orders, hub.projections, hub.cursors TO {role}");
    database.run(&grant).await.unwrap();
    // No hub has ever worked on this database.
    let empty = run(&reader, &["orders", "list"]).await.expect_success();
    assert!(
        empty.stdout.contains("still being filled") && empty.stdout.ends_with("no orders\n"),
        "{}",
        empty.stdout
    );

    for (args, named) in [
        (&["--after", "nonsense"][..], "cursor"),
        (&["--state", "lost"], "given_up"),
        (&["--provider", "careen"], "careem"),
        (&["--limit", "0"], "1"),
        (&["--since", "yesterday"], "2h"),
        (
            &[
                "--undelivered",
                "--after",
                "n1759320000123.00000000000000000000000000000007",
            ],
            "sorted differently",
        ),
    ] {
        let ran = run(&reader, &[&["orders", "list"], args].concat()).await;
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.said());
        assert!(ran.stderr.contains(named), "{args:?}: {}", ran.stderr);
    }
    let away = Settings::empty().set("DATABASE_URL", "postgres://hub:secret-word@127.0.0.1:1/hub");
    let ran = run(&away, &["orders", "list"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.said());
    assert!(
        ran.stderr.contains("Connection refused") && !ran.said().contains("secret-word"),
        "{}",
        ran.stderr
    );
    let drop = format!(
        "REVOKE ALL ON ALL TABLES IN SCHEMA hub FROM {role}; REVOKE ALL ON SCHEMA hub FROM {role}; DROP ROLE {role}"
    );
    database.run(&drop).await.unwrap();
}
