//! An order that a webhook only points at.

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::Utc;
use reqwest::Url;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{
    Push,
    outbound::FetchPlace,
    remote::{MAX_DOCUMENT_BYTES, Place, Remote, Reply},
};
use crate::{
    event::{
        EventType, NewEvent, Recorded,
        outcome::{ErrorReport, ErrorType, OUTCOME},
    },
    intake::structure,
    journal::settle::Failure,
    provider::Refusal,
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
        let mut subject = self.subject(remote, event, event.envelope.branch.as_deref()).await?;
        let place = match &fetch.place {
            FetchPlace::Path(path) => Place::Path(path),
            FetchPlace::Href(pointer, hosts) => match href(&event.payload, pointer, &subject.origin.base, hosts) {
                Ok(url) => Place::Whole(url),
                Err(message) => {
                    let error = ErrorReport::new(ErrorType::Validation, "FETCH_HREF_REFUSED", message);
                    return Ok(self.given_up(event, request - 1, error));
                }
            },
        };
        let read = remote.read(&subject.origin, place, &mut subject.scope, MAX_DOCUMENT_BYTES);
        match read.await {
            Err(missing) => self.missing(remote, event, request, &subject, &missing).await,
            Ok(Reply::Done { body, .. }) => match unfit(&body) {
                None => Ok(vec![fetched(event, body.into())]),
                // A page that says that the provider is being mended, or a document that was cut: it may be whole next time.
                Some(error) if !is_json(&body) => self.failed(event, request, error, None, u32::MAX),
                Some(error) => Ok(self.given_up(event, request, error)),
            },
            Ok(reply) => self.not_done(event, request, reply),
        }
    }
}

/// Why a document cannot be an order: it must be what a webhook's body must be, or two readers could make two orders of it.
fn unfit(document: &[u8]) -> Option<ErrorReport> {
    let Refusal::InvalidPayload(why) = structure::check(document).err()?;
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

/// The webhook's facts stay with it: the merchant's header may say whose order it is.
fn fetched(event: &Recorded, payload: Bytes) -> NewEvent {
    let mut envelope = event.follow(OUTCOME, EventType::OrderFetched, Utc::now());
    envelope.request.clone_from(&event.envelope.request);
    NewEvent { envelope, payload }
}

/// Where a webhook says that its order is: never anywhere but at the provider, whoever made the hub believe the webhook.
fn href(payload: &[u8], pointer: &str, base: &str, hosts: &BTreeSet<String>) -> Result<Url, &'static str> {
    let body: Value = serde_json::from_slice(payload).map_err(|_| "the webhook is not JSON")?;
    let text = body.pointer(pointer).and_then(Value::as_str);
    let url: Url = text
        .and_then(|text| text.parse().ok())
        .ok_or("the webhook names no URL where one was expected")?;
    let base: Url = base.parse().map_err(|_| "the provider's base URL is no URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL in the webhook holds credentials");
    }
    let is_of_base = url.origin() == base.origin();
    let is_listed =
        url.scheme() == "https" && url.port().is_none() && url.host_str().is_some_and(|host| hosts.contains(host));
    if is_of_base || is_listed {
        Ok(url)
    } else {
        Err("the URL in the webhook is not on the provider's host")
    }
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
    fn only_the_providers_host_is_asked() {
        let hosts = BTreeSet::from(["orders.uber.example".to_owned()]);
        let read = |url: &str| {
            let body = json!({ "resource_href": url }).to_string();
            href(body.as_bytes(), "/resource_href", "https://api.uber.example/v2", &hosts).map(|url| url.to_string())
        };
        for good in ["https://api.uber.example/v1/o/1?x=y", "https://orders.uber.example/o/1"] {
            assert_eq!(read(good).as_deref(), Ok(good));
        }
        for bad in [
            "http://api.uber.example/o/1",
            "https://api.uber.example:8443/o/1",
            "https://api.uber.example.evil.example/o/1",
            "https://api.uber.example@evil.example/",
            "https://user:word@api.uber.example/o/1",
            "https://169.254.169.254/latest/meta-data",
            "http://orders.uber.example/o/1",
            "https://orders.uber.example:444/o/1",
            "file:///etc/passwd",
            "/o/1",
            "",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(href(b"{}", "/resource_href", "https://x.example", &hosts).is_err());
    }
}
