//! Tokens: requested once, and used by all requests of a provider until shortly before they end.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderValue, Method, header::CONTENT_TYPE};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use chrono::{TimeDelta, Utc};
use jsonwebtoken::{EncodingKey, Header};
use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use url::Url;

use super::{
    Reply,
    answer::{self, RequestFailure},
    clock::ProviderClock,
};
use crate::{
    event::outcome::{ErrorReport, ErrorType},
    fault_injection,
    http::{self, MAX_ANSWER_BYTES, Request, Target},
    provider::outbound::{Auth, ClientCredentials, Credentials, TokenFormat, words::BASE_URL_SLOT},
};

/// How much before its end a token is replaced; of a short-lived one, a tenth of its life.
const MARGIN: Duration = Duration::from_secs(60);
/// Longest time that a token is used, whatever its provider says.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long a refusal of the credentials holds for all that need a token: with a breaker that is switched off each of a
/// crowd would ask anew.
const REFUSAL_HOLDS: Duration = Duration::from_secs(5);
/// From so many seconds on, `expires_in` is no time from now but a date, in seconds since 1970.
const DATES_FROM: i64 = 1_000_000_000;
/// The same of milliseconds.
const MILLISECONDS_FROM: i64 = 1_000 * DATES_FROM;
/// Longest token that is taken: it goes in a header.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Most base URLs with kept tokens. A provider has one at a time; a row may change while requests are under way.
const MAX_BASES: usize = 8;

/// A token in use.
#[derive(Clone)]
pub struct Token {
    /// Which one of its base URL it is, counted from 1: so that of many requests that are refused with it one gets another.
    pub number: u64,
    /// What is sent.
    pub text: SecretString,
    until: Instant,
}

/// A provider's token.
pub struct ProviderTokens {
    client: ClientCredentials,
    default_lifetime: Duration,
    /// The provider's clock, by which the hub signs.
    pub(super) clock: ProviderClock,
    /// How long to wait for another request for a token: with so many requests one after the other that get no
    /// answer, the last would wait for minutes.
    patience: Duration,
    /// By base URL, the one that was used last at the end: what one address gave is never shown to another. The credentials
    /// are the same for all.
    by_base: std::sync::Mutex<Vec<(String, Arc<Mutex<CachedToken>>)>>,
}

/// The token of one base URL. Locked while a token is requested: other requests wait for it.
#[derive(Default)]
struct CachedToken {
    count: u64,
    token: Option<Token>,
    /// Until when none is asked for, and why.
    refusal: Option<(Instant, Refusal)>,
}

/// Why no token is asked for.
enum Refusal {
    /// None was given for these credentials.
    Credentials(ErrorReport),
    /// The provider wants to be left alone.
    Later(ErrorReport),
}

impl Refusal {
    /// The refusal that a failure is, and for how long it holds.
    fn of(failure: &RequestFailure) -> Option<(Duration, Self)> {
        match failure {
            RequestFailure::Misconfigured(error) => Some((REFUSAL_HOLDS, Self::Credentials(error.clone()))),
            RequestFailure::Reply(Reply::Temporary {
                error,
                after: Some(after),
            }) => Some((*after, Self::Later(error.clone()))),
            _ => None,
        }
    }

    fn failure(&self, left: Duration) -> RequestFailure {
        match self {
            Self::Credentials(error) => RequestFailure::Misconfigured(error.clone()),
            Self::Later(error) => RequestFailure::Reply(Reply::Temporary {
                error: error.clone(),
                after: Some(left),
            }),
        }
    }
}

impl ProviderTokens {
    /// No token yet. `patience`: how long to wait for another request for one.
    pub fn new(client: ClientCredentials, default_lifetime: Duration, patience: Duration) -> Self {
        Self {
            client,
            default_lifetime,
            clock: ProviderClock::default(),
            patience,
            by_base: std::sync::Mutex::default(),
        }
    }

    fn of_base(&self, base: &str) -> Arc<Mutex<CachedToken>> {
        // No code panics while it holds this lock.
        let mut all = self.by_base.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().position(|(known, _)| known == base);
        let entry = match known {
            Some(at) => all.remove(at),
            None => (base.to_owned(), Arc::default()),
        };
        let cached = Arc::clone(&entry.1);
        all.push(entry);
        if all.len() > MAX_BASES {
            all.remove(0);
        }
        cached
    }

    /// The secret of a static header.
    pub fn secret(&self) -> &str {
        self.client.secret.as_ref().map_or("", |secret| secret.expose_secret())
    }

    /// How the hub shows who it is.
    pub const fn client(&self) -> &ClientCredentials {
        &self.client
    }

