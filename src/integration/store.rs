//! `PUT /api/integration/stores/{provider}/{branchId}`: whether a branch takes orders of a provider.

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
        branch::{StoreRequested, StoreState, store_subject},
        push::MENU_SYNC,
    },
    json::fault::{Fault, Faults},
    provider::outbound::branch::StoreSpec,
    remote::Remote,
};

/// The route.
pub(super) static ROUTE: Route = Route {
    method: MethodFilter::PUT,
    path: "/api/integration/stores/{provider}/{branchId}",
    kind: "store_state",
    about: About::Branch(store_subject),
    event_type: EventType::StoreRequested,
    webhook_type: MENU_SYNC,
    max_bytes: Some(MAX_BODY_BYTES),
    read: payload,
};

/// Most bytes of a request; an honest one has a hundred.
const MAX_BODY_BYTES: usize = 16 * 1024;

fn payload(body: &Bytes, remote: &Remote) -> Result<Payload, IntegrationRefusal> {
    let wanted = read(body).map_err(IntegrationRefusal::Faults)?;
    supported(&remote.spec.store, &remote.name, &wanted).map_err(IntegrationRefusal::NotSupported)?;
    Payload::of(&wanted)
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
    fields::body(body, |object, faults| {
        let states = StoreState::ALL.into_iter().map(StoreState::as_str);
        let state = fields::required_word(&object.get("state"), StoreState::from_word, states, faults);
        let reason = fields::text(object, "reason", MAX_REASON_CHARS, faults);
        let reason_code = fields::reason_code(object, faults);
        let preparation_minutes = fields::minutes(object, 1..=MAX_PREPARATION_MINUTES, faults);
        if preparation_minutes.is_some() && state.is_some_and(|state| state != StoreState::Busy) {
            faults.add("/preparationMinutes", "expected only with the state busy");
        }
        let until = fields::time(&object.get("until"), faults);
        if until.is_some() && state.is_some_and(|state| state != StoreState::Paused) {
            faults.add("/until", "expected only with the state paused");
        }
        StoreRequested {
            // This default is never used: without a state there is a fault.
            state: state.unwrap_or(StoreState::Open),
            preparation_minutes,
            until,
            reason,
            reason_code,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::push::ReasonCode;

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
