//! URLs that come from a table: a changed row gets no token of another address, and no request leaves the configured hosts.

use webhook_hub::event::EventType;

use crate::harness::{
    at_end::Ends,
    hub::Hub,
    outside::{CAREEM_POS, Outside},
    platform::Provider,
    wait::{PATIENCE, eventually},
};

impl Outside {
    async fn row_names(&self, url: &str) {
        let row = format!("UPDATE delivery_providers SET api_base_url = '{url}' WHERE code = 'careem'");
        self.world.database.run(&row).await.unwrap();
    }

    /// Asks for statuses of new orders until the condition holds; how many were asked for.
    async fn ask_until(&self, hub: &Hub, name: &str, holds: impl Fn() -> bool) -> usize {
        let mut asked = 0;
        eventually(name, PATIENCE, async || {
            if holds() {
                return Ok(());
            }
            asked += 1;
            self.ask(hub, &format!("CR-{name}-{asked}"), "accepted").await;
            Err(asked)
        })
        .await;
        asked
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_row_gets_no_token_of_another_address() {
    let outside = Outside::new(&CAREEM_POS.replace("requests_per_second = 10\n", "")).await;
    let (second, stranger) = (Provider::start(), Provider::start());
    let hosts = format!("{},{}", outside.provider.url(), second.url());
    let settings = outside
        .settings()
        .set("CAREEM_API_URL", "")
        .set("CAREEM_API_HOSTS", hosts)
        .set("CIRCUIT_BREAKER_RESET_TIMEOUT", "200ms")
        .set("HUB_TEST_TIMES", "branch_refresh=100ms");
    outside.row_names(&outside.provider.url()).await;
    let hub = Hub::start(&settings).await;
    outside.ask(&hub, "CR-first", "accepted").await;
    outside.provider.wait_for(1).await;
    let mut asked = 1;
    // One that nobody allowed gets nothing: neither a token nor name and secret. What is for it waits, without an attempt.
    outside.row_names(&stranger.url()).await;
    let heard = || stranger.calls().len() + stranger.token_requests();
    let refused = || hub.logs_contain("delivery_providers.api_base_url") || heard() > 0;
    asked += outside.ask_until(&hub, "stranger", refused).await;
    assert_eq!(heard(), 0, "{:?}", stranger.calls());
    // Another address of the provider, which is allowed: with a token of its own.
    outside.row_names(&second.url()).await;
    asked += outside.ask_until(&hub, "second", || !second.calls().is_empty()).await;
    let refused = second.calls().into_iter().find(|call| call.status == 401);
    assert!(refused.is_none(), "{refused:?}");
    assert_eq!((second.tokens(), outside.provider.tokens()), (1, 1));
    // The row is right again, and everything goes on by itself.
    outside.row_names(&outside.provider.url()).await;
    let pushed = outside.payloads(EventType::OrderStatusPushed, asked).await;
    assert!(pushed.iter().all(|one| one["attempts"] == 1), "{pushed:#?}");
    assert_eq!((heard(), outside.provider.tokens()), (0, 1));
    outside.world.at_end(Ends::default()).await;
}
