//! What every provider must pass, whatever its file says: one suite, run for each that is known. What differs is where
//! things are in its webhooks, which stands in [`cases`].

use serde_json::{Value, json};
use webhook_hub::{event::EventType, provider::Catalogue};

use crate::{
    harness::{
        World,
        at_end::Ends,
        backend::Answer as Told,
        careem::Answer,
        hub::Hub,
        log::payload,
        played::Heard,
        provider::{Provider, SECRETS, STRANGE, Webhook},
        wait::{PATIENCE, eventually},
    },
    providers::Schema,
};

mod cases;

use self::cases::{CASES, Case};

const STORE: &str = "store-of-the-suite";

/// Thin: their orders are fetched. What can be said of their webhooks alone is checked in [`thin_webhooks`].
const FETCHED: [Thin; 2] = [
    Thin {
        name: "uber-eats",
        cancel: |id| {
            json!({
                "event_type": "orders.cancel", "event_id": format!("e-{id}"), "event_time": 1_427_343_990,
                "meta": { "resource_id": id, "user_id": STORE }, "resource_href": "https://api.example.com/o",
            })
        },
        status: "orders.cancel",
    },
    Thin {
        name: "wolt",
        cancel: |id| {
            json!({
                "id": format!("e-{id}"), "type": "order.notification", "created_at": "2015-03-26T04:26:30Z",
                "order": { "id": id, "venue_id": STORE, "status": "CANCELED", "resource_url": "https://api.example.com/o" },
            })
        },
        status: "CANCELED",
    },
];

/// A provider with thin webhooks.
struct Thin {
    name: &'static str,
    /// The cancellation of an order.
    cancel: fn(&str) -> Value,
    /// Its word for that.
    status: &'static str,
}

fn set(body: &mut Value, pointer: &str, value: Value) {
    if let Some((outer, inner)) = pointer.split_once('>') {
        let text = body.pointer_mut(outer).unwrap();
        let mut document: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
        set(&mut document, inner, value);
        *text = document.to_string().into();
        return;
    }
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    body.pointer_mut(parent).unwrap()[name] = value;
}

struct Suite<'w> {
    world: &'w World,
    hub: &'w Hub,
    provider: &'w Provider,
    case: &'w Case,
    schema: &'w Schema,
}

