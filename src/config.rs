//! Configuration: environment variables and files, read once into validated types.
//!
//! Any variable `X` may instead come from the file that `X_FILE` names. An invalid value prevents the start, with one line that
//! names the variable and the expected value. Values stay text and no type is guessed: the secret `00123` stays `00123`.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use crate::{
    order::money::Currency,
    provider::{Catalogue, declarative::file::File},
    retry::Schedule,
    verification::Scheme,
};

mod bounds;
mod environment;
mod database;
mod event_log;
mod limits;
mod logs;
mod nats;
mod replayed;
mod retention;
mod retries;
mod stopping;
mod outbound;
pub mod observe;
mod provider_times;
mod secrets;
mod misspelt;
mod tls;
mod without_effect;

pub use self::{
    bounds::Bounds,
    database::Database,
    environment::Environment,
    event_log::{EventFormat, EventLog},
    limits::{RateLimits, Rule},
    logs::Logs,
    misspelt::{Misspelt, misspelt},
    nats::Nats,
    outbound::OutboundSettings,
    provider_times::{announced_again, order_ttls},
    replayed::ReplayedProvider,
    retention::{Retention, order_memory},
    secrets::{Secrets, public_url, scheme},
    stopping::Stopping,
    tls::{ClientTls, KeyPair},
    without_effect::without_effect,
};

/// Most service tokens at a time; a rotation needs two.
const MAX_SERVICE_TOKENS: usize = 8;
/// Limit of the contract for a request's body, 5 MiB.
const DEFAULT_MAX_PAYLOAD_BYTES: usize = 5 * 1024 * 1024;
const PAYLOAD: Bounds<usize> = Bounds {
    least: 1024,
    most: 7 * 1024 * 1024,
    why: "no order is smaller, and NATS takes messages of up to 8 MB, headers included",
};
const REQUEST_TIMEOUT: Bounds<Duration> = Bounds {
    least: Duration::from_secs(1),
    most: Duration::from_secs(300),
    why: "a shorter time cuts off ordinary senders; a longer one lets a silent sender keep its connection and memory",
};
const BACKEND_TIMEOUT: Bounds<Duration> = Bounds {
    least: Duration::from_millis(100),
    most: Duration::from_secs(60),
    why: "a shorter time fails every request; a longer one is beyond the time in which the log redelivers an event (2m)",
};
const BACKEND_REQUESTS: Bounds<usize> = Bounds {
    least: 1,
    most: 1000,
    why: "with 0 nothing is forwarded, and each request takes a connection and an order's memory",
};
const FAILURES: Bounds<u32> = Bounds {
    least: 1,
    most: 1000,
    why: "the breaker opens after this many failures in a row; CIRCUIT_BREAKER_ENABLED=false switches it off",
};
const RESET_TIMEOUT: Bounds<Duration> = Bounds {
    least: Duration::from_millis(100),
    most: Duration::from_secs(3600),
    why: "a shorter time sends requests to a failing backend without a pause; a longer one delays orders for hours after it is back",
};

/// A value that prevents the start; its message is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {message}")]
pub struct ConfigError {
    /// The environment variable with the fault.
    pub variable: String,
    /// What is wrong and what is expected; never a secret's value.
    pub message: String,
}

impl ConfigError {
    /// An error of a variable.
    pub fn new(variable: impl Into<String>, message: impl fmt::Display) -> Self {
        Self {
            variable: variable.into(),
            message: message.to_string(),
        }
    }
}

