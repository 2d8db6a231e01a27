//! Which branch and company an order belongs to: `branch_delivery_configs`, held in memory.
//!
//! The table is read as a whole and kept however old it gets while PostgreSQL is away. A merchant that is not in it
//! makes one more read before the answer is no, so a row that was just added is seen at once.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use secrecy::SecretString;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    database::{Database, query},
    order::body::Place,
};

/// How often the table is read again.
const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// How often it is tried where PostgreSQL is not there.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between two reads because of an unknown merchant: strangers' ids must not become load.
const MISS_REFRESH_EVERY: Duration = Duration::from_secs(2);
/// Most rows that are kept, about 200 MB of them where they have no settings; a platform with more needs a look-up for each order instead.
const MAX_ROWS: usize = 500_000;

/// The same, where nobody knows yet who names the merchant.
const STRANGERS_REFRESH_EVERY: Duration = Duration::from_secs(10);
/// Longest time that a request waits for the secrets of a branch that is not known.
const SECRETS_TIMEOUT: Duration = Duration::from_secs(2);

/// What a look-up found.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The branch.
    Found(Place),
    /// No active row fits.
    NotFound,
}

/// What is known of a branch's own secrets.
#[derive(Debug)]
pub enum Secrets {
    /// These are all; none where no active row fits, or where it has none.
    Known(Arc<[SecretString]>),
    /// The table could not be read since somebody asked for a branch that is not in it.
    Unknown,
}

/// Where the orders of one provider go.
#[derive(Default)]
struct OfProvider {
    by_merchant: HashMap<String, Arc<Place>>,
    by_store: HashMap<String, Arc<Place>>,
    only: Option<Arc<Place>>,
    rows: usize,
    /// `webhook_secret`, newest first, by branch.
    secrets: HashMap<String, Arc<[SecretString]>>,
    /// What the provider must be told about a branch, by its id.
    by_branch: HashMap<String, Arc<Branch>>,
    /// `delivery_providers.api_base_url`.
    api_base_url: Option<String>,
}

/// A branch, as far as the provider's interface is concerned.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Branch {
    /// `branch_delivery_configs.branch_id`.
    pub branch_id: String,
    /// `merchant_id`.
    pub merchant_id: Option<String>,
    /// `store_id`.
    pub store_id: Option<String>,
    /// `settings`, JSON text as it stands.
    pub settings: Option<String>,
}

struct Snapshot {
    providers: HashMap<String, OfProvider>,
    read_at: Instant,
}

impl Snapshot {
    fn find(&self, provider: &str, store: Option<&str>) -> Option<&Place> {
        let of_provider = self.providers.get(provider)?;
        match store {
            Some(store) => of_provider
                .by_merchant
                .get(store)
                .or_else(|| of_provider.by_store.get(store))
                .map(|place| &**place),
            None => of_provider.only.as_deref(),
        }
    }
}

/// The branches.
pub struct Branches {
    database: Database,
    snapshot: ArcSwapOption<Snapshot>,
    loaded: watch::Sender<bool>,
    reading: Mutex<()>,
}

impl Branches {
    /// Nothing is read yet; [`Self::run`] does that.
    pub fn new(database: Database) -> Self {
        Self {
            database,
            snapshot: ArcSwapOption::empty(),
            loaded: watch::Sender::new(false),
            reading: Mutex::new(()),
        }
    }

