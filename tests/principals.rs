//! Only the proven principal may act: a branch's secret cannot affect another branch.
//!
//! Branch A and branch B have secrets of their own, the platform has one for all. Each webhook of the tables below is proven by
//! one of the three, names a store in its header, in its body or in the document that is fetched for it, and is about an order of
//! A, of B or of nobody.

mod another_order;
mod apart;
mod behind_another;
mod lists;
mod meanwhile;
mod news_first;
mod not_confirmed;
mod numbers;
mod random;
mod two_lanes;
mod told;
mod wakes;

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use webhook_hub::event::EventType;

use crate::harness::{
    at_end::Ends,
    backend::Answer as Said,
    careem::{Answer, SECRET, answer, change, http, order, sign},
    hub::{Hub, Settings, run},
    log::payload,
    outside::{CAREEM, Outside, UBER_EATS, send},
    wait::{PATIENCE, POLL, eventually},
};

/// As Uber Eats would give an order of the store `store-1`.
const DOCUMENT: &str = include_str!("fixtures/providers/uber-eats/order.v1_delivery.amount_e5.json");
/// Two branches, known to both providers, each with a secret.
const BRANCHES: &str = "
    UPDATE branch_delivery_configs SET webhook_secret = 'secret-of-a', branch_id = 'branch-a', store_id = 'store-1';
    INSERT INTO branch_delivery_configs
        (id, branch_id, provider_id, company_id, merchant_id, store_id, webhook_secret, settings)
    VALUES ('config-b', 'branch-b', 'provider-careem', 'company-uuid', 'merchant-2', 'store-2', 'secret-of-b',
        '{\"brandId\": \"brand-8\"}');
    INSERT INTO delivery_providers (id, code, name) VALUES ('provider-uber', 'uber-eats', 'Uber Eats');
    INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, store_id, webhook_secret)
    VALUES ('uber-a', 'branch-a', 'provider-uber', 'company-uuid', 'store-1', 'secret-of-a'),
        ('uber-b', 'branch-b', 'provider-uber', 'company-uuid', 'store-2', 'secret-of-b')";

/// The owner of a secret, or of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Platform,
    A,
    B,
}

use Who::{A, B, Platform};

impl Who {
    fn secret(self) -> &'static str {
        match self {
            Platform => SECRET,
            A => "secret-of-a",
            B => "secret-of-b",
        }
    }

    fn branch(self) -> &'static str {
        match self {
            Platform => "",
            A => "branch-a",
            B => "branch-b",
        }
    }

    fn merchant(self) -> &'static str {
        if self == A { "merchant-1" } else { "merchant-2" }
    }

    fn store(self) -> &'static str {
        if self == A { "store-1" } else { "store-2" }
    }
}

/// What becomes of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// 401.
    Refused,
    /// It goes on, for this branch.
    For(Who),
    /// A dead letter with this code.
    Dead(&'static str),
}

const NOT_YOURS: End = End::Dead("NOT_YOURS");

/// Proven by; named in the header, in the body; what becomes of it.
type Named = (Who, Option<Who>, Option<Who>, End);

const ANNOUNCEMENTS: [Named; 17] = [
    (Platform, Some(A), None, End::For(A)),
    (Platform, Some(A), Some(B), End::For(B)),
    (Platform, Some(B), Some(A), End::For(A)),
    (Platform, Some(B), None, End::For(B)),
    (Platform, None, Some(B), End::For(B)),
    (Platform, None, None, End::Dead("BRANCH_NOT_FOUND")),
    (A, Some(A), None, End::For(A)),
    (A, None, Some(A), End::For(A)),
    (A, Some(B), None, End::Refused),
    (A, None, Some(B), End::Refused),
    (A, Some(B), Some(A), End::Refused),
    (A, None, None, End::Refused),
    (A, Some(A), Some(B), NOT_YOURS),
    (B, Some(B), None, End::For(B)),
    (B, Some(A), None, End::Refused),
    (B, None, None, End::Refused),
    (B, Some(B), Some(A), NOT_YOURS),
];

/// Proven by; named in the header, in the body; whose order it is about, the platform stands for nobody's.
type News = (Who, Option<Who>, Option<Who>, Who, End);

const NEWS: [News; 15] = [
    (Platform, Some(A), Some(B), B, End::For(B)),
    (Platform, Some(A), Some(B), Platform, End::For(B)),
    (Platform, Some(A), None, A, End::For(A)),
    (Platform, Some(B), None, B, End::For(B)),
    (Platform, None, None, B, End::For(B)),
    (A, Some(A), None, A, End::For(A)),
    (A, Some(A), None, B, NOT_YOURS),
    (A, None, Some(A), B, NOT_YOURS),
    (A, Some(A), Some(B), B, NOT_YOURS),
    (A, Some(B), None, B, End::Refused),
    (A, None, None, B, End::Refused),
    (A, Some(A), None, Platform, End::For(A)),
    (B, Some(B), None, B, End::For(B)),
    (B, Some(B), None, A, NOT_YOURS),
    (B, Some(A), None, A, End::Refused),
];

