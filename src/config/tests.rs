use super::*;

fn env(extra: &[(&str, &str)]) -> Environment {
    let basis = [
        ("SERVICE_TOKEN", "token"),
        ("CAREEM_ENABLED", "true"),
        ("CAREEM_WEBHOOK_SECRET", "00123"),
    ];
    basis.iter().chain(extra).map(|(name, value)| (*name, *value)).collect()
}

fn refusal(extra: &[(&str, &str)]) -> String {
    Config::from_environment(&env(extra)).unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = Config::from_environment(&env(&[])).unwrap();
    assert_eq!(config.http.listen.port(), 3002);
    assert_eq!(config.http.metrics_listen.unwrap().port(), 9090);
    assert_eq!(config.http.max_payload_bytes, 5 * 1024 * 1024);
    assert_eq!(config.nats.urls, ["nats://localhost:4222"]);
    assert_eq!(config.backend.url, "http://localhost:3001");
    assert_eq!((config.event_log.partitions, config.retries.max_retries), (64, 10));
    assert_eq!(
        config.breaker,
        Breaker {
            enabled: true,
            failure_threshold: 5,
            reset_timeout: Duration::from_secs(30)
        }
    );
    assert_eq!(
        config.providers[0].secrets.values("webhook_secret")[0].expose_secret(),
        "00123"
    );
    let head = &config.providers[0].file.order.head;
    assert_eq!(head.default_currency.map(Currency::exponent), Some(3));
}

#[test]
fn a_cluster_has_several_urls() {
    let config = Config::from_environment(&env(&[("NATS_URL", "nats://a:4222, tls://b:4222")])).unwrap();
    assert_eq!(config.nats.urls, ["nats://a:4222", "tls://b:4222"]);
    let refused = refusal(&[("NATS_URL", "nats://a:4222,nats://b:port")]);
    assert!(refused.starts_with("NATS_URL: \"nats://b:port\""), "{refused}");
}

#[test]
fn bad_values_name_the_variable() {
    assert_eq!(
        refusal(&[("PORT", "http")]),
        "PORT: expected a port number from 0 to 65535, found \"http\""
    );
    assert_eq!(
        refusal(&[("CAREEM_WEBHOOK_SECRET", "")]),
        "CAREEM_WEBHOOK_SECRET: missing; it proves that a webhook comes from careem"
    );
    assert_eq!(
        refusal(&[("CAREEM_WEBHOOK_SECRET", "a,,b")]),
        "CAREEM_WEBHOOK_SECRET: contains an empty secret between commas"
    );
    let unknown = refusal(&[("CARREM_ENABLED", "true")]);
    assert!(
        unknown.starts_with("CARREM_ENABLED: unknown provider; this installation knows careem, careem-pos, "),
        "{unknown}"
    );
    assert!(
        refusal(&[("DOORDASH_ENABLED", "true"), ("DOORDASH_API_KEY", "x")])
            .starts_with("DOORDASH_CURRENCY: missing; doordash sends no currency")
    );
    assert!(refusal(&[("SERVICE_TOKEN", "")]).starts_with("SERVICE_TOKEN: missing"));
    assert!(refusal(&[("CAREEM_IP_WHITELIST", "34.204.192.0/99")]).starts_with("CAREEM_IP_WHITELIST: expected"));
    assert!(refusal(&[("SHUTDOWN_GRACE", "30")]).starts_with("SHUTDOWN_GRACE: expected a duration"));
    assert!(refusal(&[("PARTITIONS", "0")]).starts_with("PARTITIONS:"));
    assert!(refusal(&[("MAX_PAYLOAD_SIZE", "64mb")]).starts_with("MAX_PAYLOAD_SIZE:"));
    assert!(refusal(&[("BACKEND_URL", "localhost")]).starts_with("BACKEND_URL:"));
    assert!(refusal(&[("LOG_LEVEL", "loud")]).starts_with("LOG_LEVEL:"));
    assert!(refusal(&[("NATS_USER", "hub")]).starts_with("NATS_USER:"));
    assert!(refusal(&[("TLS_CERT", "/x")]).starts_with("TLS_CERT: must be set together with TLS_KEY"));
    assert!(
        refusal(&[("BACKEND_TLS_KEY", "/x")])
            .starts_with("BACKEND_TLS_CERT: must be set together with BACKEND_TLS_KEY")
    );
    assert!(refusal(&[("REQUIRE_HTTPS", "true")]).starts_with("REQUIRE_HTTPS: no request could arrive by https"));
    assert!(refusal(&[("DATABASE_TLS", "maybe")]).starts_with("DATABASE_TLS: expected disable, prefer or require"));
    assert!(
        refusal(&[("DATABASE_TLS", "disable"), ("DATABASE_TLS_CA", "/x")]).starts_with("DATABASE_TLS: switched off")
    );
    assert!(refusal(&[("CAREEM_CURRENCY", "DINAR")]).starts_with("CAREEM_CURRENCY:"));
}

