//! Calls about a branch: which of its items can be ordered, and whether it takes orders. The tables `[[outbound.items]]` and
//! `[[outbound.store]]` as written, as checked, and which call is for what. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;

use super::{Call, check::Check, tables::some_json, template::Vocabulary, words};
use crate::event::{
    branch::{Availability, EntryKind, StoreRequested, StoreState},
    push::ReasonCode,
};

/// Most entries of one call.
const MAX_BATCH: usize = 1000;
/// Longest pause between two calls about the items of one branch: a call waits for it in its place.
const MAX_EVERY: Duration = Duration::from_secs(2);

/// Whether a call takes a time until which it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// It takes none.
    #[default]
    Never,
    /// With one or without.
    Optional,
    /// Only with one.
    Always,
}

impl Until {
    const fn takes(self, has_one: bool) -> bool {
        match self {
            Self::Never => !has_one,
            Self::Optional => true,
            Self::Always => has_one,
        }
    }
}

/// What a provider calls the two states of an item.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Values {
    /// It can be ordered.
    pub available: Value,
    /// It cannot.
    pub unavailable: Value,
}

/// `refused` of a call about items: where the answer lists what the provider did not take, or what became of each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefusedTable {
    /// JSON pointer of the list; empty where the answer is the list.
    pub each: String,
    /// JSON pointer of the id, in an element.
    pub id: String,
    /// JSON pointer of the reason's code, in an element.
    #[serde(default)]
    pub code: Option<String>,
    /// Codes that mean that it was taken, where the answer lists everything.
    #[serde(default)]
    pub ok: Vec<String>,
    /// Codes that mean that it may be taken later.
    #[serde(default)]
    pub retry: Vec<String>,
    /// Statuses from 400 to 499 with which the provider lists what it did not take. What is not in the list is sent again.
    #[serde(default)]
    pub status: Vec<u16>,
}

/// A table of `[[outbound.items]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ItemsTable {
    /// What it is for; items and options, where absent.
    #[serde(default)]
    pub kinds: Vec<EntryKind>,
    /// Only for those that can be ordered, or cannot; both, where absent.
    #[serde(default)]
    pub available: Option<bool>,
    /// Whether it says until when.
    #[serde(default)]
    pub until: Until,
    /// One call may name items of different states.
    #[serde(default)]
    pub mixed: bool,
    /// Most entries of one call; 1, where absent.
    #[serde(default)]
    pub batch: Option<usize>,
    /// Shortest time between two calls of one branch, `100ms`.
    #[serde(default)]
    pub every: Option<String>,
    /// `POST`, `PUT` or `PATCH`.
    pub method: String,
    /// On the base URL, with slots.
    pub path: String,
    /// JSON with slots and the list `entries`.
    #[serde(deserialize_with = "some_json")]
    pub body: Option<String>,
    /// What the provider calls the two states; true and false, where absent.
    #[serde(default)]
    pub values: Option<Values>,
    /// HTTP statuses from 400 to 499 that mean that it is so already.
    #[serde(default)]
    pub done: Vec<u16>,
    /// Where the answer lists what the provider did not take.
    #[serde(default)]
    pub refused: Option<RefusedTable>,
    /// HTTP statuses that mean that something in the call is not taken and do not say what: it is sent again in halves.
    #[serde(default)]
    pub split: Vec<u16>,
}

/// A table of `[[outbound.store]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreTable {
    /// The states that it is for.
    pub states: Vec<StoreState>,
    /// Whether it says until when.
    #[serde(default)]
    pub until: Until,
    /// `POST`, `PUT` or `PATCH`.
    pub method: String,
    /// On the base URL, with slots.
    pub path: String,
    /// JSON with slots.
    #[serde(default, deserialize_with = "some_json")]
    pub body: Option<String>,
    /// HTTP statuses from 400 to 499 that mean that it is so already.
    #[serde(default)]
    pub done: Vec<u16>,
    /// What the provider calls reasons here.
    #[serde(default)]
    pub reasons: BTreeMap<ReasonCode, String>,
}

