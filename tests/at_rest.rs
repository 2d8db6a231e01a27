//! Encryption at rest: with the switch of `nats.conf` on, nothing of an order can be read from the disk of NATS, and without
//! its key nobody else reads the log either.

use std::{fs, path::Path};

use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    careem::ORDER_ID,
    servers::Nats,
    wait::{PATIENCE, eventually},
};

const KEY: &str = "key-of-the-tests-0123456789abcdef";
/// What stands in the sample order, its subject and its headers.
const PLAIN: [&str; 5] = [ORDER_ID, "Ahmed Ali", "+962791234567", "webhooks.received", "ce-source"];

/// The configuration with its switch on.
fn encrypted(config: &str, key: &str) -> String {
    let (cipher, variable) = ("# cipher: chacha", "# key: $NATS_STORE_KEY");
    assert!(config.contains(cipher) && config.contains(variable), "{config}");
    let config = config.replace(cipher, "cipher: chacha");
    config.replace(variable, &format!("key: \"{key}\""))
}

/// Which of the words stand in a file below this folder.
fn read_from_disk(folder: &Path) -> Vec<&'static str> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(read_from_disk(&path));
            continue;
        }
        // It may be replaced meanwhile.
        let content = fs::read(&path).unwrap_or_default();
        let holds = |word: &&str| content.windows(word.len()).any(|window| window == word.as_bytes());
        found.extend(PLAIN.iter().copied().filter(holds));
    }
    found.sort_unstable();
    found.dedup();
    found
}

async fn with_one_order(world: &World) {
    let hub = world.hub().await;
    world.post_orders(&hub, [ORDER_ID.to_owned()]).await;
    world.at_end(Ends::forwarded(1)).await;
    hub.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_read_from_the_disk() {
    let plain = World::new().await;
    with_one_order(&plain).await;
    let mut all = PLAIN.to_vec();
    all.sort_unstable();
    let on_disk = |world: &World| read_from_disk(&world.nats.server.dir().join("jetstream"));
    // The search finds what is there.
    assert_eq!(on_disk(&plain), all);

    // Switched on later it takes in what is there; a list of subjects is left, until it is written anew.
    let file = plain.nats.server.dir().join("nats.conf");
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, encrypted(&config, KEY)).unwrap();
    plain.nats.server.restart().await.unwrap();
    assert!(on_disk(&plain).iter().all(|word| *word == "webhooks.received"));
    let hub = plain.hub().await;
    plain.post_orders(&hub, ["CR-later".to_owned()]).await;
    plain.at_end(Ends::forwarded(2)).await;
    plain.nats.server.restart().await.unwrap();
    assert_eq!(on_disk(&plain), [""; 0]);

    let world = World::with_nats(Nats::start_with(|config| encrypted(config, KEY), None)).await;
    with_one_order(&world).await;
    assert_eq!(on_disk(&world), [""; 0]);
    world.nats.server.stop().await.unwrap();
    assert_eq!(on_disk(&world), [""; 0]);

    // Another key opens nothing, and harms nothing.
    let file = world.nats.server.dir().join("nats.conf");
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, config.replace(KEY, "another-key-0123456789abcdef0123456")).unwrap();
    world.nats.server.restart().await.unwrap();
    let found = world.nats.provision().await.get_stream("EVENTS").await;
    assert!(found.is_err(), "the log opens without its key");
    fs::write(&file, config).unwrap();
    world.nats.server.restart().await.unwrap();
    eventually("the log is there again", PATIENCE, async || {
        world.log.try_events().await.map_err(|error| format!("{error:#}"))
    })
    .await;
    let hub = world.hub().await;
    world.post_orders(&hub, ["CR-after".to_owned()]).await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.at_end(Ends::forwarded(2)).await;
    assert_eq!(on_disk(&world), [""; 0]);
}