/// All settings of the hub.
#[derive(Debug, Clone)]
pub struct Config {
    /// `SERVICE_NAME`, shown in health.
    pub service_name: String,
    /// Intake.
    pub http: Http,
    /// NATS.
    pub nats: Nats,
    /// PostgreSQL.
    pub database: Database,
    /// The restaurant's backend.
    pub backend: Backend,
    /// The enabled providers.
    pub providers: Vec<ProviderConfig>,
    /// How events are written.
    pub event_log: EventLog,
    /// Rate limits.
    pub limits: RateLimits,
    /// `RETRY_DELAYS` and `RETRY_MAX_ATTEMPTS`.
    pub retries: Schedule,
    /// `ORDER_MEMORY`: how long repeats of an order's number, and of a webhook, are recognised.
    pub order_memory: Duration,
    /// `RETENTION_…`: how long rows that ended are kept.
    pub retention: Retention,
    /// Circuit breaker.
    pub breaker: Breaker,
    /// Logs.
    pub logs: Logs,
    /// `SHUTDOWN_DELAY` and `SHUTDOWN_GRACE`.
    pub stopping: Stopping,
}

/// Intake.
#[derive(Debug, Clone)]
pub struct Http {
    /// `LISTEN_ADDRESS` (by default all addresses) and `PORT`; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// `METRICS_HOST` (by default the loopback) and `METRICS_PORT`; none if `METRICS_ENABLED=false`.
    pub metrics_listen: Option<SocketAddr>,
    /// `MAX_PAYLOAD_SIZE` in bytes, compressed and not.
    pub max_payload_bytes: usize,
    /// `REQUEST_TIMEOUT`: time for a request's headers, and again for its body.
    pub request_timeout: Duration,
    /// `TRUSTED_PROXIES`.
    pub trusted_proxies: Vec<IpNet>,
    /// `PUBLIC_URL`: the URL that providers call, up to the path; without a slash at its end.
    pub public_url: Option<String>,
    /// `TLS_CERT` and `TLS_KEY`: with them the public port accepts only TLS.
    pub tls: Option<KeyPair>,
    /// `REQUIRE_HTTPS`: requests that reached the hub or a trusted proxy without TLS are refused.
    pub require_https: bool,
}

/// The restaurant's backend.
#[derive(Debug, Clone)]
pub struct Backend {
    /// `BACKEND_URL`, without a slash at its end.
    pub url: String,
    /// `SERVICE_TOKEN`, newest first: authenticates the hub to the backend, and the backend to the hub.
    pub service_tokens: Vec<SecretString>,
    /// `BACKEND_TIMEOUT` for one request.
    pub timeout: Duration,
    /// `BACKEND_MAX_REQUESTS`: most requests at a time.
    pub max_requests: usize,
    /// `BACKEND_TLS_*`.
    pub tls: ClientTls,
}

/// An enabled provider.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// Its name.
    pub name: Arc<str>,
    /// Its file.
    pub file: Arc<File>,
    /// How its webhooks are verified: its own scheme, or the one of `<PROVIDER>_VERIFICATION`.
    pub scheme: Scheme,
    /// `<PROVIDER>_WEBHOOK_SECRET` and the other secrets that the scheme takes.
    pub secrets: Secrets,
    /// `<PROVIDER>_BRANCH_SECRETS`: whether `branch_delivery_configs.webhook_secret` counts, too.
    pub branch_secrets: bool,
    /// `<PROVIDER>_IP_WHITELIST`; empty = all.
    pub allow_list: Vec<IpNet>,
    /// `<PROVIDER>_CURRENCY`, for providers that send none; none if its file gives the currency.
    pub currency: Option<Currency>,
    /// `<PROVIDER>_FORWARD_TEST_ORDERS`: whether test orders go to the backend like any other.
    pub forward_test_orders: bool,
    /// `<PROVIDER>_ORDER_TTL`: how old a new order may be when it is forwarded; none: any age.
    pub order_ttl: Option<Duration>,
    /// `<PROVIDER>_OBSERVE_UNTIL`: until when its signatures are observed and not insisted on.
    pub observe_until: Option<DateTime<Utc>>,
    /// `<PROVIDER>_RESPONSE_WAIT`: how long the answer to a webhook waits for its outcome; none: not at all.
    pub response_wait: Option<Duration>,
    /// How requests are sent to the provider; none if none are sent.
    pub outbound: Option<OutboundSettings>,
}

/// Circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// `CIRCUIT_BREAKER_ENABLED`.
    pub enabled: bool,
    /// `CIRCUIT_BREAKER_FAILURE_THRESHOLD`: temporary failures in a row that open it.
    pub failure_threshold: u32,
    /// `CIRCUIT_BREAKER_RESET_TIMEOUT` (milliseconds without a unit): how long it stays open.
    pub reset_timeout: Duration,
}

impl Config {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn from_environment(env: &Environment) -> Result<Self, ConfigError> {
        Self::with_providers(env, &catalogue(env)?)
    }

    /// Reads and checks everything, with the known providers of this installation.
    fn with_providers(env: &Environment, catalogue: &Catalogue) -> Result<Self, ConfigError> {
        let http = http(env)?;
        let providers = providers(env, catalogue, http.public_url.as_deref())?;
        let order_memory = order_memory(env)?;
        Ok(Self {
            service_name: env.text_or("SERVICE_NAME", "integration-service")?,
            http,
            nats: Nats::from_environment(env)?,
            database: Database::from_environment(env)?,
            backend: backend(env)?,
            providers,
            event_log: EventLog::from_environment(env)?,
            limits: limits::rate_limits(env, catalogue)?,
            retries: retries::schedule(env)?,
            order_memory,
            retention: Retention::from_environment(env, order_memory)?,
            breaker: breaker(env)?,
            logs: Logs::from_environment(env)?,
            stopping: Stopping::from_environment(env)?,
        })
    }
}

fn http(env: &Environment) -> Result<Http, ConfigError> {
    let address = env.address("LISTEN_ADDRESS", IpAddr::from([0, 0, 0, 0]))?;
    let port = env.port("PORT", 3002, 0)?;
    let metrics_port = env.port("METRICS_PORT", 9090, 0)?;
    let metrics = env.flag("METRICS_ENABLED", true)?;
    let metrics_host = env.address("METRICS_HOST", IpAddr::from([127, 0, 0, 1]))?;
    let max_payload_bytes = env.bytes("MAX_PAYLOAD_SIZE", DEFAULT_MAX_PAYLOAD_BYTES, &PAYLOAD)?;
    let (tls, trusted_proxies) = (
        tls::key_pair(env, "TLS_CERT", "TLS_KEY")?,
        env.networks("TRUSTED_PROXIES")?,
    );
    let require_https = env.flag("REQUIRE_HTTPS", false)?;
    if require_https && tls.is_none() && trusted_proxies.is_empty() {
        return Err(ConfigError::new(
            "REQUIRE_HTTPS",
            "no request could arrive by https: set TLS_CERT and TLS_KEY, or TRUSTED_PROXIES",
        ));
    }
    Ok(Http {
        listen: SocketAddr::new(address, port),
        metrics_listen: metrics.then(|| SocketAddr::new(metrics_host, metrics_port)),
        max_payload_bytes,
        request_timeout: env.duration("REQUEST_TIMEOUT", Duration::from_secs(30), &REQUEST_TIMEOUT)?,
        trusted_proxies,
        public_url: public_url(env)?,
        tls,
        require_https,
    })
}

