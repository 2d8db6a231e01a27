//! The unified order as read by a provider's file: without a branch, and without the backend's field names.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

pub use super::amendment::{AmendedContent, Amendment, AmendmentKind, Refund, RefundLine};
use super::{
    flag::Flag,
    money::{Currency, Money},
    status::Status,
};
use crate::{event::push::PushStatus, text::words};

/// An order of any provider.
#[derive(Debug)]
pub struct Order {
    /// The provider's id, verbatim (ids beyond 2^53 stay exact).
    pub external_id: String,
    /// The number that people see, `CAREEM-123456789`: unique over all providers.
    pub order_number: String,
    /// The provider's own short number, where it has one.
    pub display_id: Option<String>,
    /// The provider's own id of this message, where it has one.
    pub provider_event_id: Option<String>,
    /// The store as the provider names it.
    pub store_ref: Option<String>,
    /// Status in canonical words.
    pub status: Status,
    /// Status in the provider's words, verbatim.
    pub provider_status: String,
    /// Who delivers it.
    pub fulfillment: Fulfillment,
    /// The provider's word for that, verbatim.
    pub delivery_type: Option<String>,
    /// When the customer placed it.
    pub placed_at: Option<DateTime<Utc>>,
    /// Until when the restaurant must have accepted it.
    pub accept_by: Option<DateTime<Utc>>,
    /// When its preparation must be confirmed to the provider, of an order for later.
    pub confirm_at: Option<DateTime<Utc>>,
    /// When it must be ready for the courier or the customer.
    pub ready_by: Option<DateTime<Utc>>,
    /// When it is promised to the customer.
    pub deliver_by: Option<DateTime<Utc>>,
    /// Whether it was ordered for a later time, where the provider says so.
    pub scheduled: Option<bool>,
    /// Who ordered.
    pub customer: Customer,
    /// The delivery address; optional as a whole.
    pub address: Option<Address>,
    /// The ordered lines.
    pub lines: Vec<Line>,
    /// The amounts; the provider's figures, never recomputed.
    pub pricing: Pricing,
    /// How it is paid.
    pub payment: Payment,
    /// The courier, if known.
    pub courier: Option<Courier>,
    /// The table at which the customer sits.
    pub table_number: Option<String>,
    /// The statuses that the provider takes about this order, where the order says so.
    pub provider_takes: Option<Vec<PushStatus>>,
    /// The brand as the provider names it, where one kitchen cooks for several.
    pub brand_ref: Option<String>,
    /// The customer's wishes.
    pub notes: Option<String>,
    /// Notes for those who rely on it.
    pub flags: Vec<Flag>,
    /// What the provider sent that has no field here.
    pub extra: Extra,
}

words! {
    /// Who delivers the order.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Fulfillment {
        /// The provider's courier.
        PlatformCourier = "platform_courier",
        /// The restaurant's own.
        MerchantCourier = "merchant_courier",
        /// The customer fetches it.
        Pickup = "pickup",
        /// The customer eats there.
        DineIn = "dine_in",
    }
}

impl Fulfillment {
    /// The backend's `orderType`.
    pub const fn order_type(self) -> &'static str {
        match self {
            Self::PlatformCourier | Self::MerchantCourier => "delivery",
            Self::Pickup => "pickup",
            Self::DineIn => "dine_in",
        }
    }
}

/// Who ordered.
#[derive(Debug, Default)]
pub struct Customer {
    /// Name.
    pub name: Option<String>,
    /// Phone as sent.
    pub phone: Option<String>,
    /// Phone as E.164 (`+962791234567`), where what was sent is a valid number that says its country.
    pub phone_e164: Option<String>,
    /// What must be dialled or said after the number, where the provider masks calls.
    pub phone_pin: Option<String>,
    /// E-mail.
    pub email: Option<String>,
    /// Whether the provider withheld any of it (`****`).
    pub redacted: bool,
}

/// A delivery address.
#[derive(Debug, Default)]
pub struct Address {
    /// Street, with the landmark or name that replaces a house number.
    pub street: Option<String>,
    /// House number.
    pub number: Option<String>,
    /// Building.
    pub building: Option<String>,
    /// Floor.
    pub floor: Option<String>,
    /// Apartment or unit.
    pub apartment: Option<String>,
    /// Quarter.
    pub area: Option<String>,
    /// City.
    pub city: Option<String>,
    /// Postal code.
    pub postcode: Option<String>,
    /// Country, as sent.
    pub country: Option<String>,
    /// Degrees north, as its text.
    pub latitude: Option<Box<RawValue>>,
    /// Degrees east, as its text.
    pub longitude: Option<Box<RawValue>>,
    /// Instructions for the courier.
    pub notes: Option<String>,
}

impl Address {
    /// Whether nothing of it is known.
    pub const fn is_empty(&self) -> bool {
        self.street.is_none()
            && self.number.is_none()
            && self.building.is_none()
            && self.floor.is_none()
            && self.apartment.is_none()
            && self.area.is_none()
            && self.city.is_none()
            && self.postcode.is_none()
            && self.country.is_none()
            && self.latitude.is_none()
            && self.longitude.is_none()
            && self.notes.is_none()
    }
}

/// A name in one language.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// ISO 639 code, `ar`.
    pub language: String,
    /// The name.
    pub text: String,
}

/// One line of the basket.
#[derive(Debug)]
pub struct Line {
    /// The provider's id of the item.
    pub external_id: Option<String>,
    /// The restaurant's own code of the item.
    pub merchant_ref: Option<String>,
    /// Name.
    pub name: String,
    /// Names by language, where the provider sends them so.
    pub names: Vec<Translation>,
    /// How many, as its text (some sell by weight).
    pub quantity: Box<RawValue>,
    /// For one.
    pub unit_price: Money,
    /// For all of the line, as the provider says.
    pub total_price: Money,
    /// The tax of the line, where the provider says so.
    pub tax: Option<Money>,
    /// The customer's wishes.
    pub notes: Option<String>,
    /// Additions and choices.
    pub modifiers: Vec<Modifier>,
}

