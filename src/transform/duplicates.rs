//! Whether a webhook is nothing new: its order exists already in the platform's `orders`, or it was sent again after the
//! log had forgotten its id and the backend has it. Asked for many at a time.
//!
//! One task asks PostgreSQL; what comes while it waits goes into the next question, so the cost an order falls as the
//! load rises. The answer is a help, not a guard: where PostgreSQL is away or slow the order goes on, and the backend
//! recognises it by its `Idempotency-Key`.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::NaiveDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    database::{Database, query},
    event::{Envelope, EventId},
};

/// Questions that may wait; as many as there can be partitions at work.
const MAX_WAITING: usize = 512;
/// Longest time an order waits for the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// After a failure nobody is asked for this long, so that an outage costs one wait and not one for each order.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_secs(1);

struct Question {
    root: EventId,
    received_at: NaiveDateTime,
    new_order: Option<String>,
    branch_id: String,
    answer: oneshot::Sender<Option<Known>>,
}

/// Why a webhook is nothing new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The order that it belongs to; none where nobody noted it.
    pub order_id: Option<String>,
    /// Whether it is the webhook itself that was there before, and not only its order.
    pub is_repeat: bool,
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

    /// What is known of a webhook; `new_order` is the provider's id of the order that it announces.
    pub async fn find(&self, received: &Envelope, new_order: Option<&str>, branch_id: &str) -> Option<Known> {
        let (answer, answered) = oneshot::channel();
        let question = Question {
            root: received.root_id,
            received_at: received.received_at.naive_utc(),
            new_order: new_order.map(str::to_owned),
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

    async fn ask(&self, batch: &[Question]) -> anyhow::Result<HashMap<EventId, Known>> {
        let connection = self.database.connect().await?;
        let statement = connection.prepare_cached(query::EXISTING_ORDERS).await?;
        let roots: Vec<String> = batch.iter().map(|question| question.root.to_string()).collect();
        let times: Vec<NaiveDateTime> = batch.iter().map(|question| question.received_at).collect();
        let external_ids: Vec<Option<&str>> = batch.iter().map(|question| question.new_order.as_deref()).collect();
        let branch_ids: Vec<&str> = batch.iter().map(|question| question.branch_id.as_str()).collect();
        let rows = connection
            .query(&statement, &[&roots, &times, &external_ids, &branch_ids])
            .await?;
        rows.iter()
            .map(|row| {
                let known = Known {
                    order_id: row.try_get(1)?,
                    is_repeat: row.try_get(2)?,
                };
                Ok((row.try_get::<_, String>(0)?.parse()?, known))
            })
            .collect()
    }
}
