//! What a retry of all open letters that match a filter would do.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{
    causes::{Cause, Causes},
    filter::Filter,
    find::{LetterKind, Log},
    letter::{Letter, ListedMessage},
};
use crate::{
    event::{EventId, EventType, outcome::ORDER_EXPIRED},
    journal::read::{Entry, LogReader, Start},
};

/// Most webhooks that are remembered to find out what was forwarded since; some 30 bytes each.
const MAX_WEBHOOKS: usize = 1_000_000;

/// How many letters are examined whether something newer has superseded them: each costs several readings of the log.
const MAX_EXAMINED: usize = 200;

/// What would be done.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    /// Letters that would be retried.
    pub count: u64,
    /// When the oldest of them was given up.
    pub oldest_at: Option<DateTime<Utc>>,
    /// When the newest of them was given up.
    pub newest_at: Option<DateTime<Utc>>,
    /// Letters of webhooks that were forwarded since: their retries would end as repeats. None if there are too many letters to tell.
    pub already_forwarded: Option<u64>,
    /// How many of the first [`Self::examined`] letters would end as superseded.
    pub superseded: u64,
    /// How many of them would end as duplicates of orders that the backend has.
    pub duplicates: u64,
    /// How many letters were examined for that.
    pub examined: u64,
    /// New orders that are older than their provider's `ORDER_TTL`. They would be sent nevertheless.
    pub expired: u64,
    /// Menus that would be left out.
    pub menus_left_out: u64,
    /// Letters behind this sequence are not among them.
    pub last_sequence: u64,
    /// The letters by cause.
    pub causes: Vec<Cause>,
}

/// What to look for.
pub struct PreviewOptions<'a> {
    /// Which letters.
    pub filter: &'a Filter,
    /// Whether menus are among them.
    pub menus: bool,
    /// `<PROVIDER>_ORDER_TTL` by provider, where it is set.
    pub order_ttl: &'a HashMap<String, Duration>,
}

/// Reads the log for a preview. Also the sequences of the events of the first letters, which are to be examined.
///
/// # Errors
/// If NATS does not answer.
pub async fn read(log: &Log, options: &PreviewOptions<'_>) -> anyhow::Result<(Preview, Vec<u64>)> {
    let retried = log.retried(options.filter).await?;
    let mut counting = Counting::default();
    let mut pages = log.letters(LetterKind::Dead, options.filter);
    while let Some(page) = pages.next().await? {
        for found in page {
            if let ListedMessage::Letter(letter) = found
                && !retried.contains(letter.id())
            {
                counting.note(&letter, options, Utc::now());
            }
        }
    }
    let already_forwarded = match counting.first {
        Some(first) if counting.webhooks.len() < MAX_WEBHOOKS => Some(counting.forwarded(log, options, first).await?),
        Some(_) => None,
        None => Some(0),
    };
    let causes = counting.causes.sorted();
    let preview = Preview {
        superseded: 0,
        duplicates: 0,
        examined: 0,
        count: causes.iter().map(|cause| cause.count).sum(),
        oldest_at: causes.iter().map(|cause| cause.oldest_at).min(),
        newest_at: causes.iter().map(|cause| cause.newest_at).max(),
        already_forwarded,
        expired: counting.expired,
        menus_left_out: counting.menus_left_out,
        last_sequence: log.last_sequence(),
        causes,
    };
    Ok((preview, counting.to_examine))
}

/// What was counted so far.
#[derive(Default)]
struct Counting {
    causes: Causes,
    /// The first letter.
    first: Option<u64>,
    /// How many letters each webhook has.
    webhooks: HashMap<EventId, u64>,
    expired: u64,
    menus_left_out: u64,
    /// The events of the first letters.
    to_examine: Vec<u64>,
}

impl Counting {
    fn note(&mut self, letter: &Letter, options: &PreviewOptions<'_>, now: DateTime<Utc>) {
        if letter.is_about_branch() && !options.menus {
            self.menus_left_out += 1;
            return;
        }
        self.causes.add(letter);
        self.first.get_or_insert(letter.event.sequence);
        let given_up = letter.facts.as_ref().ok().and_then(|facts| facts.sequence);
        self.to_examine
            .extend(given_up.filter(|_| self.to_examine.len() < MAX_EXAMINED));
        let envelope = &letter.event.envelope;
        if self.webhooks.len() < MAX_WEBHOOKS {
            *self.webhooks.entry(envelope.root_id).or_default() += 1;
        }
        let ttl = options.order_ttl.get(&*envelope.provider);
        let ttl = ttl.and_then(|ttl| TimeDelta::from_std(*ttl).ok());
        let is_old = ttl.is_some_and(|ttl| envelope.received_at + ttl < now);
        let has_expired = letter
            .facts
            .as_ref()
            .is_ok_and(|facts| facts.error.code == ORDER_EXPIRED);
        if envelope.is_creation() && (is_old || has_expired) {
            self.expired += 1;
        }
    }

    /// How many of the letters are of webhooks that were forwarded after the first letter.
    async fn forwarded(&self, log: &Log, options: &PreviewOptions<'_>, first: u64) -> anyhow::Result<u64> {
        let root = EventType::OrderForwarded.subject_root();
        let subjects = match &options.filter.provider {
            Some(provider) => format!("{root}.{}.>", crate::journal::codec::token(provider)),
            None => format!("{root}.>"),
        };
        let mut reader = LogReader::of_subjects(&log.connection, subjects, Start::Sequence(first + 1));
        let mut forwarded = HashSet::new();
        loop {
            let entries = reader.next_batch().await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                if let Entry::Event(event) = entry
                    && self.webhooks.contains_key(&event.envelope.root_id)
                {
                    forwarded.insert(event.envelope.root_id);
                }
            }
        }
        Ok(forwarded.iter().filter_map(|webhook| self.webhooks.get(webhook)).sum())
    }
}
