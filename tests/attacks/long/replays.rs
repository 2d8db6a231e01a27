//! Webhooks that were intercepted, or signed with the secret of one branch, and what an address may do that became known by them.

use futures_util::future::join_all;
use reqwest::Method;
use tokio::net::TcpStream;
use webhook_hub::event::EventType;

use super::{
    Siege,
    floods::{FLOOD, NEWCOMER, PROVIDER, STRANGER},
    good,
};
use crate::harness::{
    at_end::Ends,
    hub::Hub,
    outside::{CAREEM_POS, Outside, send},
    raw::Raw,
};

/// More repeats than the quota of the provider has points.
const REPEATS: usize = 1300;
/// Connections that repeat at a time.
const AT_ONCE: usize = 10;

/// An address that one verified webhook made known opens more connections than the hub holds, and sends that webhook over each.
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_known_address() {
    let _turn = crate::harness::wait::heavy().await;
    let outside = Outside::new(CAREEM_POS).await;
    let siege = Siege {
        hub: Hub::start(&outside.settings().set("RATE_LIMIT_CAREEM", "100000/60s")).await,
        world: outside.world,
        good: 0.into(),
    };
    for from in [STRANGER, PROVIDER] {
        siege.honest(from, "before").await;
    }
    let caught = good("CR-good-0");
    let open = async || {
        let mut open = Vec::new();
        for _ in 0..FLOOD / AT_ONCE {
            let Ok(stream) = Raw::<TcpStream>::try_connect_from(STRANGER, siege.hub.address()).await else {
                continue;
            };
            let _ = stream.try_write(caught.as_bytes());
            // Answered or ended.
            let _ = stream.readable().await;
            open.push(stream);
        }
        open
    };
    let flood = join_all((0..AT_ONCE).map(|_| open())).await;
    for from in [PROVIDER, NEWCOMER, STRANGER] {
        siege.honest(from, "4,200 connections of a known address").await;
    }
    let body = r#"{"status":"accepted","branchId":"branch-uuid"}"#;
    for number in 0..10 {
        let path = format!("orders/careem/CR-good-{number}/status");
        let answer = send(&siege.hub, Method::POST, &path, body, &[]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    drop(flood);
    siege.stands("a flood of connections").await;
}

/// The same bytes again and again, from elsewhere: neither the quota nor the bytes of the provider are spent.
#[tokio::test(flavor = "multi_thread")]
async fn one_webhook_is_replayed_many_times() {
    let _turn = crate::harness::wait::heavy().await;
    let siege = Siege::with(&[("RATE_LIMIT_CAREEM", "150/1h"), ("RATE_LIMIT_ADDRESS", "100/1h/1h")]).await;
    let caught = good(&siege.next());
    let post = async |from, bytes: &str| {
        let mut client = Raw::connect_from(from, siege.hub.address()).await;
        client.write(bytes).await;
        client.answer().await.map_or(0, |answer| answer.status)
    };
    assert_eq!(post(PROVIDER, &caught).await, 200);
    let repeat = async || {
        let mut told = Vec::new();
        for _ in 0..REPEATS / AT_ONCE {
            told.push(post(STRANGER, &caught).await);
        }
        told
    };
    let told = join_all((0..AT_ONCE).map(|_| repeat())).await.concat();
    assert!(told.iter().all(|status| matches!(status, 200 | 429)), "{told:?}");
    let taken = told.iter().filter(|status| **status == 200).count();
    assert_eq!(taken, 50, "an address may repeat one so often");
    // Its repeats count against it, and not against the provider, which has all of its quota but for one point.
    siege.hub.says("address blocked").await;
    assert_eq!(post(PROVIDER, &caught).await, 200);
    for number in 1..150 {
        assert_eq!(post(PROVIDER, &good(&siege.next())).await, 200, "order {number}");
    }
    assert_eq!(post(PROVIDER, &good("CR-over")).await, 429);
    siege.ends().await;
}

/// A caught webhook without a signed time, after the log forgot its id: it is taken again, for the first may have been given up, but it
/// costs the provider nothing, and the address that sends it is a stranger's.
#[tokio::test(flavor = "multi_thread")]
async fn one_webhook_is_replayed_after_the_duplicate_window() {
    let siege = Siege::with(&[("RATE_LIMIT_CAREEM", "3/1h"), ("RATE_LIMIT_ADDRESS", "3/1h/1h")]).await;
    let caught = good(&siege.next());
    let post = async |from, bytes: &str| {
        let mut client = Raw::connect_from(from, siege.hub.address()).await;
        client.write(bytes).await;
        client.answer().await.map_or(0, |answer| answer.status)
    };
    assert_eq!(post(PROVIDER, &caught).await, 200);
    siege.world.at_end(Ends::forwarded(1)).await;
    siege.world.log_forgets(&siege.hub).await;
    assert_eq!(post(STRANGER, &caught).await, 200);
    siege.world.log.wait_for(EventType::OrderIgnored, 1).await;
    // A known address would never be blocked.
    let forged = good("CR-forged").replace("x-careem-signature: ", "x-careem-signature: 0");
    let told = [
        post(STRANGER, &forged).await,
        post(STRANGER, &forged).await,
        post(STRANGER, &forged).await,
    ];
    assert_eq!(told, [401; 3]);
    assert_eq!(post(STRANGER, &caught).await, 429);
    for number in 1..3 {
        assert_eq!(post(PROVIDER, &good(&siege.next())).await, 200, "order {number}");
    }
    assert_eq!(post(PROVIDER, &good("CR-over")).await, 429);
    siege.world.at_end(Ends::forwarded(3).ignored(1)).await;
}
