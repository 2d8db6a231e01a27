//! The tables `[outbound]` and `[fetch]`, as written.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

use super::branch::{ItemsTable, StoreTable};
use crate::{
    event::push::{PushStatus, ReasonCode},
    json::pointer::Pointer,
    order::model::Fulfillment,
    provider::declarative::path::PathTemplate,
};

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
    /// What the provider calls the reasons of rejections and cancellations.
    #[serde(default)]
    pub reasons: BTreeMap<ReasonCode, String>,
    /// How long after a request `{accept_time}` is at least, `2m`.
    #[serde(default)]
    pub accept_at_least: Option<String>,
    /// Within which time of the webhook the provider must be told that the backend has an order, or will not have it, `150s`.
    #[serde(default)]
    pub confirm_within: Option<String>,
    /// What answers of 2xx mean, where only their body says it.
    #[serde(default)]
    pub answer: Option<AnswerTable>,
    /// The status calls, one for each status; a status without a call is skipped.
    #[serde(default)]
    pub status: Vec<StatusCall>,
    /// How it takes menus; where absent it takes none.
    #[serde(default)]
    pub menu: Option<MenuCall>,
    /// How it takes which items can be ordered.
    #[serde(default)]
    pub items: Vec<ItemsTable>,
    /// How it takes whether a branch takes orders.
    #[serde(default)]
    pub store: Vec<StoreTable>,
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
        /// What stands before the secret, `Bearer `.
        #[serde(default)]
        prefix: String,
    },
    /// OAuth 2 client credentials.
    Oauth2 {
        /// Where tokens are had; a path stands on the base URL.
        token_url: String,
        /// What they are to be good for.
        #[serde(default)]
        scopes: Vec<String>,
        /// Further fields of the request, such as `audience`; `{base_url}` is the base URL.
        #[serde(default)]
        fields: BTreeMap<String, String>,
        /// Where name and secret go.
        #[serde(default)]
        credentials: Credentials,
        /// How the request for a token is written.
        #[serde(default)]
        format: TokenFormat,
        /// The header of the token.
        #[serde(default = "authorization")]
        header: String,
        /// What stands before the token.
        #[serde(default = "bearer")]
        prefix: String,
    },
    /// A JSON Web Token that the hub signs itself, with HS256; it goes in `Authorization: Bearer`. The secret is base64.
    Jwt {
        /// The claim `aud`.
        audience: String,
        /// How long a token is used, `5m`.
        #[serde(default)]
        lifetime: Option<String>,
        /// Further fields of its header.
        #[serde(default)]
        header: BTreeMap<String, String>,
    },
    /// Fields of every request's JSON body: who the hub is, a token that an operator got, the time, and a signature over all of
    /// them: the SHA-256, in hex, of the URL, `?`, the fields as `name=value` joined by `&` and sorted by their names, and the
    /// secret. The token is `<PROVIDER>_ACCESS_TOKEN`.
    #[serde(rename = "signed_body")]
    SignedBody {
        /// The field with `<PROVIDER>_CLIENT_ID`, as a number if it is one.
        id: String,
        /// The field with the token.
        token: String,
        /// The field with the time, in seconds since 1970.
        time: String,
        /// The field with the signature.
        signature: String,
    },
    /// `username` and `password` are posted; the token may also stand in paths.
    Login {
        /// Where they are posted.
        path: String,
        /// Further fields of the request, such as `grant_type`; `{base_url}` is the base URL.
        #[serde(default)]
        fields: BTreeMap<String, String>,
        /// How the request for a token is written.
        #[serde(default)]
        format: TokenFormat,
        /// The header of the token.
        #[serde(default = "authorization")]
        header: String,
        /// What stands before the token.
        #[serde(default = "bearer")]
        prefix: String,
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
            Self::Oauth2 { .. } | Self::Login { .. } | Self::Jwt { .. } | Self::SignedBody { .. } => (true, true),
        }
    }

    /// The header of every request in which the hub shows who it is, and what stands before the secret or the token there.
    pub fn header(&self) -> Option<(&str, &str)> {
        match self {
            Self::None | Self::SignedBody { .. } => None,
            Self::Jwt { .. } => Some((AUTHORIZATION, BEARER)),
            Self::Header { name, prefix } => Some((name, prefix)),
            Self::Oauth2 { header, prefix, .. } | Self::Login { header, prefix, .. } => Some((header, prefix)),
        }
    }

    /// Whether it needs a token that an operator got.
    pub const fn needs_access_token(&self) -> bool {
        matches!(self, Self::SignedBody { .. })
    }

    /// Whether it needs the id of a key as well.
    pub const fn needs_key_id(&self) -> bool {
        matches!(self, Self::Jwt { .. })
    }
}

/// The header of tokens (RFC 6750), where a file names no other.
const AUTHORIZATION: &str = "authorization";
/// What stands before a token there.
const BEARER: &str = "Bearer ";

