//! Numbers that two branches use, a branch's part of the quota, and branches with several rows.

use super::*;

/// The same number and the same bytes at two branches; only the unsigned header names the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_of_another_branch_is_not_taken_over() {
    let tenants = Tenants::new(|settings| settings).await;
    let world = &tenants.outside.world;
    let announced = order("CR-7");
    let of_b = tenants.send("careem", B, Some(B), &announced).await.event_id();
    let of_a = tenants.send("careem", A, Some(A), &announced).await;
    assert_eq!(
        of_a.json()["data"]["duplicate"],
        json!(false),
        "two branches, two webhooks"
    );
    assert_ne!(of_a.event_id(), of_b);
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    world.log.settled().await;
    // Whose order is meant says only the backend.
    tenants.ask("CR-7", json!({})).await;
    let dead = &world.log.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(
        (&dead["error"]["code"], &dead["stage"]),
        (&json!("ORDER_AMBIGUOUS"), &json!("push"))
    );
    assert_eq!(tenants.told("CR-7"), [""; 0]);
    tenants.ask("CR-7", json!({ "branchId": "branch-b" })).await;
    world.log.wait_for(EventType::OrderStatusPushed, 1).await;
    let row = "SELECT order_id FROM provider_order_logs WHERE external_order_id = 'CR-7' AND branch_id = 'branch-a'";
    let rows = eventually("the order of A has its row", PATIENCE, async || {
        let rows = world.database.rows(row).await.unwrap();
        if rows.len() == 1 { Ok(rows) } else { Err(rows) }
    })
    .await;
    tenants.ask("CR-7", json!({ "orderId": rows[0]["order_id"] })).await;
    world.log.wait_for(EventType::OrderStatusPushed, 2).await;
    assert_eq!(tenants.told("CR-7"), ["store-2", "store-1"]);
    // What A says is of A's order.
    tenants
        .send("careem", A, Some(A), &change("CR-7", "cancelled"))
        .await
        .event_id();
    world.log.wait_for(EventType::OrderForwarded, 3).await;
    eventually("A's order is cancelled, and B's is not", PATIENCE, async || {
        let is = tenants.status_of("CR-7").await;
        let mut rows: Vec<_> = is.split(", ").collect();
        rows.sort_unstable();
        if rows == ["branch-a cancelled", "branch-b pending"] {
            Ok(())
        } else {
            Err(is)
        }
    })
    .await;
    world.at_end(Ends::forwarded(3).dead_lettered(1)).await;
}

/// A cancels a number without an order, and waits for the branch that will have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_waits_for_its_order_is_not_woken_by_another_branch() {
    let tenants = Tenants::new(|settings| settings.set("RETRY_MAX_ATTEMPTS", 10).set("RETRY_DELAYS", "1s")).await;
    let world = &tenants.outside.world;
    world.backend.always_for("CR-8", Some(Said::status(404)));
    tenants
        .send("careem", A, Some(A), &change("CR-8", "cancelled"))
        .await
        .event_id();
    world.has_parked(1).await;
    world.backend.always_for("CR-8", None);
    let before = world.backend.count();
    // Not behind what waits in A's line, and it wakes nothing there.
    tenants.order_of(B, "CR-8").await;
    let dead = &world.log.payloads(EventType::OrderDeadLettered, 1).await[0];
    assert_eq!(
        (&dead["error"]["code"], &dead["stage"]),
        (&json!("NOT_YOURS"), &json!("forward"))
    );
    let requests = world.backend.requests();
    let paths: Vec<_> = requests[before..].iter().map(|request| request.path.as_str()).collect();
    assert_eq!(paths, ["/api/integration/orders"]);
    world.at_end(Ends::forwarded(1).dead_lettered(1)).await;
    assert_eq!(tenants.status_of("CR-8").await, "branch-b pending");
}

