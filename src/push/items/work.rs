//! What is left to send of a request about items, and what the provider has answered. Pure.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value};

use crate::{
    event::{
        branch::{Availability, EntryKind, ItemsProgressed, ItemsRequested, RefusedAt, RefusedEntry},
        outcome::ErrorReport,
    },
    provider::outbound::{
        branch::{ItemsSpec, NotSupported, RefusedTable},
        template::Scope,
    },
};

/// Code of an entry that an answer lists without one.
const REFUSED: &str = "REFUSED";
/// Most characters of a provider's code that are kept.
const MAX_CODE_CHARS: usize = 100;

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Settled {
    Taken,
    /// With this code.
    Refused(String),
    /// It need not be sent any more.
    Outdated,
}

/// Entries that go in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    /// The place of the call.
    pub(super) call: usize,
    /// The places of the entries.
    places: Vec<usize>,
}

/// A request's entries and what is known of each.
pub(super) struct Work<'w> {
    calls: &'w [ItemsSpec],
    entries: Vec<(EntryKind, &'w Availability)>,
    settled: Vec<Option<Settled>>,
    /// Requests to the provider, earlier turns included.
    pub(super) requests: u32,
    /// Whether the provider has answered in this turn.
    pub(super) has_news: bool,
    /// The last answer that refused a whole call.
    pub(super) refusal: Option<ErrorReport>,
}

impl<'w> Work<'w> {
    pub(super) fn new(calls: &'w [ItemsSpec], wanted: &'w ItemsRequested, progress: ItemsProgressed) -> Self {
        let entries: Vec<_> = wanted.entries().collect();
        let mut settled = vec![None; entries.len()];
        for at in progress.taken {
            if let Some(one) = settled.get_mut(at) {
                *one = Some(Settled::Taken);
            }
        }
        for RefusedAt { at, code } in progress.refused {
            if let Some(one) = settled.get_mut(at) {
                *one = Some(Settled::Refused(code));
            }
        }
        Self {
            calls,
            entries,
            settled,
            requests: progress.requests,
            has_news: false,
            refusal: None,
        }
    }

    /// These need not be sent any more.
    pub(super) fn leave_out(&mut self, is_outdated: impl Fn(EntryKind, &Availability) -> bool) {
        for (settled, (kind, entry)) in self.settled.iter_mut().zip(&self.entries) {
            if settled.is_none() && is_outdated(*kind, entry) {
                *settled = Some(Settled::Outdated);
            }
        }
    }

    /// The calls that are to be made, in the order of the request.
    ///
    /// # Errors
    /// If there is no call for an entry.
    pub(super) fn batches(&self) -> Result<VecDeque<Batch>, NotSupported> {
        let mut batches: VecDeque<Batch> = VecDeque::new();
        for (place, (kind, entry)) in self.entries.iter().enumerate() {
            if self.settled[place].is_some() {
                continue;
            }
            let call = ItemsSpec::choose(self.calls, *kind, entry)?;
            let spec = &self.calls[call];
            let takes = |batch: &&mut Batch| {
                batch.call == call && batch.places.len() < spec.batch && (spec.mixed || self.is_like(batch, entry))
            };
            match batches.iter_mut().find(takes) {
                Some(batch) => batch.places.push(place),
                None => batches.push_back(Batch {
                    call,
                    places: vec![place],
                }),
            }
        }
        Ok(batches)
    }

    /// Whether an entry has the state of those of a batch.
    fn is_like(&self, batch: &Batch, entry: &Availability) -> bool {
        batch.places.first().is_some_and(|first| {
            let (_, first) = self.entries[*first];
            (first.available, first.until) == (entry.available, entry.until)
        })
    }

    /// The slots of a call.
    pub(super) fn fill(&self, scope: &mut Scope, batch: &Batch) {
        let spec = &self.calls[batch.call];
        let slots = |entry: &Availability| {
            let mut slots = Map::new();
            slots.insert("available".into(), entry.available.into());
            slots.insert("value".into(), spec.value(entry.available));
            slots.insert("until".into(), entry.until.map(written).into());
            slots.insert("until_unix".into(), entry.until.map(|time| time.timestamp()).into());
            slots
        };
        let named = |entry: &Availability| {
            let mut slots = slots(entry);
            slots.insert("id".into(), entry.id.clone().into());
            slots.insert("group_id".into(), entry.group_id.clone().into());
            slots
        };
        let entries = batch.places.iter().map(|place| self.entries[*place].1);
        if let [only] = *batch.places {
            scope.0.extend(named(self.entries[only].1));
        } else if let Some(first) = batch.places.first() {
            scope.0.extend(slots(self.entries[*first].1));
        }
        let entries: Vec<Value> = entries.map(|entry| Value::Object(named(entry))).collect();
        scope.0.insert("entries".into(), entries.into());
    }