impl Suite<'_> {
    fn id(&self, what: &str) -> String {
        format!("{what}-{}", self.case.name)
    }

    fn webhook(&self, body: &str, pointer: &str, id: &Value, changes: &[(&str, Value)]) -> Webhook {
        let mut body: Value = serde_json::from_str(body).unwrap();
        set(&mut body, pointer, id.clone());
        for (pointer, value) in changes {
            set(&mut body, pointer, value.clone());
        }
        // Each amount of HubRise names the currency.
        if self.case.name == "hubrise" {
            body = serde_json::from_str(&body.to_string().replace(" EUR\"", " KWD\"")).unwrap();
        }
        // A message has one id however often it is sent.
        let message = format!("m-{}", webhook_hash(&body.to_string()));
        if let Some(pointer) = self.case.message {
            set(&mut body, pointer, message.as_str().into());
        }
        Webhook::new(body)
            .with("x-merchant-id", STORE)
            .with("webhook-id", &message)
    }

    fn order(&self, id: &str, changes: &[(&str, Value)]) -> Webhook {
        self.webhook(self.case.order, self.case.id, &id.into(), changes)
    }

    async fn accepted(&self, webhook: &Webhook) -> Answer {
        let answer = self.provider.post(self.hub, webhook).await;
        assert_eq!(answer.status, 200, "{}: {answer:?}", self.case.name);
        answer
    }

    /// What the backend got about an order, once it is so many requests.
    async fn forwarded(&self, id: &str, count: usize) -> Vec<Heard> {
        let what = format!("{count} requests about {id} of {}", self.case.name);
        let found = eventually(&what, PATIENCE, async || {
            let all = self.world.backend.requests().into_iter();
            let found: Vec<_> = all.filter(|request| request.external_order_id() == id).collect();
            if found.len() >= count {
                Ok(found)
            } else {
                Err(found.len())
            }
        })
        .await;
        for request in &found {
            self.schema.check(&request.json());
        }
        found
    }

    async fn forwarded_order(&self, id: &str) -> Value {
        self.forwarded(id, 1).await[0].json()["transformedOrder"].take()
    }

    /// Good, tampered with, missing, rotated.
    async fn signatures(&self) {
        let order = self.order(&self.id("good"), &[]);
        self.accepted(&order).await;
        let mut tampered = self.provider.signed(&order, SECRETS[0]);
        tampered.body = String::from_utf8(tampered.body)
            .unwrap()
            .replace("good-", "evil-")
            .into_bytes();
        let expected = if self.case.is_signed { 401 } else { 200 };
        assert_eq!(
            self.provider.send(self.hub, tampered).await.status,
            expected,
            "{}",
            self.case.name
        );
        let strange = self.provider.signed(&order, STRANGE);
        assert_eq!(
            self.provider.send(self.hub, strange).await.status,
            401,
            "{}",
            self.case.name
        );
        let mut missing = self.provider.signed(&order, SECRETS[0]);
        missing.headers.retain_only(&["content-type", "x-merchant-id"]);
        missing.body = order.body.replace("\"sig\":", "\"gis\":").into_bytes();
        assert_eq!(
            self.provider.send(self.hub, missing).await.status,
            401,
            "{}",
            self.case.name
        );
        let rotated = self.provider.signed(&self.order(&self.id("rotated"), &[]), SECRETS[1]);
        assert_eq!(
            self.provider.send(self.hub, rotated).await.status,
            200,
            "{}",
            self.case.name
        );
        self.forwarded_order(&self.id("good")).await;
        self.forwarded_order(&self.id("rotated")).await;
    }

    /// The same twice is one order; the answer is in the provider's format.
    async fn repeats(&self) {
        let id = self.id("twice");
        let order = self.provider.signed(&self.order(&id, &[]), SECRETS[0]);
        for is_repeat in [false, true] {
            let answer = self.provider.send(self.hub, order.clone()).await;
            assert_eq!(answer.status, 200);
            match self.case.answer {
                Some(expected) => assert_eq!(answer.text, expected.replace('$', &id), "{}", self.case.name),
                None => assert_eq!(answer.json()["data"]["duplicate"], is_repeat, "{}", self.case.name),
            }
        }
        self.forwarded_order(&id).await;
    }

    /// A cancellation that comes before its order waits for it.
    async fn cancel_before_create(&self) {
        let id = self.id("early");
        self.world.backend.next_for(&id, [Told::status(404)]);
        let (cancel, pointer) = self.case.cancel;
        self.accepted(&self.webhook(cancel, pointer, &id.as_str().into(), &[]))
            .await;
        self.forwarded(&id, 1).await;
        self.accepted(&self.order(&id, &[])).await;
        let requests = self.forwarded(&id, 3).await;
        let paths: Vec<_> = requests
            .iter()
            .map(|request| request.path.ends_with("/status"))
            .collect();
        assert_eq!(paths, [true, false, true], "{}", self.case.name);
        assert_eq!(requests[0].key(), requests[2].key());
        let change = &requests[2].json()["statusChange"];
        let known = self.case.name != "keeta";
        assert_eq!(change["status"] == "cancelled", known, "{}: {change}", self.case.name);
    }

    /// Known statuses, and an unknown one.
    async fn statuses(&self) {
        let Some((change, id_at, status_at)) = self.case.change else {
            return;
        };
        let id = self.id("status");
        self.accepted(&self.webhook(change, id_at, &id.as_str().into(), &[]))
            .await;
        let known = self.forwarded(&id, 1).await[0].json();
        assert!(known["statusChange"]["canonicalStatus"].is_string(), "{known}");
        assert!(known["statusChange"]["flags"].is_null(), "{known}");
        let strange = [(status_at, json!("TELEPORTED"))];
        let id = self.id("strange-status");
        self.accepted(&self.webhook(change, id_at, &id.as_str().into(), &strange))
            .await;
        let change = self.forwarded(&id, 1).await[0].json()["statusChange"].take();
        if self.case.name == "just-eat" {
            assert_eq!(change["captain"]["providerState"], "TELEPORTED", "{change}");
        } else {
            assert_eq!(
                (&change["providerStatus"], &change["flags"]),
                (&json!("TELEPORTED"), &json!(["unknown_status"])),
                "{change}"
            );
        }
        assert!(change["status"].is_null(), "{change}");
    }

    /// An unknown field is kept verbatim.
    async fn unknown_fields(&self) {
        let id = self.id("extra");
        let (parent, _) = self.case.id.rsplit_once('/').unwrap();
        let field = format!("{parent}/added ~later");
        let value = json!({ "a": [1, null, "", { "b": 9_007_199_254_740_993_u64 }] });
        self.accepted(&self.order(&id, &[(&field, value.clone())])).await;
        let order = self.forwarded_order(&id).await;
        let pointer = field.split('>').next_back().unwrap().replace('~', "~0");
        assert_eq!(order["extra"][&pointer], value, "{order:#}");
    }

    /// Ids beyond 2^53, and as long as they may be.
    async fn huge_ids(&self) {
        let number = u64::MAX - u64::try_from(self.case.name.len()).unwrap();
        let order = self.webhook(self.case.order, self.case.id, &number.into(), &[]);
        self.accepted(&order).await;
        let order = self.forwarded_order(&number.to_string()).await;
        assert_eq!(order["externalOrderId"], number.to_string());
        let long = format!("{:x<128}", self.case.name);
        self.accepted(&self.order(&long, &[])).await;
        self.forwarded_order(&long).await;
        let longer = self
            .provider
            .post(self.hub, &self.order(&format!("{long}x"), &[]))
            .await;
        assert_eq!(longer.status, 400, "{longer:?}");
    }

    /// Three decimals, and Arabic.
    async fn money_and_names(&self) {
        let id = self.id("exact");
        let (total_at, total) = self.case.total;
        let name = "شاورما \"دجاج\" 🌯 <3";
        let mut changes = vec![
            (total_at, serde_json::from_str(total).unwrap()),
            (self.case.line_name, json!(name)),
        ];
        changes.extend(self.case.currency.map(|pointer| (pointer, json!("KWD"))));
        self.accepted(&self.order(&id, &changes)).await;
        let request = self.forwarded(&id, 1).await.remove(0);
        let text = std::str::from_utf8(&request.body).unwrap();
        // Some count cents whatever the currency is.
        let total = match self.case.name {
            "doordash" | "glovo" => "12.340",
            _ => "1.234",
        };
        assert!(text.contains("\"exponent\":3,"), "{text}");
        assert!(text.contains(&format!("\"total\":{total}")), "{text}");
        assert_eq!(request.json()["transformedOrder"]["items"][0]["name"], name);
    }

    /// Without an order's id it is refused, and in the provider's words.
    async fn refusals(&self) {
        for body in ["[]", "{", "{\"a\": 1}"] {
            let webhook = Webhook::new(body).with("x-merchant-id", STORE);
            // What is signed in the body can only be put into an object.
            if self.case.name == "keeta" {
                continue;
            }
            let answer = self.provider.post(self.hub, &webhook).await;
            let is_ignored = answer.status == 200 && body.starts_with("{\"");
            assert!(
                answer.status == 400 || is_ignored,
                "{}: {body}: {answer:?}",
                self.case.name
            );
        }
    }
}

