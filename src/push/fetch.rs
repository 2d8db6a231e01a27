//! Fetches an order that a webhook only refers to.

use bytes::Bytes;
use chrono::Utc;
use percent_encoding::percent_decode_str;
use serde::de::IgnoredAny;
use serde_json::Value;
use url::Url;

use super::{EXTERNAL_ID, Push};
use crate::{
    event::{
        EventType, NewEvent, Recorded,
        outcome::{ErrorReport, ErrorType, OUTCOME},
    },
    json::structure,
    provider::outbound::{
        FetchPlace, Href,
        origins::{NotAllowed, Origins},
    },
    remote::{MAX_DOCUMENT_BYTES, Remote, Reply, RequestTarget},
    retry::Failure,
    text::segment,
};

impl Push {
    pub(super) async fn fetch(
        &self,
        remote: &Remote,
        event: &Recorded,
        request: u32,
    ) -> Result<Vec<NewEvent>, Failure> {
        let Some(fetch) = &remote.spec.fetch else {
            return self.refused(
                event,
                request,
                "FETCH_NOT_KNOWN",
                "the provider's file does not say how orders are fetched",
            );
        };
        if !fetch.webhooks.contains(&event.envelope.webhook_type) {
            return Ok(vec![fetched(event, event.payload.clone())]);
        }
        // For a webhook that a branch's secret proved, the document is fetched as that branch, within its limits.
        let principal = event.envelope.principal.branch();
        let branch = event.envelope.branch.as_deref().or(principal.map(|own| &**own));
        let mut subject = self.subject(remote, event, branch).await?;
        let place = match &fetch.place {
            FetchPlace::Path(path) => RequestTarget::Path(path),
            FetchPlace::Href(href) => {
                match url(&event.payload, href, &remote.origins, &event.envelope.external_order_id) {
                    Ok(url) => RequestTarget::Whole(url),
                    Err(why) => {
                        let message = format!("the URL of the order in the webhook {why}");
                        let error = ErrorReport::new(ErrorType::Validation, "FETCH_HREF_REFUSED", message);
                        return Ok(self.given_up(event, request - 1, error));
                    }
                }
            }
        };
        let read = remote.read(&subject.origin, place, &mut subject.scope, MAX_DOCUMENT_BYTES);
        match read.await {
            Err(unfilled) => self.unfilled(remote, event, request, &subject, &unfilled).await,
            Ok(Reply::Done { body, .. }) => match unfit(&body) {
                None => Ok(vec![fetched(event, body.into())]),
                // A maintenance page or a truncated document: a later attempt may succeed.
                Some(error) if !is_json(&body) => self.failed(event, request, error, None, u32::MAX),
                Some(error) => Ok(self.given_up(event, request, error)),
            },
            Ok(reply) => self.not_done(event, request, reply),
        }
    }
}

/// Why a document cannot be an order: it must be what a webhook's body must be, or two readers could make two orders of it.
fn unfit(document: &[u8]) -> Option<ErrorReport> {
    let why = structure::check(document).err()?;
    let message = format!("the order that the provider gave cannot be read: {why}");
    Some(ErrorReport::new(
        ErrorType::Validation,
        "PROVIDER_DOCUMENT_INVALID",
        message,
    ))
}

fn is_json(document: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(document).is_ok()
}

/// The webhook's facts stay with it: the merchant's header may name the order's branch.
fn fetched(event: &Recorded, payload: Bytes) -> NewEvent {
    let mut envelope = event.follow(OUTCOME, EventType::OrderFetched, Utc::now());
    envelope.request.clone_from(&event.envelope.request);
    NewEvent { envelope, payload }
}

/// Why the URL of a webhook is not used. It never quotes the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum FetchRefused {
    #[error("is missing")]
    Missing,
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    #[error("has a path that the provider's file does not know (fetch.paths)")]
    Path,
    #[error("is that of another order")]
    Order,
}

