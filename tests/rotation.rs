//! A secret is changed while webhooks come in: no good one is refused, and the old secret ends when it is taken away.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use webhook_hub::event::{EventType, RequestFacts};

use crate::harness::{
    World,
    at_end::Ends,
    careem::{Answer, MERCHANT, order, sign},
    hub::{Hub, Settings},
    proxy::Proxy,
    wait::{PATIENCE, eventually},
};

const OLD: &str = "old-secret-of-the-tests";
const NEW: &str = "new-secret-of-the-tests";
/// Senders at a time.
const SENDERS: usize = 4;

/// A file of secrets that is replaced as a whole.
struct SecretFile {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl SecretFile {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = Self {
            path: folder.path().join("secret"),
            _folder: folder,
        };
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        let next = self.path.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, &self.path).unwrap();
    }

    fn settings(&self, world: &World) -> Settings {
        let settings = world.settings().set("CAREEM_WEBHOOK_SECRET", "");
        settings.set("CAREEM_WEBHOOK_SECRET_FILE", self.path.display())
    }
}

async fn post_by(world: &World, hub: &Hub, secret: &str, body: &str) -> Answer {
    post_of(world, hub, secret, MERCHANT, body).await
}

async fn post_of(world: &World, hub: &Hub, secret: &str, merchant: &str, body: &str) -> Answer {
    let signature = sign(secret, body.as_bytes());
    let headers = [("x-merchant-id", merchant), ("x-careem-signature", signature.as_str())];
    world.careem.post_raw(hub, body, &headers).await
}

/// Waits until the hub says this in its log, so many times.
async fn said(hub: &Hub, text: &str, times: usize) {
    eventually(text, PATIENCE, async || {
        let said = hub.log().matches(text).count();
        if said >= times { Ok(()) } else { Err(said) }
    })
    .await;
}

/// How the webhooks on the log were verified, by order.
async fn facts(world: &World) -> Vec<(String, RequestFacts)> {
    let events = world.log.events().await;
    let received = events
        .iter()
        .filter(|event| event.envelope.event_type == EventType::WebhookReceived);
    let facts = |event: &Arc<webhook_hub::event::Recorded>| {
        let request = event.envelope.request.clone().unwrap();
        (event.envelope.external_order_id.clone(), request)
    };
    received.map(facts).collect()
}

/// Which secret let an order in: its name, where it came from and its index.
async fn used(world: &World, id: &str) -> serde_json::Value {
    let facts = facts(world).await;
    let (_, request) = facts.iter().find(|(order, _)| order == id).expect("it is on the log");
    json!(request.secrets)
}

/// Senders that go on until they are stopped; the secret that they sign with can be changed.
struct Traffic {
    is_new: AtomicBool,
    ended: AtomicBool,
    sent: AtomicUsize,
}

impl Traffic {
    async fn run(&self, world: &World, hub: &Hub) {
        let sender = async |number: usize| {
            let mut count = 0;
            while !self.ended.load(Ordering::SeqCst) {
                let secret = if self.is_new.load(Ordering::SeqCst) { NEW } else { OLD };
                let body = order(&format!("CR-traffic-{number}-{count}"));
                let answer = post_by(world, hub, secret, &body).await;
                assert_eq!(answer.status, 200, "a good webhook is refused: {answer:?}");
                self.sent.fetch_add(1, Ordering::SeqCst);
                count += 1;
            }
        };
        let senders: Vec<_> = (0..SENDERS).map(sender).collect();
        futures_util::future::join_all(senders).await;
    }

