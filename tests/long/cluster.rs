//! Three NATS servers, of which one dies, is cut off or stands still: what was answered with 200 is on the log all the same,
//! and goes on.

use std::time::Duration;

use webhook_hub::event::EventType;

use crate::harness::{
    PARTITIONS, World,
    at_end::Ends,
    backend::{Answer, ORDERS},
    careem::{change, order},
    hub::{Hub, run},
    ids,
    load::Load,
    nats_cluster::NODES,
    wait::eventually,
};

/// An election takes up to nine seconds, and there may be one for the stream, one for the leases and one for a consumer,
/// one after the other; leases run out meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest answer while a follower stands still: no election, and nothing else to wait for but a busy machine.
const PROMPT: Duration = Duration::from_secs(2);
/// Webhooks that go through before a fault, during it and after it.
const SOME: usize = 40;

/// Two hubs under load; something happens to the cluster, and is over when `fault` returns.
async fn under_load(world: &World, hubs: &[Hub; 2], fault: impl AsyncFnOnce(&Load)) {
    world.backend.takes(Duration::from_millis(5));
    let load = Load::with_patience(50, PATIENCE);
    let urls = hubs.each_ref().map(Hub::url);
    let failing = async {
        load.more(world, true, SOME).await;
        fault(&load).await;
        load.more(world, true, SOME).await;
        load.end();
    };
    tokio::join!(failing, load.run(world, &urls));
    world.hand_out_again_within(PATIENCE).await;
    world.at_end_within(PATIENCE, Ends::forwarded(load.accepted())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed() {
    let world = World::with_nats_cluster().await;
    let (nats, context) = (&world.nats, world.nats.provision().await);
    let leader = nats.leader_with_all(&context, "EVENTS").await;
    let hubs = [world.hub().await, world.hub().await];
    under_load(&world, &hubs, async |load| {
        nats.node(leader).kill().await.unwrap();
        nats.another_leader(&context, "EVENTS", leader).await;
        load.more(&world, true, SOME).await;
        nats.node(leader).restart().await.unwrap();
        nats.leader_with_all(&context, "EVENTS").await;
    })
    .await;
}

/// The hub on its side still reaches it, but it can promise nothing any more; the hub on the other side goes on alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_cut_off_from_the_others() {
    let world = World::with_nats_cluster().await;
    let (nats, context) = (&world.nats, world.nats.provision().await);
    let leader = nats.leader_with_all(&context, "EVENTS").await;
    // One may be connected to the server that is cut off, and has to find another; one is not.
    let with_others = world.settings().set("NATS_URL", nats.node((leader + 1) % NODES).url());
    let hubs = [world.hub().await, Hub::start(&with_others).await];
    under_load(&world, &hubs, async |load| {
        nats.routes().cut_off(leader);
        load.more(&world, true, 2 * SOME).await;
        nats.routes().rejoin(leader);
        nats.leader_with_all(&context, "EVENTS").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_stands_still() {
    let world = World::with_nats_cluster().await;
    let (nats, context) = (&world.nats, world.nats.provision().await);
    let leader = nats.leader_with_all(&context, "EVENTS").await;
    let follower = (leader + 1) % NODES;
    // Whoever is connected to the one that stands still has to find another first; this is about the others.
    let others = (0..NODES)
        .filter(|node| *node != follower)
        .map(|node| nats.node(node).url());
    let url = others.collect::<Vec<_>>().join(",");
    let hub = Hub::start(&world.settings().set("NATS_URL", url)).await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.log.settled_within(PATIENCE).await;
    nats.node(follower).pause().await.unwrap();
    let orders = ids("meanwhile", 5 * SOME);
    for id in &orders {
        let body = order(id);
        let posting = world.careem.post(&hub, &body);
        let answer = tokio::time::timeout(PROMPT, posting).await;
        assert_eq!(answer.expect("an answer in time").status, 200);
    }
    nats.node(follower).resume().await.unwrap();
    nats.leader_with_all(&context, "EVENTS").await;
    world.hand_out_again_within(PATIENCE).await;
    world.at_end_within(PATIENCE, Ends::forwarded(1 + orders.len())).await;
}

/// Lanes are replicated, too: the server that leads their stream dies.
#[tokio::test(flavor = "multi_thread")]
async fn orders_are_parked_when_the_leader_of_lanes_is_killed() {
    let world = World::with_nats_cluster().await;
    let (nats, context) = (&world.nats, world.nats.provision().await);
    let settings = world.settings().set("CIRCUIT_BREAKER_ENABLED", false);
    let hub = Hub::start(&settings).await;
    let later = Answer::Say(503, String::new(), vec![("retry-after", "14".into())]);
    for id in ids("parked", 3) {
        world.backend.next_for(&id, [later.clone()]);
    }
    world.post_orders(&hub, ids("parked", 3)).await;
    world.log.wait_for(EventType::OrderForwardFailed, 3).await;
    for id in ids("parked", 3) {
        world.careem.deliver(&hub.url(), &change(&id, "cancelled")).await;
    }
    let leader = nats.leader_with_all(&context, "LANES").await;
    nats.node(leader).kill().await.unwrap();
    nats.another_leader(&context, "LANES", leader).await;
    nats.node(leader).restart().await.unwrap();
    world.hand_out_again_within(PATIENCE).await;
    world.at_end_within(PATIENCE, Ends::forwarded(6)).await;
    for id in ids("parked", 3) {
        let requests = world.backend.requests().into_iter();
        let times: Vec<_> = requests
            .filter(|request| request.path == ORDERS && request.external_order_id() == id)
            .map(|request| request.at)
            .collect();
        assert!(
            times.len() == 2 && times[1] - times[0] >= Duration::from_millis(13_980),
            "{id}: {times:?}"
        );
    }
}

/// Copies are taken away and added under load, and the command returns when they are current.
#[tokio::test(flavor = "multi_thread")]
async fn copies_come_and_go_as_the_operator_says() {
    let world = World::with_nats_cluster().await;
    let (nats, context) = (&world.nats, world.nats.provision().await);
    let provision = nats.settings("provision").set("PARTITIONS", PARTITIONS);
    let copies = async |count: &str| {
        let ran = run(&provision, &["streams", "apply", "--replicas", count])
            .await
            .expect_success();
        run(&provision, &["streams", "diff"]).await.expect_success();
        ran
    };
    let peers = async || {
        let stream = context.get_stream("EVENTS").await.unwrap();
        let info = stream.cached_info();
        let cluster = info.cluster.clone().unwrap_or_default();
        let current = cluster.replicas.iter().filter(|peer| peer.current).count();
        (info.config.num_replicas, cluster.replicas.len(), current)
    };
    // Under traffic a copy is behind for a moment now and then.
    let has = async |copies: usize| {
        eventually(&format!("{copies} copies are current"), PATIENCE, async || {
            let found = peers().await;
            if found == (copies, copies - 1, copies - 1) {
                Ok(())
            } else {
                Err(found)
            }
        })
        .await;
    };
    let hubs = [world.hub().await, world.hub().await];
    under_load(&world, &hubs, async |load| {
        copies("1").await;
        has(1).await;
        load.more(&world, true, SOME).await;
        let ran = copies("3").await;
        eprintln!("{}", ran.said());
        assert!(
            ran.stderr.contains("EVENTS: 3 of 3 copies are current"),
            "{}",
            ran.said()
        );
        has(3).await;
    })
    .await;
}
