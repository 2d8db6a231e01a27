//! One reading of the lists of a provider that are due: what is missing on the log goes onto it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use super::{
    Needs, Reconciler,
    due::DuePlace,
    entries::{ListedOrder, Lists, Place, Trouble},
    schedule::{ReadingEnd, Reason},
    seen::{Said, Seen},
};
use crate::{
    event::stage::PUSH, fault_injection::time, provider::outbound::ReconcileSpec, registry::Enabled, remote::Remote,
};

mod taking;

/// If the lists of so many branches one after the other cannot be read, the reading ends: the provider is away, or takes none of our
/// questions. The next reading begins behind them.
const FAILING_BRANCHES: u32 = 3;
/// If so many documents of one list one after the other cannot be had, the list is left for now. The next reading asks for them last.
const FAILING_ENTRIES: usize = 3;
/// The same, where the provider refuses them.
const REFUSED_ENTRIES: usize = 20;
/// Most orders of which it is remembered what only their documents say, and most that are missed.
const MAX_REMEMBERED: usize = 100_000;

/// What is known of one provider from reading to reading.
pub(super) struct State {
    pub(super) seen: Seen,
    /// What an order is called in its document, by its name in the list, where the two differ.
    names: HashMap<String, String>,
    /// When orders were placed, by their names in the list, where only their documents say so.
    placed: HashMap<String, DateTime<Utc>>,
    /// When what is missing was missed first.
    missed: HashMap<(String, bool), Instant>,
    /// Orders that were skipped in the last readings, by their names in the list.
    skipped: HashSet<String>,
    /// The branch behind which the next reading begins: the last one that a reading which ended early asked for.
    ended_at: Option<String>,
}

impl State {
    /// Nothing is known yet.
    pub(super) fn new(provider: &str) -> Self {
        Self {
            seen: Seen::new(provider),
            names: HashMap::new(),
            placed: HashMap::new(),
            missed: HashMap::new(),
            skipped: HashSet::new(),
            ended_at: None,
        }
    }

    /// Whether something has been missing for so long.
    fn is_missed_for(&mut self, order: &str, said: Said, grace: Duration) -> bool {
        if self.missed.len() >= MAX_REMEMBERED {
            self.missed.clear();
        }
        let key = (order.to_owned(), said == Said::Cancelled);
        self.missed.entry(key).or_insert_with(Instant::now).elapsed() >= grace
    }

    fn place(&mut self, listed: &str, placed_at: Option<DateTime<Utc>>) {
        if self.placed.len() >= MAX_REMEMBERED {
            self.placed.clear();
        }
        self.placed.extend(placed_at.map(|at| (listed.to_owned(), at)));
    }

    fn skip(&mut self, listed: &str) {
        if self.skipped.len() >= MAX_REMEMBERED {
            self.skipped.clear();
        }
        self.skipped.insert(listed.to_owned());
    }

    fn name(&mut self, listed: &str, name: &str) {
        if listed != name && self.names.len() < MAX_REMEMBERED {
            self.names.insert(listed.to_owned(), name.to_owned());
        }
    }
}

/// Why nothing more is read for now.
enum Stop {
    /// The lists of one place cannot be read.
    Trouble(Trouble),
    /// The log does not take what was found, or cannot be read.
    Log(anyhow::Error),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Log(error)
    }
}

/// One reading.
pub(super) struct Round<'a> {
    needs: &'a Needs,
    enabled: &'a Enabled,
    spec: &'a ReconcileSpec,
    lists: Lists<'a>,
    since: DateTime<Utc>,
    /// How old what is missing is at least.
    grace: Duration,
    is_deferred: bool,
}

impl Reconciler {
    /// A reading.
    pub(super) fn round<'a>(
        &'a self,
        enabled: &'a Enabled,
        (remote, spec): (&'a Remote, &'a ReconcileSpec),
    ) -> Round<'a> {
        let (of_platform, now) = (self.needs.branches.api_base_url(&self.name), Utc::now());
        Round {
            needs: &self.needs,
            enabled,
            spec,
            lists: Lists::new((remote, spec), of_platform.as_deref(), now),
            since: now,
            grace: Duration::ZERO,
            is_deferred: false,
        }
    }
}

