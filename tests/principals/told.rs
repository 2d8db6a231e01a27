//! What a provider is told about an order without a word of which branch it is: only what the order's own branch causes.

use super::*;
use crate::harness::provider::{Provider, SECRETS, Webhook};

const DELIVEROO: &str = include_str!("../../providers/deliveroo.toml");
const NEW_ORDER: &str = include_str!("../fixtures/providers/deliveroo/webhook_order.new.json");
/// Both branches accept by themselves, and have secrets of their own.
const OWN_SECRETS: &str = "
    UPDATE branch_delivery_configs
    SET store_id = merchant_id, auto_accept_orders = true, webhook_secret = CASE merchant_id WHEN 'store-1' THEN 'secret-of-a' ELSE 'secret-of-b' END
    WHERE id LIKE 'config-deliveroo-%'";

struct Deliveroo {
    outside: Outside,
    provider: Provider,
    hub: Hub,
}

impl Deliveroo {
    async fn new() -> Self {
        let outside = Outside::with_file("deliveroo.toml", DELIVEROO).await;
        let all = Provider::all(&webhook_hub::provider::Catalogue::shipped());
        let provider = all.into_iter().find(|one| one.name == "deliveroo").unwrap();
        for who in [A, B] {
            provider.branch(&outside.world, who.store()).await;
        }
        outside.world.database.run(OWN_SECRETS).await.unwrap();
        let settings = provider.enable(outside.settings_for("DELIVEROO"), "EUR");
        let settings = settings.set("DELIVEROO_BRANCH_SECRETS", true);
        let hub = Hub::start(&settings.set("DELIVEROO_RECONCILE", false)).await;
        Self { outside, provider, hub }
    }

    /// Posts a webhook that this one's secret proves, with a header that names A's store where A sends it.
    async fn post(&self, by: Who, body: &Value) {
        let webhook = Webhook::new(body).with("x-deliveroo-sequence-guid", "guid-1");
        let webhook = match by {
            A => webhook.with("x-merchant-id", A.store()),
            _ => webhook,
        };
        let secret = if by == Platform { SECRETS[0] } else { by.secret() };
        let answer = self
            .provider
            .send(&self.hub, self.provider.signed(&webhook, secret))
            .await;
        assert_eq!(answer.status, 200, "{answer:?}");
        self.outside.world.log.settled().await;
    }

    /// The backend asks for the kitchen's word about an order.
    async fn ask(&self, order: &str, branch: Option<Who>) {
        let branch = branch.map(|who| format!("branch-deliveroo-{}", who.store()));
        let body = json!({ "status": "rejected", "branchId": branch }).to_string();
        let path = format!("orders/deliveroo/{order}/status");
        let answer = send(&self.hub, Method::POST, &path, &body, &[]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        self.outside.world.log.settled().await;
    }

    /// What the provider was told of an order, in words.
    fn told(&self, order: &str) -> Vec<String> {
        let calls = self.outside.provider.calls();
        let of_order = calls.iter().filter(|call| call.path.contains(order));
        let word = |body: Value| body["status"].as_str().unwrap_or_default().to_owned();
        of_order.map(|call| word(call.json())).collect()
    }
}

/// A new order of a store, under this number.
fn announced(order: &str, store: Who) -> Value {
    let mut webhook: Value = serde_json::from_str(NEW_ORDER).unwrap();
    let document = &mut webhook["body"]["order"];
    (document["id"], document["location_id"]) = (order.into(), store.store().into());
    webhook
}

/// A sends B's number with its own secret: as an order of its own, as one of B's, and as one that nobody can read. Deliveroo's calls
/// name the order alone, and the hub makes them with the platform's credentials.
#[tokio::test(flavor = "multi_thread")]
async fn a_branchs_secret_tells_the_provider_nothing_of_another_branchs_order() {
    let deliveroo = Deliveroo::new().await;
    let world = &deliveroo.outside.world;
    let accepted = ["succeeded", "accepted"];
    deliveroo.post(B, &announced("DR-b", B)).await;
    deliveroo.post(Platform, &announced("DR-p", B)).await;
    for order in ["DR-b", "DR-p"] {
        let mut told = deliveroo.told(order);
        told.sort_unstable_by(|one, other| other.cmp(one));
        assert_eq!(told, accepted, "{order}");
    }
    for order in ["DR-b", "DR-p"] {
        deliveroo.post(A, &announced(order, A)).await;
        deliveroo.post(A, &announced(order, B)).await;
        // The backend has A's own order of the number, so nothing is told of this one.
        let mut broken = announced(order, A);
        broken["body"]["order"]["items"][0]["quantity"] = "many".into();
        deliveroo.post(A, &broken).await;
        assert_eq!(deliveroo.told(order).len(), 2, "{order}: {:?}", deliveroo.told(order));
        deliveroo.ask(order, Some(A)).await;
        assert_eq!(deliveroo.told(order).len(), 2, "{order}: {:?}", deliveroo.told(order));
    }
    // Only branches announced it: the backend has to say whose it means. The provider announced the other one.
    deliveroo.ask("DR-b", None).await;
    assert_eq!(deliveroo.told("DR-b").len(), 2);
    deliveroo.ask("DR-p", None).await;
    assert_eq!(deliveroo.told("DR-p")[2..], ["rejected"]);
    deliveroo.ask("DR-b", Some(B)).await;
    assert_eq!(deliveroo.told("DR-b")[2..], ["rejected"]);
    // A's own orders are told of, and those that A's own mistake keeps from the backend.
    deliveroo.post(A, &announced("DR-a", A)).await;
    assert_eq!(deliveroo.told("DR-a").len(), 2);
    let mut broken = announced("DR-broken", A);
    broken["body"]["order"]["items"][0]["quantity"] = "many".into();
    deliveroo.post(A, &broken).await;
    assert_eq!(deliveroo.told("DR-broken"), ["failed"]);
    let dead = world.log.payloads(EventType::OrderDeadLettered, 9).await;
    let mut counts = BTreeMap::new();
    for dead in &dead {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        *counts
            .entry((text(&dead["error"]["code"]), text(&dead["stage"])))
            .or_insert(0) += 1;
    }
    let count = |code: &str, stage: &str| counts.get(&(code.to_owned(), stage.to_owned())).copied();
    assert_eq!(count("NOT_YOURS", "transform"), Some(2), "{counts:?}");
    assert_eq!(count("NOT_YOURS", "push"), Some(6), "{counts:?}");
    assert_eq!(count("ORDER_AMBIGUOUS", "push"), Some(1), "{counts:?}");
    let metric = "not_yours_total{stage=\"push\",provider=\"deliveroo\"} 6";
    world.metrics_say(&deliveroo.hub, metric).await;
    world.at_end(Ends::forwarded(5).dead_lettered(9).rejected(3)).await;
}
