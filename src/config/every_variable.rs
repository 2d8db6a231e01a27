//! Every variable with common mistakes: 0, 1, huge, negative, without a unit, garbage.
//!
//! The table must have every variable that the code reads: a missing one fails the test. So no number is added without bounds,
//! and no number is read as text.

use std::{collections::BTreeSet, sync::LazyLock};

use super::*;

/// The kind of values that a variable takes.
#[derive(Debug, Clone, Copy)]
enum Takes {
    /// Any text: a name, an identifier, a secret, the path of a file.
    Text,
    /// `true` and `false`, also as 1 and 0.
    Flag,
    /// One of a few words, an address, or a URL: none of the tried values is valid.
    Words,
    /// A whole number from … to ….
    Whole(u64, u64),
    /// Milliseconds from … to …, with a unit.
    Duration(u64, u64),
    /// The same; a number without a unit is in milliseconds.
    DurationOrMs(u64, u64),
    /// Bytes from … to ….
    Bytes(u64, u64),
    /// A rate limit: points from … to …, a window, a block.
    Rate(u64, u64),
    /// Durations between commas, each from … to ….
    Durations(u64, u64),
}
use Takes::*;

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// Every variable; `P` stands for a provider's prefix.
const VARIABLES: &[(&str, Takes)] = &[
    ("SERVICE_NAME", Text),
    ("PORT", Whole(0, 65_535)),
    ("METRICS_PORT", Whole(0, 65_535)),
    ("METRICS_ENABLED", Flag),
    ("METRICS_HOST", Words),
    ("LISTEN_ADDRESS", Words),
    ("TRUSTED_PROXIES", Words),
    ("PUBLIC_URL", Words),
    ("REQUIRE_HTTPS", Flag),
    ("TLS_CERT", Text),
    ("TLS_KEY", Text),
    ("MAX_PAYLOAD_SIZE", Bytes(1024, 7 << 20)),
    ("REQUEST_TIMEOUT", Duration(SECOND, 300 * SECOND)),
    ("SHUTDOWN_DELAY", Duration(0, 300 * SECOND)),
    ("SHUTDOWN_GRACE", Duration(SECOND, 600 * SECOND)),
    ("PARTITIONS", Whole(1, 512)),
    ("EVENT_FORMAT", Words),
    ("EVENT_BATCH_FROM", Whole(2, 1000)),
    ("NATS_URL", Words),
    ("NATS_USER", Text),
    ("NATS_PASSWORD", Text),
    ("NATS_CREDS_FILE", Text),
    ("NATS_TLS_CA", Text),
    ("NATS_TLS_CERT", Text),
    ("NATS_TLS_KEY", Text),
    ("NATS_MONITORING_URL", Words),
    ("DATABASE_URL", Words),
    ("DATABASE_HOST", Text),
    ("DATABASE_PORT", Whole(1, 65_535)),
    ("DATABASE_NAME", Text),
    ("DATABASE_USER", Text),
    ("DATABASE_PASSWORD", Text),
    ("DATABASE_SCHEMA", Text),
    ("DATABASE_POOL_SIZE", Whole(3, 200)),
    ("DATABASE_TLS", Words),
    ("DATABASE_TLS_CA", Text),
    ("DATABASE_TLS_CERT", Text),
    ("DATABASE_TLS_KEY", Text),
    ("BACKEND_URL", Words),
    ("BACKEND_TIMEOUT", Duration(100, 60 * SECOND)),
    ("BACKEND_MAX_REQUESTS", Whole(1, 1000)),
    ("BACKEND_TLS_CA", Text),
    ("BACKEND_TLS_CERT", Text),
    ("BACKEND_TLS_KEY", Text),
    ("SERVICE_TOKEN", Text),
    ("CIRCUIT_BREAKER_ENABLED", Flag),
    ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", Whole(1, 1000)),
    ("CIRCUIT_BREAKER_RESET_TIMEOUT", DurationOrMs(100, HOUR)),
    ("RETRY_DELAYS", Durations(100, 7 * DAY)),
    ("RETRY_MAX_ATTEMPTS", Whole(1, 100)),
    ("ORDER_MEMORY", Duration(HOUR, 30 * DAY)),
    ("RETENTION_WEBHOOK_LOGS", Duration(7 * DAY, 360 * DAY)),
    ("RETENTION_DELIVERY_ERROR_LOGS", Duration(7 * DAY, 360 * DAY)),
    ("RETENTION_ORDERS", Duration(7 * DAY, 360 * DAY)),
    ("RETENTION_PROVIDER_ORDER_LOGS", Duration(7 * DAY, 360 * DAY)),
    ("RETENTION_SKIPPED_EVENTS", Duration(7 * DAY, 360 * DAY)),
    ("RATE_LIMIT_ENABLED", Flag),
    ("RATE_LIMIT_DEFAULT", Rate(1, 1_000_000_000)),
    ("RATE_LIMIT_ADDRESS", Rate(1, 1_000_000_000)),
    ("RATE_LIMIT_BYTES", Bytes(1024, 7 << 20)),
    ("RATE_LIMIT_P", Rate(1, 1_000_000_000)),
    ("LOG_LEVEL", Words),
    ("LOG_FORMAT", Words),
    ("PROVIDERS_DIR", Words),
    ("P_ENABLED", Flag),
    ("P_WEBHOOK_SECRET", Text),
    ("P_BEARER_TOKEN", Text),
    ("P_JWT_SECRET", Text),
    ("P_API_KEY", Text),
    ("P_BRANCH_SECRETS", Flag),
    ("P_BRANCH_RATE_LIMIT", Whole(1, 1_000_000_000)),
    ("P_VERIFICATION", Words),
    ("P_OBSERVE_UNTIL", Words),
    ("P_IP_WHITELIST", Words),
    ("P_CURRENCY", Words),
    ("P_ORDER_TTL", Duration(SECOND, 7 * DAY)),
    ("P_RESPONSE_WAIT", Duration(0, 30 * SECOND)),
    ("P_FORWARD_TEST_ORDERS", Flag),
    ("P_API_URL", Words),
    ("P_TOKEN_URL", Words),
    ("P_TOKEN_SCOPES", Text),
    ("P_API_HOSTS", Words),
    ("P_RECONCILE", Flag),
    ("P_RECONCILE_EVERY", Duration(60 * SECOND, 6 * HOUR)),
    ("P_RECONCILE_WINDOW", Duration(HOUR, DAY)),
    ("P_API_TLS_CA", Text),
    ("P_API_TLS_CERT", Text),
    ("P_API_TLS_KEY", Text),
    ("P_CLIENT_ID", Text),
    ("P_KEY_ID", Text),
    ("P_CLIENT_SECRET", Text),
    ("P_ACCESS_TOKEN", Text),
];

