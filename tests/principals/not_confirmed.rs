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

/// The backend refused B's order, which was called off; that it was retried all the same made no order of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_order_that_ended_without_a_request_afterwards_is_none_of_that_number() {
    let tenants = Tenants::new(|settings| settings).await;
    let world = &tenants.outside.world;
    world.backend.next_for("CR-29", [Said::status(422), Said::status(422)]);
    tenants.order_of(B, "CR-29").await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    tenants
        .send("careem", B, Some(B), &change("CR-29", "cancelled"))
        .await
        .event_id();
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.retry_dead_letters().await;
    let ignored = &world.log.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(ignored["reason"], "SUPERSEDED", "{ignored}");
    world.log.settled().await;
    tenants.order_of(A, "CR-29").await;
    tenants.has_rows("CR-29", &["branch-a pending"]).await;
    tenants.ask("CR-29", json!({})).await;
    world.log.wait_for(EventType::OrderStatusPushed, 1).await;
    assert_eq!(tenants.told("CR-29"), ["store-1"]);
}

/// A backend that refuses B's order says so to the provider as well. By the number alone it could be A's, which it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_may_be_of_the_order_that_the_backend_refused() {
    let tenants = Tenants::new(|settings| settings).await;
    let world = &tenants.outside.world;
    tenants.order_of(A, "CR-30").await;
    tenants.has_rows("CR-30", &["branch-a pending"]).await;
    for id in ["CR-30", "CR-31"] {
        world.backend.next_for(id, [Said::status(422)]);
        tenants.order_of(B, id).await;
    }
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    let rejected = json!({ "status": "rejected", "reason": "closed" });
    tenants.ask("CR-30", rejected.clone()).await;
    tenants.is_ambiguous(3).await;
    assert_eq!(tenants.told("CR-30"), [""; 0]);
    // B's is the only one of this number.
    tenants.ask("CR-31", rejected).await;
    world.log.wait_for(EventType::OrderStatusPushed, 1).await;
    assert_eq!(tenants.told("CR-31"), ["store-2"]);
    world.at_end(Ends::forwarded(1).dead_lettered(3)).await;
}

/// The backend names its own id of A's order before it confirms the order.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_waits_for_the_order_that_the_backend_names() {
    let tenants = Tenants::new(retries_quickly).await;
    let world = &tenants.outside.world;
    tenants.order_of(B, "CR-32").await;
    tenants.has_rows("CR-32", &["branch-b pending"]).await;
    world.backend.always_for("CR-32", Some(Said::TakeAndHang));
    tenants.order_of(A, "CR-32").await;
    world.backend.wait_for(2).await;
    tenants.ask("CR-32", json!({ "orderId": "order-2" })).await;
    world.log.wait_for(EventType::OrderStatusRequested, 1).await;
    world.backend.always_for("CR-32", None);
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.log.wait_for(EventType::OrderStatusPushed, 1).await;
    assert_eq!(tenants.told("CR-32"), ["store-1"]);
    world.at_end(Ends::forwarded(2)).await;
}

/// An order that is never confirmed is not waited for, and the other branch's statuses are told.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_does_not_wait_for_an_outage() {
    let tenants =
        Tenants::new(|settings| retries_quickly(settings).set("HUB_TEST_TIMES", "unconfirmed_order=1s")).await;
    let world = &tenants.outside.world;
    tenants.order_of(B, "CR-33").await;
    tenants.has_rows("CR-33", &["branch-b pending"]).await;
    world.backend.always_for("CR-33", Some(Said::status(503)));
    tenants.order_of(A, "CR-33").await;
    world.backend.wait_for(2).await;
    tenants.ask("CR-33", json!({ "orderId": "order-2" })).await;
    tenants.ask("CR-33", json!({ "branchId": "branch-b" })).await;
    tenants.is_ambiguous(1).await;
    world.log.wait_for(EventType::OrderStatusPushed, 1).await;
    assert_eq!(tenants.told("CR-33"), ["store-2"]);
    world.backend.always_for("CR-33", None);
    world.at_end(Ends::forwarded(2).dead_lettered(1)).await;
}

/// Only the tables know which order the backend names, and they cannot be read for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_waits_for_tables_that_cannot_be_read() {
    let tenants = Tenants::new(|settings| settings).await;
    let world = &tenants.outside.world;
    for branch in [B, A] {
        let announced = format!("{}{}", order("CR-34"), " ".repeat(usize::from(branch == A)));
        tenants
            .send("careem", Platform, Some(branch), &announced)
            .await
            .event_id();
        world.log.settled().await;
    }
    tenants
        .has_rows("CR-34", &["branch-a pending", "branch-b pending"])
        .await;
    let lock = "BEGIN; LOCK TABLE provider_order_logs IN ACCESS EXCLUSIVE MODE";
    world.database.run(lock).await.unwrap();
    tenants.ask("CR-34", json!({ "orderId": "order-2" })).await;
    tenants.hub.says("only the log says which branch").await;
    world.database.run("COMMIT").await.unwrap();
    world.log.wait_for(EventType::OrderStatusPushed, 1).await;
    assert_eq!(tenants.told("CR-34"), ["store-1"]);
    world.at_end(Ends::forwarded(2)).await;
}