fn authorization() -> String {
    AUTHORIZATION.into()
}

fn bearer() -> String {
    BEARER.into()
}

/// How a request for a token is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenFormat {
    /// `application/x-www-form-urlencoded`, as OAuth 2 has it.
    #[default]
    Form,
    /// A JSON object of texts.
    Json,
}

/// Where name and secret go when a token is asked for (RFC 6749, 2.3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Credentials {
    /// `client_id` and `client_secret` among the fields.
    #[default]
    Body,
    /// HTTP Basic.
    Basic,
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
    /// Answers that mean that it is too early.
    #[serde(default)]
    pub again: Option<AgainTable>,
    /// HTTP statuses from 400 to 499 that mean that it is too late, also where `retry` names them.
    #[serde(default)]
    pub ended: Vec<u16>,
    /// What the provider calls the reasons here, where it has other words than those of `[outbound.reasons]`.
    #[serde(default)]
    pub reasons: BTreeMap<ReasonCode, String>,
    /// Where the order says whether the provider takes this call about it.
    #[serde(default)]
    pub offered: Option<Offered>,
    /// Orders that the call is for, by who delivers them; all, where it names none.
    #[serde(default, deserialize_with = "fulfillments")]
    pub only_for: Vec<Fulfillment>,
}

/// The table `[outbound.answer]`: every answer is 2xx, and a code in its body says what it means. A code that ends with `*`
/// stands for all that begin so.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerTable {
    /// JSON pointer of the code.
    pub code: String,
    /// Codes that mean success; any code that is in no list means that the provider refuses the request.
    pub ok: Vec<String>,
    /// Codes that mean that the hub's credentials are refused.
    #[serde(default)]
    pub credentials: Vec<String>,
    /// Codes that mean that it may work later.
    #[serde(default)]
    pub retry: Vec<String>,
}

/// Words of [`Fulfillment`].
fn fulfillments<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Fulfillment>, D::Error> {
    let words = Vec::<String>::deserialize(deserializer)?;
    let read = |word: String| {
        Fulfillment::from_word(&word).ok_or_else(|| {
            let all: Vec<_> = Fulfillment::ALL.into_iter().map(Fulfillment::as_str).collect();
            de::Error::custom(format_args!("only_for: expected {}, found {word:?}", all.join(", ")))
        })
    };
    words.into_iter().map(read).collect()
}

/// `offered` of a status call: where an order lists its calls at one place, the hub makes only those; for any other order it makes every call.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offered {
    /// JSON pointer, in the order, of an object that lists the calls that are taken.
    pub r#in: Pointer,
    /// JSON pointer, in that object, of this call.
    pub at: Pointer,
}

/// `again` of a status call: answers after which it is asked again soon, and no attempt is counted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgainTable {
    /// HTTP statuses from 400 to 499.
    pub status: Vec<u16>,
    /// Texts of which the answer holds one; where there are none any answer will do.
    #[serde(default)]
    pub contains: Vec<String>,
    /// How often it is asked again, `10s`.
    pub every: String,
    /// For how long, `5m`.
    pub within: String,
}

/// JSON: in a text, or as the table or list that says the same.
pub(super) fn json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
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

pub(super) fn some_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
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
    /// How often it is asked for, `30s`.
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
    /// The text there, or the texts of which one is there.
    #[serde(deserialize_with = "texts")]
    pub is: Vec<String>,
}

/// A text, or a list of texts.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let text = |value: toml::Value| match value {
        toml::Value::String(text) if !text.is_empty() => Ok(text),
        _ => Err(de::Error::custom("is: expected a text, or a list of texts")),
    };
    match toml::Value::deserialize(deserializer)? {
        toml::Value::Array(values) if !values.is_empty() => values.into_iter().map(text).collect(),
        value => Ok(vec![text(value)?]),
    }
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
    /// Paths that `href` may name, with `{names}` for their parts; a part named `external_id` must be the order's id. What stands
    /// after `?` is the query that is asked with it.
    #[serde(default)]
    pub paths: Vec<HrefPath>,
}

/// A path that an order's URL may have.
#[derive(Debug, Clone)]
pub struct HrefPath {
    /// Its shape.
    pub template: PathTemplate,
    /// The query that is asked with it; a webhook's own is never asked with.
    pub query: Option<String>,
}

impl<'de> Deserialize<'de> for HrefPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (text.as_str(), None),
        };
        let is_query = |query: &String| {
            let is_part = |byte: u8| byte.is_ascii_graphic() && !b"#{}<>\"\\^`|".contains(&byte);
            !query.is_empty() && query.bytes().all(is_part)
        };
        if query.as_ref().is_some_and(|query| !is_query(query)) {
            return Err(de::Error::custom(format_args!(
                "{text:?}: expected a query such as ?expand=items"
            )));
        }
        Ok(Self {
            template: PathTemplate::read(path).map_err(de::Error::custom)?,
            query,
        })
    }
}
