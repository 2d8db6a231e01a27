//! Certificates, authorities and tokens that expire. The days left are a metric and part of health; the log warns in time.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use x509_cert::{Certificate, der::Decode as _};

use crate::{
    config::{self, ClientTls, Config},
    process::look_again::look_again,
    tls,
};

/// How often the files are looked at; SIGHUP looks at once.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The end is close when less than this is left, or less than a quarter of the whole time. Certificates of 90 days are usually
/// renewed when 30 are left; 21 say that the renewal has failed for a while.
const CLOSE_DAYS: i64 = 21;
/// How often the log says the same of the same.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Marks of the token in a credentials file of NATS.
const NATS_TOKEN: (&str, &str) = ("-----BEGIN NATS USER JWT-----", "------END NATS USER JWT------");
/// Largest credentials file that is read; one has some 2 KB.
const MAX_CREDENTIALS_BYTES: u64 = 64 * 1024;

/// Something that expires, and its source.
#[derive(Debug)]
struct Watched {
    variable: String,
    source: ExpirySource,
}

#[derive(Debug)]
enum ExpirySource {
    /// A certificate with what leads to its authority: the first that ends counts.
    Chain(PathBuf),
    /// Authorities of which any will do: the last that ends counts.
    Authorities(PathBuf),
    /// Credentials of NATS.
    Credentials(PathBuf),
    /// A value of a setting that may be a token.
    Value(SecretString),
}

/// From when to when something holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Period {
    begins: Option<DateTime<Utc>>,
    ends: DateTime<Utc>,
}

impl Period {
    fn left(&self, now: DateTime<Utc>) -> TimeDelta {
        self.ends - now
    }

    fn days_left(&self, now: DateTime<Utc>) -> f64 {
        self.left(now).num_seconds() as f64 / 86_400.0
    }

    fn is_close(&self, now: DateTime<Utc>) -> bool {
        let quarter = self.begins.map(|begins| (self.ends - begins) / 4);
        let close = TimeDelta::days(CLOSE_DAYS);
        self.left(now) < quarter.map_or(close, |quarter| quarter.min(close))
    }
}

/// The result of the last check; shared with health.
#[derive(Debug, Default)]
pub struct Expiries(Mutex<Vec<(String, Period)>>);

impl Expiries {
    fn lock(&self) -> MutexGuard<'_, Vec<(String, Period)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something is close to its end, or beyond it.
    pub fn is_close(&self) -> bool {
        let now = Utc::now();
        self.lock().iter().any(|(_, period)| period.is_close(now))
    }

    /// Days left and the end of each, by variable.
    pub fn report(&self) -> Value {
        let now = Utc::now();
        let lines = self.lock();
        let lines = lines.iter().map(|(variable, period)| {
            let line = json!({
                "daysLeft": (period.days_left(now) * 10.0).floor() / 10.0,
                "endsAt": period.ends.to_rfc3339_opts(SecondsFormat::Secs, true),
                "isClose": period.is_close(now),
            });
            (variable.clone(), line)
        });
        Value::Object(lines.collect::<Map<_, _>>())
    }
}

/// The observer of expiries.
#[derive(Debug)]
pub struct Expiry {
    watched: Vec<Watched>,
    found: Arc<Expiries>,
    /// When the log last said so, by variable.
    warned: HashMap<String, Instant>,
}

/// Something that expires, as a single look finds it.
#[derive(Debug, Clone)]
pub struct Expiring {
    /// The variable that names it.
    pub variable: String,
    /// When it ends, or why that cannot be read.
    pub ends_at: Result<DateTime<Utc>, String>,
    /// Whether the end is close, or past.
    pub is_close: bool,
}

impl Expiry {
    /// Looks once. What has no end is left out. Blocks on the disk.
    pub fn read(&self, now: DateTime<Utc>) -> Vec<Expiring> {
        let of = |one: &Watched| {
            let period = one.source.period(&one.variable).transpose()?;
            Some(Expiring {
                variable: one.variable.clone(),
                is_close: period.as_ref().is_ok_and(|period| period.is_close(now)),
                ends_at: period.map(|period| period.ends).map_err(|error| format!("{error:#}")),
            })
        };
        self.watched.iter().filter_map(of).collect()
    }

