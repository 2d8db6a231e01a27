//! `LANES` is lost, and the log that must be read to make the lanes again is long: orders that have none go on meanwhile, and
//! what waits comes back in its order.

use futures_util::StreamExt as _;
use serde_json::Value;
use webhook_hub::{event::EventType, journal::codec::OrderKey};

use crate::{
    harness::{
        World,
        at_end::Ends,
        backend::{Answer, ORDERS},
        careem::{change, order},
        hub::{Hub, Settings},
        ids,
        wait::{PATIENCE, eventually},
    },
    takeover::lease_says,
};

/// What a hub says when the log was read, and when every lane is there.
const READ: &str = "the log was read for lanes";
const WHOLE: &str = "LANES holds every order that waits";
/// What an older version says instead.
const MAY_LACK: &str = "LANES may lack orders that wait";

impl World {
    /// With a pause after each batch of the log that `forward` reads for its lanes: as if the log were so much longer.
    fn reads_slowly(&self, pause: &str) -> Settings {
        let settings = self.settings().set("CIRCUIT_BREAKER_ENABLED", false);
        settings.set("HUB_TEST_TIMES", format!("forward_rebuild_pause={pause}"))
    }

    async fn lanes_are_lost(&self) {
        let provision = self.nats.provision().await;
        let lanes = provision.get_stream("LANES").await.unwrap();
        lanes.purge().await.unwrap();
    }

    fn paths_of(&self, order: &str) -> Vec<String> {
        let requests = self.backend.requests().into_iter();
        let of_order = requests.filter(|request| request.external_order_id() == order);
        of_order.map(|request| request.path).collect()
    }
}

fn is_by_forward(hub: &Hub, text: &str) -> bool {
    hub.log()
        .lines()
        .any(|line| line.contains(text) && line.contains("\"forward\""))
}

/// Orders wait, each with news behind it, and `LANES` is lost while no hub runs.
async fn lost_with_parked(world: &World, orders: &[String]) {
    let hub = Hub::start(&world.reads_slowly("0s")).await;
    world.post_orders(&hub, ["CR-before".to_owned()]).await;
    world.parks(&[hub.url()], orders).await;
    assert!(hub.terminate().await.0.success());
    world.lanes_are_lost().await;
}

/// What is new goes to the backend while the log is read; news of what waits wait as well, and none is acknowledged unread.
#[tokio::test(flavor = "multi_thread")]
async fn new_orders_go_on_while_the_log_is_read() {
    let world = World::new().await;
    let orders = ids("again", 3);
    lost_with_parked(&world, &orders).await;
    let asked = world.backend.count();
    let hub = Hub::start(&world.reads_slowly("4s")).await;
    world.post_orders(&hub, ids("new", 5)).await;
    // Of an order that the backend has, of a new one, and of one that waits.
    for id in ["CR-before", "CR-new-0", "CR-again-0"] {
        world.careem.post(&hub, &change(id, "preparing")).await.event_id();
    }
    world.backend.wait_for(asked + 7).await;
    assert!(
        !is_by_forward(&hub, READ),
        "seven went while the log was read: {}",
        hub.log()
    );
    assert_eq!(world.paths_of("CR-again-0"), [ORDERS], "it waits");
    hub.says(WHOLE).await;
    world.at_end(Ends::forwarded(1 + 6 + 5 + 3)).await;
    world.has_parked(0).await;
    let status = |order: &str| format!("{ORDERS}/{order}/status");
    for id in &orders {
        let mut expected = vec![ORDERS.to_owned(), ORDERS.to_owned(), status(id)];
        if id == "CR-again-0" {
            expected.push(status(id));
        }
        assert_eq!(world.paths_of(id), expected, "{id}");
    }
    assert_eq!(world.backend.count(), asked + 7 + 7, "nothing is asked about twice");
    world.metrics_say(&hub, "retries_parked{provider=\"careem\"} 0").await;
}

