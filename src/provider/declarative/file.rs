//! A provider's file, key by key as it is written. `docs/providers.md` explains each key.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, de};

use super::{
    clock::Zone,
    lists::Lists,
    path::PathTemplate,
    pick::{Amount, Choice, Clock, Pick, Source, Sources, Test, Time, Unit},
    response::Responses,
    words::Words,
};
use crate::{
    event::ORDER_CREATED,
    json::pointer::Pointer,
    order::{
        model::{CourierState, Fulfillment, TaxMode},
        money::Currency,
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
    /// `[response]`: what it is answered.
    pub response: Responses,
    /// `[outbound]` and `[fetch]`: how it is spoken to.
    pub outbound: Option<Spec>,
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
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Document {
    /// A part of the body: the first of these that is there.
    Part(Vec<Pointer>),
    /// In a text of the body that is JSON itself.
    Text(Pointer),
    /// Somewhere else: it is fetched (`[fetch]`), for webhooks of these kinds.
    Fetched(Vec<Kind>),
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
            Self::OrderCancelled => "order_cancelled",
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

/// `[order]`.
#[derive(Debug)]
pub struct OrderTable {
    /// The keys of the table itself.
    pub head: OrderHead,
    /// `[order.customer]`.
    pub customer: Customer,
    /// `[order.address]`.
    pub address: Address,
    /// `[order.lines]`.
    pub lines: Lines,
    /// `[order.modifiers]`.
    pub modifiers: Option<Modifiers>,
    /// `[order.pricing]`.
    pub pricing: Pricing,
    /// `[order.payment]`.
    pub payment: Payment,
}

/// The keys of `[order]` itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderHead {
    /// Where the currency's code is; configured (`<PROVIDER>_CURRENCY`) where this is absent.
    pub currency: Option<Sources>,
    /// The currency where none is configured.
    #[serde(default, deserialize_with = "currency")]
    pub default_currency: Option<Currency>,
    /// How amounts are written.
    pub amounts: Unit,
    /// How times are written.
    #[serde(default = "iso")]
    pub times: Clock,
    /// The zone of times that name none.
    pub zone: Option<Zone>,
    /// The prefix of the id in the number that people see; by default `NAME-`.
    pub number_prefix: Option<String>,
    /// The beginning of the id that is cut off for that.
    pub number_strip: Option<String>,
    /// The short number.
    pub display_id: Option<Pick>,
    /// The provider's word for who delivers.
    pub delivery_type: Option<Pick>,
    /// Who delivers.
    pub fulfillment: Choice<Fulfillment>,
    /// When it was placed.
    pub placed_at: Option<Time>,
    /// Until when it must be accepted.
    pub accept_by: Option<Time>,
    /// When it must be ready.
    pub ready_by: Option<Time>,
    /// When it is promised.
    pub deliver_by: Option<Time>,
    /// Whether it is for later.
    pub scheduled: Option<Test>,
    /// The customer's wishes.
    pub notes: Option<Pick>,
}

fn iso() -> Clock {
    Clock::Iso
}

fn currency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Currency>, D::Error> {
    let code = String::deserialize(deserializer)?;
    code.parse().map(Some).map_err(de::Error::custom)
}

/// `[order.customer]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Customer {
    /// Name.
    pub name: Option<Pick>,
    /// Phone.
    pub phone: Option<Pick>,
    /// Whether a phone number without `+` nevertheless has its country's code.
    pub phone_is_international: bool,
    /// E-mail.
    pub email: Option<Pick>,
    /// Beginnings of texts that stand for what is withheld; texts of nothing but `*` always do.
    pub withheld: Vec<String>,
}

/// `[order.address]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the names say it; see model::Address")]
pub struct Address {
    pub street: Option<Pick>,
    pub number: Option<Pick>,
    pub building: Option<Pick>,
    pub floor: Option<Pick>,
    pub apartment: Option<Pick>,
    pub area: Option<Pick>,
    pub city: Option<Pick>,
    pub postcode: Option<Pick>,
    pub country: Option<Pick>,
    pub latitude: Option<Pick>,
    pub longitude: Option<Pick>,
    pub notes: Option<Pick>,
}

/// Names by language.
pub type Names = std::collections::BTreeMap<String, Pick>;

/// `[order.lines]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lines {
    /// The lists of lines.
    pub each: Lists,
    /// The provider's id.
    pub id: Option<Pick>,
    /// The restaurant's code.
    pub merchant_ref: Option<Pick>,
    /// Name.
    pub name: Pick,
    /// Names by language.
    #[serde(default)]
    pub names: Names,
    /// How many; one, where nothing is said.
    pub quantity: Option<Pick>,
    /// For one.
    pub unit_price: Option<Amount>,
    /// For the line.
    pub total_price: Option<Amount>,
    /// Wishes.
    pub notes: Option<Pick>,
}

/// `[order.modifiers]`: of a line, and of a modifier.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modifiers {
    /// Lists of groups, from the line or modifier; none if modifiers stand in it directly.
    pub groups: Option<Lists>,
    /// A group's name, in the group; in the modifier, where there are no groups.
    pub group: Option<Pick>,
    /// Lists of modifiers, from the group, or from the line or modifier.
    pub each: Lists,
    /// The provider's id.
    pub id: Option<Pick>,
    /// The restaurant's code.
    pub merchant_ref: Option<Pick>,
    /// Name.
    pub name: Pick,
    /// Names by language.
    #[serde(default)]
    pub names: Names,
    /// How many; one, where nothing is said.
    pub quantity: Option<Pick>,
    /// For one; nothing, where nothing is said.
    pub price: Option<Amount>,
    /// For all of them, where the provider says that instead.
    pub total_price: Option<Amount>,
}

/// `[order.pricing]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pricing {
    /// Sum of the lines; computed and flagged where it is not there.
    pub subtotal: Option<Amount>,
    /// For the delivery.
    pub delivery_fee: Option<Amount>,
    /// For the service.
    pub service_fee: Option<Amount>,
    /// All other fees.
    pub other_fees: Option<Amount>,
    /// Tax.
    pub tax: Option<Amount>,
    /// Whether prices hold it.
    pub tax_mode: Option<Choice<TaxMode>>,
    /// Tips.
    pub tip: Option<Amount>,
    /// All discounts together; their sum where it is not there.
    pub discount: Option<Amount>,
    /// Each discount.
    pub discounts: Vec<Discount>,
    /// The amount that the customer pays; computed and flagged if absent.
    pub total: Option<Amount>,
    /// The amount that is collected on delivery.
    pub collect_cash: Option<Amount>,
}

/// `[[order.pricing.discounts]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a list of tables with amount")]
pub struct Discount {
    /// A list of discounts, where there is one; else it is one, in the document.
    pub each: Option<Lists>,
    /// How much; its sign does not count.
    pub amount: Amount,
    /// Who pays for it: `merchant` or `provider`, as it is.
    #[serde(default, deserialize_with = "payer")]
    pub funded_by: Option<String>,
    /// Its name.
    pub name: Option<Pick>,
}

fn payer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "merchant" | "provider" => Ok(Some(text)),
        _ => Err(de::Error::custom(format_args!(
            "funded_by: {text:?} is neither merchant nor provider; expected one of these two words, not a place"
        ))),
    }
}

/// `[order.payment]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Payment {
    /// The provider's word.
    pub method: Option<Pick>,
    /// Whether nothing is left to collect.
    pub prepaid: Option<Test>,
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
}
