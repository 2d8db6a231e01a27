//! Detects a pooler between the hub and PostgreSQL that gives one backend to several clients in turn (PgBouncer in
//! transaction or statement mode).
//!
//! Behind such a pooler the settings of a session belong to another client a moment later, and prepared statements are gone.
//! So the hub runs no statement there and reports it. In session mode a pooler is like PostgreSQL itself.

use tokio_postgres::{Client, Error, SimpleQueryMessage};

/// The message about it.
pub const REFUSED: &str = "DATABASE_URL leads to a pooler in transaction mode (PgBouncer: pool_mode), which the hub cannot \
                           work with; name PostgreSQL itself or a pool with pool_mode = session";
/// How often it is looked: between two looks another client may have taken the backend.
const LOOKS: usize = 5;

/// False if two clients, one of them inside a transaction, were served by one backend.
///
/// # Errors
/// If PostgreSQL or the pooler refuses.
pub(super) async fn gives_sessions(first: &Client, second: &Client) -> Result<bool, Error> {
    for _ in 0..LOOKS {
        // A pooler in transaction mode takes the backend back after this statement, and gives it to the next client.
        let outside = backend(first).await?;
        second.batch_execute("BEGIN").await?;
        let inside = backend(second).await?;
        second.batch_execute("ROLLBACK").await?;
        if outside == inside {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The process that serves a client. By the simple protocol, for a pooler may not know prepared statements.
async fn backend(client: &Client) -> Result<Option<String>, Error> {
    let answer = client.simple_query("SELECT pg_backend_pid()").await?;
    Ok(answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}
