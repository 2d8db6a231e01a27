//! No secret anywhere: a run with everything in it that goes well and wrong, at the highest log level, after which logs,
//! streams, tables, metrics, health, commands and process arguments are searched for every secret, in each of the forms
//! that it could have taken.

use std::fmt::Write as _;

use async_nats::jetstream::Context;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use futures_util::TryStreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    careem::{MERCHANT, order, sign},
    hub::{Hub, Settings, run},
    port::Port,
    wait::{PATIENCE, eventually},
};

const NEW_SECRET: &str = "kuliSecretNew/7Qz+webhook";
const OLD_SECRET: &str = "kuliSecretOld/3Xw+webhook";
const TOKEN: &str = "kuliSecretToken/9Rt+service";
const URL_PASSWORD: &str = "kuliSecretUrl-5Mn.database";
const PASSWORD: &str = "kuliSecretPlain/2Vb+database";
const WRONG_PASSWORD: &str = "kuliSecretWrong/8Kp+nats";
/// What callers bring along.
const SENT: &str = "kuliSecretSent/4Hj+caller";

/// Headers that hold credentials: with revealing names, and with names on no list.
const CREDENTIALS: [&str; 20] = [
    "x-jwt",
    "x-bearer",
    "x-passwd",
    "x-signing-key",
    "x-knock-knock",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-auth",
    "x-auth-key",
    "x-authorization",
    "x-api-key",
    "api-key",
    "apikey",
    "x-careem-api-key",
    "x-service-token",
    "x-access-token",
    "x-client-secret",
    "x-password",
    "x-session-id",
];

/// Everything that could show a secret, by where it was found.
#[derive(Default)]
struct Found(Vec<(String, String)>);

impl Found {
    fn add(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    /// Searches all of it.
    fn holds_none_of(&self, secrets: &[&str]) {
        for secret in secrets {
            for form in forms(secret) {
                for (place, text) in &self.0 {
                    let Some(at) = text.find(&form) else { continue };
                    let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
                    let line = &text[line..];
                    let line = &line[..line.find('\n').unwrap_or(line.len())];
                    panic!("{secret} stands in {place} as {form}: {line}");
                }
            }
        }
    }
}

/// A secret as it is, in hexadecimal, and in base64 wherever in a text it begins.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned(), hex::encode(secret), hex::encode_upper(secret)];
    for engine in [STANDARD, URL_SAFE] {
        for before in 0..3 {
            let bytes = [&vec![b'x'; before], secret.as_bytes()].concat();
            let text = engine.encode(&bytes);
            // The characters that other bytes have a part in are left out.
            let (first, last) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
            forms.push(text[first..last].to_owned());
        }
    }
    forms
}

#[test]
fn forms_are_found_wherever_a_secret_begins() {
    for before in ["", "a", "ab", "user:"] {
        for after in ["", "z", "zz", "zzz"] {
            let text = STANDARD.encode(format!("{before}{SENT}{after}"));
            let found = forms(SENT).iter().any(|form| text.contains(form));
            assert!(found, "{before}…{after}: {text}");
        }
    }
}

/// Every message of every stream: subject, headers and payload.
async fn streams(context: &Context, found: &mut Found) {
    let names: Vec<String> = context.stream_names().try_collect().await.unwrap();
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        let stream = context.get_stream(&name).await.unwrap();
        let state = stream.cached_info().state.clone();
        let mut text = String::new();
        for sequence in state.first_sequence..=state.last_sequence {
            // Of a message that was replaced nothing is left.
            let Ok(message) = stream.get_raw_message(sequence).await else {
                continue;
            };
            let payload = String::from_utf8_lossy(&message.payload);
            writeln!(text, "{} {:?} {payload}", message.subject, message.headers).unwrap();
        }
        assert!(!text.is_empty() || state.messages == 0, "{name}");
        found.add(format!("stream {name}"), text);
    }
}

/// Every row of every table.
async fn tables(world: &World, found: &mut Found) {
    let tables = "SELECT table_schema AS schema, table_name AS name FROM information_schema.tables
                  WHERE table_schema NOT IN ('pg_catalog', 'information_schema')";
    let tables = world.database.rows(tables).await.unwrap();
    assert!(tables.len() >= 8, "{tables:?}");
    for table in tables {
        let name = format!(
            "{}.{}",
            table["schema"].as_str().unwrap(),
            table["name"].as_str().unwrap()
        );
        let rows = world.database.rows(&format!("SELECT * FROM {name}")).await.unwrap();
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        found.add(format!("table {name}"), text);
    }
}

