//! Requests to a provider, as data: the tables `[outbound]`, `[fetch]` and `[reconcile]` of its file.
//!
//! [`Outbound`], [`Fetch`] and [`Reconcile`] are the tables as written; [`Spec::check`] turns them into what the stage works with, and
//! reports every fault with its location. Nothing here is a secret: those come from the environment.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use axum::http::{HeaderName, Method};
use secrecy::SecretString;

use self::{
    branch::{ItemsSpec, StoreSpec},
    check::Check,
    template::{Json, Text},
};
use crate::{
    event::push::{PushStatus, ReasonCode},
    order::model::Fulfillment,
};

pub use self::reconcile::{Reconcile, ReconcileSpec};
pub use self::tables::{
    AgainTable, AnswerTable, Auth, Credentials, Fetch, HrefPath, MenuCall, MenuResult, Offered, Outbound, StatusCall,
    TokenFormat, When,
};

/// Time for one request, where the file says nothing.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a file may give one request: a place in the stage is taken for so long.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a token of a login is used where neither the answer nor the file says: Delivery Hero's hold for half an hour.
const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_secs(20 * 60);

/// Name and secret of the hub at a provider.
#[derive(Debug, Clone, Default)]
pub struct ClientCredentials {
    /// `<PROVIDER>_CLIENT_ID`.
    pub id: Option<String>,
    /// `<PROVIDER>_CLIENT_SECRET`.
    pub secret: Option<SecretString>,
    /// `<PROVIDER>_KEY_ID`.
    pub key_id: Option<String>,
    /// `<PROVIDER>_ACCESS_TOKEN`.
    pub access_token: Option<SecretString>,
}

/// A request that is made of slots.
#[derive(Debug, Clone)]
pub struct Call {
    /// HTTP method.
    pub method: Method,
    /// On the base URL.
    pub path: Text,
    /// The body.
    pub body: Option<Json>,
    /// HTTP statuses that mean that it is so already.
    pub done: BTreeSet<u16>,
    /// Answers that mean that it is too early.
    pub again: Option<Again>,
    /// HTTP statuses that mean that it is too late.
    pub ended: BTreeSet<u16>,
    /// What the provider calls reasons here.
    pub reasons: BTreeMap<ReasonCode, String>,
    /// Where an order says whether the provider takes this call about it.
    pub offered: Option<Offered>,
    /// Orders that it is for; all, where there are none.
    pub only_for: Vec<Fulfillment>,
    /// Whether it says of which branch the order is.
    pub names_branch: bool,
}

impl Call {
    /// A request without rules of its own.
    pub const fn new(method: Method, path: Text, body: Option<Json>) -> Self {
        Self {
            method,
            path,
            body,
            done: BTreeSet::new(),
            again: None,
            ended: BTreeSet::new(),
            reasons: BTreeMap::new(),
            offered: None,
            only_for: Vec::new(),
            names_branch: true,
        }
    }
}

/// Answers after which a call is made again soon, and no attempt is counted.
#[derive(Debug, Clone)]
pub struct Again {
    /// HTTP statuses.
    pub status: BTreeSet<u16>,
    /// Texts of which the answer holds one, in capitals; any answer where there are none.
    pub contains: Vec<String>,
    /// The pause.
    pub every: Duration,
    /// For how long, counted from the request.
    pub within: Duration,
}

impl Again {
    /// Whether an answer is one.
    pub fn is_one(&self, status: u16, body: &[u8]) -> bool {
        let said = || String::from_utf8_lossy(body).to_uppercase();
        self.status.contains(&status)
            && (self.contains.is_empty() || {
                let said = said();
                self.contains.iter().any(|text| said.contains(text))
            })
    }
}

/// How menus are taken.
#[derive(Debug, Clone)]
pub struct MenuSpec {
    /// The request.
    pub call: Call,
    /// Shortest time between two menus of one branch.
    pub every: Duration,
    /// JSON pointer, in the answer, of what the provider calls the job.
    pub reference: Option<String>,
    /// Its later result, if it reports one.
    pub result: Option<ResultSpec>,
}

/// A provider's later result.
#[derive(Debug, Clone)]
pub struct ResultSpec {
    /// How long it is waited for.
    pub wait: Duration,
    /// The URL that is polled, and the interval.
    pub poll: Option<(Text, Duration)>,
    /// How it is read.
    pub table: MenuResult,
}

/// How orders are fetched.
#[derive(Debug, Clone)]
pub struct FetchSpec {
    /// Types of webhooks that require fetching the order.
    pub webhooks: BTreeSet<String>,
    /// Where the order is.
    pub place: FetchPlace,
}

/// Where an order is.
#[derive(Debug, Clone)]
pub enum FetchPlace {
    /// The webhook says so.
    Href(Href),
    /// On the base URL.
    Path(Text),
}

/// An order's URL in a webhook.
#[derive(Debug, Clone, Default)]
pub struct Href {
    /// JSON pointer of the URL.
    pub pointer: String,
    /// Hosts that are allowed beside those for base URLs, in small letters.
    pub hosts: Vec<String>,
    /// Shapes that its path may have.
    pub paths: Vec<HrefPath>,
}

