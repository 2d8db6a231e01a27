//! Providers: how each one signs, what its fields mean, and how it is answered.
//!
//! A [`Provider`] is pure: no I/O, no clock. It says how it signs, and [`crate::verification`] verifies. [`headers`] says
//! which headers are kept, [`admission`] is what the intake gets, [`fact`] what the transformation gets. A provider is a file
//! ([`declarative`]); [`catalogue`] has all that this installation knows. [`crate::transform`] decides which branch an order
//! belongs to.

use chrono::FixedOffset;

use crate::{
    event::{Envelope, Recorded},
    verification::{Scheme, Unverified, Verified},
};

pub mod headers;
pub mod outbound;
pub mod admission;
pub mod fact;
pub mod declarative;
pub mod catalogue;

pub use admission::{Admission, AdmissionRefusal};
pub use catalogue::Catalogue;
pub use declarative::response::{FormattedAnswer, WebhookAnswer};
pub use fact::{Content, Fact, Posted, StoreOfDocument, Stores, TransformError};
pub use headers::{KeptHeaders, is_credential, kept_header};

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
    fn read(&self, request: &Verified<'_>) -> Result<Admission, AdmissionRefusal>;

    /// The store that a request names, as [`Self::transform`] will read it: whose secret it may be signed with. Nothing
    /// is known of the request yet.
    fn store_ref(&self, request: &Unverified<'_>) -> Option<String> {
        sent_merchant(request)
    }

    /// The meaning of a webhook on the log.
    ///
    /// # Errors
    /// If it can never be understood; it will not be tried again.
    fn transform(&self, received: &Recorded) -> Result<Fact, TransformError> {
        self.transform_in(received, None, None)
    }

    /// The meaning of a webhook with a fetched order; `document` is the provider's answer.
    ///
    /// # Errors
    /// The same as [`Self::transform`].
    fn transform_fetched(&self, received: &Recorded, document: &[u8]) -> Result<Fact, TransformError> {
        self.transform_in(received, Some(document), None)
    }

    /// The meaning of a webhook, with the order that was fetched for it if there is one, for a branch with this zone: that of times
    /// that name none.
    ///
    /// # Errors
    /// The same as [`Self::transform`].
    fn transform_in(
        &self,
        received: &Recorded,
        document: Option<&[u8]>,
        zone: Option<FixedOffset>,
    ) -> Result<Fact, TransformError>;

    /// Whether it calls this path below `/api/webhooks/{provider}`; empty if it calls that itself.
    fn knows_path(&self, below: &str) -> bool {
        below.is_empty()
    }

    /// What it is answered, in its own format; none if the hub's own is as good. `body` is the webhook's, as far as it
    /// was read.
    fn answer(&self, _said: WebhookAnswer<'_>, _request_id: &str, _body: &[u8]) -> Option<FormattedAnswer> {
        None
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
