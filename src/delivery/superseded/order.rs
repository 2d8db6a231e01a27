//! What superseded a new order or news of one: what the backend was told about the order since.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use super::{
    KnownAcceptances, Newer, NewerEvent, branch_token, find, from,
    news::{self, Accepted, ToldAs, Verdict, Word},
    payload, subjects,
};
use crate::{
    event::{
        EventId, EventType, Recorded,
        outcome::{DUPLICATE_ORDER, DeadLettered, Forwarded, Ignored, NOTHING_TO_CANCEL, SUPERSEDED},
        stage::FORWARD,
    },
    journal::{
        connection::Connection,
        read::{Start, event_at},
    },
    order::{
        body,
        status::{OrderStatus, Status},
    },
};

/// An event by which the backend has something newer about the order of an `order.transformed`, or the same.
pub(super) async fn superseded(
    connection: &Connection,
    event: &Recorded,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    let envelope = &event.envelope;
    let told = told(connection, event, acceptances).await?;
    let is_repeat = |told: &&Recorded| {
        told.envelope.event_type == EventType::OrderForwarded && told.envelope.root_id == envelope.root_id
    };
    if let Some(told) = told.iter().rfind(is_repeat).filter(|_| !event.is_again) {
        return Ok(Some(NewerEvent::of_order(Newer::Repeat, told)));
    }
    if envelope.is_creation() {
        return of_creation(connection, event, &told, acceptances).await;
    }
    // A person who has it sent again although the backend has it says which order it is about.
    if !event.is_again
        && let Some(other) = another(connection, event, &branch_token(event), acceptances).await?
    {
        return Ok(Some(other));
    }
    if envelope.is_amendment() {
        return newer_lines(connection, event, &told, acceptances).await;
    }
    newer_news(connection, event, &told, acceptances).await
}

/// What superseded a webhook that the provider sent again after it was given up, or that waited: an order that was called off, a change
/// of an order's lines, or another order of the number. Statuses are compared by the memory of orders.
///
/// # Errors
/// If NATS does not answer.
pub async fn of_repeat(
    connection: &Connection,
    event: &Recorded,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    if event.envelope.is_creation() {
        let told = told(connection, event, acceptances).await?;
        return of_creation(connection, event, &told, acceptances).await;
    }
    let other = announced_after(connection, event, &branch_token(event), acceptances).await?;
    if other.is_some() || !event.envelope.is_amendment() {
        return Ok(other);
    }
    let told = told(connection, event, acceptances).await?;
    newer_lines(connection, event, &told, acceptances).await
}

/// What the backend was told of an event's order, and what of it went no further.
async fn told(
    connection: &Connection,
    event: &Recorded,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Vec<Recorded>> {
    let mut told = outcomes(connection, event, EventType::OrderForwarded, acceptances).await?;
    told.extend(outcomes(connection, event, EventType::OrderIgnored, acceptances).await?);
    Ok(told)
}

/// Outcomes of one type about an event's order, except those of the same run. For an announcement those before it count as well: they
/// say whether another one created the order.
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
    let begin = if event.envelope.is_creation() {
        from(received_at.checked_sub_signed(window).unwrap_or(DateTime::UNIX_EPOCH))
    } else {
        acceptances.begin(event).await?
    };
    let subjects = subjects(event, event_type, &branch_token(event));
    find(
        connection,
        acceptances.searches(),
        event,
        (subjects, begin),
        is_other_run,
    )
    .await
}

/// What superseded an announcement: if another one created the order, a later change of its lines; otherwise that the order was called
/// off. None if a person has the end of an earlier run retried: an order of its own, or one that is wanted nevertheless.
async fn of_creation(
    connection: &Connection,
    event: &Recorded,
    told: &[Recorded],
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    let root = event.envelope.root_id;
    let was_ended = |end: &Recorded| {
        let is_of_event = end.envelope.root_id == root && end.envelope.cause_sequence == Some(event.sequence);
        let reason = || payload::<Ignored>(end).map(|ignored| ignored.reason);
        is_of_event && reason().is_some_and(|reason| reason == SUPERSEDED || reason == DUPLICATE_ORDER)
    };
    if event.run.is_some() && told.iter().any(was_ended) {
        return Ok(None);
    }
    let created = || told.iter().filter(|told| is_created(told));
    if created().any(|told| told.envelope.root_id == root) {
        return Ok(None);
    }
    if created().next().is_some() {
        return newer_lines(connection, event, told, acceptances).await;
    }
    if event.is_again {
        return Ok(None);
    }
    called_off(connection, event, told, acceptances).await
}

