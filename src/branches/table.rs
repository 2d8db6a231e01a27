//! The copy of the table in memory, and the queries that read it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::FixedOffset;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::Instant;
use tokio_postgres::Row;

use crate::{
    database::{Connection, Error, query},
    fault_injection,
    order::body::BranchRef,
    verification::keys::MAX_SECRETS,
};

/// Longest time between two readings of all rows. A change of the table's definition, or a server that fell back to an older state,
/// may leave the versions of rows as they were.
const WHOLE_EVERY: Duration = Duration::from_secs(300);
/// After so many rows others have a turn: a large table takes tenths of a second.
const ROWS_AT_A_TIME: usize = 500;

/// The setting of a branch that names its zone.
const TIME_ZONE: &str = "timeZone";

/// The version of the tables: it differs whenever they differ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TableVersion {
    branches: (i64, Option<i64>),
    providers: (i64, Option<i64>),
}

/// The version that was read last, and whether there are any.
#[derive(Debug, Default)]
pub(super) struct Versions {
    pub(super) last: Option<TableVersion>,
    read_at: Option<Instant>,
    cannot_be_read: bool,
}

impl Versions {
    /// All rows were read, of this version.
    pub(super) fn was_read(&mut self, version: Option<TableVersion>) {
        (self.last, self.read_at) = (version, Some(Instant::now()));
    }

    /// Whether all rows are to be read, changed or not.
    pub(super) fn whole_is_due(&self) -> bool {
        let every = fault_injection::time("branch_whole", WHOLE_EVERY);
        self.read_at.is_none_or(|at| at.elapsed() >= every)
    }

    /// The current version; none if PostgreSQL does not show it.
    pub(super) async fn read(&mut self, connection: &Connection) -> Option<TableVersion> {
        if self.cannot_be_read {
            return None;
        }
        let version = TableVersion::read(connection).await;
        if let Err(error) = &version {
            // A view has no such columns, or the role may not read them (class 42): later attempts would fail, too.
            self.cannot_be_read = error.code().is_some_and(|code| code.starts_with("42"));
            tracing::info!(%error, "cannot detect whether the branches have changed, so all of them are read every time");
        }
        version.ok()
    }
}

impl TableVersion {
    /// The server looks at every row and sends one.
    ///
    /// # Errors
    /// If PostgreSQL cannot say, as of a view.
    async fn read(connection: &Connection) -> Result<Self, Error> {
        let statement = connection.prepare_cached(query::BRANCHES_VERSION).await?;
        let row = connection.query_one(&statement, &[]).await?;
        Ok(Self {
            branches: (row.try_get(0)?, row.try_get(1)?),
            providers: (row.try_get(2)?, row.try_get(3)?),
        })
    }
}

/// A branch's own secrets.
#[derive(Debug)]
pub struct BranchSecrets {
    /// `branch_delivery_configs.branch_id`.
    pub branch_id: String,
    /// `webhook_secret` of its active rows, newest first, at most [`MAX_SECRETS`].
    pub secrets: Vec<SecretString>,
}

/// The branches of one provider.
#[derive(Default)]
pub(super) struct ProviderBranches {
    by_merchant: HashMap<String, Arc<BranchRef>>,
    by_store: HashMap<String, Arc<BranchRef>>,
    /// Where there is one active branch, however many rows it has.
    only: Option<Arc<BranchRef>>,
    /// There are several.
    is_several: bool,
    /// Stores that are switched off, by merchant or store: for news of orders that they have.
    pub(super) inactive: HashMap<String, Arc<BranchRef>>,
    /// The secrets of its active rows, by branch.
    pub(super) secrets: HashMap<String, Arc<BranchSecrets>>,
    /// What requests to the provider need to know about a branch, by its id.
    pub(super) by_branch: HashMap<String, Arc<Branch>>,
    /// `delivery_providers.api_base_url`.
    pub(super) api_base_url: Option<String>,
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
    /// `settings`, unparsed JSON text.
    pub settings: Option<String>,
    /// Whether it sells: new orders and menus are for active branches only.
    pub is_active: bool,
}

impl Branch {
    /// The zone of the branch (`timeZone` of its settings), by which times are read that name none.
    ///
    /// # Errors
    /// If it is written in another way.
    pub fn zone(&self) -> Result<Option<FixedOffset>, String> {
        let settings = self.settings.as_deref().map(serde_json::from_str::<Value>);
        let said = match &settings {
            Some(Ok(settings)) => &settings[TIME_ZONE],
            _ => &Value::Null,
        };
        match said {
            Value::Null => Ok(None),
            Value::String(text) => {
                let zone = text.trim().parse().map(Some);
                zone.map_err(|_| format!("{TIME_ZONE} of the branch's settings: expected an offset from UTC such as +03:00, found {text:?}"))
            }
            other => Err(format!(
                "{TIME_ZONE} of the branch's settings: expected a text such as \"+03:00\", found {other}"
            )),
        }
    }
}