    /// Waits until so many more have been sent.
    async fn more(&self, count: usize) {
        let goal = self.sent.load(Ordering::SeqCst) + count;
        eventually("webhooks come in", PATIENCE, async || {
            let sent = self.sent.load(Ordering::SeqCst);
            if sent >= goal { Ok(()) } else { Err(sent) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_under_load() {
    let world = World::new().await;
    let file = SecretFile::new(OLD);
    let hub = Hub::start(&file.settings(&world)).await;
    assert_eq!(post_by(&world, &hub, NEW, &order("CR-early")).await.status, 401);
    let traffic = Traffic {
        is_new: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        sent: AtomicUsize::new(0),
    };
    let operator = async {
        traffic.more(20).await;
        file.write(&format!("{NEW}, {OLD}\n"));
        said(&hub, "secrets were read again", 1).await;
        traffic.more(20).await;
        post_by(&world, &hub, OLD, &order("CR-old")).await.event_id();
        traffic.is_new.store(true, Ordering::SeqCst);
        post_by(&world, &hub, NEW, &order("CR-new")).await.event_id();
        // Those that were signed with the old one are through.
        traffic.more(2 * SENDERS).await;
        file.write(NEW);
        said(&hub, "secrets were read again", 2).await;
        traffic.more(20).await;
        traffic.ended.store(true, Ordering::SeqCst);
    };
    tokio::join!(traffic.run(&world, &hub), operator);

    let refused = post_by(&world, &hub, OLD, &order("CR-too-late")).await;
    assert_eq!((refused.status, refused.code().as_str()), (401, "INVALID_SIGNATURE"));
    let secret = |index: usize| json!([{ "name": "webhook_secret", "origin": "file", "index": index }]);
    assert_eq!(used(&world, "CR-old").await, secret(1));
    assert_eq!(used(&world, "CR-new").await, secret(0));
    let metrics = world.metrics(&hub).await;
    for index in 0..2 {
        let labels = [
            "provider=\"careem\"",
            "secret=\"webhook_secret\"",
            "origin=\"file\"",
            &format!("index=\"{index}\""),
        ];
        let mut lines = metrics
            .lines()
            .filter(|line| line.starts_with("webhook_secret_used_total{"));
        assert!(
            lines.any(|line| labels.iter().all(|label| line.contains(label))),
            "{index}: {metrics}"
        );
    }
    for secret in [OLD, NEW] {
        assert!(!hub.log().contains(secret) && !metrics.contains(secret));
    }
    let sent = traffic.sent.load(Ordering::SeqCst);
    world.at_end(Ends::forwarded(sent + 2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_and_files_that_cannot_be_used() {
    let world = World::new().await;
    let (file, of_another) = (SecretFile::new(OLD), SecretFile::new("one"));
    let settings = file.settings(&world);
    let settings = settings
        .set("TALABAT_ENABLED", true)
        .set("TALABAT_BEARER_TOKEN", "bearer-token-of-the-tests")
        .set("TALABAT_WEBHOOK_SECRET_FILE", of_another.path.display());
    let hub = Hub::start(&settings).await;
    post_by(&world, &hub, OLD, &order("CR-1")).await.event_id();
    hub.reload().await;
    said(&hub, "secrets are unchanged", 2).await;
    for (text, fault) in [
        (
            "hunter2,,hunter3",
            "CAREEM_WEBHOOK_SECRET: contains an empty secret between commas",
        ),
        ("", "CAREEM_WEBHOOK_SECRET_FILE: "),
    ] {
        file.write(text);
        hub.reload().await;
        said(&hub, fault, 1).await;
        post_by(&world, &hub, OLD, &order(&format!("CR-kept-{}", text.len())))
            .await
            .event_id();
    }
    std::fs::remove_file(&file.path).unwrap();
    said(&hub, "cannot read", 1).await;
    // It is said once, however often it is looked, and the other provider's files are taken all the same.
    for (times, secret) in [(1, "two"), (2, "three")] {
        of_another.write(secret);
        said(&hub, "secrets were read again", times).await;
    }
    assert_eq!(hub.log().matches("cannot read").count(), 1);
    assert_eq!(post_by(&world, &hub, "hunter3", &order("CR-bad")).await.status, 401);
    post_by(&world, &hub, OLD, &order("CR-gone")).await.event_id();
    assert!(!hub.log().contains("hunter"), "{}", hub.log());
    file.write(NEW);
    hub.reload().await;
    said(&hub, "secrets were read again", 3).await;
    hub.reload().await;
    // The first time was before anything had changed; what was taken over is what the next look is held against.
    eventually("nothing is new any more", PATIENCE, async || {
        let log = hub.log();
        let lines = log.lines().filter(|line| line.contains("secrets are unchanged"));
        let of_careem = lines.filter(|line| line.contains("careem")).count();
        if of_careem == 2 { Ok(()) } else { Err(of_careem) }
    })
    .await;
    post_by(&world, &hub, NEW, &order("CR-2")).await.event_id();
    assert_eq!(post_by(&world, &hub, OLD, &order("CR-3")).await.status, 401);
    world.at_end(Ends::forwarded(5)).await;
}

/// Gives the branch of our merchant secrets of its own.
async fn branch_secret(world: &World, secrets: &str) {
    let update =
        format!("UPDATE branch_delivery_configs SET webhook_secret = '{secrets}' WHERE merchant_id = '{MERCHANT}'");
    world.database.run(&update).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_has_secrets_of_its_own() {
    let world = World::new().await;
    branch_secret(&world, "branch-new, branch-old").await;
    let another =
        "INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id, webhook_secret)
        VALUES ('config-2', 'branch-2', 'provider-careem', 'company-uuid', 'merchant-2', 'branch-other')";
    world.database.run(another).await.unwrap();
    let without = world.settings();
    let with = without
        .clone()
        .set("CAREEM_BRANCH_SECRETS", true)
        .set("CAREEM_WEBHOOK_SECRET", OLD);
    let hub = Hub::start(&with).await;
    for (index, secret) in ["branch-new", "branch-old"].into_iter().enumerate() {
        // No part of it is the secret, which no line of the log may hold.
        let id = format!("CR-of-{}", secret.trim_start_matches("branch-"));
        post_by(&world, &hub, secret, &order(&id)).await.event_id();
        let expected = json!([{ "name": "webhook_secret", "origin": "branch", "index": index }]);
        assert_eq!(used(&world, &id).await, expected);
    }
    // The provider's own goes for every branch.
    post_by(&world, &hub, OLD, &order("CR-provider")).await.event_id();
    assert_eq!(used(&world, "CR-provider").await[0]["origin"], "env");
    // Where no header names the merchant, the payload does.
    let mut body: serde_json::Value = serde_json::from_str(&order("CR-payload")).unwrap();
    body["branch"] = json!({ "id": MERCHANT });
    let body = body.to_string();
    let signature = sign("branch-new", body.as_bytes());
    let headers = [("x-careem-signature", signature.as_str())];
    world.careem.post_raw(&hub, body, &headers).await.event_id();
    post_of(&world, &hub, "branch-other", "merchant-2", &order("CR-other"))
        .await
        .event_id();
    for (merchant, secret) in [
        ("stranger", "branch-new"),
        ("merchant-2", "branch-new"),
        (MERCHANT, "branch-other"),
        (MERCHANT, ""),
    ] {
        let answer = post_of(&world, &hub, secret, merchant, &order("CR-refused")).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "INVALID_SIGNATURE"),
            "{merchant} {secret}"
        );
    }
    // Nothing of it counts where it was not switched on.
    let plain = Hub::start(&without).await;
    assert_eq!(
        post_by(&world, &plain, "branch-new", &order("CR-off")).await.status,
        401
    );
    for place in [hub.log(), plain.log()] {
        assert!(!place.contains("branch-new") && !place.contains("branch-old"));
    }
    world.at_end(Ends::forwarded(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn branch_secrets_without_postgres() {
    let world = World::new().await;
    branch_secret(&world, "branch-secret").await;
    let postgres = Proxy::to(([127, 0, 0, 1], world.cluster.server.port()).into());
    postgres.cut();
    let settings = world
        .settings()
        .set("DATABASE_URL", world.database.url_through(postgres.address()))
        .set("CAREEM_WEBHOOK_SECRET", OLD);
    let plain = Hub::start(&settings).await;
    let hub = Hub::start(&settings.set("CAREEM_BRANCH_SECRETS", true)).await;
    // What cannot be known is our fault; what is known without PostgreSQL is taken.
    let answer = post_by(&world, &hub, "branch-secret", &order("CR-branch")).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "SECRETS_UNAVAILABLE"));
    assert_eq!(answer.header("retry-after"), "5");
    post_by(&world, &hub, OLD, &order("CR-provider")).await.event_id();
    let answer = post_by(&world, &plain, "branch-secret", &order("CR-branch")).await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "INVALID_SIGNATURE"));

    postgres.heal();
    eventually("the branch's webhook is taken", PATIENCE, async || {
        let answer = post_by(&world, &hub, "branch-secret", &order("CR-branch")).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    // Away again: what was read serves on, for a stranger nothing can be known.
    postgres.cut();
    post_by(&world, &hub, "branch-secret", &order("CR-cached"))
        .await
        .event_id();
    assert_eq!(post_by(&world, &hub, "wrong", &order("CR-wrong")).await.status, 401);
    eventually(
        "a branch that may be new is not refused",
        Duration::from_secs(40),
        async || {
            let answer = post_of(&world, &hub, "branch-secret", "stranger", &order("CR-stranger")).await;
            if answer.status == 503 { Ok(()) } else { Err(answer) }
        },
    )
    .await;
    // However old it gets.
    post_by(&world, &hub, "branch-secret", &order("CR-cached-for-long"))
        .await
        .event_id();
    postgres.heal();
    world.at_end(Ends::forwarded(4)).await;
}
