//! The ids of `delivery_providers`, to which the rows of the platform's tables refer.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use uuid::Uuid;

use crate::database::{Connection, query};

/// How often the table is read again for a provider that has no row.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Ids by code.
#[derive(Debug)]
pub struct Providers {
    ids: HashMap<String, String>,
    read_at: Instant,
}

impl Providers {
    /// Without any: the tables of the hub's own name none.
    pub fn none() -> Self {
        Self {
            ids: HashMap::new(),
            read_at: Instant::now(),
        }
    }

    /// Makes the missing rows of these providers and reads all.
    ///
    /// # Errors
    /// If PostgreSQL is away or refuses.
    pub async fn load(connection: &Connection, enabled: &[(Arc<str>, String)]) -> anyhow::Result<Self> {
        let mut ids = read(connection).await?;
        let missing = |(code, _): &&(Arc<str>, String)| !ids.contains_key(&**code);
        let missing: Vec<_> = enabled.iter().filter(missing).collect();
        // The right to insert is needed only if a row is missing.
        if !missing.is_empty() {
            let statement = connection.prepare_cached(query::ENSURE_PROVIDER).await?;
            for (code, name) in missing {
                let id = Uuid::new_v4().to_string();
                let made = connection.execute(&statement, &[&id, &&**code, name]).await;
                let made =
                    made.with_context(|| format!("delivery_providers has no row for {code}, and it cannot be made"))?;
                if made > 0 {
                    tracing::info!(provider = &**code, "delivery_providers had no row for it; made one");
                }
            }
            ids = read(connection).await?;
        }
        Ok(Self {
            ids,
            read_at: Instant::now(),
        })
    }

    /// The id of a provider.
    pub fn id(&self, code: &str) -> Option<&str> {
        self.ids.get(code).map(String::as_str)
    }

    /// Whether a provider of the log has no row. It is enabled on another instance then, or was once.
    pub fn lacks(&self, code: &str) -> bool {
        !self.ids.contains_key(code)
    }

    /// Whether it is time to read the table again for a provider that has no row.
    pub fn may_be_outdated(&self) -> bool {
        self.read_at.elapsed() >= READ_AGAIN
    }
}

async fn read(connection: &Connection) -> anyhow::Result<HashMap<String, String>> {
    let statement = connection.prepare_cached(query::PROVIDERS).await?;
    let rows = connection.query(&statement, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
