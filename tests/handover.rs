//! The instance that forwards is told to stop while requests are under way: the next one goes on at once with every other
//! order, and makes no second request for what the first one still ends.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::poll;
use tokio::sync::Notify;
use webhook_hub::{
    config,
    delivery::lease::{
        self, Lease,
        note::{AtWork, Note},
    },
    event::EventType,
    journal::connection::{Connection, HUB_INBOX},
};

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{change, order},
    hub::Hub,
    ids,
    outside::{CAREEM_POS, Outside},
    wait::{PATIENCE, POLL, eventually},
};

/// How long the hanging answers of a test take to be given up.
const HANGING: Duration = Duration::from_secs(9);
/// Longest time without forwarding that passes: less than `HANGING`, for which the instance that stops would wait. A calm
/// machine needs less than a second, one with both cores busy was seen to need five.
const PAUSE: Duration = Duration::from_secs(8);

/// Waits until a hub says that it has the stage.
async fn works(hub: &Hub) {
    eventually("it has the stage", PATIENCE, async || {
        let says = |line: &str| line.contains("\"stage taken over") && line.contains("\"forward\"");
        if hub.log().lines().any(says) {
            Ok(())
        } else {
            Err(hub.log())
        }
    })
    .await;
}

/// Posts order after order until told to stop; how many were accepted.
async fn traffic(world: &World, url: &str, enough: &AtomicBool) -> usize {
    for number in 0.. {
        if enough.load(Ordering::Relaxed) {
            return number;
        }
        world.careem.deliver(url, &order(&format!("CR-traffic-{number}"))).await;
        tokio::time::sleep(POLL).await;
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_with_five_hanging_answers() {
    let world = World::new().await;
    let settings = world
        .settings()
        .set("BACKEND_TIMEOUT", format!("{}s", HANGING.as_secs()));
    let first = Hub::start(&settings).await;
    let hanging = ids("hanging", 5);
    for id in &hanging {
        world.backend.next_for(id, [Answer::Hang]);
    }
    world.post_orders(&first, hanging.clone()).await;
    world.backend.wait_for(5).await;
    let next = Hub::start(&settings).await;
    let (url, enough) = (next.url(), AtomicBool::new(false));
    let restart = async {
        world.backend.wait_for(25).await;
        let told = Instant::now();
        let (status, _) = first.terminate().await;
        assert_eq!(status.code(), Some(0));
        // The orders that hung are asked about again, and then all was seen that there is to see.
        world.backend.wait_for(world.backend.count() + 20).await;
        enough.store(true, Ordering::Relaxed);
        told
    };
    let (told, accepted) = tokio::join!(restart, traffic(&world, &url, &enough));
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(5 + accepted)).await;
    let requests = world.backend.requests();
    let others = requests
        .iter()
        .filter(|one| !hanging.contains(&one.external_order_id()));
    let times: Vec<_> = others.map(|one| one.at).filter(|at| *at >= told).collect();
    let pause = std::iter::once(told)
        .chain(times.iter().copied())
        .zip(&times)
        .map(|(before, after)| *after - before)
        .max()
        .unwrap();
    eprintln!("longest time without forwarding: {pause:?}");
    assert!(pause < PAUSE, "nothing was forwarded for {pause:?}");
    for id in &hanging {
        assert_eq!(world.requests_about(id), 2, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_succeeds_after_the_handover_is_not_repeated() {
    let world = World::new().await;
    let settings = world.settings().set("BACKEND_TIMEOUT", "18s");
    let first = Hub::start(&settings).await;
    world.post_orders(&first, ids("before", 1)).await;
    world.log.settled().await;
    let next = Hub::start(&settings).await;
    world.backend.hold();
    world.post_orders(&first, ids("under-way", 1)).await;
    world
        .careem
        .deliver(&next.url(), &change("CR-under-way-0", "ready"))
        .await;
    world.backend.wait_for(2).await;
    let going_on = async {
        world.post_orders(&next, ids("other", 1)).await;
        // It comes while the first order's answer is still awaited.
        world.backend.wait_for(3).await;
        world.backend.release();
    };
    let ((status, _), ()) = tokio::join!(first.terminate(), going_on);
    assert_eq!(status.code(), Some(0));
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(4)).await;
    assert_eq!(world.requests_about("CR-under-way-0"), 2, "its creation and its change");
    assert_eq!(world.backend.count(), 4);
}

/// The event under way is the head of a lane: the creation that a change has waited for.
#[tokio::test(flavor = "multi_thread")]
async fn the_request_of_a_lanes_head_is_under_way() {
    let world = World::new().await;
    let settings = world.settings().set("BACKEND_TIMEOUT", "18s");
    let first = Hub::start(&settings).await;
    // A backend that has never said anything but 404 has another address.
    world.post_orders(&first, ids("before", 1)).await;
    world.log.settled().await;
    world.backend.next_for("CR-lane", [Answer::status(404)]);
    world.careem.deliver(&first.url(), &change("CR-lane", "ready")).await;
    eventually("the change waits in a lane", PATIENCE, async || {
        let lanes = world.lanes().await;
        if lanes.len() == 1 { Ok(()) } else { Err(lanes) }
    })
    .await;
    let next = Hub::start(&settings).await;
    world.backend.hold();
    world.careem.deliver(&first.url(), &order("CR-lane")).await;
    world.backend.wait_for(3).await;
    let going_on = async {
        works(&next).await;
        world.post_orders(&next, ids("other", 1)).await;
        world.backend.wait_for(4).await;
        world.backend.release();
    };
    tokio::join!(first.terminate(), going_on);
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(4)).await;
    assert_eq!(world.requests_about("CR-lane"), 3, "the 404, the creation, the change");
}

/// The stage that speaks to providers is handed over in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_a_provider_is_under_way() {
    let outside = Outside::new(CAREEM_POS).await;
    let first = outside.hub().await;
    outside.ask(&first, "CR-before", "accepted").await;
    outside.payloads(EventType::OrderStatusPushed, 1).await;
    let next = outside.hub().await;
    outside.provider.hold();
    outside.ask(&first, "CR-1", "accepted").await;
    outside.provider.wait_for(2).await;
    let going_on = async {
        outside.ask(&next, "CR-1", "ready").await;
        outside.ask(&next, "CR-2", "accepted").await;
        // It comes while the provider has not answered the one before.
        let calls = outside.provider.wait_for(3).await;
        assert_eq!(calls[2].path, "/orders/CR-2");
        outside.provider.release();
    };
    tokio::join!(first.terminate(), going_on);
    outside.payloads(EventType::OrderStatusPushed, 4).await;
    outside.world.hand_out_again().await;
    outside.world.at_end(Ends::default()).await;
    let calls = outside.provider.calls();
    let told = calls.iter().filter(|call| call.path == "/orders/CR-1");
    let told: Vec<_> = told.map(|call| call.json()["state"].clone()).collect();
    assert_eq!(told, ["accepted", "ready"]);
}

/// The instance that hands over dies while its request is under way: its time limit counts.
#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_hands_over_dies() {
    let world = World::new().await;
    let settings = world.settings().set("BACKEND_TIMEOUT", "2s");
    let mut first = Hub::start(&settings.clone().set("HUB_TEST_CRASH_AT", "after_handover")).await;
    world.backend.next_for("CR-under-way-0", [Answer::Hang]);
    world.post_orders(&first, ids("under-way", 1)).await;
    world.backend.wait_for(1).await;
    let next = Hub::start(&settings).await;
    first.tell_to_stop().await;
    first.wait_exit(PATIENCE).await;
    world
        .careem
        .deliver(&next.url(), &change("CR-under-way-0", "ready"))
        .await;
    world.post_orders(&next, ids("other", 1)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(3)).await;
    assert_eq!(
        world.requests_about("CR-under-way-0"),
        3,
        "twice its creation, once its change"
    );
}

