//! Sends to a provider whether a branch takes orders.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{
    Push,
    items::{call_in_turn, written},
};
use crate::{
    event::{
        EventType, NewEvent, Recorded,
        branch::{StorePushed, StoreRequested},
        outcome::OUTCOME,
        push::ReasonCode,
    },
    provider::outbound::{Spec, branch::StoreSpec, template::Scope},
    remote::{Remote, Reply},
    retry::Failure,
};

impl Push {
    pub(super) async fn store(
        &self,
        remote: &Remote,
        event: &Recorded,
        request: u32,
    ) -> Result<Vec<NewEvent>, Failure> {
        let Ok(wanted) = serde_json::from_slice::<StoreRequested>(&event.payload) else {
            return self.unreadable(event, request);
        };
        let calls = match StoreSpec::choose(&remote.spec.store, &wanted) {
            Ok(calls) => calls,
            Err(why) => return self.not_supported(event, request, &why),
        };
        let now = Utc::now();
        if wanted.until.is_some_and(|until| until <= now) {
            return Ok(vec![pushed(event, &wanted, request - 1, None)]);
        }
        let mut subject = self.subject(remote, event, event.envelope.branch.as_deref()).await?;
        let mut answered = None;
        // After a failure all are made again: each says what is to be, not what changes.
        for spec in calls {
            say(&mut subject.scope, &wanted, (&remote.spec, spec), now);
            match call_in_turn(remote, &subject.origin, &spec.call, &mut subject.scope).await {
                Err(unfilled) => return self.unfilled(remote, event, request, &subject, &unfilled).await,
                Ok(Reply::Done { status, .. }) => answered = Some(status),
                Ok(reply) => return self.not_done(event, request, reply),
            }
        }
        Ok(vec![pushed(event, &wanted, request, answered)])
    }
}

/// The state as slots.
fn say(scope: &mut Scope, wanted: &StoreRequested, (spec, of_state): (&Spec, &StoreSpec), now: DateTime<Utc>) {
    let slots = &mut scope.0;
    slots.insert("state".into(), wanted.state.as_str().into());
    slots.insert("preparation_minutes".into(), wanted.preparation_minutes.into());
    let seconds = wanted.preparation_minutes.map(|minutes| minutes * 60);
    slots.insert("preparation_seconds".into(), seconds.into());
    slots.insert("until".into(), wanted.until.map(written).into());
    slots.insert("until_unix".into(), wanted.until.map(|until| until.timestamp()).into());
    let minutes = wanted.until.map(|until| minutes_until(until, now));
    slots.insert("until_minutes".into(), minutes.into());
    slots.insert("reason".into(), wanted.reason.clone().into());
    let reasons = if of_state.call.reasons.is_empty() {
        &spec.reasons
    } else {
        &of_state.call.reasons
    };
    let code = wanted.reason_code.unwrap_or(ReasonCode::Other);
    let word = reasons.get(&code).or(reasons.get(&ReasonCode::Other));
    slots.insert("reason_code".into(), word.cloned().into());
}

/// Whole minutes, at least one: a branch that is closed for a bit longer is better than one that is open too early.
fn minutes_until(until: DateTime<Utc>, now: DateTime<Utc>) -> u64 {
    let left = (until - now).to_std().unwrap_or(Duration::ZERO);
    left.as_secs().div_ceil(60).max(1)
}

fn pushed(event: &Recorded, wanted: &StoreRequested, attempts: u32, provider_status: Option<u16>) -> NewEvent {
    let payload = StorePushed {
        state: wanted.state,
        outdated: provider_status.is_none(),
        provider_status,
        attempts,
        requested_at: event.envelope.time,
        pushed_at: Utc::now(),
    };
    NewEvent::new(event.follow(OUTCOME, EventType::StorePushed, Utc::now()), &payload)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn minutes_are_rounded_up() {
        let now = Utc::now();
        for (seconds, minutes) in [(1, 1), (60, 1), (61, 2), (1800, 30), (-5, 1)] {
            assert_eq!(minutes_until(now + TimeDelta::seconds(seconds), now), minutes);
        }
    }
}
