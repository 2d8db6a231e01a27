//! Checks each field and collects all faults.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use axum::http::{HeaderName, Method};
use url::Url;

use super::{
    Again, AgainTable, AnswerTable, Auth, Call, Fetch, FetchPlace, FetchSpec, Href, MenuCall, MenuResult, MenuSpec,
    Outbound, ResultSpec, Spec,
    template::{Json, Text, Vocabulary},
    words,
};
use crate::{event::push::PushStatus, text::parse_duration};

/// Default time limit for a provider's result of a menu.
const DEFAULT_RESULT_WAIT: Duration = Duration::from_secs(15 * 60);
/// Default interval of polling for it.
const DEFAULT_POLL_EVERY: Duration = Duration::from_secs(30);

/// Pause of a call that is made again, where the file's cannot be read.
const DEFAULT_AGAIN: Duration = Duration::from_secs(10);
/// Shortest pause of a call that is made again.
const LEAST_AGAIN: Duration = Duration::from_secs(1);

/// Collects the faults.
#[derive(Default)]
pub(super) struct Check {
    pub(super) faults: Vec<String>,
    /// Whether there is a token that may stand in paths.
    pub(super) has_token: bool,
}

impl Check {
    pub(super) fn note(&mut self, at: &str, expected: &str) {
        self.faults.push(format!("{at}: {expected}"));
    }

    pub(super) fn base_url(&mut self, text: &str) -> String {
        let fits = Url::parse(text).is_ok_and(|url| {
            let is_bare = url.username().is_empty() && url.query().is_none() && url.fragment().is_none();
            url.scheme() == "https" && is_bare && url.has_host()
        });
        if !fits {
            self.note(
                "outbound.base_url",
                "expected an https URL without credentials or query",
            );
        }
        text.trim_end_matches('/').to_owned()
    }

    pub(super) fn duration(&mut self, at: &str, text: Option<&str>, default: Duration) -> Duration {
        let Some(text) = text else { return default };
        parse_duration(text).unwrap_or_else(|expected| {
            self.note(at, expected);
            default
        })
    }

    pub(super) fn header(&mut self, at: &str, name: &str) -> Option<HeaderName> {
        let header = name.parse().ok();
        if header.is_none() {
            self.note(at, "expected the name of a header");
        }
        header
    }

    pub(super) fn pointer(&mut self, at: &str, pointer: Option<&str>) {
        if pointer.is_some_and(|pointer| !pointer.starts_with('/')) {
            self.note(at, "expected a JSON pointer such as /details/id");
        }
    }

    pub(super) fn client_errors(&mut self, at: &str, statuses: &[u16]) -> BTreeSet<u16> {
        if statuses
            .iter()
            .any(|status| !(400..500).contains(status) || *status == 401)
        {
            self.note(at, "expected HTTP statuses from 400 to 499, without 401");
        }
        statuses.iter().copied().collect()
    }

    pub(super) fn auth(&mut self, auth: &Auth) {
        match auth {
            Auth::None => {}
            Auth::Header { name, prefix } => self.header_of_secret("name", name, prefix),
            Auth::Oauth2 {
                token_url,
                fields,
                header,
                prefix,
                ..
            } => {
                self.header_of_secret("header", header, prefix);
                self.token_fields(fields);
                let is_url =
                    Url::parse(token_url).is_ok_and(|url| url.scheme() == "https" && url.username().is_empty());
                if !is_url && !token_url.starts_with('/') {
                    self.note(
                        "outbound.auth.token_url",
                        "expected an https URL, or a path that begins with /",
                    );
                }
            }
            Auth::SignedBody {
                id,
                token,
                time,
                signature,
            } => {
                let names = BTreeSet::from([id, token, time, signature]);
                if names.len() < 4 || names.iter().any(|name| name.is_empty()) {
                    self.note("outbound.auth", "expected four different names of fields");
                }
            }
            Auth::Jwt { audience, .. } => {
                if audience.is_empty() {
                    self.note("outbound.auth.audience", "expected the claim aud");
                }
            }
            Auth::Login {
                path,
                token,
                fields,
                header,
                prefix,
                ..
            } => {
                self.header_of_secret("header", header, prefix);
                self.token_fields(fields);
                if !path.starts_with('/') {
                    self.note("outbound.auth.path", "expected a path that begins with /");
                }
                self.pointer("outbound.auth.token", token.as_deref());
            }
        }
    }

