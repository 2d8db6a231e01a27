//! `blocks`: lists the addresses and providers that rate limits block, and lifts blocks before they end.
//!
//! It reads and writes the stream `BLOCKS`. Each instance of the hub learns of a lifted block at once.

use std::{fmt, process::ExitCode, str::FromStr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;
use serde::Serialize;
use serde_json::json;

use super::{
    acts::{self, Act, ActKind, ActOptions},
    dead_letters::printable,
    print, with_rights,
};
use crate::{
    config::{self, Environment},
    journal::connection::{Connection, HUB_INBOX},
    serving::limit::{
        address::Address,
        blocks::{Block, BlockTarget},
        stored,
        stored::{BLOCK_SUBJECTS, LimitRecord},
    },
};

/// Wait for one acknowledgement.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// Lists current blocks, the ones that end last first.
    List,
    /// Ends blocks on every instance.
    #[command(group = clap::ArgGroup::new("which").required(true).args(["who", "all"]))]
    Lift {
        /// Addresses or providers, as `list` shows them.
        #[arg(value_name = "ADDRESS")]
        who: Vec<Named>,
        /// All current blocks.
        #[arg(long)]
        all: bool,
        /// Who acts, and why.
        #[command(flatten)]
        act: ActOptions,
    },
}

/// An argument: an address, or a provider.
#[derive(Debug, Clone)]
pub struct Named(BlockTarget);

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<Address>() {
            return Ok(Self(BlockTarget::Address(address)));
        }
        let provider = config::known_provider(text);
        provider
            .map(|name| Self(BlockTarget::Provider(Arc::from(name))))
            .map_err(|known| {
                format!("expected an address such as 203.0.113.9 or 2001:db8::/64, or a provider; {known}")
            })
    }
}

/// Runs the command, as the user `hub`: it needs NATS and nothing else.
///
/// # Errors
/// If NATS is away, or an argument is not blocked.
pub async fn run(environment: &Environment, action: &Action, as_json: bool) -> anyhow::Result<ExitCode> {
    let settings = config::Nats::from_environment(environment)?;
    let connection = Connection::open(&settings, "webhook-hub blocks", HUB_INBOX).await?;
    connection.reach().await?;
    let blocks = with_rights(&connection, &settings, read(&connection))
        .await
        .context("the stream BLOCKS cannot be read; is NATS_USER the user hub, was `streams apply` run?")?;
    match action {
        Action::List => {
            let rows: Vec<_> = blocks.iter().map(Row::new).collect();
            print(as_json, &rows, Table(&rows))?;
        }
        Action::Lift { who, all, act } => {
            let chosen = chosen(&blocks, who, *all)?;
            let lifting = lift(&connection, environment, act, &chosen);
            let lifted = with_rights(&connection, &settings, lifting).await?;
            let text = match lifted.as_slice() {
                [] => "no blocks".to_owned(),
                some => some
                    .iter()
                    .map(|one| format!("lifted {one}"))
                    .collect::<Vec<_>>()
                    .join("\n"),
            };
            print(as_json, &json!({ "lifted": lifted }), text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Current blocks, the ones that end last first.
async fn read(connection: &Connection) -> anyhow::Result<Vec<(BlockTarget, Block)>> {
    let now = u64::try_from(Utc::now().timestamp_millis())?;
    let words = stored::read(connection, BLOCK_SUBJECTS, now).await?;
    let mut blocks: Vec<_> = words
        .into_iter()
        .filter_map(|word| match word {
            LimitRecord::Blocked(who, block) if block.until_ms > now => Some((who, block)),
            _ => None,
        })
        .collect();
    blocks.sort_by_key(|(_, block)| std::cmp::Reverse(block.until_ms));
    Ok(blocks)
}

/// The blocks to lift.
///
/// # Errors
/// If one that is named is not blocked.
fn chosen<'a>(blocks: &'a [(BlockTarget, Block)], named: &[Named], all: bool) -> anyhow::Result<Vec<&'a BlockTarget>> {
    let unknown = named
        .iter()
        .find(|one| !blocks.iter().any(|(blocked, _)| *blocked == one.0));
    if let Some(Named(who)) = unknown {
        bail!(
            "{} is not blocked; `webhook-hub blocks list` shows who is",
            Row::name(who)
        );
    }
    let is_named = |who: &BlockTarget| all || named.iter().any(|one| one.0 == *who);
    Ok(blocks.iter().map(|(who, _)| who).filter(|who| is_named(who)).collect())
}

/// Lifts blocks; returns their names.
async fn lift(
    connection: &Connection,
    environment: &Environment,
    options: &ActOptions,
    blocks: &[&BlockTarget],
) -> anyhow::Result<Vec<String>> {
    let names: Vec<_> = blocks.iter().map(|who| Row::name(who)).collect();
    let arguments = json!({ "blocks": acts::ids(&names) });
    let act = Act::begin(connection, environment, options, ActKind::LiftBlocks, arguments).await?;
    let mut lifted = Vec::new();
    let work = async {
        for who in blocks {
            lift_one(connection, who).await?;
            lifted.push(Row::name(who));
        }
        anyhow::Ok(())
    };
    let result = work.await;
    act.end(&result, json!({ "lifted": lifted.len() })).await;
    result.map(|()| lifted)
}

async fn lift_one(connection: &Connection, who: &BlockTarget) -> anyhow::Result<()> {
    let (subject, headers, payload) = LimitRecord::Lifted(who.clone()).message(0);
    let written = async {
        let acknowledged = connection.context.publish_with_headers(subject, headers, payload);
        anyhow::Ok(acknowledged.await?.await?)
    };
    tokio::time::timeout(ANSWER_TIMEOUT, written)
        .await
        .context("NATS does not answer about a block")?
        .with_context(|| format!("the block of {} is not lifted", Row::name(who)))?;
    Ok(())
}

/// A block in the list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    scope: &'static str,
    /// The address or the provider.
    who: String,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    /// The provider that the last request before the block was for.
    provider: String,
    /// The number of requests that was counted.
    requests: u64,
}

impl Row {
    fn new((who, block): &(BlockTarget, Block)) -> Self {
        let time = |ms: u64| DateTime::from_timestamp_millis(i64::try_from(ms).unwrap_or(i64::MAX)).unwrap_or_default();
        Self {
            scope: match who {
                BlockTarget::Address(_) => "address",
                BlockTarget::Provider(_) => "provider",
            },
            who: Self::name(who),
            since: time(block.since_ms),
            until: time(block.until_ms),
            provider: printable(&block.provider),
            requests: block.requests,
        }
    }

    fn name(who: &BlockTarget) -> String {
        match who {
            BlockTarget::Address(address) => address.to_string(),
            BlockTarget::Provider(name) => printable(name),
        }
    }

    fn cells(&self) -> [String; 6] {
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        [
            self.who.clone(),
            self.scope.to_owned(),
            time(self.since),
            time(self.until),
            self.provider.clone(),
            self.requests.to_string(),
        ]
    }
}

/// The list for people.
struct Table<'a>(&'a [Row]);