    /// Of everything that these settings name.
    pub fn of(config: &Config) -> Self {
        let mut watched = Vec::new();
        let mut watch = |variable: String, source| watched.push(Watched { variable, source });
        if let Some(files) = &config.http.tls {
            watch("TLS_CERT".to_owned(), ExpirySource::Chain(files.certificate.clone()));
        }
        let outbound = config
            .providers
            .iter()
            .filter_map(|provider| provider.outbound.as_ref());
        let clients = [&config.nats.tls, &config.database.tls, &config.backend.tls];
        for tls in clients.into_iter().chain(outbound.map(|outbound| &outbound.tls)) {
            let ClientTls { prefix, ca, client } = tls;
            if let Some(file) = ca {
                watch(format!("{prefix}_TLS_CA"), ExpirySource::Authorities(file.clone()));
            }
            if let Some(files) = client {
                watch(
                    format!("{prefix}_TLS_CERT"),
                    ExpirySource::Chain(files.certificate.clone()),
                );
            }
        }
        if let Some(file) = &config.nats.credentials_file {
            watch("NATS_CREDS_FILE".to_owned(), ExpirySource::Credentials(file.clone()));
        }
        // Only the newest token is sent to the backend.
        if let Some(token) = config.backend.service_tokens.first() {
            watch("SERVICE_TOKEN".to_owned(), ExpirySource::Value(token.clone()));
        }
        for provider in &config.providers {
            let secret = provider
                .outbound
                .as_ref()
                .and_then(|outbound| outbound.client.secret.clone());
            if let Some(secret) = secret {
                let variable = format!("{}_CLIENT_SECRET", config::prefix(&provider.name));
                watch(variable, ExpirySource::Value(secret));
            }
        }
        Self {
            watched,
            found: Arc::default(),
            warned: HashMap::new(),
        }
    }

    /// The results, kept up to date while this runs.
    pub fn found(&self) -> Arc<Expiries> {
        Arc::clone(&self.found)
    }

    /// Looks until it is stopped.
    ///
    /// # Errors
    /// If the process cannot listen for SIGHUP.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        look_again(self, Self::look, LOOK_AGAIN, stop).await
    }

    fn look(&mut self, _asked: bool) {
        let now = Utc::now();
        let mut found = Vec::new();
        for Watched { variable, source } in &self.watched {
            let is_quiet = self
                .warned
                .get(variable)
                .is_some_and(|last| last.elapsed() < WARN_EVERY);
            match source.period(variable) {
                Ok(None) => {}
                Ok(Some(period)) => {
                    metrics::gauge!("credential_days_left", "variable" => variable.clone()).set(period.days_left(now));
                    found.push((variable.clone(), period));
                    if !period.is_close(now) {
                        self.warned.remove(variable);
                    } else if !is_quiet {
                        self.warned.insert(variable.clone(), Instant::now());
                        tell(variable, &period, now);
                    }
                }
                Err(error) if !is_quiet => {
                    self.warned.insert(variable.clone(), Instant::now());
                    tracing::warn!(error = format!("{error:#}"), "cannot read when it expires");
                }
                Err(_) => {}
            }
        }
        *self.found.lock() = found;
    }
}

fn tell(variable: &str, period: &Period, now: DateTime<Utc>) {
    let ends_at = period.ends.to_rfc3339_opts(SecondsFormat::Secs, true);
    let days_left = period.days_left(now);
    if days_left < 0.0 {
        tracing::error!(variable, ends_at, "it has expired: renew it");
    } else {
        tracing::warn!(
            variable,
            ends_at,
            days_left = days_left as i64,
            "it expires soon: renew it"
        );
    }
}

impl ExpirySource {
    /// From when to when it holds; none if it has no end. Blocks on the disk.
    fn period(&self, variable: &str) -> anyhow::Result<Option<Period>> {
        match self {
            Self::Chain(file) => Ok(of_certificates(variable, file)?
                .into_iter()
                .min_by_key(|period| period.ends)),
            Self::Authorities(file) => Ok(of_certificates(variable, file)?
                .into_iter()
                .max_by_key(|period| period.ends)),
            Self::Credentials(file) => of_credentials(variable, file),
            Self::Value(value) => Ok(of_token(value.expose_secret())),
        }
    }
}