#[test]
fn tls_to_the_database_follows_its_settings() {
    use tokio_postgres::config::SslMode::{Disable, Prefer, Require};
    let url = "postgres://admin@host/db";
    for (options, extra, mode) in [
        ("", &[][..], Prefer),
        ("?sslmode=disable", &[], Disable),
        ("?sslmode=require", &[], Require),
        ("?application_name=x&sslmode=verify-full", &[], Require),
        ("", &[("DATABASE_TLS", "require")], Require),
        ("?sslmode=disable", &[("DATABASE_TLS", "verify-full")], Require),
        ("?sslmode=require", &[("DATABASE_TLS", "disable")], Disable),
        ("", &[("DATABASE_TLS_CA", "/ca.pem")], Require),
        ("", &[("DATABASE_TLS_CA_FILE", "/ca.pem")], Require),
        (
            "",
            &[("DATABASE_TLS_CA", "/ca.pem"), ("DATABASE_TLS", "prefer")],
            Prefer,
        ),
    ] {
        let url = format!("{url}{options}");
        let settings = [&[("DATABASE_URL", url.as_str())], extra].concat();
        let config = Config::from_environment(&env(&settings)).unwrap();
        assert_eq!(config.database.postgres.get_ssl_mode(), mode, "{settings:?}");
    }
}

#[test]
fn refusals_never_show_a_secret() {
    let shown = refusal(&[("DATABASE_URL", "postgres://admin:hunter2@@@host:nope/db")]);
    assert!(
        shown.starts_with("DATABASE_URL:") && !shown.contains("hunter2"),
        "{shown}"
    );
    let config = Config::from_environment(&env(&[
        ("NATS_USER", "hub"),
        ("NATS_PASSWORD", "hunter2"),
        ("DATABASE_PASSWORD", "hunter3"),
    ]))
    .unwrap();
    let shown = format!("{config:?}");
    for secret in ["00123", "hunter2", "hunter3", "\"token\""] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[test]
fn a_provider_that_is_off_may_be_unknown() {
    assert!(Config::from_environment(&env(&[("TALABAT_ENABLED", "false"), ("TALABAT_WEBHOOK_SECRET", "x")])).is_ok());
}

#[test]
fn values_come_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "new-secret, 00123\n").unwrap();
    let file = path.to_str().unwrap();
    let config = Config::from_environment(&env(&[
        ("CAREEM_WEBHOOK_SECRET", ""),
        ("CAREEM_WEBHOOK_SECRET_FILE", file),
    ]))
    .unwrap();
    let secrets: Vec<_> = config.providers[0]
        .secrets
        .values("webhook_secret")
        .iter()
        .map(ExposeSecret::expose_secret)
        .collect();
    assert_eq!(secrets, ["new-secret", "00123"]);
    assert!(refusal(&[("CAREEM_WEBHOOK_SECRET_FILE", file)]).contains("set together with"));
    std::fs::write(&path, "\n").unwrap();
    assert!(refusal(&[("CAREEM_WEBHOOK_SECRET", ""), ("CAREEM_WEBHOOK_SECRET_FILE", file)]).contains("is empty"));
}

