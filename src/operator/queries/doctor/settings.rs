//! Configuration, and what ends or grows old: certificates, tokens and the files of secrets.

use std::time::{Duration, SystemTime};

use chrono::{SecondsFormat, Utc};

use super::Finding;
use crate::{
    config::{Config, Environment, misspelt, without_effect},
    observer::expiry::Expiry,
};

const CONFIGURATION: &str = "configuration";
const SECRETS: &str = "secrets";
/// A file of a secret that did not change for so long is due for a new one.
const OLD: Duration = Duration::from_secs(365 * 24 * 3600);
/// Ends of names of variables that hold secrets.
const OF_SECRETS: [&str; 7] = [
    "_WEBHOOK_SECRET",
    "_BEARER_TOKEN",
    "_JWT_SECRET",
    "_API_KEY",
    "_CLIENT_SECRET",
    "SERVICE_TOKEN",
    "_PASSWORD",
];

/// Examines the configuration; the configuration as well, where the hub would start with it.
pub(super) fn examine(environment: &Environment) -> (Vec<Finding>, Option<Config>) {
    let mut findings = Vec::new();
    let config = match Config::from_environment(environment) {
        Ok(config) => {
            findings.extend(of_config(&config));
            findings.extend(expiring(&config));
            Some(config)
        }
        Err(error) => {
            let remedy = "set it as docs/configuration.md describes; the hub does not start before";
            findings.push(Finding::problem(
                CONFIGURATION,
                "invalid_setting",
                error.to_string(),
                remedy,
            ));
            None
        }
    };
    findings.extend(names(environment, config.is_some()));
    findings.extend(ages(environment, SystemTime::now()));
    (findings, config)
}

fn of_config(config: &Config) -> Vec<Finding> {
    let names: Vec<_> = config.providers.iter().map(|provider| &*provider.name).collect();
    if names.is_empty() {
        let message = "no provider is enabled: every webhook is answered 404";
        return vec![Finding::problem(
            CONFIGURATION,
            "no_provider",
            message,
            "set <PROVIDER>_ENABLED=true",
        )];
    }
    let mut findings = vec![Finding::fine(
        CONFIGURATION,
        "settings",
        format!("it is valid; enabled providers: {}", names.join(", ")),
    )];
    for provider in config.providers.iter().filter(|provider| provider.scheme.is_none()) {
        findings.push(Finding::problem(
            CONFIGURATION,
            "not_verified",
            format!("anyone can send webhooks as {}: nothing is verified", provider.name),
            "unset its <PROVIDER>_VERIFICATION, and set its secret",
        ));
    }
    for parameter in &config.database.without_effect {
        let message = format!("DATABASE_URL: the hub ignores the parameter {parameter}");
        findings.push(Finding::note(CONFIGURATION, "ignored", message, "remove it"));
    }
    findings
}

/// Variables that have no effect. `is_valid`: the configuration is; otherwise a name that is nearly right was reported as its fault.
fn names(environment: &Environment, is_valid: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    match misspelt(environment) {
        Ok(unknown) => findings.extend(unknown.into_iter().map(|one| {
            let remedy = one.meant.map_or_else(
                || "unset it, if it is meant for the hub".to_owned(),
                |meant| format!("perhaps {meant} is meant"),
            );
            let message = format!("{}: unknown variable, it has no effect", one.variable);
            Finding::note(CONFIGURATION, "unknown_variable", message, remedy)
        })),
        Err(error) if is_valid => findings.push(Finding::problem(
            CONFIGURATION,
            "misspelt_variable",
            error.to_string(),
            "correct its name; the hub does not start before",
        )),
        Err(_) => {}
    }
    findings.extend(without_effect(environment).into_iter().map(|variable| {
        let message = format!("{variable}: this version ignores this variable");
        Finding::note(CONFIGURATION, "ignored", message, "unset it")
    }));
    findings
}

