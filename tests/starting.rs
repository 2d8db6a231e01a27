//! The messages for an operator when something is wrong at the start, or soon will be.

use std::net::TcpListener;

use crate::harness::{
    World,
    at_end::Ends,
    certificates::{Authority, text},
    hub::{Hub, Settings, run},
    ids,
    wait::{PATIENCE, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn misspelt_variables() {
    let world = World::new().await;
    let refused = run(&world.settings().set("RETRY_DELAY", "1s"), &["serve"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("RETRY_DELAY: unknown; was RETRY_DELAYS meant?"),
        "{}",
        refused.said()
    );
    let settings = world.settings().set("BACKEND_RETRIES", 3).set("CAREEM_ENABLED", false);
    let hub = Hub::start(&settings).await;
    hub.says("BACKEND_RETRIES").await;
    hub.says("no provider is enabled").await;
}

/// For each way in which NATS is not there, the log and health say which server and why; the log not at every attempt.
#[tokio::test(flavor = "multi_thread")]
async fn nats_cannot_be_reached() {
    let world = World::new().await;
    // Takes connections and says nothing that NATS would.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("nats://{}", silent.local_addr().unwrap());
    let closed = "nats://127.0.0.1:1";
    let unknown = "nats://nats.invalid:4222";
    let nats = world.nats.url();
    let tls = nats.replace("nats://", "tls://");
    let of = |url: &str| {
        world
            .settings()
            .set("NATS_URL", url)
            .set("HUB_TEST_TIMES", "first_pause=300ms")
    };
    let wrong: Vec<(&str, Settings, &str)> = vec![
        (closed, of(closed), "nothing listens there"),
        (unknown, of(unknown), "its name cannot be resolved"),
        (
            &nats,
            of(&nats).set("NATS_PASSWORD", "wrong"),
            "NATS_USER and NATS_PASSWORD",
        ),
        (&tls, of(&tls), "TLS fails"),
        (&silent, of(&silent), "no answer in time"),
    ];
    let seen = wrong.iter().map(async |(url, settings, why)| {
        let hub = Hub::start(settings).await;
        hub.says(&format!("{url}: ")).await;
        hub.says(why).await;
        let reason = world.health(&hub).await["reasons"]["nats"].clone();
        assert!(reason.as_str().unwrap().contains(why), "{reason}");
        let lines = hub
            .log()
            .lines()
            .filter(|line| line.contains("NATS cannot be reached"))
            .count();
        assert!((1..=6).contains(&lines), "{lines} lines: {}", hub.log());
        let others = hub
            .log()
            .lines()
            .filter(|line| line.contains("authorization violation"))
            .count();
        assert!(others <= 6, "{others} lines of the client: {}", hub.log());
    });
    futures_util::future::join_all(seen).await;
    drop(world);
}

/// A certificate with little time left is in log, metric and health, and a new one takes it away.
#[tokio::test(flavor = "multi_thread")]
async fn an_expiring_certificate_is_reported() {
    let world = World::new().await;
    let authority = Authority::new();
    let files = authority.ends_in("backend", 10);
    let settings = world
        .settings()
        .set("BACKEND_TLS_CA", text(&authority.ca()))
        .set("BACKEND_TLS_CERT", text(&files.certificate))
        .set("BACKEND_TLS_KEY", text(&files.key));
    let hub = Hub::start(&settings).await;
    hub.says("it expires soon: renew it").await;
    let said = eventually("nothing else is wrong", PATIENCE, async || {
        let said = world.health(&hub).await;
        if said["status"] == "degraded" && said["checks"]["database"] == "healthy" {
            Ok(said)
        } else {
            Err(said)
        }
    })
    .await;
    assert_eq!(said["checks"]["credentials"], "unhealthy", "{said}");
    assert_eq!(said["checks"]["database"], "healthy", "{said}");
    let left = said["credentials"]["BACKEND_TLS_CERT"]["daysLeft"].as_f64().unwrap();
    assert!((8.0..=10.0).contains(&left), "{said}");
    assert_eq!(said["credentials"]["BACKEND_TLS_CA"]["isClose"], false, "{said}");
    let metrics = world.metrics(&hub).await;
    let line = metrics
        .lines()
        .find(|line| line.starts_with("credential_days_left{variable=\"BACKEND_TLS_CERT\"}"));
    assert!(
        line.is_some_and(|line| line.contains("} 9.") || line.contains("} 8.")),
        "{line:?}"
    );
    assert_eq!(authority.ends_in("backend", 300).certificate, files.certificate);
    hub.reload().await;
    eventually("the new one is seen", PATIENCE, async || {
        let said = world.health(&hub).await;
        if said["checks"]["credentials"] == "healthy" {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
}

/// On a log without events no order can have been parked: there is nothing to warn of.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_warns_of_no_lost_lanes() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("first", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    hub.says("\"stage taken over").await;
    assert!(!hub.logs_contain("LANES is new"), "{}", hub.log());
}
