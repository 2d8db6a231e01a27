//! The address of PostgreSQL, the detection of dead connections to it, and TLS.

use std::{fmt, time::Duration};

use secrecy::ExposeSecret as _;
use tokio_postgres::config::SslMode;

use super::{Bounds, ClientTls, ConfigError, Environment};

mod url;

use url::DatabaseUrl;

/// How long sent data may stay without an acknowledgement before the connection counts as dead; the statements' own
/// deadline is a little longer.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// After so much silence the other side is asked whether it is there, so often, before the connection counts as dead.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_RETRIES: u32 = 3;
const POOL: Bounds<usize> = Bounds {
    least: 3,
    most: 200,
    why: "the tables, the branches and the look-ups each keep one busy, and a server has some hundred for all its clients",
};

/// Where PostgreSQL, and Prisma, put tables when nothing else is said.
const DEFAULT_SCHEMA: &str = "public";
/// PostgreSQL cuts longer names.
const MAX_NAME_BYTES: usize = 63;
const SCHEMA_EXPECTED: &str = "expected the name of a schema: at most 63 letters, digits, _ - . $";

/// PostgreSQL.
#[derive(Clone)]
pub struct Database {
    /// What to connect to; holds the password.
    pub postgres: tokio_postgres::Config,
    /// `DATABASE_POOL_SIZE`, else `connection_limit` of the URL. The writer of the tables has a connection beside it.
    pub pool_size: usize,
    /// Where the platform's tables are: `DATABASE_SCHEMA`, else `schema` of the URL, else `public`.
    pub schema: String,
    /// Parameters of the URL that the hub knows and does nothing with.
    pub without_effect: Vec<String>,
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
        let url = match env.secret("DATABASE_URL")? {
            Some(url) => DatabaseUrl::parse(url.expose_secret())?,
            None => DatabaseUrl::of(from_parts(env)?),
        };
        let mut postgres = url.postgres;
        postgres.application_name("webhook-hub");
        if postgres.get_connect_timeout().is_none() {
            postgres.connect_timeout(Duration::from_secs(5));
        }
        notice_dead_connections(&mut postgres);
        let tls = ClientTls::from_environment(env, "DATABASE")?;
        choose_tls(env, &mut postgres, &tls)?;
        let pool_size = match url.connection_limit {
            Some(limit) if !env.names().any(|name| name.starts_with("DATABASE_POOL_SIZE")) => {
                POOL.hold(&limit).then_some(limit).ok_or_else(|| limit_refused(limit))?
            }
            _ => env.whole("DATABASE_POOL_SIZE", 10, &POOL)?,
        };
        Ok(Self {
            postgres,
            tls,
            pool_size,
            schema: schema(env, url.schema)?,
            without_effect: url.without_effect,
        })
    }
}

/// `DATABASE_SCHEMA` and the URL's `schema` are two ways to say one thing.
///
/// # Errors
/// Where it is no name, or they say different things: one of them would make the hub write beside the platform's tables.
fn schema(env: &Environment, of_url: Option<String>) -> Result<String, ConfigError> {
    let said = env.text("DATABASE_SCHEMA")?;
    match (said, of_url) {
        (Some(said), _) if !is_schema(&said) => Err(ConfigError::new(
            "DATABASE_SCHEMA",
            format_args!("{SCHEMA_EXPECTED}, found {said:?}"),
        )),
        (Some(said), Some(of_url)) if said != of_url => Err(ConfigError::new(
            "DATABASE_SCHEMA",
            format_args!("expected what schema in DATABASE_URL says, {of_url}, or one of the two alone; found {said}"),
        )),
        (Some(one), _) | (None, Some(one)) => Ok(one),
        (None, None) => Ok(DEFAULT_SCHEMA.to_owned()),
    }
}

/// Whether this may be a schema's name: no quote and nothing else that a statement could end at.
fn is_schema(name: &str) -> bool {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "_-.$".contains(c);
    // In `search_path` this one stands for the role.
    name != "$user" && (1..=MAX_NAME_BYTES).contains(&name.len()) && name.chars().all(is_of_name)
}

fn limit_refused(limit: usize) -> ConfigError {
    let Bounds { least, most, why } = POOL;
    ConfigError::new(
        "DATABASE_URL",
        format_args!(
            "connection_limit: expected {least} to {most}, found {limit}: {why}; DATABASE_POOL_SIZE wins over it"
        ),
    )
}

/// `DATABASE_HOST` and the others.
fn from_parts(env: &Environment) -> Result<tokio_postgres::Config, ConfigError> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(env.text_or("DATABASE_HOST", "localhost")?)
        .port(env.port("DATABASE_PORT", 5432, 1)?)
        .dbname(env.text_or("DATABASE_NAME", "postgres")?)
        .user(env.text_or("DATABASE_USER", "admin")?);
    if let Some(password) = env.secret("DATABASE_PASSWORD")? {
        config.password(password.expose_secret());
    }
    Ok(config)
}

/// A server that is gone says nothing; the machine's own defaults notice that after a quarter of an hour, or two hours.
fn notice_dead_connections(postgres: &mut tokio_postgres::Config) {
    if postgres.get_tcp_user_timeout().is_none() {
        postgres.tcp_user_timeout(UNACKNOWLEDGED);
    }
    if postgres.get_keepalives_interval().is_none() {
        postgres.keepalives_idle(KEEPALIVE_IDLE.min(postgres.get_keepalives_idle()));
        postgres.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if postgres.get_keepalives_retries().is_none() {
        postgres.keepalives_retries(KEEPALIVE_RETRIES);
    }
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
