//! `dead-letters retry`: requests retries of dead letters. A request is an event, `order.retry_requested`.
//!
//! Whether something newer superseded a dead letter is decided by the stage when it handles the request; it then ends the event
//! as superseded, or as a repeat of one that the backend has. A dry run makes the same check and shows its result.
//!
//! The id of a request derives from the dead letter's, so two concurrent requests are one event; a later request finds the
//! earlier one on the log. Requests are published in the order of the dead letters, so the events of one order keep their
//! sequence.

use std::{fmt, io::Write, process::ExitCode};

use anyhow::{Context as _, anyhow, bail};
use async_nats::jetstream::context::PublishAckFuture;
use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use serde::Serialize;

use super::{
    LetterFilter, RETRY, Retry,
    acceptances::LogAcceptances,
    counted,
    find::{self, GivenUp, Letter, LetterKind, ListedMessage, Log},
    printable,
};
use crate::{
    config::{self, Environment, EventLog},
    delivery::superseded::{self, NewerEvent},
    event::{EventId, EventType, outcome::RetryRequested},
    journal::{
        codec::{self, Form},
        form,
    },
    operator::print,
};

/// Requests that are in flight before the first acknowledgement is awaited. With an fsync for each, some 4,000 a second.
const IN_FLIGHT: usize = 256;
/// The file that has the machine's name on Linux.
const HOST_FILE: &str = "/proc/sys/kernel/hostname";

/// A requested retry.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestedRetry {
    id: EventId,
    provider: String,
    order_id: String,
    stage: String,
    retry_id: EventId,
    /// What would supersede it; only in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded_by: Option<String>,
    /// The event that the backend has already; only in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    repeat_of: Option<String>,
}

/// A retry that could not be requested.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FailedRetry {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<EventId>,
    error: String,
}

impl FailedRetry {
    fn of(letter: &Letter, error: impl fmt::Display) -> Self {
        Self {
            id: Some(letter.id()),
            error: format!("dead letter {}: {error}", letter.id()),
        }
    }
}

/// The result of the command.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    count: usize,
    /// How many of them would end as superseded; only in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded: Option<usize>,
    /// How many of them the backend has already, from the same webhook; only in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    repeats: Option<usize>,
    /// Menus that --all left out.
    menus_left_out: usize,
    /// Only for JSON, which is printed at the end; as text each is printed at once.
    asked: Vec<RequestedRetry>,
    failed: Vec<FailedRetry>,
}

/// Runs the command.
pub(super) async fn run(
    log: &Log,
    environment: &Environment,
    options: &Retry,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let by = match &options.by {
        Some(by) => by.clone(),
        None => whoever_runs_this(environment)?,
    };
    let format = EventLog::from_environment(environment)?.format;
    let mut asking = Asking {
        log,
        form: form::chosen(&log.connection, format).await?,
        by,
        reason: options.reason.clone(),
        as_json,
        window: TimeDelta::from_std(config::order_memory(environment)?)?,
        report: Report {
            dry_run: options.dry_run,
            count: 0,
            superseded: options.dry_run.then_some(0),
            repeats: options.dry_run.then_some(0),
            menus_left_out: 0,
            asked: Vec::new(),
            failed: Vec::new(),
        },
    };
    let result = if options.all {
        asking.all(&options.filter, options.menus).await
    } else {
        asking.named(&options.ids).await
    };
    // Also after an error in the middle: the retries requested before it are on the log, so they are reported.
    asking.finish(result)
}

struct Asking<'a> {
    log: &'a Log,
    /// The form in which requests are written.
    form: Form,
    by: String,
    reason: Option<String>,
    as_json: bool,
    /// `ORDER_MEMORY`.
    window: TimeDelta,
    report: Report,
}

