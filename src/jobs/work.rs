//! Work on one job.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context as _, bail};
use chrono::Utc;
use tokio::time::Instant;

use super::{
    board::{Board, Job, JobState},
    pace::Pace,
    payload::{JobCounts, JobEnded, JobProgressed},
    run::WakeUps,
};
use crate::{
    config::EventFormat,
    dead_letters::{
        find::{GivenUp, LetterKind, Log},
        letter::{Letter, ListedMessage},
        retried::{Retried, TooManyRetries},
        retry::{Requester, event_of},
    },
    delivery::lease::Validity,
    event::{
        Envelope, EventType, NewEvent, Principal,
        operator::{PROVIDER, WEBHOOK_TYPE},
        outcome::{ErrorReport, ErrorType},
    },
    fault_injection::{crash_at, time},
    journal::{Journal, codec::OrderKey, form},
};

/// Most requests in flight.
const IN_FLIGHT: usize = 64;
/// Wait for the acknowledgement of one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Most retries on the log that are kept in memory during a job, some 30 bytes each.
const MAX_RETRIES: usize = 500_000;
/// How often the log says how far a job is.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether the job was stopped, where no command says so.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Code of a job that found more retries than fit into memory.
const TOO_MANY_RETRIES: &str = "TOO_MANY_RETRIES";

/// By what a job is worked on.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) journal: &'a Journal,
    pub(super) format: EventFormat,
    pub(super) validity: &'a Validity,
}

/// Works on a job until it has ended or was stopped. What is said about it is on the log then, and on the board.
///
/// # Errors
/// If NATS is away, or this instance has lost its lease. The job goes on from where it was last said to be.
pub(super) async fn on(work: Work<'_>, job: Job, board: &mut Board, wake_ups: &mut WakeUps) -> anyhow::Result<()> {
    let connection = work.journal.connection();
    tracing::info!(job = %job.id, position = job.position, "works on a job");
    let log = Log::open((**connection).clone())
        .await?
        .up_to(job.started.last_sequence);
    let requester = Requester {
        form: form::chosen(connection, work.format).await?,
        by: job.started.by.clone(),
        reason: job.started.reason.clone(),
        job: Some(job.id),
    };
    let mut running = Running {
        work,
        retried: log.no_retries_yet(&job.started.filter, Some(job.id), MAX_RETRIES),
        log,
        requester,
        position: job.position,
        counts: job.counts.clone(),
        pace: Pace::new(job.started.rate, Instant::now()),
        said: Instant::now(),
        looked: Instant::now(),
        job,
    };
    let ended = match running.all(board, wake_ups).await {
        Ok(Ended::Stopped) => None,
        Ok(Ended::Done) => Some(None),
        Err(error) if error.is::<TooManyRetries>() => Some(Some(error.to_string())),
        Err(error) => return Err(error),
    };
    match ended {
        None => running.say().await?,
        Some(error) => running.end(error).await?,
    }
    board.read_on(connection).await
}

/// How the work ended.
enum Ended {
    Done,
    Stopped,
}

/// A job that is worked on.
struct Running<'a> {
    work: Work<'a>,
    job: Job,
    log: Log,
    retried: Retried,
    requester: Requester,
    position: u64,
    counts: JobCounts,
    pace: Pace,
    said: Instant,
    looked: Instant,
}

