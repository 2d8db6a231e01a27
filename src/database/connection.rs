//! A connection on which every statement has a deadline.
//!
//! PostgreSQL ends a statement that takes too long, but a server that is frozen, or a network that swallows packets, ends
//! nothing. So the hub waits a little longer than the server would, then asks the server to cancel the statement and never
//! uses the connection again. The same happens where the caller stops waiting (its future is dropped): the statement would
//! otherwise still run, and the next user of the connection would wait behind it.

use std::{
    fmt,
    ops::Deref,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use deadpool_postgres::{ClientWrapper, Object};
use futures_util::SinkExt as _;
use tokio_postgres::{CancelToken, Row, SimpleQueryMessage, Statement, types::ToSql};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    names::{Names, Run, Runs},
    pooler,
    rights::{self, Lacking},
    statement_timeout,
};

/// How much longer than the server's limit the hub waits for a statement: if the server ends it, the session survives.
const GRACE: Duration = Duration::from_secs(2);
/// Longest time that asking for a cancellation takes, which is a connection of its own.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of one message of a `COPY`: PostgreSQL reads one while the next one is on its way.
const COPY_PART: usize = 64 * 1024;

/// Parameters of a statement.
type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Why a statement did not succeed.
///
/// The driver's error is no `source`: its text quotes values of rows.
#[derive(Debug)]
pub enum Error {
    /// PostgreSQL said no, or the connection broke.
    Postgres(tokio_postgres::Error),
    /// No answer within this time; whether the statement was done is not known.
    Deadline(Duration),
    /// There is no connection.
    Unreachable {
        /// Host and reason, never the password.
        reason: String,
        /// PostgreSQL's code, where it refused the connection.
        code: Option<String>,
    },
    /// A pooler hands its sessions to several clients.
    Pooled,
    /// The role lacks rights.
    Lacking(Lacking),
    /// The tables are not what this version can work with; why.
    Schema(String),
}

