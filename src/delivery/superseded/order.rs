//! What superseded a new order or news of one: what the backend was told about the order since.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    ANY_BRANCH, KnownAcceptances, Newer, NewerEvent, branch_token,
    end::End,
    find, from,
    history::{self, Said},
    news::{Accepted, Word},
    payload,
    says::{end_of, event_says, is_untransformed},
    subjects,
};
use crate::{
    event::{
        EventId, EventType, Recorded,
        outcome::{DUPLICATE_ORDER, DeadLettered, Ignored, SUPERSEDED},
        stage::FORWARD,
    },
    journal::{
        codec,
        connection::Connection,
        read::{Start, event_at},
    },
    order::{body, status::Status},
};

/// An event by which the backend has something newer about the order of an `order.transformed`, or the same.
pub(super) async fn superseded(
    connection: &Connection,
    event: &Recorded,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    let log = OrderLog::read(connection, event, acceptances).await?;
    if let Some(told) = log.repeat(event).filter(|_| !event.is_again) {
        return Ok(Some(NewerEvent::of_order(Newer::Repeat, told)));
    }
    // A person who has it sent again although the backend has it says which order it is about.
    if !event.is_again
        && !event.envelope.is_creation()
        && let Some(other) = another(connection, event, acceptances).await?
    {
        return Ok(Some(other));
    }
    log.newer(connection, event).await
}

/// What superseded a webhook that the provider sent again after it was given up, or that waited: a later word about its order, or another
/// order of the number.
///
/// # Errors
/// If NATS does not answer.
pub async fn of_repeat(
    connection: &Connection,
    event: &Recorded,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    if !event.envelope.is_creation() {
        let other = another(connection, event, acceptances).await?;
        if other.is_some() {
            return Ok(other);
        }
    }
    let log = OrderLog::read(connection, event, acceptances).await?;
    log.newer(connection, event).await
}

/// What became of the bodies about an event's order, as the log has it.
struct OrderLog {
    /// The outcomes in the log's order, except those of the event's own run.
    outcomes: Vec<Recorded>,
    /// For each body its end, and the outcome that says so.
    ends: Vec<(End, Recorded)>,
    /// The first acceptances of their webhooks.
    first: HashMap<EventId, u64>,
}

impl OrderLog {
    async fn read(
        connection: &Connection,
        event: &Recorded,
        acceptances: &impl KnownAcceptances,
    ) -> anyhow::Result<Self> {
        let mut outcomes = Vec::new();
        for event_type in [
            EventType::OrderForwarded,
            EventType::OrderIgnored,
            EventType::OrderDeadLettered,
        ] {
            outcomes.extend(self::outcomes(connection, event, event_type, acceptances).await?);
        }
        outcomes.sort_unstable_by_key(|outcome| outcome.sequence);
        let is_told_apart =
            |outcome: &Recorded| outcome.envelope.is_creation() && end_of(outcome) == Some(End::Differs);
        if outcomes.iter().any(is_told_apart) {
            // Whether that is another order, the announcement says that created this one, however early that was.
            let before = outcomes.first().map_or(0, |first| first.sequence);
            let created = self::created(connection, event, acceptances).await?;
            outcomes.extend(created.into_iter().filter(|one| one.sequence < before));
            outcomes.sort_unstable_by_key(|outcome| outcome.sequence);
        }
        let mut ends: Vec<(u64, (End, Recorded))> = Vec::new();
        for outcome in &outcomes {
            let Some(end) = end_of(outcome) else {
                continue;
            };
            let body = body_of(outcome);
            match ends.iter_mut().find(|(known, _)| *known == body) {
                None => ends.push((body, (end, outcome.clone()))),
                Some((_, known)) if known.0.then(end) != known.0 => *known = (known.0.then(end), outcome.clone()),
                Some(_) => {}
            }
        }
        let first = if ends.is_empty() {
            HashMap::new()
        } else {
            let webhooks = ends.iter().map(|(_, (_, outcome))| outcome.envelope.root_id);
            let webhooks = webhooks.chain([event.envelope.root_id]).collect();
            acceptances.first(event, webhooks).await?
        };
        let ends = ends.into_iter().map(|(_, end)| end).collect();
        Ok(Self { outcomes, ends, first })
    }

