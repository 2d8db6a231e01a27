//! Whose order a status is about that names no branch, while the backend has not confirmed one of the orders of that number, or refused it.

use super::*;

/// Frequent retries, so that an order that hangs is asked for again soon.
fn retries_quickly(settings: Settings) -> Settings {
    settings
        .set("CIRCUIT_BREAKER_ENABLED", false)
        .set("RETRY_DELAYS", "500ms")
        .set("BACKEND_TIMEOUT", "5s")
        .set("RETRY_MAX_ATTEMPTS", 50)
}

impl Tenants {
    /// The last of so many dead letters is a request whose order may be of several branches.
    async fn is_ambiguous(&self, dead_letters: usize) {
        let dead = self
            .outside
            .world
            .log
            .payloads(EventType::OrderDeadLettered, dead_letters)
            .await;
        let last = dead.last().unwrap();
        assert_eq!(
            (&last["error"]["code"], &last["stage"]),
            (&json!("ORDER_AMBIGUOUS"), &json!("push"))
        );
    }
}

/// The backend has the second order and has not said so yet, so the tables know only the first one.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_the_backend_has_not_confirmed_yet_is_one_of_that_number() {
    let tenants = Tenants::new(retries_quickly).await;
    let world = &tenants.outside.world;
    tenants.order_of(B, "CR-23").await;
    tenants.has_rows("CR-23", &["branch-b pending"]).await;
    world.backend.always_for("CR-23", Some(Said::TakeAndHang));
    tenants.order_of(A, "CR-23").await;
    let of_a = world.log.wait_for(EventType::OrderTransformed, 2).await[1].sequence;
    world.backend.wait_for(2).await;
    eventually("the tables are beyond A's order", PATIENCE, async || {
        let rows = world.database.rows("SELECT position FROM hub.cursors").await.unwrap();
        let is_beyond = rows.iter().any(|row| row["position"].as_u64() >= Some(of_a));
        if is_beyond { Ok(()) } else { Err(rows) }
    })
    .await;
    tenants.ask("CR-23", json!({})).await;
    tenants.is_ambiguous(1).await;
    world.backend.always_for("CR-23", None);
    world.at_end(Ends::forwarded(2).dead_lettered(1)).await;
    assert_eq!(tenants.told("CR-23"), [""; 0]);
}

/// The backend refused B's order of the number, so it has A's alone.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_the_backend_refused_is_none_of_that_number() {
    let tenants = Tenants::new(|settings| settings).await;
    let world = &tenants.outside.world;
    world.backend.next_for("CR-24", [Said::status(422)]);
    tenants.order_of(B, "CR-24").await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    tenants.order_of(A, "CR-24").await;
    tenants.has_rows("CR-24", &["branch-a pending"]).await;
    tenants.ask("CR-24", json!({})).await;
    world.log.wait_for(EventType::OrderStatusPushed, 1).await;
    assert_eq!(tenants.told("CR-24"), ["store-1"]);
    world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
}

/// A had the number five days ago. B's order of it is at the backend, which has not said so yet.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_another_week_is_none_of_that_number() {
    let tenants = Tenants::new(retries_quickly).await;
    let world = &tenants.outside.world;
    tenants.order_of(A, "CR-25").await;
    tenants.has_rows("CR-25", &["branch-a pending"]).await;
    tenants.renumber("CR-25", A, "CR-26").await;
    let old = "UPDATE provider_order_logs SET created_at = created_at - interval '5 days'";
    world.database.run(old).await.unwrap();
    world.backend.always_for("CR-26", Some(Said::TakeAndHang));
    tenants.order_of(B, "CR-26").await;
    world.backend.wait_for(2).await;
    tenants.ask("CR-26", json!({})).await;
    world.log.wait_for(EventType::OrderStatusPushed, 1).await;
    assert_eq!(tenants.told("CR-26"), ["store-2"]);
    world.backend.always_for("CR-26", None);
    world.log.wait_for(EventType::OrderForwarded, 2).await;
}

/// The same while the tables know neither order: the log alone says whose they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_order_is_none_of_that_number_while_the_tables_are_behind() {
    let tenants = Tenants::new(|settings| settings).await;
    let world = &tenants.outside.world;
    let lock = "BEGIN; LOCK TABLE webhook_logs IN ACCESS EXCLUSIVE MODE";
    world.database.run(lock).await.unwrap();
    world.backend.next_for("CR-27", [Said::status(422)]);
    let announced = order("CR-27");
    // The same bytes would be the same webhook.
    let once_more = format!("{announced}\n");
    for (branch, body, end) in [
        (B, announced, EventType::OrderDeadLettered),
        (A, once_more, EventType::OrderForwarded),
    ] {
        tenants.send("careem", Platform, Some(branch), &body).await.event_id();
        world.log.wait_for(end, 1).await;
    }
    tenants.ask("CR-27", json!({})).await;
    world.log.wait_for(EventType::OrderStatusPushed, 1).await;
    assert_eq!(tenants.told("CR-27"), ["store-1"]);
    world.database.run("COMMIT").await.unwrap();
    world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
}

/// A person had B's refused order taken up again. The backend has it, and has not said so yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_order_that_is_taken_up_again_is_one_of_that_number() {
    let tenants = Tenants::new(retries_quickly).await;
    let world = &tenants.outside.world;
    world.backend.next_for("CR-28", [Said::status(422)]);
    tenants.order_of(B, "CR-28").await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    tenants.order_of(A, "CR-28").await;
    tenants.has_rows("CR-28", &["branch-a pending"]).await;
    world.backend.always_for("CR-28", Some(Said::TakeAndHang));
    world.retry_dead_letters().await;
    world.backend.wait_for(3).await;
    tenants.ask("CR-28", json!({})).await;
    tenants.is_ambiguous(2).await;
    assert_eq!(tenants.told("CR-28"), [""; 0]);
    world.backend.always_for("CR-28", None);
    world.log.wait_for(EventType::OrderForwarded, 2).await;
}