/// A checked call about items.
#[derive(Debug, Clone)]
pub struct ItemsSpec {
    /// The request. Answers that the other fields give a meaning are taken as done.
    pub call: Call,
    /// What it is for.
    pub kinds: Vec<EntryKind>,
    /// Only for those that can be ordered, or cannot.
    pub available: Option<bool>,
    /// Whether it says until when.
    pub until: Until,
    /// One call may name items of different states.
    pub mixed: bool,
    /// Most entries of one call.
    pub batch: usize,
    /// Shortest time between two calls of one branch.
    pub every: Duration,
    /// What the provider calls the two states.
    pub values: Option<Values>,
    /// Where the answer lists what the provider did not take.
    pub refused: Option<RefusedTable>,
    /// Statuses after which it is sent again in halves.
    pub split: BTreeSet<u16>,
    /// Options are named with their groups.
    pub needs_group: bool,
}

/// A checked call about the state of a branch.
#[derive(Debug, Clone)]
pub struct StoreSpec {
    /// The request.
    pub call: Call,
    /// The states that it is for.
    pub states: Vec<StoreState>,
    /// Whether it says until when.
    pub until: Until,
    /// It says how long the kitchen needs.
    pub needs_minutes: bool,
}

/// Why a provider cannot be sent something: a JSON pointer in the request or the entry, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotSupported {
    /// Where.
    pub pointer: &'static str,
    /// Why.
    pub message: String,
}

fn not_supported(pointer: &'static str, message: impl Into<String>) -> NotSupported {
    NotSupported {
        pointer,
        message: message.into(),
    }
}

impl ItemsSpec {
    /// The place of the call that an entry is sent with.
    ///
    /// # Errors
    /// Why there is none.
    pub fn choose(calls: &[Self], kind: EntryKind, entry: &Availability) -> Result<usize, NotSupported> {
        let of_kind = |call: &Self| call.kinds.contains(&kind);
        if !calls.iter().any(of_kind) {
            return Err(not_supported("", format!("the provider takes no {}", kind.as_str())));
        }
        let is_for = |call: &Self| of_kind(call) && call.available.is_none_or(|one| one == entry.available);
        if !calls.iter().any(is_for) {
            return Err(not_supported("/available", "the provider takes no such change"));
        }
        let fits = |call: &Self| is_for(call) && call.until.takes(entry.until.is_some());
        match calls.iter().position(fits) {
            None if entry.until.is_some() => Err(not_supported(
                "/until",
                "the provider takes no time; leave it out, and ask again when it can be ordered",
            )),
            None => Err(not_supported("/until", "the provider must know until when")),
            Some(at) if calls[at].needs_group && entry.group_id.is_none() => {
                Err(not_supported("/groupId", "the provider must know the option's group"))
            }
            Some(at) => Ok(at),
        }
    }

    /// What the provider calls the state of an entry.
    pub fn value(&self, available: bool) -> Value {
        match (&self.values, available) {
            (Some(values), true) => values.available.clone(),
            (Some(values), false) => values.unavailable.clone(),
            (None, _) => available.into(),
        }
    }
}

impl StoreSpec {
    /// The calls by which a provider is sent a state, in their order.
    ///
    /// # Errors
    /// Why there are none.
    pub fn choose<'c>(calls: &'c [Self], wanted: &StoreRequested) -> Result<Vec<&'c Self>, NotSupported> {
        let is_for = |call: &&Self| call.states.contains(&wanted.state);
        if !calls.iter().any(|call| is_for(&call)) {
            let states = StoreState::ALL.into_iter();
            let states = states.filter(|state| calls.iter().any(|call| call.states.contains(state)));
            let states: Vec<_> = states.map(StoreState::as_str).collect();
            let message = format!(
                "the provider takes no state {}; it takes {}",
                wanted.state.as_str(),
                states.join(", ")
            );
            return Err(not_supported("/state", message));
        }
        let has_until = wanted.until.is_some();
        let chosen: Vec<_> = calls
            .iter()
            .filter(is_for)
            .filter(|call| call.until.takes(has_until))
            .collect();
        if chosen.is_empty() {
            let message = if has_until {
                "the provider takes no time; leave it out, and ask again for open"
            } else {
                "the provider must know until when"
            };
            return Err(not_supported("/until", message));
        }
        if wanted.preparation_minutes.is_none() && chosen.iter().any(|call| call.needs_minutes) {
            return Err(not_supported(
                "/preparationMinutes",
                "the provider must know how long the kitchen needs",
            ));
        }
        Ok(chosen)
    }
}

impl Check {
    fn call(
        &mut self,
        at: &dyn Fn(&str) -> String,
        (method, path, body): (&str, &str, Option<&str>),
        vocabulary: &Vocabulary,
    ) -> Call {
        let body = body.map(|body| self.body(&at("body"), body, vocabulary));
        let path = self.path(&at("path"), path, vocabulary);
        Call::new(self.method(&at("method"), method), path, body)
    }