/// What a hub tells whoever asks it, and its arguments.
async fn told(world: &World, hub: &Hub, found: &mut Found) {
    for url in [
        "/health",
        "/health/ready",
        "/api/webhooks/health/careem",
        "/openapi.json",
    ] {
        let answer = world.careem.request(Method::GET, &format!("{}{url}", hub.url())).await;
        found.add(url, answer.text);
    }
    let metrics = world.metrics(hub).await;
    assert!(metrics.contains("webhooks_rejected_total"), "{metrics}");
    found.add("/metrics", metrics);
    let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", hub.pid())).unwrap();
    assert!(arguments.contains("serve"), "{arguments}");
    found.add("process arguments", arguments);
}

/// Posts a body with credentials of all kinds beside its signature.
async fn post(world: &World, hub: &Hub, body: &str, signature: &str, merchant: &str, found: &mut Found) -> u16 {
    let basic = format!("Basic {}", STANDARD.encode(format!("careem:{SENT}")));
    let mut headers = vec![
        ("x-careem-signature", signature),
        ("x-merchant-id", merchant),
        ("authorization", &*basic),
    ];
    headers.extend(CREDENTIALS.map(|name| (name, SENT)));
    let answer = world.careem.post_raw(hub, body, &headers).await;
    found.add("an answer", format!("{:?} {}", answer.headers, answer.text));
    answer.status
}

/// What a backend may answer that shows whom it knows.
fn echo(status: u16) -> Answer {
    let body = json!({ "success": false, "error": format!("X-Service-Token {TOKEN} is known"), "token": TOKEN });
    Answer::Say(status, body.to_string(), vec![("x-echo", TOKEN.to_owned())])
}

