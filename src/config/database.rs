//! The address of PostgreSQL, the detection of dead connections to it, and TLS.

use std::{fmt, time::Duration};

use secrecy::ExposeSecret as _;
use tokio_postgres::config::SslMode;

use super::{Bounds, ClientTls, ConfigError, Environment};

mod url;

use url::DatabaseUrl;

/// How long sent data may stay unacknowledged before the connection counts as dead. The statements' own deadline is a little
/// longer.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// TCP keepalive: silence before the first probe, then the interval and the number of probes before the connection counts as dead.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_RETRIES: u32 = 3;
const POOL: Bounds<usize> = Bounds {
    least: 3,
    most: 200,
    why: "the tables, the branches and the look-ups use one connection each, and a server has about a hundred for all its clients",
};

/// The default schema of PostgreSQL and Prisma.
const DEFAULT_SCHEMA: &str = "public";
/// Longest name in PostgreSQL, which truncates longer ones.
const MAX_NAME_BYTES: usize = 63;
const SCHEMA_EXPECTED: &str = "expected the name of a schema: at most 63 letters, digits, _ - . $";

/// PostgreSQL.
#[derive(Clone)]
pub struct Database {
    /// The parameters of the connection, with the password.
    pub postgres: tokio_postgres::Config,
    /// `DATABASE_POOL_SIZE`, else `connection_limit` of the URL. The writer of the tables has one more connection.
    pub pool_size: usize,
    /// The schema of the platform's tables: `DATABASE_SCHEMA`, else `schema` of the URL, else `public`.
    pub schema: String,
    /// Parameters of the URL that the hub knows and ignores.
    pub without_effect: Vec<String>,
    /// `DATABASE_TLS_*`; `postgres` says whether TLS is used.
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
    /// Reads the settings of the connection to PostgreSQL.
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

/// The schema of the platform's tables, from `DATABASE_SCHEMA` or from the URL's `schema`.
///
/// # Errors
/// If it is no valid name, or the two differ: with one of them the hub would not write to the platform's tables.
fn schema(env: &Environment, of_url: Option<String>) -> Result<String, ConfigError> {
    let setting = env.text("DATABASE_SCHEMA")?;
    match (setting, of_url) {
        (Some(setting), _) if !is_schema(&setting) => Err(ConfigError::new(
            "DATABASE_SCHEMA",
            format_args!("{SCHEMA_EXPECTED}, found {setting:?}"),
        )),
        (Some(setting), Some(of_url)) if setting != of_url => Err(ConfigError::new(
            "DATABASE_SCHEMA",
            format_args!(
                "expected {of_url} as in DATABASE_URL (schema), or only one of the two settings; found {setting}"
            ),
        )),
        (Some(one), _) | (None, Some(one)) => Ok(one),
        (None, None) => Ok(DEFAULT_SCHEMA.to_owned()),
    }
}

/// Whether this may be a schema's name: it has no quote and nothing else that could end a statement.
fn is_schema(name: &str) -> bool {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "_-.$".contains(c);
    // In `search_path`, `$user` means the role's name.
    name != "$user" && (1..=MAX_NAME_BYTES).contains(&name.len()) && name.chars().all(is_of_name)
}

fn limit_refused(limit: usize) -> ConfigError {
    let Bounds { least, most, why } = POOL;
    ConfigError::new(
        "DATABASE_URL",
        format_args!(
            "connection_limit: expected {least} to {most}, found {limit}: {why}; DATABASE_POOL_SIZE takes precedence"
        ),
    )
}

/// The connection from `DATABASE_HOST` and the related variables.
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

/// Detects dead connections: with the system's defaults that takes a quarter of an hour, or two hours.
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

/// `DATABASE_TLS`, else `sslmode` of the URL. If only a certificate is set, TLS is required.
///
/// # Errors
/// If it is no mode, or contradicts another setting.
fn choose_tls(env: &Environment, postgres: &mut tokio_postgres::Config, tls: &ClientTls) -> Result<(), ConfigError> {
    let setting = match env.text("DATABASE_TLS")?.as_deref() {
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
    let mode = match setting.unwrap_or(postgres.get_ssl_mode()) {
        SslMode::Prefer if setting.is_none() && tls.is_set() => SslMode::Require,
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