/// The next instance dies as soon as it has the stage: the third one knows what the first is still asking about.
#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_takes_over_dies() {
    let world = World::new().await;
    let settings = world.settings().set("BACKEND_TIMEOUT", "18s");
    let first = Hub::start(&settings).await;
    world.backend.hold();
    world.post_orders(&first, ids("under-way", 1)).await;
    world.backend.wait_for(1).await;
    let crashing = settings.clone().set("HUB_TEST_CRASH_AT", "forward/after_takeover");
    let mut next = Hub::start(&crashing).await;
    let going_on = async {
        next.wait_exit(PATIENCE).await;
        let third = Hub::start(&settings).await;
        world.post_orders(&third, ids("other", 1)).await;
        world.backend.wait_for(2).await;
        world.backend.release();
        third
    };
    let (_, _third) = tokio::join!(first.terminate(), going_on);
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2)).await;
    assert_eq!(world.backend.count(), 2);
}

/// The last request ends while a renewal, which says that it is under way, is on its way to the server: its answer is never read, so the
/// instance does not know which message of the lease is the last one. It gives the lease back all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_given_back_while_a_renewal_is_under_way() {
    const NAME: &str = "forward";
    let world = World::new().await;
    let settings = world.nats.settings("hub").environment();
    let settings = config::Nats::from_environment(&settings).unwrap();
    let connection = Arc::new(Connection::open(&settings, "lease", HUB_INBOX).await.unwrap());
    connection.reach().await.unwrap();
    let (mut lease, _) = Lease::take(&connection, NAME).await.unwrap();
    let under_way = Note {
        at_work: vec![AtWork {
            by: lease.holder().to_owned(),
            events: vec![7],
            within_ms: 32_000,
        }],
        handed_over: true,
        ..Note::default()
    };
    let at_once = Notify::new();
    at_once.notify_one();
    {
        let mut keeping = pin!(lease.keep(|| under_way.clone(), &at_once));
        assert!(poll!(keeping.as_mut()).is_pending());
        eventually("the renewal is at the server", PATIENCE, async || {
            let seen = lease::state(&connection, NAME)
                .await
                .map_err(|error| error.to_string())?;
            if seen.is_handed_over {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        })
        .await;
    }
    assert!(lease.give_back(&Note::default()).await);
    let seen = lease::state(&connection, NAME).await.unwrap();
    assert_eq!((seen.holder, seen.is_handed_over), (None, false));
    let (_, inherited) = Lease::take(&connection, NAME).await.unwrap();
    assert_eq!(inherited.note.at_work, [], "the next instance waits for that request");
}
