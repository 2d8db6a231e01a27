//! What was found about the log's identity is shown until an operator had the time to see it.

use chrono::{DateTime, Utc};

use super::*;

impl World {
    /// What health says of the log's identity, as soon as it says something.
    async fn finding(&self, hub: &Hub) -> Value {
        let url = format!("{}/health", hub.private_url());
        eventually("health shows what was found", PATIENCE, async || {
            let health = self.careem.request(Method::GET, &url).await.json();
            let found = health["eventLog"]["identity"].clone();
            if found.is_null() { Err(health) } else { Ok(found) }
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finding_outlives_the_hub_that_made_it() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("kept", 2)).await;
    world.log.settled().await;
    let copied = copy_of_events(&world).await;
    world.post_orders_to(&hub.url(), ids("lost", 2)).await;
    world.log.settled().await;
    put_back(&world, &copied).await;
    world.finding(&hub).await;
    let provision = world.nats.provision().await;
    eventually("the server has it", PATIENCE, async || {
        let leases = provision
            .get_stream("LEASES")
            .await
            .map_err(|error| error.to_string())?;
        let kept = leases.get_last_raw_message_by_subject("hub.lease.identity").await;
        kept.map_err(|error| error.to_string())
    })
    .await;
    hub.kill().await;

    let started = Utc::now();
    let hub = world.hub().await;
    let found = world.finding(&hub).await;
    let time = |name: &str| found[name].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    assert!(time("at") < started, "it was found by the hub before: {found}");
    assert_eq!((time("shownUntil") - time("at")).num_days(), 6, "{found}");
    assert!(
        found["found"].as_str().unwrap().contains("the event log went back"),
        "{found}"
    );
}
