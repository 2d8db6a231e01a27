//! `dead-letters retry` by a filter: starts a job that retries the letters on the server. `dead-letters jobs` lists, stops and resumes jobs.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{Retry, causes::CausesText, counted, foresight, printable, time_text};
use crate::{
    config::{self, Environment},
    dead_letters::{
        filter::Filter,
        find::Log,
        preview::{self, Preview, PreviewOptions},
    },
    event::{Envelope, EventId, EventType, NewEvent},
    forward::foresight::{Foresight, Foretold, ToBeCreated, note_sent},
    jobs::{
        WAKE_UP,
        board::{Board, Job, JobState},
        payload::{JobOrdered, JobStarted, RATES},
    },
    journal::connection::Connection,
    operator::{
        acts::{self, Act, ActKind, ActOptions},
        output::Table,
        print,
        progress::{ProgressDisplay, Unit},
        tell,
    },
    projection::rebuild::Progress,
};

/// How often `show --wait` looks.
const LOOK: Duration = Duration::from_millis(500);
/// Exit status where retries are not requested because no person confirmed them. clap uses the same for wrong usage.
pub(super) const NOT_CONFIRMED: u8 = 2;

/// What to do with jobs.
#[derive(Debug, Clone, Subcommand)]
pub enum JobAction {
    /// Lists all jobs on the log, the oldest first.
    List,
    /// Shows one job.
    Show {
        /// Its id.
        id: EventId,
        /// Waits until the job has ended or is stopped; standard error says how far it is.
        #[arg(long)]
        wait: bool,
    },
    /// Stops a job; it can be resumed.
    Stop {
        /// Its id.
        id: EventId,
        /// Who acts, and why.
        #[command(flatten)]
        act: ActOptions,
    },
    /// Resumes a stopped job.
    Resume {
        /// Its id.
        id: EventId,
        /// Letters a second from now on; as before by default.
        #[arg(long, value_name = "LETTERS", value_parser = rate)]
        rate: Option<u32>,
        /// Who acts, and why.
        #[command(flatten)]
        act: ActOptions,
    },
}

/// Reads a rate.
pub(super) fn rate(text: &str) -> Result<u32, String> {
    let rate = text.parse().ok().filter(|rate| RATES.contains(rate));
    rate.ok_or_else(|| format!("expected {} to {} letters a second", RATES.start(), RATES.end()))
}

/// Starts a job, after a preview and a confirmation.
pub(super) async fn start(
    log: &Log,
    environment: &Environment,
    options: &Retry,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let preview = read_preview(log, environment, options).await?;
    if options.dry_run || preview.count == 0 {
        let end = if options.dry_run {
            "; dry run, nothing was changed"
        } else {
            "; no job was started"
        };
        print(as_json, &preview, PreviewText(&preview, end))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !options.yes && !is_confirmed(&preview)? {
        return Ok(ExitCode::from(NOT_CONFIRMED));
    }
    let started = JobStarted {
        filter: options.filter.filter(),
        menus: options.menus,
        last_sequence: preview.last_sequence,
        expected: preview.count + preview.menus_left_out,
        rate: options.rate,
        by: options.act.by(environment)?,
        reason: options.act.reason.clone(),
    };
    let connection = &log.connection;
    let arguments =
        json!({ "filter": started.filter, "menus": started.menus, "rate": started.rate, "letters": preview.count });
    let act = Act::begin(connection, environment, &options.act, ActKind::StartJob, arguments).await?;
    let result = async {
        let envelope = acts::envelope(EventType::JobStarted, "");
        let envelope = Envelope {
            external_order_id: envelope.id.to_string(),
            cause_id: Some(act.id()),
            ..envelope
        };
        let recorded = act.writer().append(NewEvent::new(envelope, &started)).await?;
        anyhow::Ok(recorded.envelope.id)
    };
    let result = result.await;
    act.end(&result, json!({ "job": result.as_ref().ok() })).await;
    let id = result?;
    wake(connection).await;
    let letters = counted(usize::try_from(preview.count)?, "letter", "letters");
    let text = format!(
        "{}\njob {id} retries {letters}, {} a second; `webhook-hub dead-letters jobs show {id}` says how far it is",
        PreviewText(&preview, ""),
        started.rate
    );
    print(as_json, &json!({ "job": id, "preview": preview }), text)?;
    Ok(ExitCode::SUCCESS)
}

/// What a retry by these options would be about.
async fn read_preview(log: &Log, environment: &Environment, options: &Retry) -> anyhow::Result<Preview> {
    let filter = options.filter.filter();
    let (mut preview, to_examine) = preview::read(
        log,
        &PreviewOptions {
            filter: &filter,
            menus: options.menus,
            order_ttl: &config::order_ttls(environment)?,
        },
    )
    .await?;
    if to_examine.is_empty() {
        return Ok(preview);
    }
    let foresight = foresight(log, environment)?;
    Box::pin(foresight.during(examine(log, &foresight, to_examine, &mut preview))).await?;
    Ok(preview)
}

/// Counts how events of letters would end.
async fn examine(log: &Log, foresight: &Foresight, events: Vec<u64>, preview: &mut Preview) -> anyhow::Result<()> {
    let mut before = ToBeCreated::new();
    for sequence in events {
        if let Some(event) = log.event(sequence).await? {
            match foresight.end_of(event.clone(), &before).await? {
                Some(Foretold::Superseded(_)) => preview.superseded += 1,
                Some(Foretold::Duplicate(_)) => preview.duplicates += 1,
                Some(Foretold::Repeat(_)) => {}
                None => note_sent(&mut before, &event),
            }
        }
        preview.examined += 1;
    }
    Ok(())
}

/// Asks before all open letters are retried, where there is a person to ask. A script that names `--all` goes on.
///
/// # Errors
/// If NATS does not answer, or the terminal cannot be read.
pub(super) async fn may_retry_all(log: &Log, environment: &Environment, options: &Retry) -> anyhow::Result<bool> {
    if options.yes || options.dry_run || !io::stdin().is_terminal() {
        return Ok(true);
    }
    let preview = read_preview(log, environment, options).await?;
    Ok(preview.count == 0 || is_confirmed(&preview)?)
}

/// Asks the person at the terminal. Without a terminal nothing is confirmed.
fn is_confirmed(preview: &Preview) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        tell("not started: standard input is no terminal; --yes confirms, --dry-run shows what would be done".into());
        return Ok(false);
    }
    let mut out = io::stderr();
    write!(out, "{}\nretry them? [y/N] ", PreviewText(preview, ""))?;
    out.flush()?;
    let mut answer = String::new();
    tokio::task::block_in_place(|| io::stdin().read_line(&mut answer))?;
    let is_confirmed = ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str());
    if !is_confirmed {
        tell("not started".into());
    }
    Ok(is_confirmed)
}