/// All that can become of an order.
async fn everything_happens(world: &World, hub: &Hub, found: &mut Found) {
    for (id, secret) in [("CR-new", NEW_SECRET), ("CR-old", OLD_SECRET)] {
        let body = order(id);
        let signature = sign(secret, body.as_bytes());
        assert_eq!(post(world, hub, &body, &signature, MERCHANT, found).await, 200);
        assert_eq!(post(world, hub, &body, &signature, MERCHANT, found).await, 200, "again");
    }
    let no_order = "{}";
    for (body, signature, status) in [
        (order("CR-wrong"), SENT.to_owned(), 401),
        (SENT.to_owned(), sign(NEW_SECRET, b"other"), 401),
        (no_order.to_owned(), sign(NEW_SECRET, no_order.as_bytes()), 400),
        ("x".repeat(6 << 20), sign(NEW_SECRET, b""), 413),
    ] {
        assert_eq!(post(world, hub, &body, &signature, MERCHANT, found).await, status);
    }
    for path in [
        format!("/api/webhooks/careem?key={SENT}"),
        format!("/api/webhooks/{SENT}"),
        format!("/{SENT}"),
    ] {
        let answer = world
            .careem
            .request(Method::POST, &format!("{}{path}", hub.url()))
            .await;
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
    // Tried again, parked and refused for good, each time with an answer that quotes our token.
    world.backend.next_for("CR-again", [echo(500), echo(503)]);
    world
        .backend
        .next_for("CR-parked", [echo(500), echo(500), echo(500), echo(500)]);
    world.backend.next_for("CR-refused", [echo(422)]);
    for (id, merchant) in [
        ("CR-again", MERCHANT),
        ("CR-parked", MERCHANT),
        ("CR-refused", MERCHANT),
        ("CR-homeless", "nobody"),
    ] {
        let body = order(id);
        let signature = sign(NEW_SECRET, body.as_bytes());
        assert_eq!(post(world, hub, &body, &signature, merchant, found).await, 200);
    }
    world.log.wait_for(EventType::OrderDeadLettered, 2).await;
    world.log.wait_for(EventType::OrderForwarded, 4).await;
    // It says that it does not know our token, and the breaker opens.
    world.backend.otherwise(echo(401));
    let body = order("CR-unknown");
    let signature = sign(NEW_SECRET, body.as_bytes());
    assert_eq!(post(world, hub, &body, &signature, MERCHANT, found).await, 200);
    eventually("the breaker opens", PATIENCE, async || {
        let breaker = world.breaker(hub).await;
        if breaker["state"] == "closed" {
            Err(breaker)
        } else {
            Ok(())
        }
    })
    .await;
    told(world, hub, found).await;
    world.backend.otherwise(Answer::Accept);
    world.log.wait_for(EventType::OrderForwarded, 5).await;
}

/// What operators run, well and badly.
async fn commands(world: &World, settings: &Settings, found: &mut Found) {
    let list = run(settings, &["dead-letters", "list", "--json"])
        .await
        .expect_success();
    let listed: Value = serde_json::from_str(&list.stdout).unwrap();
    let ids: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 2, "{listed}");
    found.add("dead-letters list", list.said());
    for id in &ids {
        for args in [
            &["dead-letters", "show", "--payload", id][..],
            &["dead-letters", "show", "--json", id],
        ] {
            found.add("dead-letters show", run(settings, args).await.expect_success().said());
        }
    }
    let mistyped = [
        ("DATABASE_URL", format!("postgres://admin:{URL_PASSWORD}@@host:nope/db")),
        ("NATS_URL", format!("nats://hub:{WRONG_PASSWORD}@localhost")),
        ("CAREEM_WEBHOOK_SECRET", format!("{NEW_SECRET},,{OLD_SECRET}")),
        ("SERVICE_TOKEN", format!("{TOKEN}\u{e9}")),
        ("TLS_KEY", "/nowhere".to_owned()),
    ];
    for (name, value) in mistyped {
        let ran = run(&settings.clone().set(name, value), &["serve"]).await;
        assert_eq!(ran.code, Some(1), "{name}: {}", ran.said());
        found.add(format!("a refused {name}"), ran.said());
    }
    for args in [
        &["migrate"][..],
        &["healthcheck"],
        &["dead-letters", "retry", "--all", "--dry-run"],
    ] {
        found.add(args.join(" "), run(settings, args).await.said());
    }
    let nowhere = Port::reserve();
    let unreachable = Settings::empty()
        .set("DATABASE_HOST", "127.0.0.1")
        .set("DATABASE_PORT", nowhere.number())
        .set("DATABASE_USER", "admin")
        .set("DATABASE_PASSWORD", PASSWORD);
    let ran = run(&unreachable, &["migrate"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    found.add("migrate without a database", ran.said());
    // The signature is made with the newest secret.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), order("CR-sent")).unwrap();
    let url = format!("http://{}", nowhere.address());
    let args = ["send", "careem", file.path().to_str().unwrap(), "--url", &url];
    found.add("send", run(settings, &args).await.said());
    assert!(world.log.unreadable().await.is_empty());
}

/// A hub that every neighbour refuses.
async fn turned_away(settings: &Settings, world: &World, found: &mut Found) {
    let nowhere = Port::reserve();
    let settings = settings
        .clone()
        .set("NATS_PASSWORD", WRONG_PASSWORD)
        .set("DATABASE_URL", "")
        .set("DATABASE_HOST", "127.0.0.1")
        .set("DATABASE_PORT", nowhere.number())
        .set("DATABASE_USER", "admin")
        .set("DATABASE_PASSWORD", PASSWORD);
    let hub = Hub::start(&settings).await;
    let body = order("CR-nowhere");
    let signature = sign(NEW_SECRET, body.as_bytes());
    assert_eq!(post(world, &hub, &body, &signature, MERCHANT, found).await, 503);
    told(world, &hub, found).await;
    let lines = hub.transcript();
    hub.terminate().await;
    found.add("the log of a hub that is turned away", lines.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_leaks_anywhere() {
    let world = World::new().await;
    let mut found = Found::default();
    let url = world.database.url.replace("admin@", &format!("admin:{URL_PASSWORD}@"));
    let settings = world
        .settings()
        .set("LOG_LEVEL", "trace")
        .set("DATABASE_URL", url)
        .set("SERVICE_TOKEN", TOKEN)
        .set("RETRY_DELAYS", "1s")
        .set("CAREEM_WEBHOOK_SECRET", format!("{NEW_SECRET},{OLD_SECRET}"));
    let hub = Hub::start(&settings).await;
    everything_happens(&world, &hub, &mut found).await;
    commands(&world, &settings, &mut found).await;
    let lines = hub.transcript();
    let (status, _) = hub.terminate().await;
    assert!(status.success(), "{}", lines.text());
    turned_away(&settings, &world, &mut found).await;
    // The last word of each, and of a hub that serves in the other format.
    let text = Hub::start(&settings.clone().set("LOG_FORMAT", "json").set("LOG_LEVEL", "debug")).await;
    world.at_end(Ends::forwarded(5).dead_lettered(2)).await;
    let more = text.transcript();
    text.terminate().await;
    for lines in [lines, more] {
        assert!(lines.text().contains("\"stopped\""), "{}", lines.text());
        found.add("the log", lines.text());
    }
    streams(&world.nats.provision().await, &mut found).await;
    tables(&world, &mut found).await;
    let arguments: Vec<_> = found.0.iter().map(|(place, _)| place.as_str()).collect();
    for place in [
        "stream EVENTS",
        "stream LANES",
        "table public.webhook_logs",
        "table hub.cursors",
        "the log",
    ] {
        assert!(arguments.contains(&place), "{place} was not searched: {arguments:?}");
    }
    // What was sent is there where it may be: the search would find it.
    let events = found.0.iter().find(|(place, _)| place == "stream EVENTS").unwrap();
    assert!(
        events.1.contains("CR-refused") && events.1.contains("x-merchant-id"),
        "{}",
        events.1
    );
    let passwords = ["hub", "provision", "subscriber"].map(|user| world.nats.password(user));
    let secrets = [
        NEW_SECRET,
        OLD_SECRET,
        TOKEN,
        URL_PASSWORD,
        PASSWORD,
        WRONG_PASSWORD,
        SENT,
    ];
    found.holds_none_of(&[&secrets[..], &passwords[..]].concat());
}