    /// A token of this base URL that is good, other than the one of number `refused`.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn get(
        &self,
        http: &http::Client,
        base: &str,
        auth: &Auth,
        refused: Option<u64>,
    ) -> Result<Token, RequestFailure> {
        let of_base = self.of_base(base);
        let Ok(mut cached) = tokio::time::timeout(self.patience, of_base.lock()).await else {
            return Err(answer::no_token_in_time());
        };
        let is_good = |token: &&Token| Some(token.number) != refused && token.until > Instant::now();
        if let Some(token) = cached.token.as_ref().filter(is_good) {
            return Ok(token.clone());
        }
        if let Some((until, refusal)) = &cached.refusal
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            return Err(refusal.failure(left));
        }
        let began = Instant::now();
        let asked = self.ask(http, base, auth).await;
        let refusal = asked.as_ref().err().and_then(Refusal::of);
        cached.refusal = refusal.map(|(holds, refusal)| (Instant::now() + holds, refusal));
        let (text, lifetime) = asked?;
        cached.count += 1;
        let token = Token {
            number: cached.count,
            text,
            until: began + lifetime.saturating_sub(MARGIN.min(lifetime / 10)),
        };
        cached.token = Some(token.clone());
        Ok(token)
    }

    async fn ask(
        &self,
        http: &http::Client,
        base: &str,
        auth: &Auth,
    ) -> Result<(SecretString, Duration), RequestFailure> {
        let id = self.client.id.as_deref().unwrap_or_default();
        let (post, pointer) = match auth {
            Auth::Oauth2 {
                token_url,
                scopes,
                fields,
                credentials,
                format,
                ..
            } => {
                let fields = filled(fields, base);
                let mut fields: Fields<'_> = borrowed(&fields);
                let scope = scopes.join(" ");
                fields.insert("grant_type", "client_credentials");
                if !scope.is_empty() {
                    fields.insert("scope", &scope);
                }
                if *credentials == Credentials::Body {
                    fields.insert("client_id", id);
                    fields.insert("client_secret", self.secret());
                }
                let mut post = posted(&absolute(base, token_url), *format, &fields);
                if *credentials == Credentials::Basic {
                    post = post.basic_auth(id, self.secret());
                }
                (post, "/access_token")
            }
            Auth::Login {
                path,
                token,
                fields,
                format,
                ..
            } => {
                let fields = filled(fields, base);
                let mut fields: Fields<'_> = borrowed(&fields);
                fields.extend([("username", id), ("password", self.secret())]);
                let post = posted(&format!("{base}{path}"), *format, &fields);
                (post, token.as_deref().unwrap_or("/access_token"))
            }
            Auth::Jwt { audience, header, .. } => {
                let token = self.signed(audience, header)?;
                return Ok((token, self.default_lifetime));
            }
            Auth::None | Auth::Header { .. } | Auth::SignedBody { .. } => {
                return Ok((SecretString::default(), MAX_LIFETIME));
            }
        };
        let answer = answer::ask(http, post, MAX_ANSWER_BYTES).await?;
        if !(200..300).contains(&answer.status) {
            return Err(answer::without_token(&answer));
        }
        self.read(&answer.body, pointer, answer.clock_ahead.unwrap_or_default())
    }

    /// A token of the hub's own, and how long it holds.
    fn signed(&self, audience: &str, fields: &BTreeMap<String, String>) -> Result<SecretString, RequestFailure> {
        let key = STANDARD_NO_PAD.decode(self.secret().trim_end_matches('=').replace('-', "+").replace('_', "/"));
        let now = self.clock.now().timestamp();
        let lifetime = i64::try_from(self.default_lifetime.as_secs()).unwrap_or(i64::MAX);
        let claims = json!({
            "aud": audience,
            "iss": self.client.id,
            "kid": self.client.key_id,
            "iat": now,
            "exp": now.saturating_add(lifetime),
        });
        let mut header = Header::new(jsonwebtoken::Algorithm::HS256);
        for (name, value) in fields {
            header.extras.insert(name, value);
        }
        let signed = key.ok().and_then(|key| {
            let key = EncodingKey::from_secret(&Zeroizing::new(key));
            jsonwebtoken::encode(&header, &claims, &key).ok()
        });
        signed.map(SecretString::from).ok_or_else(|| {
            RequestFailure::Misconfigured(ErrorReport::new(
                ErrorType::Configuration,
                "PROVIDER_TOKEN",
                "CLIENT_SECRET is no key in base64, so no token can be signed with it",
            ))
        })
    }

    /// The token in an answer of a provider with a clock that is so far ahead of ours, and how long it holds.
    fn read(&self, body: &[u8], pointer: &str, ahead: TimeDelta) -> Result<(SecretString, Duration), RequestFailure> {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let token = body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let fits = (1..=MAX_TOKEN_BYTES).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
        if !fits {
            return Err(RequestFailure::Misconfigured(ErrorReport::new(
                ErrorType::Configuration,
                "PROVIDER_TOKEN",
                "the answer to the request for a token holds none where one was expected",
            )));
        }
        let lifetime = lifetime(&body["expires_in"], Utc::now().timestamp() + ahead.num_seconds());
        let lifetime = lifetime.unwrap_or(self.default_lifetime);
        Ok((
            SecretString::from(token),
            lifetime.min(fault_injection::time("token_lifetime", MAX_LIFETIME)),
        ))
    }
}

