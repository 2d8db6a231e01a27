//! Compares what an event would become now with what the log says that it became. Pure: it has the two events, the providers' files
//! and nothing else.

use bytes::Bytes;
use chrono::FixedOffset;
use serde::Deserialize;
use serde_json::Value;

use super::readings::Readings;
use crate::{
    config::ConfigError,
    event::{
        Envelope, EventType, Recorded,
        outcome::{
            DeadLettered, EVENT_AGED, ErrorReport, Ignored, LANE_FULL, NOT_YOURS, NUMBER_USED_AGAIN, ORDER_AMBIGUOUS,
            Rejected,
        },
        push::SyncReported,
    },
    operator::queries::{
        difference::{self, ValueChange},
        mask::Masking,
    },
    order::{
        body::{self, BranchRef},
        idempotency,
    },
    provider::{Content, Fact, Posted},
    transform::{
        BRANCH_NOT_FOUND,
        reading::{BeforeBranch, End, Meaning, Reading},
    },
};

/// In place of a pointer: another `Idempotency-Key`.
const KEY: &str = "(Idempotency-Key)";
/// In place of a pointer: the same values, written differently.
const NOTATION: &str = "(notation)";

/// A webhook or a fetched order, and the outcome that the log holds.
pub(in crate::operator) struct Pair {
    /// The event.
    pub(in crate::operator) input: Recorded,
    /// The body of its webhook, if it is a fetched order.
    pub(in crate::operator) webhook: Option<Bytes>,
    /// What the transformation made of it.
    pub(in crate::operator) logged: Recorded,
}

/// What would be made of it now.
#[derive(Debug)]
pub(in crate::operator) enum Now {
    /// A body for the backend.
    Body(Box<Made>),
    /// It would end here.
    Ended(End),
    /// The order would be fetched.
    Fetch,
    /// A provider's result for a menu; none while the provider is still working on it.
    Menu(Option<SyncReported>),
    /// The intake would refuse it.
    Refused(String),
    /// No file of the provider is known.
    NotKnown,
    /// The same: what decided it was asked of others, and the log has the answer. The store that would be looked up.
    AsLogged(Option<String>),
}

/// A body for the backend, and what it was made of.
#[derive(Debug)]
pub(in crate::operator) struct Made {
    pub(in crate::operator) posted: Posted,
    pub(in crate::operator) fact: Box<Fact>,
    pub(in crate::operator) branch: BranchRef,
    /// The envelope of its event, as the intake would record it today.
    pub(in crate::operator) envelope: Envelope,
}

/// How the two compare.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It would come out the same.
    Same,
    /// It would come out in the same way, with other content.
    Differs(Vec<ValueChange>),
    /// It would come out in another way; both ways in words.
    Otherwise {
        /// As the log has it.
        logged: String,
        /// As it would be.
        now: String,
    },
    /// It ended for a reason that no transformation decides.
    NotCompared,
}

/// Judges a pair.
///
/// # Errors
/// If a variable is missing without which the provider's webhooks cannot be read.
pub(super) fn judge(readings: &Readings, pair: &Pair) -> Result<Verdict, ConfigError> {
    let logged = Logged::of(&pair.logged);
    if logged.is_of_the_runner() {
        return Ok(Verdict::NotCompared);
    }
    let now = now(readings, pair, &logged)?;
    let words = now.words();
    let store = match now {
        Now::AsLogged(store) => store,
        _ if words != logged.words() => {
            return Ok(Verdict::Otherwise {
                logged: logged.words(),
                now: words,
            });
        }
        Now::Body(made) => return Ok(bodies(pair, &made)),
        Now::Ended(End::Rejected(error) | End::GivenUp(error)) => return Ok(errors(&logged, &error)),
        Now::Ended(End::Ignored { message, .. }) => {
            let before = logged.message.unwrap_or_default();
            let changes = difference::between(&before.into(), &message.into(), Masking::On);
            return Ok(Verdict::of(changes.into_iter().map(|change| below("/message", change))));
        }
        Now::Fetch | Now::Menu(_) | Now::Refused(_) | Now::NotKnown => return Ok(Verdict::Same),
    };
    // Another store would be looked up than the one that was not found.
    let details = logged.error.as_ref().map(|error| &error.details);
    let before = details.and_then(|details| details.get("merchant")).cloned();
    let merchant = (logged.code() == BRANCH_NOT_FOUND).then_some(before).flatten();
    let Some(before) = merchant else {
        return Ok(Verdict::Same);
    };
    let changes = difference::between(&before, &store.into(), Masking::Off);
    Ok(Verdict::of(
        changes
            .into_iter()
            .map(|change| below("/error/details/merchant", change)),
    ))
}