    /// The last outcome that says that the backend has the webhook itself.
    fn repeat(&self, event: &Recorded) -> Option<&Recorded> {
        self.outcomes.iter().rfind(|told| {
            told.envelope.event_type == EventType::OrderForwarded && told.envelope.root_id == event.envelope.root_id
        })
    }

    /// The later word that supersedes an event ([`history::newer`]). None if a person has the end of an earlier run of a new order
    /// retried: an order of its own, or one that is wanted nevertheless.
    async fn newer(&self, connection: &Connection, event: &Recorded) -> anyhow::Result<Option<NewerEvent>> {
        if event.envelope.is_creation() {
            let is_created = || self.ends.iter().any(|(end, _)| *end == End::Created);
            if self.was_ended(event) || (event.is_again && !is_created()) {
                return Ok(None);
            }
        }
        let own = said(accepted(event, &self.first), Some(event), event, End::LeftOut);
        let mut history = Vec::new();
        for (end, outcome) in &self.ends {
            let accepted = accepted(outcome, &self.first);
            // Of other words that came before, it only counts how they ended.
            let body = if accepted.is_after(own.word.accepted) || *end == End::Created {
                event_at(connection, body_of(outcome)).await?
            } else {
                None
            };
            history.push(said(accepted, body.as_ref(), outcome, *end));
        }
        let newer = history::newer(&own, &history);
        Ok(newer.map(|(at, newer)| NewerEvent::new(newer, &self.ends[at].1)))
    }

    fn was_ended(&self, event: &Recorded) -> bool {
        let is_end = |end: &Recorded| {
            let is_of_event = end.envelope.root_id == event.envelope.root_id
                && end.envelope.cause_sequence == Some(event.sequence)
                && end.envelope.event_type == EventType::OrderIgnored;
            let reason = || payload::<Ignored>(end).map(|ignored| ignored.reason);
            is_of_event && reason().is_some_and(|reason| reason == SUPERSEDED || reason == DUPLICATE_ORDER)
        };
        event.run.is_some() && self.outcomes.iter().any(is_end)
    }
}