impl Running<'_> {
    async fn all(&mut self, board: &mut Board, wake_ups: &mut WakeUps) -> anyhow::Result<Ended> {
        let filter = self.job.started.filter.clone();
        let mut pages = self.log.letters_after(self.position, LetterKind::Dead, &filter);
        while let Some(page) = pages.next().await? {
            let letters = page.into_iter().filter_map(|found| match found {
                ListedMessage::Letter(letter) => Some(*letter),
                // It is no dead letter.
                ListedMessage::Garbage(_) => None,
            });
            let letters: Vec<_> = letters.collect();
            let mut rest = &letters[..];
            while !rest.is_empty() {
                if self.is_stopped(board, wake_ups).await? {
                    return Ok(Ended::Stopped);
                }
                match self.pace.take(IN_FLIGHT, Instant::now()) {
                    Ok(granted) => rest = self.wave(rest, granted).await?,
                    Err(wait) => {
                        tokio::time::sleep(wait.min(LOOK_EVERY)).await;
                        continue;
                    }
                }
                crash_at("after_wave_of_job");
                if self.said.elapsed() >= time("job_progress", SAY_EVERY) {
                    self.say().await?;
                }
            }
        }
        Ok(Ended::Done)
    }

    /// Whether an operator stopped the job.
    async fn is_stopped(&mut self, board: &mut Board, wake_ups: &mut WakeUps) -> anyhow::Result<bool> {
        if wake_ups.came() || self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            board.read_on(self.work.journal.connection()).await?;
        }
        let state = board.job(self.job.id).map(|job| job.state);
        // A log that went back knows the job no more.
        Ok(state != Some(JobState::Running))
    }

    /// Requests retries of the next letters, at most as many as were granted, and waits until all are on the log. Returns the rest.
    ///
    /// Of one order only one letter is in flight, so that the retries of an order are in the order of its letters whatever becomes of each.
    async fn wave<'l>(&mut self, letters: &'l [Letter], granted: usize) -> anyhow::Result<&'l [Letter]> {
        self.retried.read_on().await?;
        let mut wave: Vec<(&Letter, GivenUp)> = Vec::new();
        let mut orders = HashSet::new();
        let (mut counts, mut passed) = (self.counts.clone(), 0);
        for letter in letters {
            let id = letter.id();
            if self.retried.is_of_job(id) {
                counts.requested += 1;
            } else if self.retried.contains(id) {
                counts.already_retried += 1;
            } else if letter.is_about_branch() && !self.job.started.menus {
                counts.menus_left_out += 1;
            } else if wave.len() == granted || !orders.insert(OrderKey::of(&letter.event)) {
                break;
            } else {
                match event_of(&self.log, letter).await? {
                    Ok(given_up) => {
                        counts.requested += 1;
                        wave.push((letter, given_up));
                    }
                    Err(error) => counts.note_failure(id, format!("{error:#}")),
                }
            }
            passed += 1;
        }
        self.pace.give_back(granted - wave.len());
        self.request(&wave, &mut counts).await?;
        self.counts = counts;
        let (done, rest) = letters.split_at(passed);
        self.position = done.last().map_or(self.position, |last| last.event.sequence);
        Ok(rest)
    }

    /// Requests these retries, and waits until they are on the log.
    async fn request(&self, wave: &[(&Letter, GivenUp)], counts: &mut JobCounts) -> anyhow::Result<()> {
        if !self.work.validity.holds() {
            bail!("another instance may have the jobs");
        }
        let connection = self.work.journal.connection();
        let mut sent = Vec::with_capacity(wave.len());
        for (letter, given_up) in wave {
            match self.requester.publish(connection, letter, given_up).await? {
                Ok(acknowledgement) => sent.push(acknowledgement),
                Err(error) => {
                    counts.requested -= 1;
                    counts.note_failure(letter.id(), format!("{error:#}"));
                }
            }
        }
        for acknowledgement in sent {
            tokio::time::timeout(ANSWER_TIMEOUT, acknowledgement)
                .await
                .context("the event log does not acknowledge a retry")?
                .context("the event log does not acknowledge a retry")?;
        }
        Ok(())
    }

    /// Says on the log how far the job is.
    async fn say(&mut self) -> anyhow::Result<()> {
        self.said = Instant::now();
        if self.position <= self.job.position {
            return Ok(());
        }
        let progressed = JobProgressed {
            position: self.position,
            counts: self.counts.clone(),
        };
        let label = format!("progress/{}", self.position);
        self.append(&label, EventType::JobProgressed, &progressed).await
    }

    async fn end(&mut self, error: Option<String>) -> anyhow::Result<()> {
        let error = error.map(|why| ErrorReport::new(ErrorType::Configuration, TOO_MANY_RETRIES, why));
        match &error {
            None => tracing::info!(job = %self.job.id, requested = self.counts.requested, "a job is done"),
            Some(error) => tracing::error!(job = %self.job.id, error = error.message, "a job ends before its end"),
        }
        let ended = JobEnded {
            error,
            counts: self.counts.clone(),
        };
        self.append("end", EventType::JobEnded, &ended).await
    }

    async fn append(&self, label: &str, event_type: EventType, payload: &impl serde::Serialize) -> anyhow::Result<()> {
        let (job, now) = (&self.job, Utc::now());
        let envelope = Envelope {
            id: job.id.derive(label),
            event_type,
            root_id: job.id,
            cause_id: Some(job.id),
            cause_sequence: Some(job.sequence),
            provider: PROVIDER.into(),
            external_order_id: job.id.to_string(),
            webhook_type: WEBHOOK_TYPE.to_owned(),
            branch: None,
            principal: Principal::of_backend(),
            time: now,
            received_at: job.started_at,
            request_id: job.id.to_string(),
            traceparent: None,
            request: None,
            idempotency_key: None,
        };
        self.work.journal.append(NewEvent::new(envelope, payload)).await?;
        Ok(())
    }
}
