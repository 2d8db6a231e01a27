//! Detects misspelt variables: they look like the hub's and are unknown to it.
//!
//! A variable that nearly has the name of a known one is a mistake with silent effects. It prevents the start, with the name
//! that was probably meant. A variable that only begins like a known one may be another program's (Kubernetes sets
//! `NATS_SERVICE_HOST` for a service `nats`) or a later version's, so it causes a warning.

use super::{ConfigError, Environment, catalogue, limits, prefix, without_effect::is_without_effect};
use crate::provider::Catalogue;

/// All variables that belong to no provider.
pub(super) const NAMES: &[&str] = &[
    "SERVICE_NAME",
    "PORT",
    "METRICS_HOST",
    "METRICS_PORT",
    "METRICS_ENABLED",
    "LISTEN_ADDRESS",
    "TRUSTED_PROXIES",
    "PUBLIC_URL",
    "REQUIRE_HTTPS",
    "TLS_CERT",
    "TLS_KEY",
    "MAX_PAYLOAD_SIZE",
    "REQUEST_TIMEOUT",
    "SHUTDOWN_DELAY",
    "SHUTDOWN_GRACE",
    "PARTITIONS",
    "EVENT_FORMAT",
    "EVENT_BATCH_FROM",
    "NATS_URL",
    "NATS_USER",
    "NATS_PASSWORD",
    "NATS_CREDS_FILE",
    "NATS_MONITORING_URL",
    "NATS_TLS_CA",
    "NATS_TLS_CERT",
    "NATS_TLS_KEY",
    "DATABASE_URL",
    "DATABASE_HOST",
    "DATABASE_PORT",
    "DATABASE_NAME",
    "DATABASE_USER",
    "DATABASE_PASSWORD",
    "DATABASE_POOL_SIZE",
    "DATABASE_SCHEMA",
    "DATABASE_TLS",
    "DATABASE_TLS_CA",
    "DATABASE_TLS_CERT",
    "DATABASE_TLS_KEY",
    "BACKEND_URL",
    "BACKEND_TIMEOUT",
    "BACKEND_MAX_REQUESTS",
    "BACKEND_TLS_CA",
    "BACKEND_TLS_CERT",
    "BACKEND_TLS_KEY",
    "SERVICE_TOKEN",
    "CIRCUIT_BREAKER_ENABLED",
    "CIRCUIT_BREAKER_FAILURE_THRESHOLD",
    "CIRCUIT_BREAKER_RESET_TIMEOUT",
    "RETRY_DELAYS",
    "RETRY_MAX_ATTEMPTS",
    "ORDER_MEMORY",
    "RETENTION_WEBHOOK_LOGS",
    "RETENTION_DELIVERY_ERROR_LOGS",
    "RETENTION_PROVIDER_ORDER_LOGS",
    "RETENTION_ORDERS",
    "RETENTION_SKIPPED_EVENTS",
    "RATE_LIMIT_ENABLED",
    "RATE_LIMIT_DEFAULT",
    "RATE_LIMIT_ADDRESS",
    "RATE_LIMIT_BYTES",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "PROVIDERS_DIR",
];
/// Suffixes of a provider's variables.
pub(super) const OF_PROVIDER: &[&str] = &[
    "ENABLED",
    "WEBHOOK_SECRET",
    "BEARER_TOKEN",
    "JWT_SECRET",
    "API_KEY",
    "BRANCH_SECRETS",
    "BRANCH_RATE_LIMIT",
    "VERIFICATION",
    "OBSERVE_UNTIL",
    "IP_WHITELIST",
    "CURRENCY",
    "ORDER_TTL",
    "RESPONSE_WAIT",
    "FORWARD_TEST_ORDERS",
    "API_URL",
    "API_HOSTS",
    "API_TLS_CA",
    "API_TLS_CERT",
    "API_TLS_KEY",
    "RECONCILE",
    "RECONCILE_EVERY",
    "RECONCILE_WINDOW",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "KEY_ID",
    "ACCESS_TOKEN",
    "TOKEN_URL",
    "TOKEN_SCOPES",
];
/// Variables that the shipped deployments or the tests set, and other programs read.
const BESIDE: [&str; 11] = [
    // SSL_CERT_FILE, of the TLS library.
    "SSL_CERT",
    "SSL_CERT_DIR",
    "NATS_BACKUP_PASSWORD",
    "NATS_MIRROR_PASSWORD",
    "NATS_ROUTE_PASSWORD",
    "NATS_PROVISION_PASSWORD",
    "NATS_HUB_PASSWORD",
    "NATS_SUBSCRIBER_PASSWORD",
    "NATS_STORE_KEY",
    "NATS_SERVER_NAME",
    "DATABASE_ADMIN_PASSWORD",
];
/// Prefixes of the hub's variables. Kubernetes sets variables with the same prefixes.
const PREFIXES: [&str; 10] = [
    "NATS_",
    "DATABASE_",
    "BACKEND_",
    "RETRY_",
    "CIRCUIT_BREAKER_",
    "RATE_LIMIT_",
    "RETENTION_",
    "SHUTDOWN_",
    "METRICS_",
    "TLS_",
];
/// Most insertions, deletions, replacements and swaps of neighbours between a name and the one that was probably meant.
const NEAR: usize = 2;
/// A shorter name without one of the prefixes is too similar to others: `SPORT`.
const LEAST_CHARS: usize = 8;

