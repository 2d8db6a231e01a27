//! The running interface of one provider: its address, token, limits and breaker, and the meaning of its answers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header::CONTENT_TYPE};
use chrono::TimeDelta;
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;

use self::{
    answer::{RequestFailure, ask, done, report},
    limits::ProviderLimits,
    refusals::{Refusals, Troubles},
    request_slots::RequestSlots,
    token::{ProviderTokens, Token},
};
use crate::{
    config,
    delivery::{breaker::RequestOutcome, gate::Gate, stage::permission},
    event::{
        EventId,
        outcome::{ErrorReport, ErrorType},
    },
    http::{self, Answer, Incomplete, MAX_ANSWER_BYTES, Target},
    provider::outbound::{
        Auth, Call, Spec,
        origins::{NotAllowed, Origins},
        template::{Scope, Text, Unfilled},
        words::ACCESS_TOKEN,
    },
};

pub mod clock;
pub mod limits;
pub mod refusals;
pub mod token;
mod answer;
mod outcome;
mod reply;
mod request_slots;
mod signed_body;

pub use self::{reply::Reply, request_slots::MAX_REQUESTS};

/// Largest order document that is fetched, in bytes: the default limit of a webhook.
pub(crate) const MAX_DOCUMENT_BYTES: usize = 5 * 1024 * 1024;
/// Most requests of one call, in sequence: a token, the call itself, and both again when the token is refused.
const REQUESTS_OF_A_CALL: u32 = 4;
/// The code of an answer that says that the provider was asked too often (429).
const TOO_OFTEN: &str = "PROVIDER_429";
/// Longest wait before a breaker with all its trials under way is checked again.
const TRIALS_UNDER_WAY: Duration = Duration::from_secs(1);
/// What a provider's breaker takes for the branch of every request: which failures are one branch's is decided here.
const ALL_BRANCHES: &str = "";

/// For whom a request is made.
pub(super) struct Caller {
    /// The provider's base URL, or why it has none that may be used.
    pub(super) base: Result<String, ErrorReport>,
    /// The branch, where it is known.
    pub(super) branch: Option<String>,
    /// Which run of an event it is, for the limits.
    pub(super) event: EventId,
    /// The key that is the same for every repeat.
    pub(super) key: String,
    /// The provider has no other branch.
    pub(super) is_only: bool,
    /// It has a limit of its own, as a branch's menus have: that it came too soon says nothing about other requests.
    pub(super) has_own_limit: bool,
    /// It is beside the orders, as reading a list is: what becomes of it says nothing about other requests.
    pub(super) is_aside: bool,
}

impl Caller {
    /// Its branch, where the provider has others.
    fn one_of_several(&self) -> Option<&str> {
        self.branch.as_deref().filter(|_| !self.is_only)
    }

    /// The branch that takes turns with others at the provider's rate. Requests without one are together one of them.
    fn branch_in_turn(&self) -> &str {
        self.branch.as_deref().unwrap_or_default()
    }

    /// The owner of the credentials that the provider refuses: the branch, or the order itself where no branch is known. All requests
    /// aside have one, so that a list that is refused for every branch costs one token.
    fn refused(&self) -> &str {
        let of_branch = self.branch.as_deref().filter(|_| !self.is_aside);
        of_branch.unwrap_or(&self.key)
    }
}

/// A request that is to be made.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: RequestTarget<'a>,
    pub(super) body: Option<Value>,
    pub(super) max_bytes: usize,
}

/// The URL of a request.
#[derive(Clone)]
pub(super) enum RequestTarget<'a> {
    /// On the base URL.
    Path(&'a Text),
    /// On the base URL, with one more parameter of the query, which is encoded.
    PathAnd(&'a Text, &'a str),
    /// Anywhere; the caller has checked the host.
    Whole(Url),
}

/// A provider's interface.
pub struct Remote {
    /// The provider's name.
    pub name: Arc<str>,
    /// How it is spoken to.
    pub spec: Spec,
    /// How often.
    pub limits: ProviderLimits,
    http: http::Client,
    /// `<PROVIDER>_API_URL`.
    url: Option<String>,
    /// The allowed origins of requests with a URL from a table or a webhook.
    pub(super) origins: Origins,
    tokens: ProviderTokens,
    refusals: Mutex<Refusals>,
    troubles: Mutex<Troubles>,
    /// The circuit breaker.
    pub gate: Arc<Gate>,
    reset: Duration,
    request_slots: RequestSlots,
}

