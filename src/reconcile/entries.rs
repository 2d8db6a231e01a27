//! Reads a provider's lists: their pages, and what an entry says. A list that fails is asked again a few times, within its limits.

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    branches::Branch,
    event::{EventId, outcome::ErrorReport},
    fault_injection::time,
    json::{
        pointer::Pointer,
        scan::{Document, verbatim},
    },
    provider::{
        declarative::clock,
        outbound::{
            ReconcileSpec,
            reconcile::{Cancelled, ListSpec},
            template::{Scope, Unfilled},
        },
    },
    push,
    remote::{Caller, MAX_DOCUMENT_BYTES, Remote, Reply, RequestTarget},
};

/// Most pages of one list that are read.
const MAX_PAGES: usize = 100;
/// How often a request is made before its list is left for now.
const ATTEMPTS: u32 = 3;
/// Pause after a failed request, and after the next one twice that, where the provider does not say.
const PAUSE: Duration = Duration::from_secs(2);
/// Longest pause that is kept within a reading; where a provider wants a longer one, the list is left for now.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longest time that a request waits for its turn at the provider.
const LONGEST_TURN: Duration = Duration::from_secs(120);
/// The share of a provider's rate that reading lists may take: one request in so many.
const SHARE_OF_RATE: u32 = 4;
/// By how much the provider's clock must differ from what it was thought to be for a list to be asked for once more.
const OTHER_CLOCK: TimeDelta = TimeDelta::minutes(10);
/// The key of requests for lists, where a provider takes one; see [`Caller`].
const KEY: &str = "reconciliation";

/// Why something could not be read.
#[derive(Debug)]
pub(super) enum Trouble {
    /// A slot has no value.
    Misconfigured(String),
    /// The provider refuses it, or says something else than the file expects.
    Refused(String),
    /// It does not work now.
    Unavailable(String),
}

impl Trouble {
    /// Its label in metrics.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Misconfigured(_) => "misconfigured",
            Self::Refused(_) => "refused",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// Whether the next reading meets it again, until a person changes a setting.
    pub(super) const fn is_lasting(&self) -> bool {
        matches!(self, Self::Misconfigured(_))
    }

    /// In words, without anything of an answer but its code.
    pub(super) fn message(&self) -> &str {
        match self {
            Self::Misconfigured(message) | Self::Refused(message) | Self::Unavailable(message) => message,
        }
    }
}

impl From<Unfilled> for Trouble {
    fn from(unfilled: Unfilled) -> Self {
        Self::Misconfigured(format!("{unfilled}, which the provider must be told"))
    }
}

/// An order in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedOrder {
    /// What the list calls it.
    pub(super) id: String,
    /// Whether it is cancelled.
    pub(super) is_cancelled: bool,
    /// When it was placed, where the entry says so.
    pub(super) placed_at: Option<DateTime<Utc>>,
    /// The entry, as it stands in the answer.
    pub(super) entry: String,
}

/// What a list has.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) orders: Vec<ListedOrder>,
    /// Entries without an id.
    pub(super) without_id: usize,
}

/// Of what lists are read.
pub(super) struct Place {
    /// The branch; none where the list is the provider's.
    pub(super) branch: Option<String>,
    /// Slots that say which.
    pub(super) scope: Scope,
}

impl Place {
    /// A branch; none: the provider as a whole.
    pub(super) fn of(branch: Option<&Branch>) -> Self {
        let mut scope = Scope::default();
        if let Some(branch) = branch {
            scope.0.insert("branch_id".into(), branch.branch_id.clone().into());
            push::say(&mut scope, branch);
        }
        Self {
            branch: branch.map(|branch| branch.branch_id.clone()),
            scope,
        }
    }
}

/// Makes the requests of one reading.
pub(super) struct Lists<'a> {
    remote: &'a Remote,
    spec: &'a ReconcileSpec,
    base: Result<String, ErrorReport>,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    spacing: Duration,
    last_request: Option<Instant>,
}

impl<'a> Lists<'a> {
    /// Of this provider. `of_platform` is the platform's URL of its interface.
    pub(super) fn new(
        (remote, spec): (&'a Remote, &'a ReconcileSpec),
        of_platform: Option<&str>,
        now: DateTime<Utc>,
    ) -> Self {
        let rate = remote
            .spec
            .requests_per_second
            .map(|rate| Duration::from_secs(1) / rate.max(1));
        let share = rate.map_or(Duration::ZERO, |spacing| spacing * SHARE_OF_RATE);
        Self {
            remote,
            spec,
            base: remote.base(of_platform),
            since: now,
            until: now,
            spacing: time("reconcile_pause", spec.pause.max(share)),
            last_request: None,
        }
    }

    /// The base URL; empty where there is none that may be used, and then nothing can be read either.
    pub(super) fn base_url(&self) -> &str {
        self.base.as_deref().unwrap_or_default()
    }

    /// Orders are wanted since then.
    pub(super) const fn wants_since(&mut self, since: DateTime<Utc>) {
        self.since = since;
    }

