//! A delivery platform's interface, played over HTTP: it gives tokens that end, counts requests, refuses what is so already,
//! takes menus and says later what it makes of them, hands out orders, and fails by a script.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::Method,
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::played::{Heard, Played, at_least};

/// What the hub goes by there.
pub(crate) const CLIENT_ID: &str = "hub-at-the-provider";
/// Its secret.
pub(crate) const CLIENT_SECRET: &str = "secret-at-the-provider";
/// Where OAuth tokens are had, by the tests' files.
pub(crate) const TOKEN: &str = "/token";
/// Where a login is posted.
pub(crate) const LOGIN: &str = "/v2/login";
/// A call; requests for tokens are counted apart.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    heard: Heard,
    /// The requests that it received.
    pub(crate) status: u16,
}

impl Deref for Call {
    type Target = Heard;

    fn deref(&self) -> &Heard {
        &self.heard
    }
}

/// The answer to a call.
#[derive(Debug, Clone)]
pub(crate) struct Say {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) retry_after: Option<u64>,
    /// `Retry-After` as a date: so many seconds later than its own clock says.
    pub(crate) retry_date: Option<i64>,
    pub(crate) location: Option<String>,
}

impl Say {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            body: "{}".into(),
            retry_after: None,
            retry_date: None,
            location: None,
        }
    }

    pub(crate) fn json(body: &Value) -> Self {
        Self {
            body: body.to_string(),
            ..Self::status(200)
        }
    }
}

#[derive(Default)]
struct Script {
    calls: Vec<Call>,
    tokens: usize,
    /// Tokens that are good, and until when.
    good: HashMap<String, Instant>,
    lifetime: Option<Duration>,
    /// How long tokens are good in truth, where that is not what it says.
    kept_for: Option<Duration>,
    /// What it says about that (`expires_in`), where that is not a number of seconds.
    expires_in: Option<Value>,
    /// Requests for tokens, whatever they were told: their fields, and when they came.
    token_requests: Vec<(Value, Instant)>,
    /// The header in which tokens are shown, where they are asked for with JSON.
    json_tokens_in: Option<String>,
    /// Answers to requests for tokens.
    next_token: VecDeque<Say>,
    next: VecDeque<Say>,
    /// Answers for every call with this beginning of its path.
    on: Vec<(String, Say)>,
    /// Answers for every call of the branch with this `branch-id`.
    of_branch: HashMap<String, Say>,
    /// Calls are not answered while there is one: all, or those of the branch with this `branch-id`.
    held: Option<(Option<String>, Arc<Semaphore>)>,
    /// Orders and the states that they were set to; setting one again is a 409.
    states: HashSet<(String, String)>,
    /// Most requests a second; one more is a 429.
    per_second: Option<usize>,
    /// Whether a call shows who it is, where that is no token that was given here.
    shows: Option<Shows>,
    /// How many seconds its clock is ahead of ours.
    clock: Arc<AtomicI64>,
    /// Documents by path.
    documents: HashMap<String, String>,
    /// Lists by path without its query; a list is made of the query.
    lists: HashMap<String, List>,
}

/// Whether a call shows who it is.
type Shows = Box<dyn Fn(&Heard) -> bool + Send>;

/// Makes the answer of a list of the parameters of a query.
type List = Box<dyn Fn(&HashMap<String, String>) -> Value + Send>;

/// The platform.
pub(crate) struct Provider {
    server: Played,
    shared: Arc<Mutex<Script>>,
}

impl Deref for Provider {
    type Target = Played;

    fn deref(&self) -> &Played {
        &self.server
    }
}

impl Provider {
    pub(crate) fn start() -> Self {
        let shared: Arc<Mutex<Script>> = Arc::default();
        let router = Router::new().fallback(receive).with_state(Arc::clone(&shared));
        Self {
            server: Played::start("the provider", router),
            shared,
        }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.lock().unwrap()
    }

    /// The answers to the next calls, one each.
    pub(crate) fn next(&self, answers: impl IntoIterator<Item = Say>) {
        self.script().next.extend(answers);
    }

    /// The answer to every call with this beginning of its path.
    pub(crate) fn on(&self, path: &str, answer: Say) {
        let mut script = self.script();
        script.on.retain(|(known, _)| known != path);
        script.on.push((path.to_owned(), answer));
    }

    /// The answer to every call of the branch with this `branch-id`.
    pub(crate) fn on_branch(&self, branch_id: &str, answer: Say) {
        self.script().of_branch.insert(branch_id.to_owned(), answer);
    }

