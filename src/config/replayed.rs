//! The providers with webhooks that `replay` reads: all that this installation knows, enabled or not. No secret is read for them.

use std::{path::Path, sync::Arc, time::Duration};

use super::{ConfigError, Environment, catalogue, currency, outbound, prefix, provider_times::order_ttl};
use crate::{
    order::money::Currency,
    provider::{Catalogue, declarative::file::File, outbound::Spec},
};

/// A provider, as far as its webhooks are read by it.
#[derive(Debug, Clone)]
pub struct ReplayedProvider {
    /// Its file.
    pub file: Arc<File>,
    /// `<PROVIDER>_CURRENCY`; an error if it is missing and the file names no currency.
    pub currency: Result<Option<Currency>, ConfigError>,
    /// `<PROVIDER>_FORWARD_TEST_ORDERS`.
    pub forward_test_orders: bool,
    /// `<PROVIDER>_ORDER_TTL`; none: orders of any age are forwarded.
    pub order_ttl: Option<Duration>,
    /// The tables for requests to the provider; none if the hub has no credentials for it and it needs none to read its webhooks.
    pub spec: Option<Spec>,
}

impl ReplayedProvider {
    /// All of them, with the files of `folder`, or of `PROVIDERS_DIR` if none is given.
    ///
    /// # Errors
    /// If a file or a variable cannot be used.
    pub fn all(env: &Environment, folder: Option<&Path>) -> Result<Vec<Self>, ConfigError> {
        let known = match folder {
            Some(folder) => Catalogue::load(Some(folder))
                .map_err(|error| ConfigError::new("--providers-dir", error.to_string().replace('\n', "; ")))?,
            None => catalogue(env)?,
        };
        known.iter().map(|(_, known)| Self::of(env, known.file())).collect()
    }

    fn of(env: &Environment, file: &Arc<File>) -> Result<Self, ConfigError> {
        let name = &*file.identity.name;
        let prefix = prefix(name);
        let of_file = file.outbound.as_ref();
        let spec = match outbound::of_provider(env, name, &prefix, of_file) {
            Ok(None) => None,
            Ok(Some(settings)) => Some(settings.spec),
            // Without credentials the hub does not start where orders are fetched, so a log with such orders had them.
            Err(_) => of_file.cloned(),
        };
        Ok(Self {
            file: Arc::clone(file),
            currency: currency(env, file),
            forward_test_orders: env.flag(&format!("{prefix}_FORWARD_TEST_ORDERS"), false)?,
            order_ttl: order_ttl(env, &prefix)?,
            spec,
        })
    }
}