/// The tried values: the text, its number if it has no unit, its milliseconds if it is a duration.
const TRIED: &[(&str, Option<u64>, Option<u64>)] = &[
    ("0", Some(0), None),
    ("1", Some(1), None),
    ("30", Some(30), None),
    ("30000", Some(30_000), None),
    ("4294967296", Some(1 << 32), None),
    ("99999999999999999999", None, None),
    ("-1", None, None),
    ("-1s", None, None),
    ("1.5", None, None),
    ("1e3", None, None),
    ("banana", None, None),
    ("0s", None, Some(0)),
    ("1ms", None, Some(1)),
    ("30s", None, Some(30 * SECOND)),
    ("365d", None, Some(365 * DAY)),
    ("999999d", None, None),
    ("1fortnight", None, None),
];

/// Other variables that must be set, so that a variable is read and nothing else is at fault.
const BESIDE: &[(&str, &[(&str, &str)])] = &[
    ("TLS_CERT", &[("TLS_KEY", "/x")]),
    ("TLS_KEY", &[("TLS_CERT", "/x")]),
    ("NATS_USER", &[("NATS_PASSWORD", "x")]),
    ("NATS_PASSWORD", &[("NATS_USER", "x")]),
    ("NATS_TLS_CERT", &[("NATS_TLS_KEY", "/x")]),
    ("NATS_TLS_KEY", &[("NATS_TLS_CERT", "/x")]),
    ("DATABASE_TLS_CERT", &[("DATABASE_TLS_KEY", "/x")]),
    ("DATABASE_TLS_KEY", &[("DATABASE_TLS_CERT", "/x")]),
    ("BACKEND_TLS_CERT", &[("BACKEND_TLS_KEY", "/x")]),
    ("BACKEND_TLS_KEY", &[("BACKEND_TLS_CERT", "/x")]),
    ("P_API_TLS_CERT", &[("CAREEM_API_TLS_KEY", "/x")]),
    ("P_API_TLS_KEY", &[("CAREEM_API_TLS_CERT", "/x")]),
    ("P_CLIENT_ID", &[("CAREEM_CLIENT_SECRET", "x")]),
    ("P_CLIENT_SECRET", &[("CAREEM_CLIENT_ID", "x")]),
    ("P_BEARER_TOKEN", &[("CAREEM_VERIFICATION", "talabat")]),
    ("P_API_KEY", &[("CAREEM_VERIFICATION", "careem-pos")]),
    ("P_JWT_SECRET", &[("CAREEM_VERIFICATION", "delivery-hero")]),
    ("REQUIRE_HTTPS", &[("TRUSTED_PROXIES", "10.0.0.0/8")]),
];

