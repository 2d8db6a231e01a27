//! Requests that each user of `nats.conf` must not make, tried one by one: each is refused, and leaves no trace.
//!
//! The streams and consumers are those of `streams/`, with the names of the stages, so a new one is covered when its file or
//! its stage is there; the requests are all that the server knows.

use std::{collections::BTreeMap, path::Path, time::Duration};

use async_nats::{Client, Event, HeaderMap, ServerError, jetstream};
use futures_util::{StreamExt as _, TryStreamExt};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use webhook_hub::{event::stage, journal::read::LongReader};

use crate::harness::{World, at_end::Ends, hub::Hub, ids, servers::Nats, wait::PATIENCE};

pub(crate) mod documented;

/// Requests about a stream (`S`) that change it, show what is none of the hub's business, or move it about.
const OF_STREAMS: [&str; 19] = [
    "$JS.API.STREAM.CREATE.S",
    "$JS.API.STREAM.UPDATE.S",
    "$JS.API.STREAM.DELETE.S",
    "$JS.API.STREAM.PURGE.S",
    "$JS.API.STREAM.MSG.DELETE.S",
    "$JS.API.STREAM.SNAPSHOT.S",
    "$JS.API.STREAM.RESTORE.S",
    "$JS.API.STREAM.LEADER.STEPDOWN.S",
    "$JS.API.STREAM.PEER.REMOVE.S",
    "$JS.API.STREAM.PEER.EVACUATE.S",
    "$JS.API.STREAM.CANCEL_MOVE.S",
    "$JS.API.ACCOUNT.STREAM.MOVE.HUB.S",
    "$JS.API.ACCOUNT.STREAM.CANCEL_MOVE.HUB.S",
    "$JS.API.CONSUMER.CREATE.S",
    "$JS.API.CONSUMER.CREATE.S.other",
    "$JS.API.CONSUMER.CREATE.S.other.x.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.S.other",
    "$JS.API.CONSUMER.LIST.S",
    "$JS.API.CONSUMER.NAMES.S",
];
/// The same, about a consumer (`C`) of a stream.
const OF_CONSUMERS: [&str; 10] = [
    "$JS.API.CONSUMER.CREATE.S.C",
    "$JS.API.CONSUMER.CREATE.S.C.x",
    "$JS.API.CONSUMER.DURABLE.CREATE.S.C",
    "$JS.API.CONSUMER.DELETE.S.C",
    "$JS.API.CONSUMER.PAUSE.S.C",
    "$JS.API.CONSUMER.RESET.S.C",
    "$JS.API.CONSUMER.UNPIN.S.C",
    "$JS.API.CONSUMER.LEADER.STEPDOWN.S.C",
    "$JS.API.CONSUMER.PEER.REMOVE.S.C",
    "$JS.API.CONSUMER.PEER.EVACUATE.S.C",
];
/// Requests about everything, and what only servers or others say.
const OF_ALL: [&str; 25] = [
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.OTHER",
    "$JS.API.STREAM.CREATE.OTHER",
    "$JS.API.STREAM.MSG.GET.OTHER",
    "$JS.API.DIRECT.GET.OTHER",
    "$JS.API.CONSUMER.INFO.OTHER.forward",
    "$JS.API.CONSUMER.MSG.NEXT.OTHER.forward",
    "$JS.API.ACCOUNT.PURGE.HUB",
    "$JS.API.META.LEADER.STEPDOWN",
    "$JS.API.META.RESCUE",
    "$JS.API.SERVER.REMOVE",
    "$JS.API.SERVER.EVACUATE",
    "$JS.ACK.OTHER.forward.1.1.1.1.1",
    "$JS.FC.EVENTS.forward.x",
    "$JS.SNAPSHOT.ACK.EVENTS.x",
    "$JS.SNAPSHOT.RESTORE.EVENTS.x",
    "$JS.EVENT.ADVISORY.STREAM.DELETED.EVENTS",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.ACCOUNT.HUB.JSZ",
    "$SYS.DEBUG.SUBSCRIBERS",
    "$KV.other.key",
    "_INBOX.other",
    "_INBOX_subscriber.other",
    "anything",
];
/// Subscriptions by which one could listen to others.
const LISTENING: [&str; 15] = [
    ">",
    "*",
    "*.>",
    "_INBOX.>",
    "_INBOX_subscriber.>",
    "$SYS.>",
    "$JS.>",
    "$JS.API.>",
    "$JS.ACK.>",
    "$JS.EVENT.ADVISORY.>",
    "webhooks.>",
    "orders.>",
    "menus.>",
    "lane.>",
    "due.>",
];
/// Events, and what else a hub writes.
const WRITING: [&str; 10] = [
    "webhooks.received.careem.p00",
    "orders.transformed.careem._.p00",
    "orders.forwarded.careem._.p00",
    "menus.synced.careem._.p00",
    "lane.p00.x",
    "sch.p00.x",
    "due.p00.x",
    "hub.lease.forward",
    "hub.breaker",
    "$JS.ACK.EVENTS.forward.1.1.1.1.1",
];

