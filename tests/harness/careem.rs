//! Careem, played: webhooks signed with its secret, posted as it posts them.

use std::{sync::LazyLock, time::Duration};

use axum::http::HeaderMap;
use hmac::{Hmac, KeyInit, Mac};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use sha2::Sha256;
use webhook_hub::tls::provider;

use super::{hub::Hub, wait::POLL};

/// The secret that hubs know in tests, unless a test says otherwise.
pub(crate) const SECRET: &str = "careem-test-secret";
/// The merchant of the restaurant that every test database knows.
pub(crate) const MERCHANT: &str = "merchant-1";
/// The platform's sample order, as it stands in its design document.
pub(crate) const ORDER: &str = include_str!("../fixtures/careem.order.json");
/// The id of that order.
pub(crate) const ORDER_ID: &str = "CR123456789";
/// Longest that a single answer may take; the hub gives itself 5 s for the log.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// The sample order under another id.
pub(crate) fn order(id: &str) -> String {
    ORDER.replace(ORDER_ID, id)
}

/// News about an order.
pub(crate) fn change(id: &str, status: &str) -> String {
    json!({ "id": id, "status": status, "updated_at": "2025-10-01T12:30:00Z" }).to_string()
}

/// The signature of a body, as Careem makes it.
pub(crate) fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// What the hub answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The event's id, of a webhook that was accepted.
    pub(crate) fn event_id(&self) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["data"]["eventId"].as_str().unwrap().to_owned()
    }
}

/// The provider.
#[derive(Clone)]
pub(crate) struct Careem {
    http: reqwest::Client,
}

impl Careem {
    pub(crate) fn new() -> Self {
        Self { http: http() }
    }

    /// Posts a body, signed, of our merchant.
    pub(crate) async fn post(&self, hub: &Hub, body: &str) -> Answer {
        self.try_post(&hub.url(), body).await.expect("the hub answers")
    }

    /// Posts a body with exactly these headers.
    pub(crate) async fn post_raw(&self, hub: &Hub, body: impl Into<Vec<u8>>, headers: &[(&str, &str)]) -> Answer {
        let request = self.http.post(webhook_url(&hub.url())).body(body.into());
        let request = headers
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value));
        answer(request).await.expect("the hub answers")
    }

    /// Any request.
    pub(crate) async fn request(&self, method: reqwest::Method, url: &str) -> Answer {
        answer(self.http.request(method, url)).await.expect("the hub answers")
    }

    /// Posts until it is accepted, as a provider does; returns the event's id.
    pub(crate) async fn deliver(&self, hub: &str, body: &str) -> String {
        self.deliver_to_any(&[hub.to_owned()], 0, body).await
    }

    /// Posts until one of these hubs accepts it: to the one after, where one does not; returns the event's id.
    pub(crate) async fn deliver_to_any(&self, hubs: &[String], first: usize, body: &str) -> String {
        let mut again = tokio::time::interval(POLL);
        let mut hub = first;
        loop {
            again.tick().await;
            match self.try_post(&hubs[hub % hubs.len()], body).await {
                Ok(answer) if answer.status == 200 => return answer.event_id(),
                Ok(answer) => assert!(answer.status >= 500, "our own faults are 5xx: {answer:?}"),
                // Refused or cut: the hub is away.
                Err(_) => {}
            }
            hub += 1;
        }
    }

    /// Posts a body, signed, of our merchant, to the hub at this URL.
    pub(crate) async fn try_post(&self, hub: &str, body: &str) -> reqwest::Result<Answer> {
        let request = self.http.post(webhook_url(hub)).body(body.to_owned());
        let request = request
            .header("content-type", "application/json")
            .header("x-merchant-id", MERCHANT);
        answer(request.header("x-careem-signature", sign(SECRET, body.as_bytes()))).await
    }
}

/// TLS that trusts nothing. With the default each client reads all authorities of the machine.
static NO_AUTHORITIES: LazyLock<ClientConfig> = LazyLock::new(|| {
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(RootCertStore::empty());
    builder.with_no_client_auth()
});

/// What a hub is spoken to with, over plain HTTP.
pub(crate) fn http() -> reqwest::Client {
    let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT);
    http.tls_backend_preconfigured(NO_AUTHORITIES.clone()).build().unwrap()
}

fn webhook_url(hub: &str) -> String {
    format!("{hub}/api/webhooks/careem")
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Answer {
        status,
        headers,
        text: response.text().await?,
    })
}