/// The checked tables, as the stage uses them.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Without a slash at its end.
    pub base_url: String,
    /// Time for one request.
    pub timeout: Duration,
    /// How the hub shows who it is.
    pub auth: Auth,
    /// How long a token of a login is used where its answer does not say.
    pub token_lifetime: Duration,
    /// Headers of every request.
    pub headers: Vec<(HeaderName, Text)>,
    /// Where the key goes.
    pub idempotency_header: Option<HeaderName>,
    /// Most requests a second.
    pub requests_per_second: Option<u32>,
    /// Statuses that may be tried again.
    pub retry: BTreeSet<u16>,
    /// What the provider calls reasons.
    pub reasons: BTreeMap<ReasonCode, String>,
    /// How long after a request `{accept_time}` is at least.
    pub accept_at_least: Duration,
    /// Within which time the provider must be told whether the backend has an order; none where it need not be told.
    pub confirm_within: Option<Duration>,
    /// What answers of 2xx mean, where only their body says it.
    pub answer: Option<AnswerTable>,
    /// Calls by word; several are for different orders ([`Call::only_for`]).
    pub status: HashMap<PushStatus, Vec<Call>>,
    /// Whether those say anything about the branch.
    pub needs_branch: bool,
    /// How menus are taken.
    pub menu: Option<MenuSpec>,
    /// Calls about which items can be ordered; the first one that takes an entry is made.
    pub items: Vec<ItemsSpec>,
    /// Calls about the state of a branch; all that take a state are made, in this order.
    pub store: Vec<StoreSpec>,
    /// How orders are fetched.
    pub fetch: Option<FetchSpec>,
    /// How the provider is asked which orders there are; none if it is not.
    pub reconcile: Option<ReconcileSpec>,
}

impl Spec {
    /// Checks everything; `fetched` are the types of webhooks that require fetching the order.
    ///
    /// # Errors
    /// Every fault, each with its place.
    pub fn check(
        outbound: &Outbound,
        (fetch, reconcile): (Option<&Fetch>, Option<&Reconcile>),
        fetched: &[&str],
    ) -> Result<Self, Vec<String>> {
        let mut check = Check::default();
        check.auth(&outbound.auth);
        check.answer(outbound.answer.as_ref());
        let token_lifetime = match &outbound.auth {
            Auth::Login { lifetime, .. } | Auth::Jwt { lifetime, .. } => {
                check.duration("outbound.auth.lifetime", lifetime.as_deref(), DEFAULT_TOKEN_LIFETIME)
            }
            _ => DEFAULT_TOKEN_LIFETIME,
        };
        let timeout = check.duration("outbound.timeout", outbound.timeout.as_deref(), DEFAULT_TIMEOUT);
        if timeout > MAX_TIMEOUT || timeout.is_zero() {
            check.note("outbound.timeout", "expected up to 60s");
        }
        if outbound.requests_per_second == Some(0) {
            check.note("outbound.requests_per_second", "expected at least 1");
        }
        check.has_token = matches!(outbound.auth, Auth::Login { .. });
        let headers = outbound.headers.iter().filter_map(|(name, value)| {
            let at = format!("outbound.headers.{name}");
            check.no_token(&at, value);
            let text = Text::read(value, &words::STATUS, &at, &mut check.faults);
            Some((check.header(&at, name)?, text))
        });
        let headers = headers.collect();
        let idempotency_header = outbound
            .idempotency_header
            .as_deref()
            .and_then(|name| check.header("outbound.idempotency_header", name));
        let spec = Self {
            base_url: check.base_url(&outbound.base_url),
            timeout,
            auth: outbound.auth.clone(),
            token_lifetime,
            headers,
            idempotency_header,
            requests_per_second: outbound.requests_per_second,
            retry: check.client_errors("outbound.retry", &outbound.retry),
            reasons: outbound.reasons.clone(),
            accept_at_least: check.duration(
                "outbound.accept_at_least",
                outbound.accept_at_least.as_deref(),
                Duration::ZERO,
            ),
            confirm_within: check.confirm(outbound),
            answer: outbound.answer.clone(),
            status: check.statuses(outbound),
            needs_branch: needs_branch(outbound),
            menu: outbound.menu.as_ref().map(|menu| check.menu(menu)),
            items: check.items(&outbound.items),
            store: check.store(&outbound.store),
            fetch: fetch.map(|fetch| check.fetch(fetch, fetched)),
            reconcile: reconcile.map(|reconcile| check.reconcile(reconcile)),
        };
        check.signed_body(&spec);
        if check.faults.is_empty() {
            Ok(spec)
        } else {
            Err(check.faults)
        }
    }
}

/// Whether one of these texts says of which branch an order is. Settings of a branch need not: several may have the same brand.
fn names_branch<'t>(mut texts: impl Iterator<Item = &'t String>) -> bool {
    texts.any(|text| ["{branch_", "{merchant_id"].iter().any(|slot| text.contains(slot)))
}

/// Whether a call about an order says anything about its branch.
fn needs_branch(outbound: &Outbound) -> bool {
    let calls = outbound.status.iter();
    let calls = calls.flat_map(|call| [Some(&call.path), call.body.as_ref()]).flatten();
    let slots = ["{branch_", "{merchant_id", "{setting."];
    outbound
        .headers
        .values()
        .chain(calls)
        .any(|text| slots.iter().any(|slot| text.contains(slot)))
}

mod answer;
pub mod branch;
mod check;
mod tables;
pub mod reconcile;
pub mod origins;
pub mod template;
pub mod words;
#[cfg(test)]
mod tests;
