//! Away for longer than every window, with traffic and without: in the morning every order is forwarded, in order, within
//! seconds, and no gauge is left behind.
//!
//! Constants that only show after minutes are shortened: those of the hub by `HUB_TEST_TIMES`, those of the streams and
//! consumers on the server. [`NIGHT`] is longer than each of them.

use std::time::Duration;

use async_nats::jetstream::consumer::{self, FromConsumer};
use futures_util::{TryStreamExt as _, future::join_all};
use tokio::time::{Instant, sleep};
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    hub::{Hub, Settings},
    ids,
    port::Port,
    wait::{PATIENCE, eventually},
};

/// How long each night is.
const NIGHT: Duration = Duration::from_secs(9);
/// Every window of the hub that is longer than a night, shortened. The lease (4 s) is not: renewed every 0.8 s it is to hold on a
/// busy machine.
const TIMES: &str = "branch_refresh=1s,token_lifetime=1s,ended_lane=1s";
/// The log's duplicate window, the wait for an acknowledgement, the age of keys. Longer than the pause before a provider's
/// repeat, as in production.
const WINDOW: Duration = Duration::from_secs(4);
/// Pause between two orders of the night's traffic.
const PACE: Duration = Duration::from_millis(100);
/// Within this all is well again: the breaker's pause, a retry's delay, and five seconds until a lane is taken up; the rest is
/// for a busy machine.
const MORNING: Duration = Duration::from_secs(30);

/// What is away during a night.
#[derive(Debug, Clone, Copy)]
enum Away {
    Backend,
    Database,
    Log,
}

impl World {
    /// The streams' and consumers' windows become short. The hubs have looked at them before.
    async fn short_windows(&self, hubs: &[Hub]) {
        for hub in hubs {
            hub.says("\"serving\"").await;
        }
        let provision = self.nats.provision().await;
        for (stream, is_log) in [("EVENTS", true), ("KEYS", false)] {
            let stream = provision.get_stream(stream).await.unwrap();
            let mut config = stream.cached_info().config.clone();
            config.duplicate_window = WINDOW;
            if !is_log {
                config.max_age = WINDOW;
            }
            provision.update_stream(config).await.unwrap();
        }
        let log = provision.get_stream("EVENTS").await.unwrap();
        let consumers: Vec<consumer::Info> = log.consumers().try_collect().await.unwrap();
        for info in consumers
            .into_iter()
            .filter(|info| info.config.ack_policy != consumer::AckPolicy::None)
        {
            let config = consumer::Config {
                ack_wait: WINDOW,
                ..info.config
            };
            let config = consumer::pull::Config::try_from_consumer_config(config).unwrap();
            log.update_consumer(config).await.unwrap();
        }
    }

    async fn goes(&self, away: Away) {
        match away {
            Away::Backend => self.backend.close().await,
            Away::Database => self.cluster.server.stop().await.unwrap(),
            Away::Log => self.nats.server.kill().await.unwrap(),
        }
    }

    async fn comes_back(&self, away: Away) {
        match away {
            Away::Backend => self.backend.open(),
            Away::Database => self.cluster.server.restart().await.unwrap(),
            Away::Log => self.nats.server.restart().await.unwrap(),
        }
    }

    /// Parks some orders, with news behind each of them.
    pub(crate) async fn parks(&self, urls: &[String], orders: &[String]) {
        let wait = Answer::Say(503, String::new(), vec![("retry-after", "11".into())]);
        for id in orders {
            self.backend.next_for(id, [wait.clone()]);
            self.careem.deliver_to_any(urls, 0, &order(id)).await;
        }
        eventually("they are parked", PATIENCE, async || {
            let lanes = self.lanes().await;
            if lanes.len() >= orders.len() {
                Ok(())
            } else {
                Err(lanes)
            }
        })
        .await;
        for id in orders {
            self.careem.deliver_to_any(urls, 1, &change(id, "ready")).await;
        }
        // Nothing is on its way any more when the night begins.
        eventually("the news wait behind their orders", PATIENCE, async || {
            let lanes = self.lanes().await;
            let waiting = lanes
                .iter()
                .filter(|lane| lane["waiting"].as_array().is_some_and(|waiting| !waiting.is_empty()));
            if waiting.count() >= orders.len() {
                Ok(())
            } else {
                Err(lanes)
            }
        })
        .await;
    }

    /// No gauge of any hub tells of something that is not there any more.
    async fn no_gauge_is_left(&self, hubs: &[Hub]) {
        for hub in hubs {
            eventually("no gauge is left behind", MORNING, async || {
                let metrics = self.metrics(hub).await;
                let left = metrics.lines().filter(|line| {
                    let is_count = line.starts_with("retries_parked{") || line.starts_with("stage_pending{");
                    let value = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
                    let limit = if is_count { 0.0 } else { NIGHT.as_secs_f64() / 2.0 };
                    (is_count || line.starts_with("stage_lag_seconds{")) && value.is_none_or(|value| value > limit)
                });
                let left: Vec<_> = left.map(str::to_owned).collect();
                if left.is_empty() { Ok(()) } else { Err(left) }
            })
            .await;
        }
    }
}

