//! Requests to a provider, as data: the tables `[outbound]` and `[fetch]` of its file.
//!
//! [`Outbound`] and [`Fetch`] are the tables as written; [`Spec::check`] turns them into what the stage works with, and
//! reports every fault with its location. Nothing here is a secret: those come from the environment.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use axum::http::{HeaderName, Method};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};

use self::{
    check::Check,
    template::{Json, Text},
};
use crate::{event::push::PushStatus, provider::declarative::path::PathTemplate};

/// Time for one request, where the file says nothing.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a file may give one request: a place in the stage is taken for so long.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a token of a login is used where neither the answer nor the file says: Delivery Hero's hold for half an hour.
const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_secs(20 * 60);

/// The table `[outbound]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outbound {
    /// Where the provider's interface is; `<PROVIDER>_API_URL` and `delivery_providers.api_base_url` go before it.
    pub base_url: String,
    /// Time for one request, `10s`.
    #[serde(default)]
    pub timeout: Option<String>,
    /// How the hub shows who it is.
    #[serde(default)]
    pub auth: Auth,
    /// Headers of every request but those for tokens; values are texts with slots.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The header in which the provider takes a key that is the same for every repeat, where it has one.
    #[serde(default)]
    pub idempotency_header: Option<String>,
    /// Most requests a second, of all branches together.
    #[serde(default)]
    pub requests_per_second: Option<u32>,
    /// HTTP statuses from 400 to 499 that may be tried again, beside 408, 425 and 429.
    #[serde(default)]
    pub retry: Vec<u16>,
    /// The status calls, one for each status; a status without a call is skipped.
    #[serde(default)]
    pub status: Vec<StatusCall>,
    /// How it takes menus; where absent it takes none.
    #[serde(default)]
    pub menu: Option<MenuCall>,
}

/// How the hub shows who it is. Names and secrets are `<PROVIDER>_CLIENT_ID` and `<PROVIDER>_CLIENT_SECRET`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Auth {
    /// Not at all.
    #[default]
    None,
    /// The secret in a header.
    Header {
        /// The header.
        name: String,
        /// The text before the secret, `Bearer `.
        #[serde(default)]
        prefix: String,
    },
    /// OAuth 2 client credentials; the token goes in `Authorization: Bearer`.
    Oauth2 {
        /// Where tokens are had; a path stands on the base URL.
        token_url: String,
        /// The scope of the tokens.
        #[serde(default)]
        scopes: Vec<String>,
        /// Further fields of the form, such as `audience`.
        #[serde(default)]
        fields: BTreeMap<String, String>,
        /// Where name and secret go.
        #[serde(default)]
        credentials: Credentials,
    },
    /// A form with `username` and `password`; the token goes in `Authorization: Bearer`, and may stand in paths.
    Login {
        /// Where the form is posted.
        path: String,
        /// JSON pointer of the token in the answer.
        #[serde(default)]
        token: Option<String>,
        /// How long a token is used where the answer does not say (`expires_in`).
        #[serde(default)]
        lifetime: Option<String>,
    },
}

impl Auth {
    /// Whether it needs a name, and a secret.
    pub const fn needs(&self) -> (bool, bool) {
        match self {
            Self::None => (false, false),
            Self::Header { .. } => (false, true),
            Self::Oauth2 { .. } | Self::Login { .. } => (true, true),
        }
    }
}

/// Where name and secret are sent in a token request (RFC 6749, 2.3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Credentials {
    /// `client_id` and `client_secret` in the form.
    #[default]
    Body,
    /// HTTP Basic.
    Basic,
}

/// Name and secret of the hub at a provider.
#[derive(Debug, Clone, Default)]
pub struct ClientCredentials {
    /// `<PROVIDER>_CLIENT_ID`.
    pub id: Option<String>,
    /// `<PROVIDER>_CLIENT_SECRET`.
    pub secret: Option<SecretString>,
}

/// An entry of `[[outbound.status]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusCall {
    /// The words that it is for.
    pub words: Vec<PushStatus>,
    /// `POST`, `PUT` or `PATCH`.
    pub method: String,
    /// On the base URL, with slots.
    pub path: String,
    /// JSON with slots; where absent the request has no body.
    #[serde(default, deserialize_with = "some_json")]
    pub body: Option<String>,
    /// HTTP statuses from 400 to 499 that mean that the order is in that state already.
    #[serde(default)]
    pub done: Vec<u16>,
}

