//! A mirror of the log on another server, which takes the log's place.

use serde_json::json;

use super::{
    recorded::{acts_become, facts},
    *,
};

const MIRROR_PASSWORD: &str = "mirror-password-of-the-tests";

/// The server that is mirrored: the comments of `nats.conf` taken off, as the document says.
fn mirrored(config: &str, listen: &str) -> String {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in config.lines() {
        let bare = line.trim_start();
        inside |= line == "# leafnodes {" || line == "      # {";
        let is_import = bare.starts_with("# { service:") && bare.contains("CONSUMER.CREATE.EVENTS");
        lines.push(if inside || is_import || bare == "# domain: hub" {
            bare.trim_start_matches("# ").trim_start_matches('#')
        } else {
            line
        });
        inside &= line != "# }" && line != "      # }";
    }
    let config = lines.join("\n");
    assert!(
        config.contains("\ndomain: hub\n") && config.contains("\nleafnodes {\n"),
        "{config}"
    );
    let (everywhere, password) = ("0.0.0.0:7422", "$NATS_MIRROR_PASSWORD");
    assert!(config.contains(everywhere) && config.contains(password), "{config}");
    config
        .replace(everywhere, listen)
        .replace(password, &format!("\"{MIRROR_PASSWORD}\""))
}

/// The server of the mirror.
fn mirroring(config: &str, origin: &str) -> String {
    let remote = block("A mirror on another machine", "");
    let remote = remote
        .replace("PASSWORD", MIRROR_PASSWORD)
        .replace("FIRST-SERVER:7422", origin);
    config
        .replace("# domain: hub", "domain: mirror")
        .replace("# include \"mirror.conf\"", &remote)
}

async fn mirror_has(settings: &Settings, last: u64) {
    eventually("the mirror has it all", PATIENCE, async || {
        let ran = run(settings, &["--json", "streams", "mirror"]).await.expect_success();
        let said: Value = serde_json::from_str(&ran.stdout).unwrap();
        if said["last"] == last && said["active"] == true {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_follows_and_takes_the_logs_place() {
    let port = Port::reserve();
    let listen = port.address().to_string();
    let mut world = World::with_nats(Nats::start_with(|config| mirrored(config, &listen), None)).await;
    let mirror = Nats::start_with(|config| mirroring(config, &listen), None).await;
    let provision = settings(&mirror, "provision");
    let hub = world.hub().await;
    world.post_orders(&hub, ids("before", 4)).await;
    world.at_end(Ends::forwarded(4)).await;
    run(&provision, &["streams", "mirror"]).await.expect_success();
    let last = events(&world.nats).await.cached_info().state.last_sequence;
    mirror_has(&provision, last).await;
    world.post_orders(&hub, ids("after", 3)).await;
    world.at_end(Ends::forwarded(7)).await;
    let last = events(&world.nats).await.cached_info().state.last_sequence;
    mirror_has(&provision, last).await;
    // It is no log yet, and not while the other one is there.
    let on_mirror = world.settings().set("NATS_URL", mirror.url());
    let on_mirror = on_mirror.set("NATS_PASSWORD", mirror.password("hub"));
    refused(&run(&on_mirror, &["serve"]).await, "mirror is");
    refused(&run(&provision, &["streams", "promote"]).await, "still there");

    hub.kill().await;
    world.nats.server.kill().await.unwrap();
    let beyond = (last + 1).to_string();
    let promote = ["streams", "promote", "--last", &beyond];
    eventually(
        "the log that was mirrored is not heard any more",
        PATIENCE,
        async || {
            let ran = run(&provision, &promote).await;
            refused(&ran, "--anyway");
            match ran.stderr.contains("lacks: 1") {
                true => Ok(()),
                false => Err(ran.said()),
            }
        },
    )
    .await;
    // A restarted server knows nothing about the log.
    mirror.server.kill().await.unwrap();
    mirror.server.restart().await.unwrap();
    refused(&run(&provision, &["streams", "promote"]).await, "not known");
    refused(&run(&provision, &promote).await, "lacks: 1");
    let (known, by, reason) = (last.to_string(), "anna@desk", "the first machine burnt down");
    let promote = ["streams", "promote", "--last", &known, "--as", by, "--reason", reason];
    run(&provision, &promote).await.expect_success();
    world.log = Log::open(&mirror).await;
    world.nats = mirror;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("promoted", 3)).await;
    world.at_end(Ends::forwarded(10)).await;
    assert_eq!(world.backend.count(), 10, "nothing is done again");
    // The first hub that found the note has recorded the act.
    let promoted = acts_become(&world.nats, &["promote"]).await.remove(0);
    let (arguments, counts) = (
        json!({ "last": last, "anyway": false }),
        json!({ "lastSequence": last, "lacking": 0 }),
    );
    assert_eq!(facts(&promoted), json!([by, reason, arguments, counts]));
}
