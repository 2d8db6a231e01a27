//! TLS on every wire: to the intake, to NATS, to PostgreSQL, to the backend; with certificates that are made here.
//!
//! The hub connects to no server without a certificate of a trusted authority, and nothing is lost by it.

use std::time::Duration;

use reqwest::Method;
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    careem::{MERCHANT, ORDER_ID, SECRET, order, sign},
    certificates::{Authority, Files, text},
    hub::{Hub, Settings, run},
    ids,
    raw::{Raw, RawAnswer, request},
    servers::{Database, Nats, switched_on},
    wait::{PATIENCE, eventually},
};

/// How long a connection may take over its handshake, and some more.
const HANDSHAKE: Duration = Duration::from_secs(15);

fn with_certificate(settings: Settings, files: &Files) -> Settings {
    settings
        .set("TLS_CERT", text(&files.certificate))
        .set("TLS_KEY", text(&files.key))
}

/// An order, as Careem posts it.
fn webhook(id: &str) -> String {
    let body = order(id);
    let signature = format!("x-careem-signature: {}", sign(SECRET, body.as_bytes()));
    let merchant = format!("x-merchant-id: {MERCHANT}");
    request("POST", "/api/webhooks/careem", &[&signature, &merchant], &body)
}

fn accepted(answer: Option<RawAnswer>) {
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// The certificate that the hub shows to whoever comes now.
async fn shown(hub: &Hub, authority: &Authority) -> Result<Vec<u8>, String> {
    let connection = Raw::connect_tls(hub.address(), authority.client()).await;
    let connection = connection.map_err(|error| error.to_string())?;
    Ok(connection.certificate().to_vec())
}

/// Waits until the hub shows this one.
async fn shows(hub: &Hub, authority: &Authority, files: &Files) {
    let expected = files.der().to_vec();
    eventually("the hub shows the new certificate", PATIENCE, async || {
        let found = shown(hub, authority).await?;
        if found == expected {
            Ok(())
        } else {
            Err("another one".to_owned())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_renewed_under_open_connections() {
    let world = World::new().await;
    let authority = Authority::new();
    let first = authority.server("hub");
    let settings = with_certificate(world.settings(), &first);
    let hub = Hub::start(&settings).await;
    let mut open = Raw::connect_tls(hub.address(), authority.client()).await.unwrap();
    let of_first = open.certificate();
    assert_eq!(of_first, first.der());
    open.write(webhook("CR-first")).await;
    accepted(open.answer().await);

    // Told to look.
    let second = authority.server("hub");
    hub.reload().await;
    shows(&hub, &authority, &second).await;
    // By itself.
    let third = authority.server("hub");
    shows(&hub, &authority, &third).await;

    // What cannot be used changes nothing, and is named.
    let key = std::fs::read(&third.key).unwrap();
    std::fs::write(&third.key, std::fs::read(authority.server("other").key).unwrap()).unwrap();
    hub.reload().await;
    eventually("the log says so", PATIENCE, async || {
        let log = hub.log();
        let lines = log.lines().filter(|line| line.contains("the old one stays"));
        let named = lines.filter(|line| line.contains("TLS_KEY") && line.contains(text(&third.key)));
        if named.count() > 0 { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(shown(&hub, &authority).await.unwrap(), third.der().to_vec());
    let told = || hub.log().matches("used from now on").count();
    let more_than = async |before: usize| {
        eventually("the log says that it is used", PATIENCE, async || {
            if told() > before { Ok(()) } else { Err(told()) }
        })
        .await;
    };
    let before = told();
    std::fs::write(&third.key, key).unwrap();
    more_than(before).await;
    // Who asks for it has it read, also if nothing is new.
    let before = told();
    hub.reload().await;
    more_than(before).await;

    // The connection of the beginning still stands.
    open.write(webhook("CR-last")).await;
    accepted(open.answer().await);
    assert_eq!(open.certificate(), of_first);
    world.at_end(Ends::forwarded(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_port_speaks_nothing_but_tls() {
    let world = World::new().await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    let settings = with_certificate(world.settings_on_fixed_port(), &authority.server("hub"));
    let hub = Hub::start(&settings).await;
    // Nothing is said, and then in plain text.
    let mut silent = Raw::connect(hub.address()).await;
    let mut plain = Raw::connect(hub.address()).await;
    plain.write(webhook("CR-plain")).await;
    assert!(
        plain
            .answer_within(HANDSHAKE)
            .await
            .is_none_or(|answer| answer.status != 200)
    );
    // Who trusts another authority does not speak to it.
    let refused = shown(&hub, &stranger).await.unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    // Everybody else does, while the silent one waits; and it is told not to offer what it does not speak.
    let mut client = Raw::connect_tls(hub.address(), authority.client()).await.unwrap();
    client.write(webhook("CR-tls")).await;
    accepted(client.answer().await);
    let mut offering = (*authority.client()).clone();
    offering.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let both = Raw::connect_tls(hub.address(), offering.into()).await.unwrap();
    assert_eq!(both.stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    // Containers ask for health without knowing any authority, operators at the port of metrics without TLS.
    run(&settings, &["healthcheck"]).await.expect_success();
    let metrics = world.careem.request(Method::GET, &hub.metrics_url()).await;
    assert_eq!(metrics.status, 200);
    assert!(silent.answer_within(HANDSHAKE).await.is_none());
    // What cannot be used refuses the start.
    let missing = settings.set("PORT", 0).set("TLS_KEY", "/nowhere/hub.key");
    let ran = run(&missing, &["serve"]).await;
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.contains("TLS_KEY: cannot read /nowhere/hub.key"),
        "{}",
        ran.said()
    );
    world.at_end(Ends::forwarded(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_https_is_let_in_where_it_is_required() {
    let world = World::new().await;
    let authority = Authority::new();
    let required = world.settings().set("REQUIRE_HTTPS", true);
    let behind = Hub::start(&required.clone().set("TRUSTED_PROXIES", "127.0.0.1")).await;
    let direct = Hub::start(&with_certificate(required.clone(), &authority.server("hub"))).await;
    let strange = Hub::start(&required.set("TRUSTED_PROXIES", "203.0.113.7")).await;
    // They listen before they have found NATS, and what health says depends on that.
    for hub in [&behind, &strange] {
        eventually("the hub is ready", PATIENCE, async || {
            let ready = world
                .careem
                .request(Method::GET, &format!("{}/health/ready", hub.url()))
                .await;
            if ready.status == 200 { Ok(()) } else { Err(ready) }
        })
        .await;
    }
    let from = ["X-Forwarded-For: 198.51.100.7"];
    for (hub, headers, status) in [
        (&behind, &[][..], 403),
        (&behind, &["X-Forwarded-Proto: http"], 403),
        // What the caller wrote itself stands to the left of what our proxy says.
        (&behind, &["X-Forwarded-Proto: https, http"], 403),
        (&behind, &["X-Forwarded-Proto: https"], 200),
        // The trusted proxy has another address.
        (&strange, &["X-Forwarded-Proto: https"], 403),
    ] {
        let mut client = Raw::connect(hub.address()).await;
        let head = [&from[..], headers].concat().join("\r\n");
        let webhook = webhook("CR-https").replacen("\r\n", &format!("\r\n{head}\r\n"), 1);
        client.write(&webhook).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, status, "{headers:?}: {answer:?}");
        assert_eq!(answer.code(), if status == 403 { "HTTPS_REQUIRED" } else { "" });
        // The connection can be used again, and health is open to all.
        for (path, status) in [("/health/ready", 200), ("/api/webhooks/health/careem", 200)] {
            client.write(request("GET", path, &[], "")).await;
            assert_eq!(client.answer().await.unwrap().status, status, "{path}");
        }
        for path in [
            "/openapi.json",
            "/",
            "/api/webhooks/other",
            "/api/integration/orders/careem/1/status",
        ] {
            client.write(request("GET", path, &[], "")).await;
            assert_eq!(client.answer().await.unwrap().code(), "HTTPS_REQUIRED", "{path}");
        }
    }
    let mut client = Raw::connect_tls(direct.address(), authority.client()).await.unwrap();
    client.write(webhook("CR-direct")).await;
    accepted(client.answer().await);
    let metrics = world.metrics(&strange).await;
    let counted = "webhooks_rejected_total{provider=\"_\",reason=\"HTTPS_REQUIRED\"} 5";
    assert!(metrics.contains(counted), "{metrics}");
    world.at_end(Ends::forwarded(2)).await;
}

/// A user of the database who may come by TLS alone, with a password.
const HUB_TLS: &str = "hub_tls";
const DATABASE_PASSWORD: &str = "database-password-of-the-tests";

/// Has this PostgreSQL speak TLS, and insist on it for one user.
async fn speak_tls(world: &World, files: &Files) {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    let data = world.cluster.server.dir().join("data");
    let owner = std::fs::metadata(&data).unwrap();
    for (from, to) in [(&files.certificate, "server.crt"), (&files.key, "server.key")] {
        let to = data.join(to);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&to, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let rules = data.join("pg_hba.conf");
    let others = std::fs::read_to_string(&rules).unwrap();
    let only_tls = format!("hostssl all {HUB_TLS} 127.0.0.1/32 scram-sha-256\nhost all {HUB_TLS} all reject\n");
    std::fs::write(&rules, only_tls + &others).unwrap();
    let setup = format!("CREATE ROLE {HUB_TLS} SUPERUSER LOGIN PASSWORD '{DATABASE_PASSWORD}'");
    for statement in [&*setup, "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"] {
        world.database.run(statement).await.unwrap();
    }
}

/// The URL of the user who may come by TLS alone.
fn url_of_tls_user(database: &Database) -> String {
    database
        .url
        .replace("admin@", &format!("{HUB_TLS}:{DATABASE_PASSWORD}@"))
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_requires_tls() {
    let world = World::with_own_postgres().await;
    let (authority, stranger) = (Authority::new(), Authority::new());
    speak_tls(&world, &authority.server("postgres")).await;
    let url = url_of_tls_user(&world.database);
    let settings = world.settings().set("DATABASE_URL", &url);
    let trusting = settings.clone().set("DATABASE_TLS_CA", text(&authority.ca()));
    world.has_tables_by(&trusting);
    // The setting is taken up by the server as soon as it has read it.
    eventually("PostgreSQL speaks TLS", PATIENCE, async || {
        let ran = run(&trusting, &["migrate"]).await;
        if ran.code == Some(0) { Ok(()) } else { Err(ran.said()) }
    })
    .await;
    let by_name = trusting
        .clone()
        .set("DATABASE_URL", format!("{url}?sslmode=verify-full"));
    run(&by_name, &["migrate"]).await.expect_success();
    for (settings, reason) in [
        // Without a configured authority the hub trusts the machine's, and says what to do.
        (settings.clone(), "DATABASE_TLS_CA names the authority"),
        (settings.clone().set("DATABASE_TLS", "require"), "UnknownIssuer"),
        (
            settings.clone().set("DATABASE_TLS_CA", text(&stranger.ca())),
            "UnknownIssuer",
        ),
        (
            settings.clone().set("DATABASE_TLS", "disable"),
            "pg_hba.conf rejects connection",
        ),
        (
            settings.clone().set("DATABASE_URL", format!("{url}?sslmode=disable")),
            "pg_hba.conf rejects",
        ),
        (
            settings.clone().set("DATABASE_TLS_CA", "/nowhere/ca.pem"),
            "DATABASE_TLS_CA: cannot read /nowhere",
        ),
    ] {
        let ran = run(&settings, &["migrate"]).await;
        assert_eq!(ran.code, Some(1), "{reason}: {}", ran.said());
        assert!(ran.stderr.contains(reason), "{reason}: {}", ran.said());
        assert!(!ran.said().contains(DATABASE_PASSWORD), "{}", ran.said());
    }
    // Of another name than the one that it was asked for.
    speak_tls_as(&world, &authority.sign("elsewhere", &["elsewhere.example"])).await;
    eventually("PostgreSQL shows the other certificate", PATIENCE, async || {
        let ran = run(&trusting, &["migrate"]).await;
        let refused = ran.code == Some(1) && ran.stderr.contains("not valid for name");
        if refused { Ok(()) } else { Err(ran.said()) }
    })
    .await;
    speak_tls_as(&world, &authority.server("postgres")).await;
    let hub = Hub::start(&trusting).await;
    world.post_orders(&hub, ids("by-tls", 3)).await;
    world.at_end(Ends::forwarded(3)).await;
    let query = format!("SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = '{HUB_TLS}'");
    let sessions = world.database.rows(&query).await.unwrap();
    assert!(
        !sessions.is_empty() && sessions.iter().all(|row| row["ssl"] == true),
        "{sessions:?}"
    );
}

/// Shows another certificate from now on.
async fn speak_tls_as(world: &World, files: &Files) {
    let data = world.cluster.server.dir().join("data");
    // Into existing files, so that their owner and mode stay.
    std::fs::write(data.join("server.crt"), std::fs::read(&files.certificate).unwrap()).unwrap();
    std::fs::write(data.join("server.key"), std::fs::read(&files.key).unwrap()).unwrap();
    world.database.run("SELECT pg_reload_conf()").await.unwrap();
}

/// The configuration with its block `tls`, and these files in it.
fn with_tls(config: &str, server: &Files, authority: &Authority) -> String {
    let config = switched_on(config, "tls");
    let files = [
        ("/etc/nats/tls/server.pem", text(&server.certificate)),
        ("/etc/nats/tls/server.key", text(&server.key)),
    ];
    let config = files.into_iter().fold(config, |config, (placeholder, file)| {
        assert!(config.contains(placeholder), "{placeholder}");
        config.replace(placeholder, file)
    });
    config.replace("/etc/nats/tls/ca.pem", text(&authority.ca()))
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_requires_client_certificates() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (server, client) = (authority.server("nats"), authority.sign("client", &["hub"]));
    let tls = Some((authority.ca(), client));
    let world = World::with_nats(Nats::start_with(|config| with_tls(config, &server, &authority), tls)).await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("by-tls", 3)).await;
    let by_scheme = world
        .settings()
        .set("NATS_URL", world.nats.url().replace("nats://", "tls://"));
    let second = Hub::start(&by_scheme).await;
    world.post_orders(&second, ids("by-scheme", 2)).await;
    world.at_end(Ends::forwarded(5)).await;

    let good = world.nats.settings("provision").set("PARTITIONS", 8);
    run(&good, &["streams", "diff"]).await.expect_success();
    let of_stranger = stranger.sign("client", &["hub"]);
    let no_certificate = Settings::empty()
        .set("NATS_URL", world.nats.url())
        .set("NATS_USER", "provision")
        .set("NATS_PASSWORD", world.nats.password("provision"));
    let strange_client = good
        .clone()
        .set("NATS_TLS_CERT", text(&of_stranger.certificate))
        .set("NATS_TLS_KEY", text(&of_stranger.key));
    let strange_server = good.clone().set("NATS_TLS_CA", text(&stranger.ca()));
    let missing = good.clone().set("NATS_TLS_CA", "/nowhere/ca.pem");
    let of_key = good.set("NATS_TLS_CERT", text(&server.key));
    let ran = tokio::join!(
        run(&no_certificate, &["streams", "diff"]),
        run(&strange_client, &["streams", "diff"]),
        run(&strange_server, &["streams", "diff"]),
        run(&missing, &["streams", "diff"]),
        run(&of_key, &["streams", "diff"]),
    );
    for (ran, reason) in [
        (ran.0, "NATS_URL: no connection"),
        (ran.1, "NATS_URL: no connection"),
        (ran.2, "NATS_URL: no connection"),
        (ran.3, "NATS_TLS_CA: cannot read /nowhere/ca.pem"),
        (ran.4, "holds no certificate in PEM"),
    ] {
        assert_eq!(ran.code, Some(2), "{reason}: {}", ran.said());
        assert!(ran.stderr.contains(reason), "{reason}: {}", ran.said());
    }
}

/// Waits until the breaker is open because of TLS.
async fn opens_for_tls(world: &World, hub: &Hub) {
    eventually("the breaker opens", PATIENCE, async || {
        let breaker = world.breaker(hub).await;
        let reason = breaker["reason"].as_str().unwrap_or_default();
        if breaker["state"] != "closed" && reason.contains("certificate") {
            Ok(())
        } else {
            Err(breaker)
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_with_a_certificate() {
    let world = World::new().await;
    let (authority, clients) = (Authority::new(), Authority::new());
    world.backend.close().await;
    world.backend.speaks_tls(authority.self_signed("self").server());
    world.backend.open();
    let trusting = world.settings().set("BACKEND_TLS_CA", text(&authority.ca()));
    let hub = Hub::start(&trusting).await;
    world.post_orders(&hub, [ORDER_ID.to_owned()]).await;
    opens_for_tls(&world, &hub).await;
    assert_eq!(world.backend.count(), 0, "nothing was sent to whom nobody knows");

    // It gets a certificate, and what waited follows by itself.
    world.backend.close().await;
    world.backend.speaks_tls(authority.server("backend").server());
    world.backend.open();
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    hub.terminate().await;

    // It asks for one as well.
    world.backend.close().await;
    world
        .backend
        .speaks_tls(authority.server("backend").server_for(&clients));
    world.backend.open();
    let hub = Hub::start(&trusting).await;
    world.post_orders(&hub, ids("client", 1)).await;
    opens_for_tls(&world, &hub).await;
    hub.terminate().await;
    let client = clients.sign("hub", &["hub"]);
    let known = trusting
        .set("BACKEND_TLS_CERT", text(&client.certificate))
        .set("BACKEND_TLS_KEY", text(&client.key));
    let _hub = Hub::start(&known).await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2)).await;
    // No attempt was burned.
    assert_eq!(world.backend.count(), 2);
}