/// Makes a hub look for jobs at once. It looks anyway, so an error means nothing.
async fn wake(connection: &Connection) {
    let sent = async {
        connection.client.publish(WAKE_UP, "".into()).await?;
        connection.client.flush().await?;
        anyhow::Ok(())
    };
    if sent.await.is_err() {
        tell("the hubs will look for jobs within ten seconds".into());
    }
}

/// Lists, shows, stops and resumes jobs.
pub(super) async fn run(
    connection: &Connection,
    environment: &Environment,
    action: &JobAction,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let mut board = Board::default();
    board.read_on(connection).await?;
    match action {
        JobAction::List => {
            let jobs: Vec<_> = board.jobs().collect();
            print(as_json, &jobs, JobsText(&jobs))?;
        }
        JobAction::Show { id, wait } => {
            let job = if *wait {
                wait_for(connection, &mut board, *id).await?
            } else {
                known(&board, *id)?
            };
            print(as_json, job, JobText(job))?;
            if job.state == JobState::Failed || job.counts.failed > 0 {
                return Ok(ExitCode::FAILURE);
            }
        }
        JobAction::Stop { id, act } => {
            let job = known(&board, *id)?;
            if job.state != JobState::Running {
                bail!("job {id} does not run: it is {}", job.state.as_str());
            }
            order(connection, environment, job, (ActKind::StopJob, act, None)).await?;
            print(as_json, &json!({ "stopped": id }), format!("stopped job {id}"))?;
        }
        JobAction::Resume { id, rate, act } => {
            let job = known(&board, *id)?;
            if job.state != JobState::Stopped {
                bail!("job {id} is not stopped: it is {}", job.state.as_str());
            }
            order(connection, environment, job, (ActKind::ResumeJob, act, *rate)).await?;
            print(as_json, &json!({ "resumed": id }), format!("resumed job {id}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn known(board: &Board, id: EventId) -> anyhow::Result<&Job> {
    board
        .job(id)
        .with_context(|| format!("no job {id} is on the log; `webhook-hub dead-letters jobs list` shows all"))
}

/// Waits until a job does not run any more.
async fn wait_for<'b>(connection: &Connection, board: &'b mut Board, id: EventId) -> anyhow::Result<&'b Job> {
    let shown = ProgressDisplay::new(Unit::Pieces);
    loop {
        let job = known(board, id)?;
        if job.state != JobState::Running {
            break;
        }
        shown.tell(Progress {
            phase: "retrying",
            done: job.counts.done(),
            of: job.started.expected,
        });
        tokio::time::sleep(LOOK).await;
        board.read_on(connection).await?;
    }
    known(board, id)
}

/// Puts an operator's order about a job on the log.
async fn order(
    connection: &Connection,
    environment: &Environment,
    job: &Job,
    (kind, options, rate): (ActKind, &ActOptions, Option<u32>),
) -> anyhow::Result<()> {
    let event_type = match kind {
        ActKind::StopJob => EventType::JobStopped,
        _ => EventType::JobResumed,
    };
    let arguments = json!({ "job": job.id, "rate": rate });
    let act = Act::begin(connection, environment, options, kind, arguments).await?;
    let ordered = JobOrdered {
        by: options.by(environment)?,
        reason: options.reason.clone(),
        rate,
    };
    let envelope = Envelope {
        root_id: job.id,
        cause_id: Some(job.id),
        cause_sequence: Some(job.sequence),
        ..acts::envelope(event_type, &job.id.to_string())
    };
    let result = act.writer().append(NewEvent::new(envelope, &ordered)).await;
    act.end(&result, Value::Null).await;
    result?;
    wake(connection).await;
    Ok(())
}

/// A preview for people, and how its last line ends.
struct PreviewText<'a>(&'a Preview, &'static str);

impl fmt::Display for PreviewText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(preview, end) = self;
        let causes = CausesText {
            causes: &preview.causes,
            garbage: 0,
        };
        writeln!(f, "{causes}")?;
        match preview.already_forwarded {
            None => writeln!(f, "how many were forwarded since is not known: there are too many")?,
            Some(0) => {}
            Some(count) => writeln!(
                f,
                "{count} of webhooks that were forwarded since; these would end as repeats"
            )?,
        }
        if preview.superseded > 0 {
            writeln!(
                f,
                "{} of the first {} would end as superseded",
                preview.superseded, preview.examined
            )?;
        }
        if preview.duplicates > 0 {
            writeln!(
                f,
                "{} of the first {} would end as duplicates of orders that the backend has",
                preview.duplicates, preview.examined
            )?;
        }
        if preview.expired > 0 {
            writeln!(
                f,
                "{} of new orders that are older than ORDER_TTL; these would be sent nevertheless",
                preview.expired
            )?;
        }
        if preview.menus_left_out > 0 {
            let menus = usize::try_from(preview.menus_left_out).unwrap_or(usize::MAX);
            writeln!(f, "{} left out; --menus includes them", counted(menus, "menu", "menus"))?;
        }
        let count = usize::try_from(preview.count).unwrap_or(usize::MAX);
        write!(f, "{} to request{end}", counted(count, "retry", "retries"))
    }
}