/// A variable that has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misspelt {
    /// Its name.
    pub variable: String,
    /// The most similar known name.
    pub meant: Option<String>,
}

/// Unknown variables that begin like the hub's.
///
/// # Errors
/// The first one that nearly has the name of a variable that is not set.
pub fn misspelt(env: &Environment) -> Result<Vec<Misspelt>, ConfigError> {
    // A folder that cannot be used prevents the start elsewhere.
    let catalogue = catalogue(env).unwrap_or_else(|_| Catalogue::shipped());
    let known = known(&catalogue);
    let prefixes: Vec<_> = catalogue.names().map(|name| format!("{}_", prefix(name))).collect();
    let is_ours = |name: &str| {
        let ours = PREFIXES.iter().copied().chain(prefixes.iter().map(String::as_str));
        ours.into_iter().any(|prefix| name.starts_with(prefix))
    };
    let mut warned = Vec::new();
    for (variable, value) in env.iter() {
        let name = variable.strip_suffix("_FILE").unwrap_or(variable);
        let is_known = [name, variable]
            .iter()
            .any(|name| known.iter().any(|known| known == name));
        let is_another = BESIDE.contains(&name) || is_of_kubernetes(variable, value);
        let is_read = limits::is_read(name, &catalogue) || is_without_effect(name, &catalogue);
        if is_known || is_another || is_read || !(is_ours(name) || name.len() >= LEAST_CHARS) {
            continue;
        }
        let near = known
            .iter()
            .map(|known| (strsim::osa_distance(known, name), known))
            .min();
        match near.filter(|(distance, _)| *distance <= NEAR) {
            Some((_, meant)) if !env.names().any(|set| set.strip_suffix("_FILE").unwrap_or(set) == meant) => {
                let message = format_args!("unknown; was {meant} meant?");
                return Err(ConfigError::new(variable, message));
            }
            near if near.is_some() || is_ours(name) => warned.push(Misspelt {
                variable: variable.to_owned(),
                meant: near.map(|(_, meant)| meant.clone()),
            }),
            _ => {}
        }
    }
    Ok(warned)
}

fn known(catalogue: &Catalogue) -> Vec<String> {
    let of_providers = catalogue.names().flat_map(|name| {
        let prefix = prefix(name);
        let limit = format!("RATE_LIMIT_{prefix}");
        let others = OF_PROVIDER.iter().map(move |rest| format!("{prefix}_{rest}"));
        others.chain([limit])
    });
    NAMES
        .iter()
        .map(|name| (*name).to_owned())
        .chain(of_providers)
        .collect()
}

