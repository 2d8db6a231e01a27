//! A second announcement of an order: finds the differences from the first one, and makes news of the order from it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::order::{model::AmendmentKind, status::Status};

/// The parts in which two announcements of an order may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncedContent {
    /// In canonical words; none if the body says none that is known.
    pub status: Option<Status>,
    /// What is cooked and charged: lines, currency and total.
    content: Option<(Value, Value, Value)>,
}

impl AnnouncedContent {
    /// Whether the same is cooked and charged.
    pub fn is_same_content(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

/// Reads what counts of a body, of a new order or of a change (which has no content).
///
/// # Errors
/// If the bytes are no such body.
pub fn announced(body: &[u8]) -> serde_json::Result<AnnouncedContent> {
    let mut body: Value = serde_json::from_slice(body)?;
    let order = body["transformedOrder"].take();
    let word = if order.is_null() { &body["statusChange"] } else { &order };
    let status = word["canonicalStatus"].as_str().and_then(Status::from_word);
    let content = (!order.is_null()).then(|| {
        let pricing = &order["pricing"];
        (
            order["items"].clone(),
            pricing["currency"].clone(),
            pricing["total"].clone(),
        )
    });
    Ok(AnnouncedContent { status, content })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewOrderBody<'a> {
    #[serde(borrow)]
    original_webhook: &'a RawValue,
    #[serde(borrow)]
    transformed_order: Fields<'a>,
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow)]
    external_order_id: &'a RawValue,
    #[serde(borrow)]
    branch_id: &'a RawValue,
    #[serde(borrow)]
    company_id: &'a RawValue,
    #[serde(borrow)]
    status: &'a RawValue,
    #[serde(borrow)]
    canonical_status: &'a RawValue,
    #[serde(borrow)]
    provider_status: &'a RawValue,
    #[serde(borrow)]
    captain: Option<&'a RawValue>,
    #[serde(borrow)]
    items: &'a RawValue,
    #[serde(borrow)]
    pricing: &'a RawValue,
    #[serde(borrow)]
    flags: Option<&'a RawValue>,
    #[serde(borrow)]
    extra: Option<&'a RawValue>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    provider: &'a RawValue,
    #[serde(borrow)]
    transformed_at: &'a RawValue,
    #[serde(borrow)]
    version: &'a RawValue,
}

/// A body that is made of a new order's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LaterBody<'a> {
    original_webhook: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_change: Option<Change<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    amendment: Option<Amendment<'a>>,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Change<'a> {
    external_order_id: &'a RawValue,
    branch_id: &'a RawValue,
    company_id: &'a RawValue,
    status: &'a RawValue,
    canonical_status: &'a RawValue,
    provider_status: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    captain: Option<&'a RawValue>,
}

/// The body of a change with the status of a new order's body; the same bytes for the same body.
///
/// # Errors
/// If the bytes are no body of a new order.
pub fn as_news(body: &[u8]) -> serde_json::Result<Vec<u8>> {
    let order: NewOrderBody<'_> = serde_json::from_slice(body)?;
    let fields = order.transformed_order;
    serde_json::to_vec(&LaterBody {
        original_webhook: order.original_webhook,
        status_change: Some(Change {
            external_order_id: fields.external_order_id,
            branch_id: fields.branch_id,
            company_id: fields.company_id,
            status: fields.status,
            canonical_status: fields.canonical_status,
            provider_status: fields.provider_status,
            captain: fields.captain,
        }),
        amendment: None,
        metadata: order.metadata,
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Amendment<'a> {
    external_order_id: &'a RawValue,
    branch_id: &'a RawValue,
    company_id: &'a RawValue,
    kind: &'static str,
    items: &'a RawValue,
    pricing: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<&'a RawValue>,
}

/// The body of an amendment with the lines and amounts of a new order's body; the same bytes for the same body.
///
/// # Errors
/// If the bytes are no body of a new order.
pub fn as_amendment(body: &[u8], kind: AmendmentKind) -> serde_json::Result<Vec<u8>> {
    let order: NewOrderBody<'_> = serde_json::from_slice(body)?;
    let fields = order.transformed_order;
    serde_json::to_vec(&LaterBody {
        original_webhook: order.original_webhook,
        status_change: None,
        amendment: Some(Amendment {
            external_order_id: fields.external_order_id,
            branch_id: fields.branch_id,
            company_id: fields.company_id,
            kind: kind.as_str(),
            items: fields.items,
            pricing: fields.pricing,
            flags: fields.flags,
            extra: fields.extra,
        }),
        metadata: order.metadata,
    })
}