impl Asking<'_> {
    async fn all(&mut self, filter: &LetterFilter, with_menus: bool) -> anyhow::Result<()> {
        let retried = self.log.retried(filter).await?;
        let mut pages = self.log.letters(LetterKind::Dead, filter);
        while let Some(page) = pages.next().await? {
            let mut open = Vec::new();
            for found in page {
                match found {
                    ListedMessage::Letter(letter) if retried.contains(&letter.id()) => {}
                    // A retry of all orders must not send menus, or states of a branch, of days ago.
                    ListedMessage::Letter(letter) if letter.is_about_branch() && !with_menus => {
                        self.report.menus_left_out += 1;
                    }
                    ListedMessage::Letter(letter) => open.push(*letter),
                    ListedMessage::Garbage(garbage) => self.report.failed.push(FailedRetry {
                        id: None,
                        error: garbage.unreadable,
                    }),
                }
            }
            self.ask(&open).await?;
        }
        Ok(())
    }

    /// Requests retries of these ids; of none if one of them is not on the log.
    async fn named(&mut self, ids: &[EventId]) -> anyhow::Result<()> {
        let letters = find::named(self.log, ids).await?;
        let retried = self.log.retried(&LetterFilter::default()).await?;
        let again: Vec<_> = ids
            .iter()
            .filter(|id| retried.contains(id))
            .map(ToString::to_string)
            .collect();
        if !again.is_empty() {
            bail!(
                "dead letter {} was retried already; `webhook-hub dead-letters show ID` shows its history",
                again.join(", ")
            );
        }
        self.ask(&letters).await
    }

    /// Requests these retries in this order, and waits until the requests are on the log.
    async fn ask(&mut self, letters: &[Letter]) -> anyhow::Result<()> {
        for chunk in letters.chunks(IN_FLIGHT) {
            let mut sent = Vec::with_capacity(chunk.len());
            for letter in chunk {
                let given_up = match self.given_up(letter).await? {
                    Ok(given_up) => given_up,
                    Err(error) => {
                        self.report.failed.push(FailedRetry::of(letter, error));
                        continue;
                    }
                };
                if self.report.dry_run {
                    let newer = self.superseded(letter, &given_up).await?;
                    self.note(letter, given_up, newer)?;
                    continue;
                }
                match self.request(letter, &given_up) {
                    Ok(request) => sent.push((letter, given_up, self.publish(request).await?)),
                    Err(error) => self.report.failed.push(FailedRetry::of(letter, error)),
                }
            }
            for (letter, given_up, acknowledgement) in sent {
                acknowledgement.await.with_context(|| {
                    format!(
                        "dead letter {}: the event log did not acknowledge; run it again, no retry is requested twice",
                        letter.id()
                    )
                })?;
                self.note(letter, given_up, None)?;
            }
        }
        Ok(())
    }

    /// The event to retry, or why it cannot be retried.
    async fn given_up(&self, letter: &Letter) -> anyhow::Result<anyhow::Result<GivenUp>> {
        if let Err(reason) = &letter.facts {
            return Ok(Err(anyhow!("{reason}; the provider has to send the order again")));
        }
        let given_up = self.log.given_up(letter).await?;
        let is_there = |given_up: &GivenUp| given_up.sequence >= self.log.first_sequence;
        Ok(given_up.filter(is_there).ok_or_else(|| {
            let facts = letter.facts.as_ref().ok();
            let place = facts.and_then(|facts| facts.sequence);
            let place = place.map_or_else(String::new, |sequence| format!(" (sequence {sequence})"));
            anyhow!(
                "the event that ended{place} has left the log (`max_age` of EVENTS); the provider has to send the order again"
            )
        }))
    }

    /// What superseded it; the stage checks again when it handles the request.
    async fn superseded(&self, letter: &Letter, given_up: &GivenUp) -> anyhow::Result<Option<NewerEvent>> {
        let Some(event) = self.log.event(given_up.sequence).await? else {
            return Ok(None);
        };
        let (connection, partition) = (&self.log.connection, letter.partition());
        let acceptances = LogAcceptances {
            connection,
            partition,
            window: self.window,
        };
        superseded::in_partition(connection, &event, partition, &acceptances).await
    }

    /// The request as an event, with its subject.
    fn request(&self, letter: &Letter, given_up: &GivenUp) -> anyhow::Result<RetryMessage> {
        let subject = codec::subject_beside(&letter.subject, EventType::OrderRetryRequested)
            .with_context(|| format!("was published on {}, which no hub does", letter.subject))?;
        let envelope = letter.event.follow(RETRY, EventType::OrderRetryRequested, Utc::now());
        let payload = RetryRequested {
            stage: given_up.stage.clone(),
            sequence: given_up.sequence,
            ended_as: letter.facts.as_ref().ok().map(|facts| facts.error.code.clone()),
            by: self.by.clone(),
            reason: self.reason.clone(),
            again: false,
        };
        Ok(RetryMessage {
            subject,
            headers: codec::headers(&envelope, self.form)?,
            payload: serde_json::to_vec(&payload)?.into(),
        })
    }

    async fn publish(&self, request: RetryMessage) -> anyhow::Result<PublishAckFuture> {
        let RetryMessage {
            subject,
            headers,
            payload,
        } = request;
        let context = &self.log.connection.context;
        context
            .publish_with_headers(subject, headers, payload)
            .await
            .context("cannot publish")
    }

    fn note(&mut self, letter: &Letter, given_up: GivenUp, newer: Option<NewerEvent>) -> anyhow::Result<()> {
        let (mut superseded_by, mut repeat_of) = (None, None);
        if let Some(newer) = newer {
            let (count, of) = if newer.is_repeat {
                (&mut self.report.repeats, &mut repeat_of)
            } else {
                (&mut self.report.superseded, &mut superseded_by)
            };
            *count.get_or_insert(0) += 1;
            *of = Some(newer.to_string());
        }
        let envelope = &letter.event.envelope;
        let asked = RequestedRetry {
            id: envelope.id,
            provider: envelope.provider.to_string(),
            order_id: envelope.external_order_id.clone(),
            stage: given_up.stage,
            retry_id: envelope.id.derive(RETRY),
            superseded_by,
            repeat_of,
        };
        self.report.count += 1;
        if self.as_json {
            self.report.asked.push(asked);
            return Ok(());
        }
        let verb = if self.report.dry_run { "would retry" } else { "retry of" };
        let end = match (&asked.superseded_by, &asked.repeat_of) {
            (Some(newer), _) => format!("; it would end as superseded: {newer}"),
            (None, Some(same)) => format!("; it would end as a repeat: {same}"),
            (None, None) => String::new(),
        };
        let line = format!(
            "{verb} {}: {} {}, stage {}{end}",
            asked.id, asked.provider, asked.order_id, asked.stage
        );
        Ok(writeln!(std::io::stdout(), "{}", printable(&line))?)
    }

    fn finish(self, result: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
        let report = self.report;
        if result.is_ok() || report.count > 0 {
            print(self.as_json, &report, &report)?;
        }
        result?;
        Ok(if report.failed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// A request to publish.
struct RetryMessage {
    subject: String,
    headers: async_nats::HeaderMap,
    payload: Bytes,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failed in &self.failed {
            writeln!(f, "not retried: {}", printable(&failed.error))?;
        }
        if self.menus_left_out > 0 {
            let menus = counted(
                self.menus_left_out,
                "menu or state of a branch",
                "menus or states of branches",
            );
            writeln!(f, "{menus} left out; --menus includes them")?;
        }
        if let Some(superseded @ 1..) = self.superseded {
            writeln!(f, "{superseded} would end as superseded")?;
        }
        if let Some(repeats @ 1..) = self.repeats {
            writeln!(f, "{repeats} would end as a repeat of what the backend has")?;
        }
        match (self.count, self.dry_run) {
            (0, _) => write!(f, "nothing to retry"),
            (count, true) => write!(
                f,
                "{} would be requested; dry run, nothing was changed",
                counted(count, "retry", "retries")
            ),
            (count, false) => write!(
                f,
                "{} requested; `webhook-hub dead-letters list` shows what fails again",
                counted(count, "retry", "retries")
            ),
        }
    }
}

/// `user@machine`, as far as both are known.
pub(in crate::operator) fn whoever_runs_this(environment: &Environment) -> anyhow::Result<String> {
    let user = match environment.text("USER")? {
        Some(user) => user,
        None => environment.text_or("LOGNAME", "unknown")?,
    };
    let host = match environment.text("HOSTNAME")? {
        Some(host) => host,
        None => std::fs::read_to_string(HOST_FILE).unwrap_or_else(|_| "unknown".into()),
    };
    Ok(format!("{user}@{}", host.trim()))
}
