//! What operators do is on the log: who, when, why and what; before it is done, and with its result.

use serde_json::{Value, json};
use webhook_hub::event::{
    Envelope, EventId, EventType,
    operator::{PROVIDER, WEBHOOK_TYPE},
};

use crate::harness::{
    hub::{Ran, run},
    written::{NAMES, Written, noon, received},
};

impl Written {
    async fn command(&self, args: &[&str]) -> Ran {
        run(&self.settings(), args).await
    }

    /// The acts that `operator audit` lists.
    async fn acts(&self, args: &[&str]) -> Vec<Value> {
        let args: Vec<_> = ["operator", "audit", "--json"].iter().chain(args).copied().collect();
        let ran = self.command(&args).await.expect_success();
        let listed: Value = serde_json::from_str(&ran.stdout).unwrap();
        listed["acts"].as_array().unwrap().clone()
    }
}

/// Kind, who, why, arguments and result.
fn facts(act: &Value) -> Value {
    json!([act["kind"], act["by"], act["reason"], act["arguments"], act["result"]])
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_are_listed_with_their_results() {
    let log = Written::new().await;
    let none = log.command(&["operator", "audit"]).await.expect_success();
    assert_eq!(none.stdout, "no acts\n");
    let (first, second) = (log.refused("CR-1", noon()).await, log.refused("CR-2", noon()).await);
    let id = first.to_string();
    let args = ["retry", &id, "--as", "anna@desk", "--reason", "row added"];
    log.run(&args).await.expect_success();
    log.run(&["retry", "--all", "--dry-run"]).await.expect_success();
    log.run(&["retry", "--all", "--stage", "forward"])
        .await
        .expect_success();
    let unknown = log.run(&["retry", &second.to_string()]).await;
    assert_eq!(unknown.code, Some(1), "{}", unknown.said());
    log.command(&["blocks", "lift", "--all"]).await.expect_success();
    let acts = log.acts(&[]).await;
    let counts = json!({ "requested": 1, "failed": 0, "menusLeftOut": 0 });
    let expected = [
        json!(["retry", "anna@desk", "row added", { "ids": [id] }, { "counts": counts }]),
        json!(["retry", "night@shift", null, { "all": true, "menus": false, "filter": { "stage": "forward" } }, { "counts": counts }]),
        json!(["lift-blocks", "night@shift", null, { "blocks": [] }, { "counts": { "lifted": 0 } }]),
    ];
    assert_eq!(acts.iter().map(facts).collect::<Vec<_>>(), expected);
    assert_eq!(
        facts(&log.acts(&["--kind", "lift-blocks,reveal"]).await[0]),
        expected[2]
    );
    assert_eq!(log.acts(&["--until", "1h"]).await, Vec::<Value>::new());
    assert_eq!(log.acts(&["--since", "1h", "--limit", "1"]).await.len(), 1);

    // One that was interrupted: only its first event is there.
    let begun = Envelope {
        id: EventId(uuid::Uuid::new_v4()),
        event_type: EventType::OperatorActed,
        provider: PROVIDER.into(),
        webhook_type: WEBHOOK_TYPE.into(),
        ..received("rebuild", chrono::Utc::now())
    };
    log.publish(&begun, r#"{"kind": "rebuild", "by": "ev\u001bil"}"#).await;
    let text = log.command(&["operator", "audit"]).await.expect_success().stdout;
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("TIME ") && lines[0].ends_with("REASON"), "{text}");
    assert!(
        lines[1].contains("anna@desk") && lines[1].contains(&format!("ids={id}")) && lines[1].ends_with("row added"),
        "{text}"
    );
    assert!(
        lines[4].contains("ev\u{fffd}il") && lines[4].ends_with("not known"),
        "{text}"
    );
    assert_eq!(lines[5..], ["4 acts"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn personal_data_is_shown_after_that_is_on_the_log() {
    let log = Written::new().await;
    let letter = log.refused("CR-anna", noon()).await.to_string();
    let shows_all = |ran: &Ran| NAMES.iter().all(|name| ran.stdout.contains(name));
    let shows_none = |ran: &Ran| NAMES.iter().all(|name| !ran.said().contains(name));
    let story = ["orders", "show", "careem", "CR-anna", "--raw", "--body"];
    let with = |args: &[&'static str]| [&story[..], args].concat();
    for args in [&["events", "show", "1"][..], &story] {
        let masked = log.command(args).await;
        assert!(
            matches!(masked.code, Some(0 | 1)) && shows_none(&masked),
            "{}",
            masked.said()
        );
    }
    // Not without a reason, and not without something to show.
    for args in [
        &["events", "show", "1", "--reveal"][..],
        &with(&["--reveal"]),
        &[
            "orders", "show", "careem", "CR-anna", "--reveal", "--reason", "call her",
        ],
    ] {
        assert_eq!(log.command(args).await.code, Some(2), "{args:?}");
    }
    assert_eq!(log.acts(&[]).await, Vec::<Value>::new());
    for args in [
        &["events", "show", "1", "--reveal", "--reason", "call her"][..],
        &with(&["--reveal", "--reason", "call her"]),
        &["dead-letters", "show", &letter, "--payload", "--reason", "call her"],
    ] {
        let shown = log.command(args).await;
        assert!(
            matches!(shown.code, Some(0 | 1)) && shows_all(&shown),
            "{}",
            shown.said()
        );
    }
    let of = |arguments: Value| json!(["reveal", "night@shift", "call her", arguments, {}]);
    assert_eq!(
        log.acts(&["--kind", "reveal"])
            .await
            .iter()
            .map(facts)
            .collect::<Vec<_>>(),
        [
            of(json!({ "event": 1 })),
            of(json!({ "provider": "careem", "order": "CR-anna" })),
            of(json!({ "deadLetter": letter })),
        ]
    );

    // A log that takes no event: nothing is shown, and nothing is done.
    log.close().await;
    for args in [
        &["events", "show", "1", "--reveal", "--reason", "call her"][..],
        &with(&["--reveal", "--reason", "call her"]),
        &["dead-letters", "show", &letter, "--payload"],
        &["dead-letters", "retry", &letter],
    ] {
        let refused = log.command(args).await;
        assert!(
            matches!(refused.code, Some(1 | 2)) && refused.stdout.is_empty() && shows_none(&refused),
            "{args:?}: {}",
            refused.said()
        );
        assert!(refused.stderr.contains("cannot be recorded"), "{}", refused.said());
    }
}
