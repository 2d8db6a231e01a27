//! The enabled providers: each with its file, secrets, allowed addresses, and the connection to its interface
//! ([`remote`](crate::remote)).

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::{
    provider::{KeptHeaders, Provider},
    remote::Remote,
    verification::{Keyring, Scheme},
};

pub mod allow_list;
mod measured;
mod not_enabled;
mod observation;

pub use self::{allow_list::AllowList, measured::ProviderMetrics, not_enabled::NotEnabled, observation::Observation};

/// A provider that is switched on, with what this installation knows about it.
pub struct Enabled {
    /// The provider.
    pub provider: Box<dyn Provider>,
    /// Its name, cheap to clone.
    pub name: Arc<str>,
    /// How its webhooks are verified.
    pub scheme: Scheme,
    /// The headers that are kept.
    pub kept_headers: KeptHeaders,
    /// Whether the signature is kept.
    pub keep_signature: bool,
    /// Its secrets.
    pub keys: Keyring,
    /// Whether branches have secrets of their own.
    pub branch_secrets: bool,
    /// Addresses that may call; empty = all.
    pub allow_list: AllowList,
    /// How long the answer to a webhook waits for its outcome; none: not at all.
    pub response_wait: Option<Duration>,
    /// Its interface; none if it gets no requests.
    pub outbound: Option<Arc<Remote>>,
    /// Whether test orders go to the backend like any other.
    pub forward_test_orders: bool,
    /// Until when its signatures are observed; none if they are insisted on.
    pub observation: Option<Observation>,
    /// The metrics of its webhooks.
    pub measured: ProviderMetrics,
}

impl Enabled {
    /// Whether the operator named the address as one of the provider's.
    pub fn lists(&self, client: std::net::IpAddr) -> bool {
        !self.allow_list.is_open() && self.allow_list.allows(client)
    }
}

/// The providers that are switched on.
#[derive(Default)]
pub struct Registry {
    enabled: Vec<Enabled>,
    /// Places in `enabled`, by name.
    by_name: HashMap<Arc<str>, usize>,
}

impl Registry {
    /// Of these.
    pub fn new(enabled: Vec<Enabled>) -> Self {
        let names = enabled.iter().map(|one| Arc::clone(&one.name));
        let by_name = names.enumerate().map(|(at, name)| (name, at)).collect();
        Self { enabled, by_name }
    }

    /// By the name in the URL.
    pub fn get(&self, name: &str) -> Option<&Enabled> {
        self.enabled.get(*self.by_name.get(name)?)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Enabled> {
        self.enabled.iter()
    }
}