/// A report that calls an order off, accepted after the order: the backend has it, or it was given up, so that the order would stay, or
/// there was nothing to cancel.
async fn called_off(
    connection: &Connection,
    event: &Recorded,
    told: &[Recorded],
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    let nothing_to_cancel = |outcome: &Recorded| {
        outcome.envelope.event_type == EventType::OrderIgnored
            && payload::<Ignored>(outcome).is_some_and(|end| end.reason == NOTHING_TO_CANCEL)
    };
    let is_other = |outcome: &&Recorded| outcome.envelope.root_id != event.envelope.root_id;
    let told = told.iter().filter(is_other);
    let mut reports: Vec<Recorded> = told
        .filter(|told| tells_cancellation(told) || nothing_to_cancel(told))
        .cloned()
        .collect();
    let dead = outcomes(connection, event, EventType::OrderDeadLettered, acceptances).await?;
    for outcome in dead.iter().filter(is_other).filter(|dead| !dead.envelope.is_creation()) {
        let Some(dead) = payload::<DeadLettered>(outcome).filter(|dead| dead.stage == FORWARD.name) else {
            continue;
        };
        let given_up = event_at(connection, dead.sequence).await?;
        let status = given_up.and_then(|given_up| status_of(&given_up));
        if status.is_some_and(Status::is_called_off) {
            reports.push(outcome.clone());
        }
    }
    let later = latest_after(event, reports, acceptances).await?;
    Ok(later.map(|report| NewerEvent::new(Newer::CalledOff, &report)))
}

/// Whether an outcome says that the backend was told of an order's cancellation.
fn tells_cancellation(outcome: &Recorded) -> bool {
    outcome.envelope.event_type == EventType::OrderForwarded
        && payload::<Forwarded>(outcome).is_some_and(|has| {
            let is_news = has.as_news || !outcome.envelope.is_creation();
            is_news && has.order.status.as_deref() == Some(OrderStatus::Cancelled.as_str())
        })
}

/// A later change of an order's lines that the backend has, or its cancellation; none if the event changes no lines.
async fn newer_lines(
    connection: &Connection,
    event: &Recorded,
    told: &[Recorded],
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    if event.envelope.is_amendment() && !body::changes_only_lines(&event.payload) {
        return Ok(None);
    }
    let is_other = |outcome: &Recorded| outcome.envelope.root_id != event.envelope.root_id;
    let cancellations = told.iter().filter(|told| is_other(told) && tells_cancellation(told));
    let cancellations = cancellations.filter(|_| !event.is_again).cloned().collect();
    if let Some(cancelled) = latest_after(event, cancellations, acceptances).await? {
        return Ok(Some(NewerEvent::new(Newer::Cancelled, &cancelled)));
    }
    let mut changes = Vec::new();
    for outcome in told {
        let is_other = is_other(outcome);
        let Some(has) = payload::<Forwarded>(outcome).filter(|_| is_other) else {
            continue;
        };
        let has_lines = if outcome.envelope.is_amendment() {
            let Some(sequence) = outcome.envelope.cause_sequence else {
                continue;
            };
            let amendment = event_at(connection, sequence).await?;
            amendment.is_some_and(|amendment| body::has_lines(&amendment.payload))
        } else {
            // Of two announcements `forward` knows which is the older one, except where one was sent as news.
            has.as_news == event.envelope.is_creation()
        };
        if has_lines {
            changes.push(outcome.clone());
        }
    }
    let Some(change) = latest_after(event, changes, acceptances).await? else {
        return Ok(None);
    };
    // An amendment may come before its order.
    if event.envelope.is_amendment() && change.envelope.is_creation() {
        let first = acceptances.first(event, vec![event.envelope.root_id]).await?;
        let own = (acceptances, accepted(event, &first));
        if announced_before(connection, event, &branch_token(event), own)
            .await?
            .is_none()
        {
            return Ok(None);
        }
    }
    Ok(Some(NewerEvent::new(Newer::Lines, &change)))
}

