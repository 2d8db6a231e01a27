//! Applies events: all projections and the position in one transaction.

mod size;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub(super) use self::size::MaxBatch;
pub use self::size::{MAX_BYTES, MAX_EVENTS};
use super::{
    ALL, Projection,
    copy::Adding,
    decoded::Event,
    era::CursorLog,
    faults::{is_about_copy, is_events_fault},
    providers::Providers,
    rebuild::{
        beside::{Beside, Group},
        seen::SeenKeys,
    },
    rules::{EventOrder, WebhookKnowledge},
    writer::{self, Holder},
};
use crate::{
    database::{Connection, Transaction, query},
    event::EventType,
    fault_injection,
    telemetry::panics::{self, Panicked},
};

/// The replacement of a payload that PostgreSQL cannot store; the log has the real one.
const UNSTORABLE: &[u8] = br#"{"unstorable":"PostgreSQL cannot keep this payload as jsonb; see the event log"}"#;

/// The position after a batch.
#[derive(Clone, Copy)]
pub struct To<'a> {
    /// The sequence.
    pub position: u64,
    /// What is known of the log there, where that is more than before.
    pub log: Option<&'a CursorLog>,
}

/// Events that are applied together, as projections get them.
pub(crate) struct Batch<'a> {
    all: Vec<&'a Event>,
    /// How many of them are in the rows of the current projection.
    known: usize,
    /// What was known of each event's webhook before it; empty until the webhooks had their turn.
    pub(super) standings: Vec<WebhookKnowledge>,
    /// The rows of `delivery_providers`.
    pub(super) providers: &'a Providers,
    /// How the events come.
    pub(super) order: EventOrder,
    /// How new rows are added.
    pub(super) adding: Adding,
    /// Whether a row says what was written: the table is not used by others, and has no triggers.
    pub(super) rows_are_as_written: bool,
    /// The keys that the tables may have, where that is known.
    seen: Option<&'a SeenKeys>,
}

/// Where a batch's events come from, and how they are written.
#[derive(Clone, Copy)]
struct Manner<'a> {
    providers: &'a Providers,
    order: EventOrder,
    adding: Adding,
    rows_are_as_written: bool,
    seen: Option<&'a SeenKeys>,
}

impl<'a> Manner<'a> {
    /// Of one event.
    fn alone(providers: &'a Providers, order: EventOrder) -> Self {
        Self {
            providers,
            order,
            adding: Adding::Insert,
            rows_are_as_written: false,
            seen: None,
        }
    }
}

impl<'a> Batch<'a> {
    fn of(events: &'a [Event], manner: Manner<'a>) -> Self {
        Self {
            // What operators do has no rows.
            all: events
                .iter()
                .filter(|event| !event.envelope.event_type.is_of_operator())
                .collect(),
            known: 0,
            standings: Vec::new(),
            providers: manner.providers,
            order: manner.order,
            adding: manner.adding,
            rows_are_as_written: manner.rows_are_as_written,
            seen: manner.seen,
        }
    }

    /// Whether a row with this key may be there; to be asked once of each key of a batch.
    pub(super) fn may_be_there(&self, what: &str, key: (&str, &str)) -> bool {
        self.seen.is_none_or(|seen| seen.may_be_there(what, key))
    }

    /// The events, in the log's order.
    pub(super) fn events(&self) -> &[&'a Event] {
        &self.all[self.known..]
    }

    /// The events with what was known of their webhooks.
    pub(super) fn with_standings(&self) -> impl Iterator<Item = (&'a Event, WebhookKnowledge)> {
        self.events()
            .iter()
            .copied()
            .zip(self.standings[self.known..].iter().copied())
    }
}

/// The target of a batch.
#[derive(Clone, Copy)]
pub(super) struct BatchTarget<'a> {
    /// The rows of `delivery_providers`.
    pub(super) providers: &'a Providers,
    /// Which tables.
    pub(super) tables: Written<'a>,
}

