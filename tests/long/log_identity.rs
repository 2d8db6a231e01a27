//! The log goes back to an older copy, is another one or an empty one, and so do the tables, in every combination: what is
//! answered 200 is on the log, what is on the log is handled and has its row, and no row of before is lost.

mod forgotten;
mod observed;
mod shown;
mod upgraded;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use async_nats::jetstream::stream;
use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    backend::Answer,
    careem::{change, order},
    copies::{StoreCopy, StreamCopy},
    hub::{Hub, run},
    ids,
    log::Log,
    outside::{CAREEM_POS, Outside, send},
    proxy::Proxy,
    wait::{PATIENCE, eventually},
};

/// What NATS has after the disaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Events {
    /// What it had before the last orders came.
    Older,
    Newer,
    /// The same stream, without a message.
    Empty,
    /// A stream that was made anew.
    Another,
}

/// What PostgreSQL has after the disaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tables {
    Older,
    Newer,
    Empty,
}

/// Orders that both copies have, and those that only the newer one has.
const KEPT: usize = 2;
const LOST: usize = 4;
/// Orders that come afterwards: with what is sent again, more events than the tables had.
const NEW: usize = 5;

/// Copies of both servers, and how they come back.
struct Disaster {
    world: World,
    events: BTreeMap<Events, StoreCopy>,
    tables: BTreeMap<Tables, String>,
    /// The cursor is as a version before this one left it: it does not say of which log it is.
    is_without_marks: bool,
}

impl Disaster {
    async fn prepare() -> Self {
        let world = World::new().await;
        let mut disaster = Self {
            world,
            events: BTreeMap::new(),
            tables: BTreeMap::new(),
            is_without_marks: false,
        };
        disaster.keep(Events::Empty, Some(Tables::Empty)).await;
        let server = &disaster.world.nats.server;
        server.stop().await.unwrap();
        StoreCopy::nothing().put_back(server.dir());
        server.restart().await.unwrap();
        let provision = disaster.world.nats.settings("provision").set("PARTITIONS", 8);
        run(&provision, &["streams", "apply"]).await.expect_success();
        disaster.keep(Events::Another, None).await;
        disaster.put_back(Events::Empty, None).await;
        for (name, count, events, tables) in [
            ("kept", KEPT, Events::Older, Tables::Older),
            ("lost", LOST, Events::Newer, Tables::Newer),
        ] {
            let hub = disaster.world.hub().await;
            disaster.world.post_orders(&hub, ids(name, count)).await;
            let events_now = disaster.world.log.settled().await;
            disaster.world.tables_agree(&events_now, PATIENCE).await;
            assert!(hub.terminate().await.0.success());
            disaster.keep(events, Some(tables)).await;
        }
        disaster
    }

    /// Copies what there is now.
    async fn keep(&mut self, events: Events, tables: Option<Tables>) {
        let server = &self.world.nats.server;
        server.stop().await.unwrap();
        self.events.insert(events, StoreCopy::of(server.dir()));
        server.restart().await.unwrap();
        if let Some(tables) = tables {
            self.world.database.disconnect().await;
            let name = self.world.database.name();
            let copy = format!("{name}_{}", self.tables.len());
            eventually("the database is copied", PATIENCE, async || {
                self.world.cluster.server.create_database(&copy, Some(name)).await
            })
            .await;
            self.tables.insert(tables, copy);
        }
    }

    /// Brings copies back, under whatever runs.
    async fn put_back(&mut self, events: Events, tables: Option<Tables>) {
        let server = &self.world.nats.server;
        server.stop().await.unwrap();
        self.events[&events].put_back(server.dir());
        if let Some(tables) = tables {
            self.world.database.disconnect().await;
            let name = self.world.database.name();
            let postgres = &self.world.cluster.server;
            postgres.drop_database(name).await.unwrap();
            postgres
                .create_database(name, Some(&self.tables[&tables]))
                .await
                .unwrap();
        }
        server.restart().await.unwrap();
        self.world.log = Log::open(&self.world.nats).await;
    }

    /// The rows of webhooks: their orders and status.
    async fn rows(&self) -> Result<BTreeMap<String, (String, String)>, String> {
        let query = "SELECT id, external_order_id, status FROM webhook_logs";
        let rows = self
            .world
            .database
            .rows(query)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        Ok(rows
            .iter()
            .map(|row| (text(row, "id"), (text(row, "external_order_id"), text(row, "status"))))
            .collect())
    }

    /// Bytes until the log is full: a hub that knows this has looked at the log since.
    async fn bytes_left(&self) -> i64 {
        let provision = self.world.nats.provision().await;
        let stream = provision.get_stream("EVENTS").await.unwrap();
        let info = stream.cached_info();
        info.config.max_bytes - i64::try_from(info.state.bytes).unwrap()
    }