    /// Calls of this branch are answered as all others again.
    pub(crate) fn forget_branch(&self, branch_id: &str) {
        self.script().of_branch.remove(branch_id);
    }

    /// Calls are heard, and not answered before [`Self::release`].
    pub(crate) fn hold(&self) {
        self.script().held = Some((None, Arc::new(Semaphore::new(0))));
    }

    /// The same, of the calls of the branch with this `branch-id`.
    pub(crate) fn hold_branch(&self, branch_id: &str) {
        self.script().held = Some((Some(branch_id.to_owned()), Arc::new(Semaphore::new(0))));
    }

    /// Every call is answered, also those that are held.
    pub(crate) fn release(&self) {
        if let Some((_, held)) = self.script().held.take() {
            held.close();
        }
    }

    /// The statuses of the answers to the next requests for a token.
    pub(crate) fn next_tokens(&self, statuses: impl IntoIterator<Item = u16>) {
        self.script().next_token.extend(statuses.into_iter().map(Say::status));
    }

    /// The answer to the next request for a token.
    pub(crate) fn next_token(&self, answer: Say) {
        self.script().next_token.push_back(answer);
    }

    /// What answers with tokens say about their end; none: the truth.
    pub(crate) fn tokens_expire_in(&self, said: Option<Value>) {
        self.script().expires_in = said;
    }

    /// How many seconds its clock is ahead of ours.
    pub(crate) fn clock(&self) -> Arc<AtomicI64> {
        Arc::clone(&self.script().clock)
    }

    /// How long tokens hold, as it says and as it keeps.
    pub(crate) fn tokens_hold(&self, lifetime: Duration) {
        self.script().lifetime = Some(lifetime);
    }

    /// How long tokens are good in truth.
    pub(crate) fn tokens_are_kept_for(&self, time: Duration) {
        self.script().kept_for = Some(time);
    }

    /// Tokens that were given are no longer good, whatever was said.
    pub(crate) fn forget_tokens(&self) {
        self.script().good.clear();
    }

    /// Calls show who they are by what this says, not by a token.
    pub(crate) fn takes_calls_that(&self, shows: impl Fn(&Heard) -> bool + Send + 'static) {
        self.script().shows = Some(Box::new(shows));
    }

    /// More requests a second than this are told 429.
    pub(crate) fn allows(&self, per_second: usize) {
        self.script().per_second = Some(per_second);
    }

    /// It has a document there.
    pub(crate) fn has(&self, path: &str, document: &str) {
        self.script().documents.insert(path.to_owned(), document.to_owned());
    }

    /// It has a list there, whatever the query is; the list is made of that.
    pub(crate) fn lists(&self, path: &str, list: impl Fn(&HashMap<String, String>) -> Value + Send + 'static) {
        self.script().lists.insert(path.to_owned(), Box::new(list));
    }

    /// How many tokens it gave.
    pub(crate) fn tokens(&self) -> usize {
        self.script().tokens
    }

    /// How many requests for a token there were.
    pub(crate) fn token_requests(&self) -> usize {
        self.script().token_requests.len()
    }

    /// The fields of the last request for a token.
    pub(crate) fn token_fields(&self) -> Value {
        let last = self.script().token_requests.last().cloned();
        last.map(|(fields, _)| fields).unwrap_or_default()
    }

    /// When requests for a token came.
    pub(crate) fn token_times(&self) -> Vec<Instant> {
        self.script().token_requests.iter().map(|(_, at)| *at).collect()
    }

    /// Tokens are asked for with JSON only, and shown in this header only.
    pub(crate) fn gives_tokens_for_json(&self, header: &str) {
        self.script().json_tokens_in = Some(header.to_owned());
    }

    /// Every call so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.script().calls.clone()
    }

    /// Waits until there were so many calls, and returns them.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Call> {
        at_least("calls at the provider", count, || self.calls()).await
    }
}

async fn receive(State(shared): State<Arc<Mutex<Script>>>, request: Request) -> Response {
    let Some(heard) = Heard::of(request).await else {
        return Response::new(Body::empty());
    };
    let (said, held, clock) = {
        let mut script = shared.lock().unwrap();
        let (said, held) = script.hear(heard);
        (said, held, script.clock.load(Ordering::Relaxed))
    };
    if let Some(held) = held {
        // It fails when the calls are released.
        let _ = held.acquire().await;
    }
    let now = Utc::now() + TimeDelta::seconds(clock);
    let mut response = Response::builder().status(said.status).header("date", http_date(now));
    if let Some(seconds) = said.retry_date {
        response = response.header("retry-after", http_date(now + TimeDelta::seconds(seconds)));
    }
    if let Some(seconds) = said.retry_after {
        response = response.header("retry-after", seconds);
    }
    if let Some(location) = said.location {
        response = response.header("location", location);
    }
    response.body(Body::from(said.body)).unwrap()
}