/// A connection of a user, and what the server refuses it.
struct Tried {
    client: Client,
    told: UnboundedReceiver<String>,
}

impl Tried {
    async fn by(nats: &Nats, user: &str) -> Self {
        let (tell, told) = unbounded_channel();
        let options = nats.options(user).event_callback(move |event| {
            let tell = tell.clone();
            async move {
                if let Event::ServerError(ServerError::Other(reason)) = event {
                    // Sending fails only when the test is over.
                    let _ = tell.send(reason.to_lowercase());
                }
            }
        });
        let client = options.connect(nats.server.url()).await.unwrap();
        Self { client, told }
    }

    async fn refused(&mut self, what: &str, subject: &str) {
        // A refusal comes before the answer to the ping that follows it.
        self.client.flush().await.unwrap();
        let expected = format!("{what} \"{}\"", subject.to_lowercase());
        let told = tokio::time::timeout(Duration::from_secs(2), self.told.recv()).await;
        let told = told.unwrap_or_else(|_| panic!("it may do this: {expected}")).unwrap();
        assert!(told.contains(&expected), "{expected}: {told}");
    }

    /// None of these may it publish.
    async fn cannot_publish(&mut self, subjects: &[String]) {
        for subject in subjects {
            self.client.publish(subject.clone(), "{}".into()).await.unwrap();
            self.refused("publish to", subject).await;
        }
    }

    /// None of these may it subscribe to.
    async fn cannot_hear(&mut self, subjects: &[&str]) {
        for subject in subjects {
            let _subscription = self.client.subscribe((*subject).to_owned()).await.unwrap();
            self.refused("subscription to", subject).await;
        }
    }

    /// All of these it may, so that the refusals of the others mean something.
    async fn can_hear(&mut self, subjects: &[&str]) {
        for subject in subjects {
            let _subscription = self.client.subscribe((*subject).to_owned()).await.unwrap();
            self.client.flush().await.unwrap();
        }
        assert!(self.told.try_recv().is_err());
    }
}

/// The streams of the project and their consumers, by the files that describe them.
fn streams() -> BTreeMap<String, Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("streams");
    let mut streams: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        let described: Value = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap();
        let name = file.file_name().into_string().unwrap();
        if let Some(consumer) = described["durable_name"].as_str() {
            let (stream, _) = name.split_once('.').unwrap();
            let consumers = streams.entry(stream.to_owned()).or_default();
            if consumer.contains("STAGE") {
                consumers.extend(stage::NAMES.map(|name| consumer.replace("STAGE", name)));
            } else {
                consumers.push(consumer.to_owned());
            }
        } else if let Some(stream) = described["name"].as_str() {
            streams.entry(stream.to_owned()).or_default();
        }
    }
    assert!(
        streams["EVENTS"].len() == stage::READERS.len() + LongReader::ALL.len() && streams.contains_key("LEASES"),
        "{streams:?}"
    );
    streams
}

/// Every request about every stream and consumer that only `provision` may make.
fn administration() -> Vec<String> {
    let mut subjects: Vec<String> = OF_ALL.map(str::to_owned).to_vec();
    for (stream, consumers) in streams() {
        subjects.extend(OF_STREAMS.iter().map(|subject| named(subject, &stream, "")));
        for consumer in &consumers {
            subjects.extend(OF_CONSUMERS.iter().map(|subject| named(subject, &stream, consumer)));
        }
    }
    subjects
}

