//! The wire to PostgreSQL: one pool, the statements of `sql/queries`, and whether the database answers.
//!
//! What the statements mean is left to whoever runs them. The intake never comes here.

use std::time::Duration;

use anyhow::Context as _;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{config, tls};

/// Wait for a connection of the pool, or for a new one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time one statement may take, so that a lock somebody holds cannot stop the hub for good.
const STATEMENT_TIMEOUT: &str = "30s";
/// Every statement here looks rows up by key, many keys at a time. The planner does not know that of an array, and on a
/// table that was filled since it was last analysed it reads the whole table instead: each batch slower than the last.
const BY_KEY: &str = "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off";

/// The statements, one a file; a test prepares each of them.
pub mod query {
    /// Active branches by provider, merchant and store.
    pub const BRANCHES: &str = include_str!("../sql/queries/branches.sql");
    /// The branch of an order.
    pub const BRANCH_OF_ORDER: &str = include_str!("../sql/queries/branch_of_order.sql");
    /// What a provider is told about a branch, active or not.
    pub const BRANCH_OF_PUSH: &str = include_str!("../sql/queries/branch_of_push.sql");
    /// The position of a projection.
    pub const POSITION: &str = include_str!("../sql/queries/position.sql");
    /// Orders that exist already.
    pub const EXISTING_ORDERS: &str = include_str!("../sql/queries/existing_orders.sql");
    /// A provider's row, made where it is missing.
    pub const ENSURE_PROVIDER: &str = include_str!("../sql/queries/ensure_provider.sql");
    /// Ids of providers by code.
    pub const PROVIDERS: &str = include_str!("../sql/queries/providers.sql");
    /// The position of a projection, locked.
    pub const LOCK_CURSOR: &str = include_str!("../sql/queries/lock_cursor.sql");
    /// Moves the position.
    pub const MOVE_CURSOR: &str = include_str!("../sql/queries/move_cursor.sql");
    /// New rows of `webhook_logs`.
    pub const INSERT_WEBHOOK_LOGS: &str = include_str!("../sql/queries/insert_webhook_logs.sql");
    /// What became of them.
    pub const UPDATE_WEBHOOK_LOGS: &str = include_str!("../sql/queries/update_webhook_logs.sql");
    /// New rows of `delivery_error_logs`.
    pub const INSERT_ERROR_LOGS: &str = include_str!("../sql/queries/insert_error_logs.sql");
    /// Errors that were overcome.
    pub const RESOLVE_ERROR_LOGS: &str = include_str!("../sql/queries/resolve_error_logs.sql");
    /// The same, of what has no webhook.
    pub const RESOLVE_PUSH_ERRORS: &str = include_str!("../sql/queries/resolve_push_errors.sql");
    /// Rows of `provider_order_logs`.
    pub const UPSERT_ORDER_LOGS: &str = include_str!("../sql/queries/upsert_order_logs.sql");
    /// Status changes in `provider_order_logs`.
    pub const UPDATE_ORDER_LOGS: &str = include_str!("../sql/queries/update_order_logs.sql");

    /// All of them.
    pub const ALL: [&str; 16] = [
        BRANCHES,
        BRANCH_OF_ORDER,
        BRANCH_OF_PUSH,
        POSITION,
        EXISTING_ORDERS,
        ENSURE_PROVIDER,
        PROVIDERS,
        LOCK_CURSOR,
        MOVE_CURSOR,
        INSERT_WEBHOOK_LOGS,
        UPDATE_WEBHOOK_LOGS,
        INSERT_ERROR_LOGS,
        RESOLVE_ERROR_LOGS,
        RESOLVE_PUSH_ERRORS,
        UPSERT_ORDER_LOGS,
        UPDATE_ORDER_LOGS,
    ];
}

/// Connections to PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub struct Database(Pool);

impl Database {
    /// Makes the pool; connects to nothing yet.
    ///
    /// # Errors
    /// Where the settings cannot work.
    pub fn new(settings: &config::Database) -> anyhow::Result<Self> {
        let mut postgres = settings.postgres.clone();
        let options = format!(
            "{} -c statement_timeout={STATEMENT_TIMEOUT} -c timezone=UTC {BY_KEY}",
            postgres.get_options().unwrap_or_default()
        );
        postgres.options(options.trim());
        let manager = Manager::from_config(
            postgres,
            MakeRustlsConnect::new(tls::client(&settings.tls)?),
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let timeouts = Timeouts {
            wait: Some(ACQUIRE_TIMEOUT),
            create: Some(ACQUIRE_TIMEOUT),
            recycle: Some(ACQUIRE_TIMEOUT),
        };
        let pool = Pool::builder(manager)
            .max_size(settings.pool_size)
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build();
        Ok(Self(pool.context("cannot set up the connection pool")?))
    }

    /// A connection, within five seconds; also notes whether the database is there.
    ///
    /// # Errors
    /// Where it is not.
    pub async fn connect(&self) -> anyhow::Result<Object> {
        let connection = self.0.get().await;
        metrics::gauge!("database_up").set(if connection.is_ok() { 1.0 } else { 0.0 });
        // The error names host and reason, never the password.
        connection.map_err(|error| match error {
            deadpool_postgres::PoolError::Backend(error) => anyhow::anyhow!("PostgreSQL: {}", describe(&error)),
            other => anyhow::anyhow!("PostgreSQL: {other}"),
        })
    }
}

/// A database error with its cause; tokio-postgres' own text is only "db error".
pub fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        // Neither detail nor hint: they quote values of rows.
        Some(error) => format!("{} ({})", error.message(), error.code().code()),
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}{}", hint(&cause.to_string())),
            None => error.to_string(),
        },
    }
}

/// What to do about a certificate that is not accepted.
fn hint(cause: &str) -> &'static str {
    if cause.starts_with("invalid peer certificate") {
        "; DATABASE_TLS_CA names the authority that signed it, DATABASE_TLS=disable goes without TLS"
    } else {
        ""
    }
}