/// A time as headers have it.
fn http_date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The fields of a request for a token: of JSON, else of a form.
fn fields_of(heard: &Heard) -> Value {
    let form = form_urlencoded::parse(&heard.body).into_owned();
    match heard.json() {
        Value::Null => form.map(|(name, value)| (name, json!(value))).collect(),
        fields => fields,
    }
}

impl Script {
    fn hear(&mut self, heard: Heard) -> (Say, Option<Arc<Semaphore>>) {
        if heard.path == TOKEN || heard.path == LOGIN {
            let fields = fields_of(&heard);
            let said = self.token(&heard, &fields);
            self.token_requests.push((fields, heard.at));
            return (said, None);
        }
        let said = self.answer(&heard);
        let status = said.status;
        let is_held = |branch: &Option<String>| {
            branch
                .as_deref()
                .is_none_or(|branch| branch == heard.header("branch-id"))
        };
        let held = self.held.as_ref().filter(|(branch, _)| is_held(branch));
        let held = held.map(|(_, held)| Arc::clone(held));
        self.calls.push(Call { heard, status });
        (said, held)
    }

    fn token(&mut self, heard: &Heard, fields: &Value) -> Say {
        if let Some(said) = self.next_token.pop_front() {
            return said;
        }
        let basic = STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}"));
        let expected = match heard.path == TOKEN {
            _ if heard.header("authorization") == format!("Basic {basic}") => {
                json!({ "grant_type": "client_credentials" })
            }
            true => json!({
                "grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
            }),
            false => json!({ "username": CLIENT_ID, "password": CLIENT_SECRET }),
        };
        let mut expected = expected.as_object().unwrap().iter();
        let is_json = heard.header("content-type") == "application/json";
        if is_json != self.json_tokens_in.is_some() || !expected.all(|(name, value)| fields[name] == *value) {
            return Say::status(401);
        }
        self.tokens += 1;
        let token = format!("token-{}", self.tokens);
        let lifetime = self.lifetime.unwrap_or(Duration::from_secs(3600));
        // Its clock is not ours: it keeps them a bit less long than it says.
        let kept_for = self.kept_for.unwrap_or(lifetime * 19 / 20);
        self.good.insert(token.clone(), Instant::now() + kept_for);
        let said = self.expires_in.clone().unwrap_or_else(|| lifetime.as_secs().into());
        Say::json(&json!({ "access_token": token, "expires_in": said }))
    }

    fn answer(&mut self, heard: &Heard) -> Say {
        let shown = heard.header(self.json_tokens_in.as_deref().unwrap_or("authorization"));
        let path = heard.path.as_str();
        let token = shown.strip_prefix("Bearer ").unwrap_or_default();
        let is_good = match &self.shows {
            Some(shows) => shows(heard),
            None => self.good.get(token).is_some_and(|until| *until > Instant::now()),
        };
        if !is_good {
            return Say::status(401);
        }
        if let Some(allowed) = self.per_second {
            let second = Instant::now() - Duration::from_secs(1);
            if self
                .calls
                .iter()
                .filter(|call| call.at > second && call.status != 429)
                .count()
                >= allowed
            {
                let retry_after = Some(1);
                return Say {
                    retry_after,
                    ..Say::status(429)
                };
            }
        }
        if let Some(said) = self.of_branch.get(heard.header("branch-id")) {
            return said.clone();
        }
        if let Some(said) = self.next.pop_front() {
            return said;
        }
        if let Some((_, said)) = self.on.iter().find(|(begin, _)| path.starts_with(begin)) {
            return said.clone();
        }
        if heard.method == Method::GET {
            let (bare, query) = path.split_once('?').unwrap_or((path, ""));
            if let Some(list) = self.lists.get(bare) {
                let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
                return Say::json(&list(&query));
            }
            return match self.documents.get(path) {
                Some(document) => Say {
                    body: document.clone(),
                    ..Say::status(200)
                },
                None => Say::status(404),
            };
        }
        let body = heard.json();
        let state = body["state"].as_str().or(body["status"].as_str()).unwrap_or_default();
        if !state.is_empty() && !self.states.insert((path.to_owned(), state.to_owned())) {
            return Say {
                body: json!({ "error": { "code": "ALREADY" } }).to_string(),
                ..Say::status(409)
            };
        }
        Say::status(200)
    }
}