impl Remote {
    /// For this provider.
    ///
    /// # Errors
    /// If TLS cannot be set up, naming the variable.
    pub fn new(name: Arc<str>, outbound: config::OutboundSettings, breaker: config::Breaker) -> anyhow::Result<Self> {
        let config::OutboundSettings {
            spec,
            api_url: url,
            origins,
            client,
            tls,
        } = outbound;
        let http = http::client(spec.timeout, MAX_REQUESTS, HeaderMap::new(), &tls)?;
        Ok(Self {
            http,
            url,
            origins,
            tokens: ProviderTokens::new(client, spec.token_lifetime, spec.timeout),
            refusals: Mutex::default(),
            troubles: Mutex::default(),
            gate: Arc::new(Gate::of_provider(breaker, Arc::clone(&name))),
            reset: breaker.reset_timeout,
            limits: ProviderLimits::new(spec.requests_per_second),
            request_slots: RequestSlots::default(),
            name,
            spec,
        })
    }

    /// How long a call may take: with a token that is refused, and the new one.
    pub fn longest(&self) -> Duration {
        self.spec.timeout * REQUESTS_OF_A_CALL
    }

    /// The base URL: the environment's, else the platform's, else the file's.
    ///
    /// # Errors
    /// If the platform's may not be used. The file's is not taken in its place: the platform may mean a test system.
    pub(super) fn base(&self, of_platform: Option<&str>) -> Result<String, ErrorReport> {
        let url = match (&self.url, of_platform) {
            (Some(url), _) => url.clone(),
            (None, Some(url)) => {
                let url = self.origins.check(url).map_err(|why| self.no_base(why))?;
                url.to_string()
            }
            (None, None) => self.spec.base_url.clone(),
        };
        Ok(url.trim_end_matches('/').to_owned())
    }

    /// How far the provider's clock is ahead of ours, if it is far off.
    pub(super) fn clock_difference(&self) -> TimeDelta {
        self.tokens.clock.difference()
    }