/// JSON: in a text, or as the table or list that says the same.
fn json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => Ok(text),
        value @ (toml::Value::Table(_) | toml::Value::Array(_)) => {
            serde_json::to_string(&value).map_err(de::Error::custom)
        }
        other => Err(de::Error::custom(format_args!(
            "body: expected a table, or JSON in a text, found {}",
            other.type_str()
        ))),
    }
}

fn some_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    json(deserializer).map(Some)
}

/// The table `[outbound.menu]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MenuCall {
    /// `POST`, `PUT` or `PATCH`.
    pub method: String,
    /// On the base URL, with slots.
    pub path: String,
    /// JSON with slots and lists.
    #[serde(deserialize_with = "json")]
    pub body: String,
    /// Shortest time between two menus of one branch, `2m`.
    #[serde(default)]
    pub every: Option<String>,
    /// JSON pointer, in the answer, of what the provider calls the job.
    #[serde(default, rename = "ref")]
    pub reference: Option<String>,
    /// Where the provider says only later what it makes of a menu.
    #[serde(default)]
    pub result: Option<MenuResult>,
}

/// The table `[outbound.menu.result]`: how the provider's later word about a menu comes and what it says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MenuResult {
    /// How long it is waited for, `15m`.
    #[serde(default)]
    pub wait: Option<String>,
    /// Where it can be asked for, with slots (`{ref}`); where absent it comes as a webhook.
    #[serde(default)]
    pub poll: Option<String>,
    /// Interval of polling, `30s`.
    #[serde(default)]
    pub poll_every: Option<String>,
    /// JSON pointer of the word that says how it went.
    pub status: String,
    /// Words that mean that the provider has the menu.
    pub ok: Vec<String>,
    /// Words that mean that it refused it; any other means that it is still at it.
    pub failed: Vec<String>,
    /// JSON pointer of what it says about that.
    #[serde(default)]
    pub message: Option<String>,
    /// JSON pointer of what it calls the job.
    #[serde(default, rename = "ref")]
    pub reference: Option<String>,
    /// JSON pointer of the store, in a webhook.
    #[serde(default)]
    pub store: Option<String>,
    /// Which webhooks are such results: JSON pointer and value. For providers with an adapter that does not know.
    #[serde(default)]
    pub when: Option<When>,
}

/// A value at a place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// JSON pointer.
    pub pointer: String,
    /// The text there.
    pub is: String,
}

/// The table `[fetch]`: webhooks that only say where the order is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetch {
    /// JSON pointer, in the webhook, of the order's URL.
    #[serde(default)]
    pub href: Option<String>,
    /// Where the order is, on the base URL, with slots; in place of `href`.
    #[serde(default)]
    pub path: Option<String>,
    /// Hosts that `href` may name beside those that are allowed for base URLs.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Paths that `href` may name, with `{names}` for their parts; a part named `external_id` must be the order's id.
    #[serde(default)]
    pub paths: Vec<PathTemplate>,
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
    pub paths: Vec<PathTemplate>,
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
    /// Calls by status.
    pub status: HashMap<PushStatus, Call>,
    /// Whether those say anything about the branch.
    pub needs_branch: bool,
    /// How menus are taken.
    pub menu: Option<MenuSpec>,
    /// How orders are fetched.
    pub fetch: Option<FetchSpec>,
}

impl Spec {
    /// Checks everything; `fetched` are the types of webhooks that require fetching the order.
    ///
    /// # Errors
    /// Every fault, each with its place.
    pub fn check(outbound: &Outbound, fetch: Option<&Fetch>, fetched: &[&str]) -> Result<Self, Vec<String>> {
        let mut check = Check::default();
        check.auth(&outbound.auth);
        let token_lifetime = match &outbound.auth {
            Auth::Login { lifetime, .. } => {
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
            status: check.statuses(&outbound.status),
            needs_branch: needs_branch(outbound),
            menu: outbound.menu.as_ref().map(|menu| check.menu(menu)),
            fetch: fetch.map(|fetch| check.fetch(fetch, fetched)),
        };
        if check.faults.is_empty() {
            Ok(spec)
        } else {
            Err(check.faults)
        }
    }
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

mod check;
pub mod origins;
pub mod template;
pub mod words;
#[cfg(test)]
mod tests;
