//! One provider's interface: its address, token, limits and breaker, and what its answers mean.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chrono::Utc;
use reqwest::{
    Method, RequestBuilder, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    redirect,
};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    limits::Limits,
    outbound::{Auth, Call, Spec},
    template::{Missing, Scope, Text},
    token::{Token, Tokens},
    words::ACCESS_TOKEN,
};
use crate::{
    config,
    event::outcome::{ErrorReport, ErrorType},
    forward::{
        breaker::Outcome,
        classify::retry_after,
        client::{is_dns, is_tls, percent_encode},
        gate::Gate,
    },
    tls,
};

/// Most bytes of an answer that are read; an honest one has a few hundred.
pub(super) const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Most bytes of an order that is fetched: as many as a webhook may have by default.
pub(super) const MAX_DOCUMENT_BYTES: usize = 5 * 1024 * 1024;
/// Time for the TCP and TLS handshakes, within the whole request's limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Requests to one provider that are under way at a time.
const MAX_REQUESTS: usize = 16;
/// And those that wait for that: what is more waits elsewhere, so that a slow provider does not fill the stage.
const MAX_WAITING: usize = 112;
/// How long what finds no place waits.
const NO_PLACE: Duration = Duration::from_secs(2);
/// Longest wait before a breaker whose trials are all under way is looked at again.
const TRIALS_UNDER_WAY: Duration = Duration::from_secs(1);

/// What became of a request.
#[derive(Debug)]
pub enum Reply {
    /// 2xx, or a status that means that it is so already.
    Done {
        /// HTTP status.
        status: u16,
        /// The answer.
        body: Vec<u8>,
    },
    /// The provider will not have it; trying again cannot help.
    Refused(ErrorReport),
    /// Later, perhaps.
    Temporary {
        /// What went wrong.
        error: ErrorReport,
        /// Not before this long from now.
        after: Option<Duration>,
    },
    /// Nothing was asked, or nobody is to blame but the set-up: not before this long from now.
    Wait(Duration),
}

/// An answer as it came.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    retry_after: Option<Duration>,
}

/// A request that is to be made.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: Place<'a>,
    pub(super) body: Option<Value>,
    /// The key that is the same for every repeat.
    pub(super) key: String,
    pub(super) max_bytes: usize,
}

/// Where a request goes.
pub(super) enum Place<'a> {
    /// On the base URL.
    Path(&'a Text),
    /// Anywhere; whoever names it has looked at the host.
    Whole(Url),
}

/// A provider's interface.
pub struct Remote {
    /// The provider's name.
    pub name: Arc<str>,
    /// How it is spoken to.
    pub spec: Spec,
    /// How often.
    pub limits: Limits,
    http: reqwest::Client,
    /// `<PROVIDER>_API_URL`.
    url: Option<String>,
    tokens: Tokens,
    gate: Arc<Gate>,
    reset: Duration,
    places: Semaphore,
    slots: Semaphore,
}

impl Remote {
    /// For this provider.
    ///
    /// # Errors
    /// Where TLS cannot be set up, naming the variable.
    pub fn new(name: Arc<str>, outbound: config::Outbound, breaker: config::Breaker) -> anyhow::Result<Self> {
        let config::Outbound {
            spec,
            api_url: url,
            client,
            tls,
        } = outbound;
        let http = reqwest::Client::builder()
            .user_agent(concat!("webhook-hub/", env!("CARGO_PKG_VERSION")))
            .timeout(spec.timeout)
            .connect_timeout(CONNECT_TIMEOUT.min(spec.timeout))
            .pool_max_idle_per_host(MAX_REQUESTS)
            // A redirect would carry the token to whoever the answer names.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .tls_backend_preconfigured(tls::client(&tls)?)
            .build()
            .context("cannot set up the HTTP client")?;
        Ok(Self {
            http,
            url,
            tokens: Tokens::new(client, spec.token_lifetime, spec.timeout),
            gate: Arc::new(Gate::of_provider(breaker, Arc::clone(&name))),
            reset: breaker.reset_timeout,
            limits: Limits::new(spec.requests_per_second),
            places: Semaphore::new(MAX_REQUESTS + MAX_WAITING),
            slots: Semaphore::new(MAX_REQUESTS),
            name,
            spec,
        })
    }