fn backend(env: &Environment) -> Result<Backend, ConfigError> {
    let url = env.text_or("BACKEND_URL", "http://localhost:3001")?;
    let url = url.trim_end_matches('/').to_owned();
    let parsed = url::Url::parse(&url)
        .map_err(|_| ConfigError::new("BACKEND_URL", "expected a URL such as http://localhost:3001"))?;
    if !matches!(parsed.scheme(), "http" | "https") || !parsed.username().is_empty() {
        return Err(ConfigError::new(
            "BACKEND_URL",
            "expected an http or https URL without credentials",
        ));
    }
    let service_tokens = env.secrets("SERVICE_TOKEN")?;
    if service_tokens.is_empty() {
        return Err(ConfigError::new(
            "SERVICE_TOKEN",
            "missing; it authenticates the hub to the backend (X-Service-Token)",
        ));
    }
    if service_tokens.len() > MAX_SERVICE_TOKENS {
        return Err(ConfigError::new(
            "SERVICE_TOKEN",
            format_args!("more than {MAX_SERVICE_TOKENS} tokens"),
        ));
    }
    let fits = |token: &SecretString| token.expose_secret().chars().all(|c| c.is_ascii_graphic());
    if !service_tokens.iter().all(fits) {
        return Err(ConfigError::new(
            "SERVICE_TOKEN",
            "contains characters that are not allowed in an HTTP header",
        ));
    }
    let max_requests = env.whole("BACKEND_MAX_REQUESTS", 128, &BACKEND_REQUESTS)?;
    let timeout = env.duration("BACKEND_TIMEOUT", Duration::from_secs(10), &BACKEND_TIMEOUT)?;
    Ok(Backend {
        url,
        service_tokens,
        timeout,
        max_requests,
        tls: ClientTls::from_environment(env, "BACKEND")?,
    })
}

fn breaker(env: &Environment) -> Result<Breaker, ConfigError> {
    Ok(Breaker {
        enabled: env.flag("CIRCUIT_BREAKER_ENABLED", true)?,
        failure_threshold: env.whole("CIRCUIT_BREAKER_FAILURE_THRESHOLD", 5, &FAILURES)?,
        reset_timeout: env.duration_or_ms("CIRCUIT_BREAKER_RESET_TIMEOUT", Duration::from_secs(30), &RESET_TIMEOUT)?,
    })
}

/// Suffixes by which a variable belongs to a provider.
const PROVIDER_SUFFIXES: [&str; 28] = [
    "_WEBHOOK_SECRET",
    "_WEBHOOK_SECRET_FILE",
    "_API_KEY",
    "_API_KEY_FILE",
    "_BEARER_TOKEN",
    "_BEARER_TOKEN_FILE",
    "_JWT_SECRET",
    "_JWT_SECRET_FILE",
    "_BRANCH_SECRETS",
    "_BRANCH_RATE_LIMIT",
    "_VERIFICATION",
    "_IP_WHITELIST",
    "_CURRENCY",
    "_ORDER_TTL",
    "_RESPONSE_WAIT",
    "_FORWARD_TEST_ORDERS",
    "_API_URL",
    "_TOKEN_URL",
    "_TOKEN_SCOPES",
    "_ACCESS_TOKEN",
    "_ACCESS_TOKEN_FILE",
    "_CLIENT_ID",
    "_CLIENT_ID_FILE",
    "_KEY_ID",
    "_KEY_ID_FILE",
    "_CLIENT_SECRET",
    "_CLIENT_SECRET_FILE",
    "_ENABLED",
];
/// Prefixes of `_ENABLED` variables that are no provider's.
const NOT_PROVIDERS: [&str; 5] = ["RATE_LIMIT", "RETRY", "CIRCUIT_BREAKER", "METRICS", "HEALTH_CHECK"];

