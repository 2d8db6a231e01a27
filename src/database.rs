//! The connection to PostgreSQL: one pool, the statements of `sql/queries`, and whether the database answers.
//!
//! The callers know what the statements mean. Every statement has a deadline (see [`connection`]). Behind a pooler that gives
//! one session to several clients no statement runs at all (see [`pooler`]). The intake does not use the database.

use std::{pin::Pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use deadpool_postgres::{
    ClientWrapper, Connect, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, Timeouts,
};
use tokio::{sync::OnceCell, task::JoinHandle};
use tokio_postgres::Client;
use tokio_postgres_rustls::MakeRustlsConnect;

use self::names::{Names, identifier};
use crate::{config, fault_injection, tls};

pub mod names;
pub mod connection;
pub mod pooler;
pub mod rights;
pub mod trouble;

pub use connection::{Connection, Error, Transaction, describe};

/// Wait for a connection of the pool, or for a new one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that the server gives one statement, so that a lock of another session cannot stop the hub for good. The longest
/// ones write a batch of the tables or read every branch, and take well below a second.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// After so much silence inside a transaction the server ends the session: the hub that has it is frozen or gone, and its
/// locks would stay.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(10);
/// Every statement here looks rows up by key, many keys at a time. The planner does not know that of an array, and on a
/// table that was filled since it was last analysed it reads the whole table instead: each batch slower than the last.
const BY_KEY: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";
/// Takes that back, for statements about whole tables.
const FOR_WHOLE_TABLES: &str = "RESET enable_seqscan; RESET enable_hashjoin; RESET enable_mergejoin";
/// A disabled kind of plan is priced at 10^10, so a statement that has no other kind looks expensive enough for PostgreSQL to
/// compile it: some 100 ms of CPU for a statement of one.
const NO_COMPILATION: &str = "SET jit = off";

/// The statements, one a file of `sql/queries`; a few consist of several. A test prepares each of them.
pub mod query {
    /// Declares each statement with its file, or its files, and the list of all.
    macro_rules! statements {
        ($($(#[$doc:meta])+ $name:ident = $($file:literal)+;)+) => {
            $($(#[$doc])+ pub const $name: &str = concat!($(include_str!(concat!("../sql/queries/", $file, ".sql"))),+);)+

            /// All of them.
            pub const ALL: &[&str] = &[$($name),+];
        };
    }

    statements! {
        /// Branches by provider, merchant and store.
        BRANCHES = "branches";
        /// Whether those have changed.
        BRANCHES_VERSION = "branches_version";
        /// The branches and companies that have an order of a number.
        BRANCH_OF_ORDER = "branch_of_order";
        /// Whether a branch has an order of a number.
        ORDER_OF_BRANCH = "order_of_branch";
        /// How a provider knows a branch, active or not.
        BRANCH_OF_PUSH = "branch_of_push";
        /// The position of a projection.
        POSITION = "position";
        /// A provider's row, made where it is missing.
        ENSURE_PROVIDER = "ensure_provider";
        /// Ids of providers by code.
        PROVIDERS = "providers";
        /// The writer of the tables, and their position.
        READ_CURSOR = "read_cursor";
        /// Makes an instance the writer.
        CLAIM_CURSOR = "claim_cursor";
        /// Lets another one be the writer.
        RELEASE_CURSOR = "release_cursor";
        /// The position of the tables, locked.
        LOCK_CURSOR = "lock_cursor";
        /// How far the tables are, and on which log.
        CURSOR_AND_LOG = "cursor_and_log";
        /// The same, locked.
        LOCK_CURSOR_OF_ANY = "lock_cursor_of_any";
        /// Moves the position.
        MOVE_CURSOR = "move_cursor";
        /// How far the projections of the hub's own are.
        OWN_PROJECTIONS = "own_projections";
        /// Which version made one, up to where.
        READ_PROJECTION = "read_projection";
        /// One is made from the beginning.
        BEGIN_PROJECTION = "begin_projection";
        /// Moves one that is behind.
        MOVE_PROJECTION = "move_projection";
        /// The rows of one were replaced.
        REPLACE_PROJECTION = "replace_projection";
        /// All go back to where an era begins.
        ERA_OF_PROJECTIONS = "era_of_projections";
        /// Reads the rows of orders in `hub.orders`.
        KNOWN_ORDERS = "known_orders";
        /// Rows of `hub.orders`.
        PUT_ORDERS = "put_orders";
        /// Orders for people, the newest first (`$1` to `$10`: which; `$11` and `$12`: the last one of the page before; `$13`: how many).
        ORDERS_NEWEST = "orders_columns" "orders_filter" "orders_newest";
        /// Orders that have not arrived, those that wait longest first; with the same parameters.
        ORDERS_WAITING_LONGEST = "orders_columns" "orders_filter" "orders_waiting_longest";
        /// How many there are (`$1` to `$10`: which; `$11`: how many are counted at most).
        ORDERS_COUNTED = "orders_counted" "orders_filter" "orders_counted_up_to";
        /// How far the tables are and whether an instance writes them, for people.
        TABLES_STATUS = "tables_status";
        /// Reads the rows of webhooks.
        KNOWN_WEBHOOK_LOGS = "known_webhook_logs";
        /// New rows of `webhook_logs`.
        INSERT_WEBHOOK_LOGS = "insert_webhook_logs";
        /// Their results.
        UPDATE_WEBHOOK_LOGS = "update_webhook_logs";
        /// New rows of `delivery_error_logs`.
        INSERT_ERROR_LOGS = "insert_error_logs";
        /// Errors that were overcome.
        RESOLVE_ERROR_LOGS = "resolve_error_logs";
        /// The same, of what has no webhook.
        RESOLVE_PUSH_ERRORS = "resolve_push_errors";
        /// Reads the rows of orders.
        KNOWN_ORDER_LOGS = "known_order_logs";
        /// Rows of `provider_order_logs`.
        INSERT_ORDER_LOGS = "insert_order_logs";
        /// Status changes in `provider_order_logs`.
        UPDATE_ORDER_LOGS = "update_order_logs";
        /// Events that have no rows yet.
        SKIPPED_EVENTS = "skipped_events";
        /// Notes an event that has no rows.
        SKIP_EVENT = "skip_event";
        /// It has them now.
        UNSKIP_EVENT = "unskip_event";
        /// A step of deleting old rows of `webhook_logs`.
        RETAIN_WEBHOOK_LOGS = "retain_webhook_logs";
        /// The same of `delivery_error_logs`.
        RETAIN_ERROR_LOGS = "retain_delivery_error_logs";
        /// The same of `provider_order_logs`.
        RETAIN_ORDER_LOGS = "retain_provider_order_logs";
        /// The same of `hub.orders`.
        RETAIN_ORDERS = "retain_orders";
        /// Deletes old notes of events that have no rows.
        RETAIN_SKIPPED_EVENTS = "retain_skipped_events";
        /// The log is another one.
        BEGIN_ERA = "begin_era";
        /// How often it was.
        LAST_ERA = "last_era";
        /// Events that the log forgot before they had rows.
        NOTE_GAP = "note_gap";
    }
}

/// Connections to PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    server: Arc<Server>,
}

/// The server, and the settings of connections to it.
struct Server {
    postgres: tokio_postgres::Config,
    tls: MakeRustlsConnect,
    /// The statements that every session begins with.
    session: String,
    /// Where the platform's tables are.
    names: Arc<Names>,
    /// Set when it is known that each session has a backend of its own.
    gives_sessions: OnceCell<()>,
}

impl Database {
    /// Makes the pool; connects to nothing yet.
    ///
    /// # Errors
    /// If the settings cannot work.
    pub fn new(settings: &config::Database) -> anyhow::Result<Self> {
        let server = Arc::new(Server {
            postgres: settings.postgres.clone(),
            tls: MakeRustlsConnect::new(tls::client(&settings.tls)?),
            session: session(&settings.schema),
            names: Arc::new(Names::new(&settings.schema)),
            gives_sessions: OnceCell::new(),
        });
        let manager = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_connect(settings.postgres.clone(), Connector(Arc::clone(&server)), manager);
        let timeouts = Timeouts {
            wait: Some(ACQUIRE_TIMEOUT),
            create: Some(ACQUIRE_TIMEOUT),
            recycle: Some(ACQUIRE_TIMEOUT),
        };
        let pool = Pool::builder(manager)
            .max_size(settings.pool_size)
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build()
            .context("cannot set up the connection pool")?;
        Ok(Self { pool, server })
    }

    /// A connection of the pool, within five seconds; also notes whether the database is there.
    ///
    /// # Errors
    /// If it is not, or if a pooler hands its sessions to several clients.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let connection = async {
            self.server.must_give_sessions().await?;
            // The error contains host and reason, never the password.
            let pooled = self.pool.get().await.map_err(|error| match error {
                PoolError::Backend(error) => refused(&error),
                other => Error::unreachable(other.to_string(), None),
            })?;
            let (tls, names) = (self.server.tls.clone(), Arc::clone(&self.server.names));
            anyhow::Ok(Connection::pooled(pooled, tls, names))
        };
        let connection = connection.await;
        metrics::gauge!("database_up").set(if connection.is_ok() { 1.0 } else { 0.0 });
        connection
    }

    /// A connection of the caller's own, beside the pool: for who keeps it, or leaves settings behind in its session.
    ///
    /// # Errors
    /// The same as [`Self::connect`].
    pub async fn own(&self) -> anyhow::Result<Connection> {
        self.server.must_give_sessions().await?;
        let opened = tokio::time::timeout(ACQUIRE_TIMEOUT, self.server.open(&self.server.session)).await;
        let (client, task) = opened
            .map_err(|_| Error::unreachable("no connection within five seconds", None))?
            .map_err(|error| refused(&error))?;
        Ok(Connection::own(
            ClientWrapper::new(client, task),
            self.server.tls.clone(),
            Arc::clone(&self.server.names),
        ))
    }
}

/// Why there is no connection.
fn refused(error: &tokio_postgres::Error) -> Error {
    let code = error.code().map(tokio_postgres::error::SqlState::code);
    Error::unreachable(describe(error), code)
}

/// The settings of every session. Set by statements, for a pooler refuses what it does not know among the parameters of a
/// connection. `search_path` is for the platform's triggers alone, see [`names`].
fn session(schema: &str) -> String {
    format!(
        "SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {}; SET timezone = 'UTC'; {BY_KEY}; \
         {NO_COMPILATION}; SET search_path = {}",
        statement_timeout().as_millis(),
        fault_injection::time("idle_in_transaction", IDLE_IN_TRANSACTION).as_millis(),
        identifier(schema),
    )
}

/// See [`STATEMENT_TIMEOUT`].
fn statement_timeout() -> Duration {
    fault_injection::time("statement_timeout", STATEMENT_TIMEOUT)
}

impl Server {
    /// Connects and runs the first statements of the session.
    async fn open(&self, session: &str) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let (client, connection) = self.postgres.connect(self.tls.clone()).await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(error = describe(&error), "a connection to PostgreSQL broke");
            }
        });
        client.batch_execute(session).await?;
        Ok((client, task))
    }

    /// Finds out once whether a pooler hands sessions to several clients: nothing may be set in those.
    async fn must_give_sessions(&self) -> Result<(), Error> {
        let find_out = async {
            let found = tokio::time::timeout(ACQUIRE_TIMEOUT, async {
                let (first, second) = (self.open("").await?, self.open("").await?);
                pooler::gives_sessions(&first.0, &second.0).await
            });
            match found.await {
                Ok(Ok(true)) => Ok(()),
                Ok(Ok(false)) => Err(Error::Pooled),
                Ok(Err(error)) => Err(refused(&error)),
                Err(_) => Err(Error::unreachable("no answer within five seconds", None)),
            }
        };
        self.gives_sessions.get_or_try_init(|| find_out).await?;
        Ok(())
    }
}

/// Makes the connections of the pool.
struct Connector(Arc<Server>);

type Opened = Result<(Client, JoinHandle<()>), tokio_postgres::Error>;

impl Connect for Connector {
    fn connect(&self, _: &tokio_postgres::Config) -> Pin<Box<dyn Future<Output = Opened> + Send + '_>> {
        Box::pin(self.0.open(&self.0.session))
    }
}
