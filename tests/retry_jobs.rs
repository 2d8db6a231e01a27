//! Dead letters are retried by a filter, as a job of the hub: it can be stopped and resumed, and goes on on another instance after a crash.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use webhook_hub::event::{EventType, Recorded};

use crate::harness::{
    World,
    at_end::Ends,
    backend::{Answer, ORDERS},
    careem::{change, order},
    hub::{Hub, Ran, Settings, run},
    log::payload,
    terminal::run_at_terminal,
    wait::{PATIENCE, eventually},
};

/// What the backend refuses, by cause.
const CAUSES: [u16; 3] = [400, 413, 422];
/// Webhooks that are posted at the same time.
const AT_ONCE: usize = 16;

struct Jobs {
    world: World,
    settings: Settings,
    operator: Settings,
}

impl Jobs {
    async fn new() -> Self {
        let world = World::new().await;
        let times = "job_progress=200ms";
        let settings = world.settings().set("HUB_TEST_TIMES", times);
        let operator = world.nats.settings("hub").set("USER", "night").set("HOSTNAME", "shift");
        Self {
            world,
            settings,
            operator,
        }
    }

    async fn hub(&self) -> Hub {
        Hub::start(&self.settings).await
    }

    /// Orders that the backend refuses, and so their news: as many of each cause.
    async fn refused(&self, hub: &Hub, of_each: usize) {
        let orders: Vec<_> = CAUSES
            .iter()
            .flat_map(|cause| (0..of_each).map(move |number| format!("CR-{cause}-{number}")))
            .collect();
        for (id, cause) in orders.iter().zip(CAUSES.iter().flat_map(|cause| vec![*cause; of_each])) {
            self.world.backend.always_for(id, Some(Answer::status(cause)));
        }
        let created: Vec<_> = orders.iter().map(|id| order(id)).collect();
        let news: Vec<_> = orders.iter().map(|id| change(id, "ready")).collect();
        for bodies in [created, news] {
            let posts = stream::iter(&bodies).map(|body| self.world.careem.post(hub, body));
            let answers: Vec<_> = posts.buffer_unordered(AT_ONCE).collect().await;
            assert!(answers.iter().all(|answer| answer.status == 200));
        }
        self.world.log.settled_within(PATIENCE * 10).await;
        let ends = Ends::default().dead_lettered(orders.len() * 2);
        self.world.at_end_within(PATIENCE * 10, ends).await;
        for id in &orders {
            self.world.backend.always_for(id, None);
        }
    }

    async fn command(&self, args: &[&str]) -> Ran {
        let args: Vec<_> = ["dead-letters"].iter().chain(args).copied().collect();
        run(&self.operator, &args).await
    }

    /// At a terminal `--all` asks, and a person says no.
    async fn all_is_refused_at_a_terminal(&self, letters: usize) {
        let args = ["dead-letters", "retry", "--all"];
        let ran = run_at_terminal(&self.operator, &args, "[y/N]", "n").await;
        let asked = format!("{letters} retries to request");
        assert!(
            ran.code == Some(2) && ran.said().contains(&asked) && ran.said().contains("retry them? [y/N]"),
            "{}",
            ran.said()
        );
    }

    /// What a command that succeeds says as JSON.
    async fn says(&self, args: &[&str]) -> Value {
        let args: Vec<_> = args.iter().chain(&["--json"]).copied().collect();
        let ran = self.command(&args).await.expect_success();
        serde_json::from_str(&ran.stdout).unwrap()
    }

    async fn start(&self, args: &[&str]) -> String {
        let said = self.says(&[&["retry", "--yes"][..], args].concat()).await;
        said["job"].as_str().unwrap().to_owned()
    }

    async fn job(&self, id: &str) -> Value {
        self.says(&["jobs", "show", id]).await
    }

    /// Waits until a job is as `judge` wants it.
    async fn job_becomes(&self, id: &str, what: &str, judge: impl Fn(&Value) -> bool) -> Value {
        eventually(what, PATIENCE, async || {
            let job = self.job(id).await;
            if judge(&job) { Ok(job) } else { Err(job) }
        })
        .await
    }

    /// The retries on the log that a job requested.
    async fn requests(&self, job: &str) -> Vec<Arc<Recorded>> {
        let mut events = self.world.log.events().await;
        events.retain(|event| {
            event.envelope.event_type == EventType::OrderRetryRequested && payload(event)["job"] == job
        });
        events
    }
}

/// The letters of a cause, each of them once, and of each order in the order of its letters.
fn each_once_and_in_order(events: &[Arc<Recorded>], requests: &[Arc<Recorded>], code: &str) {
    let letters: BTreeMap<_, _> = events
        .iter()
        .filter(|event| event.envelope.event_type == EventType::OrderDeadLettered)
        .filter(|event| payload(event)["error"]["code"] == code)
        .map(|event| (event.envelope.id, event.sequence))
        .collect();
    let retried: BTreeSet<_> = requests
        .iter()
        .map(|request| request.envelope.cause_id.unwrap())
        .collect();
    assert_eq!(retried.len(), requests.len(), "a letter was retried twice");
    assert!(
        retried.iter().eq(letters.keys()),
        "{} of {}",
        retried.len(),
        letters.len()
    );
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for request in requests {
        let letter = letters[&request.envelope.cause_id.unwrap()];
        let before = last.insert(&request.envelope.external_order_id, letter);
        assert!(before < Some(letter), "{}", request.envelope.external_order_id);
    }
}

