//! Who is turned away leaves a trace, with reason and address and without what it brought; a crowd of them leaves hardly
//! more of a trace than one, and is felt by nobody.

use std::time::Instant;

use async_nats::jetstream::stream::Config;
use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    World,
    at_end::Ends,
    careem::{Answer, MERCHANT, SECRET, order},
    hub::{Hub, run},
    ids,
    wait::{PATIENCE, eventually},
};

/// Content of refused requests, which is not kept.
const SENT: &str = "hunter2-sent";
/// How many refusals are a flood, and how many at a time.
const FLOOD: usize = 20_000;
const AT_A_TIME: usize = 64;
/// Samples of a second, at once, and lines of a kind likewise, as the hub has them.
const SAMPLES: (usize, usize) = (5, 50);
const LINES: (usize, usize) = (1, 20);

/// A hub that believes what this machine says of its clients' addresses.
async fn behind_proxy(world: &World) -> Hub {
    Hub::start(&world.settings().set("TRUSTED_PROXIES", "127.0.0.1")).await
}

fn address(number: usize) -> String {
    format!("198.18.{}.{}", number / 256 % 256, number % 256)
}

/// A stranger's request that looks like a provider's.
async fn knock(world: &World, hub: &Hub, from: &str) -> Answer {
    let bearer = format!("Bearer {SENT}");
    let headers = [
        ("x-forwarded-for", from),
        ("authorization", bearer.as_str()),
        ("cookie", SENT),
        ("x-careem-signature", SENT),
        ("user-agent", "knocker/1.0 \u{9b}"),
        ("x-merchant-id", MERCHANT),
    ];
    world
        .careem
        .post_raw(hub, format!("{{\"id\":\"{SENT}\"}}"), &headers)
        .await
}

async fn refusals(world: &World, args: &[&str]) -> Vec<Value> {
    let args = [&["refusals", "list", "--json", "--limit", "100000"], args].concat();
    let ran = run(&world.nats.settings("hub"), &args).await.expect_success();
    serde_json::from_str(&ran.stdout).unwrap()
}