impl Error {
    /// PostgreSQL's code for what is wrong (SQLSTATE), where it said so.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Postgres(error) => error.code().map(tokio_postgres::error::SqlState::code),
            Self::Unreachable { code, .. } => code.as_deref(),
            Self::Lacking(_) => Some(rights::MISSING),
            Self::Deadline(_) | Self::Pooled | Self::Schema(_) => None,
        }
    }

    /// No connection, for this reason, and with PostgreSQL's code where it has one.
    pub(crate) fn unreachable(reason: impl Into<String>, code: Option<&str>) -> Self {
        Self::Unreachable {
            reason: reason.into(),
            code: code.map(str::to_owned),
        }
    }

    /// Whether a time limit ended it, the server's or the hub's.
    pub fn is_time_limit(&self) -> bool {
        matches!(self, Self::Deadline(_)) || self.code() == Some("57014")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(error) => f.write_str(&describe(error)),
            Self::Deadline(limit) => write!(f, "PostgreSQL did not answer within {} s", limit.as_secs_f64()),
            Self::Unreachable { reason, .. } => write!(f, "PostgreSQL: {reason}"),
            Self::Pooled => f.write_str(pooler::REFUSED),
            Self::Lacking(lacking) => lacking.fmt(f),
            Self::Schema(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

/// A connection of the pool, or one of the caller's own.
pub struct Connection {
    client: PooledOrOwn,
    watch: DeadlineGuard,
    names: Arc<Names>,
    /// Whether rows may be copied into the tables.
    may_copy: bool,
}

enum PooledOrOwn {
    /// Empty only while it is dropped.
    Pooled(Option<Object>),
    Own(ClientWrapper),
}

impl Deref for PooledOrOwn {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        match self {
            Self::Pooled(object) => object.as_ref().expect("it is taken out by Drop alone"),
            Self::Own(client) => client,
        }
    }
}

/// Runs a statement, a text or a prepared one, with a method of the client, within the time limit.
macro_rules! run {
    ($self:ident.$method:ident($sql:ident, $with:ident)) => {
        match $sql.with(&$self.names) {
            Run::Text(sql) => $self.within($self.client.$method(&*sql, $with)).await,
            Run::Prepared(statement) => $self.within($self.client.$method(statement, $with)).await,
        }
    };
}

impl Connection {
    pub(super) fn pooled(object: Object, tls: MakeRustlsConnect, names: Arc<Names>) -> Self {
        let watch = DeadlineGuard::of(&object, tls);
        let client = PooledOrOwn::Pooled(Some(object));
        Self {
            client,
            watch,
            names,
            may_copy: true,
        }
    }

    pub(super) fn own(client: ClientWrapper, tls: MakeRustlsConnect, names: Arc<Names>) -> Self {
        let watch = DeadlineGuard::of(&client, tls);
        let client = PooledOrOwn::Own(client);
        Self {
            client,
            watch,
            names,
            may_copy: true,
        }
    }

    /// The same connection for statements about whole tables: each may take so long, and PostgreSQL plans them as it thinks best.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub async fn for_whole_tables(mut self, limit: Duration) -> Result<Self, Error> {
        let settings = format!(
            "SET statement_timeout = {}; {}",
            limit.as_millis(),
            super::FOR_WHOLE_TABLES
        );
        self.batch_execute(&settings).await?;
        self.watch.limit = limit + GRACE;
        Ok(self)
    }

    /// The same connection, with other names in the texts of its statements.
    #[must_use]
    pub fn with_names(mut self, names: Names) -> Self {
        self.names = Arc::new(names);
        self
    }

    /// The names of the installation.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Whether rows may be copied into the tables by this connection.
    pub const fn may_copy(&self) -> bool {
        self.may_copy
    }

    /// Notes that PostgreSQL takes no copied rows for one of the tables.
    pub const fn copy_no_more(&mut self) {
        self.may_copy = false;
    }

    /// Waits for a statement, until the connection's time limit.
    async fn within<T>(&self, statement: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Error> {
        self.watch.within(self.watch.limit, statement).await
    }

    /// Whether it can be used no more.
    pub fn is_broken(&self) -> bool {
        self.watch.is_broken.load(Ordering::Relaxed) || self.client.is_closed()
    }

    /// A statement, prepared once for each connection.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub async fn prepare_cached(&self, sql: &str) -> Result<Statement, Error> {
        let sql = self.names.fill(sql);
        self.within(self.client.prepare_cached(&sql)).await
    }

    /// A statement.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub async fn prepare(&self, sql: &str) -> Result<Statement, Error> {
        let sql = self.names.fill(sql);
        self.within(self.client.prepare(&sql)).await
    }

    /// The rows of a statement.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub async fn query<T: ?Sized + Runs>(&self, sql: &T, with: Parameters<'_>) -> Result<Vec<Row>, Error> {
        run!(self.query(sql, with))
    }

    /// The only row of a statement.
    ///
    /// # Errors
    /// If there is not exactly one, or PostgreSQL refuses or does not answer.
    pub async fn query_one<T: ?Sized + Runs>(&self, sql: &T, with: Parameters<'_>) -> Result<Row, Error> {
        run!(self.query_one(sql, with))
    }

    /// The row of a statement that has at most one.
    ///
    /// # Errors
    /// If there are more, or PostgreSQL refuses or does not answer.
    pub async fn query_opt<T: ?Sized + Runs>(&self, sql: &T, with: Parameters<'_>) -> Result<Option<Row>, Error> {
        run!(self.query_opt(sql, with))
    }

    /// Runs a statement; how many rows it touched.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub async fn execute<T: ?Sized + Runs>(&self, sql: &T, with: Parameters<'_>) -> Result<u64, Error> {
        run!(self.execute(sql, with))
    }

    /// Runs statements without parameters.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        self.batch_execute_within(self.watch.limit, sql).await
    }

    /// The same, with a deadline of its own. The server's must have been set before.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub async fn batch_execute_within(&self, limit: Duration, sql: &str) -> Result<(), Error> {
        let sql = self.names.fill(sql);
        self.watch.within(limit, self.client.batch_execute(&sql)).await
    }

    /// Runs statements without parameters by the simple protocol.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub async fn simple_query(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        let sql = self.names.fill(sql);
        self.within(self.client.simple_query(&sql)).await
    }

    /// Begins a transaction; it is rolled back where it is dropped.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let client: &mut ClientWrapper = match &mut self.client {
            PooledOrOwn::Pooled(object) => object.as_mut().expect("it is taken out by Drop alone"),
            PooledOrOwn::Own(client) => client,
        };
        let inner = self.watch.within(self.watch.limit, client.transaction()).await?;
        Ok(Transaction {
            inner,
            watch: &self.watch,
            names: &self.names,
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.watch.is_broken.load(Ordering::Relaxed)
            && let PooledOrOwn::Pooled(object) = &mut self.client
            && let Some(object) = object.take()
        {
            // Taken out of the pool, which closes it.
            drop(Object::take(object));
        }
    }
}