fn named(subject: &str, stream: &str, consumer: &str) -> String {
    let tokens = subject.split('.').map(|token| match token {
        "S" => stream,
        "C" => consumer,
        token => token,
    });
    tokens.collect::<Vec<_>>().join(".")
}

/// What every stream and consumer is, and all that the streams hold.
async fn everything(context: &jetstream::Context) -> Vec<String> {
    let mut all = Vec::new();
    let mut infos = context.streams();
    while let Some(info) = infos.try_next().await.unwrap() {
        // As JSON, which has its maps in order.
        let config = serde_json::to_value(&info.config).unwrap();
        all.push(format!("{config} {:?}", info.state));
        let stream = context.get_stream(&info.config.name).await.unwrap();
        let consumers: Vec<_> = stream.consumers().try_collect().await.unwrap();
        for consumer in consumers {
            all.push(format!(
                "{} {:?} {:?}",
                info.config.name, consumer.config, consumer.ack_floor.stream_sequence
            ));
        }
    }
    all.sort();
    all
}

/// A world that had a hub with an order, which is gone, so that nothing moves any more.
async fn at_rest() -> World {
    let world = World::new().await;
    let hub: Hub = world.hub().await;
    world.post_orders(&hub, ids("kept", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    hub.terminate().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_administers_nothing() {
    let world = at_rest().await;
    let provision = world.nats.provision().await;
    let before = everything(&provision).await;
    let mut hub = Tried::by(&world.nats, "hub").await;
    // The consumers by which it reads lanes, or much of the log, it sets to a place each time, which changes nothing else.
    let of_log = LongReader::ALL.map(|reader| format!("$JS.API.CONSUMER.RESET.EVENTS.{}", reader.name()));
    let others = administration()
        .into_iter()
        .filter(|subject| !subject.starts_with("$JS.API.CONSUMER.RESET.LANES.") && !of_log.contains(subject));
    hub.cannot_publish(&others.collect::<Vec<_>>()).await;
    hub.cannot_hear(&LISTENING).await;
    hub.can_hear(&["_INBOX_hub.x", "_INBOX_hub.>", "hub.breaker"]).await;
    // What it may write it may not write so that something else goes.
    for (name, value) in [
        ("Nats-Rollup", "all"),
        ("Nats-Rollup", "sub"),
        ("Nats-TTL", "1s"),
        ("Nats-Schedule", "@at 2030-01-01T00:00:00Z"),
        ("Nats-Expected-Stream", "OTHER"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(name, value);
        let subject = "webhooks.received.careem.p00";
        let reply = hub
            .client
            .request_with_headers(subject, headers, "{}".into())
            .await
            .unwrap();
        let answer: Value = serde_json::from_slice(&reply.payload).unwrap();
        assert!(answer["error"].is_object(), "{name}: {value}: {answer}");
    }
    assert_eq!(everything(&provision).await, before);
    world.at_end(Ends::forwarded(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_provision_writes_no_event() {
    let world = at_rest().await;
    let provision = world.nats.provision().await;
    let before = everything(&provision).await;
    let mut user = Tried::by(&world.nats, "provision").await;
    user.cannot_publish(&WRITING.map(str::to_owned)).await;
    user.cannot_publish(&["$SYS.REQ.SERVER.PING", "_INBOX_hub.x", "anything"].map(str::to_owned))
        .await;
    let others = LISTENING.into_iter().filter(|subject| *subject != "_INBOX.>");
    user.cannot_hear(&others.collect::<Vec<_>>()).await;
    user.cannot_hear(&["_INBOX_hub.>", "hub.>"]).await;
    assert_eq!(everything(&provision).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_backup_changes_nothing() {
    let world = at_rest().await;
    let provision = world.nats.provision().await;
    let before = everything(&provision).await;
    let mut user = Tried::by(&world.nats, "backup").await;
    let backup = ["$JS.API.STREAM.SNAPSHOT.EVENTS", "$JS.SNAPSHOT.ACK.EVENTS.x"];
    let others = administration()
        .into_iter()
        .filter(|subject| !backup.contains(&subject.as_str()));
    user.cannot_publish(&others.collect::<Vec<_>>()).await;
    user.cannot_publish(&WRITING.map(str::to_owned)).await;
    user.cannot_hear(&LISTENING).await;
    user.can_hear(&["_INBOX_backup.>"]).await;
    assert_eq!(everything(&provision).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_only_listens() {
    let world = at_rest().await;
    let provision = world.nats.provision().await;
    let before = everything(&provision).await;
    let mut user = Tried::by(&world.nats, "subscriber").await;
    user.cannot_publish(&administration()).await;
    user.cannot_publish(&WRITING.map(str::to_owned)).await;
    let information = streams()
        .into_keys()
        .map(|stream| format!("$JS.API.STREAM.INFO.{stream}"));
    user.cannot_publish(&information.collect::<Vec<_>>()).await;
    let heard = ["_INBOX_subscriber.>", "orders.>", "menus.>"];
    let others = LISTENING.into_iter().filter(|subject| !heard.contains(subject));
    user.cannot_hear(&others.collect::<Vec<_>>()).await;
    user.cannot_hear(&["_INBOX_hub.>", "hub.>", "hub.lease.>", "sch.>"])
        .await;
    user.can_hear(&heard).await;
    user.can_hear(&["hub.breaker", "orders.forwarded.>"]).await;
    // It hears what happens.
    let mut orders = user.client.subscribe("orders.>").await.unwrap();
    user.client.flush().await.unwrap();
    assert_eq!(everything(&provision).await, before);
    let hub = world.hub().await;
    world.post_orders(&hub, ids("heard", 1)).await;
    let heard = tokio::time::timeout(PATIENCE, orders.next()).await.unwrap();
    assert!(heard.unwrap().subject.starts_with("orders.transformed."));
    world.at_end(Ends::forwarded(2)).await;
}

/// Events with the webhook as it came, the facts of its request, or an operator's name are not for subscribers.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_receives_nothing_of_requests_and_operators() {
    let nats = Nats::start().await;
    let hub = nats.connect("hub").await;
    let user = Tried::by(&nats, "subscriber").await;
    let mut orders = user.client.subscribe("orders.>").await.unwrap();
    let mut wild = user.client.subscribe("orders.*.careem.>").await.unwrap();
    // A flush does not wait for the server, so the subscriptions are there when they receive something.
    for heard in [&mut orders, &mut wild] {
        loop {
            hub.publish("orders.seen.careem._.p00", "{}".into()).await.unwrap();
            if tokio::time::timeout(Duration::from_millis(200), heard.next())
                .await
                .is_ok()
            {
                break;
            }
        }
    }
    for what in [
        "fetch_requested",
        "fetch_failed",
        "fetched",
        "retry_requested",
        "transformed",
    ] {
        let subject = format!("orders.{what}.careem._.p00");
        hub.publish(subject, "{}".into()).await.unwrap();
    }
    hub.flush().await.unwrap();
    for heard in [&mut orders, &mut wild] {
        for what in ["fetch_failed", "transformed"] {
            let next = loop {
                let next = tokio::time::timeout(PATIENCE, heard.next()).await.unwrap().unwrap();
                if !next.subject.starts_with("orders.seen.") {
                    break next;
                }
            };
            assert!(next.subject.starts_with(&format!("orders.{what}.")), "{}", next.subject);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_connections_are_refused() {
    let nats = Nats::start().await;
    let wrong = async_nats::ConnectOptions::with_user_and_password("hub".into(), "wrong".into());
    let other = async_nats::ConnectOptions::with_user_and_password("admin".into(), nats.password("hub").into());
    for options in [async_nats::ConnectOptions::new(), wrong, other] {
        let refused = options.connect(nats.server.url()).await.unwrap_err();
        assert!(
            refused.to_string().to_lowercase().contains("authorization violation"),
            "{refused}"
        );
    }
    nats.connect("hub").await.flush().await.unwrap();
}