/// Certificates, authorities and tokens.
fn expiring(config: &Config) -> Vec<Finding> {
    let now = Utc::now();
    let found = Expiry::of(config).read(now);
    let judge = |one: crate::observer::expiry::Expiring| {
        let variable = one.variable;
        match one.ends_at {
            Err(error) => Finding::problem(SECRETS, "unreadable", error, "make the file readable for the hub"),
            Ok(ends_at) => {
                let at = ends_at.to_rfc3339_opts(SecondsFormat::Secs, true);
                match (ends_at < now, one.is_close) {
                    (true, _) => Finding::problem(SECRETS, "expired", format!("{variable} ended at {at}"), "renew it"),
                    (false, true) => {
                        Finding::problem(SECRETS, "expires_soon", format!("{variable} ends at {at}"), "renew it")
                    }
                    (false, false) => Finding::fine(SECRETS, "expiry", format!("{variable} ends at {at}")),
                }
            }
        }
    };
    found.into_iter().map(judge).collect()
}

/// How long the files of secrets did not change. The age of a secret that stands in a variable is not known.
fn ages(environment: &Environment, now: SystemTime) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, path) in environment.iter() {
        let Some(variable) = name.strip_suffix("_FILE").filter(|name| is_of_a_secret(name)) else {
            continue;
        };
        // What cannot be read is a fault of the configuration.
        let Ok(changed) = std::fs::metadata(path).and_then(|file| file.modified()) else {
            continue;
        };
        let age = now.duration_since(changed).unwrap_or_default();
        let message = format!(
            "{variable}: its file has not changed for {} days",
            age.as_secs() / 86_400
        );
        findings.push(match age > OLD {
            true => Finding::note(
                SECRETS,
                "old_secret",
                message,
                "replace it: put the new value before the old one, and remove the old one once it is not used any more (docs/operations.md)",
            ),
            false => Finding::fine(SECRETS, "age", message),
        });
    }
    findings
}

fn is_of_a_secret(variable: &str) -> bool {
    OF_SECRETS.iter().any(|end| variable.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::queries::doctor::Grade;

    fn graded(variables: &[(&str, &str)]) -> Vec<(&'static str, Grade, String)> {
        let environment: Environment = variables.iter().copied().collect();
        let (findings, _) = examine(&environment);
        findings
            .into_iter()
            .map(|one| (one.code, one.grade, one.message))
            .collect()
    }

    #[test]
    fn faults_of_the_configuration_are_named() {
        let valid = [
            ("SERVICE_TOKEN", "token"),
            ("CAREEM_ENABLED", "true"),
            ("CAREEM_WEBHOOK_SECRET", "s3cret"),
        ];
        let with = |more: &[(&'static str, &'static str)]| graded(&[&valid[..], more].concat());
        assert_eq!(with(&[])[0].0, "settings");
        let found = with(&[("PORT", "many")]);
        assert_eq!((found[0].0, found[0].1), ("invalid_setting", Grade::Problem));
        assert!(found[0].2.starts_with("PORT: "), "{found:?}");
        for (variable, value, code, grade) in [
            ("CAREEM_VERIFICATION", "none", "not_verified", Grade::Problem),
            ("CONSOLE_PORT", "1", "ignored", Grade::Note),
            ("NATS_FANCY_SETTING", "x", "unknown_variable", Grade::Note),
        ] {
            let found = with(&[(variable, value)]);
            assert!(
                found.iter().any(|one| (one.0, one.1) == (code, grade)),
                "{variable}: {found:?}"
            );
        }
        assert_eq!(graded(&[("SERVICE_TOKEN", "token")])[0].0, "no_provider");
    }

    #[test]
    fn old_files_of_secrets_are_noted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "s3cret").unwrap();
        let environment: Environment = [
            ("CAREEM_WEBHOOK_SECRET_FILE", file.to_str().unwrap()),
            ("TLS_CERT_FILE", "/x"),
        ]
        .into_iter()
        .collect();
        let now = SystemTime::now();
        assert_eq!(ages(&environment, now)[0].grade, Grade::Fine);
        let found = ages(&environment, now + OLD + Duration::from_secs(86_400));
        assert_eq!((found.len(), found[0].grade), (1, Grade::Note));
        assert_eq!(
            found[0].message,
            "CAREEM_WEBHOOK_SECRET: its file has not changed for 366 days"
        );
    }
}
