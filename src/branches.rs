//! Finds the branch and company of an order in `branch_delivery_configs`, which is kept in memory.
//!
//! One task reads the whole table. While PostgreSQL is away the rows are kept, however old they get. A merchant without a row
//! is looked up once more, in a read that began after the request: only such a read can prove that there is no row. Without a
//! successful one the answer is "unknown".

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    database::{Database, query},
    fault_injection,
    order::body::BranchRef,
};

mod table;

pub use self::table::{Branch, BranchSecrets};
use self::table::{Snapshot, Versions};

/// How long an event of an unknown merchant waits while the table of branches cannot be read. Longer than an event is
/// held in memory, so that it is parked: many of them must not delay events of known branches.
pub(crate) const TABLE_AWAY: Duration = Duration::from_secs(15);
/// How often the table is read again.
const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// How often it is tried where PostgreSQL is not there.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between the beginnings of two reads because of an unknown merchant: its orders must not become load.
const MISS_REFRESH_EVERY: Duration = Duration::from_secs(2);
/// Most rows that are kept, about 200 MB of them where they have no settings; a platform with more needs a look-up for each order instead.
const MAX_ROWS: usize = 500_000;

/// The same, before the sender is verified.
const STRANGERS_REFRESH_EVERY: Duration = Duration::from_secs(10);
/// Longest time that a request waits for the secrets of a branch that is not known.
const SECRETS_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time that an order waits for a read: a table of the largest size takes some seconds, and one read may be under
/// way already.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of a look-up.
#[derive(Debug, PartialEq, Eq)]
pub enum BranchLookup {
    /// The branch.
    Found(BranchRef),
    /// No active row fits.
    NotFound,
    /// No known row matches, and the table could not be read since this look-up began.
    Unknown,
}

/// The result of looking up a branch's own secrets.
#[derive(Debug)]
pub enum SecretsLookup {
    /// These are all; none if no active row fits, or if its branch has none.
    Known(Option<Arc<BranchSecrets>>),
    /// The table could not be read since a branch was requested that is not in it.
    Unknown,
}

/// A read of the table that has ended.
#[derive(Debug, Clone, Copy)]
struct TableRead {
    began: Instant,
    succeeded: bool,
}

/// The branches.
pub struct Branches {
    database: Database,
    snapshot: ArcSwapOption<Snapshot>,
    loaded: watch::Sender<bool>,
    /// The last read.
    reads: watch::Sender<Option<TableRead>>,
    /// Another read is requested, for an order or for an unverified webhook.
    wanted: Notify,
    wanted_by_strangers: Notify,
}

impl Branches {
    /// Nothing is read yet; [`Self::run`] does that.
    pub fn new(database: Database) -> Self {
        Self {
            database,
            snapshot: ArcSwapOption::empty(),
            loaded: watch::Sender::new(false),
            reads: watch::Sender::new(None),
            wanted: Notify::new(),
            wanted_by_strangers: Notify::new(),
        }
    }

