//! A crowd of addresses, some of them known, fills the room for bodies, or sends what is refused. Honest webhooks come meanwhile: from the
//! provider's address, from a known one of the crowd, and from a new one.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::task::JoinSet;

use super::{
    super::{PATH, Siege},
    floods::{NEWCOMER, PROVIDER, crowd, sum},
};
use crate::harness::{
    raw::{Raw, request},
    wait::{PATIENCE, POLL, eventually, heavy},
};

/// Addresses of the crowd, and how many of them sent a verified webhook before.
const CROWD: u16 = 1000;
const KNOWN: u16 = 100;
/// Bytes of a body: those of the crowd have no room together.
const BODY: usize = 64 * 1024;

/// Requests of every address of a crowd, one after another, until they are stopped.
struct Attack {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    /// How many were begun.
    begun: Arc<AtomicUsize>,
}

impl Attack {
    /// Each address sends these bytes, and waits for the answer or the end of the connection.
    fn of(siege: &Siege, addresses: &[IpAddr], bytes: Vec<u8>) -> Self {
        let (hub, bytes) = (siege.hub.address(), Arc::new(bytes));
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for from in addresses.iter().copied() {
            let (bytes, stop, begun) = (Arc::clone(&bytes), Arc::clone(&stop), Arc::clone(&begun));
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = Raw::connect_from(from, hub).await;
                    client.write(&*bytes).await;
                    begun.fetch_add(1, Ordering::Relaxed);
                    let _ = client.answer_within(2 * PATIENCE).await;
                    // The crowd fills the room for bodies, not the processors, which the hub, NATS and the attack share.
                    tokio::time::sleep(300 * POLL).await;
                }
            });
        }
        Self { tasks, stop, begun }
    }

    async fn has_begun(&self, count: usize) {
        eventually("the crowd has begun", PATIENCE, async || {
            let begun = self.begun.load(Ordering::Relaxed);
            if begun >= count { Ok(()) } else { Err(begun) }
        })
        .await;
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.abort_all();
    }
}

/// What honest webhooks suffer from a crowd with known addresses among it, and from one without.
async fn under(siege: &Siege, bytes: Vec<u8>, what: &str) {
    let before = siege.honest(PROVIDER, "before").await;
    let addresses: Vec<IpAddr> = crowd(CROWD).collect();
    let attack = Attack::of(siege, &addresses, bytes.clone());
    attack.has_begun(addresses.len()).await;
    for from in [PROVIDER, NEWCOMER] {
        siege.is_as_quick(from, before, what).await;
    }
    attack.end();
    for known in &addresses[..usize::from(KNOWN)] {
        siege.send_good(*known).await;
    }
    let attack = Attack::of(siege, &addresses, bytes);
    attack.has_begun(addresses.len()).await;
    for from in [PROVIDER, addresses[7], NEWCOMER] {
        siege.is_as_quick(from, before, what).await;
    }
    attack.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_a_thousand_addresses_that_do_not_end() {
    let _turn = heavy().await;
    let siege = Siege::with(&[("RATE_LIMIT_CAREEM", "100000")]).await;
    let whole = request("POST", PATH, &[], &"x".repeat(BODY)).into_bytes();
    under(
        &siege,
        whole[..whole.len() - 1].to_vec(),
        "unfinished bodies of a crowd",
    )
    .await;
    let metrics = siege.world.metrics(&siege.hub).await;
    assert!(sum(&metrics, "bodies_refused_total") >= 100.0, "{metrics}");
    siege.stands("unfinished bodies of a crowd").await;
    // What was handed out under that load may have its outcome, and NATS may know of no acknowledgement.
    siege.world.hand_out_again().await;
    siege.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_requests_of_a_thousand_addresses() {
    let _turn = heavy().await;
    let siege = Siege::with(&[("RATE_LIMIT_CAREEM", "100000")]).await;
    let refused = request("POST", PATH, &["x-careem-signature: 00"], "{}").into_bytes();
    under(&siege, refused, "refused requests of a crowd").await;
    siege.stands("refused requests of a crowd").await;
    siege.ends().await;
}
