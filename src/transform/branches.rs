//! Which branch and company an order belongs to: `branch_delivery_configs`, held in memory.
//!
//! The table is read as a whole and kept however old it gets while PostgreSQL is away. One task reads it. A merchant that is
//! not in it is looked for once more, in a read that began after it was asked for: only that can say that there is no such
//! row, and where there was none nobody knows.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    database::{Database, query},
    fault_injection,
    order::body::Place,
    verification::keys::MAX_SECRETS,
};

/// How often the table is read again.
const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// How often it is tried where PostgreSQL is not there.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between the beginnings of two reads because of an unknown merchant: its orders must not become load.
const MISS_REFRESH_EVERY: Duration = Duration::from_secs(2);
/// Most rows that are kept, about 200 MB of them where they have no settings; a platform with more needs a look-up for each order instead.
const MAX_ROWS: usize = 500_000;

/// The same, where nobody knows yet who names the merchant.
const STRANGERS_REFRESH_EVERY: Duration = Duration::from_secs(10);
/// Longest time that a request waits for the secrets of a branch that is not known.
const SECRETS_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time that an order waits for a read: a table of the largest size takes some seconds, and one read may be under
/// way already.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// What a look-up found.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The branch.
    Found(Place),
    /// No active row fits.
    NotFound,
    /// None that is known fits, and the table could not be read since it was asked for.
    Unknown,
}

/// What is known of a branch's own secrets.
#[derive(Debug)]
pub enum Secrets {
    /// These are all; none where no active row fits, or where its branch has none.
    Known(Option<Arc<BranchSecrets>>),
    /// The table could not be read since somebody asked for a branch that is not in it.
    Unknown,
}

/// A branch's own secrets.
#[derive(Debug)]
pub struct BranchSecrets {
    /// `branch_delivery_configs.branch_id`.
    pub branch_id: String,
    /// `webhook_secret` of its active rows, newest first, at most [`MAX_SECRETS`].
    pub secrets: Vec<SecretString>,
}

/// Where the orders of one provider go.
#[derive(Default)]
struct OfProvider {
    by_merchant: HashMap<String, Arc<Place>>,
    by_store: HashMap<String, Arc<Place>>,
    /// Where there is one active branch, however many rows it has.
    only: Option<Arc<Place>>,
    /// There are several.
    is_several: bool,
    /// Stores that are switched off, by merchant or store: for news of orders that they have.
    inactive: HashMap<String, Arc<Place>>,
    /// The secrets of its active rows, by branch.
    secrets: HashMap<String, Arc<BranchSecrets>>,
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
    /// Whether it sells: new orders and menus are for active branches only.
    pub is_active: bool,
}

struct Snapshot {
    providers: HashMap<String, OfProvider>,
}

/// A read of the table that has ended.
#[derive(Debug, Clone, Copy)]
struct Look {
    began: Instant,
    succeeded: bool,
}