const HEAD: [&str; 6] = ["WHO", "SCOPE", "SINCE", "UNTIL", "PROVIDER", "REQUESTS"];

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "no blocks");
        }
        let lines: Vec<_> = std::iter::once(HEAD.map(str::to_owned))
            .chain(self.0.iter().map(Row::cells))
            .collect();
        let width = |column: usize| {
            let widths = lines.iter().map(|line| line[column].chars().count());
            widths.max().unwrap_or_default()
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        for cells in &lines {
            let [filled @ .., last] = cells;
            for (cell, width) in filled.iter().zip(widths) {
                write!(f, "{cell:width$}  ")?;
            }
            writeln!(f, "{last}")?;
        }
        let count = self.0.len();
        write!(f, "{count} block{}", if count == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_addresses_or_providers() {
        for (text, shown) in [
            ("203.0.113.9", "203.0.113.9"),
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8::/64", "2001:db8::/64"),
            ("careem", "careem"),
        ] {
            assert_eq!(Row::name(&text.parse::<Named>().unwrap().0), shown);
        }
        assert!("203.0.113".parse::<Named>().unwrap_err().contains("careem"));
    }

    #[test]
    fn the_list_as_text() {
        let block = |provider: &str| Block {
            since_ms: 1_759_320_000_000,
            until_ms: 1_759_320_600_000,
            provider: provider.into(),
            requests: 100,
        };
        let blocks = [
            (BlockTarget::Address("203.0.113.9".parse().unwrap()), block("careem")),
            (BlockTarget::Provider("careem".into()), block("\u{1b}[31m")),
        ];
        let rows: Vec<_> = blocks.iter().map(Row::new).collect();
        let expected = "\
WHO          SCOPE     SINCE                 UNTIL                 PROVIDER  REQUESTS
203.0.113.9  address   2025-10-01T12:00:00Z  2025-10-01T12:10:00Z  careem    100
careem       provider  2025-10-01T12:00:00Z  2025-10-01T12:10:00Z  \u{fffd}[31m     100
2 blocks";
        assert_eq!(Table(&rows).to_string(), expected);
        assert_eq!(Table(&[]).to_string(), "no blocks");
    }
}
