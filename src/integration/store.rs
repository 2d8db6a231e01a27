//! `PUT /api/integration/stores/{provider}/{branchId}`: whether a branch takes orders of a provider.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    extract::{ConnectInfo, Path, Request, State},
    http::Response,
};
use bytes::Bytes;

use super::{AcceptedRequest, Integration, checked_id, items::time, refusal::IntegrationRefusal};
use crate::{
    event::{
        EventType,
        branch::{StoreRequested, StoreState, store_subject},
        push::{MENU_SYNC, ReasonCode},
    },
    json::fault::{Fault, Faults},
    order::node::Node,
    provider::outbound::branch::StoreSpec,
};

/// The kind of these requests, in metrics and in the log.
const STORE_STATE: &str = "store_state";
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
    Path((provider, branch)): Path<(String, String)>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let request_info = integration.request_info(STORE_STATE, &provider, peer, &parts.headers);
    let taken = async {
        integration.check(&parts, &provider, request_info.client)?;
        let branch = checked_id("branchId", branch)?;
        let buffered = integration
            .read(&request_info, &parts.headers, body, MAX_BODY_BYTES)
            .await?;
        let wanted = read(&buffered.bytes).map_err(IntegrationRefusal::Faults)?;
        let calls = integration.outbound(&provider).map_or(&[][..], |spec| &spec.store);
        supported(calls, &provider, &wanted).map_err(IntegrationRefusal::NotSupported)?;
        let payload = serde_json::to_vec(&wanted).map_err(|_| IntegrationRefusal::Internal)?;
        let about = AcceptedRequest {
            kind: STORE_STATE,
            webhook_type: MENU_SYNC,
            event_type: EventType::StoreRequested,
            provider,
            subject: store_subject(&branch),
            branch: Some(branch),
        };
        integration.append(about, Bytes::from(payload), &parts.headers).await
    };
    let taken = taken.await;
    taken.unwrap_or_else(|reason| reason.answer(&request_info, &parts.headers))
}

/// Whether the provider has a call for the state.
fn supported(calls: &[StoreSpec], provider: &str, wanted: &StoreRequested) -> Result<(), Vec<Fault>> {
    let mut faults = Faults::default();
    if calls.is_empty() {
        faults.add("", format_args!("{provider} takes no states of branches"));
    } else if let Err(why) = StoreSpec::choose(calls, wanted) {
        faults.add(why.pointer, why.message);
    }
    faults.none_or(())
}

/// Reads the requested state.
fn read(body: &[u8]) -> Result<StoreRequested, Vec<Fault>> {
    let mut faults = Faults::default();
    let Ok(root) = Node::root(body) else {
        faults.add("", "expected JSON");
        return Err(faults.none_or(()).err().unwrap_or_default());
    };
    let object = root.object(&mut faults);
    let word = object.get("state").required_text(&mut faults);
    let state = StoreState::parse(&word);
    if state.is_none() && !word.is_empty() {
        let words: Vec<_> = StoreState::ALL.into_iter().map(StoreState::as_str).collect();
        faults.add("/state", format_args!("expected {}", words.join(", ")));
    }
    let reason = object.get("reason").text(&mut faults);
    if reason
        .as_ref()
        .is_some_and(|text| text.chars().count() > MAX_REASON_CHARS || text.chars().any(char::is_control))
    {
        let expected = format_args!("expected at most {MAX_REASON_CHARS} characters, without control characters");
        faults.add("/reason", expected);
    }
    let code = object.get("reasonCode").text(&mut faults);
    let reason_code = code.as_deref().and_then(ReasonCode::parse);
    if code.is_some() && reason_code.is_none() {
        let codes: Vec<_> = ReasonCode::ALL.into_iter().map(ReasonCode::as_str).collect();
        faults.add("/reasonCode", format_args!("expected {}", codes.join(", ")));
    }
    let minutes = object.get("preparationMinutes").whole(&mut faults);
    let preparation_minutes = minutes.and_then(|count| u32::try_from(count).ok());
    if minutes.is_some() && !preparation_minutes.is_some_and(|count| (1..=MAX_PREPARATION_MINUTES).contains(&count)) {
        let expected = format_args!("expected a whole number from 1 to {MAX_PREPARATION_MINUTES}");
        faults.add("/preparationMinutes", expected);
    }
    if minutes.is_some() && state.is_some_and(|state| state != StoreState::Busy) {
        faults.add("/preparationMinutes", "expected only with the state busy");
    }
    let until = time(&object.get("until"), &mut faults);
    if until.is_some() && state.is_some_and(|state| state != StoreState::Paused) {
        faults.add("/until", "expected only with the state paused");
    }
    let wanted = StoreRequested {
        // This default is never used: without a state there is a fault.
        state: state.unwrap_or(StoreState::Open),
        preparation_minutes,
        until,
        reason,
        reason_code,
    };
    faults.none_or(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_its_faults_are_named() {
        let good =
            br#"{"state":"paused","until":"2026-03-01T18:30:00Z","reason":"full","reasonCode":"too_busy","more":1}"#;
        let wanted = read(good).unwrap();
        assert_eq!(
            (wanted.state, wanted.reason_code, wanted.reason.as_deref()),
            (StoreState::Paused, Some(ReasonCode::TooBusy), Some("full"))
        );
        assert!(wanted.until.is_some());
        assert_eq!(
            read(br#"{"state":"busy","preparationMinutes":"25"}"#)
                .unwrap()
                .preparation_minutes,
            Some(25)
        );
        for (body, pointer) in [
            ("{}", "/state"),
            ("open", ""),
            (r#"{"state":"closed"}"#, "/state"),
            (r#"{"state":"busy","preparationMinutes":0}"#, "/preparationMinutes"),
            (r#"{"state":"busy","preparationMinutes":1441}"#, "/preparationMinutes"),
            (r#"{"state":"open","preparationMinutes":20}"#, "/preparationMinutes"),
            (r#"{"state":"open","until":"2026-03-01T18:30:00Z"}"#, "/until"),
            (r#"{"state":"paused","until":"2026-03-01 18:30"}"#, "/until"),
            (r#"{"state":"paused","reasonCode":"hungry"}"#, "/reasonCode"),
            (r#"{"state":"paused","reason":"a\u0007"}"#, "/reason"),
        ] {
            let faults = read(body.as_bytes()).unwrap_err();
            assert_eq!(faults[0].pointer, pointer, "{body}");
        }
    }
}
