//! Applying events: all tables and the cursor in one transaction.

use std::borrow::Cow;

use bytes::Bytes;
use deadpool_postgres::{Object, Transaction};

use super::{delivery_error_logs, provider_order_logs, providers::Providers, webhook_logs};
use crate::{
    database::{describe, query},
    event::{EventType, Recorded},
    order::sanitise::with_whole_surrogates,
};

/// The cursor's name.
pub const CURSOR: &str = "tables";
/// Most events of one transaction. The more of an order's events are in it, the fewer times its row is written: while
/// the tables catch up, with a backlog between an order's first event and its last, this is most of what they cost.
pub const MAX_EVENTS: usize = 3000;
/// Most payload bytes of one transaction; a full batch of ordinary orders has half of it.
pub const MAX_BYTES: usize = 6 * 1024 * 1024;

/// What stands in for a payload that PostgreSQL cannot keep; the log has the real one.
const UNSTORABLE: &[u8] = br#"{"unstorable":"PostgreSQL cannot keep this payload as jsonb; see the event log"}"#;

/// Where the tables stand.
///
/// # Errors
/// Where PostgreSQL is away or the schema is missing.
pub async fn position(connection: &Object) -> anyhow::Result<u64> {
    let row = connection
        .query_opt("SELECT position FROM hub.cursors WHERE name = $1", &[&CURSOR])
        .await?;
    Ok(row
        .map(|row| row.try_get::<_, i64>(0))
        .transpose()?
        .unwrap_or(0)
        .try_into()?)
}

/// Applies events that follow the cursor, in the log's order, and moves it to `up_to`; returns where the tables stand
/// then. Events at or before the cursor are passed over, so applying a batch twice changes nothing.
///
/// An event that PostgreSQL cannot take (its JSON is fine, but jsonb knows no NUL and no number of any size) is applied
/// with a stand-in for its payload: one bad event stops neither the table nor those behind it.
///
/// # Errors
/// Where PostgreSQL is away; nothing is applied then.
pub async fn apply(
    connection: &mut Object,
    events: &[Recorded],
    up_to: u64,
    providers: &Providers,
) -> anyhow::Result<u64> {
    match transact(connection, events, up_to, providers).await {
        Err(error) if is_data_error(&error) => {}
        other => return other,
    }
    for event in events {
        let alone = std::slice::from_ref(event);
        let Err(error) = transact(connection, alone, event.sequence, providers).await else {
            continue;
        };
        if !is_data_error(&error) {
            return Err(error);
        }
        metrics::counter!("projection_unstorable_total").increment(1);
        tracing::error!(sequence = event.sequence, event = %event.envelope.event_type, error = format!("{error:#}"), "the tables cannot keep this event as it is");
        let mut stand_in = event.clone();
        if event.envelope.event_type == EventType::WebhookReceived {
            stand_in.payload = Bytes::from_static(UNSTORABLE);
        }
        if let Err(error) = transact(connection, &[stand_in], event.sequence, providers).await {
            if !is_data_error(&error) {
                return Err(error);
            }
            tracing::error!(
                sequence = event.sequence,
                error = format!("{error:#}"),
                "event left out of the tables"
            );
        }
    }
    transact(connection, &[], up_to, providers).await
}

async fn transact(
    connection: &mut Object,
    events: &[Recorded],
    up_to: u64,
    providers: &Providers,
) -> anyhow::Result<u64> {
    let transaction = connection.transaction().await?;
    let lock = transaction.prepare_cached(query::LOCK_CURSOR).await?;
    let position = transaction
        .query_opt(&lock, &[&CURSOR])
        .await?
        .map(|row| row.try_get::<_, i64>(0))
        .transpose()?;
    let position = u64::try_from(position.unwrap_or(0))?;
    if up_to <= position {
        return Ok(position);
    }
    let fresh = &events[events.partition_point(|event| event.sequence <= position)..];
    write(&transaction, fresh, providers).await?;
    let cursor = transaction.prepare_cached(query::MOVE_CURSOR).await?;
    transaction.execute(&cursor, &[&CURSOR, &i64::try_from(up_to)?]).await?;
    transaction.commit().await?;
    Ok(up_to)
}

/// Webhooks first: the others refer to them.
async fn write(transaction: &Transaction<'_>, events: &[Recorded], providers: &Providers) -> anyhow::Result<()> {
    webhook_logs::apply(transaction, events, providers).await?;
    delivery_error_logs::apply(transaction, events, providers).await?;
    provider_order_logs::apply(transaction, events, providers).await
}

/// Whether PostgreSQL refused a value (class 22: data exception, 23: a constraint, 54: limit exceeded), as opposed to being
/// away.
fn is_data_error(error: &anyhow::Error) -> bool {
    let error = error
        .downcast_ref::<tokio_postgres::Error>()
        .and_then(tokio_postgres::Error::as_db_error);
    let refused = error.is_some_and(|error| matches!(&error.code().code()[..2], "22" | "23" | "54"));
    if refused {
        tracing::debug!("a batch holds a value that PostgreSQL refuses, applying its events one by one");
    }
    refused
}

/// The reason of an error of this module, for a log line.
pub fn reason(error: &anyhow::Error) -> String {
    error
        .downcast_ref::<tokio_postgres::Error>()
        .map_or_else(|| format!("{error:#}"), describe)
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