/// Proven by; named in the header, by the menu's result.
const MENU_RESULTS: [Named; 8] = [
    (Platform, None, Some(A), End::For(A)),
    (Platform, None, Some(B), End::For(B)),
    (A, Some(A), Some(A), End::For(A)),
    (A, Some(A), None, End::For(A)),
    (A, Some(A), Some(B), NOT_YOURS),
    (A, None, Some(B), End::Refused),
    (B, Some(B), Some(B), End::For(B)),
    (B, Some(B), Some(A), NOT_YOURS),
];

/// Proven by; named in the header, in the webhook, in the document that is fetched; whether it is fetched.
type Thin = (Who, Option<Who>, Option<Who>, Option<Who>, End, bool);

const THIN: [Thin; 11] = [
    (Platform, Some(A), Some(B), Some(B), End::For(B), true),
    (Platform, Some(A), None, Some(B), End::For(B), true),
    (Platform, None, Some(A), Some(A), End::For(A), true),
    (Platform, None, Some(B), Some(B), End::For(B), true),
    (A, None, Some(A), Some(A), End::For(A), true),
    (A, Some(A), None, Some(A), End::For(A), true),
    (A, None, Some(A), Some(B), NOT_YOURS, true),
    (A, Some(A), None, Some(B), NOT_YOURS, true),
    (A, Some(A), Some(B), Some(B), NOT_YOURS, false),
    (A, None, Some(A), None, NOT_YOURS, true),
    (B, None, Some(A), Some(A), End::Refused, false),
];

/// A webhook that was accepted, and what is to become of it.
struct Posted {
    what: String,
    request: String,
    end: End,
    /// Whether it is about an order, and not a menu.
    is_order: bool,
}

struct Tenants {
    outside: Outside,
    hub: Hub,
    posted: Vec<Posted>,
}

impl Tenants {
    async fn new(more: impl FnOnce(Settings) -> Settings) -> Self {
        let outside = Outside::with_file("careem.toml", CAREEM).await;
        outside.rewrite("uber-eats.toml", UBER_EATS);
        outside.world.database.run(BRANCHES).await.unwrap();
        let settings = outside.settings_for("UBER_EATS");
        let settings = ["CAREEM", "UBER_EATS"].into_iter().fold(settings, |settings, prefix| {
            settings
                .set(&format!("{prefix}_ENABLED"), true)
                .set(&format!("{prefix}_WEBHOOK_SECRET"), SECRET)
                .set(&format!("{prefix}_BRANCH_SECRETS"), true)
                .set(&format!("RATE_LIMIT_{prefix}"), 1_000_000)
                .set(&format!("{prefix}_API_URL"), outside.provider.url())
                .set(&format!("{prefix}_CLIENT_ID"), crate::harness::platform::CLIENT_ID)
                .set(
                    &format!("{prefix}_CLIENT_SECRET"),
                    crate::harness::platform::CLIENT_SECRET,
                )
        });
        let hub = Hub::start(&more(settings)).await;
        let posted = Vec::new();
        Self { outside, hub, posted }
    }

    async fn send(&self, provider: &str, by: Who, header: Option<Who>, body: &str) -> Answer {
        let signature = if provider == "careem" {
            "x-careem-signature"
        } else {
            "x-uber-signature"
        };
        let post = http().post(format!("{}/api/webhooks/{provider}", self.hub.url()));
        let post = post.header(signature, sign(by.secret(), body.as_bytes()));
        let post = match header {
            Some(named) if provider == "careem" => post.header("x-merchant-id", named.merchant()),
            Some(named) => post.header("x-merchant-id", named.store()),
            None => post,
        };
        answer(post.body(body.to_owned())).await.unwrap()
    }

