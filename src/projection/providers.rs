//! The ids of `delivery_providers`, which every row that is written names.

use std::{collections::HashMap, sync::Arc};

use deadpool_postgres::Object;
use uuid::Uuid;

use crate::database::query;

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
    pub async fn load(connection: &Object, enabled: &[(Arc<str>, String)]) -> anyhow::Result<Self> {
        let statement = connection.prepare_cached(query::ENSURE_PROVIDER).await?;
        for (code, name) in enabled {
            let id = Uuid::new_v4().to_string();
            if connection.execute(&statement, &[&id, &&**code, name]).await? > 0 {
                tracing::info!(provider = &**code, "delivery_providers had no row for it; made one");
            }
        }
        let rows = connection
            .query(&connection.prepare_cached(query::PROVIDERS).await?, &[])
            .await?;
        Ok(Self {
            ids: rows
                .iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
                .collect::<Result<_, tokio_postgres::Error>>()?,
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