fn of_certificates(variable: &str, file: &Path) -> anyhow::Result<Vec<Period>> {
    let of_one = |der: &[u8]| {
        let certificate = Certificate::from_der(der).ok()?;
        let validity = certificate.tbs_certificate.validity;
        let time = |at: x509_cert::time::Time| DateTime::from_timestamp(at.to_unix_duration().as_secs() as i64, 0);
        Some(Period {
            begins: time(validity.not_before),
            ends: time(validity.not_after)?,
        })
    };
    let certificates = tls::certificates(variable, file)?;
    let periods = certificates.iter().map(|der| of_one(der));
    // A bundle may contain an unusual certificate; certificates that are used are checked there.
    Ok(periods.flatten().collect())
}

fn of_credentials(variable: &str, file: &Path) -> anyhow::Result<Option<Period>> {
    let cannot = || format!("{variable}: cannot read {}", file.display());
    let size = std::fs::metadata(file).with_context(cannot)?.len();
    if size > MAX_CREDENTIALS_BYTES {
        return Err(anyhow!(
            "{variable}: {} is larger than {MAX_CREDENTIALS_BYTES} bytes",
            file.display()
        ));
    }
    let text = SecretString::from(std::fs::read_to_string(file).with_context(cannot)?);
    let token = text
        .expose_secret()
        .split_once(NATS_TOKEN.0)
        .and_then(|(_, rest)| rest.split_once(NATS_TOKEN.1));
    Ok(token.and_then(|(token, _)| of_token(token.trim())))
}

/// Of a JSON Web Token, unverified: its issuer states the end. None when it is no token, or has no end.
fn of_token(text: &str) -> Option<Period> {
    let mut parts = text.split('.');
    let claims = parts
        .nth(1)
        .filter(|_| parts.next().is_some() && parts.next().is_none())?;
    let claims: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let time = |name: &str| DateTime::from_timestamp(claims.get(name)?.as_f64()? as i64, 0);
    // NATS writes 0 for "no end".
    let ends = time("exp").filter(|ends| ends.timestamp() > 0)?;
    Some(Period {
        begins: time("nbf").or_else(|| time("iat")),
        ends,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &Value) -> String {
        format!("aGVhZA.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    #[test]
    fn tokens_say_when_they_end() {
        let period = of_token(&token(&json!({ "iat": 1_000, "exp": 2_000 }))).unwrap();
        assert_eq!(
            (period.begins.unwrap().timestamp(), period.ends.timestamp()),
            (1_000, 2_000)
        );
        for none in [
            "",
            "secret",
            "a.b",
            "a.b.c",
            "a.b.c.d",
            &token(&json!({})),
            &token(&json!({ "exp": 0 })),
        ] {
            assert_eq!(of_token(none), None, "{none}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hub.creds");
        let text = format!(
            "{}\n{}\n{}\n",
            NATS_TOKEN.0,
            token(&json!({ "exp": 4_000_000_000_u32 })),
            NATS_TOKEN.1
        );
        std::fs::write(&file, text).unwrap();
        let period = ExpirySource::Credentials(file.clone())
            .period("NATS_CREDS_FILE")
            .unwrap()
            .unwrap();
        assert_eq!(period.ends.timestamp(), 4_000_000_000);
        std::fs::remove_file(&file).unwrap();
        let error = ExpirySource::Credentials(file).period("NATS_CREDS_FILE").unwrap_err();
        assert!(error.to_string().starts_with("NATS_CREDS_FILE: cannot read"), "{error}");
    }

    #[test]
    fn the_end_is_close_in_proportion() {
        let now = Utc::now();
        let is_close = |whole: TimeDelta, left: TimeDelta| {
            let ends = now + left;
            let begins = Some(ends - whole);
            Period { begins, ends }.is_close(now)
        };
        let (days, hours) = (TimeDelta::days, TimeDelta::hours);
        assert!(!is_close(days(90), days(22)) && is_close(days(90), days(20)));
        assert!(!is_close(days(365), days(22)) && is_close(days(365), days(20)));
        assert!(!is_close(hours(24), hours(7)) && is_close(hours(24), hours(5)));
        assert!(is_close(days(90), days(-1)));
        let endless = Period {
            begins: None,
            ends: now + days(20),
        };
        assert!(endless.is_close(now));
    }
}
