//! Builds the enabled providers from the configuration.

use std::sync::Arc;

use chrono::Utc;

use crate::{
    config::{self, Config},
    provider::{KeptHeaders, Provider, declarative::Declarative},
    registry::{Enabled, Observation, ProviderMetrics, Registry, allow_list::AllowList},
    remote::Remote,
    verification::Keyring,
};

/// All of them.
///
/// # Errors
/// If the client for a provider's interface cannot be made.
pub(super) fn registry(config: &Config) -> anyhow::Result<Registry> {
    let enable = |settings: &config::ProviderConfig| {
        if settings.scheme.is_none() {
            tracing::warn!(
                provider = &*settings.name,
                "nothing is verified: anyone can send webhooks as this provider"
            );
        }
        let provider: Box<dyn Provider> = Box::new(Declarative::new(Arc::clone(&settings.file), settings.currency));
        let name: Arc<str> = Arc::from(&*settings.name);
        Ok(Enabled {
            outbound: remote(&name, settings, config.breaker)?,
            observation: settings
                .observe_until
                .map(|until| Observation::new(&name, until, Utc::now())),
            measured: ProviderMetrics::of(&name),
            name,
            scheme: settings.scheme.clone(),
            kept_headers: KeptHeaders::new(settings.file.headers.iter().map(String::as_str), &settings.scheme),
            keep_signature: settings.file.webhook.keep_signature,
            provider,
            keys: Keyring::new(settings.secrets.keys()),
            branch_secrets: settings.branch_secrets,
            allow_list: AllowList::new(settings.allow_list.clone()),
            response_wait: settings.response_wait,
            forward_test_orders: settings.forward_test_orders,
        })
    };
    let enabled: anyhow::Result<_> = config.providers.iter().map(enable).collect();
    Ok(Registry::new(enabled?))
}

/// A provider's interface, where the hub can speak to it.
fn remote(
    name: &Arc<str>,
    settings: &config::ProviderConfig,
    breaker: config::Breaker,
) -> anyhow::Result<Option<Arc<Remote>>> {
    let Some(outbound) = settings.outbound.clone() else {
        return Ok(None);
    };
    Ok(Some(Arc::new(Remote::new(Arc::clone(name), outbound, breaker)?)))
}
