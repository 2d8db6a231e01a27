//! `streams apply`, `diff`, `mirror` and `promote`: create, compare, mirror and change the streams of the NATS server.

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use clap::{Subcommand, builder::PossibleValuesParser, builder::TypedValueParser as _};
use serde_json::json;

use super::{
    acts::{ActKind, ActOptions},
    output, print, tell, with_rights,
};
use crate::{
    config::{self, Environment},
    journal::{
        connection::{Connection, PROVISION_INBOX},
        streams::{self, Applied, Change, Choice, Difference, Setting, mirror},
    },
    text::parse_duration,
};

/// Shortest age for which events may be kept: the default schedule of retries ends after three days, and dead letters of a
/// weekend must still be on the log when their cause has been fixed.
const LEAST_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Least room of the log: some 30,000 orders.
const LEAST_BYTES: i64 = 256 * 1024 * 1024;
/// The argument that restores the file's value.
const DEFAULT: &str = "default";
/// The argument for no limit.
const UNLIMITED: &str = "unlimited";

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Creates what is missing, and changes what is chosen here. The user must have the right to create streams.
    Apply {
        /// What to choose.
        #[command(flatten)]
        chosen: Chosen,
        /// Says what would be changed and what would follow from it; changes nothing.
        #[arg(long)]
        dry_run: bool,
        /// Who, and why.
        #[command(flatten)]
        act: ActOptions,
    },
    /// Shows how the server differs from the files in streams/ and from what was chosen; exits with 1 if it does.
    Diff,
    /// Makes EVENTS on this server a mirror of the log on another server, and shows how far it is.
    Mirror {
        /// The other server's JetStream domain.
        #[arg(long, default_value = "hub")]
        domain: String,
        /// How much the mirror keeps: as much as the log.
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Turns the mirror on this server into the log, and creates what is missing.
    Promote {
        /// The last sequence of the mirrored log, if you know it: a mirror that ends before it is refused.
        #[arg(long, value_name = "SEQUENCE")]
        last: Option<u64>,
        /// Promotes the mirror even if the mirrored log is still there, or the mirror lacks events or may lack some.
        #[arg(long)]
        anyway: bool,
        /// Who, and why.
        #[command(flatten)]
        act: ActOptions,
    },
}

/// What an operator chooses instead of the files' values. The streams' metadata stores it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Chosen {
    /// Copies of each stream in a cluster: 1, 3 or 5.
    #[arg(long, value_parser = PossibleValuesParser::new(["1", "3", "5"]).map(|copies| usize::from(copies.as_bytes()[0] - b'0')))]
    pub replicas: Option<usize>,
    /// How long events are kept: 7d to 366d, unlimited, default (90d).
    #[arg(long, value_parser = age)]
    pub max_age: Option<Choice>,
    /// Bytes that EVENTS holds before new events are refused: 256mb or more, unlimited, default (56gb).
    #[arg(long, value_parser = bytes)]
    pub max_bytes: Option<Choice>,
    /// Goes ahead although events would be removed at once, or a restore was interrupted after it deleted the log.
    #[arg(long)]
    pub forget: bool,
}

impl Chosen {
    /// The choices that were given.
    pub(super) fn choices(&self) -> Vec<Choice> {
        let replicas = self.replicas.map(Choice::replicas);
        [replicas, self.max_age, self.max_bytes].into_iter().flatten().collect()
    }

    fn order(&self) -> streams::ApplyOptions {
        streams::ApplyOptions {
            choices: self.choices(),
            forget: self.forget,
            acted: None,
        }
    }
}

fn age(text: &str) -> Result<Choice, String> {
    let age = match text {
        DEFAULT => return Ok(of_file(Setting::MaxAge)),
        UNLIMITED => return Ok(Choice::max_age(None)),
        text => parse_duration(text)?,
    };
    if age < LEAST_AGE {
        return Err("expected at least 7d: retries, and orders that are taken up again, need the log".to_owned());
    }
    Ok(Choice::max_age(Some(age)))
}

fn bytes(text: &str) -> Result<Choice, String> {
    const EXPECTED: &str = "expected a size such as 512mb, 20gb or 1tb";
    match text {
        DEFAULT => return Ok(of_file(Setting::MaxBytes)),
        UNLIMITED => return Ok(Choice::max_bytes(None)),
        _ => {}
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: i64 = digits.parse().map_err(|_| EXPECTED)?;
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "mb" => 1 << 20,
        "gb" => 1 << 30,
        "tb" => 1i64 << 40,
        _ => return Err(EXPECTED.to_owned()),
    };
    let bytes = number.checked_mul(unit).ok_or(EXPECTED)?;
    if bytes < LEAST_BYTES {
        return Err("expected at least 256mb".to_owned());
    }
    Ok(Choice::max_bytes(Some(bytes)))
}

fn of_file(setting: Setting) -> Choice {
    Choice { setting, value: None }
}

/// Runs the command. `diff` is a read command: its exit status is 1 if the server differs, and 2 if that cannot be found out.
///
/// # Errors
/// If NATS is away or refuses.
pub async fn run(environment: &Environment, action: &Action, as_json: bool) -> anyhow::Result<ExitCode> {
    match (action, carry_out(environment, action, as_json).await) {
        (Action::Diff, Err(error)) => Ok(output::ended(Err(error))),
        (_, ran) => ran,
    }
}