    /// Whether the texts say until when, as the table claims.
    fn until(&mut self, at: &str, until: Until, uses: bool) {
        if uses != (until != Until::Never) {
            let expected = "expected optional or always where path or body say until when, and nowhere else";
            self.note(at, expected);
        }
    }

    pub(super) fn items(&mut self, tables: &[ItemsTable]) -> Vec<ItemsSpec> {
        let checked = tables.iter().enumerate();
        checked.map(|(index, table)| self.items_call(index, table)).collect()
    }

    fn items_call(&mut self, index: usize, table: &ItemsTable) -> ItemsSpec {
        let at = |field: &str| format!("outbound.items[{index}].{field}");
        let texts = (&*table.method, &*table.path, table.body.as_deref());
        let mut call = self.call(&at, texts, &words::ITEMS);
        let uses = |slots: &[&str]| {
            let texts = [Some(&table.path), table.body.as_ref()];
            texts
                .into_iter()
                .flatten()
                .any(|text| slots.iter().any(|slot| text.contains(slot)))
        };
        self.until(&at("until"), table.until, uses(&["{until", "{entry.until"]));
        let batch = table.batch.unwrap_or(1);
        if !(1..=MAX_BATCH).contains(&batch) {
            self.note(&at("batch"), "expected 1 to 1000");
        }
        if batch > 1 && uses(&["{id", "{group_id"]) {
            self.note(
                &at("batch"),
                "expected 1 where {id} is used; more go by the list entries",
            );
        }
        if table.mixed && uses(&["{value", "{available", "{until"]) {
            self.note(
                &at("mixed"),
                "expected {entry.value} and the like, because values differ",
            );
        }
        let every = self.duration(&at("every"), table.every.as_deref(), Duration::ZERO);
        if every > MAX_EVERY {
            self.note(&at("every"), "expected up to 2s");
        }
        let listed = table.refused.as_ref().map_or(&[][..], |refused| &refused.status);
        let done = self.client_errors(&at("done"), &table.done);
        let listed = self.client_errors(&at("refused.status"), listed);
        if table
            .split
            .iter()
            .any(|status| !(200..500).contains(status) || *status == 401)
        {
            self.note(&at("split"), "expected HTTP statuses from 200 to 499, without 401");
        }
        let split: BTreeSet<u16> = table.split.iter().copied().collect();
        self.refused(&at, table.refused.as_ref());
        call.done = &(&done | &listed) | &split;
        let kinds = if table.kinds.is_empty() {
            EntryKind::ALL.to_vec()
        } else {
            table.kinds.clone()
        };
        ItemsSpec {
            call,
            kinds,
            available: table.available,
            until: table.until,
            mixed: table.mixed,
            batch,
            every,
            values: table.values.clone(),
            refused: table.refused.clone(),
            split,
            needs_group: uses(&["{group_id", "{entry.group_id"]),
        }
    }

    /// Where a partial answer names what was refused.
    fn refused(&mut self, at: &dyn Fn(&str) -> String, refused: Option<&RefusedTable>) {
        if let Some(refused) = refused {
            self.pointer(
                &at("refused.each"),
                Some(&*refused.each).filter(|each| !each.is_empty()),
            );
            self.pointer(&at("refused.id"), Some(&refused.id));
            self.pointer(&at("refused.code"), refused.code.as_deref());
        }
    }

    pub(super) fn store(&mut self, tables: &[StoreTable]) -> Vec<StoreSpec> {
        let mut checked = Vec::with_capacity(tables.len());
        for (index, table) in tables.iter().enumerate() {
            let at = |field: &str| format!("outbound.store[{index}].{field}");
            let texts = (&*table.method, &*table.path, table.body.as_deref());
            let mut call = self.call(&at, texts, &words::STORE);
            let uses = |slot: &str| {
                [Some(&table.path), table.body.as_ref()]
                    .into_iter()
                    .flatten()
                    .any(|text| text.contains(slot))
            };
            self.until(&at("until"), table.until, uses("{until"));
            if table.states.is_empty() {
                self.note(&at("states"), "expected at least one");
            }
            call.done = self.client_errors(&at("done"), &table.done);
            call.reasons.clone_from(&table.reasons);
            checked.push(StoreSpec {
                call,
                states: table.states.clone(),
                until: table.until,
                needs_minutes: uses("{preparation_minutes}") || uses("{preparation_seconds}"),
            });
        }
        checked
    }
}