#[test]
fn verification_is_the_provider_s_own_or_the_one_that_is_named() {
    let scheme = |extra: &[(&str, &str)]| {
        Config::from_environment(&env(extra)).unwrap().providers[0]
            .scheme
            .label()
    };
    assert_eq!(scheme(&[]), "hmac-sha256");
    assert_eq!(
        scheme(&[("CAREEM_VERIFICATION", "none"), ("CAREEM_WEBHOOK_SECRET", "")]),
        "none"
    );
    assert_eq!(
        scheme(&[("CAREEM_VERIFICATION", "careem-pos"), ("CAREEM_API_KEY", "k")]),
        "static"
    );
    let square = [
        ("CAREEM_VERIFICATION", "square"),
        ("PUBLIC_URL", "https://hooks.example.com/"),
    ];
    assert_eq!(scheme(&square), "hmac-sha256");
    let config = Config::from_environment(&env(&square)).unwrap();
    assert_eq!(config.http.public_url.as_deref(), Some("https://hooks.example.com"));

    let refused = refusal(&[("CAREEM_VERIFICATION", "carem")]);
    assert!(
        refused.starts_with("CAREEM_VERIFICATION: expected none or one of adyen, careem,"),
        "{refused}"
    );
    for (variable, value, says) in [
        (
            "careem-pos",
            "",
            "CAREEM_API_KEY: missing; it proves that a webhook comes from careem",
        ),
        ("talabat", "", "CAREEM_BEARER_TOKEN: missing"),
        ("delivery-hero", "", "CAREEM_JWT_SECRET: missing"),
        (
            "square",
            "",
            "PUBLIC_URL: missing; with CAREEM_VERIFICATION the URL is signed",
        ),
        ("square", "hooks.example.com", "PUBLIC_URL: expected the URL"),
        ("square", "https://a?b", "PUBLIC_URL: expected the URL"),
    ] {
        let refused = refusal(&[("CAREEM_VERIFICATION", variable), ("PUBLIC_URL", value)]);
        assert!(refused.starts_with(says), "{variable} {value}: {refused}");
    }
    let refused = refusal(&[("CAREEM_VERIFICATION", "stripe"), ("CAREEM_WEBHOOK_SECRET", "")]);
    assert!(refused.starts_with("CAREEM_WEBHOOK_SECRET: missing"), "{refused}");
    let standard = [
        ("CAREEM_VERIFICATION", "standard-webhooks"),
        ("CAREEM_WEBHOOK_SECRET", "!"),
    ];
    assert_eq!(refusal(&standard), "CAREEM_WEBHOOK_SECRET: expected base64");
    // It signs fields that Careem's orders do not have.
    let refused = refusal(&[("CAREEM_VERIFICATION", "adyen")]);
    let says =
        "CAREEM_VERIFICATION: this scheme does not sign \"/id\", from which the provider's file reads webhook.order_id";
    assert!(refused.starts_with(says), "{refused}");
    let many = ["secret"; 9].join(",");
    assert_eq!(
        refusal(&[("CAREEM_WEBHOOK_SECRET", &many)]),
        "CAREEM_WEBHOOK_SECRET: more than 8 secrets"
    );
}

#[test]
fn branches_may_have_the_secrets() {
    let without = [("CAREEM_WEBHOOK_SECRET", ""), ("CAREEM_BRANCH_SECRETS", "true")];
    let provider = Config::from_environment(&env(&without)).unwrap().providers.remove(0);
    assert!(provider.branch_secrets && provider.secrets.values("webhook_secret").is_empty());
    let nothing_verified = refusal(&[without[1], ("CAREEM_VERIFICATION", "none")]);
    assert!(
        nothing_verified.starts_with("CAREEM_BRANCH_SECRETS: expected false"),
        "{nothing_verified}"
    );
    // Branches have webhook secrets only, and this scheme takes another one.
    let refused = refusal(&[without[0], without[1], ("CAREEM_VERIFICATION", "careem-pos")]);
    assert!(refused.starts_with("CAREEM_API_KEY: missing"), "{refused}");
}

#[test]
fn secrets_of_files_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write("old");
    let variables = [
        ("CAREEM_WEBHOOK_SECRET", ""),
        ("CAREEM_WEBHOOK_SECRET_FILE", path.to_str().unwrap()),
    ];
    let provider = Config::from_environment(&env(&variables)).unwrap().providers.remove(0);
    assert!(provider.secrets.has_files());
    let again = || {
        provider
            .secrets
            .read_again(&provider.scheme)
            .map_err(|error| error.to_string())
    };
    assert!(again().unwrap().1.is_empty());
    write("new, old\n");
    let (secrets, changed) = again().unwrap();
    assert_eq!(changed.into_iter().collect::<Vec<_>>(), ["CAREEM_WEBHOOK_SECRET"]);
    let values = secrets.values("webhook_secret").iter().map(ExposeSecret::expose_secret);
    assert_eq!(values.collect::<Vec<_>>(), ["new", "old"]);
    write("hunter2,,old");
    assert_eq!(
        again().unwrap_err(),
        "CAREEM_WEBHOOK_SECRET: contains an empty secret between commas"
    );
    write("");
    assert!(again().unwrap_err().starts_with("CAREEM_WEBHOOK_SECRET_FILE: "));
    std::fs::remove_file(&path).unwrap();
    assert!(
        again()
            .unwrap_err()
            .starts_with("CAREEM_WEBHOOK_SECRET_FILE: cannot read")
    );
    assert!(
        !Config::from_environment(&env(&[])).unwrap().providers[0]
            .secrets
            .has_files()
    );
}
