//! The connection to PostgreSQL: one pool, the statements of `sql/queries`, and whether the database answers.
//!
//! The callers know what the statements mean. Every statement has a deadline (see [`connection`]). Behind a pooler that gives
//! one session to several clients no statement runs at all (see [`pooler`]). The intake does not use the database.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

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
/// How long a connection that is not used yet can be trusted to work.
const SPARE_FOR: Duration = Duration::from_secs(5);
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

/// The statements: a constant for each file of `sql/queries`, by its name, which the build script lists. A test prepares each of them.
pub mod query {
    include!(concat!(env!("OUT_DIR"), "/queries.rs"));

    /// A statement of several files of `sql/queries/orders`.
    macro_rules! of_orders {
        ($($file:literal),+) => { concat!($(include_str!(concat!("../sql/queries/orders/", $file, ".sql"))),+) };
    }

    /// Orders for people, the newest first (`$1` to `$10`: which; `$11` and `$12`: the last one of the page before; `$13`: how many).
    pub const ORDERS_NEWEST: &str = of_orders!("columns", "filter", "newest");
    /// Orders that have not arrived, those that wait longest first; with the same parameters.
    pub const ORDERS_WAITING_LONGEST: &str = of_orders!("columns", "filter", "waiting_longest");
    /// How many there are (`$1` to `$10`: which; `$11`: how many are counted at most).
    pub const ORDERS_COUNTED: &str = of_orders!("counted", "filter", "counted_up_to");

    /// All of them.
    pub fn all() -> impl Iterator<Item = &'static str> {
        let of_several_files = [ORDERS_NEWEST, ORDERS_WAITING_LONGEST, ORDERS_COUNTED];
        OF_ONE_FILE.iter().copied().chain(of_several_files)
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
    /// The connections that found it out, for the first that are wanted then.
    spare: Mutex<Vec<Spare>>,
}

/// A connection without any setting, and when it was opened.
struct Spare {
    opened: (Client, JoinHandle<()>),
    at: Instant,
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
            spare: Mutex::default(),
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
        let opened = tokio::time::timeout(ACQUIRE_TIMEOUT, self.server.open_session()).await;
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
    /// A connection with the settings of a session.
    async fn open_session(&self) -> Opened {
        let opened = match self.spare() {
            Some(spare) => spare,
            None => Box::pin(self.open()).await?,
        };
        opened.0.batch_execute(&self.session).await?;
        Ok(opened)
    }

    /// A connection that [`Self::must_give_sessions`] left, if it can still be trusted.
    fn spare(&self) -> Option<(Client, JoinHandle<()>)> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = |spare: &Spare| spare.at.elapsed() < SPARE_FOR && !spare.opened.0.is_closed();
        std::iter::from_fn(|| spare.pop())
            .find(usable)
            .map(|spare| spare.opened)
    }

    /// Connects; sets nothing.
    async fn open(&self) -> Opened {
        let (client, connection) = self.postgres.connect(self.tls.clone()).await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(error = describe(&error), "a connection to PostgreSQL broke");
            }
        });
        Ok((client, task))
    }

    /// Finds out once whether a pooler hands sessions to several clients: nothing may be set in those.
    async fn must_give_sessions(&self) -> Result<(), Error> {
        let find_out = async {
            let found = tokio::time::timeout(ACQUIRE_TIMEOUT, async {
                // Boxed, because connecting is a large future.
                let (first, second) = (Box::pin(self.open()).await?, Box::pin(self.open()).await?);
                let gives_sessions = pooler::gives_sessions(&first.0, &second.0).await?;
                Ok::<_, tokio_postgres::Error>(gives_sessions.then_some([first, second]))
            });
            match found.await {
                Ok(Ok(Some(both))) => {
                    let at = Instant::now();
                    let spare = both.map(|opened| Spare { opened, at });
                    self.spare.lock().unwrap_or_else(PoisonError::into_inner).extend(spare);
                    Ok(())
                }
                Ok(Ok(None)) => Err(Error::Pooled),
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
        Box::pin(self.0.open_session())
    }
}