/// News came before their orders, which come while the lanes are made again. One lane of news is there, and one is lost. Each lets
/// its order pass as soon as it is found that the news wait for it still.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_comes_meanwhile_passes_its_news() {
    let world = World::new().await;
    let settings = world.reads_slowly("4s");
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ["CR-before".to_owned()]).await;
    let orders = ["CR-kept", "CR-lost"];
    for id in orders {
        world.backend.always_for(id, Some(Answer::status(404)));
        world.careem.post(&hub, &change(id, "cancelled")).await.event_id();
    }
    world.has_parked(2).await;
    assert!(hub.terminate().await.0.success());
    let lanes = world.nats.provision().await.get_stream("LANES").await.unwrap();
    let lost = format!("lane.*.{}", OrderKey::new("careem", "CR-lost"));
    lanes.purge().filter(lost).await.unwrap();
    let asked = orders.map(|id| world.paths_of(id).len());
    for id in orders {
        world.backend.always_for(id, None);
        world.backend.next_for(id, [Answer::status(404)]);
    }

    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, orders.map(str::to_owned)).await;
    eventually("both orders joined lanes", PATIENCE, async || {
        let lanes = world.lanes().await;
        let waiting = |lane: &Value| lane["waiting"].as_array().map_or(0, Vec::len);
        let joined: usize = lanes.iter().map(waiting).sum();
        if (lanes.len(), joined) == (2, 1) {
            Ok(())
        } else {
            Err(lanes)
        }
    })
    .await;
    assert!(!is_by_forward(&hub, READ), "the log is still read: {}", hub.log());
    world.at_end(Ends::forwarded(1 + 2 + 2)).await;
    for (id, asked) in orders.into_iter().zip(asked) {
        let news = &*format!("{ORDERS}/{id}/status");
        assert_eq!(world.paths_of(id)[asked..], [news, ORDERS, news], "{id}");
    }
    world.has_parked(0).await;
}

/// An older version takes over when `LANES` is lost, and cannot read what waits. It does not say that the lanes are whole, so the
/// next instance that can read it makes the lanes.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_does_not_mark_them_complete() {
    let world = World::new().await;
    let settings = world.reads_slowly("0s");
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ["CR-before".to_owned()]).await;
    let orders = ids("unread", 2);
    for id in &orders {
        world.backend.always_for(id, Some(Answer::status(404)));
        world.careem.post(&hub, &change(id, "cancelled")).await.event_id();
    }
    world.has_parked(2).await;
    assert!(hub.terminate().await.0.success());
    world.lanes_are_lost().await;

    let unknown = EventType::OrderTransformed;
    let older = Hub::start(&settings.clone().set("HUB_TEST_UNKNOWN_TYPES", unknown)).await;
    eventually("it has read the log", PATIENCE, async || {
        let has_read = is_by_forward(&older, WHOLE) || is_by_forward(&older, MAY_LACK);
        if has_read { Ok(()) } else { Err(older.log()) }
    })
    .await;
    let (says_whole, log) = (is_by_forward(&older, WHOLE), older.log());
    assert!(older.terminate().await.0.success());
    orders.iter().for_each(|id| world.backend.always_for(id, None));
    let asked = world.backend.count();

    let hub = Hub::start(&settings).await;
    world.at_end(Ends::forwarded(1 + 2)).await;
    assert!(is_by_forward(&hub, WHOLE), "{}", hub.log());
    assert!(!says_whole, "{log}");
    assert_eq!(world.backend.count(), asked + 2);
}

/// The instance that makes the lanes again dies in the middle of it, while it reads or while it writes: the next one finds that
/// they are not as they were left, and nothing is lost.
async fn it_dies(settings: Settings, by_itself: bool, world: &World, orders: &[String]) {
    let asked = world.backend.count();
    let mut hub = Hub::start(&settings).await;
    world
        .careem
        .post(&hub, &change(&orders[0], "preparing"))
        .await
        .event_id();
    if by_itself {
        hub.wait_exit(PATIENCE).await;
    } else {
        eventually("its news wait", PATIENCE, async || {
            let lanes = world.lanes().await;
            if lanes.is_empty() { Err(lanes) } else { Ok(()) }
        })
        .await;
        let last = world.log.events().await.last().unwrap().sequence;
        lease_says(world, "known", last).await;
        hub.kill().await;
    }
    let hub = Hub::start(&world.reads_slowly("0s")).await;
    hub.says(WHOLE).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(1 + 2 * orders.len() + 1)).await;
    for id in orders {
        let paths = world.paths_of(id);
        let status = format!("{ORDERS}/{id}/status");
        assert_eq!(&paths[..3], [ORDERS, ORDERS, &status], "{id}");
    }
    assert_eq!(world.backend.count(), asked + 2 * orders.len() + 1);
}

