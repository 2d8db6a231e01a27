//! Applying events: all tables and the position in one transaction.

use std::borrow::Cow;

use bytes::Bytes;

use super::{
    delivery_error_logs::Errors,
    era::Kept,
    provider_order_logs::OrderLogs,
    providers::Providers,
    rules::{self, Order},
    webhook_logs::Webhooks,
    writer::{self, Holder},
};
use crate::{
    database::{self, Connection, Transaction, query},
    event::{EventType, Recorded},
    fault_injection,
    order::sanitise::with_whole_surrogates,
    telemetry::panics::{self, Panicked},
};

/// Most events of one transaction. The more of an order's events are in it, the fewer times its row is written: while
/// the tables catch up, with a backlog between an order's first event and its last, this is most of what they cost.
pub const MAX_EVENTS: usize = 3000;
/// Most payload bytes of one transaction; a full batch of ordinary orders has half of it.
pub const MAX_BYTES: usize = 6 * 1024 * 1024;

/// What stands in for a payload that PostgreSQL cannot keep; the log has the real one.
const UNSTORABLE: &[u8] = br#"{"unstorable":"PostgreSQL cannot keep this payload as jsonb; see the event log"}"#;

/// Where a batch moves the position.
#[derive(Clone, Copy)]
pub struct To<'a> {
    /// The sequence.
    pub position: u64,
    /// What is known of the log there, where that is more than before.
    pub log: Option<&'a Kept>,
}

/// Applies events that follow the position, in the log's order, and moves it to where `to` says; returns where the tables stand
/// then. Events at or before the position are passed over, so applying a batch twice changes nothing.
///
/// An event that PostgreSQL cannot take (its JSON is fine, but jsonb knows no NUL and no number of any size), or that the code
/// panics over, is found by halving the batch. It is applied with a stand-in for its payload, else noted in
/// `hub.skipped_events`: one bad event stops neither the table nor those behind it, nor does it slow them down.
///
/// # Errors
/// Where PostgreSQL is away, or another instance has become the writer ([`writer::Replaced`]); the halves that were applied
/// before stay.
pub async fn apply(
    connection: &mut Connection,
    holder: &Holder,
    events: &[Recorded],
    to: To<'_>,
    providers: &Providers,
) -> anyhow::Result<u64> {
    let error = match transact(connection, holder, events, to, providers).await {
        Err(error) if is_events_fault(&error) => error,
        other => return other,
    };
    match events {
        [] => Err(error),
        [event] => apply_alone(connection, holder, event, to, providers, error).await,
        _ => {
            let (first, second) = events.split_at(events.len() / 2);
            let middle = To {
                position: first.last().map_or(to.position, |event| event.sequence),
                log: None,
            };
            Box::pin(apply(connection, holder, first, middle, providers)).await?;
            Box::pin(apply(connection, holder, second, to, providers)).await
        }
    }
}

/// Applies the event that a batch failed by.
async fn apply_alone(
    connection: &mut Connection,
    holder: &Holder,
    event: &Recorded,
    to: To<'_>,
    providers: &Providers,
    error: anyhow::Error,
) -> anyhow::Result<u64> {
    let (sequence, event_type) = (event.sequence, event.envelope.event_type);
    let error = format!("{error:#}");
    tracing::error!(sequence, event = %event_type, error, "the tables cannot keep this event as it is");
    metrics::counter!("projection_unstorable_total").increment(1);
    if event_type == EventType::WebhookReceived {
        let mut stand_in = event.clone();
        stand_in.payload = Bytes::from_static(UNSTORABLE);
        match transact(connection, holder, &[stand_in], to, providers).await {
            Err(error) if is_events_fault(&error) => {}
            other => return other,
        }
    }
    tracing::error!(sequence, event = %event_type, "event left out of the tables and noted in hub.skipped_events");
    skip(
        connection,
        holder,
        sequence,
        Some(event_type.as_str()),
        &error,
        to.position,
    )
    .await
}

/// Notes an event that has no rows, and moves the position past it.
///
/// # Errors
/// As [`apply`].
pub(super) async fn skip(
    connection: &mut Connection,
    holder: &Holder,
    sequence: u64,
    event_type: Option<&str>,
    reason: &str,
    up_to: u64,
) -> anyhow::Result<u64> {
    metrics::counter!("projection_skipped_total").increment(1);
    let transaction = connection.transaction().await?;
    let position = writer::lock(&transaction, holder).await?;
    if up_to <= position {
        return Ok(position);
    }
    transaction
        .execute(query::SKIP_EVENT, &[&i64::try_from(sequence)?, &event_type, &reason])
        .await?;
    writer::move_to(&transaction, up_to, None).await?;
    transaction.commit().await?;
    Ok(up_to)
}

