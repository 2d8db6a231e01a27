//! What an instance counts in memory is of the present log.

use webhook_hub::{
    config,
    jobs::board::Board,
    journal::connection::{Connection, HUB_INBOX},
};

use super::*;

/// The log goes back and grows past its former end between two looks: the end alone does not say that it is another one.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_goes_back_and_grows_between_two_looks() {
    let world = World::new().await;
    // Dead letters are looked for at every third look: nine seconds are enough for all of the below.
    let hub = Hub::start(&world.settings().set("HUB_TEST_TIMES", "look_at_log=3s")).await;
    world.post_orders(&hub, ids("kept", 1)).await;
    world.log.settled().await;
    let copied = copy_of_events(&world).await;
    let operator = world.nats.settings("hub");
    let settings = config::Nats::from_environment(&operator.environment()).unwrap();
    let connection = Connection::open(&settings, "test", HUB_INBOX).await.unwrap();
    connection.wait_up().await;
    for id in ids("lost", 1).into_iter().chain(ids("later", 2)) {
        world.backend.always_for(&id, Some(Answer::status(422)));
    }
    world.post_orders_to(&hub.url(), ids("lost", 1)).await;
    let retry = ["dead-letters", "retry", "--yes", "--code", "BACKEND_422"];
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    run(&operator, &retry).await.expect_success();
    world.log.wait_for(EventType::JobEnded, 1).await;
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    let mut board = Board::default();
    board.read_on(&connection).await.unwrap();
    assert_eq!(board.jobs().count(), 1);
    let last = world.log.events().await.last().unwrap().sequence;
    let open = |count: usize| {
        format!("dead_letters_open{{stage=\"forward\",code=\"BACKEND_422\",provider=\"careem\"}} {count}")
    };
    world.metrics_has(&hub, &open(1), "before").await;

    put_back(&world, &copied).await;
    world
        .post_orders_to(&hub.url(), ids("later", 2).into_iter().chain(ids("new", 12)))
        .await;
    let log = Log::open(&world.nats).await;
    log.wait_for(EventType::OrderDeadLettered, 2).await;
    log.wait_for(EventType::OrderForwarded, 13).await;
    let now = log.events().await.last().unwrap().sequence;
    assert!(now > last, "what this is about: it ends at {now}, and ended at {last}");
    world.metrics_has(&hub, &open(2), "after").await;
    eventually("the connection is back", PATIENCE, async || {
        board.read_on(&connection).await
    })
    .await;
    assert_eq!(board.jobs().count(), 0, "the job is not on this log");
}