impl Round<'_> {
    /// Reads the lists of these places, in their order; returns how that ended, of each.
    pub(super) async fn run(mut self, places: &[DuePlace], state: &mut State) -> Vec<ReadingEnd> {
        let (mut outcome, mut failing) = ("complete", 0);
        let mut ends = vec![ReadingEnd::NOT_READ; places.len()];
        // A reading that follows one which ended early begins behind the place where that one ended: branches that cannot be read do
        // not keep those behind them out.
        let last = state.ended_at.take();
        let last = last.and_then(|last| places.iter().position(|due| due.branch_id() == Some(&last)));
        let first = last.map_or(0, |last| last + 1);
        for at in (first..places.len()).chain(0..first) {
            let due = &places[at];
            let place = Place::of(due.branch.as_deref());
            if !self.needs.journal.roles().all().contains(&PUSH.name) {
                outcome = "handed_over";
                break;
            }
            self.begin(due);
            let (is_complete, is_whole) = match self.of_place(&place, state).await {
                Ok(skipped) => {
                    failing = 0;
                    outcome = skipped.as_ref().map_or(outcome, Trouble::label);
                    (skipped.as_ref().is_none_or(Trouble::is_lasting), skipped.is_none())
                }
                Err(Stop::Trouble(trouble)) => {
                    outcome = trouble.label();
                    self.note_trouble(&place, &trouble);
                    // Without a setting of the branch nothing was asked for: that says nothing of the provider.
                    failing += u32::from(!trouble.is_lasting());
                    (trouble.is_lasting(), false)
                }
                Err(Stop::Log(error)) => {
                    outcome = "log";
                    tracing::warn!(
                        provider = &*self.enabled.name,
                        error = format!("{error:#}"),
                        "the event log does not take what the provider's list has; it is read again later"
                    );
                    break;
                }
            };
            ends[at] = ReadingEnd {
                is_complete,
                is_whole,
                is_deferred: self.is_deferred,
            };
            if failing >= FAILING_BRANCHES {
                state.ended_at.clone_from(&place.branch);
                break;
            }
        }
        let provider = &self.enabled.name;
        metrics::counter!("reconciliation_readings_total", "provider" => Arc::clone(provider), "outcome" => outcome)
            .increment(1);
        ends
    }

    /// The lists of this place are read next.
    fn begin(&mut self, due: &DuePlace) {
        (self.since, self.is_deferred) = (due.since, false);
        self.lists.wants_since(due.since);
        // After an absence every minute counts, and a webhook that comes as well is a repeat of the order.
        self.grace = match due.reason {
            Reason::Away => Duration::ZERO,
            _ => time("reconcile_grace", self.spec.grace),
        };
    }

    fn note_trouble(&self, place: &Place, trouble: &Trouble) {
        tracing::warn!(
            provider = &*self.enabled.name,
            branch = place.branch,
            error = trouble.message(),
            "cannot read the provider's list of orders; it is read again later"
        );
    }

    /// Every list of a branch, or of the provider. What was placed earlier goes first. Returns why entries were skipped, if some
    /// were: they keep no other entry out.
    async fn of_place(&mut self, place: &Place, state: &mut State) -> Result<Option<Trouble>, Stop> {
        let mut orders: Vec<ListedOrder> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for list in &self.spec.lists {
            let listing = self.lists.read(place, list).await?;
            for _ in 0..listing.without_id {
                self.note_unreadable("", "it has no id where the file says (reconcile.list.id)");
            }
            for order in listing.orders {
                match places.get(&order.id) {
                    Some(at) => orders[*at].is_cancelled |= order.is_cancelled,
                    None => {
                        places.insert(order.id.clone(), orders.len());
                        orders.push(order);
                    }
                }
            }
        }
        orders.sort_by_key(|order| (state.skipped.contains(&order.id), order.placed_at));
        let branch = place.branch.as_deref();
        orders.retain(|order| !is_seen(order, branch, state));
        if orders.is_empty() {
            return Ok(None);
        }
        // Webhooks may have come while the lists were read.
        state.seen.catch_up(self.needs.journal.connection()).await?;
        orders.retain(|order| !is_seen(order, branch, state));
        self.take_in_all(place, &orders, state).await
    }

    /// Takes in what the log lacks of these orders, but for those that cannot be had; returns why some were skipped. If several
    /// documents one after the other cannot be had now, the rest is left, too.
    async fn take_in_all(
        &mut self,
        place: &Place,
        orders: &[ListedOrder],
        state: &mut State,
    ) -> Result<Option<Trouble>, Stop> {
        let (mut skipped, mut unavailable, mut refused) = (None::<Trouble>, 0, 0);
        for order in orders {
            let trouble = match self.take_in(place, order, state).await {
                Ok(()) => {
                    (unavailable, refused) = (0, 0);
                    state.skipped.remove(&order.id);
                    continue;
                }
                Err(Stop::Trouble(trouble)) => trouble,
                Err(stop) => return Err(stop),
            };
            self.note_unreadable(&order.id, trouble.message());
            state.skip(&order.id);
            match trouble {
                Trouble::Unavailable(_) => unavailable += 1,
                Trouble::Refused(_) => refused += 1,
                Trouble::Misconfigured(_) => {}
            }
            if unavailable >= FAILING_ENTRIES || refused >= REFUSED_ENTRIES {
                return Err(trouble.into());
            }
            // What may be different the next time decides whether the reading is complete.
            if skipped.as_ref().is_none_or(Trouble::is_lasting) {
                skipped = Some(trouble);
            }
        }
        Ok(skipped)
    }
}

/// Whether webhooks on the log say all that a list says of an order.
fn is_seen(order: &ListedOrder, branch: Option<&str>, state: &State) -> bool {
    let name = state.names.get(&order.id).unwrap_or(&order.id);
    let has = |said| state.seen.has(name, said, branch);
    has(Said::Created) && (!order.is_cancelled || has(Said::Cancelled))
}
