//! Where PostgreSQL is, and whether it is spoken to by TLS.

use std::{fmt, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::config::SslMode;

use super::{Bounds, ClientTls, ConfigError, Environment};

/// Ways to say "verified" that the client library does not know; it never does anything else.
const VERIFIED: [&str; 2] = ["sslmode=verify-full", "sslmode=verify-ca"];

const POOL: Bounds<usize> = Bounds {
    least: 3,
    most: 200,
    why: "the tables, the branches and the look-ups each keep one busy, and a server has some hundred for all its clients",
};

/// PostgreSQL.
#[derive(Clone)]
pub struct Database {
    /// What to connect to; holds the password.
    pub postgres: tokio_postgres::Config,
    /// `DATABASE_POOL_SIZE`.
    pub pool_size: usize,
    /// `DATABASE_TLS_*`; whether at all is part of `postgres`.
    pub tls: ClientTls,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Reads what is needed to reach PostgreSQL.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn from_environment(env: &Environment) -> Result<Self, ConfigError> {
        let mut postgres = match env.secret("DATABASE_URL")? {
            Some(url) => from_url(&url)?,
            None => {
                let mut config = tokio_postgres::Config::new();
                config
                    .host(env.text_or("DATABASE_HOST", "localhost")?)
                    .port(env.port("DATABASE_PORT", 5432, 1)?)
                    .dbname(env.text_or("DATABASE_NAME", "postgres")?)
                    .user(env.text_or("DATABASE_USER", "admin")?);
                if let Some(password) = env.secret("DATABASE_PASSWORD")? {
                    config.password(password.expose_secret());
                }
                config
            }
        };
        postgres
            .application_name("webhook-hub")
            .connect_timeout(Duration::from_secs(5));
        let tls = ClientTls::from_environment(env, "DATABASE")?;
        choose_tls(env, &mut postgres, &tls)?;
        Ok(Self {
            postgres,
            tls,
            pool_size: env.whole("DATABASE_POOL_SIZE", 10, &POOL)?,
        })
    }
}

/// The settings that a URL holds.
///
/// # Errors
/// Where it is none, without quoting it.
fn from_url(url: &SecretString) -> Result<tokio_postgres::Config, ConfigError> {
    let url = url.expose_secret();
    let options = url.find('?').unwrap_or(url.len());
    let (address, options) = url.split_at(options);
    let options = VERIFIED.iter().fold(options.to_owned(), |options, mode| {
        options.replace(mode, "sslmode=require")
    });
    // The parser's own message could quote the password.
    format!("{address}{options}").parse().map_err(|_| {
        ConfigError::new(
            "DATABASE_URL",
            "expected postgres://user:password@host:port/database, perhaps with ?sslmode=require; certificates are named \
             by DATABASE_TLS_CA, DATABASE_TLS_CERT and DATABASE_TLS_KEY",
        )
    })
}

/// `DATABASE_TLS`, else `sslmode` of the URL; where a certificate is named and nothing else said, TLS is a must.
///
/// # Errors
/// Where it is no mode, or contradicts what else is set.
fn choose_tls(env: &Environment, postgres: &mut tokio_postgres::Config, tls: &ClientTls) -> Result<(), ConfigError> {
    let said = match env.text("DATABASE_TLS")?.as_deref() {
        None => None,
        Some("disable") => Some(SslMode::Disable),
        Some("prefer") => Some(SslMode::Prefer),
        Some("require" | "verify-ca" | "verify-full") => Some(SslMode::Require),
        Some(other) => {
            return Err(ConfigError::new(
                "DATABASE_TLS",
                format_args!("expected disable, prefer or require, found {other:?}"),
            ));
        }
    };
    let mode = match said.unwrap_or(postgres.get_ssl_mode()) {
        SslMode::Prefer if said.is_none() && tls.is_set() => SslMode::Require,
        mode => mode,
    };
    if mode == SslMode::Disable && tls.is_set() {
        return Err(ConfigError::new(
            "DATABASE_TLS",
            "switched off (here or by sslmode in DATABASE_URL), but DATABASE_TLS_CA or DATABASE_TLS_CERT is set; keep one",
        ));
    }
    postgres.ssl_mode(mode);
    Ok(())
}