    /// Keeps the table fresh until it is stopped.
    ///
    /// # Errors
    /// Never; a database that is away is waited for.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut versions = Versions::default();
        loop {
            let began = Instant::now();
            let read = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                read = self.read(&mut versions) => read,
            };
            let succeeded = read.is_ok();
            let pause = match read {
                Ok(()) => fault_injection::time("branch_refresh", REFRESH_EVERY),
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        known = self.is_loaded(),
                        "cannot read the branches, trying again"
                    );
                    RETRY_EVERY
                }
            };
            self.reads.send_replace(Some(TableRead { began, succeeded }));
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
                () = called(&self.wanted, began + MISS_REFRESH_EVERY) => {}
                () = called(&self.wanted_by_strangers, began + STRANGERS_REFRESH_EVERY) => {}
            }
        }
    }

    /// Waits until the table was read once.
    pub async fn loaded(&self) {
        let mut loaded = self.loaded.subscribe();
        // It cannot fail: `self` holds the sender.
        let _ = loaded.wait_for(|loaded| *loaded).await;
    }

    /// Whether it was.
    pub fn is_loaded(&self) -> bool {
        *self.loaded.borrow()
    }

    /// The branch of a provider's store: by `merchant_id`, else by `store_id`; where none is named and the provider has
    /// exactly one active branch, that one.
    pub async fn find(&self, provider: &str, store: Option<&str>) -> BranchLookup {
        if let Some(place) = self.known(provider, store) {
            return BranchLookup::Found(place);
        }
        let is_fresh = self.look_again().await;
        match self.known(provider, store) {
            Some(place) => BranchLookup::Found(place),
            None if is_fresh => BranchLookup::NotFound,
            None => BranchLookup::Unknown,
        }
    }

    /// Reads the table again; returns whether a read that began after this call succeeded.
    pub async fn look_again(&self) -> bool {
        self.look(&self.wanted, LOOK_TIMEOUT).await
    }

    async fn look(&self, wanted: &Notify, patience: Duration) -> bool {
        let asked = Instant::now();
        let mut reads = self.reads.subscribe();
        wanted.notify_one();
        let later = reads.wait_for(|look| look.is_some_and(|look| look.began > asked));
        let look = tokio::time::timeout(patience, later).await;
        matches!(look, Ok(Ok(look)) if look.is_some_and(|look| look.succeeded))
    }

    /// What requests to the provider need to know about a branch, even one that is switched off; none if no row is known.
    pub fn branch(&self, provider: &str, branch: &str) -> Option<Arc<Branch>> {
        let snapshot = self.snapshot.load();
        snapshot
            .as_ref()?
            .providers
            .get(provider)?
            .by_branch
            .get(branch)
            .cloned()
    }

    /// The active branches of a provider, in the order of their ids.
    pub fn active(&self, provider: &str) -> Vec<Arc<Branch>> {
        let snapshot = self.snapshot.load();
        let of_provider = snapshot.as_ref().and_then(|all| all.providers.get(provider));
        let branches = of_provider.into_iter().flat_map(|all| all.by_branch.values());
        let mut active: Vec<_> = branches.filter(|branch| branch.is_active).cloned().collect();
        active.sort_by(|one, other| one.branch_id.cmp(&other.branch_id));
        active
    }

    /// The branch of a store that is switched off. No new order goes there.
    pub fn inactive(&self, provider: &str, store: Option<&str>) -> Option<BranchRef> {
        let snapshot = self.snapshot.load();
        let of_provider = snapshot.as_ref()?.providers.get(provider)?;
        Some(BranchRef::clone(of_provider.inactive.get(store?)?))
    }

    /// The only active branch of a provider.
    pub fn only_branch(&self, provider: &str) -> Option<String> {
        self.known(provider, None).map(|place| place.branch_id)
    }

    /// The platform's URL of a provider's API.
    pub fn api_base_url(&self, provider: &str) -> Option<String> {
        let snapshot = self.snapshot.load();
        snapshot.as_ref()?.providers.get(provider)?.api_base_url.clone()
    }

    /// As [`Self::find`], without looking again.
    pub fn known(&self, provider: &str, store: Option<&str>) -> Option<BranchRef> {
        self.snapshot.load().as_ref()?.find(provider, store).cloned()
    }

    /// The webhook secrets of a provider's store, found as [`Self::find`] finds its branch. Called before it is known
    /// who calls, so it waits two seconds at most.
    pub async fn secrets(&self, provider: &str, store: Option<&str>) -> SecretsLookup {
        if let Some(secrets) = self.known_secrets(provider, store) {
            return SecretsLookup::Known(secrets);
        }
        let last = *self.reads.borrow();
        let is_fresh = match last {
            Some(last) if last.succeeded && last.began.elapsed() < STRANGERS_REFRESH_EVERY => true,
            _ => self.look(&self.wanted_by_strangers, SECRETS_TIMEOUT).await,
        };
        match self.known_secrets(provider, store) {
            Some(secrets) => SecretsLookup::Known(secrets),
            None if is_fresh => SecretsLookup::Known(None),
            None => SecretsLookup::Unknown,
        }
    }

    /// None if no branch is known that has this store.
    fn known_secrets(&self, provider: &str, store: Option<&str>) -> Option<Option<Arc<BranchSecrets>>> {
        let snapshot = self.snapshot.load();
        let snapshot = snapshot.as_ref()?;
        let branch = &snapshot.find(provider, store)?.branch_id;
        Some(snapshot.providers.get(provider)?.secrets.get(branch).cloned())
    }

    /// Reads the table, where it is not as it was when it was read last.
    async fn read(&self, versions: &mut Versions) -> anyhow::Result<()> {
        let connection = self.database.connect().await?;
        // Read before the rows, so that a change in between is read next time.
        let version = versions.read(&connection).await;
        if version.is_some() && version == versions.last && !versions.whole_is_due() {
            return Ok(());
        }
        let statement = connection.prepare_cached(query::BRANCHES).await?;
        let rows = connection.query(&statement, &[&i64::try_from(MAX_ROWS)?]).await?;
        drop(connection);
        if rows.len() == MAX_ROWS {
            tracing::error!(
                MAX_ROWS,
                "branch_delivery_configs has more rows than are read; active ones go first"
            );
        }
        let snapshot = Snapshot::of(&rows).await?;
        let before = self.snapshot.swap(Some(Arc::new(snapshot)));
        // Freeing a large snapshot takes as long as some requests, so it runs apart.
        tokio::task::spawn_blocking(move || drop((before, rows))).await?;
        versions.was_read(version);
        self.loaded.send_replace(true);
        Ok(())
    }
}

/// Until a request, and not before a time.
async fn called(by: &Notify, not_before: Instant) {
    by.notified().await;
    tokio::time::sleep_until(not_before.into()).await;
}