impl OfProvider {
    /// There is an active row of this branch.
    fn note_active(&mut self, place: &Arc<Place>) {
        match &self.only {
            Some(only) if only.branch_id == place.branch_id => {}
            None if !self.is_several => self.only = Some(Arc::clone(place)),
            _ => (self.only, self.is_several) = (None, true),
        }
    }
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
    /// The last read.
    looks: watch::Sender<Option<Look>>,
    /// Somebody wants another one, for an order or for a webhook of which nobody knows yet who sent it.
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
            looks: watch::Sender::new(None),
            wanted: Notify::new(),
            wanted_by_strangers: Notify::new(),
        }
    }

    /// Keeps the table fresh until told to stop.
    ///
    /// # Errors
    /// Never; a database that is away is waited for.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let began = Instant::now();
            let read = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                read = self.read() => read,
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
            self.looks.send_replace(Some(Look { began, succeeded }));
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
        let is_fresh = self.look_again().await;
        match self.known(provider, store) {
            Some(place) => Lookup::Found(place),
            None if is_fresh => Lookup::NotFound,
            None => Lookup::Unknown,
        }
    }

    /// Has the table read again. Whether it was, from its beginning, after this was asked for.
    pub async fn look_again(&self) -> bool {
        self.look(&self.wanted, LOOK_TIMEOUT).await
    }

    async fn look(&self, wanted: &Notify, patience: Duration) -> bool {
        let asked = Instant::now();
        let mut looks = self.looks.subscribe();
        wanted.notify_one();
        let later = looks.wait_for(|look| look.is_some_and(|look| look.began > asked));
        let look = tokio::time::timeout(patience, later).await;
        matches!(look, Ok(Ok(look)) if look.is_some_and(|look| look.succeeded))
    }

    /// What the provider's interface must be told about a branch, also one that is switched off; none where no row is known.
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

    /// The branch of a store that is switched off. No new order goes there.
    pub fn inactive(&self, provider: &str, store: Option<&str>) -> Option<Place> {
        let snapshot = self.snapshot.load();
        let of_provider = snapshot.as_ref()?.providers.get(provider)?;
        Some(Place::clone(of_provider.inactive.get(store?)?))
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

    /// As [`Self::find`], without looking again.
    pub fn known(&self, provider: &str, store: Option<&str>) -> Option<Place> {
        self.snapshot.load().as_ref()?.find(provider, store).cloned()
    }

    /// The webhook secrets of a provider's store, found as [`Self::find`] finds its branch. Asked before anybody knows
    /// who calls, so it waits two seconds at most.
    pub async fn secrets(&self, provider: &str, store: Option<&str>) -> Secrets {
        if let Some(secrets) = self.known_secrets(provider, store) {
            return Secrets::Known(secrets);
        }
        let last = *self.looks.borrow();
        let is_fresh = match last {
            Some(last) if last.succeeded && last.began.elapsed() < STRANGERS_REFRESH_EVERY => true,
            _ => self.look(&self.wanted_by_strangers, SECRETS_TIMEOUT).await,
        };
        match self.known_secrets(provider, store) {
            Some(secrets) => Secrets::Known(secrets),
            None if is_fresh => Secrets::Known(None),
            None => Secrets::Unknown,
        }
    }

    /// None where no branch is known that has this store.
    fn known_secrets(&self, provider: &str, store: Option<&str>) -> Option<Option<Arc<BranchSecrets>>> {
        let snapshot = self.snapshot.load();
        let snapshot = snapshot.as_ref()?;
        let branch = &snapshot.find(provider, store)?.branch_id;
        Some(snapshot.providers.get(provider)?.secrets.get(branch).cloned())
    }

    async fn read(&self) -> anyhow::Result<()> {
        let connection = self.database.connect().await?;
        let statement = connection.prepare_cached(query::BRANCHES).await?;
        let limit = i64::try_from(MAX_ROWS)?;
        let rows = connection.query(&statement, &[&limit]).await?;
        if rows.len() == MAX_ROWS {
            tracing::error!(
                MAX_ROWS,
                "branch_delivery_configs has more rows than are read; active ones go first"
            );
        }
        let mut providers: HashMap<String, OfProvider> = HashMap::new();
        let mut secrets: HashMap<(String, String), Vec<Vec<SecretString>>> = HashMap::new();
        for row in rows {
            let place = Arc::new(Place {
                branch_id: row.try_get(1)?,
                company_id: row.try_get(2)?,
                auto_accept: row.try_get("auto_accept_orders")?,
            });
            let provider: String = row.try_get(0)?;
            let is_active: bool = row.try_get("is_active")?;
            if is_active && let Some(of_row) = row.try_get::<_, Option<String>>("webhook_secret")? {
                let of_branch = secrets.entry((provider.clone(), place.branch_id.clone()));
                of_branch.or_default().push(split(&of_row));
            }
            let of_provider = providers.entry(provider).or_default();
            let branch = Branch {
                branch_id: place.branch_id.clone(),
                merchant_id: row.try_get(3)?,
                store_id: row.try_get(4)?,
                settings: row.try_get("settings")?,
                is_active,
            };
            of_provider
                .by_branch
                .entry(place.branch_id.clone())
                .or_insert_with(|| Arc::new(branch));
            of_provider.api_base_url = row.try_get("api_base_url")?;
            let stores = [row.try_get::<_, Option<String>>(3)?, row.try_get(4)?];
            if !is_active {
                for store in stores.into_iter().flatten() {
                    of_provider.inactive.entry(store).or_insert_with(|| Arc::clone(&place));
                }
                continue;
            }
            of_provider.note_active(&place);
            let [merchant, store] = stores;
            if let Some(merchant) = merchant {
                of_provider
                    .by_merchant
                    .entry(merchant)
                    .or_insert_with(|| Arc::clone(&place));
            }
            if let Some(store) = store {
                of_provider.by_store.entry(store).or_insert(place);
            }
        }
        for ((provider, branch_id), of_rows) in secrets {
            let secrets = newest_first(of_rows);
            let of_branch = BranchSecrets { branch_id, secrets };
            let of_provider = providers.entry(provider).or_default();
            of_provider
                .secrets
                .insert(of_branch.branch_id.clone(), Arc::new(of_branch));
        }
        self.snapshot.store(Some(Arc::new(Snapshot { providers })));
        self.loaded.send_replace(true);
        Ok(())
    }
}

/// Until somebody calls, and not before a time.
async fn called(by: &Notify, not_before: Instant) {
    by.notified().await;
    tokio::time::sleep_until(not_before.into()).await;
}

/// Several secrets between commas, newest first, as in the environment.
fn split(secrets: &str) -> Vec<SecretString> {
    let secrets = secrets.split(',').map(str::trim).filter(|one| !one.is_empty());
    secrets.map(SecretString::from).collect()
}

/// The secrets of all rows of a branch: the newest of each row, then the next of each. A row with many crowds out no other row's
/// newest.
fn newest_first(of_rows: Vec<Vec<SecretString>>) -> Vec<SecretString> {
    let mut rows: Vec<_> = of_rows.into_iter().map(Vec::into_iter).collect();
    let mut secrets: Vec<SecretString> = Vec::new();
    while secrets.len() < MAX_SECRETS {
        let before = secrets.len();
        for secret in rows.iter_mut().filter_map(Iterator::next) {
            let is_known = |known: &SecretString| known.expose_secret() == secret.expose_secret();
            if !secrets.iter().any(is_known) {
                secrets.push(secret);
            }
        }
        if secrets.len() == before && rows.iter().all(|row| row.len() == 0) {
            break;
        }
    }
    secrets.truncate(MAX_SECRETS);
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rows_newest_secret_counts_first() {
        let rows = |rows: &[&str]| {
            let secrets = newest_first(rows.iter().map(|row| split(row)).collect());
            let secrets: Vec<_> = secrets.iter().map(|one| one.expose_secret().to_owned()).collect();
            secrets.join(" ")
        };
        assert_eq!(rows(&[]), "");
        assert_eq!(rows(&["a1, a2", "b1"]), "a1 b1 a2");
        assert_eq!(rows(&["a,a,,a", "a, b"]), "a b");
        let many = "1,2,3,4,5,6,7,8,9";
        assert_eq!(rows(&[many, "x"]), "1 x 2 3 4 5 6 7");
    }
}
