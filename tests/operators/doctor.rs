//! `doctor`: it finds nothing on an installation as it must be, names each fault of another, and tells how to mend it.

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::harness::{
    PARTITIONS, World,
    at_end::Ends,
    certificates::Authority,
    hub::{Ran, Settings, run},
    ids,
    servers::Nats,
    wait::{PATIENCE, eventually},
};

/// A right of `nats.conf`, which the examination needs.
const RIGHT: &str = "\"$JS.API.STREAM.INFO.BLOCKS\"";

async fn doctor(settings: &Settings) -> (Ran, Vec<Value>) {
    let ran = run(settings, &["doctor", "--json"]).await;
    let found: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.said()));
    let findings = found["findings"].as_array().unwrap().clone();
    for finding in findings.iter().filter(|finding| finding["grade"] != "fine") {
        assert!(finding["remedy"].is_string(), "how is it mended? {finding}");
    }
    assert_eq!(found["isWell"], ran.code == Some(0), "{}", ran.said());
    (ran, findings)
}

/// The findings of a grade, as `area code`.
fn codes(findings: &[Value], grade: &str) -> Vec<String> {
    let of = findings.iter().filter(|finding| finding["grade"] == grade);
    let code = |finding: &Value| {
        format!(
            "{} {}",
            finding["area"].as_str().unwrap(),
            finding["code"].as_str().unwrap()
        )
    };
    of.map(code).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_found_until_something_is_damaged() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("well", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    // The hub makes the indexes while it works.
    let (ran, findings) = eventually("nothing is to be mended", PATIENCE, async || {
        let (ran, findings) = doctor(&world.settings()).await;
        if ran.code == Some(0) {
            Ok((ran, findings))
        } else {
            Err(ran.said())
        }
    })
    .await;
    let fine = codes(&findings, "fine");
    for looked_at in [
        "configuration settings",
        "NATS version",
        "NATS rights",
        "NATS streams",
        "NATS clock",
        "NATS log_room",
        "PostgreSQL version",
        "PostgreSQL clock",
        "PostgreSQL schema",
        "PostgreSQL indexes",
    ] {
        assert!(fine.iter().any(|one| one == looked_at), "{looked_at}: {}", ran.said());
    }
    assert_eq!(codes(&findings, "note"), ["NATS disk_unknown"], "{}", ran.said());
    let text = run(&world.settings(), &["doctor"]).await.expect_success();
    assert!(text.stdout.starts_with("all is well\nnote "), "{}", text.stdout);

    hub.kill().await;
    let provision = world.nats.provision().await;
    let mut limited = provision
        .get_stream("EVENTS")
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    limited.max_age = Duration::from_secs(3600);
    provision.update_stream(limited).await.unwrap();
    world
        .database
        .run("DROP INDEX hub_delivery_error_logs_webhook")
        .await
        .unwrap();
    let authority = Authority::new();
    let files = authority.ends_in("doctor", 5);
    let settings = world
        .settings()
        .set("TLS_CERT", files.certificate.display())
        .set("TLS_KEY", files.key.display())
        .set("CONSOLE_PORT", 1);
    let (ran, findings) = doctor(&settings).await;
    let expected = [
        "secrets expires_soon",
        "NATS stream_differs",
        "NATS order_memory_cut",
        "PostgreSQL index_missing",
    ];
    assert_eq!(codes(&findings, "problem"), expected, "{}", ran.said());
    assert_eq!(
        codes(&findings, "note"),
        ["configuration ignored", "NATS disk_unknown"],
        "{}",
        ran.said()
    );
    let text = run(&settings, &["doctor"]).await;
    let create = "the owner runs: CREATE INDEX CONCURRENTLY hub_delivery_error_logs_webhook ON ";
    for said in [
        "4 problems\nproblem  secrets",
        "EVENTS: max_age is",
        "to mend it: run `webhook-hub streams apply`",
        create,
    ] {
        assert!(text.stdout.contains(said), "{said}: {}", text.said());
    }

    // A role without rights: each is named.
    let role = format!("lacks_{}", Uuid::new_v4().simple());
    let create = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA hub TO {role}; GRANT USAGE ON SCHEMA public TO {role}"
    );
    world.database.run(&create).await.unwrap();
    let url = world.database.url.replace("//admin@", &format!("//{role}@"));
    let (ran, findings) = doctor(&world.settings().set("DATABASE_URL", url)).await;
    let lacking = findings.iter().filter(|one| one["code"] == "right_missing");
    let lacking: Vec<_> = lacking.map(|one| one["message"].as_str().unwrap()).collect();
    for right in [
        "UPDATE on hub.cursors",
        "SELECT (code) on \"public\".delivery_providers",
    ] {
        let message = format!("the role {role} lacks {right}");
        assert!(lacking.contains(&message.as_str()), "{message}: {}", ran.said());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_works_is_examined_beside_what_does_not() {
    let nats = Nats::start_with(|config| config.replacen(&format!("{RIGHT}, "), "", 1), None).await;
    let provision = nats.settings("provision").set("PARTITIONS", PARTITIONS);
    run(&provision, &["streams", "apply"]).await.expect_success();
    let broken = |nats: &Nats| {
        nats.settings("hub")
            .set("DATABASE_URL", "postgres://hub:secret-word@127.0.0.1:1/none")
            .set("SERVICE_TOKEN", "secret-word")
            .set("PORT", "many")
    };
    let (ran, findings) = doctor(&broken(&nats)).await;
    assert_eq!(
        codes(&findings, "problem"),
        [
            "configuration invalid_setting",
            "NATS right_missing",
            "PostgreSQL unreachable"
        ],
        "{}",
        ran.said()
    );
    let missing = findings
        .iter()
        .find(|finding| finding["code"] == "right_missing")
        .unwrap();
    assert_eq!(missing["message"], format!("the user may not publish to {RIGHT}"));
    assert!(!ran.said().contains("secret-word"), "{}", ran.said());

    // A user that may not list its rights: what the next requests lack is found all the same.
    let older = |config: &str| {
        let config = config.replacen("\"$SYS.REQ.USER.INFO\"", "", 1);
        config.replacen(&format!("{RIGHT}, "), "", 1)
    };
    let nats = Nats::start_with(older, None).await;
    let (ran, findings) = doctor(&broken(&nats)).await;
    assert!(
        codes(&findings, "note").contains(&"NATS rights_not_listed".to_owned()),
        "{}",
        ran.said()
    );
    assert!(
        codes(&findings, "problem").contains(&"NATS right_missing".to_owned()),
        "{}",
        ran.said()
    );
    let ran = run(&broken(&nats), &["doctor", "everything"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.said());
}