/// The backend takes two branches' orders of one number for one order. Its row stays what the branch said that was first.
#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_takes_two_orders_for_one_changes_no_row_of_the_other() {
    let tenants = Tenants::new(|settings| settings).await;
    let world = &tenants.outside.world;
    tenants.order_of(B, "CR-9").await;
    world.log.wait_for(EventType::OrderForwarded, 1).await;
    let internal = world.log.payloads(EventType::OrderForwarded, 1).await[0]["internalOrderId"].clone();
    let exists = json!({ "success": false, "error": { "code": "DUPLICATE" }, "orderId": internal }).to_string();
    world.backend.next_for("CR-9", [Said::Say(409, exists, vec![])]);
    let further = order("CR-9").replacen("\"pending\"", "\"confirmed\"", 1);
    tenants.send("careem", A, Some(A), &further).await.event_id();
    world.log.settled().await;
    tenants
        .send("careem", A, Some(A), &change("CR-9", "cancelled"))
        .await
        .event_id();
    world.log.settled().await;
    world.at_end(Ends::forwarded(1).dead_lettered(2)).await;
    assert_eq!(tenants.status_of("CR-9").await, "branch-b pending");
    assert_eq!(
        world.backend.count(),
        2,
        "nothing is said of an order that is another branch's"
    );
}

/// The backend has trouble with orders for a while. What another secret proves about an order of the same branch waits for it.
///
/// - `CR-20`: the platform announced it, and its branch cancels it by its own secret.
/// - `CR-21`: the other way round.
/// - `CR-22`: its branch announces it once more, with another total.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_and_its_cancellation_may_be_proven_by_different_secrets() {
    let settings = |settings: Settings| {
        settings
            .set("CIRCUIT_BREAKER_ENABLED", false)
            .set("RETRY_DELAYS", "500ms")
    };
    let tenants = Tenants::new(|more| settings(more).set("RETRY_MAX_ATTEMPTS", 50)).await;
    let world = &tenants.outside.world;
    let [by_platform, by_branch, twice] = ["CR-20", "CR-21", "CR-22"];
    for id in [by_platform, by_branch, twice] {
        world.backend.always_for(id, Some(Said::status(503)));
    }
    for (id, by) in [(by_platform, Platform), (by_branch, B), (twice, Platform)] {
        tenants.send("careem", by, Some(B), &order(id)).await.event_id();
    }
    world.has_parked(3).await;
    let cancelled = |id| change(id, "cancelled");
    for (by, body) in [
        (B, cancelled(by_platform)),
        (Platform, cancelled(by_branch)),
        (B, order(twice).replace("16.24", "26.24")),
    ] {
        tenants.send("careem", by, Some(B), &body).await.event_id();
    }
    world.log.wait_for(EventType::OrderTransformed, 6).await;
    // Each order is tried several times more.
    let before = world.backend.count();
    world.backend.wait_for(before + 9).await;
    let requests = world.backend.requests();
    let is_order = |path: &str| path == crate::harness::backend::ORDERS;
    let early: Vec<_> = requests
        .iter()
        .filter(|one| !is_order(&one.path))
        .map(|one| &one.path)
        .collect();
    assert!(early.is_empty(), "before their orders: {early:?}");
    for id in [by_platform, by_branch, twice] {
        world.backend.always_for(id, None);
    }
    world.log.wait_for(EventType::OrderForwarded, 5).await;
    let ignored = &world.log.payloads(EventType::OrderIgnored, 1).await[0];
    assert_eq!(
        (&ignored["reason"], &ignored["differs"]),
        (&json!("DUPLICATE_ORDER"), &json!(true)),
        "{ignored}"
    );
    let orders = world.backend.requests().into_iter().filter(|one| is_order(&one.path));
    let keys: std::collections::BTreeSet<_> = orders
        .filter(|one| one.external_order_id() == twice)
        .map(|one| one.key().to_owned())
        .collect();
    assert_eq!(keys.len(), 1, "asked for as one order");
    world.at_end(Ends::forwarded(5).ignored(1)).await;
}

impl Tenants {
    pub(super) async fn has_rows(&self, order: &str, expected: &[&str]) {
        eventually(&format!("{order} has the rows {expected:?}"), PATIENCE, async || {
            let is = self.status_of(order).await;
            let mut rows: Vec<_> = is.split(", ").collect();
            rows.sort_unstable();
            if rows == expected { Ok(()) } else { Err(is) }
        })
        .await;
    }

    /// The platform cancels an order and names no store.
    async fn cancel(&self, order: &str) {
        let answer = self.send("careem", Platform, None, &change(order, "cancelled")).await;
        answer.event_id();
        self.outside.world.log.settled().await;
    }

    /// The tables know orders by another number than the log: as if the log had forgotten them.
    pub(super) async fn renumber(&self, from: &str, branch: Who, to: &str) {
        let rows = format!(
            "UPDATE provider_order_logs SET external_order_id = '{to}' WHERE external_order_id = '{from}' AND branch_id = '{}'",
            branch.branch()
        );
        self.outside.world.database.run(&rows).await.unwrap();
    }
}

