//! Variables of the contract that this version ignores. The start logs them, so that they are not ignored silently.

use super::{Environment, catalogue, limits};
use crate::provider::Catalogue;

const NAMES: [&str; 9] = [
    "ADMIN_TOKEN",
    "NOTIFY_URL",
    "CONSOLE_PORT",
    "CONSOLE_TOKENS",
    "DEADLINE_WARNING",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    // Variables of the earlier service: here orders are always retried, and health is always served.
    "RETRY_ENABLED",
    "RETRY_WORKER_INTERVAL",
    "HEALTH_CHECK_ENABLED",
];

/// The ignored variables that are set.
pub fn without_effect(env: &Environment) -> Vec<&str> {
    // A folder that cannot be used prevents the start elsewhere.
    let catalogue = catalogue(env).unwrap_or_else(|_| Catalogue::shipped());
    let is_one = |name: &&str| is_without_effect(name.strip_suffix("_FILE").unwrap_or(name), &catalogue);
    env.names().filter(is_one).collect()
}

/// Whether a variable, without `_FILE`, is known and has no effect.
pub(super) fn is_without_effect(name: &str, catalogue: &Catalogue) -> bool {
    NAMES.contains(&name)
        // A limit of a provider that this version does not know, or a misspelt name.
        || name.starts_with("RATE_LIMIT_") && !limits::is_read(name, catalogue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_variables_are_named() {
        let env: Environment = [
            ("PORT", "1"),
            ("RATE_LIMIT_POINTS", "5"),
            ("RATE_LIMIT_CAREEM", "5"),
            ("RATE_LIMIT_DEFAULT_FILE", "/x"),
            ("CAREEM_RESPONSE_WAIT", "5s"),
            ("ADMIN_TOKEN_FILE", "/x"),
            ("RETRY_DELAYS", "1m"),
            ("RETRY_ENABLED", "false"),
        ]
        .into_iter()
        .collect();
        let mut names = without_effect(&env);
        names.sort_unstable();
        assert_eq!(names, ["ADMIN_TOKEN_FILE", "RATE_LIMIT_POINTS", "RETRY_ENABLED"]);
    }
}