async fn carry_out(environment: &Environment, action: &Action, as_json: bool) -> anyhow::Result<ExitCode> {
    let settings = config::Nats::from_environment(environment)?;
    let connection = Connection::open(&settings, "webhook-hub streams", PROVISION_INBOX).await?;
    connection.reach().await?;
    if let Action::Mirror { domain, chosen } = action {
        let order = chosen.order();
        let followed = with_rights(&connection, &settings, mirror::follow(&connection, domain, &order)).await?;
        return say_followed(followed, as_json);
    }
    if let Action::Apply {
        chosen, dry_run: true, ..
    } = action
    {
        let order = chosen.order();
        let planned = with_rights(&connection, &settings, streams::planned(&connection, &order)).await?;
        return say_planned(&planned, as_json);
    }
    let work = async {
        let applied = match action {
            Action::Apply { chosen, act, .. } => {
                let acted = act.acted(environment, ActKind::ApplyStreams, json!({ "forget": chosen.forget }))?;
                let order = streams::ApplyOptions {
                    acted: Some(acted),
                    ..chosen.order()
                };
                streams::apply(&connection, &order, tell).await?
            }
            Action::Promote { last, anyway, act } => {
                let acted = act.acted(environment, ActKind::Promote, json!({ "last": last, "anyway": anyway }))?;
                let followed = mirror::promote(&connection, *last, *anyway, acted).await?;
                tell(format!(
                    "EVENTS is the log now; its last event has sequence {}",
                    followed.last
                ));
                streams::apply(&connection, &Chosen::default().order(), tell).await?
            }
            Action::Diff | Action::Mirror { .. } => Applied {
                differences: streams::differences(&connection).await?,
                ..Applied::default()
            },
        };
        anyhow::Ok((applied, streams::chosen(&connection).await?))
    };
    let (Applied { changes, differences }, chosen) = with_rights(&connection, &settings, work).await?;
    let text = match differences.as_slice() {
        [] => format!("NATS is set up as the files in streams/ say{}", but(&chosen)),
        some => some.iter().map(line).collect::<Vec<_>>().join("\n"),
    };
    let shown: Vec<_> = differences
        .iter()
        .map(|one| json!({ "difference": one.to_string(), "dangerous": one.dangerous }))
        .collect();
    let chosen: Vec<_> = chosen
        .iter()
        .map(|(stream, choice)| json!({ "stream": stream, "chosen": choice.to_string() }))
        .collect();
    let mut found = json!({ "differences": shown, "chosen": chosen });
    if !matches!(action, Action::Diff) {
        found["changes"] = json!(changes);
    }
    print(as_json, &found, text)?;
    let failed = differences
        .iter()
        .any(|one| one.dangerous || matches!(action, Action::Diff));
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What was chosen, those that hold for all streams once.
fn but(chosen: &[(&str, Choice)]) -> String {
    let mut text = String::new();
    for (stream, choice) in chosen {
        let separator = if text.is_empty() {
            ", but for what was chosen: "
        } else {
            "; "
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{stream} {choice}");
    }
    text
}

fn say_planned(planned: &[Change], as_json: bool) -> anyhow::Result<ExitCode> {
    let mut text = planned
        .iter()
        .fold(String::new(), |text, change| format!("{text}{change}\n"));
    text.push_str("dry run, nothing was changed");
    print(as_json, &json!({ "dryRun": true, "changes": planned }), text)?;
    Ok(ExitCode::SUCCESS)
}

fn say_followed(followed: mirror::Followed, as_json: bool) -> anyhow::Result<ExitCode> {
    let state = match followed {
        one if one.active => "follows",
        one if one.heard => "has not heard from the log lately",
        _ => "has not heard from the log yet",
    };
    let text = format!(
        "the mirror {state}: its last event has sequence {}, {} are to come",
        followed.last, followed.lag
    );
    let shown =
        json!({ "last": followed.last, "lag": followed.lag, "heard": followed.heard, "active": followed.active });
    print(as_json, &shown, text)?;
    Ok(ExitCode::SUCCESS)
}

fn line(difference: &Difference) -> String {
    let mark = match (difference.dangerous, difference.is_unwanted()) {
        (false, _) => "harmless",
        (true, false) => "could lose events",
        (true, true) => "could lose events, or disclose them; `streams apply` does not take it away",
    };
    format!("{difference} ({mark})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes() {
        assert_eq!(age("default"), Ok(of_file(Setting::MaxAge)));
        assert_eq!(age("unlimited").unwrap().value, Some(0));
        assert_eq!(age("7d").unwrap().value, Some(604_800_000_000_000));
        assert!(age("6d").is_err() && age("9").is_err() && age("400d").is_err());
        assert_eq!(bytes("default"), Ok(of_file(Setting::MaxBytes)));
        assert_eq!(bytes("unlimited").unwrap().value, Some(-1));
        assert_eq!(bytes("20gb").unwrap().value, Some(21_474_836_480));
        for wrong in ["", "gb", "255mb", "1kb", "-1", "9999999999tb", "1.5gb", "20 gb"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
