//! `POST /api/integration/orders/{provider}/{externalOrderId}/status`: a status of an order for its provider.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    extract::{ConnectInfo, Path, Request, State},
    http::Response,
};
use bytes::Bytes;

use super::{AcceptedRequest, Integration, checked_id, refusal::IntegrationRefusal};
use crate::{
    event::{
        EventType,
        push::{PushStatus, ReasonCode, STATUS_REQUEST, StatusRequested},
    },
    json::fault::{Fault, Faults},
    order::node::Node,
    provider::admission::MAX_ORDER_ID_BYTES,
};

/// Most bytes of a request; an honest one has a hundred.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// Longest reason, in characters: it is read by people.
const MAX_REASON_CHARS: usize = 500;
/// Longest preparation: a day.
const MAX_PREPARATION_MINUTES: u32 = 24 * 60;

/// Takes the request.
pub async fn request(
    State(integration): State<Arc<Integration>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((provider, order)): Path<(String, String)>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let request_info = integration.request_info(STATUS_REQUEST, &provider, peer, &parts.headers);
    let taken = async {
        integration.check(&parts, &provider, request_info.client)?;
        let order = checked_id("externalOrderId", order)?;
        let buffered = integration
            .read(&request_info, &parts.headers, body, MAX_BODY_BYTES)
            .await?;
        let (wanted, branch) = read(&buffered.bytes).map_err(IntegrationRefusal::Faults)?;
        let payload = serde_json::to_vec(&wanted).map_err(|_| IntegrationRefusal::Internal)?;
        let about = AcceptedRequest {
            kind: STATUS_REQUEST,
            webhook_type: STATUS_REQUEST,
            event_type: EventType::OrderStatusRequested,
            provider,
            subject: order,
            branch,
        };
        integration.append(about, Bytes::from(payload), &parts.headers).await
    };
    let taken = taken.await;
    taken.unwrap_or_else(|reason| reason.answer(&request_info, &parts.headers))
}

/// Reads the requested status, and the order's branch if the backend names it.
fn read(body: &[u8]) -> Result<(StatusRequested, Option<String>), Vec<Fault>> {
    let mut faults = Faults::default();
    let Ok(root) = Node::root(body) else {
        faults.add("", "expected JSON");
        return Err(faults.none_or(()).err().unwrap_or_default());
    };
    let object = root.object(&mut faults);
    let word = object.get("status").required_text(&mut faults);
    let status = PushStatus::parse(&word);
    if status.is_none() && !word.is_empty() {
        let words: Vec<_> = PushStatus::of_backend().map(PushStatus::as_str).collect();
        let expected = format_args!(
            "expected {}, or confirmed, ready_for_pickup, out_for_delivery",
            words.join(", ")
        );
        faults.add("/status", expected);
    }
    let mut text = |name: &str, max: usize| {
        let node = object.get(name);
        let text = node.text(&mut faults)?;
        if text.chars().count() > max || text.chars().any(char::is_control) {
            faults.add(
                node.pointer(),
                format_args!("expected at most {max} characters, without control characters"),
            );
        }
        Some(text)
    };
    let (reason, order_id) = (text("reason", MAX_REASON_CHARS), text("orderId", MAX_ORDER_ID_BYTES));
    let branch = text("branchId", MAX_ORDER_ID_BYTES);
    let code = text("reasonCode", MAX_REASON_CHARS);
    let reason_code = code.as_deref().and_then(ReasonCode::parse);
    if code.is_some() && reason_code.is_none() {
        let codes: Vec<_> = ReasonCode::ALL.into_iter().map(ReasonCode::as_str).collect();
        faults.add("/reasonCode", format_args!("expected {}", codes.join(", ")));
    }
    let minutes = object.get("preparationMinutes");
    let preparation_minutes = minutes.whole(&mut faults).and_then(|count| {
        let count = u32::try_from(count)
            .ok()
            .filter(|count| *count <= MAX_PREPARATION_MINUTES);
        if count.is_none() {
            faults.add(
                minutes.pointer(),
                format_args!("expected a whole number from 0 to {MAX_PREPARATION_MINUTES}"),
            );
        }
        count
    });
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
    faults.none_or((wanted, branch))
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
