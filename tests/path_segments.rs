//! Order ids in paths: each is one segment as the server sees it, before and after decoding, or is refused where it comes in.

use webhook_hub::{
    event::{Envelope, EventId, EventType},
    journal::codec::{self, Form},
};

use crate::harness::{
    PARTITIONS, SERVICE_TOKEN, World,
    at_end::Ends,
    careem::{change, order},
    hub::Hub,
    log::payload,
    outside::{CAREEM_POS, Outside},
    raw::Raw,
};

/// None of them is one segment of a path for every server.
const REFUSED: [&str; 24] = [
    ".",
    "..",
    "%2e",
    "%2E%2e",
    ".%2e",
    "%252e%252e",
    "../../admin",
    "a/b",
    "/",
    "a\\b",
    "..\\admin",
    "a%2fb",
    "a%5Cb",
    "a%252Fb",
    "a%0d%0ab",
    "a%00",
    "..;",
    "..;x=1",
    "%2e%2e;",
    "..%3b",
    "A-1;x",
    "\u{ff0e}\u{ff0e}",
    "a\u{ff0f}b",
    "%c0%ae%c0%ae",
];
/// These are, once they are encoded.
const TAKEN: [&str; 7] = ["...", "a.b", "50% off", "x?y#z", "%41", "طلب ١", "a:b@c"];

impl World {
    /// Appends what an earlier version would have accepted: the same event, of an order with this id.
    async fn append_as(&self, known: &Envelope, id: &str, payload: String) {
        let mut envelope = known.clone();
        envelope.external_order_id = id.to_owned();
        envelope.id = EventId(uuid::Uuid::new_v4());
        envelope.root_id = envelope.id;
        // Earlier versions recorded no hash of the body.
        if let Some(request) = &mut envelope.request {
            request.body_sha256 = None;
        }
        let subject = codec::subject(&envelope, PARTITIONS);
        let publisher = async_nats::jetstream::new(self.nats.connect("hub").await);
        let headers = codec::headers(&envelope, Form::Headers).unwrap();
        let sent = publisher.publish_with_headers(subject, headers, payload.into()).await;
        sent.unwrap().await.unwrap();
    }
}

fn decoded(text: &str) -> String {
    let pairs = format!("x={}", text.replace('+', "%2B"));
    form_urlencoded::parse(pairs.as_bytes()).next().unwrap().1.into_owned()
}

/// The request line as it is written, without what a client would make of it.
async fn status_of(hub: &Hub, segment: &str) -> (u16, String) {
    let body = r#"{"status":"ready","branchId":"branch-uuid"}"#;
    let mut raw = Raw::connect(hub.address()).await;
    let request = format!(
        "POST /api/integration/orders/careem/{segment}/status HTTP/1.1\r\nhost: hub\r\nx-service-token: {SERVICE_TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    raw.write(request).await;
    let answer = raw.answer().await.expect("an answer");
    (answer.status, answer.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_id_is_one_segment_or_refused() {
    let outside = Outside::new(CAREEM_POS).await;
    let world = &outside.world;
    let hub = outside.hub().await;
    for id in REFUSED {
        for body in [order(id), change(id, "ready")] {
            let answer = world
                .careem
                .post(&hub, &body.replace(id, &id.replace('\\', "\\\\")))
                .await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "INVALID_PAYLOAD"),
                "{id}: {answer:?}"
            );
        }
    }
    for segment in [
        "..",
        ".",
        "%2e%2e",
        "%2E",
        "a%2Fb",
        "a%5cb",
        "%252e%252e",
        "..;",
        "..%3B",
        "A-1%3bx",
        "%EF%BC%8E.",
    ] {
        let (status, code) = status_of(&hub, segment).await;
        assert!(matches!(status, 400 | 404), "{segment}: {status} {code}");
    }
    for id in TAKEN {
        for body in [order(id), change(id, "ready")] {
            let answer = world.careem.post(&hub, &body).await;
            assert_eq!(answer.status, 200, "{id}: {answer:?}");
        }
        outside
            .ask(&hub, &webhook_hub::text::segment::encode(id).unwrap(), "accepted")
            .await;
    }
    world.log.wait_for(EventType::OrderForwarded, 2 * TAKEN.len()).await;
    outside.payloads(EventType::OrderStatusPushed, TAKEN.len()).await;
    let at_backend = world.backend.requests().into_iter().map(|one| one.path);
    let at_provider = outside.provider.calls().into_iter().map(|one| one.path.clone());
    for (paths, before, after) in [
        (at_backend.collect::<Vec<_>>(), "/api/integration/orders/", "/status"),
        (at_provider.collect(), "/orders/", ""),
    ] {
        let ids: Vec<_> = paths
            .iter()
            .filter_map(|path| path.strip_prefix(before)?.strip_suffix(after).map(decoded))
            .collect();
        let mut expected: Vec<_> = TAKEN.iter().map(|id| (*id).to_owned()).collect();
        let mut found = ids;
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{paths:?}");
    }
    what_was_accepted_ends(&outside).await;
    world.at_end(Ends::forwarded(2 * TAKEN.len()).dead_lettered(4)).await;
}

/// What an earlier version accepted ends as a dead letter, at once and for good.
async fn what_was_accepted_ends(outside: &Outside) {
    let world = &outside.world;
    let recorded = world.log.events().await;
    let of = |event_type| {
        let found = recorded.iter().rev().find(|one| one.envelope.event_type == event_type);
        found.unwrap().envelope.clone()
    };
    let requests = world.backend.count();
    let news = of(EventType::WebhookReceived);
    let wanted = of(EventType::OrderStatusRequested);
    for id in ["..", "%2e%2e"] {
        world.append_as(&news, id, change(id, "ready")).await;
        let body = r#"{"status":"ready"}"#.to_owned();
        world.append_as(&wanted, id, body).await;
    }
    let dead = world.log.wait_for(EventType::OrderDeadLettered, 4).await;
    for one in &dead {
        assert_eq!(payload(one)["error"]["code"], "ORDER_ID_NO_PATH_SEGMENT", "{one:?}");
    }
    let mut stages: Vec<_> = dead.iter().map(|one| payload(one)["stage"].clone()).collect();
    stages.sort_by_key(ToString::to_string);
    assert_eq!(
        serde_json::json!(stages),
        serde_json::json!(["forward", "forward", "push", "push"])
    );
    assert_eq!(world.backend.count(), requests, "{:?}", world.backend.requests().last());
    assert_eq!(outside.provider.calls().len(), TAKEN.len());
}