/// The prefix of a provider's variables: `CAREEM`, `UBER_EATS`.
pub fn prefix(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

/// The providers that this installation knows: the shipped ones, and those of `PROVIDERS_DIR`.
///
/// # Errors
/// If the folder, or a file of it, cannot be used.
pub fn catalogue(env: &Environment) -> Result<Catalogue, ConfigError> {
    let folder = env.text("PROVIDERS_DIR")?.map(std::path::PathBuf::from);
    Catalogue::load(folder.as_deref())
        .map_err(|error| ConfigError::new("PROVIDERS_DIR", error.to_string().replace('\n', "; ")))
}

/// A provider's name on the command line: one that this installation knows.
///
/// # Errors
/// If it is unknown, with the list of known names.
pub fn known_provider(name: &str) -> Result<String, String> {
    let catalogue = catalogue(&Environment::of_process()).map_err(|error| error.to_string())?;
    if catalogue.get(name).is_some() {
        return Ok(name.to_owned());
    }
    let names: Vec<_> = catalogue.names().collect();
    Err(format!("this installation knows {}", names.join(", ")))
}

fn providers(
    env: &Environment,
    catalogue: &Catalogue,
    public_url: Option<&str>,
) -> Result<Vec<ProviderConfig>, ConfigError> {
    refuse_unknown_providers(env, catalogue)?;
    let mut providers = Vec::new();
    for (name, known) in catalogue.iter() {
        let prefix = prefix(name);
        if !env.flag(&format!("{prefix}_ENABLED"), false)? {
            continue;
        }
        let verification = scheme(env, &prefix, known.file(), public_url)?;
        let branch_secrets = secrets::branch_secrets(env, &prefix, &verification, known.file())?;
        let secrets = Secrets::from_environment(env, &prefix, name, &verification, branch_secrets)?;
        let currency = currency(env, known.file())?;
        let signed = (&**known.file(), &verification);
        let observe_until = observe::observe_until(env, &prefix, signed, branch_secrets, Utc::now())?;
        let outbound = outbound::of_provider(env, name, &prefix, known.file().outbound.as_ref())?;
        providers.push(ProviderConfig {
            name: name.into(),
            file: Arc::clone(known.file()),
            scheme: verification,
            observe_until,
            outbound,
            secrets,
            branch_secrets,
            currency,
            forward_test_orders: env.flag(&format!("{prefix}_FORWARD_TEST_ORDERS"), false)?,
            allow_list: env.networks(&format!("{prefix}_IP_WHITELIST"))?,
            order_ttl: provider_times::order_ttl(env, &prefix)?,
            response_wait: provider_times::response_wait(env, &prefix, known.file())?,
        });
    }
    Ok(providers)
}

/// `<PROVIDER>_CURRENCY`.
///
/// # Errors
/// If it is no currency.
pub fn currency_of(env: &Environment, name: &str) -> Result<Option<Currency>, ConfigError> {
    let variable = format!("{}_CURRENCY", prefix(name));
    let code = env.text(&variable)?;
    let code = code.map(|code| code.parse());
    code.transpose().map_err(|error| ConfigError::new(variable, error))
}

/// There is no default beside the provider's file: amounts in a wrong currency would be wrong by a factor of ten or more.
fn currency(env: &Environment, file: &File) -> Result<Option<Currency>, ConfigError> {
    let (name, head) = (&file.identity.name, &file.order.head);
    let configured = currency_of(env, name)?;
    if configured.is_none() && head.currency.is_none() && head.default_currency.is_none() {
        return Err(ConfigError::new(
            format!("{}_CURRENCY", prefix(name)),
            format_args!("missing; {name} sends no currency, so set its ISO 4217 code, such as JOD"),
        ));
    }
    Ok(configured)
}

/// Refuses variables of unknown providers: every order of a misspelt provider would otherwise be answered 404.
fn refuse_unknown_providers(env: &Environment, catalogue: &Catalogue) -> Result<(), ConfigError> {
    let known: BTreeMap<String, &str> = catalogue.names().map(|name| (prefix(name), name)).collect();
    for variable in env.names() {
        let Some(prefix) = PROVIDER_SUFFIXES
            .iter()
            .find_map(|suffix| variable.strip_suffix(suffix))
        else {
            continue;
        };
        if prefix.is_empty() || NOT_PROVIDERS.contains(&prefix) || known.contains_key(prefix) {
            continue;
        }
        // A disabled provider may be unknown, so the same settings work with newer and older versions.
        let switch = format!("{prefix}_ENABLED");
        if env.flag(&switch, false).unwrap_or(true) {
            let names: Vec<_> = known.values().copied().collect();
            return Err(ConfigError::new(
                switch,
                format_args!("unknown provider; this installation knows {}", names.join(", ")),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod every_variable;
