//! The task that works on jobs: one instance at a time, by a lease that is only held while there is a job. Each instance also records the
//! acts that are noted on the stream.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use async_nats::Subscriber;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    board::{Board, JobState},
    noted::NotedActs,
    work::{self, Work},
};
use crate::{
    config::EventFormat,
    delivery::lease::{Lease, note::Note},
    fault_injection::time,
    journal::{Journal, connection::Connection},
};

/// The subject on which operators' commands say that there is something new. It only saves time: the log is looked at anyway.
pub const WAKE_UP: &str = "hub.jobs";
/// The lease.
const LEASE: &str = "jobs";
/// How often an instance without a job looks for one.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Pause after a failure.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Works on jobs.
pub struct Runner {
    journal: Journal,
    format: EventFormat,
}

impl Runner {
    /// On this log; requests are written in this format.
    pub const fn new(journal: Journal, format: EventFormat) -> Self {
        Self { journal, format }
    }

    /// Works on jobs until it is stopped. While NATS is away it waits.
    ///
    /// # Errors
    /// Never; as a task of the hub has it.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let connection = Arc::clone(self.journal.connection());
        let mut board = Board::default();
        let mut wake_ups = WakeUps::default();
        let mut noted = NotedActs::default();
        while !stop.is_cancelled() {
            let seen = (&mut board, &mut noted);
            let pause = match self.turn(&connection, seen, &mut wake_ups, &stop).await {
                Ok(()) => time("jobs_look", LOOK_EVERY),
                Err(error) => {
                    if connection.is_up() {
                        tracing::warn!(error = format!("{error:#}"), "the jobs wait");
                    }
                    TRY_AGAIN
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = wake_ups.next() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }

    /// Looks at the log once, and works on what there is.
    async fn turn(
        &self,
        connection: &Arc<Connection>,
        (board, noted): (&mut Board, &mut NotedActs),
        wake_ups: &mut WakeUps,
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let taking = async {
            wake_ups.listen(connection).await?;
            board.read_on(connection).await?;
            noted.record(&self.journal, &board.noted, board.kept).await?;
            show(board);
            match board.next_to_do() {
                Some(_) => Ok(Some(Lease::take(connection, LEASE).await?.0)),
                None => anyhow::Ok(None),
            }
        };
        let taken = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            taken = taking => taken?,
        };
        let Some(mut lease) = taken else { return Ok(()) };
        let validity = lease.validity();
        let work = async {
            // The instance before may have ended it.
            board.read_on(connection).await?;
            while let Some(job) = board.next_to_do().cloned() {
                let work = Work {
                    journal: &self.journal,
                    format: self.format,
                    validity: &validity,
                };
                work::on(work, job, board, wake_ups).await?;
                show(board);
            }
            anyhow::Ok(())
        };
        let never = Notify::new();
        let worked = tokio::select! {
            worked = Box::pin(work) => worked,
            // The next instance goes on from what the log says.
            () = stop.cancelled() => Ok(()),
            () = lease.keep(Note::default, &never) => Err(anyhow::anyhow!("another instance has the jobs")),
        };
        lease.give_back(&Note::default()).await;
        worked
    }
}

fn show(board: &Board) {
    let running = board.jobs().filter(|job| job.state == JobState::Running).count();
    metrics::gauge!("retry_jobs_running").set(running as f64);
}

/// What operators' commands say.
#[derive(Default)]
pub(super) struct WakeUps(Option<Subscriber>);

impl WakeUps {
    async fn listen(&mut self, connection: &Connection) -> anyhow::Result<()> {
        if self.0.is_none() {
            let heard = connection.client.subscribe(WAKE_UP).await;
            self.0 = Some(heard.with_context(|| format!("cannot listen on {WAKE_UP}"))?);
        }
        Ok(())
    }

    /// Waits for the next one.
    async fn next(&mut self) {
        match &mut self.0 {
            Some(heard) => {
                if heard.next().await.is_none() {
                    self.0 = None;
                }
            }
            None => std::future::pending().await,
        }
    }

    /// Whether there was one since the last call.
    pub(super) fn came(&mut self) -> bool {
        let mut came = false;
        while let Some(heard) = self.0.as_mut() {
            let Some(Some(_)) = heard.next().now_or_never() else {
                break;
            };
            came = true;
        }
        came
    }
}
