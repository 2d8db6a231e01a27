//! The content of a lane's message. Pure: no clock, no I/O.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// How early a lane may be taken up: too little to be noticed.
pub(super) const EARLY: TimeDelta = TimeDelta::milliseconds(20);

/// The state of an order that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lane {
    /// The provider, for the metric and for readers of the stream.
    pub provider: String,
    /// Sequence on `EVENTS` of the event that is tried again.
    pub head: u64,
    /// Requests that were made for it.
    pub requests: u32,
    /// When it is due.
    pub due_at: DateTime<Utc>,
    /// Later events of the order, in the log's order, each with the requests that were made for it (one that let the
    /// event that creates its order pass has some).
    #[serde(default)]
    pub waiting: Vec<(u64, u32)>,
    /// It waits for another event of its order, such as the one that creates it, and lets that one pass.
    #[serde(default)]
    pub for_creation: bool,
    /// Which of those that wait create the order. None if that is not known, as where an earlier version wrote the lane: then
    /// they are read from the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creations: Option<Vec<u64>>,
    /// Requests for a retry in this lane, each with the sequence of the event that it takes up again. That event is older and
    /// has to be on the log when the request has its turn. Earlier versions leave this out: then the head's is noted when the
    /// head is tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retried: Vec<(u64, u64)>,
    /// The branch of the order, if one is known. Earlier versions leave it out: then it is noted when the head is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Events that wait and were tried before, with a time of their own. Earlier versions leave it out: each is due after the one before it
    /// then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<TriedEvent>,
    /// It holds, or held, events of several branches. Earlier versions leave it out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_mixed: bool,
}

/// An event that was tried, and behind the head of its lane since: it let that one pass, or is of another branch's order and due later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TriedEvent {
    /// Which of those that wait.
    pub sequence: u64,
    /// When it is due.
    pub due_at: DateTime<Utc>,
    /// See [`Lane::for_creation`].
    pub for_creation: bool,
}

impl Lane {
    /// Of an event that nothing waits behind.
    pub fn new(provider: String, head: u64, requests: u32, due_at: DateTime<Utc>, for_creation: bool) -> Self {
        Self {
            provider,
            head,
            requests,
            due_at,
            waiting: Vec::new(),
            for_creation,
            creations: Some(Vec::new()),
            retried: Vec::new(),
            branch: None,
            tried: Vec::new(),
            is_mixed: false,
        }
    }

    /// Notes which older event the one at this sequence requests a retry of, if it does.
    pub fn note_retried(&mut self, sequence: u64, original: Option<u64>) {
        if let Some(original) = original
            && !self.retried.iter().any(|(request, _)| *request == sequence)
        {
            self.retried.push((sequence, original));
        }
    }

    /// Notes the branch of an event in it, if it names one.
    pub fn note_branch(&mut self, branch: Option<&str>) {
        if branch.is_some() && self.branch.as_deref() != branch {
            self.is_mixed |= self.branch.is_some();
            self.branch = branch.map(str::to_owned);
        }
    }

    /// The branch, or the provider where none is known.
    pub fn branch_or_provider(&self) -> &str {
        self.branch.as_deref().unwrap_or(&self.provider)
    }

    /// The oldest sequence that the log must have for an event in this lane: that of the event, or of the one that it takes up
    /// again.
    pub fn needs(&self, sequence: u64) -> u64 {
        let of_it = self.retried.iter().filter(|(request, _)| *request == sequence);
        of_it.map(|(_, original)| *original).fold(sequence, u64::min)
    }

    /// The same, for all events in it.
    pub fn needs_from(&self) -> u64 {
        let originals = self.retried.iter().map(|(_, original)| *original);
        self.sequences().chain(originals).min().unwrap_or(self.head)
    }

    /// The first of those that wait that needs what is at this sequence or before.
    pub fn first_that_needs(&self, up_to: u64) -> Option<(u64, u32)> {
        let mut waiting = self.waiting.iter().copied();
        waiting.find(|(sequence, _)| self.needs(*sequence) <= up_to)
    }

    /// Without one of those that wait.
    pub fn without(mut self, ended: u64) -> Self {
        self.waiting.retain(|(sequence, _)| *sequence != ended);
        if let Some(creations) = &mut self.creations {
            creations.retain(|sequence| *sequence != ended);
        }
        self.retried.retain(|(request, _)| *request != ended);
        self.tried.retain(|event| event.sequence != ended);
        self
    }

