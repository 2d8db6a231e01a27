//! The rows: what each file says about requests, a platform that plays the provider, and the requests of a backend.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{SecondsFormat, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use webhook_hub::{
    config::prefix,
    event::{
        branch::{EntryKind, StoreState},
        push::PushStatus,
    },
    provider::{
        Catalogue,
        outbound::{
            Auth, Call, Spec, TokenFormat,
            branch::{ItemsSpec, Until},
        },
    },
};

use super::Expect;
use crate::harness::{
    World,
    hub::{Hub, Settings},
    outside::send,
    platform::{CLIENT_ID, CLIENT_SECRET, Call as Taken, LOGIN, Provider as Platform, Say, TOKEN},
    played::Heard,
    provider::Provider,
};

/// The store of every provider's only branch; a number, as some take nothing else.
const STORE: &str = "4711";
/// The key with which the hub signs tokens.
const SIGNING_KEY: [u8; 32] = [7; 32];
/// What such tokens name as their key.
const KEY_ID: &str = "key-1";
/// The token that an operator got.
const ACCESS_TOKEN: &str = "operators-token";
/// How old a signature may be, and how far ahead of the provider's clock, in seconds.
const TOLERANCE: i64 = 60;

/// A request of the backend.
#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    /// A status of an order.
    Status(PushStatus),
    /// A state of the branch, with an end.
    Store(StoreState, bool),
    /// An item or an option, whether it can be ordered, with an end.
    Entry(EntryKind, bool, bool),
}

/// A provider.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) platform: Platform,
    /// The action by which failures are tried.
    pub(super) action: Action,
    spec: Spec,
    calls_before: usize,
    tokens_before: usize,
    marked_tokens: usize,
}

/// A row for each file with requests, all with a branch, and the environment of a hub that knows them.
pub(super) async fn all(world: &World, files: &TempDir) -> (Vec<Row>, Settings) {
    let catalogue = Catalogue::shipped();
    let mut settings = world.settings().set("PROVIDERS_DIR", files.path().display());
    let mut rows = Vec::new();
    for provider in Provider::all(&catalogue) {
        let file = catalogue.get(&provider.name).unwrap().file().clone();
        let Some(spec) = file.outbound.clone() else { continue };
        if spec.status.values().flatten().any(|call| call.again.is_some()) {
            let text = text(&provider.name).replace("every = \"10s\"", "every = \"1s\"");
            std::fs::write(files.path().join(format!("{}.toml", provider.name)), text).unwrap();
        }
        provider.branch(world, STORE).await;
        let row = Row::new(provider.name.clone(), spec);
        row.fill_branch(world).await;
        settings = row.settings(provider.enable(settings, "USD"));
        rows.push(row);
    }
    let settings = settings.set("RETRY_DELAYS", "300ms,500ms").set("RETRY_MAX_ATTEMPTS", 3);
    (rows, settings)
}

