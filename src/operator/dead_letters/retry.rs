//! `dead-letters retry`: requests retries of dead letters. A request is an event, `order.retry_requested`.
//!
//! Whether something newer superseded a dead letter is decided by the stage when it handles the request; it then ends the event
//! as superseded, or as a repeat of one that the backend has. A dry run makes the same check and shows its result.
//!
//! Requests are published in the order of the dead letters, so the events of one order keep their sequence.

use std::{fmt, io::Write, process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde_json::json;

use super::{Retry, counted, foresight, job, printable};
use crate::{
    config::{Environment, EventLog},
    dead_letters::{
        filter::Filter,
        find::{self, GivenUp, LetterKind, Log},
        letter::{Letter, ListedMessage},
        retry::{RETRY, Requester, event_of},
    },
    event::EventId,
    forward::foresight::{Foresight, Foretold, ToBeCreated, note_sent},
    journal::form,
    operator::{
        acts::{self, Act, ActKind},
        print,
    },
};

/// Requests that are in flight before the first acknowledgement is awaited. With an fsync for each, some 4,000 a second.
const IN_FLIGHT: usize = 256;

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
    /// Why it would end as a duplicate; only in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<String>,
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
    /// How many of them announce orders that another announcement created; only in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicates: Option<usize>,
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
    if options.all && !job::may_retry_all(log, environment, options).await? {
        return Ok(ExitCode::from(job::NOT_CONFIRMED));
    }
    let format = EventLog::from_environment(environment)?.format;
    let mut asking = Asking {
        log,
        requester: Requester {
            form: form::chosen(&log.connection, format).await?,
            by: options.act.by(environment)?,
            reason: options.act.reason.clone(),
            job: None,
        },
        as_json,
        foresight: foresight(log, environment)?,
        before: ToBeCreated::new(),
        report: Report {
            dry_run: options.dry_run,
            count: 0,
            superseded: options.dry_run.then_some(0),
            repeats: options.dry_run.then_some(0),
            duplicates: options.dry_run.then_some(0),
            menus_left_out: 0,
            asked: Vec::new(),
            failed: Vec::new(),
        },
    };
    let filter = options.filter.filter();
    let named = if options.all {
        None
    } else {
        Some(asking.named(&options.ids).await?)
    };
    let act = if options.dry_run {
        None
    } else {
        let arguments = match &named {
            Some(_) => json!({ "ids": acts::ids(&options.ids) }),
            None => json!({ "all": true, "menus": options.menus, "filter": filter }),
        };
        Some(Act::begin(&log.connection, environment, &options.act, ActKind::Retry, arguments).await?)
    };
    let foresight = Arc::clone(&asking.foresight);
    let work = async {
        match named {
            Some(letters) => asking.ask(&letters).await,
            None => asking.all(&filter, options.menus).await,
        }
    };
    let result = if options.dry_run {
        Box::pin(foresight.during(work)).await
    } else {
        Box::pin(work).await
    };
    if let Some(act) = act {
        let report = &asking.report;
        let counts = json!({
            "requested": report.count, "failed": report.failed.len(), "menusLeftOut": report.menus_left_out,
        });
        act.end(&result, counts).await;
    }
    // Also after an error in the middle: the retries requested before it are on the log, so they are reported.
    asking.finish(result)
}

struct Asking<'a> {
    log: &'a Log,
    requester: Requester,
    as_json: bool,
    /// For a dry run.
    foresight: Arc<Foresight>,
    /// What the retries before would create.
    before: ToBeCreated,
    report: Report,
}

impl Asking<'_> {
    async fn all(&mut self, filter: &Filter, with_menus: bool) -> anyhow::Result<()> {
        let retried = self.log.retried(filter).await?;
        let mut pages = self.log.letters(LetterKind::Dead, filter);
        while let Some(page) = pages.next().await? {
            let mut open = Vec::new();
            for found in page {
                match found {
                    ListedMessage::Letter(letter) if retried.contains(letter.id()) => {}
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

    /// The letters with these ids.
    ///
    /// # Errors
    /// If one of them is not on the log, or was retried.
    async fn named(&self, ids: &[EventId]) -> anyhow::Result<Vec<Letter>> {
        let letters = find::named(self.log, ids).await?;
        let retried = self.log.retried(&Filter::default()).await?;
        let again: Vec<_> = ids
            .iter()
            .filter(|id| retried.contains(**id))
            .map(ToString::to_string)
            .collect();
        if !again.is_empty() {
            bail!(
                "dead letter {} was retried already; `webhook-hub dead-letters show ID` shows its history",
                again.join(", ")
            );
        }
        Ok(letters)
    }

    /// Requests these retries in this order, and waits until the requests are on the log.
    async fn ask(&mut self, letters: &[Letter]) -> anyhow::Result<()> {
        for chunk in letters.chunks(IN_FLIGHT) {
            let mut sent = Vec::with_capacity(chunk.len());
            for letter in chunk {
                let given_up = match event_of(self.log, letter).await? {
                    Ok(given_up) => given_up,
                    Err(error) => {
                        self.report.failed.push(FailedRetry::of(letter, error));
                        continue;
                    }
                };
                if self.report.dry_run {
                    let end = self.foretold(&given_up).await?;
                    self.note(letter, given_up, end)?;
                    continue;
                }
                let published = self.requester.publish(&self.log.connection, letter, &given_up);
                match published.await? {
                    Ok(acknowledgement) => sent.push((letter, given_up, acknowledgement)),
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

    /// How it would end; the stage decides again when it handles the request.
    async fn foretold(&mut self, given_up: &GivenUp) -> anyhow::Result<Option<Foretold>> {
        let Some(event) = self.log.event(given_up.sequence).await? else {
            return Ok(None);
        };
        let end = self.foresight.end_of(event.clone(), &self.before).await?;
        if end.is_none() {
            note_sent(&mut self.before, &event);
        }
        Ok(end)
    }

    fn note(&mut self, letter: &Letter, given_up: GivenUp, end: Option<Foretold>) -> anyhow::Result<()> {
        let (mut superseded_by, mut repeat_of, mut duplicate) = (None, None, None);
        if let Some(end) = end {
            let report = &mut self.report;
            let (count, of, why) = match end {
                Foretold::Superseded(why) => (&mut report.superseded, &mut superseded_by, why),
                Foretold::Repeat(why) => (&mut report.repeats, &mut repeat_of, why),
                Foretold::Duplicate(why) => (&mut report.duplicates, &mut duplicate, why),
            };
            *count.get_or_insert(0) += 1;
            *of = Some(why);
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
            duplicate,
        };
        self.report.count += 1;
        if self.as_json {
            self.report.asked.push(asked);
            return Ok(());
        }
        let verb = if self.report.dry_run { "would retry" } else { "retry of" };
        let end = match (&asked.superseded_by, &asked.repeat_of, &asked.duplicate) {
            (Some(newer), ..) => format!("; it would end as superseded: {newer}"),
            (_, Some(same), _) => format!("; it would end as a repeat: {same}"),
            (_, _, Some(why)) => format!("; it would end as a duplicate: {why}"),
            _ => String::new(),
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
        if let Some(duplicates @ 1..) = self.duplicates {
            writeln!(
                f,
                "{duplicates} would end as a duplicate of an order that the backend has"
            )?;
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
