//! Random events of numbers that mean one order or several, and random answers of the backend. In the end the backend is well, and everything ends.
//!
//! A seed draws the same events and answers again: `HUB_RANDOM_SEED`. Their order in time differs from run to run.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use webhook_hub::event::Recorded;

use super::{
    two_lanes::{corrected, of_another_day},
    wakes::waiting_settings,
    *,
};
use crate::harness::{World, backend::ORDERS, random::Random};

/// Numbers in a run.
const NUMBERS: usize = 24;
/// How long all may take to end: attempts are a second apart, and what the backend asked for is 12 s.
const ENDS_WITHIN: Duration = Duration::from_secs(150);

/// What a number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One order, by the platform's secret.
    Plain,
    /// One order, by the platform's secret and its branch's.
    TwoSecrets,
    /// An order of each branch, by the platform's secret.
    TwoBranches,
    /// Orders of two days, by both secrets.
    TwoDays,
    /// Orders of two days at two branches, by all secrets.
    All,
}

const KINDS: [Kind; 5] = [
    Kind::Plain,
    Kind::TwoSecrets,
    Kind::TwoBranches,
    Kind::TwoDays,
    Kind::All,
];

/// One webhook: its secret, its branch, its body, and the pause after it.
type Step = (Who, Who, String, Duration);

/// What is sent about a number.
fn steps(id: &str, kind: Kind, random: &mut Random) -> Vec<Step> {
    let branch_of = |random: &mut Random| match kind {
        Kind::TwoBranches | Kind::All if random.percent(50) => A,
        _ => B,
    };
    let count = 6 + random.below(8);
    let step = |number| {
        let branch = branch_of(random);
        let is_by_branch = !matches!(kind, Kind::Plain | Kind::TwoBranches) && random.percent(50);
        let is_another_day = matches!(kind, Kind::TwoDays | Kind::All) && random.percent(50);
        let body = match random.below(9) {
            0..=3 if is_another_day => of_another_day(id),
            0..=2 => order(id),
            3 | 4 => corrected(id),
            5 => change(id, "preparing"),
            6 => change(id, "ready"),
            7 => change(id, "picked_up"),
            _ => change(id, "cancelled"),
        };
        // The same bytes for two branches are one webhook, and so are the same bytes once more.
        let mut body: Value = serde_json::from_str(&body).unwrap();
        body["attempt"] = json!(format!("{}-{number}", branch.branch()));
        let by = if is_by_branch { branch } else { Platform };
        let pause = Duration::from_millis([0, 0, 50, 300, 1500][random.below(5)]);
        (by, branch, body.to_string(), pause)
    };
    (0..count).map(step).collect()
}

/// What the backend answers first about a number. An order that it took and then refused is not asked for: that is its own contradiction.
fn answers(random: &mut Random) -> Vec<Said> {
    let (takes_and_cuts, count) = (random.percent(50), random.below(14));
    let answer = |_| match random.below(12) {
        0 | 1 => Said::status(503),
        2 => Said::Say(503, String::new(), vec![("retry-after", "12".into())]),
        3 | 4 if takes_and_cuts => Said::Cut,
        3 | 4 => Said::status(422),
        5 => Said::Hang,
        6 if !takes_and_cuts => Said::status(404),
        _ => Said::Accept,
    };
    (0..count).map(answer).collect()
}

/// News that were told before an order of their branch that came before them, and orders that were created twice. The backend may have refused an order and
/// take its news: those count as told of the next one.
fn wrong(world: &World, events: &[std::sync::Arc<Recorded>], id: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for branch in [A, B] {
        let outcomes = events.iter().filter(|event| {
            let envelope = &event.envelope;
            envelope.event_type == EventType::OrderForwarded
                && envelope.external_order_id == id
                && envelope.branch.as_deref() == Some(branch.branch())
        });
        let mut last = 0;
        for outcome in outcomes {
            let (cause, payload) = (outcome.envelope.cause_sequence.unwrap_or_default(), payload(outcome));
            let is_created = outcome.envelope.is_creation() && payload["asNews"] != true;
            if !is_created {
                last = last.max(cause);
            } else if last > cause && payload["confirmedBy"].is_null() {
                wrong.push(format!("{id} {branch:?}: {last} before its order {cause}"));
            }
        }
    }
    let accepted: BTreeSet<_> = world.backend.accepted().into_iter().collect();
    let mut created: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for request in world.backend.requests() {
        let is_created = request.path == ORDERS && accepted.contains(request.key());
        if is_created && request.external_order_id() == id {
            let body = request.json();
            let order = &body["transformedOrder"];
            let what = format!("{id} {} {}", order["branchId"], order["placedAt"]);
            created.entry(what).or_default().insert(request.key().to_owned());
        }
    }
    let twice = created.into_iter().filter(|(_, keys)| keys.len() > 1);
    wrong.extend(twice.map(|(what, keys)| format!("{what}: created by {} keys", keys.len())));
    wrong
}