/// Orders, each with news that follow it, until morning; how many webhooks were accepted.
async fn traffic(world: &World, urls: &[String], name: &str, until: Instant) -> usize {
    let mut posting = Vec::new();
    for number in 0.. {
        if Instant::now() >= until {
            break;
        }
        let id = format!("CR-{name}-{number}");
        // Each of them is delivered when the log is there again, so none of them is waited for here.
        posting.push(async move {
            world.careem.deliver_to_any(urls, number, &order(&id)).await;
            world
                .careem
                .deliver_to_any(urls, number + 1, &change(&id, "ready"))
                .await;
        });
        sleep(PACE).await;
    }
    2 * join_all(posting).await.len()
}

async fn night(world: &World, hubs: &[Hub], away: Away, with_traffic: bool) -> usize {
    let urls: Vec<_> = hubs.iter().map(Hub::url).collect();
    let name = format!("{away:?}-{with_traffic}");
    let parked = ids(&format!("{name}-parked"), 3);
    world.parks(&urls, &parked).await;
    world.goes(away).await;
    let morning = Instant::now() + NIGHT;
    let orders = if with_traffic {
        let back = async {
            tokio::time::sleep_until(morning).await;
            world.comes_back(away).await;
        };
        let ((), orders) = tokio::join!(back, traffic(world, &urls, &name, morning));
        orders
    } else {
        tokio::time::sleep_until(morning).await;
        world.comes_back(away).await;
        0
    };
    2 * parked.len() + orders
}

#[tokio::test(flavor = "multi_thread")]
async fn backend_and_database_are_away_for_longer_than_every_window() {
    nights(&[Away::Backend, Away::Database]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_away_for_longer_than_every_window() {
    nights(&[Away::Log]).await;
}

async fn nights(kinds: &[Away]) {
    let world = World::with_own_postgres().await;
    let ports = [Port::reserve(), Port::reserve()];
    let settings = ports.each_ref().map(|port| {
        let settings = world.settings().set("PORT", port.number());
        settings
            .set("HUB_TEST_TIMES", TIMES)
            .set("RETRY_DELAYS", "1s")
            .set("RETRY_MAX_ATTEMPTS", 100)
    });
    let hubs = [Hub::start(&settings[0]).await, Hub::start(&settings[1]).await];
    world.short_windows(&hubs).await;
    let mut accepted = 0;
    for &away in kinds {
        for with_traffic in [false, true] {
            accepted += night(&world, &hubs, away, with_traffic).await;
            let came_back = Instant::now();
            world.log.settled_within(MORNING).await;
            let took = came_back.elapsed();
            eprintln!("{away:?}, traffic: {with_traffic}: all was forwarded {took:?} later");
            world.at_end_within(MORNING, Ends::forwarded(accepted)).await;
            // One more, so that the gauges tell of the morning.
            world
                .post_orders(&hubs[0], [format!("CR-{away:?}-{with_traffic}-morning")])
                .await;
            accepted += 1;
            world.at_end_within(MORNING, Ends::forwarded(accepted)).await;
            world.no_gauge_is_left(&hubs).await;
        }
    }
}

/// `make outage`: the backend is away for a quarter of an hour, with the real constants. `HUB_OUTAGE` says for how long.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_with_the_real_constants() {
    let Ok(away) = std::env::var("HUB_OUTAGE") else { return };
    let away = webhook_hub::text::parse_duration(&away).expect("HUB_OUTAGE: a duration");
    // The longest pause that an attempt of a half-open breaker may have asked for, and what lengthens it.
    const LONGEST_PAUSE: Duration = Duration::from_secs(20 * 60);
    let world = World::new().await;
    let settings: Settings = world.settings().set("CIRCUIT_BREAKER_RESET_TIMEOUT", "30s");
    let hub = Hub::start(&settings).await;
    let urls = [hub.url()];
    // These are parked before the breaker opens.
    world.parks(&urls, &ids("before", 5)).await;
    world.backend.close().await;
    let end = Instant::now() + away;
    let mut orders = 10;
    for number in 0.. {
        if Instant::now() >= end {
            break;
        }
        world
            .careem
            .deliver(&urls[0], &order(&format!("CR-outage-{number}")))
            .await;
        orders += 1;
        sleep(Duration::from_secs(10)).await;
    }
    world.backend.open();
    let came_back = Instant::now();
    world
        .breaker_becomes_within(&hub, "closed", Duration::from_secs(60))
        .await;
    // What is due is taken up within five seconds.
    let waited = eventually("no lane is due", Duration::from_secs(30), async || {
        let now = (chrono::Utc::now() - chrono::TimeDelta::seconds(5)).to_rfc3339();
        let mut lanes = world.lanes().await;
        lanes.retain(|lane| lane["dueAt"].as_str().is_none_or(|due| due < now.as_str()));
        if lanes.is_empty() {
            Ok(came_back.elapsed())
        } else {
            Err(lanes)
        }
    })
    .await;
    let forwarded = world.log.events().await;
    let forwarded = forwarded
        .iter()
        .filter(|event| event.envelope.event_type == EventType::OrderForwarded);
    eprintln!(
        "{waited:?} after the backend came back no order that was due was left; {} of {orders} forwarded, {} parked until later",
        forwarded.count(),
        world.lanes().await.len()
    );
    world.at_end_within(LONGEST_PAUSE, Ends::forwarded(orders)).await;
    world.metrics_say(&hub, "retries_parked{provider=\"careem\"} 0").await;
    eprintln!(
        "all were forwarded {:?} after the backend came back",
        came_back.elapsed()
    );
}