    /// Every order of a list, in its order.
    pub(super) async fn read(&mut self, place: &Place, list: &ListSpec) -> Result<Listing, Trouble> {
        let mut scope = place.scope.clone();
        let mut ahead = self.remote.clock_difference();
        self.say_times(&mut scope, ahead);
        let (mut listing, mut next) = (Listing::default(), None::<String>);
        for _ in 0..MAX_PAGES {
            let target = match &next {
                None => RequestTarget::Path(&list.path),
                Some(parameter) => RequestTarget::PathAnd(&list.path, parameter),
            };
            let mut body = self.ask(place, target, &mut scope).await?;
            let found = self.remote.clock_difference();
            if next.is_none() && (found - ahead).abs() > OTHER_CLOCK {
                // Only the answer says what time it is there.
                ahead = found;
                self.say_times(&mut scope, ahead);
                let target = RequestTarget::Path(&list.path);
                body = self.ask(place, target, &mut scope).await?;
            }
            let page = Page::read(&body, self.spec, list)?;
            let ours = |order: ListedOrder| ListedOrder {
                placed_at: order.placed_at.map(|at| at - ahead),
                ..order
            };
            listing.orders.extend(page.orders.into_iter().map(ours));
            listing.without_id += page.without_id;
            // A page that names itself would be read for ever.
            if page.next.is_none() || page.next == next {
                return Ok(listing);
            }
            next = page.next;
        }
        Err(Trouble::Refused(format!("the list has more than {MAX_PAGES} pages")))
    }

    /// The document of an order.
    pub(super) async fn document(&mut self, place: &Place, id: &str) -> Result<String, Trouble> {
        let Some((path, parts)) = &self.spec.order else {
            return Err(Trouble::Misconfigured(
                "the file does not say where an order's document is".into(),
            ));
        };
        let mut scope = place.scope.clone();
        scope.0.insert("external_id".into(), id.into());
        let body = self.ask(place, RequestTarget::Path(path), &mut scope).await?;
        let document = document(&body)?;
        let part = parts.iter().find_map(|part| document.part(part));
        Ok(part.unwrap_or(document).text().to_owned())
    }

    /// When an order was placed, by our clock: as its document says.
    pub(super) fn placed_at(&self, document: Document<'_>) -> Option<DateTime<Utc>> {
        placed_at(document, &self.spec.time).map(|at| at - self.remote.clock_difference())
    }

    /// The times of a list, for a provider with a clock that is so far ahead.
    fn say_times(&self, scope: &mut Scope, ahead: TimeDelta) {
        let (since, until) = (self.since + ahead, self.until + ahead);
        let hours = (self.until - self.since).num_minutes().max(1).div_euclid(60) + 1;
        let day = 24;
        for (name, value) in [
            ("since", text(since)),
            ("since_s", since.timestamp().into()),
            ("since_ms", since.timestamp_millis().into()),
            ("until", text(until)),
            ("until_s", until.timestamp().into()),
            ("until_ms", until.timestamp_millis().into()),
            ("hours", hours.min(day).into()),
        ] {
            scope.0.insert(name.into(), value);
        }
    }

    async fn ask(&mut self, place: &Place, target: RequestTarget<'_>, scope: &mut Scope) -> Result<Vec<u8>, Trouble> {
        let caller = Caller {
            base: self.base.clone(),
            branch: place.branch.clone(),
            event: EventId(Uuid::new_v4()),
            key: KEY.to_owned(),
            is_only: false,
            has_own_limit: true,
            is_aside: true,
        };
        let (began, mut attempt) = (Instant::now(), 0);
        loop {
            if let Some(last) = self.last_request {
                tokio::time::sleep_until((last + self.spacing).into()).await;
            }
            self.last_request = Some(Instant::now());
            let asked = self.remote.read(&caller, target.clone(), scope, MAX_DOCUMENT_BYTES);
            let reply = Box::pin(asked).await?;
            let (pause, error) = match reply {
                Reply::Done { body, .. } => return Ok(body),
                Reply::Refused(error) => return Err(Trouble::Refused(message(&error))),
                Reply::Wait(wait) | Reply::Turn(wait) => {
                    let error = "the provider is not asked at the moment: its breaker is open, or its rate is used up";
                    if began.elapsed() + wait > LONGEST_TURN {
                        return Err(Trouble::Unavailable(error.into()));
                    }
                    tokio::time::sleep(wait).await;
                    continue;
                }
                Reply::Temporary { error, after } => (after.unwrap_or(PAUSE * (attempt + 1)), error),
                Reply::Again { error, after, .. } => (after, error),
            };
            attempt += 1;
            if attempt >= ATTEMPTS || pause > LONGEST_PAUSE {
                return Err(Trouble::Unavailable(message(&error)));
            }
            tokio::time::sleep(time("reconcile_retry", pause)).await;
        }
    }
}

fn text(time: DateTime<Utc>) -> Value {
    time.to_rfc3339_opts(SecondsFormat::Secs, true).into()
}

fn message(error: &ErrorReport) -> String {
    format!("{}: {}", error.code, error.message)
}

fn document(body: &[u8]) -> Result<Document<'_>, Trouble> {
    let no_json = |_| Trouble::Unavailable("the provider's answer is no JSON".into());
    Document::new(body).map_err(no_json)
}

