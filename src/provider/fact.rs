//! What a webhook means: the result of reading it by the provider's file.

use chrono::{DateTime, Utc};

use crate::{
    json::fault::{Fault, counted},
    order::{
        body::{self, BodySource, BranchRef},
        flag::Flag,
        model::{Amendment, Order, StatusChange},
        sanitise::clean_json,
    },
};

/// The meaning of a webhook, in the hub's own format.
#[derive(Debug)]
pub struct Fact {
    /// The provider's own time of it, where it sent one.
    pub timestamp: Option<DateTime<Utc>>,
    /// The store that it is for: the merchant header's, else the payload's. [`Self::stands_for`] corrects it.
    pub store_ref: Option<String>,
    /// All stores that it names, for a principal that may act for one of them only.
    pub stores: Stores,
    /// Whether it is about a test order.
    pub is_test: bool,
    /// Whether the word that says what it is is one that the provider's file does not know, and is ignored for that.
    pub is_unknown: bool,
    /// Whether it has a time that names no zone, which the branch's zone may decide.
    pub has_local_times: bool,
    /// The news.
    pub content: Content,
}

/// The stores that a webhook names beside its header: each is a claim of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stores {
    /// The webhook itself, whatever its merchant header says.
    pub of_payload: Option<String>,
    /// The document that was fetched for it.
    pub of_document: StoreOfDocument,
}

impl Stores {
    /// The stores that are named elsewhere than in the header, those of the webhook itself first.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        let of_document = match &self.of_document {
            StoreOfDocument::Named(store) => Some(&**store),
            StoreOfDocument::NotFetched | StoreOfDocument::Unnamed => None,
        };
        self.of_payload.as_deref().into_iter().chain(of_document)
    }
}

/// The branch that a document names for its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum StoreOfDocument {
    /// None was fetched; the webhook says it all.
    #[default]
    NotFetched,
    /// This store's.
    Named(String),
    /// It does not say, or the provider's file does not know where it does.
    Unnamed,
}

/// The body for the backend.
#[derive(Debug)]
pub struct Posted {
    /// The body, byte for byte.
    pub body: Vec<u8>,
    /// Where texts were cleaned or cut (see [`crate::order::sanitise`]), as JSON pointers into it.
    pub changed: Vec<String>,
}

impl Fact {
    /// It is for this store, whatever the merchant header says.
    pub fn stands_for(&mut self, store: &str) {
        self.store_ref = Some(store.to_owned());
        if let Content::NewOrder(order) = &mut self.content {
            order.store_ref.clone_from(&self.store_ref);
        }
    }

    /// What is posted of it; none if it is no news for the backend. The stage posts this, and `providers try` shows it.
    ///
    /// # Errors
    /// The same as [`body::new_order`].
    pub fn posted(&self, branch: &BranchRef, origin: BodySource<'_>) -> Option<serde_json::Result<Posted>> {
        let made = match &self.content {
            Content::NewOrder(order) => body::new_order(order, branch, origin),
            Content::StatusChange(change) => body::status_change(change, branch, origin),
            Content::Amendment(amendment) => body::amendment(amendment, branch, origin),
            Content::Ignored(_) | Content::Elsewhere => return None,
        };
        Some(made.map(|made| {
            let (body, changed) = clean_json(made);
            Posted { body, changed }
        }))
    }

    /// Its flags.
    pub fn flags(&self) -> &[Flag] {
        match &self.content {
            Content::NewOrder(order) => &order.flags,
            Content::StatusChange(change) => &change.flags,
            Content::Amendment(amendment) => &amendment.flags,
            Content::Ignored(_) | Content::Elsewhere => &[],
        }
    }
}

/// The news of a webhook.
#[derive(Debug)]
pub enum Content {
    /// There is a new order.
    NewOrder(Box<Order>),
    /// Something happened to one that exists.
    StatusChange(Box<StatusChange>),
    /// Other lines or amounts of one that exists.
    Amendment(Box<Amendment>),
    /// Nothing that the backend wants, with the provider's word for it.
    Ignored(Option<String>),
    /// The webhook is thin: the order is at the provider and has to be fetched.
    Elsewhere,
}

/// Why a webhook can never be understood.
#[derive(Debug, thiserror::Error)]
pub enum TransformError {
    /// Not JSON; cannot come from the intake, but whatever is on the log must end.
    #[error("the payload is not JSON")]
    NotJson,
    /// Fields are missing or wrong: every fault, each with its place.
    #[error("the payload has {}, the first at {}: {}", counted(.0), .0[0].pointer, .0[0].message)]
    Faults(Vec<Fault>),
}
