//! Dead letters are listed, explained and retried, without a secret or a customer's name on the operator's screen.

use chrono::TimeDelta;
use serde_json::{Value, json};
use webhook_hub::{
    event::{EventId, EventType},
    journal::codec,
};

use crate::harness::{
    PARTITIONS, World,
    at_end::Ends,
    backend::Answer,
    careem::{self, order, sign},
    hub::{Ran, run},
    ids,
    written::{NAMES, Written, noon, received},
};

/// Reviewed by hand: what the operator sees of the log that [`Written`] writes.
const GOLDEN_LIST: &str = include_str!("fixtures/dead_letters.list.txt");
const GOLDEN_SHOW: &str = include_str!("fixtures/dead_letters.show.txt");

const GOLDEN_CAUSES: &str = include_str!("fixtures/dead_letters.causes.txt");

/// The command failed, and says why in one line that names this.
fn failed(ran: &Ran, code: i32, named: &str) {
    assert_eq!(ran.code, Some(code), "{}", ran.said());
    assert!(ran.stderr.contains(named), "{named:?} in {}", ran.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_has_every_open_letter() {
    let log = Written::new().await;
    let nothing = log.run(&["list"]).await.expect_success();
    assert_eq!(nothing.stdout, "no open dead letters\n");
    let anna = log.refused("CR-anna", noon()).await;
    let homeless = log.homeless("CR-\u{1b}[2J", noon() + TimeDelta::hours(1)).await;
    let old = log.old("CR-old", noon() + TimeDelta::hours(2)).await;
    log.garbage().await;

    let list = log.run(&["list"]).await.expect_success();
    assert_eq!(list.stdout, GOLDEN_LIST);
    assert_eq!(list.stderr, "");
    let listed = log.listed(&[]).await;
    let expected = json!({
        "time": "2025-10-01T12:00:02Z", "id": anna.to_string(), "provider": "careem", "orderId": "CR-anna",
        "webhookType": "order_created", "stage": "forward", "attempts": 2, "code": "BACKEND_422",
        "message": "the backend refused the order with 422",
    });
    assert_eq!(listed[0], expected);
    assert_eq!(listed.len(), 4);
    assert!(
        listed[2]["unreadable"].as_str().unwrap().contains("stage"),
        "{}",
        listed[2]
    );

    let causes = log.run(&["list", "--by", "cause"]).await.expect_success();
    assert_eq!(causes.stdout, GOLDEN_CAUSES);
    let causes = log.run(&["list", "--by", "cause", "--json", "--branch", "main"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&causes.expect_success().stdout).unwrap(),
        json!([{
            "stage": "forward", "code": "BACKEND_422", "provider": "careem", "count": 1,
            "oldestAt": "2025-10-01T12:00:02Z", "newestAt": "2025-10-01T12:00:02Z",
        }])
    );

    // Filters, and a limit that says what it hides.
    assert_eq!(log.open(&["--branch", "main"]).await, [anna.to_string()]);
    let garbage = "garbage".to_owned();
    let of = |id: EventId| id.to_string();
    assert_eq!(
        log.open(&["--since", "2025-10-01T13:00:00Z"]).await,
        [of(homeless), of(old), garbage.clone()]
    );
    assert_eq!(log.open(&["--since", "1h"]).await, [garbage]);
    assert_eq!(log.open(&["--provider", "careem"]).await.len(), 4);
    failed(&log.run(&["list", "--provider", "careen"]).await, 2, "careem");
    failed(&log.run(&["list", "--since", "yesterday"]).await, 2, "5m");
    let first = log.run(&["list", "--limit", "1"]).await.expect_success();
    assert!(
        first.stdout.contains("3 more are not shown") && first.stdout.contains("CR-anna"),
        "{}",
        first.stdout
    );
    let first = log.run(&["list", "--limit", "1", "--json"]).await.expect_success();
    assert_eq!(
        serde_json::from_str::<Value>(&first.stdout)
            .unwrap()
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert!(first.stderr.contains("3 more"), "{}", first.said());
    for name in NAMES {
        assert!(!list.said().contains(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn show_has_the_error_and_the_history() {
    let log = Written::new().await;
    let anna = log.refused("CR-anna", noon()).await;
    let homeless = log.homeless("CR-\u{1b}[2J", noon() + TimeDelta::hours(1)).await;
    let old = log.old("CR-old", noon() + TimeDelta::hours(2)).await;
    let of = |id: EventId| id.to_string();

    let shown = log.run(&["show", &of(anna)]).await.expect_success();
    assert_eq!(shown.stdout, GOLDEN_SHOW);
    let json = log.run(&["show", &of(anna), "--json"]).await.expect_success();
    let shown = serde_json::from_str::<Value>(&json.stdout).unwrap();
    assert_eq!(
        (
            &shown["state"],
            &shown["givenUp"]["sequence"],
            &shown["deadLetter"]["error"]["details"]
        ),
        (&json!("open"), &json!(2), &json!({ "status": 422 }))
    );
    let said = [&json.said(), GOLDEN_SHOW].concat();
    for name in NAMES {
        assert!(!said.contains(name), "{name}");
    }
    // A person may ask for it.
    for args in [
        &["show", &of(anna), "--payload"][..],
        &["show", &of(anna), "--payload", "--json"],
    ] {
        let with = log.run(args).await.expect_success();
        assert!(NAMES.iter().all(|name| with.stdout.contains(name)), "{}", with.stdout);
    }
    let homeless = log.run(&["show", &of(homeless)]).await.expect_success();
    assert!(
        homeless.stdout.contains("webhook.received") && !homeless.stdout.contains('\u{1b}'),
        "{}",
        homeless.stdout
    );
    let old = log.run(&["show", &of(old)]).await.expect_success();
    assert!(
        old.stdout.contains("unreadable") && old.stdout.contains("older version"),
        "{}",
        old.stdout
    );
    let unknown = uuid::Uuid::new_v4().to_string();
    failed(&log.run(&["show", &unknown]).await, 1, &unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_arguments_request_nothing() {
    let log = Written::new().await;
    let nothing = log.run(&["retry", "--all"]).await.expect_success();
    assert_eq!(nothing.stdout, "nothing to retry\n");
    let of = |id: EventId| id.to_string();
    let first = log.refused("CR-1", noon()).await;
    log.homeless("CR-2", noon()).await;
    failed(&log.run(&["retry"]).await, 2, "--all");
    failed(&log.run(&["retry", "--menus"]).await, 2, "--all");
    failed(&log.run(&["retry", "--provider", "careem"]).await, 2, "--yes");
    failed(
        &log.run(&["retry", "--provider", "careem", "--rate", "1001"]).await,
        2,
        "1000",
    );
    failed(&log.run(&["retry", "--all", &of(first)]).await, 2, "--all");
    failed(&log.run(&["retry", "nonsense"]).await, 2, "nonsense");
    failed(
        &log.run(&["retry", "--all", "--reason", &"x".repeat(501)]).await,
        2,
        "500",
    );
    let unknown = uuid::Uuid::new_v4().to_string();
    failed(&log.run(&["retry", &of(first), &unknown]).await, 1, &unknown);
    let dry = log.run(&["retry", "--all", "--dry-run"]).await.expect_success();
    assert_eq!(dry.stdout.lines().count(), 3, "{}", dry.stdout);
    assert!(
        dry.stdout
            .ends_with("2 retries would be requested; dry run, nothing was changed\n"),
        "{}",
        dry.stdout
    );
    assert_eq!(log.requests().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_requested_once() {
    let log = Written::new().await;
    let (first, second) = (log.refused("CR-1", noon()).await, log.homeless("CR-2", noon()).await);
    let third = log.refused("CR-3", noon() + TimeDelta::hours(1)).await;
    let of = |id: EventId| id.to_string();

    // Named, out of order and one of them twice.
    let args = [
        "retry",
        &of(second),
        &of(first),
        &of(second),
        "--reason",
        "row added",
        "--by",
        "anna@desk",
    ];
    let asked = log.run(&args).await.expect_success();
    assert!(asked.stdout.contains("2 retries requested"), "{}", asked.stdout);
    let requests = log.requests().await;
    let causes: Vec<_> = requests
        .iter()
        .map(|(_, envelope, _)| envelope.cause_id.unwrap())
        .collect();
    assert_eq!(causes, [first, second], "in the order of the dead letters");
    let (subject, envelope, said) = &requests[0];
    let root = received("CR-1", noon());
    assert_eq!((envelope.id, envelope.root_id), (first.derive("retry"), root.id));
    assert_eq!(envelope.request_id, root.request_id);
    assert_eq!(*subject, codec::subject(envelope, PARTITIONS));
    assert_eq!(
        *said,
        json!({ "stage": "forward", "sequence": 2, "endedAs": "BACKEND_422", "by": "anna@desk", "reason": "row added" })
    );
    assert_eq!(
        requests[1].2,
        json!({ "stage": "transform", "sequence": 5, "endedAs": "BRANCH_NOT_FOUND", "by": "anna@desk", "reason": "row added" })
    );

    // What was asked for is not open, and is not asked for again.
    assert_eq!(log.open(&[]).await, [of(third)]);
    failed(&log.run(&["retry", &of(first), &of(third)]).await, 1, &of(first));
    let shown = log.run(&["show", &of(first)]).await.expect_success();
    assert!(
        shown.stdout.contains("(retried)") && shown.stdout.contains("by anna@desk: row added"),
        "{}",
        shown.stdout
    );
    let none = log.run(&["retry", "--all", "--since", "1h"]).await.expect_success();
    assert_eq!(none.stdout, "nothing to retry\n");
    let rest = log.run(&["retry", "--all", "--json"]).await.expect_success();
    let rest: Value = serde_json::from_str(&rest.stdout).unwrap();
    let expected = json!({
        "dryRun": false, "count": 1, "menusLeftOut": 0, "failed": [],
        "asked": [{
            "id": of(third), "provider": "careem", "orderId": "CR-3", "stage": "forward",
            "retryId": of(third.derive("retry")),
        }],
    });
    assert_eq!(rest, expected);
    let requests = log.requests().await;
    assert_eq!((requests.len(), &requests[2].2["by"]), (3, &json!("night@shift")));
    assert_eq!(log.open(&[]).await, Vec::<String>::new());
}

/// Twice at the same moment, it is one: the log knows the id.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_are_one_retry() {
    let log = Written::new().await;
    for number in 0..300 {
        log.homeless(&format!("CR-{number}"), noon()).await;
    }
    let (one, other) = tokio::join!(log.run(&["retry", "--all"]), log.run(&["retry", "--all"]));
    for ran in [one, other] {
        ran.expect_success();
    }
    assert_eq!(log.requests().await.len(), 300);
    assert_eq!(log.open(&[]).await, Vec::<String>::new());
}

/// What cannot be taken up is said, and keeps nothing else from being taken up.
#[tokio::test(flavor = "multi_thread")]
async fn letters_that_cannot_be_retried() {
    let log = Written::new().await;
    let old = log.old("CR-old", noon()).await;
    let garbage = log.garbage().await;
    let fine = log.homeless("CR-fine", noon()).await;
    let named = log.run(&["retry", &old.to_string()]).await;
    assert_eq!(named.code, Some(1), "{}", named.said());
    assert!(
        named.stdout.contains(&format!("not retried: dead letter {old}")),
        "{}",
        named.said()
    );
    let all = log.run(&["retry", "--all"]).await;
    assert_eq!(all.code, Some(1), "{}", all.said());
    for text in [
        &format!("not retried: dead letter {old}"),
        &format!("not retried: message {garbage} "),
        "1 retry requested",
    ] {
        assert!(all.stdout.contains(text), "{text} in {}", all.stdout);
    }
    assert_eq!(log.requests().await.len(), 1);
    assert_eq!(log.open(&[]).await, [old.to_string(), "garbage".into()]);
    failed(&log.run(&["retry", &fine.to_string()]).await, 1, &fine.to_string());
}

/// The acceptance: what failed is mended, everything is taken up again, and all of it arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_the_fix_is_forwarded() {
    let world = World::new().await;
    let hub = world.hub().await;
    let operator = world.nats.settings("hub");
    let refused = ids("refused", 3);
    for id in &refused {
        world.backend.next_for(id, [Answer::status(422)]);
    }
    world.post_orders(&hub, refused.iter().cloned()).await;
    let homeless = order("CR-homeless");
    let signature = sign(careem::SECRET, homeless.as_bytes());
    let headers = [
        ("x-careem-signature", signature.as_str()),
        ("x-merchant-id", "merchant-new"),
    ];
    world.careem.post_raw(&hub, homeless, &headers).await.event_id();
    world.at_end(Ends::default().dead_lettered(4)).await;
    let list = run(&operator, &["dead-letters", "list"]).await.expect_success();
    assert!(list.stdout.contains("4 open dead letters"), "{}", list.stdout);
    let order: Value = serde_json::from_str(careem::ORDER).unwrap();
    for name in ["name", "phone_number"].map(|field| order["customer"][field].as_str().unwrap().to_owned()) {
        assert!(!list.said().contains(&name), "{}", list.stdout);
    }
    let keys = |world: &World| -> Vec<_> {
        let requests = world.backend.requests();
        let of_refused = requests.iter().filter(|one| one.external_order_id() != "CR-homeless");
        let mut keys: Vec<_> = of_refused
            .map(|one| (one.external_order_id(), one.key().to_owned()))
            .collect();
        keys.sort();
        keys.dedup();
        keys
    };
    let keys_before = keys(&world);
    assert_eq!(keys_before.len(), 3);

    let row = "INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id)
               VALUES ('config-new', 'branch-new', 'provider-careem', 'company-uuid', 'merchant-new')";
    world.database.run(row).await.unwrap();
    // A hub looks for an unknown merchant every two seconds at most; a new one looks at once.
    assert!(hub.terminate().await.0.success());
    let _hub = world.hub().await;
    let args = ["dead-letters", "retry", "--all", "--reason", "row added"];
    let asked = run(&operator, &args).await.expect_success();
    assert!(asked.stdout.contains("4 retries requested"), "{}", asked.said());
    world.at_end(Ends::forwarded(4)).await;

    assert_eq!(keys(&world), keys_before, "each is the same request as before");
    assert_eq!(world.backend.count(), 3 + 3 + 1);
    let list = run(&operator, &["dead-letters", "list"]).await.expect_success();
    assert_eq!(list.stdout, "no open dead letters\n");
    let rows = world
        .database
        .rows("SELECT DISTINCT status FROM webhook_logs")
        .await
        .unwrap();
    assert_eq!(rows, [json!({ "status": "completed" })]);
    let unresolved = world
        .database
        .rows("SELECT id FROM delivery_error_logs WHERE NOT is_resolved")
        .await
        .unwrap();
    assert_eq!(unresolved, Vec::<Value>::new());
    let again = run(&operator, &args).await.expect_success();
    assert_eq!(again.stdout, "nothing to retry\n");
    let requests = world.log.wait_for(EventType::OrderRetryRequested, 4).await;
    assert_eq!(requests.len(), 4);
}
