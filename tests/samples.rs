//! Every sample and every shape of the fixtures through one running hub to the backend's body, to the last digit. What the
//! samples cost is worked out a second time here, and each flag of theirs is explained in a document.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};
use webhook_hub::{event::EventType, provider::Catalogue};

use crate::{
    harness::{
        World,
        at_end::Ends,
        hub::Hub,
        log::payload,
        platform::{CLIENT_ID, CLIENT_SECRET, Provider as Platform, TOKEN},
        provider::{Provider, Webhook},
    },
    providers::{Schema, golden},
};

mod list;

use self::list::{Becomes, OWN, SAMPLES, Sample};

/// Providers that only point to their orders, and where they are in production.
const FETCHED: &[(&str, &str)] = &[
    ("UBER_EATS", "https://api.uber.com"),
    ("WOLT", "https://pos-integration-service.wolt.com"),
];
/// Files that are no webhook: an answer, and what asks whether the hub is there.
const NO_SAMPLES: &[&str] = &["delivery-hero/dispatch_response.expected", "keeta/shape.heartbeat"];
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/providers");
const EXPLAINED: &str = include_str!("../docs/sample-flags.md");

/// A text of a sample as it is here: with its own number, and with the provider at the played address.
fn here(sample: &Sample, text: &str, platform: &Platform) -> String {
    let text = sample.numbered(text);
    let hosts = FETCHED.iter();
    hosts.fold(text, |text, (_, host)| text.replace(host, &platform.url()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_reaches_the_backend() {
    let world = World::new().await;
    let providers = Provider::all(&Catalogue::shipped());
    let platform = Platform::start();
    let of = |name: &str| providers.iter().find(|one| one.name == name).unwrap();
    let mut settings = world.settings();
    for provider in &providers {
        let sample = SAMPLES.iter().find(|sample| sample.provider == provider.name);
        // Where the webhook names it, that is the one that counts.
        let configured = match provider.names_currency() {
            true => "JPY",
            false => sample.expect("a sample of each provider").currency,
        };
        settings = provider.enable(settings, configured);
    }
    for (prefix, _) in FETCHED {
        settings = settings
            .set(&format!("{prefix}_API_URL"), platform.url())
            .set(&format!("{prefix}_TOKEN_URL"), format!("{}{TOKEN}", platform.url()))
            .set(&format!("{prefix}_CLIENT_ID"), CLIENT_ID)
            .set(&format!("{prefix}_CLIENT_SECRET"), CLIENT_SECRET);
    }
    for sample in SAMPLES {
        of(sample.provider)
            .branch(&world, sample.store.trim_start_matches('='))
            .await;
        if let Some((_, path, document)) = sample.document {
            platform.has(path, &here(sample, document, &platform));
        }
    }
    let hub = Hub::start(&settings).await;
    let schema = Schema::load();
    let mut ends = Ends::default();
    for sample in SAMPLES {
        let what = format!("{} {}", sample.provider, sample.file);
        let mut webhook = Webhook::new(here(sample, sample.sent, &platform)).at(sample.path);
        if let Some(store) = sample.store.strip_prefix('=') {
            webhook = webhook.with("x-merchant-id", store);
        }
        if sample.provider == "generic" {
            webhook = webhook.with("webhook-id", "msg-1");
        }
        let answer = of(sample.provider).post(&hub, &webhook).await;
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        match sample.answer {
            OWN => assert_eq!(answer.json()["data"]["duplicate"], json!(false), "{what}"),
            text => assert_eq!(answer.text, text, "{what}"),
        }
        match sample.becomes {
            Becomes::Body(expected) => {
                ends.forwarded += 1;
                let request = world.backend.wait_for(ends.forwarded).await.pop().unwrap();
                let body = request.json();
                schema.check(&body);
                let expected = golden(&here(sample, expected, &platform), &body);
                assert_eq!(std::str::from_utf8(&request.body).unwrap(), expected, "{what}");
            }
            Becomes::Ignored => {
                ends.ignored += 1;
                let events = world.log.wait_for(EventType::OrderIgnored, ends.ignored).await;
                assert_eq!(payload(events.last().unwrap())["reason"], "EVENT_NOT_WANTED", "{what}");
            }
            Becomes::Rejected => {
                ends.rejected += 1;
                world.log.wait_for(EventType::OrderRejected, ends.rejected).await;
            }
        }
    }
    world.at_end(ends).await;
}

/// The names of the fixtures with this ending, as `provider/file`.
fn fixtures(ending: &str) -> BTreeSet<String> {
    let entries = |folder: &Path| -> Vec<_> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    };
    let files = entries(Path::new(FIXTURES))
        .into_iter()
        .flat_map(|folder| entries(&folder));
    let name = |path: std::path::PathBuf| {
        let path = path.strip_prefix(FIXTURES).unwrap().to_str().unwrap().to_owned();
        path.strip_suffix(ending).map(str::to_owned)
    };
    files.filter_map(name).collect()
}

#[test]
fn no_fixture_is_left_out() {
    let bodies = fixtures(".body.json");
    let bodies: BTreeSet<String> = bodies.iter().map(|name| format!("{name}.body")).collect();
    let files = fixtures(".json");
    let found: BTreeSet<&str> = files.difference(&bodies).map(String::as_str).collect();
    let of = |sample: &Sample| {
        let document = sample.document.map(|(file, ..)| format!("{}/{file}", sample.provider));
        [Some(format!("{}/{}", sample.provider, sample.file)), document]
    };
    let sent: BTreeSet<String> = SAMPLES.iter().flat_map(of).flatten().collect();
    let sent: BTreeSet<&str> = sent
        .iter()
        .map(String::as_str)
        .chain(NO_SAMPLES.iter().copied())
        .collect();
    assert_eq!(found, sent);
}

/// An amount in its smallest unit.
fn minor(value: &Value, pricing: &Value) -> i64 {
    let exponent = i32::try_from(pricing["exponent"].as_i64().unwrap()).unwrap();
    let amount = value.as_f64().unwrap_or_default() * 10_f64.powi(exponent);
    format!("{amount:.0}").parse().unwrap()
}

/// Whether lines, subtotal, parts and total agree: in the order, and as its flags say.
fn sums(sample: &Sample, order: &Value, flags: &BTreeSet<&str>) {
    let what = format!("{} {}", sample.provider, sample.file);
    let pricing = &order["pricing"];
    let amount = |name: &str| minor(&pricing[name], pricing);
    let lines = order["items"].as_array().unwrap().iter();
    let lines: i64 = lines.map(|line| minor(&line["totalPrice"], pricing)).sum();
    // The only provider with lines without tax.
    let sent: Value = serde_json::from_str(sample.sent).unwrap();
    let tax = sent["payment"]["items_in_cart"]["tax"].as_i64().unwrap_or_default();
    let said = ["lines_without_tax", "subtotal_mismatch"].map(|flag| flags.contains(flag));
    let expected = match amount("subtotal") - lines {
        0 => [false, false],
        difference => [difference == tax, difference != tax],
    };
    assert_eq!(said, expected, "{what}: {lines}, {pricing:#}");
    let fees = ["deliveryFee", "serviceFee", "otherFees", "tip"];
    let parts = amount("subtotal") + fees.iter().map(|fee| amount(fee)).sum::<i64>() - amount("discount");
    let sums = match pricing["taxMode"].as_str() {
        Some("included") => vec![parts],
        Some(_) => vec![parts + amount("taxAmount")],
        None => vec![parts, parts + amount("taxAmount")],
    };
    let agree = sums.contains(&amount("total"));
    assert_eq!(
        agree,
        !flags.contains("total_mismatch"),
        "{what}: {sums:?}, {pricing:#}"
    );
}

/// The rows of the document, as `provider/file flag`.
fn explained() -> BTreeSet<String> {
    let rows = EXPLAINED.lines().filter(|line| line.starts_with("| `"));
    let row = |line: &str| {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        let (sample, flags, why) = (cells.next().unwrap(), cells.next().unwrap(), cells.next().unwrap());
        assert!(why.len() > 20, "{line}: why?");
        let flags: Vec<String> = flags
            .split(", ")
            .map(|flag| flag.trim_matches('`').to_owned())
            .collect();
        flags
            .into_iter()
            .map(move |flag| format!("{} {flag}", sample.trim_matches('`')))
            .collect::<Vec<_>>()
    };
    rows.flat_map(row).collect()
}

#[test]
fn what_samples_cost_adds_up_and_every_flag_is_explained() {
    let mut flagged = BTreeSet::new();
    for sample in SAMPLES {
        let Becomes::Body(body) = sample.becomes else {
            continue;
        };
        let body: Value = serde_json::from_str(body).unwrap();
        let flags = body["metadata"]["flags"].as_array().into_iter().flatten();
        let flags: BTreeSet<&str> = flags.map(|flag| flag.as_str().unwrap()).collect();
        let name = sample.document.map_or(sample.file, |(document, ..)| document);
        flagged.extend(flags.iter().map(|flag| format!("{}/{name} {flag}", sample.provider)));
        let order = body.get("transformedOrder").or(body.get("amendment"));
        if let Some(order) = order.filter(|order| order["items"].is_array()) {
            sums(sample, order, &flags);
        }
    }
    assert_eq!(flagged, explained());
}