    /// When one of those that wait is due, and for what, if it was tried before.
    pub fn tried(&self, sequence: u64) -> Option<TriedEvent> {
        self.tried.iter().copied().find(|event| event.sequence == sequence)
    }

    /// The next of those that wait, if it waits for its order.
    pub fn next_for_creation(&self) -> Option<TriedEvent> {
        let (next, _) = self.waiting.first()?;
        self.tried(*next).filter(|event| event.for_creation)
    }

    /// Lets an event wait behind all others. `creates`: whether it creates the order.
    pub fn join(&mut self, sequence: u64, requests: u32, creates: bool) {
        self.waiting.push((sequence, requests));
        if let Some(creations) = self.creations.as_mut().filter(|_| creates) {
            creations.push(sequence);
        }
    }

    /// Lets an event that creates an order wait before one of those that wait, which waits for its order.
    pub fn pass(&mut self, at: usize, sequence: u64, requests: u32) {
        self.waiting.insert(at, (sequence, requests));
        if let Some(creations) = &mut self.creations {
            creations.push(sequence);
        }
    }

    /// Makes one of the events in it due now, if it was tried.
    pub fn hasten(&mut self, sequence: u64, now: DateTime<Utc>) {
        let of_tried = self.tried.iter_mut().filter(|event| event.sequence == sequence);
        let due = of_tried.map(|event| &mut event.due_at);
        let head = (self.head == sequence).then_some(&mut self.due_at);
        due.chain(head).for_each(|due_at| *due_at = now.min(*due_at));
    }

    /// Where the first of those that wait stands that creates an order, if one does; an outer none if that is not known.
    pub fn creation(&self) -> Option<Option<usize>> {
        let creations = self.creations.as_ref()?;
        let mut waiting = self.waiting.iter().map(|(sequence, _)| sequence);
        Some(waiting.position(|event| creations.contains(event)))
    }

