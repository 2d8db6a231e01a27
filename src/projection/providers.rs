//! The ids of `delivery_providers`, which every row that is written names.

use std::{collections::HashMap, sync::Arc};

use anyhow::Context as _;
use uuid::Uuid;

use crate::database::{Connection, query};

/// Ids by code.
#[derive(Debug, Default)]
pub struct Providers {
    ids: HashMap<String, String>,
    /// Codes that must have one.
    enabled: Vec<Arc<str>>,
}

impl Providers {
    /// Makes the missing rows of these providers and reads all.
    ///
    /// # Errors
    /// Where PostgreSQL is away or refuses.
    pub async fn load(connection: &Connection, enabled: &[(Arc<str>, String)]) -> anyhow::Result<Self> {
        let mut ids = read(connection).await?;
        let missing = |(code, _): &&(Arc<str>, String)| !ids.contains_key(&**code);
        let missing: Vec<_> = enabled.iter().filter(missing).collect();
        // The right to write to the table is needed only where a row is missing.
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
            enabled: enabled.iter().map(|(code, _)| Arc::clone(code)).collect(),
        })
    }

    /// The id of a provider.
    pub fn id(&self, code: &str) -> Option<&str> {
        self.ids.get(code).map(String::as_str)
    }

    /// Whether a provider of the log has no row though it should: the table must be read again.
    pub fn lacks(&self, code: &str) -> bool {
        !self.ids.contains_key(code) && self.enabled.iter().any(|one| &**one == code)
    }
}

async fn read(connection: &Connection) -> anyhow::Result<HashMap<String, String>> {
    let statement = connection.prepare_cached(query::PROVIDERS).await?;
    let rows = connection.query(&statement, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