/// Tables that a batch is applied to.
#[derive(Clone, Copy)]
pub(super) enum Written<'a> {
    /// The platform's, and those of the hub's own that are as far as these, by this writer.
    All(&'a Holder),
    /// One of the hub's own, up to where the tables are, by this writer.
    One(&'a Holder, &'static dyn Projection),
    /// Tables that are made beside those, or one group of them.
    Beside(&'a Beside, Group),
}

/// Applies events that follow the tables' position, in the log's order, and moves it to where `to` says; returns where the tables
/// stand then. Events at or before the position are passed over, so applying a batch twice changes nothing.
///
/// An event that PostgreSQL cannot take (its JSON is fine, but jsonb knows no NUL and no number of any size), or that the code
/// panics over, is found by halving the batch. It is applied with a stand-in for its payload, else noted in
/// `hub.skipped_events`: one bad event stops neither the table nor those behind it, nor does it slow them down.
///
/// # Errors
/// If PostgreSQL is away, or another instance has become the writer ([`writer::Replaced`]); the halves that were applied
/// before stay.
pub async fn apply(
    connection: &mut Connection,
    holder: &Holder,
    events: &[Event],
    to: To<'_>,
    providers: &Providers,
) -> anyhow::Result<u64> {
    let tables = Written::All(holder);
    let target = BatchTarget { providers, tables };
    apply_to(connection, target, events, to).await
}

/// The same for any target; the position is the target's.
///
/// # Errors
/// The same as [`apply`].
pub(super) fn apply_to<'a>(
    connection: &'a mut Connection,
    target: BatchTarget<'a>,
    events: &'a [Event],
    to: To<'a>,
) -> BoxFuture<'a, anyhow::Result<u64>> {
    apply_by(connection, target, events, to, Adding::Copy)
}

/// Applies events; new rows that cannot be copied are inserted.
fn apply_by<'a>(
    connection: &'a mut Connection,
    target: BatchTarget<'a>,
    events: &'a [Event],
    to: To<'a>,
    adding: Adding,
) -> BoxFuture<'a, anyhow::Result<u64>> {
    Box::pin(async move {
        let adding = if connection.may_copy() { adding } else { Adding::Insert };
        let error = match transact(connection, target, events, to, adding).await {
            Err(error) if adding == Adding::Copy && is_events_fault(&error) && !error.is::<Panicked>() => {
                return apply_by(connection, target, events, to, Adding::Insert).await;
            }
            Err(error) if adding == Adding::Copy && is_about_copy(&error) => {
                connection.copy_no_more();
                return apply_by(connection, target, events, to, Adding::Insert).await;
            }
            Err(error) if is_events_fault(&error) => error,
            other => return other,
        };
        match events {
            [] => Err(error),
            [event] => apply_alone(connection, target, event, to, error).await,
            _ => {
                let (first, second) = events.split_at(events.len() / 2);
                let middle = To {
                    position: first.last().map_or(to.position, |event| event.sequence),
                    log: None,
                };
                apply_by(connection, target, first, middle, adding).await?;
                apply_by(connection, target, second, to, adding).await
            }
        }
    })
}

/// Applies the event that a batch failed by.
async fn apply_alone(
    connection: &mut Connection,
    target: BatchTarget<'_>,
    event: &Event,
    to: To<'_>,
    error: anyhow::Error,
) -> anyhow::Result<u64> {
    let (sequence, event_type) = (event.sequence, event.envelope.event_type);
    let error = format!("{error:#}");
    if let Written::One(holder, only) = target.tables {
        let projection = only.name();
        tracing::error!(
            sequence, event = %event_type, projection, error,
            "event left out of this projection and noted in hub.skipped_events"
        );
        let reason = format!("{projection}: {error}");
        return leave_out(connection, holder, only, (sequence, event_type), &reason, to.position).await;
    }
    tracing::error!(sequence, event = %event_type, error, "the tables cannot keep this event as it is");
    metrics::counter!("projection_unstorable_total").increment(1);
    if event_type == EventType::WebhookReceived {
        let mut stand_in = event.recorded().clone();
        stand_in.payload = Bytes::from_static(UNSTORABLE);
        let stand_in = Event::new(stand_in);
        match transact(connection, target, &[stand_in], to, Adding::Insert).await {
            Err(error) if is_events_fault(&error) => {}
            other => return other,
        }
    }
    let holder = match target.tables {
        Written::Beside(beside, group) => return beside.leave_out(connection, group, to.position).await,
        Written::All(holder) | Written::One(holder, _) => holder,
    };
    tracing::error!(sequence, event = %event_type, "event left out of the tables and noted in hub.skipped_events");
    let skipped = Skipped {
        sequence,
        event_type: Some(event_type.as_str()),
        reason: &error,
        event: Some((event, target.providers)),
    };
    skip(connection, holder, skipped, to.position).await
}

