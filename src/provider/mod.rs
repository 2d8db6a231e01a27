//! Providers: how each one signs, what its fields mean, and how it wants to be answered.
//!
//! A [`Provider`] is pure: no I/O, no clock. It says how it signs, [`crate::verification`] verifies; [`headers`] says what is kept of a request beside its body, [`admission`] is
//! what the intake gets, [`fact`] what the transformation gets. A provider is a file ([`declarative`]); [`catalogue`] has all
//! that this installation knows. Which branch an order belongs to is left to
//! [`crate::transform`].

use std::{collections::HashMap, sync::Arc};

use crate::{
    event::{Envelope, Recorded},
    push::remote::Remote,
    verification::{Keyring, Scheme, Unverified, Verified},
};

pub mod headers;
pub mod admission;
pub mod fact;
pub mod declarative;
pub mod catalogue;
mod measured;

pub use admission::{Admission, Refusal};
pub use catalogue::Catalogue;
pub use declarative::response::{Said, Told};
pub use fact::{Content, Fact, Posted, StoreOfDocument, Stores, TransformError};
pub use headers::{KeptHeaders, is_credential, kept_header};
pub use measured::Measured;

/// One delivery platform.
pub trait Provider: Send + Sync {
    /// Its name in URLs, subjects and `delivery_providers.code`: lower case, `[a-z0-9-]`.
    fn name(&self) -> &str;

    /// Its name as people write it.
    fn display_name(&self) -> &str;

    /// How it signs.
    fn scheme(&self) -> &Scheme;

    /// Reads what the intake must know of a request that was verified.
    ///
    /// # Errors
    /// Why it is refused; nothing of it may be kept then.
    fn read(&self, request: &Verified<'_>) -> Result<Admission, Refusal>;

    /// The store that a request names, as [`Self::transform`] will read it: whose secret it may be signed with. Nothing
    /// is known of the request yet.
    fn store_ref(&self, request: &Unverified<'_>) -> Option<String> {
        sent_merchant(request)
    }

    /// What a webhook on the log means.
    ///
    /// # Errors
    /// Where it can never be understood; it will not be tried again.
    fn transform(&self, received: &Recorded) -> Result<Fact, TransformError>;

    /// What a webhook means whose order was fetched; `document` is what the provider gave.
    ///
    /// # Errors
    /// As [`Self::transform`].
    fn transform_fetched(&self, received: &Recorded, document: &[u8]) -> Result<Fact, TransformError>;

    /// Whether it calls this path below `/api/webhooks/{provider}`; empty where it calls that itself.
    fn knows_path(&self, below: &str) -> bool {
        below.is_empty()
    }

    /// What it is answered, in its own format; none where the hub's own is as good. `body` is the webhook's, as far as it
    /// was read.
    fn answer(&self, _said: Said<'_>, _request_id: &str, _body: &[u8]) -> Option<Told> {
        None
    }
}

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
    pub allow_list: crate::intake::allow_list::AllowList,
    /// How it is spoken to; none where it is told nothing.
    pub outbound: Option<Arc<Remote>>,
    /// Whether test orders go to the backend like any other.
    pub forward_test_orders: bool,
    /// What is counted for each of its webhooks.
    pub measured: Measured,
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

    /// By name as it stands in the URL.
    pub fn get(&self, name: &str) -> Option<&Enabled> {
        self.enabled.get(*self.by_name.get(name)?)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Enabled> {
        self.enabled.iter()
    }
}

/// The merchant that a webhook names: the header that every provider of the seed design may send.
pub const MERCHANT_HEADER: &str = "x-merchant-id";

/// The merchant header of a request.
pub fn sent_merchant(request: &Unverified<'_>) -> Option<String> {
    let value = kept_header(request.headers(), MERCHANT_HEADER)?;
    let value = value.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// The merchant header of a recorded webhook.
pub fn merchant_header(envelope: &Envelope) -> Option<&str> {
    let value = envelope
        .request
        .as_ref()?
        .headers
        .get(MERCHANT_HEADER)?
        .as_str()?
        .trim();
    (!value.is_empty()).then_some(value)
}