    /// The provider answered a call; what of it has to be sent again.
    pub(super) fn answered(&mut self, batch: Batch, status: u16, body: &[u8]) -> Vec<Batch> {
        self.has_news = true;
        self.requests += 1;
        let spec = &self.calls[batch.call];
        if spec.split.contains(&status) {
            let (first, second) = batch.places.split_at(batch.places.len() / 2);
            if first.is_empty() {
                self.refuse(&batch.places, &format!("PROVIDER_{status}"));
                return Vec::new();
            }
            let of = |places: &[usize]| Batch {
                call: batch.call,
                places: places.to_vec(),
            };
            return vec![of(first), of(second)];
        }
        let table = spec.refused.as_ref();
        let listed = table.map(|table| table.read(body)).unwrap_or_default();
        let is_refusal = table.is_some_and(|table| table.status.contains(&status));
        let is_in =
            |codes: fn(&RefusedTable) -> &Vec<String>, code| table.is_some_and(|table| codes(table).contains(code));
        let mut others = Vec::new();
        for place in &batch.places {
            match listed.get(&self.entries[*place].1.id) {
                Some(code) if is_in(|table| &table.ok, code) => self.settled[*place] = Some(Settled::Taken),
                // It stays open.
                Some(code) if is_in(|table| &table.retry, code) => {}
                Some(code) => self.settled[*place] = Some(Settled::Refused(code.clone())),
                None => others.push(*place),
            }
        }
        if !is_refusal {
            for place in others {
                self.settled[place] = Some(Settled::Taken);
            }
            return Vec::new();
        }
        if others.len() == batch.places.len() {
            self.refuse(&others, &format!("PROVIDER_{status}"));
            return Vec::new();
        }
        if others.is_empty() {
            return Vec::new();
        }
        vec![Batch {
            call: batch.call,
            places: others,
        }]
    }

    /// Whether the provider may take some later.
    pub(super) fn is_open(&self) -> bool {
        self.settled.contains(&None)
    }

    /// The provider refused a whole call.
    pub(super) fn refused(&mut self, batch: &Batch, error: ErrorReport) {
        self.has_news = true;
        self.requests += 1;
        self.refuse(&batch.places, &error.code);
        self.refusal = Some(error);
    }

    fn refuse(&mut self, places: &[usize], code: &str) {
        for place in places {
            self.settled[*place] = Some(Settled::Refused(code.to_owned()));
        }
    }

    /// What is settled, for the log.
    pub(super) fn progress(&self, attempt: u32) -> ItemsProgressed {
        let mut progress = ItemsProgressed {
            attempt,
            requests: self.requests,
            ..ItemsProgressed::default()
        };
        for (at, settled) in self.settled.iter().enumerate() {
            match settled {
                Some(Settled::Taken) => progress.taken.push(at),
                Some(Settled::Refused(code)) => progress.refused.push(RefusedAt { at, code: code.clone() }),
                Some(Settled::Outdated) | None => {}
            }
        }
        progress
    }

    /// How many were taken, how many need not be sent any more, and those that were refused.
    pub(super) fn sums(&self) -> (usize, usize, Vec<RefusedEntry>) {
        let (mut taken, mut outdated, mut refused) = (0, 0, Vec::new());
        for (settled, (kind, entry)) in self.settled.iter().zip(&self.entries) {
            match settled {
                Some(Settled::Taken) => taken += 1,
                Some(Settled::Refused(code)) => refused.push(RefusedEntry {
                    kind: *kind,
                    id: entry.id.clone(),
                    group_id: entry.group_id.clone(),
                    code: code.clone(),
                }),
                Some(Settled::Outdated) | None => outdated += 1,
            }
        }
        (taken, outdated, refused)
    }
}

impl RefusedTable {
    /// The ids that an answer lists, each with its code.
    fn read(&self, body: &[u8]) -> HashMap<String, String> {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let listed = body.pointer(&self.each).and_then(Value::as_array);
        let text = |value: Option<&Value>| match value? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let read = |one: &Value| {
            let code = self.code.as_ref().and_then(|code| text(one.pointer(code)));
            let code = code.unwrap_or_else(|| REFUSED.to_owned());
            Some((
                text(one.pointer(&self.id))?,
                code.chars().take(MAX_CODE_CHARS).collect(),
            ))
        };
        listed.into_iter().flatten().filter_map(read).collect()
    }
}