/// Whether Kubernetes sets this variable, in each container for each service of its namespace.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let after_port = name
        .split_once("_PORT_")
        .map(|(_, rest)| rest.split('_').next().unwrap_or_default());
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || after_port.is_some_and(is_number)
        || name.ends_with("_PORT") && value.contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misspelt_in(pairs: &[(&str, &str)]) -> Result<Vec<(String, Option<String>)>, String> {
        let found = misspelt(&pairs.iter().copied().collect()).map_err(|error| error.to_string())?;
        Ok(found.into_iter().map(|one| (one.variable, one.meant)).collect())
    }

    #[test]
    fn a_nearly_right_name_prevents_the_start() {
        for (name, meant) in [
            ("RETRY_DELAY", "RETRY_DELAYS"),
            ("BACKEND_ULR", "BACKEND_URL"),
            ("BACKEDN_URL", "BACKEND_URL"),
            ("NATS_PASWORD", "NATS_PASSWORD"),
            ("NATS_PASWORD_FILE", "NATS_PASSWORD"),
            ("DATABASE_POOLSIZE", "DATABASE_POOL_SIZE"),
            ("CAREEM_WEBHOOK_SECRETS", "CAREEM_WEBHOOK_SECRET"),
            ("CAREEM_IP_WHITELST", "CAREEM_IP_WHITELIST"),
            ("UBER_EATS_CLIENTID", "UBER_EATS_CLIENT_ID"),
            ("LOG_LEVLE", "LOG_LEVEL"),
            ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
            ("SHUTDOWN_DELY", "SHUTDOWN_DELAY"),
        ] {
            let near = strsim::osa_distance(name, meant) <= NEAR || name.ends_with("_FILE");
            match misspelt_in(&[(name, "x")]) {
                Err(error) => assert_eq!(error, format!("{name}: unknown; was {meant} meant?")),
                Ok(found) => assert!(!near, "{name}: {found:?}"),
            }
        }
        // If the right one is set, too, the other may be another program's.
        let both = misspelt_in(&[("RETRY_DELAY", "x"), ("RETRY_DELAYS", "1m")]).unwrap();
        assert_eq!(both, [("RETRY_DELAY".to_owned(), Some("RETRY_DELAYS".to_owned()))]);
    }

    #[test]
    fn variables_of_other_programs_are_left_alone() {
        let others = [
            ("SSL_CERT_FILE", "/etc/ssl/ca.pem"),
            ("SSL_CERT_DIR", "/etc/ssl"),
            ("NATS_BACKUP_PASSWORD", "x"),
            ("NATS_MIRROR_PASSWORD_FILE", "x"),
        ];
        assert_eq!(misspelt_in(&others).unwrap(), []);
    }

    #[test]
    fn a_name_with_a_known_prefix_causes_a_warning() {
        let found = misspelt_in(&[
            ("BACKEND_RETRIES", "3"),
            ("CAREEM_LOCALE", "ar"),
            ("NATS_CLUSTER_NAME", "x"),
        ])
        .unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["BACKEND_RETRIES", "CAREEM_LOCALE", "NATS_CLUSTER_NAME"]);
    }

    #[test]
    fn known_names_and_other_programs_are_left_alone() {
        let catalogue = Catalogue::shipped();
        for name in known(&catalogue) {
            assert_eq!(misspelt_in(&[(&name, "x")]), Ok(Vec::new()), "{name}");
            assert_eq!(
                misspelt_in(&[(&format!("{name}_FILE"), "x")]),
                Ok(Vec::new()),
                "{name}_FILE"
            );
        }
        for (name, value) in [
            ("NATS_SERVICE_HOST", "10.0.0.1"),
            ("NATS_PORT", "tcp://10.0.0.1:4222"),
            ("NATS_PORT_4222_TCP_ADDR", "10.0.0.1"),
            ("NATS_SERVICE_PORT_CLIENT", "4222"),
            ("NATS_HUB_PASSWORD", "x"),
            ("CAREEM_RESPONSE_WAIT", "5s"),
            ("RETRY_ENABLED", "true"),
            ("RATE_LIMIT_POINTS", "5"),
            ("PATH", "/bin"),
            ("HOSTNAME", "x"),
            ("SPORT", "x"),
            ("PWD", "/"),
            ("JAVA_HOME", "/"),
            ("RUST_BACKTRACE", "1"),
        ] {
            assert_eq!(misspelt_in(&[(name, value)]), Ok(Vec::new()), "{name}");
        }
    }
}