    /// The base URL: the environment's, else the platform's, else the file's.
    pub fn base<'a>(&'a self, of_platform: Option<&'a str>) -> &'a str {
        let url = self.url.as_deref().or(of_platform);
        url.unwrap_or(&self.spec.base_url).trim_end_matches('/')
    }

    /// Makes a call of the file.
    ///
    /// # Errors
    /// The slot that has no value.
    pub(super) async fn call(&self, base: &str, call: &Call, scope: &mut Scope, key: String) -> Result<Reply, Missing> {
        let request = Request {
            method: call.method.clone(),
            url: Place::Path(&call.path),
            body: call.body.as_ref().map(|body| body.fill(scope)),
            key,
            max_bytes: MAX_ANSWER_BYTES,
        };
        let reply = self.send(base, request, scope).await?;
        Ok(match reply {
            Sent::Reply(reply) => reply,
            Sent::Answer(answer) if call.done.contains(&answer.status) => answer.done(),
            Sent::Answer(answer) => self.meaning(answer),
        })
    }

    /// Reads a document.
    ///
    /// # Errors
    /// The slot that has no value.
    pub(super) async fn read(
        &self,
        base: &str,
        url: Place<'_>,
        scope: &mut Scope,
        key: String,
        max_bytes: usize,
    ) -> Result<Reply, Missing> {
        let request = Request {
            method: Method::GET,
            url,
            body: None,
            key,
            max_bytes,
        };
        let reply = self.send(base, request, scope).await?;
        Ok(match reply {
            Sent::Reply(reply) => reply,
            Sent::Answer(answer) => self.meaning(answer),
        })
    }

    async fn send(&self, base: &str, request: Request<'_>, scope: &mut Scope) -> Result<Sent, Missing> {
        let Ok(_place) = self.places.try_acquire() else {
            return Ok(Sent::Reply(Reply::Wait(NO_PLACE)));
        };
        // It fails only where the semaphore is closed, which nobody does.
        let _slot: Option<SemaphorePermit<'_>> = self.slots.acquire().await.ok();
        if let Some(wait) = self.gate.wait() {
            return Ok(Sent::Reply(Reply::Wait(wait.unwrap_or(TRIALS_UNDER_WAY))));
        }
        if let Err(wait) = self.limits.take(Instant::now()) {
            return Ok(Sent::Reply(Reply::Wait(wait)));
        }
        let Some(pass) = self.gate.enter() else {
            return Ok(Sent::Reply(Reply::Wait(TRIALS_UNDER_WAY)));
        };
        let asked = Instant::now();
        let sent = self.send_with_token(base, &request, scope).await;
        let (outcome, sent) = match sent {
            Ok(answer) => {
                let outcome = match answer.status {
                    401 => Outcome::Misconfigured(format!("{} refuses the hub's credentials", self.name)),
                    408 | 425 | 500.. => Outcome::Failure,
                    _ => Outcome::Success,
                };
                (outcome, Sent::Answer(answer))
            }
            // It was not made.
            Err(Trouble::Missing(missing)) => return Err(missing),
            Err(Trouble::Misconfigured(error)) => {
                let reason = error.message.clone();
                (Outcome::Misconfigured(reason), Sent::Reply(Reply::Wait(self.reset)))
            }
            Err(Trouble::Reply(reply)) => {
                let answered = matches!(reply, Reply::Refused(_));
                (
                    if answered { Outcome::Success } else { Outcome::Failure },
                    Sent::Reply(reply),
                )
            }
        };
        pass.record(outcome);
        let label = sent.label();
        metrics::histogram!("provider_request_duration_seconds", "provider" => Arc::clone(&self.name))
            .record(asked.elapsed());
        metrics::counter!("provider_requests_total", "provider" => Arc::clone(&self.name), "outcome" => label)
            .increment(1);
        Ok(sent)
    }