    fn no_base(&self, why: NotAllowed) -> ErrorReport {
        let prefix = config::prefix(&self.name);
        let message = format!(
            "delivery_providers.api_base_url of {} {why}; correct the row, or name its host in {prefix}_API_HOSTS",
            self.name
        );
        ErrorReport::new(ErrorType::Configuration, "PROVIDER_URL_REFUSED", message)
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        // No code panics while it holds this lock.
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call of the file.
    ///
    /// # Errors
    /// Why a text of the file cannot be filled.
    pub(super) async fn call(&self, origin: &Caller, call: &Call, scope: &mut Scope) -> Result<Reply, Unfilled> {
        let request = Request {
            method: call.method.clone(),
            url: RequestTarget::Path(&call.path),
            body: call.body.as_ref().map(|body| body.fill(scope)),
            max_bytes: MAX_ANSWER_BYTES,
        };
        let reply = match self.send(origin, request, scope).await? {
            SendResult::Reply(reply) => reply,
            SendResult::Answer(answer) => match &call.again {
                Some(again) if again.is_one(answer.status, &answer.body) => Reply::Again {
                    error: report(&answer, ErrorType::Temporary, "the provider cannot take it yet"),
                    after: again.every,
                    within: again.within,
                },
                _ if call.done.contains(&answer.status) => done(answer),
                _ if call.ended.contains(&answer.status) => Reply::Refused(report(
                    &answer,
                    ErrorType::Validation,
                    "the order has ended at the provider",
                )),
                _ => self.meaning(answer, origin),
            },
        };
        Ok(reply.of(origin))
    }

    /// Reads a document.
    ///
    /// # Errors
    /// Why a text of the file cannot be filled.
    pub(super) async fn read(
        &self,
        origin: &Caller,
        url: RequestTarget<'_>,
        scope: &mut Scope,
        max_bytes: usize,
    ) -> Result<Reply, Unfilled> {
        let request = Request {
            method: Method::GET,
            url,
            body: None,
            max_bytes,
        };
        let reply = match self.send(origin, request, scope).await? {
            SendResult::Reply(reply) => reply,
            SendResult::Answer(answer) if answer.incomplete.is_some() && (200..300).contains(&answer.status) => {
                if matches!(answer.incomplete, Some(Incomplete::TooLarge)) {
                    let message = format!("the provider's document is larger than {max_bytes} bytes");
                    let error = ErrorReport::new(ErrorType::Validation, "PROVIDER_DOCUMENT_TOO_LARGE", message);
                    Reply::Refused(error)
                } else {
                    let message = "the provider's document is not packed as its Content-Encoding says";
                    let error = ErrorReport::new(ErrorType::Unknown, "PROVIDER_DOCUMENT_UNREADABLE", message);
                    Reply::Temporary { error, after: None }
                }
            }
            SendResult::Answer(answer) => self.meaning(answer, origin),
        };
        Ok(reply.of(origin))
    }

    async fn send(&self, origin: &Caller, request: Request<'_>, scope: &mut Scope) -> Result<SendResult, Unfilled> {
        let waits = |wait| Ok(SendResult::Reply(Reply::Wait(wait)));
        if let Some(not_now) = self.gate.not_now(ALL_BRANCHES) {
            return waits(not_now.pause(TRIALS_UNDER_WAY));
        }
        // Checked before a slot is taken, so that later requests wait in the order of their arrival.
        if let Err(wait) = self.limits.turn(Instant::now(), origin.event, origin.branch_in_turn()) {
            return Ok(SendResult::Reply(wait.into()));
        }
        let place = match self.request_slots.enter(Instant::now(), origin.one_of_several()) {
            Ok(place) => place,
            Err(wait) => return waits(wait),
        };
        let _slot = place.turn().await;
        let pass = match self.gate.enter(ALL_BRANCHES) {
            Ok(pass) => pass,
            Err(not_now) => return waits(not_now.pause(TRIALS_UNDER_WAY)),
        };
        if let Err(wait) = self.limits.take(Instant::now(), origin.event, origin.branch_in_turn()) {
            return Ok(SendResult::Reply(wait.into()));
        }
        if permission::begin().is_err() {
            return waits(TRIALS_UNDER_WAY);
        }
        let asked = Instant::now();
        let sent = self.send_with_token(origin, &request, scope).await;
        let (outcome, sent) = match sent {
            Ok(answer) => (self.outcome(origin, answer.status), SendResult::Answer(answer)),
            // The request was not made.
            Err(RequestFailure::Unfilled(unfilled)) => return Err(unfilled),
            Err(RequestFailure::Misconfigured(error)) => {
                let outcome = RequestOutcome::Misconfigured(error.message);
                (outcome, SendResult::Reply(Reply::Wait(self.reset)))
            }
            Err(RequestFailure::Reply(reply)) => {
                // Where a token was asked for too often, so will the next one be.
                if let Reply::Temporary {
                    error,
                    after: Some(after),
                } = &reply
                    && error.code == TOO_OFTEN
                {
                    self.limits.pause(Instant::now(), *after);
                }
                (self.no_answer(origin, &reply), SendResult::Reply(reply))
            }
        };
        // After a handover a failure is not counted: the next instance makes its own observations.
        let is_abandoned = permission::is_over() && !matches!(outcome, RequestOutcome::Success);
        let abandoned = is_abandoned.then_some(RequestOutcome::Abandoned);
        pass.record(abandoned.unwrap_or(outcome));
        let label = sent.label();
        metrics::histogram!("provider_request_duration_seconds", "provider" => Arc::clone(&self.name))
            .record(asked.elapsed());
        metrics::counter!("provider_requests_total", "provider" => Arc::clone(&self.name), "outcome" => label)
            .increment(1);
        Ok(sent)
    }

    /// A token that the provider refuses is replaced once, unless the one before could not help this branch either. What was signed with
    /// a time that is not the provider's is signed once more.
    async fn send_with_token(
        &self,
        origin: &Caller,
        request: &Request<'_>,
        scope: &mut Scope,
    ) -> Result<Answer, RequestFailure> {
        let is_token = matches!(
            self.spec.auth,
            Auth::Oauth2 { .. } | Auth::Login { .. } | Auth::Jwt { .. }
        );
        let auth = &self.spec.auth;
        let base = origin
            .base
            .as_ref()
            .map_err(|why| RequestFailure::Misconfigured(why.clone()))?;
        let is_signed = matches!(auth, Auth::Jwt { .. } | Auth::SignedBody { .. });
        let ahead = self.tokens.clock.ahead();
        let token = self.tokens.get(&self.http, base, auth, None).await?;
        let answer = self.send_once((origin, base), request, scope, &token).await?;
        let now = Instant::now();
        if answer.status != 401 {
            return Ok(answer);
        }
        let had_wrong_time = is_signed && self.tokens.clock.refused(&self.name, ahead, answer.clock_ahead);
        let may_help = is_token && self.refusals().may_ask_for_another(now, origin.refused());
        if !had_wrong_time && !may_help {
            return Ok(answer);
        }
        let token = self.tokens.get(&self.http, base, auth, Some(token.number)).await?;
        self.limits.took_another(now);
        self.send_once((origin, base), request, scope, &token).await
    }

    async fn send_once(
        &self,
        (origin, base): (&Caller, &str),
        request: &Request<'_>,
        scope: &mut Scope,
        token: &Token,
    ) -> Result<Answer, RequestFailure> {
        let text = token.text.expose_secret();
        let url = match &request.url {
            RequestTarget::Path(path) | RequestTarget::PathAnd(path, _) => {
                if path.uses(ACCESS_TOKEN) {
                    scope.0.insert(ACCESS_TOKEN.into(), text.into());
                }
                let path = path.fill_path(scope);
                scope.0.remove(ACCESS_TOKEN);
                let mut url = format!("{base}{}", path.map_err(RequestFailure::Unfilled)?);
                if let RequestTarget::PathAnd(_, parameter) = &request.url {
                    url.push(if url.contains('?') { '&' } else { '?' });
                    url.push_str(parameter);
                }
                url
            }
            RequestTarget::Whole(url) => url.to_string(),
        };
        let body = self.body(&url, request);
        let mut asked = http::Request::new(request.method.clone(), Target::parse(&url));
        for (name, value) in &self.spec.headers {
            let value = value.fill(scope).map_err(RequestFailure::Unfilled)?;
            // A value that is not allowed in a header is a fault of the row that it comes from.
            let no_value = |_| RequestFailure::Unfilled(Unfilled::NoValue(name.to_string()));
            let value = HeaderValue::from_str(&value).map_err(no_value)?;
            asked = asked.header(name.clone(), value);
        }
        let shown = match &self.spec.auth {
            Auth::Header { .. } => self.tokens.secret(),
            _ => text,
        };
        if let Some((name, prefix)) = self.spec.auth.header()
            && let Ok(name) = name.parse::<HeaderName>()
            && let Ok(mut secret) = HeaderValue::from_str(&format!("{prefix}{shown}"))
        {
            secret.set_sensitive(true);
            asked = asked.header(name, secret);
        }
        if let Some(name) = &self.spec.idempotency_header {
            let no_value = |_| RequestFailure::Unfilled(Unfilled::NoValue(name.to_string()));
            asked = asked.header(name.clone(), HeaderValue::from_str(&origin.key).map_err(no_value)?);
        }
        if let Some(body) = body {
            asked = asked
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .body(body);
        }
        let answer = ask(&self.http, asked, request.max_bytes).await?;
        self.tokens.clock.told(answer.clock_ahead);
        Ok(match &self.spec.answer {
            Some(table) => Answer {
                status: table.status(answer.status, &answer.body),
                ..answer
            },
            None => answer,
        })
    }

    /// The body of a request, signed where that is how the hub shows who it is.
    fn body(&self, url: &str, request: &Request<'_>) -> Option<String> {
        let Auth::SignedBody { .. } = &self.spec.auth else {
            return request.body.as_ref().map(Value::to_string);
        };
        let body = request.body.clone().unwrap_or_default();
        let signed = signed_body::sign(
            url,
            body,
            &self.spec.auth,
            self.tokens.client(),
            self.tokens.clock.now(),
        );
        Some(signed.to_string())
    }
}

/// The result of sending: an answer that is still to be classified, or none.
enum SendResult {
    Answer(Answer),
    Reply(Reply),
}

impl SendResult {
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