impl Verdict {
    fn of(changes: impl IntoIterator<Item = ValueChange>) -> Self {
        let changes: Vec<_> = changes.into_iter().collect();
        if changes.is_empty() {
            Self::Same
        } else {
            Self::Differs(changes)
        }
    }
}

fn below(place: &str, change: ValueChange) -> ValueChange {
    ValueChange {
        pointer: format!("{place}{}", change.pointer),
        ..change
    }
}

fn errors(logged: &Logged, error: &ErrorReport) -> Verdict {
    let value = |error: &ErrorReport| serde_json::to_value(error).unwrap_or_default();
    let before = logged.error.as_ref().map_or(Value::Null, value);
    let changes = difference::between(&before, &value(error), Masking::Off);
    Verdict::of(changes.into_iter().map(|change| below("/error", change)))
}

fn bodies(pair: &Pair, made: &Made) -> Verdict {
    let (body, logged) = (&made.posted.body, &pair.logged.payload);
    let mut changes = Vec::new();
    if body != logged {
        let read = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap_or_default();
        changes = difference::between(&read(logged), &read(body), Masking::On);
        if changes.is_empty() {
            changes.push(ValueChange {
                pointer: NOTATION.into(),
                before: None,
                after: None,
            });
        }
    }
    changes.extend(key_change(pair, made));
    Verdict::of(changes)
}

/// Another `Idempotency-Key` of a new order; none where it is the same, or where the log does not have it (the older form of events).
fn key_change(pair: &Pair, made: &Made) -> Option<ValueChange> {
    let Content::NewOrder(order) = &made.fact.content else {
        return None;
    };
    let logged = pair.logged.envelope.idempotency_key?;
    let (provider, branch) = (&pair.input.envelope.provider, &made.branch.branch_id);
    let key = idempotency::key(order, provider, branch, made.fact.timestamp);
    (key != Some(logged)).then(|| ValueChange {
        pointer: KEY.into(),
        before: Some(logged.to_string().into()),
        after: key.map(|key| key.to_string().into()),
    })
}

/// What would be made of an event now. What the stage asks of others is taken from the outcome that the log holds.
///
/// # Errors
/// If a variable is missing without which the provider's webhooks cannot be read.
pub(in crate::operator) fn now(readings: &Readings, pair: &Pair, logged: &Logged) -> Result<Now, ConfigError> {
    let Some(known) = readings.get(&pair.input.envelope.provider)? else {
        return Ok(Now::NotKnown);
    };
    let reading = known.reading();
    let input = match known.received_again(&pair.input, pair.webhook.as_ref()) {
        Ok(input) => input,
        Err(reason) => return Ok(Now::Refused(reason)),
    };
    Ok(match reading.meaning(&input, pair.webhook.clone()) {
        Meaning::Menu(word) if logged.is_of_look_ups() => Now::AsLogged(word.store),
        Meaning::Menu(word) => Now::Menu(word.result),
        Meaning::End(end) => Now::Ended(end),
        Meaning::News(fact) => {
            let (reading, fact) = reading.news_in(logged.zone, &input, pair.webhook.clone(), fact);
            of_news(reading, input, fact, logged)
        }
    })
}

fn of_news(reading: Reading<'_>, input: Recorded, mut fact: Box<Fact>, logged: &Logged) -> Now {
    // Which of the named stores has a branch is in the table; the log says what was found.
    if let Some(store) = logged
        .store
        .as_deref()
        .filter(|store| fact.stores.named().any(|named| named == *store))
    {
        fact.stands_for(store);
    }
    match reading.before_branch(&input, &fact) {
        _ if logged.code() == NOT_YOURS => return Now::AsLogged(None),
        BeforeBranch::Fetch => return Now::Fetch,
        BeforeBranch::End(end) => return Now::Ended(end),
        BeforeBranch::Branch if logged.is_of_look_ups() => return Now::AsLogged(fact.store_ref.clone()),
        BeforeBranch::Branch => {}
    }
    let branch = logged.branch.clone().unwrap_or_else(|| BranchRef {
        branch_id: String::new(),
        company_id: String::new(),
        auto_accept: false,
    });
    match reading.body(&input, &fact, &branch) {
        Ok(posted) => Now::Body(Box::new(Made {
            posted,
            fact,
            branch,
            envelope: input.envelope,
        })),
        Err(end) => Now::Ended(end),
    }
}