    /// Whether it is to be worked on. Its time was written by the clock of a hub and is compared with the clock of one: where
    /// another instance takes over, a lane is late or early by as much as the two clocks differ.
    pub fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.due_at <= now + EARLY
    }

    /// Whether an event is in it.
    pub fn holds(&self, sequence: u64) -> bool {
        self.sequences().any(|one| one == sequence)
    }

    /// Every event in it.
    pub fn sequences(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.head).chain(self.waiting.iter().map(|(sequence, _)| *sequence))
    }

    /// Without events that have ended, and with those of the same order that it lacks, each with the requests that were made;
    /// none if nothing is left.
    pub fn mended(mut self, ended: impl Fn(u64) -> bool, missing: Option<Self>, now: DateTime<Utc>) -> Option<Self> {
        let head = self.head;
        if let Some(creations) = &mut self.creations {
            creations.retain(|event| !ended(*event));
        }
        self.retried.retain(|(request, _)| !ended(*request));
        let events = std::iter::once((head, self.requests)).chain(std::mem::take(&mut self.waiting));
        let mut events: Vec<_> = events.filter(|(event, _)| !ended(*event)).collect();
        let Some(missing) = missing else {
            let (first, requests) = *events.first()?;
            self.waiting = events.split_off(1);
            return Some(Self {
                head: first,
                requests,
                due_at: if first == head { self.due_at } else { now },
                for_creation: self.for_creation && first == head,
                tried: self
                    .tried
                    .into_iter()
                    .filter(|event| event.sequence != first && !ended(event.sequence))
                    .collect(),
                ..self
            });
        };
        if events.is_empty() {
            return Some(missing);
        }
        events.push((missing.head, missing.requests));
        events.extend(missing.waiting);
        self.retried.extend(missing.retried);
        events.sort_unstable();
        let (first, requests) = events.remove(0);
        Some(Self {
            head: first,
            requests,
            due_at: match first {
                // A head that waits for its creation is tried at once: the creation may be in the other lane.
                first if first == head && !self.for_creation => self.due_at,
                first if first == missing.head && !missing.for_creation => missing.due_at,
                _ => now,
            },
            waiting: events,
            // The creation that the head waits for may be behind it; the next attempt looks for it.
            for_creation: false,
            creations: None,
            tried: Vec::new(),
            is_mixed: self.is_mixed || missing.is_mixed || self.branch != missing.branch,
            ..self
        })
    }

    /// With the next event at its head, due now or at its own time; none if there is no other.
    pub fn advance(mut self, now: DateTime<Utc>) -> Option<Self> {
        if self.waiting.is_empty() {
            return None;
        }
        let ended = self.head;
        self.retried.retain(|(request, _)| *request != ended);
        (self.head, self.requests) = self.waiting.remove(0);
        // What waits for its order is tried now: that may be there.
        let tried = self.tried(self.head).filter(|event| !event.for_creation);
        Some(Self {
            due_at: tried.map_or(now, |event| event.due_at),
            for_creation: false,
            ..self.without_tried_head()
        })
    }

    /// The same, where the head still waits for its order, until then. `passes`: where that one of those that wait stands that passes it.
    pub fn waits_on(self, due_at: DateTime<Utc>, passes: Option<usize>, now: DateTime<Utc>) -> Self {
        let waits = Self {
            due_at,
            for_creation: true,
            ..self
        };
        match passes {
            None => waits,
            Some(at) => waits.led_by_waiting(at, now),
        }
    }

    /// With one of those that wait before all others, due now or at its own time.
    pub fn led_by_waiting(mut self, at: usize, now: DateTime<Utc>) -> Self {
        let (sequence, requests) = self.waiting.remove(at);
        let due_at = self.tried(sequence).map_or(now, |tried| tried.due_at.max(now));
        Self {
            requests,
            ..self.led_by(sequence, due_at)
        }
    }

    /// With one of those that let the head pass before all others, due then. The head waits behind it and what came before the head. None if that one
    /// is not there.
    pub fn led_back(mut self, passed: u64, due_at: DateTime<Utc>) -> Option<Self> {
        let at = self.waiting.iter().position(|(sequence, _)| *sequence == passed)?;
        let (head, requests) = self.waiting.remove(at);
        self.keep_time_of_head();
        let passer = (self.head, self.requests);
        let before = self.waiting.iter().rposition(|(sequence, _)| *sequence < passer.0);
        self.waiting.insert(before.map_or(0, |at| at + 1), passer);
        // Only an event that creates an order passes others.
        if let Some(creations) = self.creations.as_mut().filter(|known| !known.contains(&passer.0)) {
            creations.push(passer.0);
        }
        Some(
            Self {
                head,
                requests,
                due_at,
                for_creation: true,
                ..self
            }
            .without_tried_head(),
        )
    }

    /// With that event at its head that is due first, of those that no event before them holds up; the head, if it is one of several. `are_apart`:
    /// whether the events at two places, 0 for the head, do not wait for each other. An event that was not tried is due now.
    pub fn led_by_first_due(self, are_apart: impl Fn(usize, usize) -> bool, now: DateTime<Utc>) -> Self {
        let is_free = |at: &usize| (0..*at).all(|before| are_apart(before, *at));
        let due_at = |at: &usize| match at.checked_sub(1).and_then(|at| self.waiting.get(at)) {
            None => self.due_at,
            Some((event, _)) => self.tried(*event).map_or(now, |tried| tried.due_at),
        };
        let first = (0..=self.waiting.len()).filter(is_free).min_by_key(due_at);
        match first.and_then(|first| first.checked_sub(1)) {
            None => self,
            Some(at) => self.led_at_its_time(at, now),
        }
    }

    /// With one of those that wait before all others, due at its own time, or now if it was not tried. The present head keeps its time.
    fn led_at_its_time(mut self, at: usize, now: DateTime<Utc>) -> Self {
        let (sequence, requests) = self.waiting.remove(at);
        let tried = self.tried(sequence);
        self.keep_time_of_head();
        self.waiting.insert(0, (self.head, self.requests));
        Self {
            head: sequence,
            requests,
            due_at: tried.map_or(now, |event| event.due_at),
            for_creation: tried.is_some_and(|event| event.for_creation),
            ..self
        }
        .without_tried_head()
    }

    fn keep_time_of_head(&mut self) {
        self.tried.push(TriedEvent {
            sequence: self.head,
            due_at: self.due_at,
            for_creation: self.for_creation,
        });
    }

    fn without_tried_head(mut self) -> Self {
        let head = self.head;
        self.tried.retain(|event| event.sequence != head);
        self
    }

    /// With this event before all others, due then.
    pub fn led_by(mut self, sequence: u64, due_at: DateTime<Utc>) -> Self {
        if self.for_creation {
            self.keep_time_of_head();
        }
        self.waiting.insert(0, (self.head, self.requests));
        Self {
            head: sequence,
            requests: 0,
            due_at,
            for_creation: false,
            ..self
        }
        .without_tried_head()
    }
}

#[cfg(test)]
mod tests;
