//! `status`: reports that all is well only if it is.

use serde_json::{Value, json};

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    hub::{Hub, Settings, run},
    ids,
    wait::{PATIENCE, eventually},
};

/// What a machine gets, and the exit status, once its problems are these.
async fn problems_become(settings: &Settings, expected: &[&str]) -> Value {
    eventually(&format!("the problems are {expected:?}"), PATIENCE, async || {
        let ran = run(settings, &["status", "--json"]).await;
        let status: Value = serde_json::from_str(&ran.stdout).map_err(|_| ran.said())?;
        let problems = status["problems"].as_array().unwrap();
        let codes: Vec<_> = problems
            .iter()
            .map(|problem| problem["code"].as_str().unwrap())
            .collect();
        if codes != expected {
            return Err(ran.said());
        }
        assert_eq!(ran.code, Some(i32::from(!expected.is_empty())), "{}", ran.said());
        assert_eq!(status["isWell"], expected.is_empty());
        Ok(status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn status_names_what_needs_a_person() {
    let world = World::new().await;
    let operator = world.nats.settings("hub").set("DATABASE_URL", &world.database.url);
    let idle = problems_become(&operator, &["stage_inactive"; 3]).await;
    assert_eq!(
        idle["stages"][1],
        json!({
            "name": "forward", "isActive": false, "holder": null, "waiting": 0, "inProgress": 0, "parked": null,
        })
    );

    let hub = Hub::start(&world.settings().set("CIRCUIT_BREAKER_RESET_TIMEOUT", "30s")).await;
    world.post_orders(&hub, ids("arrives", 2)).await;
    world.at_end(Ends::forwarded(2)).await;
    let well = problems_become(&operator, &[]).await;
    assert_eq!(
        (&well["database"]["lagEvents"], &well["database"]["isWritten"]),
        (&json!(0), &json!(true))
    );
    assert_eq!(well["log"]["events"], 6);
    let instances = well["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 1, "{well}");
    assert_eq!(instances[0]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        instances[0]["stages"],
        json!(["forward", "projection", "push", "transform"])
    );
    // The first order may be older than a minute where the machine is busy.
    assert!(well["acceptedPerMinute"]["careem"].as_u64().unwrap() <= 2, "{well}");
    let text = run(&operator, &["status"]).await.expect_success();
    assert!(text.stdout.starts_with("all is well\n"), "{}", text.stdout);
    assert!(
        text.stdout.contains("works on forward, projection, push, transform\n"),
        "{}",
        text.stdout
    );
    assert!(text.stdout.contains("forward       active on "), "{}", text.stdout);
    assert!(
        text.stdout
            .ends_with("0 orders have not arrived; 0 given up, 0 past their deadline\n"),
        "{}",
        text.stdout
    );

    // One is refused, and one waits for a while: only the first one needs a person.
    let refused = ids("refused", 1);
    world.backend.always_for(&refused[0], Some(Answer::status(422)));
    let later = Answer::Say(503, String::new(), vec![("retry-after", "60".into())]);
    world.backend.next_for("CR-parked-0", [later]);
    world.post_orders(&hub, refused).await;
    world.post_orders(&hub, ids("parked", 1)).await;
    world.has_parked(1).await;
    let status = eventually("what is parked is told with the lease", PATIENCE, async || {
        let status = problems_become(&operator, &["dead_letters"]).await;
        if status["stages"][1]["parked"] == 1 {
            Ok(status)
        } else {
            Err(status)
        }
    })
    .await;
    let cause = &status["deadLetters"][0];
    assert_eq!(
        (&cause["code"], &cause["stage"], &cause["count"]),
        (&json!("BACKEND_422"), &json!("forward"), &json!(1))
    );
    let undelivered = &status["database"]["undelivered"];
    assert_eq!(
        (&undelivered["orders"], &undelivered["givenUp"]),
        (&json!(2), &json!(1))
    );

    // The backend is away.
    world.backend.otherwise(Answer::status(503));
    world.post_orders(&hub, ids("away", 12)).await;
    world.breaker_becomes(&hub, "open").await;
    let away = ["breaker_not_closed", "branch_failing", "dead_letters"];
    let open = problems_become(&operator, &away).await;
    assert_eq!(open["breaker"]["state"], "open");
    let failing = &open["breaker"]["failingBranches"][0];
    assert_eq!(
        (
            &failing["branch"],
            &failing["code"],
            &open["breaker"]["failingBranchesInAll"]
        ),
        (&json!("branch-uuid"), &json!("BACKEND_503"), &json!(1))
    );

    // PostgreSQL cannot be read: the rest is still shown.
    let without = world
        .nats
        .settings("hub")
        .set("DATABASE_URL", "postgres://hub:secret-word@127.0.0.1:1/none");
    let blind = problems_become(&without, &[&away[..], &["database_unreadable"]].concat()).await;
    assert_eq!(blind["database"], Value::Null);
    assert!(!blind.to_string().contains("secret-word"), "{blind}");

    // NATS cannot: nothing can be told.
    let away = Settings::empty()
        .set("NATS_URL", "nats://127.0.0.1:1")
        .set("NATS_USER", "hub")
        .set("NATS_PASSWORD", "secret-word");
    let ran = run(&away, &["status"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.said());
    assert!(!ran.said().contains("secret-word"), "{}", ran.said());
    hub.kill().await;
}
