//! Answers paths and methods without a route, and brings paths into the form in which they are matched.

use axum::{
    body::Body,
    extract::{OriginalUri, Request},
    http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header},
};

use super::{refusal::Reason, request_id};

/// Any method but GET and HEAD on what can only be read.
pub(crate) async fn only_read(headers: HeaderMap) -> Response<Body> {
    Reason::MethodNotAllowed("GET, HEAD").response(&request_id::of(&headers))
}

/// Any other path of the port that is not reachable from outside.
pub(crate) async fn not_found_inside(headers: HeaderMap) -> Response<Body> {
    Reason::NotFound.response(&request_id::of(&headers))
}

/// A provider's health where there is no such provider.
pub(crate) fn unknown_provider(headers: &HeaderMap) -> Response<Body> {
    Reason::ProviderNotFound.response(&request_id::of(headers))
}

/// Bytes of a request's line and headers. The HTTP library takes up to twice as many where they come in one piece.
pub(crate) const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Headers of one request.
pub(super) const MAX_HEADERS: usize = 100;
/// Around a name and its value: colon, space and line end.
const AROUND_HEADER: usize = 4;

/// How large the head of a request is, but for its method and version.
fn head_bytes(request: &Request) -> usize {
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let headers = request.headers().iter();
    path + headers
        .map(|(name, value)| name.as_str().len() + value.len() + AROUND_HEADER)
        .sum::<usize>()
}

/// An answer without a body, and the end of the connection.
fn closing(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

/// Takes a path with doubled or trailing slashes for the same without: before a route is looked for. Whoever needs the path
/// as it was sent, because it is signed, finds it in [`OriginalUri`].
///
/// # Errors
/// 400 without a body, and the end of the connection, for a request that does not name one host: proxies and servers choose
/// between several, or make up one that is missing, each in its own way. The same with 431 for a head that is too large.
pub(crate) async fn same_path(mut request: Request) -> Result<Request, Response<Body>> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    if hosts.next().is_none() || hosts.next().is_some() {
        return Err(closing(StatusCode::BAD_REQUEST));
    }
    if head_bytes(&request) > MAX_HEAD_BYTES {
        return Err(closing(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    if let Some(uri) = without_more_slashes(request.uri()) {
        let sent = request.uri().clone();
        request.extensions_mut().get_or_insert_with(|| OriginalUri(sent));
        *request.uri_mut() = uri;
    }
    Ok(request)
}

/// None if the path has none.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_slashes_make_no_other_path() {
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
