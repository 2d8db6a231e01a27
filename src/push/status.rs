//! Sends a status to a provider.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use serde_json::json;

use super::{
    Push, UNKNOWN_ORDER_RETRIES,
    branch::{Owner, away},
    ownership,
};
use crate::{
    event::{
        EventType, NewEvent, Recorded,
        outcome::{ANOTHER_ORDER, ErrorReport, ErrorType, OUTCOME},
        push::{PushStatus, ReasonCode, StatusPushed, StatusRequested},
    },
    order::body::{self, Facts},
    provider::outbound::{Call, Spec, template::Scope},
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
        if let Some(other) = self.another_order(event).await? {
            return Ok(self.given_up(event, request - 1, other));
        }
        let Some(calls) = remote.spec.status.get(&wanted.status) else {
            return Ok(vec![pushed(event, &wanted, 0, None, false)]);
        };
        let Some(call) = self.call_for(event, wanted.status, calls).await else {
            return Ok(vec![pushed(event, &wanted, 0, None, false)]);
        };
        let branch = if remote.spec.needs_branch {
            match self.owner(event, &wanted).await? {
                Owner::Branch(branch) => Some(branch),
                Owner::Nobody => {
                    let error = ErrorReport::new(
                        ErrorType::Validation,
                        "ORDER_NOT_KNOWN",
                        "no order of this provider was forwarded under that id, and the provider has not exactly one active branch",
                    );
                    return self.failed(event, request, error, None, UNKNOWN_ORDER_RETRIES);
                }
                Owner::Several => return Ok(self.given_up(event, request - 1, ownership::ambiguous())),
            }
        } else {
            event.envelope.branch.clone()
        };
        if !call.names_branch
            && let Some(error) = self.not_meant(event, branch.as_deref()).await?
        {
            return Ok(self.given_up(event, request - 1, error));
        }
        let mut subject = self.subject(remote, event, branch.as_deref()).await?;
        say(&mut subject.scope, event, &wanted, (&remote.spec, call));
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

impl Push {
    /// The error of a status that waited until its number meant another order: the provider would take it for that one's.
    ///
    /// # Errors
    /// If the log does not answer.
    async fn another_order(&self, event: &Recorded) -> Result<Option<ErrorReport>, Failure> {
        let other = self
            .orders
            .another_of_number(event)
            .await
            .map_err(|error| away(&error))?;
        Ok(other.map(|other| {
            let message = format!("the provider was not told, because the number means {other}");
            let error = ErrorReport::new(ErrorType::Validation, ANOTHER_ORDER, message);
            error.with(json!({ "event": other.id }))
        }))
    }

    /// The call that sends the provider a status of this order; none if it takes none about it, as the order's announcement
    /// says. An order that is not known says nothing against a call: the provider itself can refuse it.
    async fn call_for<'c>(&self, event: &Recorded, status: PushStatus, calls: &'c [Call]) -> Option<&'c Call> {
        let depends = |call: &Call| call.offered.is_some() || !call.only_for.is_empty();
        if !calls.iter().any(depends) {
            return calls.first();
        }
        let facts = self.announced(event).await;
        let takes = facts.as_ref().and_then(|facts| facts.provider_takes.as_ref());
        if takes.is_some_and(|takes| !takes.contains(&status)) {
            return None;
        }
        let Some(kind) = facts.as_ref().and_then(|facts| facts.fulfillment.as_deref()) else {
            return calls.first();
        };
        let is_for = |call: &&Call| call.only_for.is_empty() || call.only_for.iter().any(|one| one.as_str() == kind);
        calls.iter().find(is_for)
    }

    /// What the order's announcement says; none if it is not known, or cannot be read.
    async fn announced(&self, event: &Recorded) -> Option<Facts> {
        let known = self.orders.known(event);
        let announcements = known.found.iter().rev().filter(|found| found.state.is_creation());
        for found in announcements {
            match self.orders.read(event, *found).await {
                Ok(Some(order)) => return body::facts(&order.payload).ok(),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        provider = &*event.envelope.provider,
                        order_id = event.envelope.external_order_id,
                        error = format!("{error:#}"),
                        "cannot read which statuses the provider takes about an order; it is told this one"
                    );
                    return None;
                }
            }
        }
        None
    }
}

/// What the provider is to be told, as slots.
fn say(scope: &mut Scope, event: &Recorded, wanted: &StatusRequested, (spec, call): (&Spec, &Call)) {
    let slots = &mut scope.0;
    slots.insert("status".into(), wanted.status.as_str().into());
    if let Some(reason) = &wanted.reason {
        slots.insert("reason".into(), reason.clone().into());
    }
    let reasons = if call.reasons.is_empty() {
        &spec.reasons
    } else {
        &call.reasons
    };
    let code = wanted.reason_code.unwrap_or(ReasonCode::Other);
    if let Some(word) = reasons.get(&code).or(reasons.get(&ReasonCode::Other)) {
        slots.insert("reason_code".into(), word.clone().into());
    }
    let written = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let asked = event.envelope.time;
    slots.insert("occurred_at".into(), written(asked).into());
    // The same for every repeat: counted from when it was asked for.
    let ready = asked + TimeDelta::minutes(wanted.preparation_minutes.unwrap_or(0).into());
    if let Some(minutes) = wanted.preparation_minutes {
        slots.insert("preparation_minutes".into(), minutes.into());
        slots.insert("ready_at".into(), written(ready).into());
    }
    // A provider that takes no time that is near refuses one that a late repeat has made so.
    let least = Utc::now() + TimeDelta::from_std(spec.accept_at_least).unwrap_or_default();
    let accept = if spec.accept_at_least.is_zero() {
        ready
    } else {
        ready.max(least)
    };
    slots.insert("accept_time".into(), written(accept).into());
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