/// Notes an event that a projection of the hub's own does not take while it is behind the tables, and moves its position past it.
async fn leave_out(
    connection: &mut Connection,
    holder: &Holder,
    projection: &dyn Projection,
    (sequence, event_type): (u64, EventType),
    reason: &str,
    up_to: u64,
) -> anyhow::Result<u64> {
    let transaction = connection.transaction().await?;
    let locked = writer::lock(&transaction, holder).await?;
    let (position, end) = (locked.of(projection).unwrap_or(u64::MAX), up_to.min(locked.position));
    if end <= position {
        return Ok(position);
    }
    metrics::counter!("projection_skipped_total").increment(1);
    transaction
        .execute(
            query::SKIP_EVENT,
            &[&i64::try_from(sequence)?, &event_type.as_str(), &reason],
        )
        .await?;
    writer::move_own(&transaction, projection, end).await?;
    transaction.commit().await?;
    Ok(end)
}

/// An event that has no rows in the platform's tables.
pub(super) struct Skipped<'a> {
    /// Its place on the log.
    pub(super) sequence: u64,
    /// Its type, where that is known.
    pub(super) event_type: Option<&'a str>,
    /// Why it has none.
    pub(super) reason: &'a str,
    /// The event for the hub's own projections, where this version can read it.
    pub(super) event: Option<(&'a Event, &'a Providers)>,
}

/// Notes an event that the platform's tables do not take, applies it to the hub's own projections, and moves the position past it.
///
/// # Errors
/// The same as [`apply`].
pub(super) async fn skip(
    connection: &mut Connection,
    holder: &Holder,
    skipped: Skipped<'_>,
    up_to: u64,
) -> anyhow::Result<u64> {
    metrics::counter!("projection_skipped_total").increment(1);
    let transaction = connection.transaction().await?;
    let locked = writer::lock(&transaction, holder).await?;
    if up_to <= locked.position {
        return Ok(locked.position);
    }
    let sequence = i64::try_from(skipped.sequence)?;
    transaction
        .execute(query::SKIP_EVENT, &[&sequence, &skipped.event_type, &skipped.reason])
        .await?;
    if let Some((event, providers)) = skipped.event {
        for own in locked.current() {
            if own.0.is_own() {
                write_if_it_can(&transaction, event, providers, own).await?;
            }
        }
    }
    writer::move_to(&transaction, &locked, up_to, None).await?;
    transaction.commit().await?;
    Ok(up_to)
}

