//! Reads a body for the backend again, for operators' queries and `hub.orders`. No personal data is read.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::event::push::PushStatus;

/// What a body says about its order, apart from what is cooked, charged and brought to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The number that people see, `CAREEM-123456789`; of a new order only.
    pub order_number: Option<String>,
    /// The provider's own short number, where it has one.
    pub display_id: Option<String>,
    /// Company that the branch belongs to.
    pub company_id: Option<String>,
    /// Status in the provider's words.
    pub provider_status: Option<String>,
    /// Status in the platform's words (`order_status`).
    pub status: Option<String>,
    /// The first of these that the provider sent: until when the order must be accepted, ready, with the customer.
    pub deadline: Option<DateTime<Utc>>,
    /// Who delivers it (`platform_courier`); of a new order only.
    pub fulfillment: Option<String>,
    /// The statuses that the provider takes about it, where the order says so.
    pub provider_takes: Option<Vec<PushStatus>>,
    /// What is to be known about it (see [`crate::order::flag`]).
    pub flags: Vec<String>,
}

/// Reads them.
///
/// # Errors
/// If the bytes are no body of a new order, of a change or of an amendment.
pub fn facts(body: &[u8]) -> serde_json::Result<Facts> {
    let read: BodyFacts = serde_json::from_slice(body)?;
    let subject = read.transformed_order.or(read.status_change).or(read.amendment);
    let Subject {
        order_number,
        display_id,
        company_id,
        provider_status,
        status,
        accept_by,
        ready_by,
        deliver_by,
        fulfillment,
        provider_takes,
        flags,
    } = subject.ok_or_else(|| serde::de::Error::missing_field("transformedOrder"))?;
    Ok(Facts {
        order_number,
        display_id,
        company_id,
        provider_status,
        status,
        deadline: accept_by.or(ready_by).or(deliver_by),
        fulfillment,
        provider_takes,
        flags,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BodyFacts {
    transformed_order: Option<Subject>,
    status_change: Option<Subject>,
    amendment: Option<Subject>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subject {
    order_number: Option<String>,
    display_id: Option<String>,
    company_id: Option<String>,
    provider_status: Option<String>,
    status: Option<String>,
    accept_by: Option<DateTime<Utc>>,
    ready_by: Option<DateTime<Utc>>,
    deliver_by: Option<DateTime<Utc>>,
    fulfillment: Option<String>,
    provider_takes: Option<Vec<PushStatus>>,
    #[serde(default)]
    flags: Vec<String>,
}