/// Outcomes of one type about an event's order, except those of the same run. Those before it count as well, because they say whether the
/// order was announced, and created, before; except for a status that does not call the order off.
async fn outcomes(
    connection: &Connection,
    event: &Recorded,
    event_type: EventType,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Vec<Recorded>> {
    let (received_at, window) = (event.envelope.received_at, acceptances.window());
    let is_other_run = |later: &Recorded| {
        let is_of_order = later.envelope.received_at - received_at <= window;
        is_of_order && later.envelope.cause_id != Some(event.run_id())
    };
    let is_plain_status =
        !event.envelope.is_creation() && status_of(event).is_some_and(|status| !status.is_called_off());
    let begin = if is_plain_status {
        acceptances.begin(event).await?
    } else {
        from(received_at.checked_sub_signed(window).unwrap_or(DateTime::UNIX_EPOCH))
    };
    let searches = acceptances.searches();
    let of_branch = subjects(event, event_type, &branch_token(event));
    let mut found = find(connection, searches, event, (of_branch, begin), is_other_run).await?;
    if event_type == EventType::OrderDeadLettered {
        let without_branch = subjects(event, event_type, &codec::token(""));
        let is_of_order = |dead: &Recorded| is_other_run(dead) && is_untransformed(dead, event);
        found.extend(find(connection, searches, event, (without_branch, begin), is_of_order).await?);
    }
    Ok(found)
}

fn status_of(event: &Recorded) -> Option<Status> {
    body::announced(&event.payload).ok()?.status
}

/// Where the last outcome of each body about an event's order is, by the body's place.
///
/// # Errors
/// If NATS does not answer.
pub(crate) async fn ended_at(
    connection: &Connection,
    event: &Recorded,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<HashMap<u64, u64>> {
    let since = event.envelope.received_at.checked_sub_signed(acceptances.window());
    let begin = from(since.unwrap_or(DateTime::UNIX_EPOCH));
    let mut ended: HashMap<u64, u64> = HashMap::new();
    for event_type in [EventType::OrderForwarded, EventType::OrderDeadLettered] {
        let subjects = subjects(event, event_type, &branch_token(event));
        for outcome in find(connection, acceptances.searches(), event, (subjects, begin), |_| true).await? {
            let at = ended.entry(body_of(&outcome)).or_default();
            *at = outcome.sequence.max(*at);
        }
    }
    Ok(ended)
}

/// The outcomes by which the backend created an event's order, since the window before the event's acceptance.
async fn created(
    connection: &Connection,
    event: &Recorded,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Vec<Recorded>> {
    let (received_at, window) = (event.envelope.received_at, acceptances.window());
    let begin = from(received_at.checked_sub_signed(window).unwrap_or(DateTime::UNIX_EPOCH));
    let subjects = subjects(event, EventType::OrderForwarded, &branch_token(event));
    let is_created = |told: &Recorded| told.envelope.is_creation() && end_of(told) == Some(End::Created);
    find(connection, acceptances.searches(), event, (subjects, begin), is_created).await
}

/// Place of the body that an outcome is about; its own if an older version did not record it.
fn body_of(outcome: &Recorded) -> u64 {
    let dead = || payload::<DeadLettered>(outcome).map(|dead| dead.sequence);
    let is_dead = outcome.envelope.event_type == EventType::OrderDeadLettered;
    let body = is_dead.then(dead).flatten().or(outcome.envelope.cause_sequence);
    body.unwrap_or(outcome.sequence)
}

/// What an event says. `body`: its body, if the log has it; otherwise the outcome says what it can.
fn said(accepted: Accepted, body: Option<&Recorded>, outcome: &Recorded, end: End) -> Said {
    let body = body.filter(|body| body.envelope.event_type == EventType::OrderTransformed);
    let (status, says) = event_says(body.unwrap_or(outcome));
    Said {
        word: Word {
            webhook: outcome.envelope.root_id,
            accepted,
            status,
        },
        says,
        end,
        ended_at: Some(outcome.sequence),
    }
}

fn accepted(event: &Recorded, first: &HashMap<EventId, u64>) -> Accepted {
    Accepted {
        first: first.get(&event.envelope.root_id).copied(),
        received_at: event.envelope.received_at,
    }
}

/// An order of an event's number that is not the event's own, and that the backend has, or may have: its webhook was accepted so much
/// later that the number means another order, or it was announced after the event and is not the order that was announced before it.
async fn another(
    connection: &Connection,
    event: &Recorded,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    let branch = &*branch_token(event);
    let (received_at, window) = (event.envelope.received_at, acceptances.window());
    // Before that no order can be so much later.
    if Utc::now() - received_at > window {
        let is_another = |outcome: &Recorded| outcome.envelope.received_at - received_at > window;
        let after = Start::Sequence(event.sequence + 1);
        let found = created_since(connection, event, acceptances, (branch, after), is_another).await?;
        if let Some(first) = found.first() {
            return Ok(Some(NewerEvent::of_order(Newer::AnotherOrder, first)));
        }
    }
    announced_after(connection, event, branch, acceptances).await
}

/// An order that the backend has, or may have, that was announced after an event about an order, and is not the one that was announced
/// last before the event; none where no announcement before the event is on the log.
async fn announced_after(
    connection: &Connection,
    event: &Recorded,
    branch: &str,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    let (received_at, window) = (event.envelope.received_at, acceptances.window());
    let is_within = |outcome: &Recorded| outcome.envelope.received_at - received_at <= window;
    let begin = acceptances.begin(event).await?;
    let mut found = created_since(connection, event, acceptances, (branch, begin), is_within).await?;
    let webhooks = found.iter().map(|outcome| outcome.envelope.root_id);
    let first = acceptances
        .first(event, webhooks.chain([event.envelope.root_id]).collect())
        .await?;
    let own = accepted(event, &first);
    found.retain(|outcome| accepted(outcome, &first).is_after(own));
    if found.is_empty() {
        return Ok(None);
    }
    let Some(announced) = announced_before(connection, event, branch, (acceptances, own)).await? else {
        return Ok(None);
    };
    for outcome in found {
        let Some(sequence) = announcement_of(&outcome) else {
            continue;
        };
        let other = event_at(connection, sequence).await?;
        if other.is_some_and(|other| body::are_two_orders(&announced.payload, &other.payload)) {
            return Ok(Some(NewerEvent::of_order(Newer::AnotherOrder, &outcome)));
        }
    }
    Ok(None)
}

/// The last announcement of an event's order before the event was accepted.
async fn announced_before(
    connection: &Connection,
    event: &Recorded,
    branch: &str,
    (acceptances, own): (&impl KnownAcceptances, Accepted),
) -> anyhow::Result<Option<Recorded>> {
    let before = own.first.unwrap_or(event.sequence).min(event.accepted_at());
    let since = event.envelope.received_at.checked_sub_signed(acceptances.window());
    let begin = from(since.unwrap_or(DateTime::UNIX_EPOCH));
    let announcements = subjects(event, EventType::OrderTransformed, branch);
    let is_before = |one: &Recorded| one.envelope.is_creation() && one.accepted_at() < before;
    let searches = acceptances.searches();
    let found = find(connection, searches, event, (announcements, begin), is_before).await?;
    Ok(found.into_iter().max_by_key(Recorded::accepted_at))
}

/// An order that was announced after a status was requested, and is not the one that the status is about.
pub(super) async fn another_than_meant(
    connection: &Connection,
    event: &Recorded,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    let since = event.envelope.received_at.checked_sub_signed(acceptances.window());
    let begin = from(since.unwrap_or(DateTime::UNIX_EPOCH));
    let announcements = subjects(event, EventType::OrderTransformed, ANY_BRANCH);
    let is_announced = |one: &Recorded| one.envelope.is_creation();
    let searches = acceptances.searches();
    let found = find(connection, searches, event, (announcements, begin), is_announced).await?;
    let other = not_meant(event, &found, acceptances.window());
    Ok(other.map(|other| NewerEvent::new(Newer::AnotherOrder, other)))
}

/// The first of an order's announcements, in the log's order, that came after a status was requested and is of another order of the number:
/// one that was accepted longer than the window after the order that the status is about, or that differs from it. The status is about the
/// order that its branch announced last before. The provider knows the other one, whether the backend has it or not. Pure.
pub(super) fn not_meant<'a>(status: &Recorded, announced: &'a [Recorded], window: TimeDelta) -> Option<&'a Recorded> {
    let (before, after): (Vec<&Recorded>, Vec<&Recorded>) =
        announced.iter().partition(|one| one.sequence < status.sequence);
    let is_other = |other: &&&Recorded| {
        let meant = before.iter().rfind(|one| one.envelope.branch == other.envelope.branch);
        let begun = match meant {
            Some(meant) if body::are_two_orders(&meant.payload, &other.payload) => return true,
            Some(meant) => meant.envelope.received_at,
            // Its announcement has left the log, or was never there.
            None if before.is_empty() => status.envelope.received_at,
            None => return false,
        };
        other.envelope.received_at - begun > window
    };
    after.iter().find(is_other).copied()
}

/// The outcomes, since a place of the log, by which the backend has or may have a new order of an event's number.
async fn created_since(
    connection: &Connection,
    event: &Recorded,
    acceptances: &impl KnownAcceptances,
    (branch, begin): (&str, Start),
    matches: impl Fn(&Recorded) -> bool,
) -> anyhow::Result<Vec<Recorded>> {
    let is_created = |outcome: &Recorded| outcome.envelope.is_creation() && matches(outcome) && may_be_created(outcome);
    let mut found = Vec::new();
    for event_type in [EventType::OrderForwarded, EventType::OrderDeadLettered] {
        let subjects = subjects(event, event_type, branch);
        found.extend(
            find(
                connection,
                acceptances.searches(),
                event,
                (subjects, begin),
                &is_created,
            )
            .await?,
        );
    }
    Ok(found)
}

/// The place of the announcement that an outcome is about.
fn announcement_of(outcome: &Recorded) -> Option<u64> {
    match outcome.envelope.event_type {
        EventType::OrderForwarded => outcome.envelope.cause_sequence,
        _ => payload::<DeadLettered>(outcome).map(|dead| dead.sequence),
    }
}

/// Whether the backend has the order of a creation's outcome, or may have it.
fn may_be_created(outcome: &Recorded) -> bool {
    match outcome.envelope.event_type {
        EventType::OrderForwarded => end_of(outcome) == Some(End::Created),
        _ => payload::<DeadLettered>(outcome)
            .is_some_and(|dead| dead.stage == FORWARD.name && !dead.is_refused() && !dead.is_unposted()),
    }
}
