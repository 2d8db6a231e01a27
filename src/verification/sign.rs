//! The inverse of verifying: how `send`, `dev` and tests sign their requests.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::{
    content::Part,
    digest::Encoding,
    json,
    keys::Keys,
    location::{Source, ValueLocation},
    prove::filled,
    request::Unverified,
    scheme::{Scheme, Signed},
};

/// A request that is to be sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The method.
    pub method: Method,
    /// Where to, as the receiver knows itself: with scheme and host.
    pub url: String,
    /// Its headers so far.
    pub headers: HeaderMap,
    /// Its body so far.
    pub body: Vec<u8>,
}

/// Why a request cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotSign {
    /// There is no usable secret of this name.
    #[error("there is no usable secret {0}")]
    NoSecret(String),
    /// The request lacks something that is signed.
    #[error("the request lacks something that the scheme signs: {0}")]
    Incomplete(String),
    /// Only the provider has the key that signs; this is the one that verifies.
    #[error("only the provider can make such a token")]
    ForeignKey,
}

impl Outgoing {
    /// A webhook that is posted.
    pub fn post(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        Self {
            method: Method::POST,
            url: url.into(),
            headers,
            body: body.into(),
        }
    }

    /// Puts a text where a scheme looks for it.
    fn put(
        &mut self,
        location: &ValueLocation,
        value: &str,
        pairs_before: &[(String, String)],
    ) -> Result<(), CannotSign> {
        let text = location.write(value, pairs_before);
        match &location.source {
            Source::Header(name) => self.put_header(name, &text),
            Source::Pointer(pointer) => {
                let lacks = || CannotSign::Incomplete(format!("a JSON object to put {pointer} into"));
                self.body = json::put(&self.body, pointer, &text).map_err(|_| lacks())?;
                Ok(())
            }
        }
    }

    fn put_header(&mut self, name: &HeaderName, text: &str) -> Result<(), CannotSign> {
        let value = HeaderValue::from_str(text);
        let value = value.map_err(|_| CannotSign::Incomplete(format!("a text that header {name} can hold")))?;
        self.headers.insert(name.clone(), value);
        Ok(())
    }
}

/// Adds to a request what its scheme asks for, by the newest secrets. Of `any_of` the first step that can be signed.
///
/// # Errors
/// If a secret or a part of the request is missing.
pub fn sign(scheme: &Scheme, keys: &Keys, mut request: Outgoing, now: DateTime<Utc>) -> Result<Outgoing, CannotSign> {
    let newest = |name: &str| {
        let secret = keys.of(name).first();
        secret.map(|secret| secret.value.expose_secret().to_owned())
    };
    let required = |name: &str| newest(name).ok_or_else(|| CannotSign::NoSecret(name.to_owned()));
    match scheme {
        Scheme::None => {}
        Scheme::Static(one) => request.put(&one.token, &required(&one.secret)?, &[])?,
        Scheme::Basic(one) => {
            let text = Encoding::Base64.encode(required(&one.secret)?.as_bytes());
            request.put(&ValueLocation::basic(), &text, &[])?;
        }
        Scheme::Jwt(one) => {
            let token = one.make(&required(&one.secret)?, now).ok_or(CannotSign::ForeignKey)?;
            request.put(&one.token, &token, &[])?;
        }
        Scheme::Hmac(one) => {
            one.sign(&mut request, &required(&one.secret)?, now, |key, pieces| {
                one.algorithm.mac(key, pieces)
            })?;
        }
        Scheme::HashConcat(one) => {
            one.sign(&mut request, &required(&one.secret)?, now, |_, pieces| {
                one.algorithm.hash(pieces)
            })?;
        }
        Scheme::AnyOf(steps) => {
            let mut reason = CannotSign::Incomplete("a step".into());
            for step in steps {
                match sign(step, keys, request.clone(), now) {
                    Ok(signed) => return Ok(signed),
                    Err(error) => reason = error,
                }
            }
            return Err(reason);
        }
        Scheme::AllOf(steps) => {
            // Steps that write into the body come before those that sign it.
            let (first, then): (Vec<_>, Vec<_>) = steps.iter().partition(|step| step.writes_body());
            for step in first.into_iter().chain(then) {
                request = sign(step, keys, request, now)?;
            }
        }
    }
    Ok(request)
}

impl Signed {
    fn sign(
        &self,
        request: &mut Outgoing,
        secret: &str,
        now: DateTime<Utc>,
        digest: impl Fn(&[u8], &[std::borrow::Cow<'_, [u8]>]) -> Vec<u8>,
    ) -> Result<(), CannotSign> {
        let key = self.secret_encoding.key(secret, &self.secret_prefix);
        let key = key.ok_or_else(|| CannotSign::NoSecret(self.secret.clone()))?;
        let time = self.timestamp.as_ref().map(|time| (time, time.write(now)));
        if let Some((time, text)) = &time
            && let Some(header) = time.own_header()
        {
            request.put_header(header, text)?;
        }
        self.make_up_ids(request)?;
        for pointer in &self.single {
            if !json::count(&request.body, pointer).is_ok_and(|count| count == 1) {
                return Err(CannotSign::Incomplete(format!("exactly one element in {pointer}")));
            }
        }
        if let Some(hash) = &self.body_hash {
            let hashed = hash.encoding.encode(&hash.algorithm.hash(&[&request.body]));
            let sign = if request.url.contains('?') { '&' } else { '?' };
            request.url += &format!("{sign}{}={hashed}", hash.query);
        }
        let signature = {
            let lacks = || CannotSign::Incomplete("a part that is signed".into());
            let (base, uri) = split(&request.url)?;
            let of = Unverified::new(&request.method, Some(base), &uri, &request.headers, &request.body);
            let text = time.as_ref().map(|(_, text)| text.as_str());
            let pieces = self
                .signed
                .pieces(&of, text, &self.signature.source, &self.fields)
                .ok_or_else(lacks)?;
            self.encoding.encode(&digest(&key, &filled(&pieces, &key)))
        };
        let beside = time.as_ref().and_then(|(time, text)| {
            let name = time.pair_in(&self.signature)?;
            Some((name.to_owned(), text.clone()))
        });
        request.put(&self.signature, &signature, beside.as_slice())
    }

    /// Headers that are signed and missing get a UUID: what such headers hold is the id of the message.
    fn make_up_ids(&self, request: &mut Outgoing) -> Result<(), CannotSign> {
        for part in &self.signed.0 {
            if let Part::Header(name) = part
                && !request.headers.contains_key(name)
            {
                request.put_header(name, &Uuid::new_v4().to_string())?;
            }
        }
        Ok(())
    }
}

/// `https://host` and the rest.
fn split(url: &str) -> Result<(&str, Uri), CannotSign> {
    let wrong = || CannotSign::Incomplete("a URL with scheme and host".into());
    let host = url.find("://").map(|at| at + 3).ok_or_else(wrong)?;
    let path = url[host..].find('/').map_or(url.len(), |at| host + at);
    let (base, path) = url.split_at(path);
    let path = if path.is_empty() { "/" } else { path };
    Ok((base, path.parse().map_err(|_| wrong())?))
}