/// The file of a provider.
fn text(name: &str) -> String {
    let path = format!("{}/providers/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

impl Row {
    fn new(name: String, spec: Spec) -> Self {
        let platform = Platform::start();
        let statuses = PushStatus::of_backend().filter(|word| spec.status.contains_key(word));
        let states = spec
            .store
            .iter()
            .map(|call| Action::Store(call.states[0], call.until == Until::Always));
        let action = statuses.map(Action::Status).chain(states).next();
        let row = Self {
            action: action.unwrap_or_else(|| {
                panic!("providers/{name}.toml has [outbound], and no status or state of a branch that a backend can ask for: this table of tests needs one")
            }),
            name,
            platform,
            spec,
            calls_before: 0,
            tokens_before: 0,
            marked_tokens: 0,
        };
        row.shows();
        row.platform.on("", row.success());
        row
    }

    /// The platform admits the hub as the file says.
    fn shows(&self) {
        let name = &self.name;
        let clock = self.platform.clock();
        match self.spec.auth.clone() {
            Auth::None => self.platform.takes_calls_that(|_| true),
            Auth::Header { name, prefix } => {
                let secret = format!("{prefix}{CLIENT_SECRET}");
                self.platform
                    .takes_calls_that(move |heard| heard.header(&name) == secret);
            }
            Auth::Jwt { audience, .. } => {
                self.platform
                    .takes_calls_that(move |heard| is_token(heard, &audience, &clock));
            }
            Auth::SignedBody { .. } => {
                let auth = self.spec.auth.clone();
                self.platform
                    .takes_calls_that(move |heard| is_signed(heard, &auth, &clock));
            }
            Auth::Oauth2 {
                format, header, prefix, ..
            } => {
                assert_eq!(
                    prefix, "Bearer ",
                    "{name}: the played platform knows no other prefix of tokens"
                );
                match format {
                    TokenFormat::Json => self.platform.gives_tokens_for_json(&header),
                    TokenFormat::Form => assert_eq!(
                        header, "authorization",
                        "{name}: the played platform takes tokens that were asked for with a form in this header only"
                    ),
                }
            }
            Auth::Login { path, .. } => {
                assert_eq!(path, LOGIN, "{name}: the played platform has no other path of logins");
            }
        }
    }

    /// The branch has everything that the file's calls name of it.
    async fn fill_branch(&self, world: &World) {
        let text = text(&self.name);
        let named = text.split("{setting.").skip(1);
        let named = named.filter_map(|rest| rest.split(['}', '|']).next());
        let settings: BTreeMap<_, _> = named.map(|name| (name, STORE)).collect();
        let (name, branch, settings) = (&self.name, self.branch(), json!(settings));
        let of_provider = format!("provider_id = (SELECT id FROM delivery_providers WHERE code = '{name}')");
        let row = format!(
            "DELETE FROM branch_delivery_configs WHERE {of_provider} AND branch_id <> '{branch}';
             UPDATE branch_delivery_configs SET store_id = '{STORE}', settings = '{settings}' WHERE {of_provider}"
        );
        world.database.run(&row).await.unwrap();
    }

    fn branch(&self) -> String {
        format!("branch-{}-{STORE}", self.name)
    }

    fn settings(&self, settings: Settings) -> Settings {
        let prefix = prefix(&self.name);
        let set = |settings: Settings, name: &str, value: &str| settings.set(&format!("{prefix}_{name}"), value);
        let mut settings = set(settings, "API_URL", &self.platform.url());
        let (id, secret) = match self.spec.auth {
            Auth::Jwt { .. } => (CLIENT_ID, URL_SAFE_NO_PAD.encode(SIGNING_KEY)),
            Auth::SignedBody { .. } => (STORE, CLIENT_SECRET.to_owned()),
            _ => (CLIENT_ID, CLIENT_SECRET.to_owned()),
        };
        for (name, value) in [
            ("CLIENT_ID", id),
            ("CLIENT_SECRET", secret.as_str()),
            ("RECONCILE", "false"),
        ] {
            settings = set(settings, name, value);
        }
        match self.spec.auth {
            Auth::Oauth2 { .. } => set(settings, "TOKEN_URL", &format!("{}{TOKEN}", self.platform.url())),
            Auth::Jwt { .. } => set(settings, "KEY_ID", KEY_ID),
            Auth::SignedBody { .. } => set(settings, "ACCESS_TOKEN", ACCESS_TOKEN),
            _ => settings,
        }
    }

    /// The backend asks for it; the id of the event.
    pub(super) async fn ask(&self, hub: &Hub, action: &Action, order: u64) -> String {
        let (name, branch) = (&self.name, self.branch());
        let until = (Utc::now() + TimeDelta::hours(2)).to_rfc3339_opts(SecondsFormat::Secs, true);
        let with_end = |mut body: Value, has_end: bool| {
            if has_end {
                body["until"] = until.clone().into();
            }
            body
        };
        let (method, path, body) = match action {
            Action::Status(word) => {
                let body = json!({ "status": word, "preparationMinutes": 20, "reasonCode": "other" });
                (Method::POST, format!("orders/{name}/{order}/status"), body)
            }
            Action::Store(state, has_end) => {
                let mut body = with_end(json!({ "state": state }), *has_end);
                if *state == StoreState::Busy {
                    body["preparationMinutes"] = 30.into();
                }
                (Method::PUT, format!("stores/{name}/{branch}"), body)
            }
            Action::Entry(kind, available, has_end) => {
                let entry = json!({ "id": order.to_string(), "available": available });
                let mut entry = with_end(entry, *has_end);
                let list = match kind {
                    EntryKind::Item => "items",
                    EntryKind::Option => {
                        entry["groupId"] = "g".into();
                        "options"
                    }
                };
                let body = json!({ list: [entry] });
                (Method::PUT, format!("items/{name}/{branch}"), body)
            }
        };
        let answer = send(hub, method, &path, &body.to_string(), &[]).await;
        assert_eq!(answer.status, 202, "{path} {body}: {answer:?}");
        answer.json()["data"]["eventId"].as_str().unwrap().to_owned()
    }

    /// Everything that a backend can ask for.
    pub(super) fn actions(&self) -> Vec<Action> {
        let statuses = PushStatus::of_backend().filter(|word| self.spec.status.contains_key(word));
        let states = self.spec.store.iter().flat_map(|call| {
            let has_end = call.until == Until::Always;
            call.states.iter().map(move |state| Action::Store(*state, has_end))
        });
        let entries = self.spec.items.iter().flat_map(|call| {
            let of = |kind: &EntryKind| {
                let available = call.available.unwrap_or(false);
                Action::Entry(*kind, available, call.until == Until::Always)
            };
            call.kinds.iter().map(of).collect::<Vec<_>>()
        });
        statuses.map(Action::Status).chain(states).chain(entries).collect()
    }

    /// What the provider answers if it takes a call.
    fn success(&self) -> Say {
        let splits = |call: &ItemsSpec| call.split.contains(&200);
        match &self.spec.answer {
            Some(answer) => coded(&answer.code, &answer.ok[0]),
            None if self.spec.items.iter().any(splits) => Say::status(204),
            None => Say::status(200),
        }
    }

    /// A refusal with the provider's own code, and the hub's code of it.
    pub(super) fn refusal(&self) -> (Say, String) {
        if let Some(answer) = &self.spec.answer {
            return (coded(&answer.code, "SAID_NO"), "PROVIDER_422".into());
        }
        let mut statuses = [409, 422, 400, 404, 410].into_iter();
        let status = statuses.find(|status| !self.has_rule(self.call(), *status)).unwrap();
        let body = json!({ "code": "SAID_NO", "message": "no" }).to_string();
        let answer = Say {
            body,
            ..Say::status(status)
        };
        (answer, format!("PROVIDER_{status}"))
    }

    /// The call by which failures are tried, where it is one about an order.
    fn call(&self) -> Option<&Call> {
        match self.action {
            Action::Status(word) => self.spec.status.get(&word)?.first(),
            Action::Store(..) | Action::Entry(..) => None,
        }
    }

    /// Whether the file has a rule for a status, of this call or of all.
    fn has_rule(&self, call: Option<&Call>, status: u16) -> bool {
        let of_call = call.is_some_and(|call| {
            let again = call.again.as_ref().is_some_and(|again| again.status.contains(&status));
            call.done.contains(&status) || call.ended.contains(&status) || again
        });
        of_call || self.spec.retry.contains(&status)
    }

    /// Answers for which calls have rules of their own, and 409 where they have none.
    pub(super) fn special(&self) -> Vec<(Action, Say, Expect)> {
        let words = PushStatus::of_backend().filter_map(|word| Some((word, self.spec.status.get(&word)?.first()?)));
        let of = |(word, call): (PushStatus, &Call)| {
            let already = Expect::Pushed {
                attempts: 1,
                already: true,
            };
            let dead = |status: &u16| Expect::Dead(format!("PROVIDER_{status}"), None);
            let done = call.done.iter().map(|status| (Say::status(*status), already.clone()));
            let ended = call.ended.iter().map(|status| (Say::status(*status), dead(status)));
            let again = call.again.iter().flat_map(|again| {
                let text = again.contains.first().cloned().unwrap_or_default();
                let answer = move |status: &u16| Say {
                    body: json!({ "message": text.to_lowercase() }).to_string(),
                    ..Say::status(*status)
                };
                again
                    .status
                    .iter()
                    .map(move |status| (answer(status), Expect::pushed(1)))
            });
            let other = [409].into_iter().filter(|status| !self.has_rule(Some(call), *status));
            let other = other.map(|status| (Say::status(status), dead(&status)));
            let all: Vec<_> = done.chain(ended).chain(again).chain(other).collect();
            all.into_iter()
                .map(move |(answer, expect)| (Action::Status(word), answer, expect))
        };
        words.flat_map(of).collect()
    }

    /// What the provider answers, by a rule of its own, if it cannot take a call now.
    pub(super) fn later(&self) -> Option<Say> {
        if let Some(answer) = &self.spec.answer {
            return Some(coded(&answer.code, answer.retry.first()?));
        }
        let is_of_call = |status: &&u16| {
            let call = self.call();
            call.is_some_and(|call| call.done.contains(status) || call.ended.contains(status))
        };
        let status = self.spec.retry.iter().find(|status| !is_of_call(status))?;
        Some(Say::status(*status))
    }

    /// What it answers if it does not know the hub.
    pub(super) fn unauthorised(&self) -> Say {
        let coded = |answer: &webhook_hub::provider::outbound::AnswerTable| {
            Some(coded(&answer.code, answer.credentials.first()?))
        };
        let coded = self.spec.answer.as_ref().and_then(coded);
        coded.unwrap_or_else(|| Say::status(401))
    }

    /// Whether it gives tokens.
    pub(super) fn gets_tokens(&self) -> bool {
        matches!(self.spec.auth, Auth::Oauth2 { .. } | Auth::Login { .. })
    }

    /// Whether the hub signs tokens for it.
    pub(super) fn signs_tokens(&self) -> bool {
        matches!(self.spec.auth, Auth::Jwt { .. })
    }

    /// Calls and tokens are counted from here on.
    pub(super) fn mark(&mut self) {
        self.calls_before = self.platform.calls().len();
        self.tokens_before = self.platform.token_times().len();
    }

    /// Calls since [`Self::mark`].
    pub(super) fn calls(&self) -> Vec<Taken> {
        self.platform.calls().split_off(self.calls_before)
    }

    /// When tokens were requested since [`Self::mark`].
    pub(super) fn tokens(&self) -> Vec<Instant> {
        self.platform.token_times().split_off(self.tokens_before)
    }

    /// Tokens of several cases are counted from here on.
    pub(super) fn mark_tokens(&mut self) {
        self.marked_tokens = self.platform.token_times().len();
    }

    /// How many tokens were requested since [`Self::mark_tokens`].
    pub(super) fn tokens_marked(&self) -> usize {
        self.platform.token_times().len() - self.marked_tokens
    }
}

/// An answer with a code at a place.
fn coded(pointer: &str, code: &str) -> Say {
    let code = code.replace('*', "7");
    let code = code.parse::<u64>().map_or_else(|_| json!(code), Value::from);
    let mut names: Vec<_> = pointer.split('/').skip(1).collect();
    names.reverse();
    Say::json(&names.into_iter().fold(code, |inner, name| json!({ name: inner })))
}

/// The time of a platform.
fn now(clock: &Arc<AtomicI64>) -> i64 {
    Utc::now().timestamp() + clock.load(Ordering::Relaxed)
}

/// Whether a call shows a token that the hub signed, and that is good by the provider's clock.
fn is_token(heard: &Heard, audience: &str, clock: &Arc<AtomicI64>) -> bool {
    let shown = heard.header("authorization");
    let token = shown.strip_prefix("Bearer ").unwrap_or_default();
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&[audience]);
    validation.set_issuer(&[CLIENT_ID]);
    validation.validate_exp = false;
    let Ok(token) = jsonwebtoken::decode::<Value>(token, &DecodingKey::from_secret(&SIGNING_KEY), &validation) else {
        return false;
    };
    let seconds = |name: &str| token.claims[name].as_i64().unwrap_or_default();
    let now = now(clock);
    seconds("iat") <= now + TOLERANCE && now < seconds("exp") && token.claims["kid"] == KEY_ID
}

/// Whether a call's body is signed, at about this time by the provider's clock.
fn is_signed(heard: &Heard, auth: &Auth, clock: &Arc<AtomicI64>) -> bool {
    let Auth::SignedBody {
        id,
        token,
        time,
        signature,
    } = auth
    else {
        return false;
    };
    let Value::Object(mut fields) = heard.json() else {
        return false;
    };
    let Some(Value::String(signed)) = fields.remove(signature) else {
        return false;
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let sorted: BTreeMap<_, _> = fields.iter().collect();
    let pairs: Vec<_> = sorted
        .iter()
        .map(|(name, value)| format!("{name}={}", text(value)))
        .collect();
    let url = format!("http://{}{}", heard.header("host"), heard.path);
    let digest = Sha256::digest(format!("{url}?{}{CLIENT_SECRET}", pairs.join("&")));
    let age = now(clock) - fields[time].as_i64().unwrap_or_default();
    signed == hex::encode(digest)
        && text(&fields[id]) == STORE
        && fields[token] == ACCESS_TOKEN
        && age.abs() <= TOLERANCE
}