/// Where a webhook says that its order is: only at the provider, and only at the configured paths there, whoever made
/// the hub believe the webhook.
fn url(payload: &[u8], href: &Href, origins: &Origins, order_id: &str) -> Result<Url, FetchRefused> {
    let body: Value = serde_json::from_slice(payload).unwrap_or_default();
    let text = body.pointer(&href.pointer).and_then(Value::as_str);
    let mut url = origins.check_beside(text.ok_or(FetchRefused::Missing)?, &href.hosts)?;
    let path = url.path();
    // The URL parser has resolved plain `..`. Encoded ones remain, and servers may decode them. An empty segment is refused, too:
    // what follows `//` is a host for some servers.
    let segments = path.strip_prefix('/').unwrap_or(path).split('/');
    if segments.map(segment::check).any(|checked| checked.is_err()) {
        return Err(FetchRefused::Path);
    }
    let known = href.paths.iter().find(|known| known.template.has_shape_of(path));
    let known = known.ok_or(FetchRefused::Path)?;
    // Whatever is encoded beyond need, it is the same order.
    let is_another = |part: &str| percent_decode_str(part).decode_utf8_lossy() != order_id;
    if known.template.part(path, EXTERNAL_ID).is_some_and(is_another) {
        return Err(FetchRefused::Order);
    }
    url.set_query(known.query.as_deref());
    Ok(url)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_held_to_the_limits_of_bodies() {
        assert_eq!(unfit(br#"{"id": "1", "items": [{"id": 2}]}"#), None);
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(64), "]".repeat(64));
        for (document, why) in [
            (r#"{"total": 1, "total": 2}"#, "the same key twice, at /total"),
            (&deep, "nested deeper than 64"),
            ("[]", "expected a JSON object"),
            ("<html>", "expected a JSON object"),
            ("", "empty"),
        ] {
            let error = unfit(document.as_bytes()).unwrap();
            assert_eq!(error.code, "PROVIDER_DOCUMENT_INVALID");
            assert!(error.message.contains(why), "{}", error.message);
        }
    }

    #[test]
    fn only_the_order_at_the_provider_is_fetched() {
        let origins = Origins::default().with(&"https://api.uber.example".parse().unwrap());
        let paths = [
            "/{version}/eats/order/{external_id}",
            "/orders/{any}",
            "/v1/delivery/order/{external_id}?expand=carts,payment",
        ];
        let place = Href {
            pointer: "/resource_href".into(),
            hosts: vec!["orders.uber.example".into()],
            paths: serde_json::from_value(json!(paths)).unwrap(),
        };
        let read = |href: &str| {
            let body = json!({ "resource_href": href }).to_string();
            url(body.as_bytes(), &place, &origins, "o 1").map(|url| url.to_string())
        };
        for good in [
            "https://api.uber.example/v1/eats/order/o%201",
            "https://orders.uber.example/v2/eats/order/%6f%201",
            "https://api.uber.example/orders/7",
        ] {
            assert_eq!(read(good).as_deref(), Ok(good));
        }
        let whole = "https://api.uber.example/v1/delivery/order/o%201";
        assert_eq!(read(whole), Ok(format!("{whole}?expand=carts,payment")));
        for (bad, why) in [
            (
                "http://api.uber.example/v1/eats/order/o%201",
                NotAllowed::NotHttps.into(),
            ),
            (
                "https://api.uber.example/v1/eats/order/o%201?x=y",
                NotAllowed::Query.into(),
            ),
            ("https://169.254.169.254/v1/eats/order/o%201", NotAllowed::Host.into()),
            ("/v1/eats/order/o%201", NotAllowed::NoUrl.into()),
            ("https://api.uber.example/v1/eats/order/o2", FetchRefused::Order),
            ("https://api.uber.example/v1/eats/order/o+1", FetchRefused::Order),
            ("https://api.uber.example/v1/eats/stores", FetchRefused::Path),
            ("https://api.uber.example/v1/eats/order/../admin", FetchRefused::Path),
            (
                "https://api.uber.example/v1/eats/order/o%201/refund",
                FetchRefused::Path,
            ),
            ("https://api.uber.example/v1//eats/order/o%201", FetchRefused::Path),
            ("https://api.uber.example//evil/eats/order/o%201", FetchRefused::Path),
            ("https://api.uber.example///v1/eats/order/o%201", FetchRefused::Path),
            ("https://api.uber.example/\\evil/eats/order/o%201", FetchRefused::Path),
            ("https://api.uber.example/v1/eats/order/o%201/", FetchRefused::Path),
            ("https://api.uber.example/orders/%2e%2e%2fadmin", FetchRefused::Path),
            ("https://api.uber.example/orders/a%2fb", FetchRefused::Path),
            ("https://api.uber.example/", FetchRefused::Path),
        ] {
            assert_eq!(read(bad), Err(why), "{bad}");
        }
        assert_eq!(url(b"{}", &place, &origins, "o 1"), Err(FetchRefused::Missing));
    }
}
