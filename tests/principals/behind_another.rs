//! Today's order waits for an event in the other lane that is not the first one there: another branch's order stands before it.

use super::{
    another_order::away,
    two_lanes::{corrected, of_another_day, patient_tenants},
    *,
};

/// Branch A's order waits for its retry in the platform's lane, and yesterday's order of branch B behind it. The backend is away for so many
/// requests.
async fn yesterdays_behind_another_branchs(id: &str, is_away_for: usize) -> Tenants {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    world.backend.next_for(id, (0..is_away_for).map(|_| away()));
    tenants.say(Platform, A, &order(id)).await;
    world.has_parked(1).await;
    tenants.say(Platform, B, &corrected(id)).await;
    world.log.wait_for(EventType::OrderForwardFailed, 2).await;
    tenants
}

/// Branch A's order, and yesterday's of branch B behind it in the platform's lane, wait for their retries. In B's own lane a correction of yesterday's
/// waits for that, and today's order behind the correction.
#[tokio::test(flavor = "multi_thread")]
async fn todays_order_behind_a_correction_of_one_behind_another_branchs() {
    let id = "CR-100";
    let tenants = yesterdays_behind_another_branchs(id, 2).await;
    let world = &tenants.outside.world;
    let again = corrected(id).replace("26.24", "36.24");
    tenants.say(B, B, &again).await;
    world.has_parked(2).await;
    tenants.say(B, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderIgnored, 2).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
}

/// The same with a cancellation of yesterday's.
#[tokio::test(flavor = "multi_thread")]
async fn todays_order_behind_news_of_one_behind_another_branchs() {
    let id = "CR-101";
    let tenants = yesterdays_behind_another_branchs(id, 3).await;
    let world = &tenants.outside.world;
    tenants.say(B, B, &change(id, "cancelled")).await;
    world.has_parked(2).await;
    tenants.say(B, B, &of_another_day(id)).await;
    // Yesterday's is tried at once, and given up.
    let dead = world.log.payloads(EventType::OrderDeadLettered, 1).await;
    assert_eq!(dead[0]["error"]["code"], "NUMBER_USED_AGAIN", "{}", dead[0]);
    world.log.wait_for(EventType::OrderForwarded, 1).await;
}

/// The same without branch A's order.
#[tokio::test(flavor = "multi_thread")]
async fn todays_order_behind_news_of_one_in_the_other_lane() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-102";
    world.backend.next_for(id, [away(), away()]);
    tenants.say(Platform, B, &corrected(id)).await;
    world.has_parked(1).await;
    tenants.say(B, B, &change(id, "cancelled")).await;
    world.has_parked(2).await;
    tenants.say(B, B, &of_another_day(id)).await;
    let dead = world.log.payloads(EventType::OrderDeadLettered, 1).await;
    assert_eq!(dead[0]["error"]["code"], "NUMBER_USED_AGAIN", "{}", dead[0]);
    world.log.wait_for(EventType::OrderForwarded, 1).await;
}

/// Yesterday's order of B was refused, its second announcement waits behind A's order, and the first is retried behind that. Today's comes by B's secret.
#[tokio::test(flavor = "multi_thread")]
async fn todays_order_and_a_retry_behind_a_second_announcement_behind_another_branchs() {
    let tenants = patient_tenants().await;
    let world = &tenants.outside.world;
    let id = "CR-103";
    world
        .backend
        .next_for(id, [Said::status(422), away(), away(), away(), away()]);
    tenants.say(Platform, B, &order(id)).await;
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    // The same bytes are one webhook, whatever branch they name.
    tenants
        .say(Platform, A, &order(id).replacen('{', "{\"attempt\": 2,", 1))
        .await;
    world.has_parked(1).await;
    tenants.say(Platform, B, &corrected(id)).await;
    world.log.wait_for(EventType::OrderForwardFailed, 2).await;
    tenants.retry(&dead[0]).await;
    eventually("the retry waits in the lane", PATIENCE, async || {
        let lanes = world.lanes().await;
        let waiting = |lane: &Value| lane["waiting"].as_array().map_or(0, Vec::len);
        if lanes.iter().map(waiting).sum::<usize>() == 2 {
            Ok(())
        } else {
            Err(lanes)
        }
    })
    .await;
    tenants.say(B, B, &of_another_day(id)).await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
}
