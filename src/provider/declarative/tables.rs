//! The tables of `[order]`, as they are written in a provider's file.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::{
    amount::{Amount, Unit},
    choice::{Choice, WordOrChoice},
    clock::Zone,
    lists::Lists,
    pick::{Clock, Pick, Sources, Test, Time},
};
use crate::{
    order::{
        model::{AmendmentKind, Fulfillment, Party, TaxMode, TipReceiver},
        money::Currency,
    },
    text::parse_duration,
};

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
    /// Where the document says how many decimals its amounts have; they are whole numbers then.
    pub amount_digits: Option<Sources>,
    /// How times are written.
    #[serde(default = "iso")]
    pub times: Clock,
    /// The zone of times that name none.
    pub zone: Option<Zone>,
    /// What stands before the id in the number that people see; `NAME-` where this is absent.
    pub number_prefix: Option<String>,
    /// What is cut off the id's beginning for that.
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
    /// When its preparation must be confirmed, of an order for later.
    pub confirm_at: Option<Time>,
    /// When it must be ready.
    pub ready_by: Option<Time>,
    /// When it is promised.
    pub deliver_by: Option<Time>,
    /// Whether it is for later.
    pub scheduled: Option<Test>,
    /// The table at which the customer sits.
    pub table_number: Option<Pick>,
    /// The brand, where one kitchen cooks for several.
    pub brand: Option<Pick>,
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
    /// The country's code of the phone, where it is apart from the number.
    pub phone_country_code: Option<Pick>,
    /// What must be dialled or said after the number, where calls are masked.
    pub phone_pin: Option<Pick>,
    /// Whether a phone without `+` has its country's code all the same.
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
    /// The tax of the line.
    pub tax: Option<Amount>,
    /// Wishes.
    pub notes: Option<Pick>,
    /// Lines that stand elsewhere and cost nothing.
    #[serde(default)]
    pub free: Vec<FreeLines>,
}

/// An entry of `order.lines.free`: lines that are given away, such as those of a promotion.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with each, unless, lines")]
pub struct FreeLines {
    /// The lists with elements that give something away.
    pub each: Lists,
    /// Those that do not.
    pub unless: Option<Test>,
    /// The lists of lines, in each of them.
    pub lines: Lists,
}

/// `[order.modifiers]`: of a line, and of a modifier.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modifiers {
    /// Lists of groups, from the line or modifier; none where modifiers stand in it directly.
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
    /// The tax in it, where the lines are without tax.
    pub subtotal_tax: Option<Amount>,
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
    /// Who pays the tax to the authorities.
    pub tax_remitted_by: Option<WordOrChoice<Party>>,
    /// All tips together; the sum of `tips` where it is not there.
    pub tip: Option<Amount>,
    /// Each tip.
    pub tips: Vec<TipTable>,
    /// All discounts together; their sum where it is not there.
    pub discount: Option<Amount>,
    /// Each discount.
    pub discounts: Vec<Discount>,
    /// What the customer pays; computed and flagged where it is not there.
    pub total: Option<Amount>,
    /// What is collected on delivery.
    pub collect_cash: Option<Amount>,
}

/// An entry of `order.pricing.tips`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a list of tables with amount, to")]
pub struct TipTable {
    /// How much.
    pub amount: Amount,
    /// Who gets it.
    pub to: TipReceiver,
}

/// `[[order.pricing.discounts]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a list of tables with amount")]
pub struct Discount {
    /// A list of discounts, where there is one; else it is one, in the document.
    pub each: Option<Lists>,
    /// How much; its sign does not count.
    pub amount: Amount,
    /// Who pays for it.
    pub funded_by: Option<WordOrChoice<Party>>,
    /// What it is called.
    pub name: Option<Pick>,
    /// The parts of it that each payer bears, where the provider says so.
    #[serde(default)]
    pub shares: Vec<Share>,
}

/// An entry of `shares` of a discount.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a list of tables with amount, funded_by")]
pub struct Share {
    /// A list of shares in the discount, where there is one; else it is one, in the discount.
    pub each: Option<Lists>,
    /// How much of the discount.
    pub amount: Amount,
    /// Who pays for it.
    pub funded_by: WordOrChoice<Party>,
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

/// `[amendment]`: a later word that changes what is cooked or charged.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmendmentTable {
    /// What was done to the order.
    pub kind: Choice<AmendmentKind>,
    /// The same in the provider's words; the word of `events.type`, where the file does not say.
    pub provider_kind: Option<Pick>,
    /// Why.
    pub reason: Option<Pick>,
    /// When.
    pub changed_at: Option<Time>,
    /// What is paid back.
    pub refund: Option<RefundTable>,
}

/// `[amendment.refund]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundTable {
    /// How much.
    pub amount: Amount,
    /// The provider's id of the refund.
    pub id: Option<Pick>,
    /// Its status.
    pub status: Option<Pick>,
    /// How long after `amendment.changed_at` the provider decides by itself, `15m`.
    #[serde(default, deserialize_with = "duration")]
    pub decide_within: Option<Duration>,
    /// What it is for.
    pub lines: Option<RefundLines>,
}

/// `[amendment.refund.lines]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundLines {
    /// The list.
    pub each: Lists,
    /// The restaurant's code.
    pub merchant_ref: Option<Pick>,
    /// Name.
    pub name: Pick,
    /// How many; one, where nothing is said.
    pub quantity: Option<Pick>,
    /// How much of the refund.
    pub amount: Option<Amount>,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map(Some).map_err(de::Error::custom)
}
