//! A provider's file, key by key as it is written. `docs/providers.md` explains each key.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, de};

pub use super::tables::{
    Address, AmendmentTable, Customer, Discount, FreeLines, Lines, Modifiers, Names, OrderHead, OrderTable, Payment,
    Pricing, RefundTable, Share, TipTable,
};
use super::{
    path::PathTemplate,
    pick::{Pick, Source, Sources, Test, Time},
    response::Responses,
    words::Words,
};
use crate::{
    event::{ORDER_AMENDED, ORDER_CANCELLED, ORDER_CREATED},
    json::pointer::Pointer,
    order::{
        model::{AmendmentKind, CourierState, Fulfillment, Party, TaxMode, TipReceiver},
        status::Status,
    },
    provider::outbound::Spec,
    verification::Scheme,
};

/// A provider's file.
#[derive(Debug)]
pub struct File {
    /// The provider's names.
    pub identity: FileIdentity,
    /// `[verification]`: how its webhooks are verified.
    pub verification: Scheme,
    /// `[webhook]`: what the intake must know.
    pub webhook: Webhook,
    /// `[events]`: what a webhook is.
    pub events: Events,
    /// `[order]`: a new order.
    pub order: OrderTable,
    /// `[status]`: a change of one.
    pub status: StatusTable,
    /// `[courier]`: who drives, on new orders and on changes.
    pub courier: Option<Courier>,
    /// `[amendment]`: a change of what is cooked or charged.
    pub amendment: Option<AmendmentTable>,
    /// `[response]`: what it is answered.
    pub response: Responses,
    /// `[outbound]`, `[fetch]` and `[reconcile]`: how it is spoken to.
    pub outbound: Option<Spec>,
    /// `[page]`: what people should know.
    pub page: Option<PageTable>,
    /// Headers that it reads, in small letters.
    pub headers: BTreeSet<String>,
}

/// The keys before the first table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileIdentity {
    /// Name in URLs, subjects and tables.
    pub name: String,
    /// Name as people write it.
    pub display_name: String,
    /// How sure the file is of the provider's format.
    pub sure: Sure,
    /// Its scope and its sources, in one sentence.
    pub about: String,
}

/// How sure a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sure {
    /// By a specification of this project's own users.
    Agreed,
    /// By the provider's own documentation.
    Documented,
    /// By a payload that was really sent.
    RealPayload,
    /// By what other implementers wrote.
    OthersCode,
    /// By the likeness to another format; nothing of it was seen.
    Assumed,
}

impl Sure {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agreed => "agreed",
            Self::Documented => "documented",
            Self::RealPayload => "real payload",
            Self::OthersCode => "others' code",
            Self::Assumed => "assumed",
        }
    }
}

/// `[webhook]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where the document is that pointers begin at, where that is not the body.
    #[serde(default)]
    pub document: Option<Document>,
    /// Paths below `/api/webhooks/NAME` that the provider calls, with `{names}` for their parts.
    #[serde(default)]
    pub paths: Vec<PathTemplate>,
    /// The order's id.
    pub order_id: Sources,
    /// The provider's own id of the message: a repeat has the same.
    pub event_id: Option<Sources>,
    /// The store.
    pub store: Option<Pick>,
    /// When it happened, by the provider's clock.
    pub time: Option<Time>,
    /// What is neither read nor kept beside the order: signatures and other means of the transport.
    #[serde(default)]
    pub leave_out: Vec<Source>,
    /// Whether the signature is kept beside the webhook (`webhook_logs.signature`).
    #[serde(default)]
    pub keep_signature: bool,
    /// A test order where any of these is so.
    #[serde(default)]
    pub test: Vec<Test>,
}

/// Where the document is.
#[derive(Debug, Clone)]
pub enum Document {
    /// A part of the body: the first of these that is there.
    Part(Vec<Pointer>),
    /// In a text of the body that is JSON itself, and there the first of these parts.
    Text(Pointer, Vec<Pointer>),
    /// Somewhere else: it is fetched (`[fetch]`), for webhooks of these kinds; and there the first of these parts.
    Fetched(Vec<Kind>, Vec<Pointer>),
}

