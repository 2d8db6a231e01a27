//! Reads secrets again when their files change, and on SIGHUP.
//!
//! All files of a provider are applied together or not at all, so that a half-written or invalid file changes nothing; its
//! error is logged once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    config::{ConfigError, ProviderConfig, Secrets},
    process::look_again::look_again,
    registry::Registry,
};

/// Interval of the checks. A rotation leaves both secrets in place for longer than that.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Reads the secrets again.
pub struct Reload {
    registry: Arc<Registry>,
    providers: Vec<ProviderConfig>,
    /// The last error, by provider.
    faults: HashMap<Arc<str>, ConfigError>,
}

impl Reload {
    /// The providers, with the secrets of the registry.
    pub fn new(registry: Arc<Registry>, providers: Vec<ProviderConfig>) -> Self {
        Self {
            registry,
            providers,
            faults: HashMap::new(),
        }
    }

    /// Looks after the secrets until it is stopped.
    ///
    /// # Errors
    /// If the process cannot listen for SIGHUP.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        look_again(self, Self::look, LOOK_AGAIN, stop).await
    }

    fn look(&mut self, asked: bool) {
        for provider in &mut self.providers {
            if !provider.secrets.has_files() {
                if asked {
                    tracing::info!(
                        provider = &*provider.name,
                        "secrets come from the environment; only a restart changes them"
                    );
                }
                continue;
            }
            match provider.secrets.read_again(&provider.scheme) {
                Ok((secrets, changed)) => {
                    self.faults.remove(&provider.name);
                    if changed.is_empty() {
                        if asked {
                            tracing::info!(provider = &*provider.name, "secrets are unchanged");
                        }
                        continue;
                    }
                    take(&self.registry, provider, secrets);
                    let variables = changed.into_iter().collect::<Vec<_>>().join(", ");
                    tracing::info!(provider = &*provider.name, variables, "secrets were read again");
                }
                Err(fault) => {
                    if asked || self.faults.get(&provider.name) != Some(&fault) {
                        tracing::error!(
                            provider = &*provider.name,
                            %fault,
                            "secrets cannot be read again; those from before stay"
                        );
                        self.faults.insert(Arc::clone(&provider.name), fault);
                    }
                }
            }
        }
    }
}

fn take(registry: &Registry, provider: &mut ProviderConfig, secrets: Secrets) {
    if let Some(enabled) = registry.get(&provider.name) {
        enabled.keys.replace(secrets.keys());
    }
    provider.secrets = secrets;
}