/// One page of a list.
struct Page {
    orders: Vec<ListedOrder>,
    without_id: usize,
    /// The parameter of the query for the next one.
    next: Option<String>,
}

impl Page {
    fn read(body: &[u8], spec: &ReconcileSpec, list: &ListSpec) -> Result<Self, Trouble> {
        let answer = document(body)?;
        let mut found = list.items.iter().filter_map(|items| answer.part(items));
        let items = match found.find(|part| part.is_array() || part.text() == "null") {
            Some(items) => items,
            None => {
                let message = "the provider's answer has no list where the file says (reconcile.list.items)";
                return Err(Trouble::Refused(message.into()));
            }
        };
        let cancelled_at: Pointer = match &list.cancelled {
            Cancelled::Where(when) => when.pointer.parse().unwrap_or_default(),
            Cancelled::None | Cancelled::All => Pointer::default(),
        };
        let is_cancelled = |entry: Document<'_>| match &list.cancelled {
            Cancelled::None => false,
            Cancelled::All => true,
            Cancelled::Where(when) => {
                let word = scalar(entry, &cancelled_at);
                word.is_some_and(|word| when.is.iter().any(|is| is.eq_ignore_ascii_case(&word)))
            }
        };
        let order = |entry: Document<'_>| {
            Some(ListedOrder {
                id: scalar(entry, &list.id)?,
                is_cancelled: is_cancelled(entry),
                placed_at: placed_at(entry, &spec.time),
                entry: entry.text().to_owned(),
            })
        };
        let (mut orders, mut count) = (Vec::new(), 0);
        for entry in items.elements() {
            count += 1;
            orders.extend(order(entry));
        }
        // If no entry has one, the file is wrong.
        if orders.is_empty() && count > 0 {
            let message = "the orders of the provider's list have no id where the file says (reconcile.list.id)";
            return Err(Trouble::Refused(message.into()));
        }
        let next = list.next.as_ref().and_then(|next| {
            let token = scalar(answer, &next.at)?;
            let encoded = form_urlencoded::byte_serialize(token.as_bytes()).collect::<String>();
            Some(format!("{}={encoded}", next.query))
        });
        let without_id = count - orders.len();
        Ok(Self {
            orders,
            without_id,
            next,
        })
    }
}

/// A text or a number at a place; none where there is neither, or nothing in it.
fn scalar(of: Document<'_>, at: &Pointer) -> Option<String> {
    let raw = of.part(at)?.text();
    let text = match raw.as_bytes().first()? {
        b'"' => verbatim(raw)?.into_owned(),
        b'-' | b'0'..=b'9' => raw.to_owned(),
        _ => return None,
    };
    (!text.trim().is_empty()).then_some(text)
}

/// When an order was placed, in an entry or a document of it.
fn placed_at(of: Document<'_>, places: &[Pointer]) -> Option<DateTime<Utc>> {
    places.iter().find_map(|at| clock::moment(&scalar(of, at)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Catalogue;

    fn spec(provider: &str) -> ReconcileSpec {
        let known = Catalogue::shipped();
        let outbound = known.get(provider).unwrap().file().outbound.clone();
        outbound.unwrap().reconcile.expect("it has lists")
    }

    #[test]
    fn an_entry_says_which_order_it_is_and_whether_it_is_cancelled() {
        let spec = spec("uber-eats");
        let answer = br#"{"data": [
            {"id": "o-1", "state": "ACCEPTED"}, {"id": "o-2", "state": "canceled"}
        ], "pagination_data": {"next_page_token": "a/b=+"}}"#;
        let page = Page::read(answer, &spec, &spec.lists[0]).unwrap();
        let orders = page.orders.iter();
        let read: Vec<_> = orders.map(|order| (&*order.id, order.is_cancelled)).collect();
        assert_eq!(read, [("o-1", false), ("o-2", true)]);
        assert_eq!(page.next.as_deref(), Some("next_page_token=a%2Fb%3D%2B"));
        let last = br#"{"data": null, "pagination_data": {"next_page_token": ""}}"#;
        let page = Page::read(last, &spec, &spec.lists[0]).unwrap();
        assert_eq!((page.orders.len(), page.next), (0, None));
    }

    #[test]
    fn an_answer_that_is_no_such_list_is_said_to_be_none() {
        let spec = spec("delivery-hero");
        let read = |answer: &[u8]| Page::read(answer, &spec, &spec.lists[0]).map(|page| page.orders.len());
        assert_eq!(read(br#"{"orderIdentifiers": ["a", "b"], "count": 2}"#).unwrap(), 2);
        let page = Page::read(br#"{"orderIdentifiers": [null, "a", {}]}"#, &spec, &spec.lists[0]).unwrap();
        assert_eq!((page.orders.len(), page.without_id), (1, 2));
        for (answer, label) in [
            (&br#"{"orders": []}"#[..], "refused"),
            (br#"{"orderIdentifiers": [null]}"#, "refused"),
            (br"<html>", "unavailable"),
        ] {
            assert_eq!(read(answer).unwrap_err().label(), label);
        }
    }
}