impl Document {
    /// The parts at the first of which pointers begin; empty where they begin at the whole.
    pub fn parts(&self) -> &[Pointer] {
        match self {
            Self::Part(parts) | Self::Text(_, parts) | Self::Fetched(_, parts) => parts,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentTable {
    #[serde(default)]
    part: Vec<Pointer>,
    text: Option<Pointer>,
    fetched: Option<Vec<Kind>>,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let DocumentTable { part, text, fetched } = DocumentTable::deserialize(deserializer)?;
        match (text, fetched) {
            (None, None) if part.is_empty() => Err(de::Error::custom("expected part, text or fetched")),
            (None, None) => Ok(Self::Part(part)),
            (Some(text), None) => Ok(Self::Text(text, part)),
            (None, Some(kinds)) => Ok(Self::Fetched(kinds, part)),
            (Some(_), Some(_)) => Err(de::Error::custom("expected either text or fetched")),
        }
    }
}

/// The type of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A new order.
    OrderCreated,
    /// Its status changed.
    OrderStatusUpdated,
    /// It was called off.
    OrderCancelled,
    /// What is cooked or charged changed.
    OrderAmended,
    /// Something about its courier.
    CourierUpdated,
    /// Nothing that the backend wants: recorded, answered, and no more.
    Ignored,
}

impl Kind {
    /// As the event's `webhookType`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OrderCreated => ORDER_CREATED,
            Self::OrderStatusUpdated => "order_status_updated",
            Self::OrderCancelled => ORDER_CANCELLED,
            Self::OrderAmended => ORDER_AMENDED,
            Self::CourierUpdated => "courier_updated",
            Self::Ignored => "ignored",
        }
    }

    /// Reads it back.
    pub fn from_word(word: &str) -> Option<Self> {
        [
            Self::OrderCreated,
            Self::OrderStatusUpdated,
            Self::OrderCancelled,
            Self::OrderAmended,
            Self::CourierUpdated,
            Self::Ignored,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == word)
    }
}

/// `[events]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// Shapes by which a webhook is known; they are looked at first, in their order.
    #[serde(default)]
    pub when: Vec<When>,
    /// The word that says what it is.
    pub r#type: Option<Sources>,
    /// The meaning of each word.
    #[serde(default)]
    pub types: Words<Kind>,
    /// The type of a webhook without such a word.
    pub absent: Option<Kind>,
    /// The type of a webhook with another word.
    pub other: Kind,
    /// What was done to an order that is announced again with other lines or another total; where it is absent, a person must
    /// look at it.
    pub announced_again: Option<AmendmentKind>,
}

impl Events {
    /// Whether any webhook is of this kind.
    pub fn becomes(&self, kind: Kind) -> bool {
        let by_shape = self.when.iter().map(|when| when.becomes);
        let by_word = self.types.iter().map(|(_, meaning)| *meaning);
        by_shape
            .chain(by_word)
            .chain(self.absent)
            .chain([self.other])
            .any(|one| one == kind)
    }
}

/// One shape.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "{ has = \"/place\", becomes = \"order_created\" }")]
pub struct When {
    /// This is there …
    pub has: Source,
    /// … and is one of these, where any are given.
    #[serde(default)]
    pub is: Vec<String>,
    /// Then it is this.
    pub becomes: Kind,
}

/// `[status]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatusTable {
    /// The provider's word.
    pub status: Option<Pick>,
    /// What its words mean.
    pub words: Words<Status>,
    /// Why.
    pub reason: Option<Pick>,
    /// When.
    pub changed_at: Option<Time>,
}

/// `[page]`: what people should know who work with the provider. The hub does nothing by it; `providers page` shows it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PageTable {
    /// How long an order may wait to be accepted, and what happens then.
    pub window: Option<String>,
    /// When the provider sends a webhook again.
    pub retries: Option<String>,
    /// Its limits.
    pub limits: Vec<String>,
    /// What it checks before it lets an integration go live.
    pub certification: Vec<String>,
    /// What the file leaves out.
    pub left_out: Vec<String>,
    /// Single facts, and how sure each is.
    pub facts: Vec<PageFact>,
}

/// An entry of `page.facts`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a list of tables with fact, sure")]
pub struct PageFact {
    /// The fact.
    pub fact: String,
    /// `O`, `R`, `C`, `S`, as `docs/providers.md` explains them.
    pub sure: String,
}

/// `[courier]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Courier {
    /// The provider's id.
    pub id: Option<Pick>,
    /// Name.
    pub name: Option<Pick>,
    /// Phone.
    pub phone: Option<Pick>,
    /// When the courier is expected.
    pub eta: Option<Time>,
    /// The provider's word for where the courier is.
    pub state: Option<Pick>,
    /// What its words mean.
    pub words: Words<CourierState>,
}

macro_rules! words {
    ($($name:ty: $all:expr, $what:literal);* $(;)?) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let all = $all;
                all.iter().find(|one| one.as_str() == text).copied().ok_or_else(|| {
                    let known: Vec<_> = all.iter().map(|one| one.as_str()).collect();
                    de::Error::custom(format_args!(
                        concat!("{:?} is not a ", $what, "; expected one of {}"),
                        text,
                        known.join(", ")
                    ))
                })
            }
        }
    )*};
}
words! {
    Status: Status::ALL, "status";
    Fulfillment: Fulfillment::ALL, "fulfillment";
    CourierState: CourierState::ALL, "state of a courier";
    TaxMode: [TaxMode::Included, TaxMode::Excluded], "tax mode";
    Party: Party::ALL, "party";
    TipReceiver: TipReceiver::ALL, "receiver of a tip";
    AmendmentKind: AmendmentKind::ALL, "kind of amendment";
}