/// A valid environment, with these variables added.
fn environment(beside: &[(&str, &str)]) -> Environment {
    let basis = [
        ("SERVICE_TOKEN", "token"),
        ("CAREEM_ENABLED", "true"),
        ("CAREEM_WEBHOOK_SECRET", "secret"),
    ];
    basis
        .iter()
        .chain(beside)
        .map(|(name, value)| (*name, *value))
        .collect()
}

/// All settings. The providers' files are read once for all tests.
fn config(env: &Environment) -> Result<Config, ConfigError> {
    static SHIPPED: LazyLock<Catalogue> = LazyLock::new(Catalogue::shipped);
    match env.text("PROVIDERS_DIR")? {
        Some(_) => Config::from_environment(env),
        None => Config::with_providers(env, &SHIPPED),
    }
}

fn of_careem(name: &str) -> String {
    name.strip_prefix("P_")
        .map(|rest| format!("CAREEM_{rest}"))
        .unwrap_or_else(|| name.replace("RATE_LIMIT_P", "RATE_LIMIT_CAREEM"))
}

fn beside(name: &str) -> &'static [(&'static str, &'static str)] {
    BESIDE
        .iter()
        .find(|(of, _)| *of == name)
        .map_or(&[], |(_, beside)| beside)
}

fn read(name: &str, value: &str) -> Result<Config, ConfigError> {
    let variable = of_careem(name);
    let mut all = beside(name).to_vec();
    all.push((&variable, value));
    config(&environment(&all))
}

/// Whether a value is valid for a variable.
fn fits(takes: Takes, text: &str, number: Option<u64>, ms: Option<u64>) -> bool {
    let within = |value: Option<u64>, least: u64, most: u64| value.is_some_and(|value| (least..=most).contains(&value));
    match takes {
        Text => true,
        Flag => matches!(text, "0" | "1"),
        Words => false,
        Whole(least, most) | Rate(least, most) => within(number, least, most),
        Duration(least, most) | Durations(least, most) => within(ms, least, most),
        DurationOrMs(least, most) => within(ms.or(number), least, most),
        Bytes(least, most) => within(number, least, most),
    }
}

#[test]
fn each_value_is_accepted_or_refused_by_name() {
    for (name, takes) in VARIABLES {
        for (text, number, ms) in TRIED {
            let read = read(name, text);
            let fits = fits(*takes, text, *number, *ms);
            // Any text may be the name of a NATS host.
            if *name == "NATS_URL" {
                continue;
            }
            match read {
                Ok(_) => assert!(fits, "{name}={text} is taken"),
                Err(error) => {
                    assert!(!fits, "{name}={text}: {error}");
                    assert_eq!(error.variable, of_careem(name), "{text}: {error}");
                    assert!(!error.message.contains('\n'), "{error}");
                    let says_how = ["expected", "such as", "cannot"];
                    assert!(says_how.iter().any(|one| error.message.contains(one)), "{error}");
                }
            }
        }
    }
}

