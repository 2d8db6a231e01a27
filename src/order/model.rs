//! The unified order, as a provider's adapter builds it: no branch yet, no words of the backend's interface.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::{
    money::{Currency, Money},
    status::OrderStatus,
};

/// An order, whoever sent it.
#[derive(Debug)]
pub struct Order {
    /// The provider's id, verbatim (ids beyond 2^53 stay exact).
    pub external_id: String,
    /// The number that people see, `CAREEM-123456789`: unique over all providers.
    pub order_number: String,
    /// The provider's own short number, where it has one.
    pub display_id: Option<String>,
    /// Status in the platform's words.
    pub status: OrderStatus,
    /// Status in the provider's words, verbatim.
    pub provider_status: String,
    /// Who brings it to the customer.
    pub fulfillment: Fulfillment,
    /// The provider's word for that, verbatim.
    pub delivery_type: Option<String>,
    /// When the customer placed it.
    pub placed_at: Option<DateTime<Utc>>,
    /// Who ordered.
    pub customer: Customer,
    /// Where it goes, as a whole optional.
    pub address: Option<Address>,
    /// What was ordered.
    pub lines: Vec<Line>,
    /// What it costs; the provider's figures, never recomputed.
    pub pricing: Pricing,
    /// How it is paid.
    pub payment: Payment,
    /// Who drives, where that is known.
    pub courier: Option<Courier>,
    /// The customer's wishes.
    pub notes: Option<String>,
}

/// Who brings the order to the customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fulfillment {
    /// The provider's courier.
    PlatformCourier,
    /// The restaurant's own.
    MerchantCourier,
    /// The customer fetches it.
    Pickup,
}

impl Fulfillment {
    /// The backend's `orderType`.
    pub const fn order_type(self) -> &'static str {
        match self {
            Self::PlatformCourier | Self::MerchantCourier => "delivery",
            Self::Pickup => "pickup",
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
    /// E-mail.
    pub email: Option<String>,
}

/// Where the order goes.
#[derive(Debug, Default)]
pub struct Address {
    /// Street.
    pub street: Option<String>,
    /// Building.
    pub building: Option<String>,
    /// Quarter.
    pub area: Option<String>,
    /// City.
    pub city: Option<String>,
    /// Degrees north, as its text.
    pub latitude: Option<Box<RawValue>>,
    /// Degrees east, as its text.
    pub longitude: Option<Box<RawValue>>,
    /// What the courier should know.
    pub notes: Option<String>,
}

/// One line of the basket.
#[derive(Debug)]
pub struct Line {
    /// The provider's id of the item.
    pub external_id: Option<String>,
    /// Name.
    pub name: String,
    /// Name in Arabic.
    pub name_ar: Option<String>,
    /// How many, as its text (some sell by weight).
    pub quantity: Box<RawValue>,
    /// For one.
    pub unit_price: Money,
    /// For all of the line, as the provider says.
    pub total_price: Money,
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
    /// Name.
    pub name: String,
    /// Name in Arabic.
    pub name_ar: Option<String>,
    /// How many, as its text.
    pub quantity: Box<RawValue>,
    /// For one.
    pub price: Money,
}

/// What it costs.
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
    /// Tax.
    pub tax: Option<Money>,
    /// All discounts together.
    pub discount: Option<Money>,
    /// What the customer pays.
    pub total: Money,
}

/// How it is paid.
#[derive(Debug, Default)]
pub struct Payment {
    /// The provider's word, `cash`.
    pub method: Option<String>,
    /// Whether nothing is left to collect.
    pub is_prepaid: bool,
}

/// Who drives.
#[derive(Debug, Default)]
pub struct Courier {
    /// The provider's id.
    pub id: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// Phone as sent.
    pub phone: Option<String>,
}

/// A later word about an order that exists.
#[derive(Debug)]
pub struct StatusChange {
    /// The provider's id of the order.
    pub external_id: String,
    /// Status in the platform's words; none where the provider's word is not known (it is passed on verbatim).
    pub status: Option<OrderStatus>,
    /// Status in the provider's words, verbatim.
    pub provider_status: String,
    /// Why, where the provider says so.
    pub reason: Option<String>,
    /// Who drives, where that is known.
    pub courier: Option<Courier>,
    /// When it changed, by the provider's clock.
    pub changed_at: Option<DateTime<Utc>>,
}