    /// Posts a webhook of which the table says what becomes of it.
    async fn post(&mut self, what: String, provider: &str, (by, header): (Who, Option<Who>), body: &str, end: End) {
        let answer = self.send(provider, by, header, body).await;
        if end == End::Refused {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (401, "INVALID_SIGNATURE"),
                "{what}"
            );
            return;
        }
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        self.posted.push(Posted {
            is_order: !what.starts_with("menu"),
            what,
            request: answer.header("x-request-id").to_owned(),
            end,
        });
    }

    /// An order of a branch, announced by its own secret; the order's number.
    async fn order_of(&self, owner: Who, id: &str) {
        self.send("careem", owner, Some(owner), &order(id)).await.event_id();
    }

    async fn announcements(&mut self) {
        for (number, (by, header, named, end)) in ANNOUNCEMENTS.into_iter().enumerate() {
            let body = with_store(&order(&format!("CR-new-{number}")), named.map(Who::store));
            let what = format!("announcement by {by:?}, header {header:?}, body {named:?}");
            self.post(what.clone(), "careem", (by, header), &body, end).await;
            if end != End::Refused {
                // Once more: the same event.
                let again = self.send("careem", by, header, &body).await;
                assert_eq!(again.json()["data"]["duplicate"], json!(true), "{what}");
            }
        }
    }

    async fn news(&mut self) {
        for status in ["picked_up", "cancelled"] {
            for (number, (_, _, _, owner, _)) in NEWS.into_iter().enumerate() {
                if owner != Platform {
                    self.order_of(owner, &format!("CR-{status}-{number}")).await;
                }
            }
        }
        self.outside.world.log.settled().await;
        for status in ["picked_up", "cancelled"] {
            for (number, (by, header, named, owner, end)) in NEWS.into_iter().enumerate() {
                let body = with_store(&change(&format!("CR-{status}-{number}"), status), named.map(Who::store));
                let what = format!("{status} by {by:?}, header {header:?}, body {named:?}, of {owner:?}'s order");
                self.post(what, "careem", (by, header), &body, end).await;
            }
        }
    }

    async fn menu_results(&mut self) {
        for (number, (by, header, named, end)) in MENU_RESULTS.into_iter().enumerate() {
            let details = json!({
                "number": number, "branch_id": named.map(Who::store), "catalog_id": "c", "status": "completed",
            });
            let body = json!({ "event_type": "CATALOG_STATUS", "details": details }).to_string();
            // Where the authentication finds no store in the header, it looks where orders have theirs.
            let body = with_store(&body, header.is_none().then_some(named).flatten().map(Who::store));
            let what = format!("menu result by {by:?}, header {header:?}, body {named:?}");
            self.post(what, "careem", (by, header), &body, end).await;
        }
    }

    async fn thin(&mut self) {
        for (number, (by, header, named, documents, end, _)) in THIN.into_iter().enumerate() {
            let id = format!("CR-thin-{number}");
            let path = format!("/v2/eats/order/{id}");
            let mut document: Value = serde_json::from_str(DOCUMENT).unwrap();
            match documents {
                Some(owner) => document["order"]["store"]["id"] = owner.store().into(),
                None => drop(document["order"].as_object_mut().unwrap().remove("store")),
            }
            self.outside.provider.has(&path, &document.to_string());
            let mut meta = json!({ "resource_id": id, "status": "pos" });
            if let Some(named) = named {
                meta["user_id"] = named.store().into();
            }
            let webhook = json!({
                "event_type": "orders.notification", "event_id": format!("event-{id}"), "event_time": 1_759_320_000,
                "meta": meta, "resource_href": format!("{}{path}", self.outside.provider.url()),
            });
            let what = format!("thin by {by:?}, header {header:?}, webhook {named:?}, document {documents:?}");
            self.post(what, "uber-eats", (by, header), &webhook.to_string(), end)
                .await;
        }
    }
}

/// A body of Careem's that names a store.
fn with_store(body: &str, store: Option<&str>) -> String {
    let mut body: Value = serde_json::from_str(body).unwrap();
    if let Some(store) = store {
        body["branch"] = json!({ "id": store });
    }
    body.to_string()
}

impl Tenants {
    /// How each webhook ended, by its request's id: for which branch, or the dead letter's code and stage.
    async fn ends(&self) -> BTreeMap<String, (String, String)> {
        let events = self.outside.world.log.settled().await;
        let mut ends = BTreeMap::new();
        for event in &events {
            let envelope = &event.envelope;
            let end = match envelope.event_type {
                EventType::OrderForwarded | EventType::MenuSyncReported => {
                    (envelope.branch.clone().unwrap_or_default(), String::new())
                }
                EventType::OrderDeadLettered => {
                    let dead = payload(event);
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    (text(&dead["error"]["code"]), text(&dead["stage"]))
                }
                _ => continue,
            };
            ends.insert(envelope.request_id.clone(), end);
        }
        ends
    }

