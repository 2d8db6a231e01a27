//! Attacks from the internet against the real binary, mostly byte by byte over TCP. After each attack the hub accepts a valid
//! order, nothing of the attack is on the log, and the answer has the code of the contract.
//!
//! The checks of a webhook, in their order, with the test of each refusal and of the most similar request that is accepted;
//! those without a link are in files of other names:
//!
//! | check | refused | let in |
//! |---|---|---|
//! | by https, where required: 403 `HTTPS_REQUIRED` | `tls::only_https_is_let_in…` | the same |
//! | provider known and enabled: 404 `PROVIDER_NOT_FOUND` | [`strangers::tricks_in_the_path`], `refusals::other_ways_to_call` | the same |
//! | address on the list: 403 `IP_NOT_ALLOWED` | [`strangers::forged_addresses`], `refusals::addresses_that_are_not_on_the_list` | the same |
//! | address and provider not blocked, within the limit: 429 `RATE_LIMITED` | `limits::one_instance_keeps_its_limit`, `limits::a_block_is_seen_and_lifted` | the same |
//! | body within its size: 413 `PAYLOAD_TOO_LARGE` | [`bodies::a_body_that_is_too_large_is_refused`], [`bodies::long::decompression_bombs_are_refused`], `refusals::bodies_that_are_too_large` | the same |
//! | body within its time: 408 `REQUEST_TIMEOUT` | [`bodies::a_body_that_is_too_slow_is_refused`] | the same |
//! | body readable: 400 `INVALID_PAYLOAD` | [`bodies::a_body_that_cannot_be_decompressed_is_refused`] | the same |
//! | room for it: 503 `OVERLOADED` | [`bodies::bodies_beyond_the_memory_budget_are_refused`] | the same |
//! | signature: 401 `INVALID_SIGNATURE` | [`strangers::signatures_of_something_else`], `refusals::signatures_that_do_not_fit` | the same |
//! | signed lately: 401 `SIGNATURE_EXPIRED` | `schemes::refusals_have_the_right_code`, `sdks::` | the same |
//! | bearer token, API key: 401 `INVALID_TOKEN` | `schemes::refusals_have_the_right_code`, `sdks::` | the same |
//! | a branch's secret can be looked up: 503 `SECRETS_UNAVAILABLE` | `rotation::branch_secrets_without_postgres` | the same |
//! | a JSON object with an order id: 400 `INVALID_PAYLOAD` | [`bodies::a_body_that_is_nested_too_deeply_is_refused`], `refusals::payloads_that_are_no_order` | the same |
//! | appended in time: 503 `EVENT_LOG_UNAVAILABLE` | `log_down::` | the same |
//!
//! Malformed HTTP ([`requests::lengths_that_hide_something`], [`requests::heads_that_are_too_large`]) is answered by the HTTP layer, with a status and no body.

use std::sync::atomic::{AtomicUsize, Ordering};

use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    careem::{MERCHANT, SECRET, order, sign},
    hub::Hub,
    raw::{Raw, request},
};

mod requests;
mod bodies;
mod strangers;
mod long;

/// Where webhooks go.
const PATH: &str = "/api/webhooks/careem";

/// A hub under attack.
struct Siege {
    world: World,
    hub: Hub,
    /// Orders that were let in.
    good: AtomicUsize,
}

impl Siege {
    /// With these settings beside the usual ones.
    async fn with(settings: &[(&str, &str)]) -> Self {
        let world = World::new().await;
        let settings = settings
            .iter()
            .fold(world.settings(), |settings, (name, value)| settings.set(name, value));
        let hub = Hub::start(&settings).await;
        Self {
            world,
            hub,
            good: AtomicUsize::new(0),
        }
    }

    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// An id of the next good order, which is about to be let in.
    fn next(&self) -> String {
        format!("CR-good-{}", self.good.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes a good order on a new connection, and has nothing else on its log.
    async fn stands(&self, after: &str) {
        let mut client = Raw::connect(self.hub.address()).await;
        client.write(good(&self.next())).await;
        let answer = client.answer().await;
        assert!(
            answer.as_ref().is_some_and(|answer| answer.status == 200),
            "after {after}: {answer:?}"
        );
        let events = self.world.log.events().await;
        let received = events
            .iter()
            .filter(|event| event.envelope.event_type == EventType::WebhookReceived);
        let ids: Vec<_> = received
            .map(|event| event.envelope.external_order_id.as_str())
            .collect();
        assert_eq!(ids.len(), self.good.load(Ordering::Relaxed), "after {after}: {ids:?}");
        assert!(
            ids.iter().all(|id| id.starts_with("CR-good-")),
            "after {after}: {ids:?}"
        );
    }

    /// Sends these bytes on a new connection; the status of the answer, 0 where the connection ends without, and its code.
    async fn told(&self, bytes: impl AsRef<[u8]>) -> (u16, String) {
        let mut client = Raw::connect(self.hub.address()).await;
        client.write(bytes).await;
        let answer = client.answer().await;
        answer.map_or((0, String::new()), |answer| (answer.status, answer.code()))
    }

    /// All that was let in became of it what becomes of an order.
    async fn ends(self) {
        let good = self.good.load(Ordering::Relaxed);
        self.world.at_end(Ends::forwarded(good)).await;
    }
}

/// Headers of a signed body.
fn signed(body: &str) -> Vec<String> {
    vec![
        format!("x-careem-signature: {}", sign(SECRET, body.as_bytes())),
        format!("x-merchant-id: {MERCHANT}"),
    ]
}

/// A request with a signed order, to this path and with these headers.
fn order_to(path: &str, headers: &[&str], id: &str) -> String {
    let body = order(id);
    let signed = signed(&body);
    let all: Vec<&str> = headers
        .iter()
        .copied()
        .chain(signed.iter().map(String::as_str))
        .collect();
    request("POST", path, &all, &body)
}

/// The same, as a provider sends it.
fn good(id: &str) -> String {
    order_to(PATH, &[], id)
}
