//! What the tests share: real servers, the real binary, a provider and a backend that are played, and what must hold at
//! the end of every test.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::{
    HeaderMap,
    header::{NATS_EXPECTED_LAST_MESSAGE_ID, NATS_MESSAGE_ID},
    jetstream::{
        consumer::{self, FromConsumer},
        stream,
    },
};
use futures_util::TryStreamExt;
use reqwest::Method;
use serde_json::Value;

pub(crate) mod port;
pub(crate) mod wait;
pub(crate) mod random;
pub(crate) mod certificates;
pub(crate) mod raw;
pub(crate) mod servers;
pub(crate) mod nats_cluster;
pub(crate) mod hub;
pub(crate) mod terminal;
pub(crate) mod played;
pub(crate) mod backend;
pub(crate) mod platform;
pub(crate) mod outside;
pub(crate) mod proxy;
pub(crate) mod careem;
pub(crate) mod packed;
pub(crate) mod provider;
pub(crate) mod golden;
pub(crate) mod log;
pub(crate) mod written;
pub(crate) mod load;
pub(crate) mod at_end;
pub(crate) mod stale_copy;
pub(crate) mod tables;
pub(crate) mod order_rows;
pub(crate) mod copies;
pub(crate) mod disk;

use self::{
    backend::Backend,
    careem::Careem,
    hub::{Hub, Settings, run},
    log::Log,
    port::Port,
    servers::{Cluster, Database, Nats},
    wait::{PATIENCE, eventually},
};

/// Enough for orders to go side by side, few enough for a quick start.
pub(crate) const PARTITIONS: u16 = 8;
/// The token that authenticates the hub to the backend.
pub(crate) const SERVICE_TOKEN: &str = "service-token-of-the-tests";

/// Times (`HUB_TEST_TIMES`) by which a hub notices at once that it does not write the tables any more, and takes them back.
pub(crate) const QUICK_TAKEOVER: &str = "tables_renew=100ms,standby_poll=100ms";

/// All that surrounds a hub.
pub(crate) struct World {
    pub(crate) nats: Nats,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) database: Arc<Database>,
    pub(crate) backend: Backend,
    pub(crate) careem: Careem,
    pub(crate) log: Log,
    port: Port,
    /// What `verify` needs beside the URL to reach the tables, where a test has them elsewhere.
    tables_by: Mutex<Settings>,
}

impl World {
    /// With a database in the shared cluster.
    pub(crate) async fn new() -> Self {
        Self::on(Cluster::shared().await).await
    }

    /// With a PostgreSQL of its own, which the test may stop.
    pub(crate) async fn with_own_postgres() -> Self {
        Self::on(Arc::new(Cluster::start().await)).await
    }

    /// With a PostgreSQL of its own that looks every second for tables to vacuum.
    pub(crate) async fn with_autovacuum() -> Self {
        let world = Self::on(Arc::new(Cluster::start_with(true).await)).await;
        for statement in ["ALTER SYSTEM SET autovacuum_naptime = '1s'", "SELECT pg_reload_conf()"] {
            world.database.run(statement).await.unwrap();
        }
        world
    }

    /// With three NATS servers that keep every stream three times.
    pub(crate) async fn with_nats_cluster() -> Self {
        let cluster = Cluster::shared().await;
        let (nats, database) = tokio::join!(Nats::start_cluster(), cluster.database());
        let settings = nats.settings("provision").set("PARTITIONS", PARTITIONS);
        // The servers know each other when they agree on where to put three copies.
        eventually("the cluster takes the streams", PATIENCE * 2, async || {
            let ran = run(&settings, &["streams", "apply", "--replicas", "3"]).await;
            if ran.code == Some(0) { Ok(()) } else { Err(ran.said()) }
        })
        .await;
        Self::around(nats, cluster, database).await
    }

    /// With NATS by a variant of the project's configuration.
    pub(crate) async fn with_nats(nats: impl Future<Output = Nats>) -> Self {
        let cluster = Cluster::shared().await;
        let (nats, database) = tokio::join!(nats, cluster.database());
        nats.apply_streams().await;
        Self::around(nats, cluster, database).await
    }