/// Enough to tell bodies apart.
fn webhook_hash(body: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

trait RetainOnly {
    fn retain_only(&mut self, names: &[&str]);
}

impl RetainOnly for axum::http::HeaderMap {
    fn retain_only(&mut self, names: &[&str]) {
        let kept = self.clone();
        self.clear();
        for (name, value) in &kept {
            if names.contains(&name.as_str()) {
                self.append(name, value.clone());
            }
        }
    }
}

async fn thin_webhooks(world: &World, hub: &Hub, provider: &Provider, schema: &Schema, thin: &Thin) {
    let id = format!("thin-{}", thin.name);
    let webhook = Webhook::new((thin.cancel)(&id));
    let answer = provider.post(hub, &webhook).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // The same message again, in other words.
    let again = webhook.body.replace(&format!("{id}\""), &format!("{id}\" "));
    assert_eq!(provider.post(hub, &Webhook::new(again)).await.status, 200);
    assert_eq!(provider.send(hub, provider.signed(&webhook, STRANGE)).await.status, 401);
    let request = eventually("the cancellation", PATIENCE, async || {
        let mut all = world.backend.requests().into_iter();
        all.find(|request| request.external_order_id() == id).ok_or(())
    })
    .await;
    let body = request.json();
    schema.check(&body);
    assert_eq!(
        (
            &body["statusChange"]["providerStatus"],
            &body["originalWebhook"]["eventId"]
        ),
        (&json!(thin.status), &json!(format!("e-{id}")))
    );
    assert_eq!(body["statusChange"]["changedAt"], "2015-03-26T04:26:30Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_provider_passes() {
    let providers = Provider::all(&Catalogue::shipped());
    let mut named: Vec<_> = CASES
        .iter()
        .map(|case| case.name)
        .chain(FETCHED.iter().map(|thin| thin.name))
        .collect();
    named.sort_unstable();
    let known: Vec<_> = providers.iter().map(|provider| provider.name.as_str()).collect();
    assert_eq!(named, known, "each provider has its case");

    let world = World::new().await;
    let mut settings = world.settings().set("RETRY_DELAYS", "1s");
    for provider in &providers {
        provider.branch(&world, STORE).await;
        settings = provider.enable(settings, "KWD");
    }
    let hub = Hub::start(&settings).await;
    let schema = Schema::load();
    for case in CASES {
        let provider = providers.iter().find(|one| one.name == case.name).unwrap();
        let suite = Suite {
            world: &world,
            hub: &hub,
            provider,
            case,
            schema: &schema,
        };
        suite.signatures().await;
        suite.repeats().await;
        suite.cancel_before_create().await;
        suite.statuses().await;
        suite.unknown_fields().await;
        suite.huge_ids().await;
        suite.money_and_names().await;
        suite.refusals().await;
    }
    for thin in &FETCHED {
        let provider = providers.iter().find(|one| one.name == thin.name).unwrap();
        thin_webhooks(&world, &hub, provider, &schema, thin).await;
    }
    let events = world.log.settled().await;
    let count = |event_type| {
        events
            .iter()
            .filter(|event| event.envelope.event_type == event_type)
            .count()
    };
    let rejected = events
        .iter()
        .find(|event| event.envelope.event_type == EventType::OrderRejected);
    assert!(rejected.is_none(), "{:?}", rejected.map(|event| payload(event)));
    world
        .at_end(Ends::forwarded(count(EventType::OrderForwarded)).ignored(count(EventType::OrderIgnored)))
        .await;
}