/// An addition or choice.
#[derive(Debug)]
pub struct Modifier {
    /// The group that it was chosen from, `Add-ons`.
    pub group: Option<String>,
    /// The provider's id.
    pub external_id: Option<String>,
    /// The restaurant's own code.
    pub merchant_ref: Option<String>,
    /// Name.
    pub name: String,
    /// Names by language, where the provider sends them so.
    pub names: Vec<Translation>,
    /// How many, as its text.
    pub quantity: Box<RawValue>,
    /// For one.
    pub price: Money,
    /// The choices within it.
    pub modifiers: Vec<Modifier>,
}

/// Whether prices hold the tax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaxMode {
    /// They do.
    Included,
    /// It comes on top.
    Excluded,
}

impl TaxMode {
    /// Its text in the body.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Included => "included",
            Self::Excluded => "excluded",
        }
    }
}

words! {
    /// Who bears a cost, or hands on a tax.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Party {
        /// The restaurant.
        Merchant = "merchant",
        /// The delivery platform.
        Provider = "provider",
        /// Someone else, such as a brand that advertises.
        ThirdParty = "third_party",
    }
}

words! {
    /// Who gets a tip.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum TipReceiver {
        /// The courier, employed by the platform or by the restaurant.
        Courier = "courier",
        /// The restaurant.
        Restaurant = "restaurant",
    }
}

/// A tip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tip {
    /// How much.
    pub amount: Money,
    /// Who gets it.
    pub receiver: TipReceiver,
}

/// Something that is taken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discount {
    /// How much, positive.
    pub amount: Money,
    /// Who pays for it, where that is known.
    pub funded_by: Option<Party>,
    /// What it is called.
    pub name: Option<String>,
}

/// The amounts of an order.
#[derive(Debug)]
pub struct Pricing {
    /// Currency of every amount.
    pub currency: Currency,
    /// Sum of the lines.
    pub subtotal: Money,
    /// For the delivery.
    pub delivery_fee: Option<Money>,
    /// For the service.
    pub service_fee: Option<Money>,
    /// Every other fee together (bags, small orders, deposits).
    pub other_fees: Option<Money>,
    /// Tax.
    pub tax: Option<Money>,
    /// Whether prices hold it, where that is known.
    pub tax_mode: Option<TaxMode>,
    /// Who pays the tax to the authorities, where that is known.
    pub tax_remitted_by: Option<Party>,
    /// Tips, to whomever.
    pub tip: Option<Money>,
    /// Each of them, where its receiver is known.
    pub tips: Vec<Tip>,
    /// All discounts together.
    pub discount: Option<Money>,
    /// Each of them, if the provider distinguishes them.
    pub discounts: Vec<Discount>,
    /// The amount that the customer pays.
    pub total: Money,
    /// The amount that the courier or the restaurant still has to collect.
    pub collect_cash: Option<Money>,
}

/// How it is paid.
#[derive(Debug, Default)]
pub struct Payment {
    /// The provider's word, `cash`.
    pub method: Option<String>,
    /// Whether nothing is left to collect.
    pub is_prepaid: bool,
}

words! {
    /// Where a courier is: an axis of its own, beside the order's status.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum CourierState {
        /// A courier is assigned.
        Assigned = "assigned",
        /// On the way to the restaurant.
        Coming = "coming",
        /// At the restaurant.
        Arrived = "arrived",
        /// On the way to the customer.
        PickedUp = "picked_up",
        /// Was with the customer.
        Delivered = "delivered",
        /// The courier was removed; another one may be assigned.
        Unassigned = "unassigned",
    }
}

/// A courier.
#[derive(Debug, Default)]
pub struct Courier {
    /// The provider's id.
    pub id: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// Phone as sent.
    pub phone: Option<String>,
    /// When the courier is expected, at the restaurant.
    pub eta: Option<DateTime<Utc>>,
    /// The courier's state, in canonical words.
    pub state: Option<CourierState>,
    /// The courier's state, in the provider's words.
    pub provider_state: Option<String>,
}

impl Courier {
    /// Whether nothing is known.
    pub const fn is_empty(&self) -> bool {
        self.id.is_none()
            && self.name.is_none()
            && self.phone.is_none()
            && self.eta.is_none()
            && self.state.is_none()
            && self.provider_state.is_none()
    }
}

/// Values of a provider without a field here, verbatim, by their JSON pointer in its document.
#[derive(Debug, Default)]
pub struct Extra(pub Vec<(String, Box<RawValue>)>);

/// A change of an existing order.
#[derive(Debug)]
pub struct StatusChange {
    /// The provider's id of the order.
    pub external_id: String,
    /// The provider's own id of this message, where it has one.
    pub provider_event_id: Option<String>,
    /// Status in canonical words; none if the provider's word is not known (it is passed on verbatim), or if the
    /// news is about the courier alone.
    pub status: Option<Status>,
    /// Status in the provider's words, verbatim; none if the news is about the courier alone.
    pub provider_status: Option<String>,
    /// Why, where the provider says so.
    pub reason: Option<String>,
    /// The courier, if known.
    pub courier: Option<Courier>,
    /// When it changed, by the provider's clock.
    pub changed_at: Option<DateTime<Utc>>,
    /// Notes for those who rely on it.
    pub flags: Vec<Flag>,
    /// What the provider sent that has no field here.
    pub extra: Extra,
}
