//! Which lists of a provider are due: each branch's by itself, for that one branch sends webhooks does not mean that the others' come.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    schedule::{ReadingEnd, Reason, Schedule},
    seen::Seen,
};
use crate::branches::Branch;

/// Lists that are due.
pub(super) struct DuePlace {
    /// Of this branch; none: of the provider as a whole.
    pub(super) branch: Option<Arc<Branch>>,
    /// Why.
    pub(super) reason: Reason,
    /// From when on orders are wanted.
    pub(super) since: DateTime<Utc>,
    /// The last webhook that counts for them.
    last_webhook: DateTime<Utc>,
}

impl DuePlace {
    /// The id of the branch.
    pub(super) fn branch_id(&self) -> Option<&String> {
        self.branch.as_ref().map(|branch| &branch.branch_id)
    }
}

/// When the lists of one provider are read.
pub(super) struct Schedules {
    every: Duration,
    /// How far back a reading goes.
    window: Duration,
    /// How long a look at all of them holds at most: branches come and go.
    hold: TimeDelta,
    /// By branch; no more than there are active ones.
    of_places: HashMap<Option<String>, Schedule>,
    /// What comes from now on was not there when the hub began.
    has_begun: bool,
    /// Before then none is due, unless webhooks come.
    next: DateTime<Utc>,
}

impl Schedules {
    /// Nothing was read yet.
    pub(super) fn new(every: Duration, window: Duration, hold: Duration) -> Self {
        Self {
            every,
            window,
            hold: TimeDelta::from_std(hold).unwrap_or_default(),
            of_places: HashMap::new(),
            has_begun: false,
            next: DateTime::<Utc>::MIN_UTC,
        }
    }

    /// Whether something may be due, as far as is known without a look at every branch.
    pub(super) fn may_be_due(&self, now: DateTime<Utc>) -> bool {
        now >= self.next
    }

    /// The places of these with lists that are due. Nothing is, before the provider sent a webhook: it is not live, and its orders are
    /// another system's.
    pub(super) fn due(&mut self, now: DateTime<Utc>, places: &[Option<Arc<Branch>>], seen: &Seen) -> Vec<DuePlace> {
        self.next = now + self.hold;
        let id_of = |place: &Option<Arc<Branch>>| place.as_ref().map(|branch| branch.branch_id.clone());
        let ids: HashSet<_> = places.iter().map(id_of).collect();
        self.of_places.retain(|id, _| ids.contains(id));
        let mut due = Vec::new();
        for branch in places {
            let id = id_of(branch);
            let Some(webhooks) = seen.webhooks(id.as_deref()) else {
                return due;
            };
            let (every, has_begun) = (self.every, self.has_begun);
            let schedule = self.of_places.entry(id).or_insert_with(|| match has_begun {
                false => Schedule::new(every, now),
                true => Schedule::joined(every, now, webhooks.last),
            });
            match schedule.due(now, webhooks.last) {
                Some(reason) => due.push(DuePlace {
                    branch: branch.clone(),
                    reason,
                    since: schedule.since(now, self.window, webhooks),
                    last_webhook: webhooks.last,
                }),
                None => self.next = self.next.min(schedule.due_at(webhooks.last)),
            }
        }
        self.has_begun = true;
        due
    }

    /// The lists of these were read, or not, from this time on.
    pub(super) fn ended(&mut self, began: DateTime<Utc>, read: &[DuePlace], ends: Vec<ReadingEnd>) {
        self.next = began;
        for (due, end) in read.iter().zip(ends) {
            if let Some(schedule) = self.of_places.get_mut(&due.branch_id().cloned()) {
                schedule.ended(began, due.reason, due.last_webhook, end);
            }
        }
    }

    /// Since when all lists were read at least once and nothing was left out; none if that never was.
    pub(super) fn whole(&self) -> Option<DateTime<Utc>> {
        let each = self.of_places.values().map(Schedule::whole);
        each.collect::<Option<Vec<_>>>()?.into_iter().min()
    }
}