    async fn status_of(&self, order: &str) -> String {
        let query = format!(
            "SELECT branch_id || ' ' || coalesce(mapped_status::text, '-') AS stands FROM provider_order_logs WHERE external_order_id = '{order}'"
        );
        let rows = self.outside.world.database.rows(&query).await.unwrap();
        let rows: Vec<_> = rows
            .iter()
            .map(|row| row["stands"].as_str().unwrap_or("none"))
            .collect();
        rows.join(", ")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branchs_secret_reaches_no_other_branch() {
    let mut tenants = Tenants::new(|settings| settings).await;
    tenants.announcements().await;
    tenants.news().await;
    tenants.menu_results().await;
    tenants.thin().await;
    let ends = tenants.ends().await;
    let world = &tenants.outside.world;
    let requests = world.backend.requests();
    let mut wrong = Vec::new();
    for posted in &tenants.posted {
        let (is, stage) = ends.get(&posted.request).cloned().unwrap_or_default();
        let expected = match posted.end {
            End::For(who) => who.branch(),
            End::Dead(code) => code,
            End::Refused => unreachable!(),
        };
        if is != expected || (matches!(posted.end, End::Dead(_)) && stage != "transform") {
            wrong.push(format!("{}: {is:?} {stage}, not {expected:?}", posted.what));
        }
        // What the backend received about it, for which branch.
        let of_it = |body: &Value| {
            let change = &body["statusChange"];
            let told = if change.is_null() {
                &body["transformedOrder"]
            } else {
                change
            };
            told["branchId"].as_str().unwrap_or_default().to_owned()
        };
        let told = requests
            .iter()
            .filter(|request| request.header("x-request-id") == posted.request);
        let told: Vec<_> = told.map(|request| of_it(&request.json())).collect();
        let expected = match posted.end {
            End::For(who) if posted.is_order => vec![who.branch().to_owned()],
            _ => vec![],
        };
        if told != expected {
            wrong.push(format!("{}: the backend was told of {told:?}", posted.what));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Nothing was asked for that the webhook itself showed to be another branch's.
    let fetched: Vec<_> = tenants
        .outside
        .provider
        .calls()
        .iter()
        .map(|call| call.path.clone())
        .collect();
    for (number, thin) in THIN.iter().enumerate() {
        let path = format!("/v2/eats/order/CR-thin-{number}");
        assert_eq!(fetched.contains(&path), thin.5, "{thin:?}");
    }
    tenants.rows_and_dead_letters().await;
}

impl Tenants {
    async fn rows_and_dead_letters(&self) {
        let world = &self.outside.world;
        let count = |is: fn(&End) -> bool| self.posted.iter().filter(|posted| is(&posted.end)).count();
        let menus = self.posted.iter().filter(|posted| !posted.is_order);
        let reported = menus.filter(|posted| matches!(posted.end, End::For(_))).count();
        let created = 2 * NEWS.iter().filter(|news| news.3 != Platform).count();
        let dead = count(|end| matches!(end, End::Dead(_)));
        let ends = Ends::forwarded(count(|end| matches!(end, End::For(_))) - reported + created);
        world.at_end(ends.dead_lettered(dead)).await;
        // The rows of orders say what their own branch, or the platform, said.
        for (number, (_, _, _, owner, end)) in NEWS.into_iter().enumerate() {
            for (status, mapped) in [("picked_up", "out_for_delivery"), ("cancelled", "cancelled")] {
                let row = self.status_of(&format!("CR-{status}-{number}")).await;
                let expected = match (owner, end) {
                    (Platform, _) => String::new(),
                    (owner, End::For(_)) => format!("{} {mapped}", owner.branch()),
                    (owner, _) => format!("{} pending", owner.branch()),
                };
                assert_eq!(row, expected, "{number} {status}");
            }
        }
        // Alarmed and listed like any other.
        let not_yours = self.posted.iter().filter(|posted| posted.end == NOT_YOURS).count();
        let operator = world.nats.settings("hub");
        let listed = run(&operator, &["dead-letters", "list", "--code", "NOT_YOURS", "--json"]).await;
        let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
        let rows = listed.as_array().map_or(0, Vec::len);
        assert_eq!(rows, not_yours, "{listed:#}");
        let of_careem = self.posted.iter().filter(|posted| !posted.what.starts_with("thin"));
        let dead = of_careem.filter(|posted| matches!(posted.end, End::Dead(_))).count();
        world
            .metrics_say(&self.hub, &format!("dead_letters_total{{provider=\"careem\"}} {dead}"))
            .await;
        let failed =
            "SELECT branch_id FROM webhook_logs WHERE status = 'failed' AND error_message LIKE '%may not act%'";
        let failed = world.database.rows(failed).await.unwrap();
        assert_eq!(failed.len(), not_yours);
        assert!(failed.iter().all(|row| !row["branch_id"].is_null()), "{failed:?}");
    }
}

impl Tenants {
    /// The backend requests a status, with this much information about the order's branch.
    async fn ask(&self, order: &str, more: Value) {
        let mut body = json!({ "status": "accepted" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let path = format!("orders/careem/{order}/status");
        let answer = send(&self.hub, Method::POST, &path, &body.to_string(), &[]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }

    /// Stores in requests to the provider about an order, by their `branch-id`.
    fn told(&self, order: &str) -> Vec<String> {
        let calls = self.outside.provider.calls();
        let of_order = calls.iter().filter(|call| call.path == format!("/orders/{order}"));
        of_order.map(|call| call.header("branch-id").to_owned()).collect()
    }
}
