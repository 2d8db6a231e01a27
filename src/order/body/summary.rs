//! Reads a body for the backend again, for the outcome events and the platform's tables.

use chrono::FixedOffset;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::outcome::OrderSummary;

/// Reads the order in short from a body that was made here.
///
/// # Errors
/// If the bytes are no such body.
pub fn summary(body: &[u8]) -> serde_json::Result<OrderSummary> {
    let read: BodySummary<'_> = serde_json::from_slice(body)?;
    Ok(match (read.transformed_order, read.status_change, read.amendment) {
        (Some(order), _, _) => {
            let (captain, pricing) = (order.captain.unwrap_or_default(), order.pricing);
            OrderSummary {
                order_number: Some(order.order_number),
                branch_id: order.branch_id,
                company_id: order.company_id,
                provider_status: order.provider_status,
                status: Some(order.status),
                delivery_type: order.delivery_type,
                currency: Some(pricing.currency),
                delivery_fee: amount(pricing.delivery_fee),
                service_fee: amount(pricing.service_fee),
                total: amount(pricing.total),
                payment_method: order.payment.method,
                is_prepaid: order.payment.is_prepaid,
                captain_id: captain.id,
                captain_name: captain.name,
                captain_phone: captain.phone,
                auto_accept: read.metadata.auto_accept,
            }
        }
        (None, Some(change), _) => {
            let captain = change.captain.unwrap_or_default();
            OrderSummary {
                branch_id: change.branch_id,
                company_id: change.company_id,
                provider_status: change.provider_status,
                status: change.status,
                captain_id: captain.id,
                captain_name: captain.name,
                captain_phone: captain.phone,
                ..OrderSummary::default()
            }
        }
        (None, None, Some(amendment)) => OrderSummary {
            branch_id: amendment.branch_id,
            company_id: amendment.company_id,
            ..OrderSummary::default()
        },
        (None, None, None) => return Err(serde::de::Error::missing_field("transformedOrder")),
    })
}

/// The zone of the branch by which the times of a body were read.
pub fn zone(body: &[u8]) -> Option<FixedOffset> {
    let read: BodySummary<'_> = serde_json::from_slice(body).ok()?;
    read.metadata.time_zone?.parse().ok()
}

fn amount(raw: Option<&RawValue>) -> Option<String> {
    raw.map(|raw| raw.get().to_owned())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BodySummary<'a> {
    #[serde(borrow)]
    transformed_order: Option<ReadOrder<'a>>,
    status_change: Option<ReadChange>,
    amendment: Option<ReadAmendment>,
    #[serde(default)]
    metadata: ReadMetadata,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ReadMetadata {
    #[serde(default)]
    auto_accept: bool,
    #[serde(default)]
    time_zone: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadOrder<'a> {
    order_number: String,
    branch_id: String,
    company_id: String,
    status: String,
    provider_status: String,
    delivery_type: Option<String>,
    #[serde(borrow)]
    pricing: ReadPricing<'a>,
    payment: ReadPayment,
    captain: Option<ReadCaptain>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadPricing<'a> {
    currency: String,
    #[serde(borrow)]
    delivery_fee: Option<&'a RawValue>,
    #[serde(borrow)]
    service_fee: Option<&'a RawValue>,
    #[serde(borrow)]
    total: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadPayment {
    method: Option<String>,
    is_prepaid: bool,
}

#[derive(Deserialize, Default)]
struct ReadCaptain {
    id: Option<String>,
    name: Option<String>,
    phone: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadAmendment {
    branch_id: String,
    company_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadChange {
    branch_id: String,
    company_id: String,
    status: Option<String>,
    #[serde(default)]
    provider_status: String,
    captain: Option<ReadCaptain>,
}