    /// Keeps the table fresh until told to stop.
    ///
    /// # Errors
    /// Never; a database that is away is waited for.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let pause = match self.read().await {
                Ok(()) => REFRESH_EVERY,
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        known = self.is_loaded(),
                        "cannot read the branches, trying again"
                    );
                    RETRY_EVERY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Waits until the table was read once.
    pub async fn loaded(&self) {
        let mut loaded = self.loaded.subscribe();
        // The sender is part of self.
        let _ = loaded.wait_for(|loaded| *loaded).await;
    }

    /// Whether it was.
    pub fn is_loaded(&self) -> bool {
        *self.loaded.borrow()
    }

    /// The branch of a provider's store: by `merchant_id`, else by `store_id`; where none is named and the provider has
    /// exactly one active branch, that one.
    pub async fn find(&self, provider: &str, store: Option<&str>) -> Lookup {
        if let Some(place) = self.known(provider, store) {
            return Lookup::Found(place);
        }
        self.read_because_of_a_miss(MISS_REFRESH_EVERY).await;
        self.known(provider, store).map_or(Lookup::NotFound, Lookup::Found)
    }

    /// What the provider's interface must be told about a branch; none where no active row is known.
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

    /// The only active branch of a provider.
    pub fn only_branch(&self, provider: &str) -> Option<String> {
        self.known(provider, None).map(|place| place.branch_id)
    }

    /// Where the platform says that a provider's interface is.
    pub fn api_base_url(&self, provider: &str) -> Option<String> {
        let snapshot = self.snapshot.load();
        snapshot.as_ref()?.providers.get(provider)?.api_base_url.clone()
    }

    fn known(&self, provider: &str, store: Option<&str>) -> Option<Place> {
        self.snapshot.load().as_ref()?.find(provider, store).cloned()
    }

    /// The webhook secrets of a provider's store, found as [`Self::find`] finds its branch. Asked before anybody knows
    /// who calls, so it waits two seconds at most.
    pub async fn secrets(&self, provider: &str, store: Option<&str>) -> Secrets {
        if let Some(secrets) = self.known_secrets(provider, store) {
            return Secrets::Known(secrets);
        }
        let is_fresh =
            tokio::time::timeout(SECRETS_TIMEOUT, self.read_because_of_a_miss(STRANGERS_REFRESH_EVERY)).await;
        match self.known_secrets(provider, store) {
            Some(secrets) => Secrets::Known(secrets),
            None if is_fresh == Ok(true) => Secrets::Known(Arc::from([])),
            None => Secrets::Unknown,
        }
    }

    fn known_secrets(&self, provider: &str, store: Option<&str>) -> Option<Arc<[SecretString]>> {
        let snapshot = self.snapshot.load();
        let snapshot = snapshot.as_ref()?;
        let branch = &snapshot.find(provider, store)?.branch_id;
        let secrets = snapshot.providers.get(provider)?.secrets.get(branch);
        Some(secrets.map_or_else(|| Arc::from([]), Arc::clone))
    }

    /// Whether what is held was read since it was asked for, or at most `every` before.
    async fn read_because_of_a_miss(&self, every: Duration) -> bool {
        let asked = Instant::now();
        let _one_at_a_time = self.reading.lock().await;
        // Somebody else read it while this one waited, or it is too soon.
        let fresh = |snapshot: &Arc<Snapshot>| snapshot.read_at > asked || snapshot.read_at.elapsed() < every;
        if self.snapshot.load().as_ref().is_some_and(fresh) {
            return true;
        }
        match self.read().await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot look again for a merchant that is not known"
                );
                false
            }
        }
    }

    async fn read(&self) -> anyhow::Result<()> {
        let connection = self.database.connect().await?;
        let statement = connection.prepare_cached(query::BRANCHES).await?;
        let limit = i64::try_from(MAX_ROWS)?;
        let rows = connection.query(&statement, &[&limit]).await?;
        if rows.len() == MAX_ROWS {
            tracing::error!(MAX_ROWS, "branch_delivery_configs has more active rows than are read");
        }
        let mut providers: HashMap<String, OfProvider> = HashMap::new();
        for row in rows {
            let place = Arc::new(Place {
                branch_id: row.try_get(1)?,
                company_id: row.try_get(2)?,
                auto_accept: row.try_get("auto_accept_orders")?,
            });
            let of_provider = providers.entry(row.try_get(0)?).or_default();
            if let Some(secrets) = row.try_get::<_, Option<String>>("webhook_secret")? {
                of_provider.secrets.insert(place.branch_id.clone(), split(&secrets));
            }
            let branch = Branch {
                branch_id: place.branch_id.clone(),
                merchant_id: row.try_get(3)?,
                store_id: row.try_get(4)?,
                settings: row.try_get("settings")?,
            };
            of_provider
                .by_branch
                .entry(place.branch_id.clone())
                .or_insert_with(|| Arc::new(branch));
            of_provider.api_base_url = row.try_get("api_base_url")?;
            of_provider.rows += 1;
            of_provider.only = (of_provider.rows == 1).then(|| Arc::clone(&place));
            if let Some(merchant) = row.try_get::<_, Option<String>>(3)? {
                of_provider
                    .by_merchant
                    .entry(merchant)
                    .or_insert_with(|| Arc::clone(&place));
            }
            if let Some(store) = row.try_get::<_, Option<String>>(4)? {
                of_provider.by_store.entry(store).or_insert(place);
            }
        }
        self.snapshot.store(Some(Arc::new(Snapshot {
            providers,
            read_at: Instant::now(),
        })));
        self.loaded.send_replace(true);
        Ok(())
    }
}

/// Several secrets between commas, newest first, as in the environment.
fn split(secrets: &str) -> Arc<[SecretString]> {
    let secrets = secrets.split(',').map(str::trim).filter(|one| !one.is_empty());
    secrets.map(SecretString::from).collect()
}
