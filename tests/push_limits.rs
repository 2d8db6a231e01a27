//! A provider's rate limit: events that have to wait for it wait once, in order.

use futures_util::StreamExt;
use webhook_hub::event::EventType;

use crate::harness::{
    log::payload,
    outside::{CAREEM_POS, Outside},
    wait::{PATIENCE, eventually},
};

/// More than the stage keeps in memory while it waits, at ten a second.
const CROWD: usize = 700;
/// How many statuses are sent before counting begins.
const TOLD: usize = 80;

mod long {
    use super::*;

    /// Each gets a time of its own and waits for that: its lane is written when it begins to wait and ends when it was told.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_crowd_waits_once_for_a_limit_and_is_sent_in_order() {
        let outside = Outside::new(CAREEM_POS).await;
        let hub = outside.hub().await;
        futures_util::stream::iter(0..CROWD)
            .for_each_concurrent(16, async |number| {
                outside.ask(&hub, &format!("CR-{number}"), "accepted").await;
            })
            .await;
        eventually("so many are told", PATIENCE * 2, async || {
            let told = outside.provider.calls().len();
            if told >= TOLD { Ok(()) } else { Err(told) }
        })
        .await;
        let provision = outside.world.nats.provision().await;
        let written = provision
            .get_stream("LANES")
            .await
            .unwrap()
            .cached_info()
            .state
            .last_sequence;
        // Lane, schedule, its message and the lane's end; those that the stage keeps in memory have none.
        let most = 4 * CROWD as u64 + 100;
        assert!(written <= most, "{written} messages in LANES for {CROWD} statuses");
        let requested = outside.world.log.wait_for(EventType::OrderStatusRequested, CROWD).await;
        let place = |path: &str| {
            let order = path.rsplit('/').next().unwrap();
            requested
                .iter()
                .position(|event| event.envelope.external_order_id == order)
                .unwrap()
        };
        // Two that are sent together may come the other way round.
        for (at, call) in outside.provider.calls().iter().take(TOLD).enumerate() {
            let off = place(&call.path).abs_diff(at);
            assert!(
                off <= 20,
                "{} was told as number {at}, asked for as number {}",
                call.path,
                place(&call.path)
            );
        }
        let failed = outside.world.log.events().await;
        let failed: Vec<_> = failed
            .iter()
            .filter(|event| event.envelope.event_type == EventType::OrderStatusPushFailed)
            .map(|event| payload(event))
            .collect();
        assert!(failed.is_empty(), "{failed:?}");
        // The rest would take a minute more.
        hub.kill().await;
    }
}