/// A filter in short.
fn filter_text(filter: &Filter) -> String {
    let words = [
        filter.provider.clone(),
        filter.branch.clone(),
        filter.stage.clone(),
        filter.code.clone(),
        filter.since.map(|time| format!("since {}", time_text(time))),
        filter.until.map(|time| format!("until {}", time_text(time))),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// The list for people.
struct JobsText<'a>(&'a [&'a Job]);

impl fmt::Display for JobsText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["ID", "STARTED", "BY", "STATE", "DONE", "FAILED", "LETTERS"]);
        for job in self.0 {
            table.push([
                job.id.to_string(),
                time_text(job.started_at),
                job.started.by.clone(),
                job.state.as_str().to_owned(),
                format!("{} of {}", job.counts.done(), job.started.expected),
                job.counts.failed.to_string(),
                filter_text(&job.started.filter),
            ]);
        }
        match self.0.len() {
            0 => write!(f, "no jobs"),
            some => write!(f, "{table}{}", counted(some, "job", "jobs")),
        }
    }
}

/// One job for people.
struct JobText<'a>(&'a Job);

impl fmt::Display for JobText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let job = self.0;
        let mut field = |name: &str, text: String| writeln!(f, "{name:<12}{}", printable(&text));
        field("job", format!("{} ({})", job.id, job.state.as_str()))?;
        let reason = job.started.reason.as_ref().map(|reason| format!(": {reason}"));
        let started = format!("{} by {}", time_text(job.started_at), job.started.by);
        field("started", started + &reason.unwrap_or_default())?;
        field("letters", filter_text(&job.started.filter))?;
        field("up to", format!("sequence {}", job.started.last_sequence))?;
        field("rate", format!("{} a second", job.started.rate))?;
        if let Some(ordered) = &job.ordered {
            let reason = ordered.reason.as_ref().map(|reason| format!(": {reason}"));
            let verb = if job.state == JobState::Stopped {
                "stopped"
            } else {
                "resumed"
            };
            field(verb, format!("by {}{}", ordered.by, reason.unwrap_or_default()))?;
        }
        let counts = &job.counts;
        field("done", format!("{} of {}", counts.done(), job.started.expected))?;
        field("", format!("{} requested", counts.requested))?;
        for (count, what) in [
            (counts.already_retried, "retried by others"),
            (counts.menus_left_out, "menus, left out"),
            (counts.failed, "cannot be retried"),
        ] {
            if count > 0 {
                field("", format!("{count} {what}"))?;
            }
        }
        for failure in &counts.failures {
            field("", format!("dead letter {}: {}", failure.letter, failure.error))?;
        }
        if let Some(error) = &job.error {
            field("error", format!("{}: {}", error.code, error.message))?;
        }
        write!(f, "{:<12}{}", "last event", time_text(job.changed_at))
    }
}