async fn refusals_are(world: &World, count: usize) -> Vec<Value> {
    eventually("the refusals are in the stream", PATIENCE, async || {
        let found = refusals(world, &[]).await;
        if found.len() == count {
            Ok(found)
        } else {
            Err(found.len())
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_leaves_reason_and_address() {
    let world = World::new().await;
    let hub = behind_proxy(&world).await;
    let answer = knock(&world, &hub, "203.0.113.7, 203.0.113.8").await;
    assert_eq!(answer.status, 401);
    let path = format!("/api/webhooks/{}", "x".repeat(200));
    let asked = world
        .careem
        .request(Method::POST, &format!("{}{path}?key={SENT}", hub.url()))
        .await;
    assert_eq!(asked.status, 404);

    let found = refusals_are(&world, 2).await;
    let mut first = found[0].clone();
    let time = first.as_object_mut().unwrap().remove("time").unwrap();
    assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
    let expected = json!({
        "requestId": answer.header("x-request-id"), "provider": "careem", "code": "INVALID_SIGNATURE", "status": 401,
        "clientAddress": "203.0.113.8", "method": "POST", "path": "/api/webhooks/careem",
        "scheme": "careem", "userAgent": "knocker/1.0 ?", "bodyBytes": 21,
    });
    let scheme = first["scheme"].take();
    assert!(
        scheme.as_str().is_some_and(|scheme| scheme == "hmac-sha256"),
        "{scheme}"
    );
    first["scheme"] = json!("careem");
    assert_eq!(first, expected);
    assert_eq!(
        (&found[1]["provider"], &found[1]["code"], &found[1]["clientAddress"]),
        (&json!("_"), &json!("PROVIDER_NOT_FOUND"), &json!("127.0.0.1"))
    );
    assert_eq!(found[1]["path"], path[..128]);
    let line = |code: &str, address: &str| {
        hub.log()
            .lines()
            .any(|line| line.contains(code) && line.contains(address))
    };
    assert!(
        line("INVALID_SIGNATURE", "203.0.113.8") && line("PROVIDER_NOT_FOUND", "127.0.0.1"),
        "{}",
        hub.log()
    );
    for text in [json!(found).to_string(), hub.log(), world.metrics(&hub).await] {
        for secret in [SENT, SECRET] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
    for (args, count) in [
        (&["--provider", "careem"][..], 1),
        (&["--provider", "_"], 1),
        (&["--code", "INVALID_SIGNATURE"], 1),
        (&["--since", "1h"], 2),
        (&["--since", "2100-01-01T00:00:00Z"], 0),
    ] {
        assert_eq!(refusals(&world, args).await.len(), count, "{args:?}");
    }
    let table = run(&world.nats.settings("hub"), &["refusals", "list", "--limit", "1"])
        .await
        .expect_success();
    assert!(
        table.stdout.contains("PROVIDER_NOT_FOUND") && table.stdout.contains("1 older ones"),
        "{}",
        table.stdout
    );
    world.careem.post(&hub, &order("CR-good")).await.event_id();
    world.at_end(Ends::forwarded(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_samples_are_removed_first() {
    let world = World::new().await;
    let provision = world.nats.provision().await;
    let stream = provision.get_stream("REFUSALS").await.unwrap();
    let config = stream.cached_info().config.clone();
    provision
        .update_stream(Config {
            max_messages: 3,
            ..config
        })
        .await
        .unwrap();
    // Nothing depends on it, so a hub serves with other limits, too.
    let hub = behind_proxy(&world).await;
    for number in 0..8 {
        knock(&world, &hub, &address(number)).await;
    }
    let kept = eventually("the last is in the stream", PATIENCE, async || {
        let found = refusals(&world, &[]).await;
        let from: Vec<_> = found
            .iter()
            .map(|one| one["clientAddress"].as_str().unwrap().to_owned())
            .collect();
        if from.last() == Some(&address(7)) {
            Ok(from)
        } else {
            Err(from)
        }
    });
    assert_eq!(kept.await, [address(5), address(6), address(7)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_stream_or_nats_nothing_else_changes() {
    let world = World::new().await;
    world.nats.provision().await.delete_stream("REFUSALS").await.unwrap();
    let hub = behind_proxy(&world).await;
    assert_eq!(knock(&world, &hub, &address(1)).await.status, 401);
    world.post_orders(&hub, ids("good", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    let ran = run(&world.nats.settings("hub"), &["refusals", "list"]).await;
    assert!(
        ran.code == Some(1) && ran.stderr.contains("streams apply"),
        "{}",
        ran.said()
    );

    world.nats.server.stop().await.unwrap();
    let mut number = 0;
    eventually("what is lost is counted", PATIENCE, async || {
        number += 1;
        assert_eq!(knock(&world, &hub, &address(number)).await.status, 401);
        let said = world.metrics(&hub).await;
        if said.contains("refusals_lost_total ") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    world.nats.server.restart().await.unwrap();
    assert!(hub.terminate().await.0.success());
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_flood_fills_nothing_and_slows_nobody() {
        let world = World::new().await;
        let hub = behind_proxy(&world).await;
        let began = Instant::now();
        let flood = stream::iter(0..FLOOD).for_each_concurrent(AT_A_TIME, async |number| {
            assert_eq!(knock(&world, &hub, &address(number)).await.status, 401);
        });
        tokio::join!(flood, world.post_orders(&hub, ids("good", 50)));
        let counted = format!("webhooks_rejected_total{{provider=\"careem\",reason=\"INVALID_SIGNATURE\"}} {FLOOD}");
        let said = world.metrics(&hub).await;
        assert!(said.contains(&counted), "{said}");

        // Every refusal is a line or is counted in one.
        let lines = eventually("what was left out is said", PATIENCE, async || {
            let (mut written, mut left_out) = (0, 0);
            for line in hub
                .log()
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            {
                match line["message"].as_str().unwrap_or_default() {
                    "request refused" => written += 1,
                    "more requests were refused than logged" => left_out += line["metadata"]["count"].as_u64().unwrap(),
                    _ => {}
                }
            }
            if written + left_out == FLOOD as u64 {
                Ok(written)
            } else {
                Err((written, left_out))
            }
        })
        .await;
        let seconds = began.elapsed().as_secs() as usize + 1;
        assert!(
            lines as usize <= LINES.1 + LINES.0 * seconds,
            "{lines} lines in {seconds} s"
        );
        let kept = refusals(&world, &[]).await.len();
        let most = SAMPLES.1 + SAMPLES.0 * seconds;
        assert!(kept >= SAMPLES.1 / 2 && kept <= most, "{kept} of at most {most}");
        world.at_end(Ends::forwarded(50)).await;
    }
}