/// A announces numbers of B's with its own secret. The platform's cancellations, which name no store, do not go to A for that.
#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_by_a_branchs_secret_takes_no_news_from_another_branch() {
    let tenants = Tenants::new(|settings| settings).await;
    let world = &tenants.outside.world;
    // The platform said for which branch CR-10 and CR-18 are; CR-11 only the branches announced.
    for (id, by) in [("CR-10", Platform), ("CR-11", B), ("CR-18", Platform)] {
        tenants.send("careem", by, Some(B), &order(id)).await.event_id();
        world.log.settled().await;
        tenants.order_of(A, id).await;
    }
    for (id, owner) in [("CR-13", B), ("CR-15", B), ("CR-16", A)] {
        tenants.order_of(owner, id).await;
        tenants.has_rows(id, &[&format!("{} pending", owner.branch())]).await;
    }
    world.log.settled().await;
    tenants.cancel("CR-10").await;
    tenants
        .has_rows("CR-10", &["branch-a pending", "branch-b cancelled"])
        .await;
    tenants.cancel("CR-11").await;
    // Only the tables know B's order of CR-14, and both orders of CR-17.
    tenants.renumber("CR-13", B, "CR-14").await;
    tenants.order_of(A, "CR-14").await;
    world.log.settled().await;
    tenants.cancel("CR-14").await;
    tenants.renumber("CR-15", B, "CR-17").await;
    tenants.renumber("CR-16", A, "CR-17").await;
    tenants.cancel("CR-17").await;
    for (from, branch, to) in [("CR-14", B, "CR-13"), ("CR-17", B, "CR-15"), ("CR-17", A, "CR-16")] {
        tenants.renumber(from, branch, to).await;
    }
    // A is the only active branch now. That an unknown store is looked up has the table read again.
    let off = "UPDATE branch_delivery_configs SET is_active = false WHERE branch_id = 'branch-b'";
    world.database.run(off).await.unwrap();
    world.post_for(&tenants.hub, "nobody", "CR-19").await;
    world.log.settled().await;
    tenants.cancel("CR-18").await;
    tenants
        .has_rows("CR-18", &["branch-a pending", "branch-b cancelled"])
        .await;
    tenants
        .has_rows("CR-11", &["branch-a pending", "branch-b pending"])
        .await;
    let told = world.backend.requests().into_iter().map(|request| request.json());
    let told = told.filter(|body| !body["statusChange"].is_null());
    let told: Vec<_> = told
        .map(|body| {
            let change = &body["statusChange"];
            (change["externalOrderId"].clone(), change["branchId"].clone())
        })
        .collect();
    let cancelled = |id: &str| (json!(id), json!("branch-b"));
    assert_eq!(told, [cancelled("CR-10"), cancelled("CR-18")]);
    let operator = world.nats.settings("hub");
    let listed = run(
        &operator,
        &["dead-letters", "list", "--code", "ORDER_AMBIGUOUS", "--json"],
    )
    .await;
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(listed.as_array().map_or(0, Vec::len), 3, "{listed:#}");
    let dead = world.log.payloads(EventType::OrderDeadLettered, 4).await;
    let dead: Vec<_> = dead
        .iter()
        .map(|dead| (&dead["error"]["code"], &dead["stage"]))
        .collect();
    let code = |code: &'static str| json!(code);
    let (ambiguous, unknown, stage) = (code("ORDER_AMBIGUOUS"), code("BRANCH_NOT_FOUND"), code("transform"));
    let expected = [&ambiguous, &ambiguous, &ambiguous, &unknown].map(|code| (code, &stage));
    assert_eq!(dead, expected);
    world
        .metrics_say(&tenants.hub, "dead_letters_total{provider=\"careem\"} 4")
        .await;
    world.at_end(Ends::forwarded(12).dead_lettered(4)).await;
}

