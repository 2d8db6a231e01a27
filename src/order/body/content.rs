//! The lines and prices of an order, in bodies of new orders and of amendments.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::order::{
    model::{self, Translation},
    money::Money,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BodyItem<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    external_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merchant_ref: Option<&'a str>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_ar: Option<&'a str>,
    #[serde(skip_serializing_if = "Names::is_empty")]
    names: Names<'a>,
    quantity: &'a RawValue,
    unit_price: Money,
    total_price: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    tax_amount: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<&'a str>,
    modifiers: Vec<ItemModifier<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ItemModifier<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merchant_ref: Option<&'a str>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_ar: Option<&'a str>,
    #[serde(skip_serializing_if = "Names::is_empty")]
    names: Names<'a>,
    quantity: &'a RawValue,
    price: Money,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    modifiers: Vec<ItemModifier<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pricing<'a> {
    currency: &'static str,
    exponent: u32,
    subtotal: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_fee: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_fee: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other_fees: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tax_amount: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tax_mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tax_remitted_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tip: Option<Money>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tips: Vec<Tip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    discount: Option<Money>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    discounts: Vec<Discount<'a>>,
    total: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    collect_cash: Option<Money>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Discount<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    amount: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    funded_by: Option<&'static str>,
}

#[derive(Serialize)]
struct Tip {
    amount: Money,
    receiver: &'static str,
}

/// Names by language, as a JSON object.
struct Names<'a>(&'a [Translation]);

impl Names<'_> {
    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Names<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|name| (&name.language, &name.text)))
    }
}

pub(super) fn pricing(pricing: &model::Pricing) -> Pricing<'_> {
    Pricing {
        currency: pricing.currency.code(),
        exponent: pricing.currency.exponent(),
        subtotal: pricing.subtotal,
        delivery_fee: pricing.delivery_fee,
        service_fee: pricing.service_fee,
        other_fees: pricing.other_fees,
        tax_amount: pricing.tax,
        tax_mode: pricing.tax_mode.map(model::TaxMode::as_str),
        tax_remitted_by: pricing.tax_remitted_by.map(model::Party::as_str),
        tip: pricing.tip,
        tips: pricing.tips.iter().map(tip).collect(),
        discount: pricing.discount,
        discounts: pricing
            .discounts
            .iter()
            .map(|one| Discount {
                name: one.name.as_deref(),
                amount: one.amount,
                funded_by: one.funded_by.map(model::Party::as_str),
            })
            .collect(),
        total: pricing.total,
        collect_cash: pricing.collect_cash,
    }
}

const fn tip(tip: &model::Tip) -> Tip {
    Tip {
        amount: tip.amount,
        receiver: tip.receiver.as_str(),
    }
}

pub(super) fn item(line: &model::Line) -> BodyItem<'_> {
    BodyItem {
        external_id: line.external_id.as_deref(),
        merchant_ref: line.merchant_ref.as_deref(),
        name: &line.name,
        name_ar: arabic(&line.names),
        names: Names(&line.names),
        quantity: &line.quantity,
        unit_price: line.unit_price,
        total_price: line.total_price,
        tax_amount: line.tax,
        notes: line.notes.as_deref(),
        modifiers: line.modifiers.iter().map(modifier).collect(),
    }
}

/// As deep as the document that it was read from, which is read to [`crate::json::tree::MAX_DEPTH`].
fn modifier(modifier: &model::Modifier) -> ItemModifier<'_> {
    ItemModifier {
        group: modifier.group.as_deref(),
        external_id: modifier.external_id.as_deref(),
        merchant_ref: modifier.merchant_ref.as_deref(),
        name: &modifier.name,
        name_ar: arabic(&modifier.names),
        names: Names(&modifier.names),
        quantity: &modifier.quantity,
        price: modifier.price,
        modifiers: modifier.modifiers.iter().map(self::modifier).collect(),
    }
}

fn arabic(names: &[Translation]) -> Option<&str> {
    names
        .iter()
        .find(|name| name.language == "ar")
        .map(|name| name.text.as_str())
}
