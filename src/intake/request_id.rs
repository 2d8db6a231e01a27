//! `X-Request-Id`: the one sent, where it is fit to be shown everywhere, else one of ours.

use axum::http::HeaderMap;
use uuid::Uuid;

/// Header name.
pub(crate) const HEADER: &str = "x-request-id";
/// Longest that is taken over.
const MAX_CHARS: usize = 128;

/// The id of a request.
pub(crate) fn of(headers: &HeaderMap) -> String {
    let sent = headers.get(HEADER).and_then(|value| value.to_str().ok());
    let fit = |id: &&str| !id.is_empty() && id.len() <= MAX_CHARS && id.bytes().all(|byte| byte.is_ascii_graphic());
    sent.filter(fit)
        .map_or_else(|| format!("req-{}", Uuid::now_v7().simple()), str::to_owned)
}