/// What an instance says that it read when it took the stage `forward` over, of the lanes: how many, and by how many requests.
async fn lanes_read(hub: &Hub) -> (u64, u64) {
    let line = eventually("it read the lanes", PATIENCE, async || {
        let log = hub.log();
        let line = log
            .lines()
            .find(|line| line.contains("\"stage taken over") && line.contains("\"stage\":\"forward\""));
        line.map(str::to_owned).ok_or(log)
    })
    .await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let number = |name: &str| line["metadata"][name].as_u64().unwrap();
    (number("parked"), number("lane_requests"))
}

/// One consumer reads them, whoever else has a request waiting there; without it, direct gets do.
#[tokio::test(flavor = "multi_thread")]
async fn lanes_are_read_by_a_consumer_that_is_reset() {
    let world = World::new().await;
    let settings = world.settings().set("CIRCUIT_BREAKER_ENABLED", false);
    let wait = Answer::Say(503, String::new(), vec![("retry-after", "60".into())]);
    let orders = ids("waits", 12);
    for id in &orders {
        world.backend.next_for(id, [wait.clone()]);
    }
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, orders.clone()).await;
    world.has_parked(12).await;
    assert!(hub.terminate().await.0.success());

    // An instance that was replaced and does not know it has read all lanes, and waits for more.
    let other = world.nats.connect("hub").await;
    let next = "$JS.API.CONSUMER.MSG.NEXT.LANES.read-forward";
    let inbox = other.new_inbox();
    let mut read = other.subscribe(inbox.clone()).await.unwrap();
    let pull = r#"{"batch":100,"no_wait":true}"#;
    other
        .publish_with_reply(next, inbox.clone(), pull.into())
        .await
        .unwrap();
    while read.next().await.unwrap().status.is_none() {}
    let pull = r#"{"batch":5,"expires":60000000000}"#;
    other.publish_with_reply(next, inbox, pull.into()).await.unwrap();
    other.flush().await.unwrap();
    let hub = Hub::start(&settings).await;
    let (parked, requests) = lanes_read(&hub).await;
    assert!(parked == 12 && (3..=6).contains(&requests), "{parked} by {requests}");
    assert!(hub.terminate().await.0.success());
    let hub = Hub::start(&settings).await;
    assert_eq!(lanes_read(&hub).await, (12, 2), "it sets back, and pulls once");
    assert!(hub.terminate().await.0.success());

    let provision = world.nats.provision().await;
    let lanes = provision.get_stream("LANES").await.unwrap();
    lanes.delete_consumer("read-forward").await.unwrap();
    let hub = Hub::start(&settings).await;
    assert_eq!(lanes_read(&hub).await, (12, 2), "it cannot set back, and gets");
    hub.says("lanes are read by direct gets").await;
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_hub_dies_while_it_reads() {
        let world = World::new().await;
        let orders = ids("again", 2);
        lost_with_parked(&world, &orders).await;
        it_dies(world.reads_slowly("20s"), false, &world, &orders).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_hub_dies_while_it_writes() {
        let world = World::new().await;
        let orders = ids("again", 3);
        lost_with_parked(&world, &orders).await;
        let crashes = world
            .reads_slowly("1s")
            .set("HUB_TEST_CRASH_AT", "forward/after_mend:2");
        it_dies(crashes, true, &world, &orders).await;
    }
}

/// The backend cannot handle yesterday's order, which waits for long, and `LANES` is lost. Today's order with its number comes while the log
/// is read. It does not wait for that time.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_used_again_while_the_lanes_are_made_again() {
    let world = World::new().await;
    let settings = |pause| world.reads_slowly(pause).set("RETRY_DELAYS", "1h");
    let hub = Hub::start(&settings("0s")).await;
    let away = Answer::Say(503, String::new(), vec![("retry-after", "3600".into())]);
    world.backend.next_for("CR-1", [away.clone(), away]);
    world
        .post_orders(&hub, ["CR-before".to_owned(), "CR-1".to_owned()])
        .await;
    world.has_parked(1).await;
    assert!(hub.terminate().await.0.success());
    world.lanes_are_lost().await;
    let hub = Hub::start(&settings("4s")).await;
    let another_day = order("CR-1").replace("2025-10-01T12:00:00Z", "2025-10-04T12:00:00Z");
    world.careem.post(&hub, &another_day).await.event_id();
    world.has_parked(1).await;
    assert!(!is_by_forward(&hub, READ), "the log is still read: {}", hub.log());
    world.at_end(Ends::forwarded(2).dead_lettered(1)).await;
    world.has_parked(0).await;
}