    /// A token that the provider refuses is replaced once.
    async fn send_with_token(&self, base: &str, request: &Request<'_>, scope: &mut Scope) -> Result<Answer, Trouble> {
        let is_token = matches!(self.spec.auth, Auth::Oauth2 { .. } | Auth::Login { .. });
        let mut refused = None;
        loop {
            let token = self.tokens.get(&self.http, base, &self.spec.auth, refused).await?;
            let answer = self.send_once(base, request, scope, &token).await?;
            if answer.status != 401 || !is_token || refused.is_some() {
                return Ok(answer);
            }
            refused = Some(token.number);
        }
    }

    async fn send_once(
        &self,
        base: &str,
        request: &Request<'_>,
        scope: &mut Scope,
        token: &Token,
    ) -> Result<Answer, Trouble> {
        let text = token.text.expose_secret();
        let url = match &request.url {
            Place::Path(path) => {
                if path.uses(ACCESS_TOKEN) {
                    scope.0.insert(ACCESS_TOKEN.into(), text.into());
                }
                let path = path.fill(scope, percent_encode);
                scope.0.remove(ACCESS_TOKEN);
                format!("{base}{}", path.map_err(Trouble::Missing)?)
            }
            Place::Whole(url) => url.to_string(),
        };
        let mut builder = self.http.request(request.method.clone(), url);
        for (name, value) in &self.spec.headers {
            let value = value.fill(scope, str::to_owned).map_err(Trouble::Missing)?;
            // What could not stand in a header is a fault of the row that it is from.
            let value = HeaderValue::from_str(&value).map_err(|_| Trouble::Missing(Missing(name.to_string())))?;
            builder = builder.header(name, value);
        }
        let secret = match &self.spec.auth {
            Auth::None => None,
            Auth::Header { name, prefix } => Some((name.as_str(), format!("{prefix}{}", self.tokens.secret()))),
            Auth::Oauth2 { .. } | Auth::Login { .. } => Some((AUTHORIZATION.as_str(), format!("Bearer {text}"))),
        };
        if let Some((name, secret)) = secret
            && let Ok(mut secret) = HeaderValue::from_str(&secret)
        {
            secret.set_sensitive(true);
            builder = builder.header(name, secret);
        }
        if let Some(name) = &self.spec.idempotency_header {
            builder = builder.header(name, &request.key);
        }
        if let Some(body) = &request.body {
            builder = builder
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .body(body.to_string());
        }
        ask(builder, request.max_bytes).await
    }

    /// What an answer means that the call itself has no word about.
    fn meaning(&self, answer: Answer) -> Reply {
        let after = answer.retry_after;
        match answer.status {
            200..=299 => answer.done(),
            // Also with a new token: the breaker is open now.
            401 => Reply::Wait(self.reset),
            429 => {
                if let Some(after) = after {
                    self.limits.pause(Instant::now(), after);
                }
                answer.temporary("the provider was asked too often", ErrorType::Temporary)
            }
            408 | 425 | 500..=599 => answer.temporary("the provider cannot take it now", ErrorType::Temporary),
            status if self.spec.retry.contains(&status) => {
                answer.temporary("the provider cannot take it yet", ErrorType::Temporary)
            }
            400..=499 => Reply::Refused(answer.report(ErrorType::Validation, "the provider refuses it")),
            _ => answer.temporary("an answer that means nothing here", ErrorType::Unknown),
        }
    }
}

/// What came of sending: an answer that is still to be understood, or that there was none.
enum Sent {
    Answer(Answer),
    Reply(Reply),
}

impl Sent {
    const fn label(&self) -> &'static str {
        match self {
            Self::Answer(answer) => match answer.status {
                200..=299 => "success",
                401 => "configuration",
                408 | 425 | 429 | 500.. => "temporary",
                _ => "refused",
            },
            Self::Reply(Reply::Wait(_)) => "configuration",
            Self::Reply(_) => "temporary",
        }
    }
}