/// One cause of three is retried as a job; it goes on after a crash, is stopped and resumed, and another job runs meanwhile.
async fn retried_by_filter(of_each: usize) {
    let jobs = Jobs::new().await;
    let hub = jobs.hub().await;
    jobs.refused(&hub, of_each).await;
    let letters = of_each * 2;
    let refused_at = jobs.world.backend.count();

    // What would be done; and nothing without a filter or a confirmation.
    let preview = jobs.says(&["retry", "--code", "BACKEND_422", "--dry-run"]).await;
    let counts = json!([
        preview["count"],
        preview["alreadyForwarded"],
        preview["expired"],
        preview["causes"][0]["stage"]
    ]);
    assert_eq!(counts, json!([letters, 0, 0, "forward"]), "{preview}");
    for args in [
        &["retry"][..],
        &["retry", "--code", "BACKEND_422"],
        &["retry", "--code", "x", "--rate", "0"],
    ] {
        let refused = jobs.command(args).await;
        assert_eq!(refused.code, Some(2), "{}", refused.said());
    }
    jobs.all_is_refused_at_a_terminal(letters * 3).await;
    let nothing = jobs
        .command(&["retry", "--code", "BACKEND_499", "--yes"])
        .await
        .expect_success();
    assert!(nothing.stdout.contains("no job was started"), "{}", nothing.said());
    assert_eq!(jobs.says(&["jobs"]).await, json!([]));

    // A crash in the middle: another instance goes on.
    let rate = (letters / 6).clamp(10, 300).to_string();
    let job = jobs
        .start(&["--code", "backend_422", "--rate", &rate, "--reason", "fixed"])
        .await;
    jobs.job_becomes(&job, "some are retried", |job| {
        job["counts"]["requested"].as_u64() > Some(0)
    })
    .await;
    hub.kill().await;
    let before = jobs.requests(&job).await.len();
    assert!(before < letters, "the crash came too late");
    let hub = jobs.hub().await;
    jobs.job_becomes(&job, "it goes on", |job| {
        job["counts"]["requested"].as_u64() > Some(before as u64)
    })
    .await;

    // Stopped, it stays so on the next instance, which works on another job.
    jobs.command(&["jobs", "stop", &job, "--reason", "too fast"])
        .await
        .expect_success();
    let again = jobs.command(&["jobs", "stop", &job]).await;
    assert!(
        again.code == Some(1) && again.stderr.contains("it is stopped"),
        "{}",
        again.said()
    );
    assert!(hub.terminate().await.0.success());
    let stopped = jobs.requests(&job).await.len();
    assert!(stopped < letters, "it was stopped too late");
    let hub = jobs.hub().await;
    let other = jobs.start(&["--code", "BACKEND_400", "--rate", "1000"]).await;
    jobs.command(&["jobs", "show", &other, "--wait"]).await.expect_success();
    assert_eq!(jobs.requests(&job).await.len(), stopped);
    jobs.world.metrics_say(&hub, "retry_jobs_running 0").await;
    let shown = jobs.job(&job).await;
    assert_eq!(
        json!([shown["state"], shown["ordered"]["by"]]),
        json!(["stopped", "night@shift"]),
        "{shown}"
    );

    jobs.command(&["jobs", "resume", &job, "--rate", "1000"])
        .await
        .expect_success();
    let done = jobs
        .command(&["jobs", "show", &job, "--wait", "--json"])
        .await
        .expect_success();
    let done: Value = serde_json::from_str(&done.stdout).unwrap();
    let none = json!({ "requested": letters, "alreadyRetried": 0, "menusLeftOut": 0, "failed": 0 });
    assert_eq!(json!([done["state"], done["counts"]]), json!(["done", none]));
    jobs.world.hand_out_again_within(PATIENCE * 10).await;
    let ends = Ends::forwarded(letters * 2).dead_lettered(letters);
    jobs.world.at_end_within(PATIENCE * 10, ends).await;

    let events = jobs.world.log.events().await;
    for (job, code) in [(&job, "BACKEND_422"), (&other, "BACKEND_400")] {
        each_once_and_in_order(&events, &jobs.requests(job).await, code);
    }
    // At the backend: of each order the creation, then its news.
    let mut orders: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for request in &jobs.world.backend.requests()[refused_at..] {
        let creates = request.path == ORDERS;
        let came = orders.entry(request.external_order_id()).or_default();
        // A request that the crash cut off is repeated.
        if came.last() != Some(&creates) {
            came.push(creates);
        }
    }
    assert_eq!(orders.len(), letters);
    assert!(orders.values().all(|came| *came == [true, false]), "{orders:?}");
    let acts = run(&jobs.operator, &["operator", "audit", "--json"])
        .await
        .expect_success();
    let acts: Value = serde_json::from_str(&acts.stdout).unwrap();
    let kinds: Vec<_> = acts["acts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|act| act["kind"].clone())
        .collect();
    assert_eq!(kinds, ["start-job", "stop-job", "start-job", "resume-job"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cause_is_retried_as_a_job() {
    retried_by_filter(24).await;
}

mod long {
    /// 10,000 letters.
    #[tokio::test(flavor = "multi_thread")]
    async fn one_cause_of_ten_thousand_letters() {
        super::retried_by_filter(1667).await;
    }
}
