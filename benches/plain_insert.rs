//! The limit of the projection: its rows, inserted as plainly as PostgreSQL takes them.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::setup::postgres;

/// Rows of one insert, as the projection's batches have.
const ROWS: i64 = 500;

/// The tables, and the column of each that tells one row of the benchmark from another.
const TABLES: [(&str, &str); 3] = [
    ("webhook_logs", "id"),
    ("provider_order_logs", "id"),
    ("hub.orders", "external_order_id"),
];

/// Copies all tables by the plainest batched insert there is: each column an array, no conflict clause, one transaction
/// a batch. Only the inserts are timed. Returns seconds.
pub(crate) async fn plain_insert(source: &str, target: &str) -> Result<f64> {
    let (source, target) = (postgres(source).await?, postgres(target).await?);
    let mut took = Duration::ZERO;
    for (table, key) in TABLES {
        let columns = columns(&source, table).await?;
        let (names, types): (Vec<_>, Vec<_>) = columns
            .iter()
            .map(|(name, kind)| (name.as_str(), kind.as_str()))
            .unzip();
        let read: Vec<_> = names.iter().map(|name| format!("{name}::text")).collect();
        let place = |(at, _): (usize, _)| format!("${}::text[]", at + 1);
        let given: Vec<_> = names.iter().enumerate().map(place).collect();
        let cast: Vec<_> = names
            .iter()
            .zip(&types)
            .map(|(name, kind)| format!("{name}::{kind}"))
            .collect();
        let names = names.join(", ");
        let insert = format!(
            "INSERT INTO {table} ({names}) SELECT {} FROM unnest({}) AS rows ({names})",
            cast.join(", "),
            given.join(", ")
        );
        let insert = target.prepare(&insert).await?;
        let read = format!(
            "SELECT {} FROM {table} WHERE {key} > $1 ORDER BY {key} LIMIT {ROWS}",
            read.join(", ")
        );
        let read = source.prepare(&read).await?;
        let mut after = String::new();
        loop {
            let rows = source.query(&read, &[&after]).await?;
            let Some(last) = rows.last() else { break };
            let at = columns.iter().position(|(name, _)| name == key).unwrap_or(0);
            after = last.try_get(at)?;
            let arrays = (0..columns.len())
                .map(|column| {
                    rows.iter()
                        .map(|row| row.try_get(column))
                        .collect::<Result<Vec<Option<String>>, _>>()
                })
                .collect::<Result<Vec<_>, _>>()?;
            let arguments: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
                arrays.iter().map(|array| array as _).collect();
            let began = Instant::now();
            target.execute(&insert, &arguments).await?;
            took += began.elapsed();
        }
    }
    Ok(took.as_secs_f64())
}

async fn columns(client: &tokio_postgres::Client, table: &str) -> Result<Vec<(String, String)>> {
    let sql = "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
               WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows = client.query(sql, &[&table]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