impl Now {
    /// In words: the type of the outcome and its code.
    pub(super) fn words(&self) -> String {
        let of = |event_type: EventType, code: &str| format!("{event_type} {code}").trim_end().to_owned();
        match self {
            Self::Body(..) => of(EventType::OrderTransformed, ""),
            Self::Ended(End::Rejected(error)) => of(EventType::OrderRejected, &error.code),
            Self::Ended(End::GivenUp(error)) => of(EventType::OrderDeadLettered, &error.code),
            Self::Ended(End::Ignored { reason, .. }) => of(EventType::OrderIgnored, reason),
            Self::Fetch => of(EventType::OrderFetchRequested, ""),
            Self::Menu(Some(_)) => of(EventType::MenuSyncReported, ""),
            Self::Menu(None) => of(EventType::OrderIgnored, "MENU_RESULT_PENDING"),
            Self::Refused(reason) => format!("refused by the intake: {reason}"),
            Self::NotKnown => of(EventType::OrderDeadLettered, "PROVIDER_NOT_ENABLED"),
            Self::AsLogged(_) => "as the log says".into(),
        }
    }
}

/// As much of a new order's body as says for which store it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoreOfBody {
    transformed_order: StoreOfOrder,
}

/// The store of an order.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoreOfOrder {
    store_ref: Option<String>,
}

/// An outcome of the log.
#[derive(Debug)]
pub(in crate::operator) struct Logged {
    event_type: EventType,
    /// Why it ended, if it did.
    error: Option<ErrorReport>,
    /// Why it was ignored, if it was.
    reason: Option<String>,
    message: Option<String>,
    /// The branch that a body is for.
    branch: Option<BranchRef>,
    /// The store that a new order is for.
    store: Option<String>,
    /// The zone of the branch by which a body's times were read.
    zone: Option<FixedOffset>,
}

impl Logged {
    pub(in crate::operator) fn of(event: &Recorded) -> Self {
        let event_type = event.envelope.event_type;
        let mut logged = Self {
            event_type,
            error: None,
            reason: None,
            message: None,
            branch: None,
            store: None,
            zone: None,
        };
        match event_type {
            EventType::OrderTransformed => {
                logged.store = serde_json::from_slice::<StoreOfBody>(&event.payload)
                    .ok()
                    .and_then(|body| body.transformed_order.store_ref);
                logged.zone = body::zone(&event.payload);
                logged.branch = body::summary(&event.payload).ok().map(|summary| BranchRef {
                    branch_id: summary.branch_id,
                    company_id: summary.company_id,
                    auto_accept: summary.auto_accept,
                });
            }
            EventType::OrderIgnored => {
                let ignored = serde_json::from_slice::<Ignored>(&event.payload).ok();
                (logged.reason, logged.message) = ignored.map(|ignored| (ignored.reason, ignored.message)).unzip();
            }
            EventType::OrderRejected => {
                let rejected = serde_json::from_slice::<Rejected>(&event.payload).ok();
                logged.error = rejected.map(|rejected| rejected.error);
            }
            EventType::OrderDeadLettered => {
                let dead = serde_json::from_slice::<DeadLettered>(&event.payload).ok();
                logged.error = dead.map(|dead| dead.error);
            }
            _ => {}
        }
        logged
    }

    fn code(&self) -> &str {
        let code = self.error.as_ref().map(|error| &*error.code);
        code.or(self.reason.as_deref()).unwrap_or_default()
    }

    fn words(&self) -> String {
        format!("{} {}", self.event_type, self.code()).trim_end().to_owned()
    }

    /// Whether a look-up of the branch decided it.
    fn is_of_look_ups(&self) -> bool {
        self.event_type == EventType::OrderDeadLettered
            && [BRANCH_NOT_FOUND, NOT_YOURS, ORDER_AMBIGUOUS].contains(&self.code())
    }

    /// Whether the runner of the stage decided it, and not the transformation.
    fn is_of_the_runner(&self) -> bool {
        self.event_type == EventType::OrderDeadLettered
            && [LANE_FULL, EVENT_AGED, NUMBER_USED_AGAIN].contains(&self.code())
    }
}