/// The lanes that are left, and what became of the events of their numbers.
async fn what_waits(world: &World) -> String {
    let (lanes, events) = (world.lanes().await, world.log.events().await);
    let at = |sequence: &Value| events.iter().find(|event| Some(event.sequence) == sequence.as_u64());
    let numbers: BTreeSet<_> = lanes
        .iter()
        .filter_map(|lane| at(&lane["head"]))
        .map(|head| &head.envelope.external_order_id)
        .collect();
    let mut text = format!("{lanes:#?}\n");
    for event in events
        .iter()
        .filter(|event| numbers.contains(&event.envelope.external_order_id))
    {
        let envelope = &event.envelope;
        let (kind, branch, by) = (&envelope.webhook_type, &envelope.branch, envelope.principal.branch());
        let cause = envelope.cause_sequence.unwrap_or_default();
        let (sequence, number, what) = (event.sequence, &envelope.external_order_id, envelope.event_type);
        text += &format!(
            "{sequence} {number} {what} of {cause}: {kind:?} {branch:?} by {by:?} at {}\n",
            envelope.time
        );
    }
    text
}

async fn run_with(seed: u64, is_restarted: bool) {
    eprintln!("seed {seed}");
    let outside = Outside::with_file("careem.toml", CAREEM).await;
    outside.world.database.run(BRANCHES).await.unwrap();
    let settings = waiting_settings(&outside)
        .set("BACKEND_TIMEOUT", "2s")
        .set("RETRY_DELAYS", "1s")
        .set("RETRY_MAX_ATTEMPTS", 60);
    let hub = Hub::start(&settings).await;
    let mut tenants = Tenants {
        outside,
        hub,
        posted: Vec::new(),
    };
    let mut plans = Vec::new();
    for number in 0..NUMBERS {
        let mut random = Random::labelled(seed, &number.to_string());
        let (id, kind) = (format!("CR-r{number}"), KINDS[number % KINDS.len()]);
        let backend = &tenants.outside.world.backend;
        backend.next_for(&id, answers(&mut random));
        backend.knows_not(&id);
        let steps = steps(&id, kind, &mut random);
        plans.push((id, kind, steps));
    }
    let before = tenants.outside.world.lane_writes().await;
    for part in 0..2 {
        let tenants_now = &tenants;
        let said = plans.iter().map(async |(_, _, steps)| {
            let (first, second) = steps.split_at(steps.len() / 2);
            for (by, branch, body, pause) in if part == 0 { first } else { second } {
                tenants_now.say(*by, *branch, body).await;
                tokio::time::sleep(*pause).await;
            }
        });
        join_all(said).await;
        if part == 0 && is_restarted {
            let next = Hub::start(&settings).await;
            let ended = std::mem::replace(&mut tenants.hub, next);
            match seed % 2 {
                0 => drop(ended.terminate().await),
                _ => ended.kill().await,
            }
        }
    }
    let world = &tenants.outside.world;
    let settled = AssertUnwindSafe(world.log.settled_within(ENDS_WITHIN))
        .catch_unwind()
        .await;
    let Ok(events) = settled else {
        panic!("seed {seed}: not everything has ended: {}", what_waits(world).await);
    };
    let mut found: Vec<_> = plans.iter().flat_map(|(id, ..)| wrong(world, &events, id)).collect();
    // Where a number means one order of each branch, none is given up for another.
    for dead in events
        .iter()
        .filter(|event| event.envelope.event_type == EventType::OrderDeadLettered)
    {
        let kind = plans
            .iter()
            .find(|(id, ..)| *id == dead.envelope.external_order_id)
            .unwrap()
            .1;
        let code = payload(dead)["error"]["code"].clone();
        if !matches!(kind, Kind::TwoDays | Kind::All) && (code == "NUMBER_USED_AGAIN" || code == "ANOTHER_ORDER") {
            found.push(format!("{kind:?} {}: {code}", dead.envelope.external_order_id));
        }
    }
    assert!(found.is_empty(), "seed {seed}: {found:#?}");
    let written = world.lane_writes().await - before;
    assert!(
        written < 6 * events.len() as u64,
        "seed {seed}: {written} writes of lanes for {} events",
        events.len()
    );
}

mod long {
    use super::*;

    fn seed(otherwise: u64) -> u64 {
        let given = std::env::var("HUB_RANDOM_SEED").ok();
        given.map_or(otherwise, |seed| seed.parse().expect("a number"))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_ends_whatever_a_number_means() {
        run_with(seed(1), false).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_ends_whatever_a_number_means_when_the_hub_is_killed() {
        run_with(seed(3) | 1, true).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_ends_whatever_a_number_means_in_a_rolling_restart() {
        run_with(seed(2) & !1, true).await;
    }
}