/// How long a token holds, as `expires_in` says at this time of the provider: seconds from now, or a date. None if it says nothing, or that
/// the token has ended already: such a token would be replaced before each request, and a provider that means it refuses the token.
fn lifetime(said: &Value, now: i64) -> Option<Duration> {
    let said = match said {
        Value::Number(seconds) => seconds
            .as_i64()
            .or_else(|| seconds.as_f64().map(|seconds| seconds as i64))?,
        Value::String(seconds) => seconds.trim().parse().ok()?,
        _ => return None,
    };
    let seconds = match said {
        MILLISECONDS_FROM.. => said / 1000 - now,
        DATES_FROM.. => said - now,
        seconds => seconds,
    };
    u64::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
}

/// A path stands on the base URL.
fn absolute(base: &str, url: &str) -> String {
    if url.starts_with('/') {
        format!("{base}{url}")
    } else {
        url.to_owned()
    }
}

/// Fields of a request for a token.
type Fields<'f> = BTreeMap<&'f str, &'f str>;

/// The fields of a file, for this base URL.
fn filled(fields: &BTreeMap<String, String>, base: &str) -> BTreeMap<String, String> {
    let filled = |(name, value): (&String, &String)| (name.clone(), value.replace(BASE_URL_SLOT, base));
    fields.iter().map(filled).collect()
}

fn borrowed(fields: &BTreeMap<String, String>) -> Fields<'_> {
    fields.iter().map(|(name, value)| (&**name, &**value)).collect()
}

/// The request for a token.
fn posted(url: &str, format: TokenFormat, fields: &Fields<'_>) -> Request {
    let (media_type, body) = match format {
        TokenFormat::Form => ("application/x-www-form-urlencoded", encode(fields)),
        TokenFormat::Json => ("application/json", json!(fields).to_string()),
    };
    let post = Request::new(Method::POST, Target::parse(url)).body(body);
    post.header(CONTENT_TYPE, HeaderValue::from_static(media_type))
}

fn encode(fields: &Fields<'_>) -> String {
    let url = Url::parse_with_params("http://form", fields).expect("it is a URL");
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use axum::http::HeaderMap;

    use super::*;
    use crate::config::ClientTls;

    #[test]
    fn the_end_of_a_token_is_read_by_the_providers_clock() {
        const NOW: i64 = 1_790_000_000;
        for (said, seconds) in [
            (json!(3600), Some(3600)),
            (json!("3600"), Some(3600)),
            (json!(3599.5), Some(3599)),
            (json!(NOW + 1800), Some(1800)),
            (json!((NOW + 1800) * 1000), Some(1800)),
            (json!(NOW.to_string()), None),
            (json!(0), None),
            (json!(-18_000), None),
            (json!("soon"), None),
            (Value::Null, None),
        ] {
            assert_eq!(lifetime(&said, NOW), seconds.map(Duration::from_secs), "{said}");
        }
    }

    /// Requests that wait for a token are not told by the provider, one after the other, that it gives none for a while.
    #[tokio::test]
    async fn a_provider_that_gives_no_token_for_a_while_is_asked_once() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        const LATER: &[u8] = b"HTTP/1.1 429 X\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n";
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut read = [0; 4096];
                    while stream.read(&mut read).await.is_ok_and(|bytes| bytes > 0) {
                        counted.fetch_add(1, Ordering::SeqCst);
                        stream.write_all(LATER).await.unwrap();
                    }
                });
            }
        });
        let patience = Duration::from_secs(10);
        let tokens = ProviderTokens::new(ClientCredentials::default(), MAX_LIFETIME, patience);
        let http = http::client(patience, 20, HeaderMap::new(), &ClientTls::of_machine("X_API")).unwrap();
        let auth: Auth = toml::from_str("kind = 'login'\npath = '/login'").unwrap();
        let all = futures_util::future::join_all((0..16).map(|_| tokens.get(&http, &base, &auth, None)));
        for one in all.await {
            let Err(RequestFailure::Reply(Reply::Temporary { after, .. })) = one else {
                panic!("there is no token")
            };
            assert!(
                after.is_some_and(|after| (58..=60).contains(&after.as_secs())),
                "{after:?}"
            );
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    /// A request that waited in vain for another one's token does not begin to wait anew.
    #[tokio::test]
    async fn waiting_for_anothers_token_request_is_limited() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", silent.local_addr().unwrap());
        let patience = Duration::from_millis(200);
        let tokens = ProviderTokens::new(ClientCredentials::default(), MAX_LIFETIME, patience);
        let http = http::client(10 * patience, 20, HeaderMap::new(), &ClientTls::of_machine("X_API")).unwrap();
        let auth: Auth = toml::from_str("kind = 'login'\npath = '/login'").unwrap();
        let mut first = pin!(tokens.get(&http, &base, &auth, None));
        assert!(futures_util::poll!(&mut first).is_pending());
        let began = Instant::now();
        let others = futures_util::future::join_all((0..16).map(|_| tokens.get(&http, &base, &auth, None)));
        for other in tokio::time::timeout(10 * patience, others).await.unwrap() {
            let Err(RequestFailure::Reply(Reply::Temporary { error, .. })) = other else {
                panic!("there is no token")
            };
            assert_eq!(error.code, "PROVIDER_TIMEOUT");
        }
        assert!(began.elapsed() >= patience);
    }
}
