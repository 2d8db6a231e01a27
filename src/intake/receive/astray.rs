//! What is no webhook: by the wrong method, to the wrong path or one that is written otherwise, not by https.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    extract::{ConnectInfo, OriginalUri, Request, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header},
    middleware::Next,
};

use super::answer::refuse;
use crate::intake::{
    Intake,
    audit::NO_PROVIDER,
    body,
    client_ip::{came_by_tls, client_ip},
    refusal::Reason,
    request_id,
};

/// `REQUIRE_HTTPS`: goes on only with what came by TLS.
pub async fn require_https(
    State(intake): State<Arc<Intake>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let settings = &intake.settings;
    let (peer, tls) = (peer.ip(), settings.tls.is_some());
    if came_by_tls(peer, tls, request.headers(), &settings.trusted_proxies) {
        return next.run(request).await;
    }
    let client = client_ip(peer, request.headers(), &settings.trusted_proxies);
    let request_id = request_id::of(request.headers());
    body::discard(request.into_body()).await;
    refuse(NO_PROVIDER, &Reason::HttpsRequired, &request_id, client)
}

/// Any other method on a webhook's path.
pub async fn method_not_allowed(
    State(intake): State<Arc<Intake>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<Body> {
    intake
        .turned_away(&Reason::MethodNotAllowed("POST"), peer, request)
        .await
}

/// Any other method on what can only be read.
pub async fn only_read(headers: HeaderMap) -> Response<Body> {
    Reason::MethodNotAllowed("GET, HEAD").response(&request_id::of(&headers))
}

/// Any other path of the port that is not reachable from outside.
pub async fn not_found_inside(headers: HeaderMap) -> Response<Body> {
    Reason::NotFound.response(&request_id::of(&headers))
}

/// A provider's health where there is no such provider.
pub fn unknown_provider(headers: &HeaderMap) -> Response<Body> {
    Reason::ProviderNotFound.response(&request_id::of(headers))
}

/// Any other path.
pub async fn not_found(
    State(intake): State<Arc<Intake>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<Body> {
    intake.turned_away(&Reason::NotFound, peer, request).await
}

/// Takes a path with doubled or trailing slashes for the same without: before a route is looked for. Whoever needs the path
/// as it was sent, because it is signed, finds it in [`OriginalUri`].
///
/// # Errors
/// 400 without a body, and the end of the connection, for a request that does not name one host: proxies and servers choose
/// between several, or make up one that is missing, each in its own way.
pub async fn same_path(mut request: Request) -> Result<Request, Response<Body>> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    if hosts.next().is_none() || hosts.next().is_some() {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        return Err(response);
    }
    if let Some(uri) = without_more_slashes(request.uri()) {
        let sent = request.uri().clone();
        request.extensions_mut().get_or_insert_with(|| OriginalUri(sent));
        *request.uri_mut() = uri;
    }
    Ok(request)
}

/// None where the path has none.
fn without_more_slashes(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let has_more = path.contains("//") || path.len() > 1 && path.ends_with('/');
    if !has_more {
        return None;
    }
    let mut same: String = path
        .split('/')
        .filter(|part| !part.is_empty())
        .fold(String::new(), |path, part| path + "/" + part);
    if same.is_empty() {
        same.push('/');
    }
    if let Some(query) = uri.query() {
        same = same + "?" + query;
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(same.parse().ok()?);
    Uri::from_parts(parts).ok()
}

impl Intake {
    async fn turned_away(&self, reason: &Reason, peer: SocketAddr, request: Request) -> Response<Body> {
        let request_id = request_id::of(request.headers());
        let client = client_ip(peer.ip(), request.headers(), &self.settings.trusted_proxies);
        body::discard(request.into_body()).await;
        refuse(NO_PROVIDER, reason, &request_id, client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_slashes_make_no_other_path() {
        for (sent, same) in [
            ("/health/", "/health"),
            ("//", "/"),
            ("//api///webhooks//careem/?a=//b/", "/api/webhooks/careem?a=//b/"),
            ("/api/webhooks/careem%2F%2F/", "/api/webhooks/careem%2F%2F"),
        ] {
            let found = without_more_slashes(&sent.parse().unwrap()).unwrap();
            assert_eq!(found.to_string(), same, "{sent}");
        }
        for same in ["/", "/health", "/health?a=/b//"] {
            assert!(without_more_slashes(&same.parse().unwrap()).is_none(), "{same}");
        }
    }
}