/// Applies an event that was skipped before; false where it still cannot be applied.
///
/// # Errors
/// As [`apply`].
pub(super) async fn apply_skipped(
    connection: &mut Connection,
    holder: &Holder,
    event: &Recorded,
    providers: &Providers,
) -> anyhow::Result<bool> {
    let events = std::slice::from_ref(event);
    let applied = panics::catch("projection", async {
        let transaction = connection.transaction().await?;
        writer::lock(&transaction, holder).await?;
        write(&transaction, events, providers, Order::Late).await?;
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
    holder: &Holder,
    events: &[Recorded],
    to: To<'_>,
    providers: &Providers,
) -> anyhow::Result<u64> {
    let applied = panics::catch("projection", async {
        let transaction = connection.transaction().await?;
        let position = writer::lock(&transaction, holder).await?;
        if to.position <= position {
            return Ok(position);
        }
        let fresh = &events[events.partition_point(|event| event.sequence <= position)..];
        write(&transaction, fresh, providers, Order::Logs).await?;
        writer::move_to(&transaction, to.position, to.log).await?;
        transaction.commit().await?;
        Ok(to.position)
    });
    applied.await.map_err(anyhow::Error::from).flatten()
}

/// Reads what the tables know, applies the events to it, and writes the result: webhooks first, the others refer to them.
async fn write(
    transaction: &Transaction<'_>,
    events: &[Recorded],
    providers: &Providers,
    order: Order,
) -> anyhow::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut webhooks = Webhooks::load(transaction, events, order).await?;
    let mut orders = OrderLogs::load(transaction, events, providers, order).await?;
    let mut errors = Errors::default();
    for event in events {
        fault_injection::panic_at("projection", &event.envelope.external_order_id);
        let standing = webhooks.apply(event, providers);
        errors.apply(event, standing, providers);
        orders.apply(event, standing, providers);
    }
    webhooks.store(transaction).await?;
    errors.store(transaction).await?;
    orders.store(transaction).await
}

/// Whether an event is at fault: PostgreSQL, or a trigger of the platform, refused what it says, or the code panicked; as opposed
/// to a database that is away or not as it must be.
fn is_events_fault(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<database::Error>().and_then(database::Error::code);
    error.is::<Panicked>() || code.is_some_and(rules::refuses_the_row)
}

/// JSON text that jsonb takes: what it does not know, the escape `\u0000` and half of a surrogate pair, becomes U+FFFD, the
/// latter as it does for the backend.
pub(super) fn storable_json(payload: &[u8]) -> Cow<'_, str> {
    const NUL: &str = "\\u0000";
    let text = match String::from_utf8_lossy(payload) {
        Cow::Borrowed(text) => with_whole_surrogates(text),
        Cow::Owned(text) => Cow::Owned(with_whole_surrogates(&text).into_owned()),
    };
    if !text.contains(NUL) {
        return text;
    }
    let (mut kept, mut rest) = (String::with_capacity(text.len()), &*text);
    while let Some(at) = rest.find(NUL) {
        let (before, after) = rest.split_at(at);
        kept.push_str(before);
        // After an odd number of backslashes this one is itself escaped, and "u0000" is plain text.
        let backslashes = before.bytes().rev().take_while(|byte| *byte == b'\\').count();
        kept.push_str(if backslashes % 2 == 0 { "\\ufffd" } else { NUL });
        rest = &after[NUL.len()..];
    }
    kept.push_str(rest);
    Cow::Owned(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_escape_itself_is_replaced() {
        for (given, kept) in [
            (r#"{"a":"b"}"#, r#"{"a":"b"}"#),
            (r#"{"a":"x\u0000y"}"#, r#"{"a":"x\ufffdy"}"#),
            (r#"{"a":"\\u0000"}"#, r#"{"a":"\\u0000"}"#),
            (r#"{"a":"\\\u0000\u0000"}"#, r#"{"a":"\\\ufffd\ufffd"}"#),
            (
                r#"{"a":"\ud83c x \\ud83c \ud83c\udf2f\u0000"}"#,
                r#"{"a":"\ufffd x \\ud83c \ud83c\udf2f\ufffd"}"#,
            ),
        ] {
            assert_eq!(storable_json(given.as_bytes()), kept);
        }
    }
}
