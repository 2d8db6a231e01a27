//! The fields of an amendment, in their order.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    BranchRef,
    content::{BodyItem, Pricing, item, pricing},
    shape::{Flags, extra, is_nothing, optional_time},
};
use crate::order::{
    model::{self, Amendment, Extra},
    money::Money,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Amended<'a> {
    external_order_id: &'a str,
    branch_id: &'a str,
    company_id: &'a str,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_time")]
    changed_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<BodyItem<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pricing: Option<Pricing<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refund: Option<Refund<'a>>,
    #[serde(skip_serializing_if = "Flags::is_empty")]
    flags: Flags<'a>,
    #[serde(skip_serializing_if = "is_nothing", serialize_with = "extra")]
    extra: &'a Extra,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Refund<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    external_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_status: Option<&'a str>,
    currency: &'static str,
    amount: Money,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_time")]
    decide_by: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    items: Vec<RefundItem<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RefundItem<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    merchant_ref: Option<&'a str>,
    name: &'a str,
    quantity: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<Money>,
}

pub(super) fn amended<'a>(amendment: &'a Amendment, place: &'a BranchRef) -> Amended<'a> {
    let content = amendment.content.as_ref();
    Amended {
        external_order_id: &amendment.external_id,
        branch_id: &place.branch_id,
        company_id: &place.company_id,
        kind: amendment.kind.as_str(),
        provider_kind: amendment.provider_kind.as_deref(),
        changed_at: amendment.changed_at,
        reason: amendment.reason.as_deref(),
        items: content.map(|content| content.lines.iter().map(item).collect()),
        pricing: content.map(|content| pricing(&content.pricing)),
        refund: amendment.refund.as_ref().map(refund),
        flags: Flags(&amendment.flags),
        extra: &amendment.extra,
    }
}

fn refund(refund: &model::Refund) -> Refund<'_> {
    Refund {
        external_id: refund.external_id.as_deref(),
        provider_status: refund.provider_status.as_deref(),
        currency: refund.amount.currency.code(),
        amount: refund.amount,
        decide_by: refund.decide_by,
        items: refund
            .lines
            .iter()
            .map(|line| RefundItem {
                merchant_ref: line.merchant_ref.as_deref(),
                name: &line.name,
                quantity: &line.quantity,
                amount: line.amount,
            })
            .collect(),
    }
}
