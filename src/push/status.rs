//! Sends a status to a provider.

use chrono::{SecondsFormat, TimeDelta, Utc};

use super::{Push, UNKNOWN_ORDER_RETRIES, branch::Owner};
use crate::{
    event::{
        EventType, NewEvent, Recorded,
        outcome::{ErrorReport, ErrorType, ORDER_AMBIGUOUS, OUTCOME},
        push::{StatusPushed, StatusRequested},
    },
    provider::outbound::template::Scope,
    remote::{Remote, Reply},
    retry::Failure,
};

impl Push {
    pub(super) async fn status(
        &self,
        remote: &Remote,
        event: &Recorded,
        request: u32,
    ) -> Result<Vec<NewEvent>, Failure> {
        let Ok(wanted) = serde_json::from_slice::<StatusRequested>(&event.payload) else {
            return self.unreadable(event, request);
        };
        let Some(call) = remote.spec.status.get(&wanted.status) else {
            return Ok(vec![pushed(event, &wanted, 0, None, false)]);
        };
        let branch = if remote.spec.needs_branch {
            match self.owner(event, wanted.order_id.as_deref()).await? {
                Owner::Branch(branch) => Some(branch),
                Owner::Nobody => {
                    let error = ErrorReport::new(
                        ErrorType::Validation,
                        "ORDER_NOT_KNOWN",
                        "no order of this provider was forwarded under that id, and the provider has not exactly one active branch",
                    );
                    return self.failed(event, request, error, None, UNKNOWN_ORDER_RETRIES);
                }
                Owner::Several => {
                    let error = ErrorReport::new(
                        ErrorType::Validation,
                        ORDER_AMBIGUOUS,
                        "several branches have an order of that number; ask again with branchId, or with the orderId of a forwarded order",
                    );
                    return Ok(self.given_up(event, request - 1, error));
                }
            }
        } else {
            event.envelope.branch.clone()
        };
        let mut subject = self.subject(remote, event, branch.as_deref()).await?;
        say(&mut subject.scope, event, &wanted);
        match remote.call(&subject.origin, call, &mut subject.scope).await {
            Err(unfilled) => self.unfilled(remote, event, request, &subject, &unfilled).await,
            Ok(Reply::Done { status, .. }) => {
                let already = call.done.contains(&status);
                Ok(vec![pushed(event, &wanted, request, Some(status), already)])
            }
            Ok(reply) => self.not_done(event, request, reply),
        }
    }
}

/// The values of the request's slots.
fn say(scope: &mut Scope, event: &Recorded, wanted: &StatusRequested) {
    let slots = &mut scope.0;
    slots.insert("status".into(), wanted.status.as_str().into());
    if let Some(reason) = &wanted.reason {
        slots.insert("reason".into(), reason.clone().into());
    }
    if let Some(minutes) = wanted.preparation_minutes {
        slots.insert("preparation_minutes".into(), minutes.into());
    }
    // Counted from the time of the request, so that it is the same for every repeat.
    let ready = event.envelope.time + TimeDelta::minutes(wanted.preparation_minutes.unwrap_or(0).into());
    let ready = ready.to_rfc3339_opts(SecondsFormat::Secs, true);
    slots.insert("accept_time".into(), ready.into());
    let order_id = wanted.order_id.as_ref().unwrap_or(&event.envelope.external_order_id);
    slots.insert("remote_order_id".into(), order_id.clone().into());
}

fn pushed(
    event: &Recorded,
    wanted: &StatusRequested,
    attempts: u32,
    provider_status: Option<u16>,
    already: bool,
) -> NewEvent {
    tracing::debug!(
        provider = &*event.envelope.provider,
        order_id = event.envelope.external_order_id,
        status = wanted.status.as_str(),
        attempts,
        "status told"
    );
    let payload = StatusPushed {
        status: wanted.status,
        skipped: provider_status.is_none(),
        already,
        provider_status,
        attempts,
        requested_at: event.envelope.time,
        pushed_at: Utc::now(),
    };
    NewEvent::new(
        event.follow(OUTCOME, EventType::OrderStatusPushed, Utc::now()),
        &payload,
    )
}