/// A time as requests to providers have it.
pub(in crate::push) fn written(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::provider::outbound::{Outbound, Spec};

    fn calls(tables: &str) -> Vec<ItemsSpec> {
        let text = format!("base_url = 'https://x.example'\n{tables}");
        let outbound: Outbound = toml::from_str(&text).unwrap();
        Spec::check(&outbound, (None, None), &[]).unwrap().items
    }

    const BY_STATE: &str = "
        [[items]]
        kinds = ['item']
        batch = 2
        method = 'PUT'
        path = '/x'
        body = { ids = { '$each' = 'entries', do = '{entry.id}' }, on = '{value}' }
        values = { available = 1, unavailable = 0 }
        split = [404]
        [[items]]
        available = false
        until = 'always'
        batch = 2
        method = 'PUT'
        path = '/x/{branch_id}'
        body = { ids = { '$each' = 'entries', do = '{entry.id}' }, until = '{until_unix}' }
        refused = { each = '/bad', id = '/id', code = '/why', ok = ['fine'], retry = ['busy'], status = [400] }";

    fn wanted(value: Value) -> ItemsRequested {
        serde_json::from_value(value).unwrap()
    }

    fn mixed() -> ItemsRequested {
        let until = "2031-01-01T00:00:00Z";
        wanted(json!({ "items": [
            { "id": "a", "available": false }, { "id": "b", "available": true }, { "id": "c", "available": false },
            { "id": "d", "available": false }, { "id": "e", "available": false, "until": until },
        ], "options": [{ "id": "f", "available": false, "until": until }, { "id": "g", "available": false, "until": until }] }))
    }

    fn places(batches: &VecDeque<Batch>) -> Vec<(usize, &[usize])> {
        batches.iter().map(|batch| (batch.call, &*batch.places)).collect()
    }

    #[test]
    fn entries_of_one_state_go_together_as_many_as_fit() {
        let (calls, wanted) = (calls(BY_STATE), mixed());
        let work = Work::new(&calls, &wanted, ItemsProgressed::default());
        let batches = work.batches().unwrap();
        assert_eq!(
            places(&batches),
            [(0, &[0, 2][..]), (0, &[1]), (0, &[3]), (1, &[4, 5]), (1, &[6])]
        );
        let mut scope = Scope::default();
        for (at, body) in [
            (0, json!({ "ids": ["a", "c"], "on": 0 })),
            (1, json!({ "ids": ["b"], "on": 1 })),
            (3, json!({ "ids": ["e", "f"], "until": 1_924_992_000 })),
        ] {
            work.fill(&mut scope, &batches[at]);
            let call = &calls[batches[at].call].call;
            assert_eq!(call.body.as_ref().unwrap().fill(&mut scope), body);
        }
        // An option without a time has no call.
        let other = self::wanted(json!({ "options": [{ "id": "f", "available": true }] }));
        let why = Work::new(&calls, &other, ItemsProgressed::default())
            .batches()
            .unwrap_err();
        assert_eq!(why.pointer, "/available");
    }

    #[test]
    fn what_was_answered_is_not_sent_again() {
        let (calls, wanted) = (calls(BY_STATE), mixed());
        let mut work = Work::new(&calls, &wanted, ItemsProgressed::default());
        let mut batches = work.batches().unwrap();
        // The first call in halves: one is not taken.
        let halves = work.answered(batches.pop_front().unwrap(), 404, b"");
        assert_eq!(
            halves.iter().map(|half| &*half.places).collect::<Vec<_>>(),
            [&[0], &[2]]
        );
        let mut halves = halves.into_iter();
        assert!(work.answered(halves.next().unwrap(), 404, b"").is_empty());
        assert!(work.answered(halves.next().unwrap(), 200, b"").is_empty());
        // Of a list one is taken, one may be later; what is not listed goes once more.
        let timed = batches.remove(2).unwrap();
        let rest = work.answered(timed, 400, br#"{"bad":[{"id":"e","why":"busy"}]}"#);
        assert_eq!(rest.iter().map(|batch| &*batch.places).collect::<Vec<_>>(), [&[5]]);
        for batch in rest {
            assert!(
                work.answered(batch, 400, br#"{"bad":[{"id":"f","why":"fine"}]}"#)
                    .is_empty()
            );
        }
        // An answer that lists nothing refuses everything in it.
        let last = batches.pop_back().unwrap();
        assert!(work.answered(last, 400, b"{}").is_empty());
        let progress = work.progress(3);
        assert_eq!(
            (&*progress.taken, progress.requests, progress.attempt),
            (&[2, 5][..], 6, 3)
        );
        let refused: Vec<_> = progress.refused.iter().map(|one| (one.at, &*one.code)).collect();
        assert_eq!(refused, [(0, "PROVIDER_404"), (6, "PROVIDER_400")]);
        assert!(work.is_open() && work.has_news);
        let mut later = Work::new(&calls, &wanted, progress);
        assert_eq!(places(&later.batches().unwrap()), [(0, &[1][..]), (0, &[3]), (1, &[4])]);
        later.leave_out(|_, entry| entry.id == "d");
        for batch in later.batches().unwrap() {
            later.answered(batch, 200, b"");
        }
        let (taken, outdated, refused) = later.sums();
        assert_eq!((taken, outdated, refused.len(), later.requests), (4, 1, 2, 8));
        assert!(!later.is_open());
    }

    #[test]
    fn a_list_of_what_was_refused_is_read() {
        let table: RefusedTable = toml::from_str("each = ''\nid = '/sku'").unwrap();
        let read = table.read(br#"[{"sku":7},{"sku":"b","why":"x"},{"other":1}]"#);
        let expected = [("7", REFUSED), ("b", REFUSED)].map(|(id, code)| (id.to_owned(), code.to_owned()));
        assert_eq!(read, HashMap::from(expected));
        assert!(table.read(b"<html>").is_empty());
    }
}
