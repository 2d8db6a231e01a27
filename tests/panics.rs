//! Code that panics on one event, on every instance that takes it up.

use webhook_hub::event::EventType;

use crate::harness::{World, at_end::Ends, careem::change, hub::Hub, ids};

/// The event that panics is given up with the place, the stage and the hub live on, and a mended hub takes it up again.
#[tokio::test(flavor = "multi_thread")]
async fn one_event_panics_in_each_stage() {
    let world = World::new().await;
    let poisoned = world
        .settings()
        .set("HUB_TEST_PANIC_AT", "transform:CR-panic-0,forward:CR-panic-1");
    let hub = Hub::start(&poisoned).await;
    world.post_orders(&hub, ids("panic", 3)).await;
    // What follows in the same order has its own end.
    world.careem.post(&hub, &change("CR-panic-2", "ready")).await.event_id();
    world.at_end(Ends::forwarded(2).dead_lettered(2)).await;
    let mut dead = world.log.payloads(EventType::OrderDeadLettered, 2).await;
    dead.sort_by_key(|one| one["stage"].as_str().map(str::to_owned));
    for (one, stage) in dead.iter().zip(["forward", "transform"]) {
        assert_eq!(
            (&one["stage"], &one["error"]["code"]),
            (&stage.into(), &"PANIC".into()),
            "{one}"
        );
        let place = one["error"]["details"]["place"].as_str().unwrap();
        assert!(place.starts_with("src/fault_injection.rs:"), "{one}");
        assert!(
            !one.to_string().contains("HUB_TEST_PANIC_AT"),
            "the panic's message is not recorded: {one}"
        );
        world
            .metrics_say(&hub, &format!("panics_total{{stage=\"{stage}\"}} 1"))
            .await;
    }
    assert!(hub.terminate().await.0.success());

    let mended = world.hub().await;
    world.retry_dead_letters().await;
    world.at_end(Ends::forwarded(4)).await;
    drop(mended);
}
