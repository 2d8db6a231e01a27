//! `dead-letters retry`: a request to take dead letters up again is an event too.
//!
//! Its id is derived from the dead letter's, so asked for twice at the same time it is one; asked for later, it is seen on
//! the log. Requests are published in the order of the dead letters: the events of one order keep their order.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    io::Write,
    process::ExitCode,
};

use anyhow::{Context as _, anyhow, bail};
use async_nats::jetstream::context::PublishAckFuture;
use bytes::Bytes;
use chrono::Utc;
use serde::Serialize;

use super::{
    Filter, RETRY, Retry, counted,
    find::{self, Found, Letter, Log},
    printable,
};
use crate::{
    config::Environment,
    event::{EventId, EventType, outcome::RetryRequested},
    journal::codec,
    operator::print,
};

/// Requests that are published before the first is waited for. With an fsync for each, some 4,000 a second.
const IN_FLIGHT: usize = 256;
/// Where Linux says what the machine is called.
const HOST_FILE: &str = "/proc/sys/kernel/hostname";

/// One that was asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    id: EventId,
    provider: String,
    order_id: String,
    stage: String,
    retry_id: EventId,
}

/// One that could not be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Failed {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<EventId>,
    error: String,
}

impl Failed {
    fn of(letter: &Letter, error: impl fmt::Display) -> Self {
        Self {
            id: Some(letter.id()),
            error: format!("dead letter {}: {error}", letter.id()),
        }
    }
}

/// What was done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    count: usize,
    /// Kept only for a machine, which gets it at the end; a person sees each at once.
    asked: Vec<Asked>,
    failed: Vec<Failed>,
}

/// Asks for them.
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
    let mut asking = Asking {
        log,
        by,
        reason: options.reason.clone(),
        as_json,
        report: Report {
            dry_run: options.dry_run,
            count: 0,
            asked: Vec::new(),
            failed: Vec::new(),
        },
    };
    let result = if options.all {
        asking.all(&options.filter).await
    } else {
        asking.named(&options.ids).await
    };
    // Whatever stopped it in the middle, what was asked for is asked for, and is said.
    asking.finish(result)
}

struct Asking<'a> {
    log: &'a Log,
    by: String,
    reason: Option<String>,
    as_json: bool,
    report: Report,
}

