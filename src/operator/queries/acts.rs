//! Reads what operators did: each act with its result.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::{
    event::{
        EventId, EventType, Recorded,
        operator::{ActResult, Acted},
    },
    journal::{
        connection::Connection,
        read::{Entry, LogReader, Start},
    },
    operator::CLOCK_SKEW,
};

/// Filters of acts. All that are set must match.
#[derive(Debug, Clone, Default)]
pub struct ActSelection {
    /// Begun at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Begun at this time or earlier.
    pub until: Option<DateTime<Utc>>,
    /// Of one of these kinds; of any kind if empty.
    pub kinds: Vec<String>,
    /// Most acts to return: the last ones.
    pub limit: usize,
}

/// What an operator did.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedAct {
    /// When it began.
    pub time: DateTime<Utc>,
    /// Its id.
    pub id: EventId,
    /// Its sequence on the log.
    pub sequence: u64,
    /// The kind of act.
    pub kind: String,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// The arguments.
    pub arguments: Value,
    /// What came of it; none if it runs, was interrupted, or its result could not be recorded.
    pub result: Option<ActResult>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Acts, in the log's order.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Acts {
    /// The last ones.
    pub acts: Vec<ListedAct>,
    /// How many earlier ones are left out.
    pub left_out: u64,
    /// Acts that this version cannot read.
    pub unreadable: u64,
}

/// Reads the acts on the log.
///
/// # Errors
/// If NATS does not answer.
pub async fn read(connection: &Connection, selection: &ActSelection) -> anyhow::Result<Acts> {
    let start = match selection.since {
        Some(since) => Start::Time(since - CLOCK_SKEW),
        None => Start::Sequence(1),
    };
    let subjects = format!("{}.>", EventType::OperatorActed.subject_root());
    let mut reader = LogReader::of_subjects(connection, subjects, start);
    let mut found = Found::new(selection);
    loop {
        let entries = reader.next_batch().await?;
        if entries.is_empty() {
            return Ok(found.acts());
        }
        for entry in entries {
            match entry {
                Entry::Event(event) => found.note(&event),
                Entry::Unreadable { .. } => found.unreadable += 1,
            }
        }
    }
}

/// The acts so far. Pure.
struct Found<'a> {
    selection: &'a ActSelection,
    acts: VecDeque<ListedAct>,
    /// Acts without a result, by the id of the event before the act: their sequences.
    open: HashMap<EventId, u64>,
    left_out: u64,
    unreadable: u64,
}

impl<'a> Found<'a> {
    fn new(selection: &'a ActSelection) -> Self {
        Self {
            selection,
            acts: VecDeque::new(),
            open: HashMap::new(),
            left_out: 0,
            unreadable: 0,
        }
    }

    fn note(&mut self, event: &Recorded) {
        if event.envelope.event_type != EventType::OperatorActed {
            return;
        }
        let Ok(acted) = serde_json::from_slice::<Acted>(&event.payload) else {
            self.unreadable += 1;
            return;
        };
        match (event.envelope.cause_id, acted.result) {
            (Some(cause), Some(result)) => self.end(cause, result, event.envelope.time),
            (_, result) => self.begin(event, Acted { result, ..acted }),
        }
    }

    fn begin(&mut self, event: &Recorded, acted: Acted) {
        let (selection, time) = (self.selection, event.envelope.time);
        let is_wanted = selection.since.is_none_or(|since| time >= since)
            && selection.until.is_none_or(|until| time <= until)
            && (selection.kinds.is_empty() || selection.kinds.contains(&acted.kind));
        if !is_wanted {
            return;
        }
        self.open.insert(event.envelope.id, event.sequence);
        self.acts.push_back(ListedAct {
            time,
            id: event.envelope.id,
            sequence: event.sequence,
            kind: acted.kind,
            by: acted.by,
            reason: acted.reason,
            arguments: acted.arguments,
            result: acted.result,
            ended_at: None,
        });
        if self.acts.len() > selection.limit
            && let Some(first) = self.acts.pop_front()
        {
            self.open.remove(&first.id);
            self.left_out += 1;
        }
    }

    fn end(&mut self, act: EventId, result: ActResult, time: DateTime<Utc>) {
        // An act outside of the selection is not open.
        let Some(sequence) = self.open.remove(&act) else { return };
        if let Ok(at) = self.acts.binary_search_by_key(&sequence, |act| act.sequence) {
            self.acts[at].result = Some(result);
            self.acts[at].ended_at = Some(time);
        }
    }

    fn acts(self) -> Acts {
        Acts {
            acts: self.acts.into(),
            left_out: self.left_out,
            unreadable: self.unreadable,
        }
    }
}