/// The last of these outcomes that follows from a webhook first accepted after the event's.
async fn latest_after(
    event: &Recorded,
    outcomes: Vec<Recorded>,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<Recorded>> {
    if outcomes.is_empty() {
        return Ok(None);
    }
    let webhooks = outcomes.iter().map(|outcome| outcome.envelope.root_id);
    let webhooks = webhooks.chain([event.envelope.root_id]).collect();
    let first = acceptances.first(event, webhooks).await?;
    let own = accepted(event, &first);
    Ok(outcomes
        .into_iter()
        .rfind(|outcome| accepted(outcome, &first).is_after(own)))
}

fn accepted(event: &Recorded, first: &HashMap<EventId, u64>) -> Accepted {
    Accepted {
        first: first.get(&event.envelope.root_id).copied(),
        received_at: event.envelope.received_at,
    }
}

fn status_of(event: &Recorded) -> Option<Status> {
    body::announced(&event.payload).ok()?.status
}

/// Whether it records that the backend has a new order.
fn is_created(outcome: &Recorded) -> bool {
    outcome.envelope.is_creation()
        && outcome.envelope.event_type == EventType::OrderForwarded
        && payload::<Forwarded>(outcome).is_some_and(|forwarded| !forwarded.as_news)
}

/// News by which the backend has something newer about an order, among the events that told it something.
async fn newer_news(
    connection: &Connection,
    event: &Recorded,
    told: &[Recorded],
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
    let envelope = &event.envelope;
    let status = status_of(event);
    let told = told.iter().filter(|told| told.envelope.root_id != envelope.root_id);
    let told: Vec<_> = told.filter_map(|told| Some((told, told_as(told)?))).collect();
    if status.is_none() || told.is_empty() {
        return Ok(None);
    }
    let webhooks = told
        .iter()
        .map(|(told, _)| told.envelope.root_id)
        .chain([envelope.root_id]);
    let first = acceptances.first(event, webhooks.collect()).await?;
    let word = |event: &Recorded, status| Word {
        webhook: event.envelope.root_id,
        accepted: accepted(event, &first),
        status,
    };
    for (told, told_as) in told.into_iter().rev() {
        // Only the body contains the status of an announcement.
        let cause = told.envelope.cause_sequence.filter(|_| told_as == ToldAs::Announcement);
        let announced = match cause {
            Some(sequence) => event_at(connection, sequence).await?.as_ref().and_then(status_of),
            None => None,
        };
        if news::judge(&word(event, status), &word(told, announced), told_as) == Verdict::Superseded {
            return Ok(Some(NewerEvent::new(Newer::News, told)));
        }
    }
    Ok(None)
}

/// An order of an event's number that is not the event's own, and that the backend has, or may have: its webhook was accepted so much
/// later that the number means another order, or it was announced after the event and is not the order that was announced before it.
pub(super) async fn another(
    connection: &Connection,
    event: &Recorded,
    branch: &str,
    acceptances: &impl KnownAcceptances,
) -> anyhow::Result<Option<NewerEvent>> {
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
    let before = own.first.unwrap_or(event.sequence).min(event.sequence);
    let since = event.envelope.received_at.checked_sub_signed(acceptances.window());
    let begin = from(since.unwrap_or(DateTime::UNIX_EPOCH));
    let announcements = subjects(event, EventType::OrderTransformed, branch);
    let is_before = |one: &Recorded| one.envelope.is_creation() && one.sequence < before;
    let searches = acceptances.searches();
    let mut found = find(connection, searches, event, (announcements, begin), is_before).await?;
    Ok(found.pop())
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
        EventType::OrderForwarded => is_created(outcome),
        _ => payload::<DeadLettered>(outcome)
            .is_some_and(|dead| dead.stage == FORWARD.name && !dead.is_refused() && !dead.is_unposted()),
    }
}

/// How an outcome reported a status to the backend; none if it reported none.
fn told_as(outcome: &Recorded) -> Option<ToldAs> {
    if outcome.envelope.event_type == EventType::OrderIgnored {
        return payload::<Ignored>(outcome)?.differs.then_some(ToldAs::Announcement);
    }
    let has = payload::<Forwarded>(outcome)?;
    if has.order.provider_status.is_empty() {
        return None;
    }
    let is_news = has.as_news || !outcome.envelope.is_creation();
    Some(if is_news { ToldAs::News } else { ToldAs::Announcement })
}
