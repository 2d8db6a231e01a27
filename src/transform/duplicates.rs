//! Whether an order exists already in the platform's `orders`, asked for many at a time.
//!
//! One task asks PostgreSQL; what comes while it waits goes into the next question, so the cost an order falls as the
//! load rises. The answer is a help, not a guard: where PostgreSQL is away or slow the order goes on, and the backend
//! recognises it by its `Idempotency-Key`.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    database::{Database, query},
    event::EventId,
};

/// Questions that may wait; as many as there can be partitions at work.
const MAX_WAITING: usize = 512;
/// Longest time an order waits for the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// After a failure nobody is asked for this long, so that an outage costs one wait and not one for each order.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_secs(1);

struct Question {
    root: EventId,
    external_id: String,
    branch_id: String,
    answer: oneshot::Sender<Option<String>>,
}

/// Where to ask. Cheap to clone.
#[derive(Clone)]
pub struct Duplicates(mpsc::Sender<Question>);

/// Who answers.
pub struct Asker {
    database: Database,
    questions: mpsc::Receiver<Question>,
}

impl Duplicates {
    /// The two ends; nothing is answered until [`Asker::run`] runs.
    pub fn new(database: Database) -> (Self, Asker) {
        let (ask, questions) = mpsc::channel(MAX_WAITING);
        (Self(ask), Asker { database, questions })
    }

    /// The id of the order that a branch has already under the provider's id, unless this webhook itself made it.
    pub async fn find(&self, root: EventId, external_id: &str, branch_id: &str) -> Option<String> {
        let (answer, answered) = oneshot::channel();
        let question = Question {
            root,
            external_id: external_id.to_owned(),
            branch_id: branch_id.to_owned(),
            answer,
        };
        self.0.try_send(question).ok()?;
        tokio::time::timeout(ANSWER_TIMEOUT, answered).await.ok()?.ok()?
    }
}

impl Asker {
    /// Answers until told to stop.
    ///
    /// # Errors
    /// Never; a database that is away leaves questions without an answer.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut trouble_at: Option<Instant> = None;
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                count = self.questions.recv_many(&mut batch, MAX_WAITING) => if count == 0 { return Ok(()) },
            }
            if trouble_at.is_some_and(|at| at.elapsed() < PAUSE_AFTER_TROUBLE) {
                batch.clear();
                continue;
            }
            match tokio::time::timeout(ANSWER_TIMEOUT, self.ask(&batch)).await {
                Ok(Ok(existing)) => {
                    trouble_at = None;
                    for question in batch.drain(..) {
                        let found = existing.get(&question.root).cloned();
                        // Whoever gave up waiting has gone on without.
                        let _ = question.answer.send(found);
                    }
                }
                failed => {
                    let error = failed.map_or_else(
                        |_| "timed out".to_owned(),
                        |failed| format!("{:#}", failed.err().unwrap_or_else(|| anyhow::anyhow!("unknown"))),
                    );
                    tracing::warn!(
                        error,
                        "cannot look for duplicate orders; the backend's idempotency key still guards"
                    );
                    trouble_at = Some(Instant::now());
                    batch.clear();
                }
            }
        }
    }

    async fn ask(&self, batch: &[Question]) -> anyhow::Result<HashMap<EventId, String>> {
        let connection = self.database.connect().await?;
        let statement = connection.prepare_cached(query::EXISTING_ORDERS).await?;
        let roots: Vec<String> = batch.iter().map(|question| question.root.to_string()).collect();
        let external_ids: Vec<&str> = batch.iter().map(|question| question.external_id.as_str()).collect();
        let branch_ids: Vec<&str> = batch.iter().map(|question| question.branch_id.as_str()).collect();
        let rows = connection
            .query(&statement, &[&roots, &external_ids, &branch_ids])
            .await?;
        rows.iter()
            .map(|row| Ok((row.try_get::<_, String>(0)?.parse()?, row.try_get(1)?)))
            .collect()
    }
}