/// Why there is no answer.
pub(super) enum Trouble {
    Missing(Missing),
    Misconfigured(ErrorReport),
    Reply(Reply),
}

impl Answer {
    fn done(self) -> Reply {
        Reply::Done {
            status: self.status,
            body: self.body,
        }
    }

    fn temporary(self, message: &str, error_type: ErrorType) -> Reply {
        Reply::Temporary {
            error: self.report(error_type, message),
            after: self.retry_after,
        }
    }

    fn report(&self, error_type: ErrorType, message: &str) -> ErrorReport {
        // What the provider says of its own accord may quote the customer; only its machine-readable code is kept.
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let code = ["/error/code", "/code", "/errorCode", "/error"]
            .iter()
            .find_map(|pointer| match body.pointer(pointer)? {
                Value::String(code) => Some(code.chars().take(100).collect::<String>()),
                Value::Number(code) => Some(code.to_string()),
                _ => None,
            });
        ErrorReport {
            error_type,
            code: format!("PROVIDER_{}", self.status),
            message: format!("{message} (HTTP {})", self.status),
            details: code.map_or(Value::Null, |code| serde_json::json!({ "providerCode": code })),
        }
    }

    /// The answer to a request for a token that is none.
    pub(super) fn without_token(self) -> Trouble {
        match self.status {
            400..=407 | 409..=424 | 426..=428 | 430..=499 => Trouble::Misconfigured(self.report(
                ErrorType::Configuration,
                "the provider gives the hub no token: are CLIENT_ID and CLIENT_SECRET right?",
            )),
            _ => Trouble::Reply(self.temporary("the provider gives no token now", ErrorType::Temporary)),
        }
    }
}

/// Asks, and reads an answer within its limit.
pub(super) async fn ask(request: RequestBuilder, max_bytes: usize) -> Result<Answer, Trouble> {
    let mut response = request.send().await.map_err(|error| no_answer(&error))?;
    let status = response.status().as_u16();
    let header = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    let retry_after = header.and_then(|value| retry_after(value, Utc::now()));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| no_answer(&error))? {
        if body.len() + chunk.len() > max_bytes {
            if (200..300).contains(&status) && max_bytes == MAX_DOCUMENT_BYTES {
                return Err(Trouble::Reply(Reply::Refused(report(
                    ErrorType::Validation,
                    "PROVIDER_DOCUMENT_TOO_LARGE",
                    &format!("the provider's document is larger than {max_bytes} bytes"),
                ))));
            }
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer {
        status,
        body,
        retry_after,
    })
}

/// There was no answer: why, and what that means.
fn no_answer(error: &reqwest::Error) -> Trouble {
    let (code, message) = if error.is_timeout() {
        ("PROVIDER_TIMEOUT", "the provider did not answer in time")
    } else if is_tls(error) {
        return misconfigured(
            "PROVIDER_TLS",
            "the provider's certificate is not accepted, or it does not speak TLS",
        );
    } else if is_dns(error) {
        return misconfigured(
            "PROVIDER_DNS",
            "the provider's name cannot be resolved: is its API_URL right?",
        );
    } else if error.is_connect() {
        ("PROVIDER_UNREACHABLE", "no connection to the provider")
    } else {
        ("PROVIDER_CONNECTION_LOST", "the connection to the provider broke off")
    };
    Trouble::Reply(Reply::Temporary {
        error: report(ErrorType::Temporary, code, message),
        after: None,
    })
}

pub(super) fn no_token_in_time() -> Trouble {
    let message = "the provider did not give a token in time";
    Trouble::Reply(Reply::Temporary {
        error: report(ErrorType::Temporary, "PROVIDER_TIMEOUT", message),
        after: None,
    })
}

pub(super) fn misconfigured(code: &str, message: &str) -> Trouble {
    Trouble::Misconfigured(report(ErrorType::Configuration, code, message))
}

pub(super) fn report(error_type: ErrorType, code: &str, message: &str) -> ErrorReport {
    ErrorReport {
        error_type,
        code: code.into(),
        message: message.into(),
        details: Value::Null,
    }
}
