//! `POST /api/integration/orders/{provider}/{externalOrderId}/status`: a status of an order for its provider.

use axum::routing::MethodFilter;
use bytes::Bytes;

use super::{
    fields::{self, MAX_PREPARATION_MINUTES, MAX_REASON_CHARS},
    refusal::IntegrationRefusal,
    route::{About, Payload, Route},
};
use crate::{
    event::{
        EventType,
        push::{PushStatus, STATUS_REQUEST, StatusRequested},
    },
    json::fault::Fault,
    provider::admission::MAX_ORDER_ID_BYTES,
    remote::Remote,
};

/// The route.
pub(super) static ROUTE: Route = Route {
    method: MethodFilter::POST,
    path: "/api/integration/orders/{provider}/{externalOrderId}/status",
    kind: STATUS_REQUEST,
    about: About::Order,
    event_type: EventType::OrderStatusRequested,
    webhook_type: STATUS_REQUEST,
    max_bytes: Some(MAX_BODY_BYTES),
    read: payload,
};

/// Most bytes of a request; an honest one has a hundred.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// The platform's words for some of the statuses, as the end of a list.
const PLATFORM_WORDS: [&str; 3] = ["or confirmed", "ready_for_pickup", "out_for_delivery"];

fn payload(body: &Bytes, _: &Remote) -> Result<Payload, IntegrationRefusal> {
    let (wanted, branch) = read(body).map_err(IntegrationRefusal::Faults)?;
    Ok(Payload {
        branch,
        ..Payload::of(&wanted)?
    })
}

/// Reads the requested status, and the order's branch if the backend names it.
fn read(body: &[u8]) -> Result<(StatusRequested, Option<String>), Vec<Fault>> {
    fields::body(body, |object, faults| {
        let words = PushStatus::of_backend().map(PushStatus::as_str).chain(PLATFORM_WORDS);
        let status = fields::required_word(&object.get("status"), PushStatus::parse, words, faults);
        let reason = fields::text(object, "reason", MAX_REASON_CHARS, faults);
        let order_id = fields::text(object, "orderId", MAX_ORDER_ID_BYTES, faults);
        let branch = fields::text(object, "branchId", MAX_ORDER_ID_BYTES, faults);
        let reason_code = fields::reason_code(object, faults);
        let preparation_minutes = fields::minutes(object, 0..=MAX_PREPARATION_MINUTES, faults);
        if status == Some(PushStatus::Delayed) && preparation_minutes.is_none() {
            faults.add(
                "/preparationMinutes",
                "expected the minutes that are needed from now on",
            );
        }
        let wanted = StatusRequested {
            // This default is never used: without a status there is a fault.
            status: status.unwrap_or(PushStatus::Accepted),
            reason,
            reason_code,
            preparation_minutes,
            order_id,
            automatic: false,
        };
        (wanted, branch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_its_faults_are_named() {
        let good =
            br#"{"status":"confirmed","preparationMinutes":"20","reason":"","orderId":17,"branchId":"b-1","more":1}"#;
        let (wanted, branch) = read(good).unwrap();
        assert_eq!(
            (
                wanted.status,
                wanted.preparation_minutes,
                wanted.reason,
                wanted.order_id.as_deref(),
                branch.as_deref()
            ),
            (PushStatus::Accepted, Some(20), None, Some("17"), Some("b-1"))
        );
        for (body, pointer) in [
            ("{}", "/status"),
            (r#"{"status":"eaten"}"#, "/status"),
            (r#"{"status":["ready"]}"#, "/status"),
            (r#"{"status":"ready","preparationMinutes":-1}"#, "/preparationMinutes"),
            (r#"{"status":"ready","preparationMinutes":1441}"#, "/preparationMinutes"),
            (r#"{"status":"ready","preparationMinutes":1.5}"#, "/preparationMinutes"),
            (r#"{"status":"ready","reason":"a\u0007"}"#, "/reason"),
            (r#"{"status":"rejected","reasonCode":"hungry"}"#, "/reasonCode"),
            (r#"{"status":"delayed"}"#, "/preparationMinutes"),
            (r#"{"status":"received"}"#, "/status"),
            ("[]", ""),
            ("status=ready", ""),
            (r#"{"status":"ready","status":"cancelled"}"#, ""),
        ] {
            let faults = read(body.as_bytes()).unwrap_err();
            assert_eq!(faults[0].pointer, pointer, "{body}");
        }
        let long = format!(
            r#"{{"status":"ready","reason":"{}"}}"#,
            "x".repeat(MAX_REASON_CHARS + 1)
        );
        assert_eq!(read(long.as_bytes()).unwrap_err()[0].pointer, "/reason");
    }
}
