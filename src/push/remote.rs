//! One provider's interface: its address, token, limits and breaker, and what its answers mean.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{
    Method, RequestBuilder, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
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
    forward::{breaker::Outcome, gate::Gate},
    http::{self, Answer, MAX_ANSWER_BYTES, percent_encode},
};

/// Most bytes of an order that is fetched: as many as a webhook may have by default.
pub(super) const MAX_DOCUMENT_BYTES: usize = 5 * 1024 * 1024;
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
        let http = http::client(spec.timeout, MAX_REQUESTS, HeaderMap::new(), &tls)?;
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
            Sent::Answer(answer) if call.done.contains(&answer.status) => done(answer),
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
            Sent::Answer(answer) if answer.is_cut && (200..300).contains(&answer.status) => {
                Reply::Refused(ErrorReport::new(
                    ErrorType::Validation,
                    "PROVIDER_DOCUMENT_TOO_LARGE",
                    format!("the provider's document is larger than {max_bytes} bytes"),
                ))
            }
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
            200..=299 => done(answer),
            // Also with a new token: the breaker is open now.
            401 => Reply::Wait(self.reset),
            429 => {
                if let Some(after) = after {
                    self.limits.pause(Instant::now(), after);
                }
                temporary(&answer, "the provider was asked too often", ErrorType::Temporary)
            }
            408 | 425 | 500..=599 => temporary(&answer, "the provider cannot take it now", ErrorType::Temporary),
            status if self.spec.retry.contains(&status) => {
                temporary(&answer, "the provider cannot take it yet", ErrorType::Temporary)
            }
            400..=499 => Reply::Refused(report(&answer, ErrorType::Validation, "the provider refuses it")),
            _ => temporary(&answer, "an answer that means nothing here", ErrorType::Unknown),
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

fn done(answer: Answer) -> Reply {
    Reply::Done {
        status: answer.status,
        body: answer.body,
    }
}

fn temporary(answer: &Answer, message: &str, error_type: ErrorType) -> Reply {
    Reply::Temporary {
        error: report(answer, error_type, message),
        after: answer.retry_after,
    }
}

fn report(answer: &Answer, error_type: ErrorType, message: &str) -> ErrorReport {
    let codes = ["/error/code", "/code", "/errorCode", "/error"];
    answer.report("provider", &codes, error_type, message)
}

/// The answer to a request for a token that is none.
pub(super) fn without_token(answer: &Answer) -> Trouble {
    match answer.status {
        400..=407 | 409..=424 | 426..=428 | 430..=499 => Trouble::Misconfigured(report(
            answer,
            ErrorType::Configuration,
            "the provider gives the hub no token: are CLIENT_ID and CLIENT_SECRET right?",
        )),
        _ => Trouble::Reply(temporary(
            answer,
            "the provider gives no token now",
            ErrorType::Temporary,
        )),
    }
}

/// Asks, and reads an answer within its limit.
pub(super) async fn ask(request: RequestBuilder, max_bytes: usize) -> Result<Answer, Trouble> {
    http::ask(request, max_bytes).await.map_err(|error| no_answer(&error))
}

/// There was no answer: what that means.
fn no_answer(error: &reqwest::Error) -> Trouble {
    let error = http::no_answer(error, "provider", "its API_URL");
    match error.error_type {
        ErrorType::Configuration => Trouble::Misconfigured(error),
        _ => Trouble::Reply(Reply::Temporary { error, after: None }),
    }
}

pub(super) fn no_token_in_time() -> Trouble {
    let message = "the provider did not give a token in time";
    Trouble::Reply(Reply::Temporary {
        error: ErrorReport::new(ErrorType::Temporary, "PROVIDER_TIMEOUT", message),
        after: None,
    })
}