    async fn on(cluster: Arc<Cluster>) -> Self {
        let (nats, database) = tokio::join!(Nats::start_with_streams(), cluster.database());
        Self::around(nats, cluster, database).await
    }

    async fn around(nats: Nats, cluster: Arc<Cluster>, database: Database) -> Self {
        let log = Log::open(&nats).await;
        Self {
            nats,
            cluster,
            database: Arc::new(database),
            backend: Backend::start(),
            careem: Careem::new(),
            log,
            port: Port::reserve(),
            tables_by: Mutex::default(),
        }
    }

    /// The tables are reached by these settings of a hub from now on.
    pub(crate) fn has_tables_by(&self, settings: &Settings) {
        *self.tables_by.lock().unwrap() = settings.clone();
    }

    /// The environment of a hub in this world.
    pub(crate) fn settings(&self) -> Settings {
        self.nats
            .settings("hub")
            .set("LISTEN_ADDRESS", "127.0.0.1")
            .set("PORT", 0)
            .set("METRICS_PORT", 0)
            .set("LOG_FORMAT", "json")
            .set("PARTITIONS", PARTITIONS)
            .set("DATABASE_URL", &self.database.url)
            .set("BACKEND_URL", self.backend.url())
            .set("SERVICE_TOKEN", SERVICE_TOKEN)
            .set("CAREEM_ENABLED", true)
            .set("CAREEM_WEBHOOK_SECRET", careem::SECRET)
            .set("CIRCUIT_BREAKER_RESET_TIMEOUT", "500ms")
            // There is no load balancer that would have to notice the stop.
            .set("SHUTDOWN_DELAY", "0s")
            // On, and out of the way of whatever is sent in crowds.
            .set("RATE_LIMIT_CAREEM", 1_000_000)
    }

    /// The same, on a port that a hub may come back to.
    pub(crate) fn settings_on_fixed_port(&self) -> Settings {
        self.settings().set("PORT", self.port.number())
    }

