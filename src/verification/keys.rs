//! Secrets: by name, several at a time, newest first, and never in a log.

use std::{collections::BTreeMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};

use crate::event::{Principal, SecretOrigin};

/// Most secrets that one name may have at a time; a rotation needs two.
pub const MAX_SECRETS: usize = 8;
/// The name of the secret that a step takes where it names none: `<PROVIDER>_WEBHOOK_SECRET`.
pub const WEBHOOK_SECRET: &str = "webhook_secret";

/// The source of a provider's own secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnSecretOrigin {
    /// An environment variable.
    Env,
    /// The file that a variable names.
    File,
}

impl From<OwnSecretOrigin> for SecretOrigin {
    fn from(own: OwnSecretOrigin) -> Self {
        match own {
            OwnSecretOrigin::Env => Self::Env,
            OwnSecretOrigin::File => Self::File,
        }
    }
}

/// One secret.
#[derive(Clone)]
pub(super) struct Secret {
    pub(super) value: SecretString,
    pub(super) origin: SecretOrigin,
    pub(super) index: usize,
    /// For whom it speaks.
    pub(super) principal: Principal,
}

/// A provider's secrets by name, newest first.
#[derive(Clone, Default)]
pub struct Keys(BTreeMap<String, Vec<Secret>>);

impl Keys {
    /// None.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// With these of the provider's own of a name as well, newest first, tried after those that are there. Empty ones are
    /// left out, and what is more than [`MAX_SECRETS`] of one origin.
    #[must_use]
    pub fn with(self, name: &str, own: OwnSecretOrigin, secrets: &[SecretString]) -> Self {
        self.with_all(name, own.into(), &Principal::provider(), secrets)
    }

    /// The same, with those of one branch: what they prove may act for that branch alone.
    #[must_use]
    pub fn with_branch(self, name: &str, branch: &str, secrets: &[SecretString]) -> Self {
        self.with_all(name, SecretOrigin::Branch, &Principal::branch_alone(branch), secrets)
    }

    fn with_all(mut self, name: &str, origin: SecretOrigin, principal: &Principal, secrets: &[SecretString]) -> Self {
        let secrets = secrets
            .iter()
            .enumerate()
            .filter(|(_, value)| !value.expose_secret().is_empty())
            .take(MAX_SECRETS);
        self.0
            .entry(name.to_owned())
            .or_default()
            .extend(secrets.map(|(index, value)| Secret {
                value: value.clone(),
                origin,
                index,
                principal: principal.clone(),
            }));
        self
    }

    /// The only secret of a provider that has one; for tests, `dev` and `send`.
    pub fn single(secret: &str) -> Self {
        Self::new().with(WEBHOOK_SECRET, OwnSecretOrigin::Env, &[SecretString::from(secret)])
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    pub(super) fn of(&self, name: &str) -> &[Secret] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0.iter().map(|(name, secrets)| (name, secrets.len()));
        f.debug_map().entries(counts).finish()
    }
}

/// The secrets of a provider that is switched on; they can be replaced while requests are verified.
pub struct Keyring(ArcSwap<Keys>);

impl Keyring {
    /// Of these.
    pub fn new(keys: Keys) -> Self {
        Self(ArcSwap::from_pointee(keys))
    }

    /// Those of now.
    pub fn current(&self) -> Arc<Keys> {
        self.0.load_full()
    }

    /// From here on these.
    pub fn replace(&self, keys: Keys) {
        self.0.store(Arc::new(keys));
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)
    }
}