    /// The header of a secret or a token, by the key of its name.
    fn header_of_secret(&mut self, key: &str, name: &str, prefix: &str) {
        self.header(&format!("outbound.auth.{key}"), name);
        if !prefix.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
            self.note("outbound.auth.prefix", "expected text that is allowed in a header");
        }
    }

    /// Further fields of a request for a token.
    fn token_fields(&mut self, fields: &BTreeMap<String, String>) {
        for (name, value) in fields {
            if value.replace(words::BASE_URL_SLOT, "").contains(['{', '}']) {
                self.note(
                    &format!("outbound.auth.fields.{name}"),
                    "expected text; {base_url} is the only slot there",
                );
            }
        }
    }

    pub(super) fn answer(&mut self, answer: Option<&AnswerTable>) {
        self.pointer("outbound.answer.code", answer.map(|answer| &*answer.code));
        if answer.is_some_and(|answer| answer.ok.is_empty()) {
            self.note("outbound.answer.ok", "expected at least one code");
        }
    }

    /// What is read has no body that could be signed.
    pub(super) fn signed_body(&mut self, spec: &Spec) {
        let polls = |menu: &MenuSpec| menu.result.as_ref().is_some_and(|result| result.poll.is_some());
        let reads = spec.fetch.is_some() || spec.reconcile.is_some() || spec.menu.as_ref().is_some_and(polls);
        if reads && matches!(spec.auth, Auth::SignedBody { .. }) {
            self.note(
                "outbound.auth",
                "signed_body cannot be used with [fetch], [reconcile] or outbound.menu.result.poll, which send no body",
            );
        }
    }

    pub(super) fn path(&mut self, at: &str, path: &str, vocabulary: &Vocabulary) -> Text {
        let text = Text::read(path, vocabulary, at, &mut self.faults);
        if !path.starts_with('/') || path.contains("//") || path.contains("..") {
            self.note(at, "expected a path that begins with /, without // or ..");
        }
        if text.uses(words::ACCESS_TOKEN) && !self.has_token {
            self.note(at, "{access_token} requires outbound.auth of kind login");
        }
        text
    }

    /// A body with slots.
    pub(super) fn body(&mut self, at: &str, text: &str, vocabulary: &Vocabulary) -> Json {
        self.no_token(at, text);
        Json::read(text, vocabulary, at, &mut self.faults)
    }

    /// The token of a login is known only while a path is filled.
    pub(super) fn no_token(&mut self, at: &str, text: &str) {
        if text.contains("{access_token") {
            self.note(
                at,
                "{access_token} stands in paths only; the header Authorization has the token in any case",
            );
        }
    }

    pub(super) fn method(&mut self, at: &str, method: &str) -> Method {
        match method {
            "POST" => Method::POST,
            "PATCH" => Method::PATCH,
            "PUT" => Method::PUT,
            _ => {
                self.note(at, "expected POST, PUT or PATCH");
                Method::PUT
            }
        }
    }

    pub(super) fn statuses(&mut self, outbound: &Outbound) -> HashMap<PushStatus, Vec<Call>> {
        let mut calls: HashMap<PushStatus, Vec<Call>> = HashMap::new();
        for (index, entry) in outbound.status.iter().enumerate() {
            let texts = outbound.headers.values().chain([&entry.path]).chain(&entry.body);
            let at = |field: &str| format!("outbound.status[{index}].{field}");
            let call = Call {
                method: self.method(&at("method"), &entry.method),
                path: self.path(&at("path"), &entry.path, &words::STATUS),
                body: entry
                    .body
                    .as_deref()
                    .map(|body| self.body(&at("body"), body, &words::STATUS)),
                done: self.client_errors(&at("done"), &entry.done),
                again: entry.again.as_ref().map(|again| self.again(&at("again"), again)),
                ended: self.client_errors(&at("ended"), &entry.ended),
                reasons: entry.reasons.clone(),
                offered: entry.offered.clone(),
                only_for: entry.only_for.clone(),
                names_branch: super::names_branch(texts),
            };
            if entry.words.is_empty() {
                self.note(&at("words"), "expected at least one");
            }
            for word in &entry.words {
                let known = calls.entry(*word).or_default();
                let is_for_same = |other: &Call| {
                    let is_for_all = call.only_for.is_empty() || other.only_for.is_empty();
                    is_for_all || call.only_for.iter().any(|kind| other.only_for.contains(kind))
                };
                if known.iter().any(is_for_same) {
                    self.note(&at("words"), &format!("{} has a call already", word.as_str()));
                }
                known.push(call.clone());
            }
        }
        calls
    }

    fn again(&mut self, at: &str, table: &AgainTable) -> Again {
        if table.status.is_empty() {
            self.note(at, "expected status, at least one");
        }
        let every = self.duration(&format!("{at}.every"), Some(&table.every), DEFAULT_AGAIN);
        if every < LEAST_AGAIN {
            self.note(&format!("{at}.every"), "expected at least 1s");
        }
        Again {
            status: self.client_errors(&format!("{at}.status"), &table.status),
            contains: table.contains.iter().map(|text| text.to_uppercase()).collect(),
            every,
            within: self.duration(&format!("{at}.within"), Some(&table.within), DEFAULT_AGAIN),
        }
    }

    /// Within which time the provider is told whether the backend has an order.
    pub(super) fn confirm(&mut self, outbound: &Outbound) -> Option<Duration> {
        let at = "outbound.confirm_within";
        let within = self.duration(at, Some(outbound.confirm_within.as_deref()?), DEFAULT_AGAIN);
        let has = |word: PushStatus| outbound.status.iter().any(|call| call.words.contains(&word));
        if within.is_zero() || !has(PushStatus::Received) || !has(PushStatus::Lost) {
            self.note(
                at,
                "expected more than nothing, and calls for the words received and lost",
            );
        }
        Some(within)
    }

    pub(super) fn menu(&mut self, menu: &MenuCall) -> MenuSpec {
        self.pointer("outbound.menu.ref", menu.reference.as_deref());
        MenuSpec {
            call: Call::new(
                self.method("outbound.menu.method", &menu.method),
                self.path("outbound.menu.path", &menu.path, &words::MENU),
                Some(self.body("outbound.menu.body", &menu.body, &words::MENU)),
            ),
            every: self.duration("outbound.menu.every", menu.every.as_deref(), Duration::ZERO),
            reference: menu.reference.clone(),
            result: menu.result.as_ref().map(|result| self.result(result)),
        }
    }

    fn result(&mut self, result: &MenuResult) -> ResultSpec {
        let at = |field: &str| format!("outbound.menu.result.{field}");
        for (field, pointer) in [
            ("status", Some(&result.status)),
            ("message", result.message.as_ref()),
            ("ref", result.reference.as_ref()),
            ("store", result.store.as_ref()),
            ("when.pointer", result.when.as_ref().map(|when| &when.pointer)),
        ] {
            self.pointer(&at(field), pointer.map(String::as_str));
        }
        if result.ok.is_empty() || result.ok.iter().any(|word| result.failed.contains(word)) {
            self.note(&at("ok"), "expected at least one word, none of which is in failed");
        }
        let every = self.duration(&at("poll_every"), result.poll_every.as_deref(), DEFAULT_POLL_EVERY);
        if every.is_zero() {
            self.note(&at("poll_every"), "expected more than zero");
        }
        let poll = result.poll.as_deref();
        ResultSpec {
            wait: self.duration(&at("wait"), result.wait.as_deref(), DEFAULT_RESULT_WAIT),
            poll: poll.map(|poll| (self.path(&at("poll"), poll, &words::MENU), every)),
            table: result.clone(),
        }
    }

    pub(super) fn fetch(&mut self, fetch: &Fetch, fetched: &[&str]) -> FetchSpec {
        if fetched.is_empty() {
            self.note(
                "fetch",
                "expected webhook.document to say of which webhooks the order is fetched",
            );
        }
        let place = match (&fetch.href, &fetch.path) {
            (Some(href), None) => {
                self.pointer("fetch.href", Some(href));
                if fetch.paths.is_empty() {
                    self.note(
                        "fetch.paths",
                        "expected the paths that href may name, such as [\"/v2/orders/{external_id}\"]",
                    );
                }
                FetchPlace::Href(Href {
                    pointer: href.clone(),
                    hosts: fetch.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
                    paths: fetch.paths.clone(),
                })
            }
            (None, Some(path)) => FetchPlace::Path(self.path("fetch.path", path, &words::STATUS)),
            _ => {
                self.note("fetch", "expected either href or path");
                FetchPlace::Href(Href::default())
            }
        };
        FetchSpec {
            webhooks: fetched.iter().map(|one| (*one).to_owned()).collect(),
            place,
        }
    }
}