    /// One combination, with a hub that runs meanwhile or one that starts afterwards.
    async fn survives(&mut self, events: Events, tables: Tables, is_running: bool) {
        let name = format!("{events:?}-{tables:?}-{is_running}-{}", self.is_without_marks);
        let hub = if is_running {
            self.put_back(Events::Newer, Some(Tables::Newer)).await;
            let quick = "look_at_identity=50ms,loss_every=50ms";
            let hub = Hub::start(&self.world.settings().set("HUB_TEST_TIMES", quick)).await;
            // It works on all stages, and has something to remember.
            self.world.post_orders(&hub, ids(&format!("warm-{name}"), 1)).await;
            let events_now = self.world.log.settled().await;
            let left = self.bytes_left().await;
            self.world
                .metrics_has(&hub, &format!("log_left_bytes {left}"), &name)
                .await;
            self.world.tables_agree(&events_now, PATIENCE).await;
            self.put_back(events, Some(tables)).await;
            hub
        } else {
            self.put_back(events, Some(tables)).await;
            if self.is_without_marks {
                self.world
                    .database
                    .run("UPDATE hub.cursors SET log = NULL")
                    .await
                    .unwrap();
            }
            if tables == Tables::Newer {
                // An event that had no row yet.
                let skipped = "INSERT INTO hub.skipped_events (sequence, reason) VALUES (1, 'test')";
                self.world.database.run(skipped).await.unwrap();
            }
            let hub = self.world.hub().await;
            if self.is_without_marks {
                // Such a cursor is known to be of another log only as long as the log ends before it.
                hub.says("the tables go on from the common point").await;
            }
            hub
        };
        let rows_before = eventually("the rows are read", PATIENCE, async || self.rows().await).await;
        let mut answered = BTreeSet::new();
        // What the provider has is sent again, and more comes.
        let warm = if is_running {
            ids(&format!("warm-{name}"), 1)
        } else {
            Vec::new()
        };
        for id in warm
            .into_iter()
            .chain(ids("lost", LOST))
            .chain(ids(&format!("new-{name}"), NEW))
        {
            answered.insert(self.world.careem.deliver(&hub.url(), &order(&id)).await);
        }
        let log = self.world.log.settled().await;
        let received: BTreeSet<String> = log
            .iter()
            .filter(|event| event.envelope.event_type == EventType::WebhookReceived)
            .map(|event| event.envelope.id.to_string())
            .collect();
        let vanished: Vec<_> = answered.difference(&received).collect();
        assert!(
            vanished.is_empty(),
            "{name}: answered 200 and not on the log: {vanished:?}"
        );
        let asked: BTreeSet<_> = self
            .world
            .backend
            .requests()
            .iter()
            .map(|one| one.external_order_id())
            .collect();
        for id in ids(&format!("new-{name}"), NEW) {
            assert!(asked.contains(&id), "{name}: {id} was never forwarded");
        }
        eventually(
            &format!("{name}: every webhook on the log has its row"),
            PATIENCE,
            async || {
                let rows = self.rows().await?;
                let missing: Vec<_> = received
                    .iter()
                    .filter(|id| rows.get(*id).is_none_or(|(_, status)| status != "completed"))
                    .collect();
                let lost: Vec<_> = rows_before.keys().filter(|id| !rows.contains_key(*id)).collect();
                if missing.is_empty() && lost.is_empty() {
                    Ok(())
                } else {
                    Err(format!(
                        "{} of {} have none: {missing:?}; gone: {lost:?}",
                        missing.len(),
                        received.len()
                    ))
                }
            },
        )
        .await;
        // What was there before and is on no log any more stays as it was.
        for (id, before) in &rows_before {
            if !received.contains(id) {
                assert_eq!(&self.rows().await.unwrap()[id], before, "{name}");
            }
        }
        if tables == Tables::Empty || events == Events::Newer && !is_running {
            self.world.tables_agree(&log, PATIENCE).await;
        }
        self.is_told(&hub, events, tables, is_running, &name).await;
        assert!(hub.terminate().await.0.success());
    }