/// All rows.
#[derive(Default)]
pub(super) struct Snapshot {
    pub(super) providers: HashMap<String, ProviderBranches>,
}

impl ProviderBranches {
    /// There is an active row of this branch.
    fn note_active(&mut self, branch_ref: &Arc<BranchRef>) {
        match &self.only {
            Some(only) if only.branch_id == branch_ref.branch_id => {}
            None if !self.is_several => self.only = Some(Arc::clone(branch_ref)),
            _ => (self.only, self.is_several) = (None, true),
        }
    }
}

impl Snapshot {
    /// Reads these rows.
    ///
    /// # Errors
    /// If a column has another type.
    pub(super) async fn of(rows: &[Row]) -> Result<Self, tokio_postgres::Error> {
        let mut reading = RowReader::default();
        for rows in rows.chunks(ROWS_AT_A_TIME) {
            rows.iter().try_for_each(|row| reading.add(row))?;
            tokio::task::yield_now().await;
        }
        Ok(reading.end())
    }

    /// The branch of a store; of the only active one where none is named.
    pub(super) fn find(&self, provider: &str, store: Option<&str>) -> Option<&BranchRef> {
        let of_provider = self.providers.get(provider)?;
        match store {
            Some(store) => of_provider
                .by_merchant
                .get(store)
                .or_else(|| of_provider.by_store.get(store))
                .map(|branch_ref| &**branch_ref),
            None => of_provider.only.as_deref(),
        }
    }
}

/// Rows, as far as they were read.
#[derive(Default)]
struct RowReader {
    snapshot: Snapshot,
    /// By provider and branch, those of each row.
    secrets: HashMap<(String, String), Vec<Vec<SecretString>>>,
}

impl RowReader {
    fn add(&mut self, row: &Row) -> Result<(), tokio_postgres::Error> {
        let branch_ref = Arc::new(BranchRef {
            branch_id: row.try_get(1)?,
            company_id: row.try_get(2)?,
            auto_accept: row.try_get("auto_accept_orders")?,
        });
        let provider: String = row.try_get(0)?;
        let is_active: bool = row.try_get("is_active")?;
        if is_active && let Some(of_row) = row.try_get::<_, Option<String>>("webhook_secret")? {
            let of_branch = self.secrets.entry((provider.clone(), branch_ref.branch_id.clone()));
            of_branch.or_default().push(split(&of_row));
        }
        let of_provider = self.snapshot.providers.entry(provider).or_default();
        let branch = Branch {
            branch_id: branch_ref.branch_id.clone(),
            merchant_id: row.try_get(3)?,
            store_id: row.try_get(4)?,
            settings: row.try_get("settings")?,
            is_active,
        };
        of_provider
            .by_branch
            .entry(branch_ref.branch_id.clone())
            .or_insert_with(|| Arc::new(branch));
        of_provider.api_base_url = row.try_get("api_base_url")?;
        let [merchant, store] = [row.try_get::<_, Option<String>>(3)?, row.try_get(4)?];
        if !is_active {
            for store in [merchant, store].into_iter().flatten() {
                of_provider
                    .inactive
                    .entry(store)
                    .or_insert_with(|| Arc::clone(&branch_ref));
            }
            return Ok(());
        }
        of_provider.note_active(&branch_ref);
        if let Some(merchant) = merchant {
            of_provider
                .by_merchant
                .entry(merchant)
                .or_insert_with(|| Arc::clone(&branch_ref));
        }
        if let Some(store) = store {
            of_provider.by_store.entry(store).or_insert(branch_ref);
        }
        Ok(())
    }

    fn end(mut self) -> Snapshot {
        for ((provider, branch_id), of_rows) in self.secrets {
            let secrets = newest_first(of_rows);
            let of_branch = BranchSecrets { branch_id, secrets };
            let of_provider = self.snapshot.providers.entry(provider).or_default();
            of_provider
                .secrets
                .insert(of_branch.branch_id.clone(), Arc::new(of_branch));
        }
        self.snapshot
    }
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
    fn the_zone_of_a_branch_is_an_offset() {
        let zone = |settings: &str| {
            let branch = Branch {
                settings: Some(settings.to_owned()),
                ..Branch::default()
            };
            branch.zone().map(|zone| zone.map(|zone| zone.local_minus_utc()))
        };
        assert_eq!(Branch::default().zone(), Ok(None));
        for (settings, seconds) in [
            ("{}", None),
            (r#"{"timeZone": null}"#, None),
            (r#"{"timeZone": "-06:00"}"#, Some(-6 * 3600)),
            (r#"{"timeZone": " +05:30 "}"#, Some(5 * 3600 + 1800)),
            ("[]", None),
        ] {
            assert_eq!(zone(settings), Ok(seconds), "{settings}");
        }
        for settings in [r#"{"timeZone": "America/Bogota"}"#, r#"{"timeZone": -5}"#] {
            assert!(zone(settings).is_err(), "{settings}");
        }
    }

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