/// The values just inside and just outside the bounds; the message names the bounds.
#[test]
fn bounds_are_those_of_the_table() {
    for (name, takes) in VARIABLES {
        let (least, most, unit) = match *takes {
            Whole(least, most) => (least, most, ""),
            Duration(least, most) | DurationOrMs(least, most) => (least, most, "ms"),
            Bytes(least, most) => (least, most, ""),
            Rate(least, most) => (least, most, "/60s"),
            Durations(least, most) => (least, most, "ms"),
            Text | Flag | Words => continue,
        };
        for inside in [least, most] {
            // Ten retries of a week take longer than the log keeps events.
            let is_schedule = matches!(takes, Durations(..)) && inside == most;
            let value = if is_schedule {
                format!("1m,{inside}{unit},1m")
            } else {
                format!("{inside}{unit}")
            };
            let few = name == &"RETRY_MAX_ATTEMPTS" && inside == most;
            let read = if few {
                let delays = [("RETRY_DELAYS", "1h"), ("RETRY_MAX_ATTEMPTS", value.as_str())];
                config(&environment(&delays))
            } else {
                read(name, &value)
            };
            assert!(read.is_ok(), "{name}={value}: {:?}", read.err());
        }
        for outside in [least.checked_sub(1), Some(most + 1)].into_iter().flatten() {
            let error = read(name, &format!("{outside}{unit}")).expect_err(name);
            assert_eq!(error.variable, of_careem(name));
            assert!(error.message.contains(" to "), "{name}={outside}{unit}: {error}");
        }
    }
}

#[test]
fn a_duration_without_a_unit_is_refused_with_an_example() {
    for name in ["REQUEST_TIMEOUT", "BACKEND_TIMEOUT", "SHUTDOWN_GRACE", "P_ORDER_TTL"] {
        let error = read(name, "30").expect_err(name).to_string();
        assert!(
            error.contains("30s for seconds") && error.contains(&of_careem(name)),
            "{error}"
        );
    }
    // The earlier service took this variable in milliseconds.
    let error = read("CIRCUIT_BREAKER_RESET_TIMEOUT", "30").unwrap_err().to_string();
    assert!(
        error.contains("milliseconds") && error.contains("100ms to 1h"),
        "{error}"
    );
    let config = read("CIRCUIT_BREAKER_RESET_TIMEOUT", "30000").unwrap();
    assert_eq!(config.breaker.reset_timeout.as_secs(), 30);
}

/// Every variable that any path of the code reads is in the table.
#[test]
fn the_table_has_every_variable() {
    let mut asked = BTreeSet::new();
    let mut read_with = |beside: &[(&str, &str)]| {
        let env = environment(beside);
        // Whether the settings are valid does not matter here.
        let _ = Config::from_environment(&env);
        asked.extend(env.asked.lock().unwrap().iter().cloned());
    };
    read_with(&[]);
    for (_, beside) in BESIDE {
        read_with(beside);
    }
    let catalogue = Catalogue::shipped();
    let prefixes: Vec<_> = catalogue.names().map(prefix).collect();
    let of_table = |name: &str| {
        // The longest first: CAREEM_POS before CAREEM.
        let mut known: Vec<_> = prefixes.iter().collect();
        known.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
        for prefix in known {
            if let Some(rest) = name.strip_prefix(&format!("{prefix}_")) {
                return format!("P_{rest}");
            }
            if name == format!("RATE_LIMIT_{prefix}") {
                return "RATE_LIMIT_P".to_owned();
            }
        }
        name.to_owned()
    };
    let asked: BTreeSet<_> = asked.iter().map(|name| of_table(name)).collect();
    let table: BTreeSet<_> = VARIABLES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let missing: Vec<_> = asked.difference(&table).collect();
    assert!(
        missing.is_empty(),
        "asked for, but without a line in the table: {missing:?}"
    );
    let unknown: Vec<_> = table.difference(&asked).collect();
    assert!(unknown.is_empty(), "in the table, but not asked for: {unknown:?}");
    assert_eq!(table.len(), VARIABLES.len(), "a variable has two lines");
    let mut known: BTreeSet<_> = misspelt::NAMES.iter().map(|name| (*name).to_owned()).collect();
    known.extend(misspelt::OF_PROVIDER.iter().map(|rest| format!("P_{rest}")));
    known.insert("RATE_LIMIT_P".to_owned());
    let differ: Vec<_> = table.symmetric_difference(&known).collect();
    assert!(
        differ.is_empty(),
        "in one of this table and src/config/misspelt.rs alone: {differ:?}"
    );
}