    /// What was found is in the log, in the metrics and in health.
    async fn is_told(&self, hub: &Hub, events: Events, tables: Tables, is_running: bool, name: &str) {
        let tables_differ = match (events, tables) {
            (_, Tables::Empty) | (Events::Newer, _) | (Events::Older, Tables::Older) => false,
            (Events::Older, Tables::Newer) | (Events::Empty | Events::Another, _) => true,
        };
        if tables_differ {
            self.world
                .metrics_has(hub, "log_identity_changes_total{by=\"tables\"} 1", name)
                .await;
            hub.says("the tables go on from the common point").await;
            let eras = self
                .world
                .database
                .rows("SELECT era FROM hub.log_eras ORDER BY era")
                .await
                .unwrap();
            assert_eq!(eras.len(), 1, "{name}: {eras:?}");
            let skipped = self
                .world
                .database
                .rows("SELECT era, sequence FROM hub.lost_skipped_events")
                .await
                .unwrap();
            let has_no_common_point = events != Events::Older || self.is_without_marks;
            if tables == Tables::Newer && has_no_common_point && !is_running {
                assert_eq!(
                    skipped,
                    [json!({ "era": 0, "sequence": 1 })],
                    "{name}: it is not tried again on another log"
                );
            } else {
                assert_eq!(skipped, Vec::<Value>::new(), "{name}");
            }
        }
        if is_running {
            self.world
                .metrics_has(hub, "log_identity_changes_total{by=\"hub\"} 1", name)
                .await;
        }
        if is_running || tables_differ {
            let url = format!("{}/health", hub.private_url());
            let health = self.world.careem.request(Method::GET, &url).await.json();
            let found = health["eventLog"]["identity"].clone();
            assert!(
                found["found"].as_str().is_some_and(|found| found.contains("event log")) && found["advice"].is_string(),
                "{name}: {health}"
            );
        }
    }
}

impl World {
    async fn metrics_has(&self, hub: &Hub, line: &str, name: &str) {
        eventually(&format!("{name}: the metrics say {line}"), PATIENCE, async || {
            let metrics = self.metrics(hub).await;
            if metrics.lines().any(|one| one == line) {
                Ok(())
            } else {
                Err(metrics)
            }
        })
        .await;
    }
}

async fn all_combinations(is_running: bool, all: &[Events]) -> Disaster {
    let mut disaster = Disaster::prepare().await;
    for events in all {
        for tables in [Tables::Older, Tables::Newer, Tables::Empty] {
            disaster.survives(*events, tables, is_running).await;
        }
    }
    disaster
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_come_back_while_no_hub_runs() {
    let mut disaster = all_combinations(false, &[Events::Older, Events::Newer]).await;
    disaster.is_without_marks = true;
    disaster.survives(Events::Older, Tables::Newer, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_lost_while_no_hub_runs() {
    all_combinations(false, &[Events::Empty, Events::Another]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_come_back_under_a_running_hub() {
    all_combinations(true, &[Events::Older, Events::Newer]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_lost_under_a_running_hub() {
    all_combinations(true, &[Events::Empty, Events::Another]).await;
}

/// A lane names events by their places on the log. Where other orders stand there now, it is about nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_whose_event_is_lost_is_about_no_other_order() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("kept", 2)).await;
    world.log.settled().await;
    let copied = copy_of_events(&world).await;
    let wait = Answer::Say(503, String::new(), vec![("retry-after", "11".into())]);
    world.backend.next_for("CR-parked-0", [wait]);
    world.post_orders_to(&hub.url(), ids("parked", 1)).await;
    world.has_parked(1).await;
    put_back(&world, &copied).await;
    world.post_orders_to(&hub.url(), ids("new", 4)).await;
    world.backend.wait_for(7).await;
    world.has_parked(0).await;
    let requests = world.backend.requests();
    for id in ids("new", 4) {
        let of_it = requests.iter().filter(|one| one.external_order_id() == id).count();
        assert_eq!(of_it, 1, "requests for {id}");
    }
    hub.says("lanes name events that are not on this log").await;
}

/// The backend's idempotency keys are in a stream of their own: a key with a lost event swallows no request.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_event_is_lost_is_not_known() {
    let outside = Outside::new(CAREEM_POS).await;
    let (world, hub) = (&outside.world, outside.hub().await);
    let copied = copy_of_events(world).await;
    let ready = || {
        send(
            &hub,
            Method::POST,
            "orders/careem/CR-1/status",
            r#"{"status":"ready"}"#,
            &[("idempotency-key", "k-1")],
        )
    };
    let is_duplicate = async || {
        eventually("the request is accepted", PATIENCE, async || {
            let answer = ready().await;
            if answer.status == 202 {
                Ok(answer.json()["data"]["duplicate"].clone())
            } else {
                Err(answer)
            }
        })
        .await
    };
    assert_eq!(is_duplicate().await, false);
    assert_eq!(is_duplicate().await, true);
    put_back(world, &copied).await;
    assert_eq!(is_duplicate().await, false, "it is on no log any more");
    let log = Log::open(&world.nats).await;
    log.wait_for(EventType::OrderStatusRequested, 1).await;
}

async fn copy_of_events(world: &World) -> StreamCopy {
    let server = &world.nats.server;
    server.stop().await.unwrap();
    let copied = StreamCopy::of(server.dir(), "EVENTS");
    server.restart().await.unwrap();
    copied
}

async fn put_back(world: &World, copied: &StreamCopy) {
    let server = &world.nats.server;
    server.stop().await.unwrap();
    copied.put_back();
    server.restart().await.unwrap();
}