/// Applies an event to a projection; where that cannot take it either, the transaction goes on without.
async fn write_if_it_can(
    transaction: &Transaction<'_>,
    event: &Event,
    providers: &Providers,
    projection: (&'static dyn Projection, u64),
) -> anyhow::Result<()> {
    transaction.batch_execute("SAVEPOINT own").await?;
    let (events, manner) = (std::slice::from_ref(event), Manner::alone(providers, EventOrder::Logs));
    let written = panics::catch("projection", write(transaction, events, manner, &[projection])).await;
    match written.map_err(anyhow::Error::from).flatten() {
        Ok(()) => {}
        Err(error) if is_events_fault(&error) => {
            transaction.batch_execute("ROLLBACK TO SAVEPOINT own").await?;
            tracing::error!(
                sequence = event.sequence,
                projection = projection.0.name(),
                error = format!("{error:#}"),
                "event left out of this projection, too"
            );
        }
        Err(error) => return Err(error),
    }
    Ok(transaction.batch_execute("RELEASE SAVEPOINT own").await?)
}

/// Applies an event that was skipped before; false if it still cannot be applied.
///
/// # Errors
/// The same as [`apply`].
pub(super) async fn apply_skipped(
    connection: &mut Connection,
    holder: &Holder,
    event: &Event,
    providers: &Providers,
) -> anyhow::Result<bool> {
    let events = std::slice::from_ref(event);
    let applied = panics::catch("projection", async {
        let transaction = connection.transaction().await?;
        let locked = writer::lock(&transaction, holder).await?;
        // A projection that is behind gets this batch later, in the log's order.
        let mut due = Vec::with_capacity(ALL.len());
        for projection in ALL {
            let is_as_far = |position: u64| position >= event.sequence;
            if !projection.is_own() || locked.of(projection).is_some_and(is_as_far) {
                due.push((projection, 0));
            }
        }
        write(&transaction, events, Manner::alone(providers, EventOrder::Late), &due).await?;
        let sequence = i64::try_from(event.sequence)?;
        transaction.execute(query::UNSKIP_EVENT, &[&sequence]).await?;
        transaction.commit().await?;
        anyhow::Ok(())
    });
    match applied.await.map_err(anyhow::Error::from).flatten() {
        Ok(()) => Ok(true),
        Err(error) if is_events_fault(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn transact(
    connection: &mut Connection,
    target: BatchTarget<'_>,
    events: &[Event],
    to: To<'_>,
    adding: Adding,
) -> anyhow::Result<u64> {
    let manner = Manner {
        providers: target.providers,
        order: EventOrder::Logs,
        adding,
        rows_are_as_written: matches!(target.tables, Written::Beside(..)),
        seen: match target.tables {
            Written::Beside(beside, _) => Some(beside.seen()),
            Written::All(_) | Written::One(..) => None,
        },
    };
    let applied = panics::catch("projection", async {
        let transaction = connection.transaction().await?;
        let end = match target.tables {
            Written::All(holder) => {
                let locked = writer::lock(&transaction, holder).await?;
                let (position, end) = (locked.position, to.position);
                if end <= position {
                    return Ok(position);
                }
                write(&transaction, between(events, position, end), manner, &locked.current()).await?;
                writer::move_to(&transaction, &locked, end, to.log).await?;
                end
            }
            Written::One(holder, only) => {
                let locked = writer::lock(&transaction, holder).await?;
                // The projection has another version by now: nothing to do.
                let position = locked.of(only).unwrap_or(u64::MAX);
                let end = to.position.min(locked.position);
                if end <= position {
                    return Ok(position);
                }
                write(
                    &transaction,
                    between(events, position, end),
                    manner,
                    &[(only, position)],
                )
                .await?;
                writer::move_own(&transaction, only, end).await?;
                end
            }
            Written::Beside(beside, group) => {
                let (position, end) = (beside.lock(&transaction, group).await?, to.position);
                if end <= position {
                    return Ok(position);
                }
                let due = beside.due(group, position);
                write(&transaction, between(events, position, end), manner, &due).await?;
                beside.move_to(&transaction, group, end).await?;
                end
            }
        };
        transaction.commit().await?;
        Ok(end)
    });
    applied.await.map_err(anyhow::Error::from).flatten()
}

/// Those of the events that stand behind a place on the log, up to another one.
fn between(events: &[Event], after: u64, up_to: u64) -> &[Event] {
    let count_up_to = |sequence: u64| events.partition_point(|event| event.sequence <= sequence);
    &events[count_up_to(after)..count_up_to(up_to)]
}

/// Applies the events to projections, to each those behind its position: it reads what it knows, and writes the result.
async fn write(
    transaction: &Transaction<'_>,
    events: &[Event],
    manner: Manner<'_>,
    projections: &[(&'static dyn Projection, u64)],
) -> anyhow::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    for event in events {
        fault_injection::panic_at("projection", &event.envelope.external_order_id);
    }
    let mut batch = Batch::of(events, manner);
    for (projection, position) in projections {
        batch.known = batch.all.partition_point(|event| event.sequence <= *position);
        if !batch.events().is_empty() {
            projection.apply(transaction, &mut batch).await?;
        }
    }
    Ok(())
}