    /// URL of the hub on the fixed port.
    pub(crate) fn fixed_url(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// A hub.
    pub(crate) async fn hub(&self) -> Hub {
        Hub::start(&self.settings()).await
    }

    /// Posts orders with these ids, one after another; all must be accepted.
    pub(crate) async fn post_orders(&self, hub: &Hub, ids: impl IntoIterator<Item = String>) {
        for id in ids {
            let answer = self.careem.post(hub, &careem::order(&id)).await;
            assert_eq!(answer.status, 200, "{id}: {answer:?}");
        }
    }

    /// Delivers orders with these ids, one after another, each as often as it takes.
    pub(crate) async fn post_orders_to(&self, url: &str, ids: impl IntoIterator<Item = String>) {
        for id in ids {
            self.careem.deliver(url, &careem::order(&id)).await;
        }
    }

    /// What a hub's health says of the breaker, on the port that tells reasons.
    pub(crate) async fn breaker(&self, hub: &Hub) -> Value {
        let url = format!("{}/health", hub.private_url());
        let health = self.careem.request(Method::GET, &url).await;
        health.json()["circuitBreaker"].clone()
    }

    /// Waits until a hub's health says that of the breaker, and returns what else it says of it.
    pub(crate) async fn breaker_becomes(&self, hub: &Hub, state: &str) -> Value {
        self.breaker_becomes_within(hub, state, PATIENCE).await
    }

    /// The same, with other patience.
    pub(crate) async fn breaker_becomes_within(&self, hub: &Hub, state: &str, patience: Duration) -> Value {
        eventually(&format!("the breaker is {state}"), patience, async || {
            let breaker = self.breaker(hub).await;
            if breaker["state"] == state {
                Ok(breaker)
            } else {
                Err(breaker)
            }
        })
        .await
    }

    /// A hub's metrics.
    pub(crate) async fn metrics(&self, hub: &Hub) -> String {
        self.careem.request(Method::GET, &hub.metrics_url()).await.text
    }

    /// Waits until this is a line of a hub's metrics.
    pub(crate) async fn metrics_say(&self, hub: &Hub, line: &str) {
        eventually(&format!("the metrics say {line}"), PATIENCE, async || {
            let metrics = self.metrics(hub).await;
            if metrics.lines().any(|one| one == line) {
                Ok(())
            } else {
                Err(metrics)
            }
        })
        .await;
    }

    /// Requests a retry of all dead letters.
    pub(crate) async fn retry_dead_letters(&self) {
        let operator = self.nats.settings("hub");
        run(
            &operator,
            &["dead-letters", "retry", "--all", "--menus", "--by", "test"],
        )
        .await
        .expect_success();
    }

    /// How many messages were written to the stream of lanes.
    pub(crate) async fn lane_writes(&self) -> u64 {
        let provision = self.nats.provision().await;
        let stream = provision.get_stream("LANES").await.unwrap();
        stream.get_info().await.unwrap().state.last_sequence
    }

    /// The lanes that are open.
    pub(crate) async fn lanes(&self) -> Vec<Value> {
        let provision = self.nats.provision().await;
        // A cluster that elects a leader answers with 503 for a while.
        let (stream, subjects) = eventually("LANES says what is in it", PATIENCE, async || {
            let stream = provision.get_stream("LANES").await.map_err(|error| error.to_string())?;
            let info = stream.info_with_subjects("lane.>").await;
            let subjects = info.map_err(|error| error.to_string())?.try_collect().await;
            let subjects: Vec<(String, usize)> = subjects.map_err(|error| error.to_string())?;
            Ok::<_, String>((stream, subjects))
        })
        .await;
        let mut lanes = Vec::new();
        for (subject, _) in subjects {
            // What is no lane has no partition and order at its end. A lane may end meanwhile.
            let is_lane = subject.rsplit('.').next().is_some_and(|key| key.len() == 32);
            if let Ok(message) = stream.get_last_raw_message_by_subject(&subject).await
                && !message.payload.is_empty()
                && is_lane
            {
                lanes.push(serde_json::from_slice(&message.payload).unwrap());
            }
        }
        lanes
    }

    /// The hub's health on its private port.
    pub(crate) async fn health(&self, hub: &Hub) -> Value {
        let url = format!("{}/health", hub.private_url());
        self.careem.request(Method::GET, &url).await.json()
    }

    /// How many requests about an order the backend got.
    pub(crate) fn requests_about(&self, id: &str) -> usize {
        let requests = self.backend.requests();
        requests.iter().filter(|one| one.external_order_id() == id).count()
    }

    /// Waits until so many lanes are open.
    pub(crate) async fn has_parked(&self, count: usize) {
        eventually(&format!("{count} orders are parked"), PATIENCE, async || {
            let lanes = self.lanes().await;
            if lanes.len() == count { Ok(()) } else { Err(lanes) }
        })
        .await;
    }

    /// Makes the log forget every id that it knows, by a short duplicate window for a while. A hub looks at the streams when
    /// it starts, so it must have done that: it would not go on with another window than its own.
    pub(crate) async fn log_forgets(&self, hub: &Hub) {
        const WINDOW: Duration = Duration::from_secs(1);
        const LOOKS_PER_CHANGE: u32 = 40;
        hub.says("\"serving\"").await;
        let provision = self.nats.provision().await;
        let stream = provision.get_stream("EVENTS").await.unwrap();
        let config = stream.cached_info().config.clone();
        let mut short = config.clone();
        short.duplicate_window = WINDOW;
        provision.update_stream(&short).await.unwrap();
        let client = self.nats.connect("hub").await;
        let mut looked = 0;
        eventually("the log forgets its newest id", PATIENCE, async || {
            looked += 1;
            // The server looks for ids to forget when the window changes. On a busy machine it may still see the window before, and then
            // looks again only after that one.
            if looked % LOOKS_PER_CHANGE == 0 {
                short.duplicate_window += Duration::from_millis(1);
                provision
                    .update_stream(&short)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            let last = stream
                .get_info()
                .await
                .map_err(|error| error.to_string())?
                .state
                .last_sequence;
            let newest = stream.get_raw_message(last).await.map_err(|error| error.to_string())?;
            // The server looks for the id first, and then refuses what does not follow this one.
            let mut headers = HeaderMap::new();
            headers.insert(
                NATS_MESSAGE_ID,
                newest.headers.get(NATS_MESSAGE_ID).ok_or("no id")?.clone(),
            );
            headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, "none");
            let probe = async_nats::Request::new().headers(headers).payload(newest.payload);
            let answer = client.send_request(newest.subject, probe).await;
            let answer = answer.map_err(|error| error.to_string())?.payload;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            if answer.contains("wrong last msg ID") {
                Ok(())
            } else {
                Err(answer)
            }
        })
        .await;
        provision.update_stream(config).await.unwrap();
    }

    /// How many bytes the log holds.
    pub(crate) async fn log_bytes(&self) -> i64 {
        let provision = self.nats.provision().await;
        let stream = provision.get_stream("EVENTS").await.unwrap();
        i64::try_from(stream.cached_info().state.bytes).unwrap()
    }

    /// The log may hold so many bytes; -1 for any number.
    pub(crate) async fn limit_log(&self, max_bytes: i64) {
        let provision = self.nats.provision().await;
        let stream = provision.get_stream("EVENTS").await.unwrap();
        let config = stream.cached_info().config.clone();
        provision
            .update_stream(stream::Config { max_bytes, ..config })
            .await
            .unwrap();
    }

    /// An older hub takes the stages, as far as their leases tell: it leaves its id, and nothing else.
    pub(crate) async fn an_older_hub_takes_the_leases(&self) {
        let older = self.nats.connect("hub").await;
        for stage in ["transform", "forward", "push"] {
            let subject = format!("hub.lease.{stage}");
            older.publish(subject, "0123456789abcdef".into()).await.unwrap();
        }
        older.flush().await.unwrap();
    }

    /// Another instance takes the tables and is gone again half a second later: whoever wrote them begins anew. Settings that make
    /// that quick are [`QUICK_TAKEOVER`].
    pub(crate) async fn tables_change_hands(&self) {
        let taken = "UPDATE hub.cursors SET holder = 'another', held_until = clock_timestamp() + interval '500ms'";
        self.database.run(taken).await.unwrap();
    }

    /// Lets NATS hand out again at once what it knows of no acknowledgement for. Where a hub or NATS was killed, that is
    /// what has its outcome and waits for nothing else; in production it comes again after minutes, and nobody waits for it.
    pub(crate) async fn hand_out_again(&self) {
        self.hand_out_again_within(PATIENCE).await;
    }

    /// The same, with other patience for what is still at work.
    pub(crate) async fn hand_out_again_within(&self, patience: Duration) {
        self.log.settled_within(patience).await;
        let provision = self.nats.provision().await;
        // A cluster that elects a leader answers with 503 for a while.
        eventually("the consumers can be changed", patience, async || {
            let stream = provision
                .get_stream("EVENTS")
                .await
                .map_err(|error| error.to_string())?;
            let consumers: Result<Vec<consumer::Info>, _> = stream.consumers().try_collect().await;
            let consumers = consumers.map_err(|error| error.to_string())?;
            for info in consumers
                .into_iter()
                .filter(|info| info.config.ack_policy != consumer::AckPolicy::None)
            {
                let config = consumer::Config {
                    ack_wait: Duration::from_secs(1),
                    ..info.config
                };
                let config = consumer::pull::Config::try_from_consumer_config(config).unwrap();
                stream
                    .update_consumer(config)
                    .await
                    .map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        })
        .await;
    }
}

/// Ids of orders that no other test uses, for readable logs: `CR-storm-0` …
pub(crate) fn ids(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("CR-{name}-{number}")).collect()
}