/// One branch's webhooks spend a part of the provider's quota, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn one_branch_does_not_spend_the_providers_quota() {
    let tenants = Tenants::new(|settings| {
        settings
            .set("RATE_LIMIT_CAREEM", "12/1h")
            .set("CAREEM_BRANCH_RATE_LIMIT", 4)
    })
    .await;
    let mut taken = 0;
    for number in 0..20 {
        let answer = tenants
            .send("careem", A, Some(A), &order(&format!("CR-flood-{number}")))
            .await;
        match answer.status {
            200 => taken += 1,
            status => assert_eq!((status, answer.code().as_str()), (429, "RATE_LIMITED")),
        }
    }
    assert_eq!(taken, 4);
    for (by, id) in [(B, "CR-of-b"), (Platform, "CR-of-all")] {
        tenants.send("careem", by, Some(B), &order(id)).await.event_id();
    }
    let world = &tenants.outside.world;
    world
        .metrics_say(
            &tenants.hub,
            "rate_limited_total{provider=\"careem\",scope=\"branch\"} 16",
        )
        .await;
    world.at_end(Ends::forwarded(6)).await;
}

/// A branch that has several rows has the secrets of all that are active, newest first; the inactive take nothing away.
#[tokio::test(flavor = "multi_thread")]
async fn every_active_row_of_a_branch_counts() {
    let tenants = Tenants::new(|settings| settings).await;
    let world = &tenants.outside.world;
    let rows = "
        ALTER TABLE branch_delivery_configs DROP CONSTRAINT IF EXISTS branch_delivery_configs_branch_id_provider_id_key;
        DELETE FROM branch_delivery_configs WHERE branch_id = 'branch-b' AND provider_id = 'provider-careem';
        INSERT INTO branch_delivery_configs
            (id, branch_id, provider_id, company_id, merchant_id, store_id, webhook_secret, is_active)
        VALUES ('config-0', 'branch-a', 'provider-careem', 'company-uuid', 'merchant-0', 'store-0', 'secret-of-row-0', false),
            ('config-z', 'branch-a', 'provider-careem', 'company-uuid', 'merchant-1', 'store-1', 'secret-of-row-z', true),
            ('config-zz', 'branch-c', 'provider-careem', 'company-uuid', 'merchant-1', 'store-1', 'secret-of-c', false)";
    world.database.run(rows).await.unwrap();
    let settings = tenants.outside.settings().set("CAREEM_BRANCH_SECRETS", true);
    let hub = Hub::start(&settings).await;
    let post = async |secret: &str, header: Option<&str>, id: &str| {
        let body = order(id);
        let post = http().post(format!("{}/api/webhooks/careem", hub.url()));
        let post = post.header("x-careem-signature", sign(secret, body.as_bytes()));
        let post = header
            .into_iter()
            .fold(post, |post, merchant| post.header("x-merchant-id", merchant));
        answer(post.body(body)).await.unwrap().status
    };
    let posted = [
        post("secret-of-a", Some("merchant-1"), "CR-row-1").await,
        post("secret-of-row-z", Some("merchant-1"), "CR-row-2").await,
        // Two rows of one branch are one branch.
        post("secret-of-row-z", None, "CR-row-3").await,
        post("secret-of-row-0", Some("merchant-1"), "CR-row-4").await,
        post("secret-of-row-0", Some("merchant-0"), "CR-row-5").await,
        post("secret-of-c", Some("merchant-1"), "CR-row-6").await,
    ];
    assert_eq!(posted, [200, 200, 200, 401, 401, 401]);
    world.at_end(Ends::forwarded(3)).await;
}

mod long {
    use std::time::{Duration, Instant};

    use super::*;

    /// Each status without a branch asks the memory of orders for all that stands before it, while that memory reads on. It does not take
    /// the log for one that went back.
    #[tokio::test(flavor = "multi_thread")]
    async fn statuses_under_load_do_not_clear_the_memory_of_orders() {
        const CLIENTS: usize = 24;
        const FOR: Duration = Duration::from_secs(30);
        let tenants = Tenants::new(|settings| settings).await;
        let began = Instant::now();
        let client = async |client: usize| {
            let mut sent = 0;
            while began.elapsed() < FOR {
                let id = format!("CR-{client}-{sent}");
                tenants.order_of(A, &id).await;
                tenants.ask(&id, json!({})).await;
                sent += 1;
            }
            sent
        };
        let sent: usize = futures_util::future::join_all((0..CLIENTS).map(client))
            .await
            .iter()
            .sum();
        assert!(sent > 500, "{sent}");
        let changes = "log_identity_changes_total{by=\"orders\"} 0";
        tenants.outside.world.metrics_say(&tenants.hub, changes).await;
    }
}