impl Asking<'_> {
    async fn all(&mut self, filter: &Filter) -> anyhow::Result<()> {
        let retried = self.log.retried(filter).await?;
        let mut pages = self.log.dead_letters(filter);
        while let Some(page) = pages.next().await? {
            let mut open = Vec::new();
            for found in page {
                match found {
                    Found::Letter(letter) if retried.contains(&letter.id()) => {}
                    Found::Letter(letter) => open.push(*letter),
                    Found::Garbage(garbage) => self.report.failed.push(Failed {
                        id: None,
                        error: garbage.unreadable,
                    }),
                }
            }
            self.ask(&open).await?;
        }
        Ok(())
    }

    /// Nothing is asked for where one of them is not there.
    async fn named(&mut self, ids: &[EventId]) -> anyhow::Result<()> {
        let wanted: HashSet<EventId> = ids.iter().copied().collect();
        let mut found: HashMap<EventId, Letter> = HashMap::new();
        let mut pages = self.log.dead_letters(&Filter::default());
        while found.len() < wanted.len()
            && let Some(page) = pages.next().await?
        {
            for one in page {
                if let Found::Letter(letter) = one
                    && wanted.contains(&letter.id())
                {
                    found.insert(letter.id(), *letter);
                }
            }
        }
        let missing: Vec<_> = ids.iter().copied().filter(|id| !found.contains_key(id)).collect();
        if !missing.is_empty() {
            bail!(find::unknown(&missing));
        }
        let retried = self.log.retried(&Filter::default()).await?;
        let again: Vec<_> = ids
            .iter()
            .filter(|id| retried.contains(id))
            .map(ToString::to_string)
            .collect();
        if !again.is_empty() {
            bail!(
                "dead letter {} was retried already; `webhook-hub dead-letters show ID` says what became of it",
                again.join(", ")
            );
        }
        let mut letters: Vec<_> = found.into_values().collect();
        letters.sort_unstable_by_key(|letter| letter.event.sequence);
        self.ask(&letters).await
    }

    /// Asks for these, in this order, and waits until that is on the log.
    async fn ask(&mut self, letters: &[Letter]) -> anyhow::Result<()> {
        for chunk in letters.chunks(IN_FLIGHT) {
            let mut sent = Vec::with_capacity(chunk.len());
            for letter in chunk {
                match self.request(letter) {
                    Ok(_) if self.report.dry_run => sent.push((letter, None)),
                    Ok(request) => sent.push((letter, Some(self.publish(request).await?))),
                    Err(error) => self.report.failed.push(Failed::of(letter, error)),
                }
            }
            for (letter, acknowledgement) in sent {
                if let Some(acknowledgement) = acknowledgement {
                    acknowledgement.await.with_context(|| {
                        format!(
                            "dead letter {}: the event log did not acknowledge; run it again, nothing is asked for twice",
                            letter.id()
                        )
                    })?;
                }
                self.note(letter)?;
            }
        }
        Ok(())
    }

    /// The event, and its subject.
    fn request(&self, letter: &Letter) -> anyhow::Result<Request> {
        let facts = letter
            .facts
            .as_ref()
            .map_err(|reason| anyhow!("{reason}; let the provider send the order again"))?;
        if facts.sequence < self.log.first_sequence {
            bail!(
                "what was given up (sequence {}) has left the log (`max_age` of EVENTS); let the provider send the order again",
                facts.sequence
            );
        }
        let subject = codec::subject_beside(&letter.subject, EventType::OrderRetryRequested)
            .with_context(|| format!("was published on {}, which no hub does", letter.subject))?;
        let envelope = letter.event.follow(RETRY, EventType::OrderRetryRequested, Utc::now());
        let payload = RetryRequested {
            stage: facts.stage.clone(),
            sequence: facts.sequence,
            by: self.by.clone(),
            reason: self.reason.clone(),
        };
        Ok(Request {
            subject,
            headers: codec::headers(&envelope)?,
            payload: serde_json::to_vec(&payload)?.into(),
        })
    }

    async fn publish(&self, request: Request) -> anyhow::Result<PublishAckFuture> {
        let Request {
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

    fn note(&mut self, letter: &Letter) -> anyhow::Result<()> {
        let envelope = &letter.event.envelope;
        let asked = Asked {
            id: envelope.id,
            provider: envelope.provider.to_string(),
            order_id: envelope.external_order_id.clone(),
            stage: letter
                .facts
                .as_ref()
                .map(|facts| facts.stage.clone())
                .unwrap_or_default(),
            retry_id: envelope.id.derive(RETRY),
        };
        self.report.count += 1;
        if self.as_json {
            self.report.asked.push(asked);
            return Ok(());
        }
        let verb = if self.report.dry_run { "would retry" } else { "retry of" };
        let line = format!(
            "{verb} {}: {} {}, stage {}",
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

/// An event that is to be published.
struct Request {
    subject: String,
    headers: async_nats::HeaderMap,
    payload: Bytes,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failed in &self.failed {
            writeln!(f, "not retried: {}", printable(&failed.error))?;
        }
        match (self.count, self.dry_run) {
            (0, _) => write!(f, "nothing to retry"),
            (count, true) => write!(
                f,
                "{} would be asked for; nothing was",
                counted(count, "retry", "retries")
            ),
            (count, false) => write!(
                f,
                "{} asked for; `webhook-hub dead-letters list` shows what fails again",
                counted(count, "retry", "retries")
            ),
        }
    }
}

/// `user@machine`, as far as they say who they are.
fn whoever_runs_this(environment: &Environment) -> anyhow::Result<String> {
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