/// A transaction of a [`Connection`].
pub struct Transaction<'a> {
    inner: deadpool_postgres::Transaction<'a>,
    watch: &'a DeadlineGuard,
    names: &'a Names,
}

impl Transaction<'_> {
    async fn prepared(&self, sql: &str) -> Result<Statement, Error> {
        let sql = self.names.fill(sql);
        self.watch
            .within(self.watch.limit, self.inner.prepare_cached(&sql))
            .await
    }

    /// The rows of a statement, which is prepared once for each connection.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub async fn query(&self, sql: &str, with: Parameters<'_>) -> Result<Vec<Row>, Error> {
        let statement = self.prepared(sql).await?;
        self.watch
            .within(self.watch.limit, self.inner.query(&statement, with))
            .await
    }

    /// Runs a statement, which is prepared once for each connection; how many rows it touched.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub async fn execute(&self, sql: &str, with: Parameters<'_>) -> Result<u64, Error> {
        let statement = self.prepared(sql).await?;
        self.watch
            .within(self.watch.limit, self.inner.execute(&statement, with))
            .await
    }

    /// Runs a `COPY … FROM STDIN`, which is prepared once for each connection, with this text.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub async fn copy_in(&self, sql: &str, mut text: Bytes) -> Result<(), Error> {
        let statement = self.prepared(sql).await?;
        let copied = async {
            let mut sink = pin!(self.inner.copy_in(&statement).await?);
            while !text.is_empty() {
                let part = text.split_to(text.len().min(COPY_PART));
                sink.send(part).await?;
            }
            sink.finish().await
        };
        self.watch.within(self.watch.limit, copied).await?;
        Ok(())
    }

    /// Runs statements without parameters.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer.
    pub async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        let sql = self.names.fill(sql);
        self.watch
            .within(self.watch.limit, self.inner.batch_execute(&sql))
            .await
    }

    /// Ends it.
    ///
    /// # Errors
    /// If PostgreSQL refuses or does not answer. If it does not answer, the rows may have been written.
    pub async fn commit(self) -> Result<(), Error> {
        self.watch.within(self.watch.limit, self.inner.commit()).await
    }
}

/// Looks after the statements of one connection.
struct DeadlineGuard {
    tls: MakeRustlsConnect,
    cancel: CancelToken,
    is_broken: AtomicBool,
    /// See [`GRACE`].
    limit: Duration,
}

impl DeadlineGuard {
    fn of(client: &ClientWrapper, tls: MakeRustlsConnect) -> Self {
        Self {
            tls,
            cancel: client.cancel_token(),
            is_broken: AtomicBool::new(false),
            limit: statement_timeout() + GRACE,
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        let mut unfinished = Unfinished(Some(self));
        match tokio::time::timeout(limit, statement).await {
            Ok(answer) => {
                unfinished.0 = None;
                Ok(answer?)
            }
            Err(_) => Err(Error::Deadline(limit)),
        }
    }
}

/// A statement that has no answer yet.
struct Unfinished<'a>(Option<&'a DeadlineGuard>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let Some(watch) = self.0 else { return };
        watch.is_broken.store(true, Ordering::Relaxed);
        metrics::counter!("database_statements_given_up_total").increment(1);
        // Without a runtime the process is ending, and the server notices the closed connection.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (cancel, tls) = (watch.cancel.clone(), watch.tls.clone());
            runtime.spawn(async move { tokio::time::timeout(CANCEL_TIMEOUT, cancel.cancel_query(tls)).await });
        }
    }
}

/// A database error with its cause; tokio-postgres' own text is only "db error".
pub fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        // Without detail and hint, which quote values of rows.
        Some(error) => format!("{} ({})", error.message(), error.code().code()),
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}{}", hint(&cause.to_string())),
            None => error.to_string(),
        },
    }
}

/// The remedy for a certificate that is not accepted.
fn hint(cause: &str) -> &'static str {
    if cause.starts_with("invalid peer certificate") {
        "; DATABASE_TLS_CA names the authority that signed it, DATABASE_TLS=disable goes without TLS"
    } else {
        ""
    }
}
