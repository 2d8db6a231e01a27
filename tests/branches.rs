//! Whose order it is: rows that were added a moment ago, and merchants of whom nobody can say anything while PostgreSQL is
//! away.

use std::sync::Arc;

use reqwest::Method;
use serde_json::json;
use webhook_hub::event::{EventType, Recorded};

use crate::harness::{
    World,
    at_end::Ends,
    careem::{SECRET, order, sign},
    hub::Hub,
    ids,
    outside::{CAREEM_POS, Outside, send},
    proxy::Proxy,
    wait::{PATIENCE, eventually},
};

const MENU: &str = include_str!("fixtures/menu.json");

impl World {
    pub(crate) async fn post_for(&self, hub: &Hub, merchant: &str, id: &str) {
        let body = order(id);
        let signature = sign(SECRET, body.as_bytes());
        let headers = [("x-merchant-id", merchant), ("x-careem-signature", signature.as_str())];
        let answer = self.careem.post_raw(hub, body, &headers).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    pub(crate) async fn add_branch(&self, number: usize, settings: &str) {
        let row = format!(
            "INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id, store_id, settings)
             VALUES ('config-{number}', 'branch-{number}', 'provider-careem', 'company-uuid', 'merchant-{number}',
                'store-{number}', '{settings}')"
        );
        self.database.run(&row).await.unwrap();
    }
}

/// However recent the last look-up of another merchant is.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_row_counts_at_once() {
    let world = World::new().await;
    let hub = world.hub().await;
    for number in 2..5 {
        world.post_for(&hub, "nobody", &format!("CR-homeless-{number}")).await;
        world.log.wait_for(EventType::OrderDeadLettered, number - 1).await;
        world.add_branch(number, "{}").await;
        let id = format!("CR-new-{number}");
        world.post_for(&hub, &format!("merchant-{number}"), &id).await;
    }
    world
        .at_end(Ends {
            forwarded: 3,
            dead_lettered: 3,
            ..Ends::default()
        })
        .await;
}

/// Its row may be there: only PostgreSQL could say. Those that are known do not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_merchant_that_is_not_known_waits_for_postgres() {
    let world = World::new().await;
    let postgres = Proxy::to(([127, 0, 0, 1], world.cluster.server.port()).into());
    let settings = world.settings();
    let hub = Hub::start(&settings.set("DATABASE_URL", world.database.url_through(postgres.address()))).await;
    world.post_orders(&hub, ids("known", 1)).await;
    world.log.settled().await;
    postgres.cut();
    world.add_branch(2, "{}").await;
    world.post_for(&hub, "merchant-2", "CR-not-known").await;
    world.post_for(&hub, "nobody", "CR-homeless").await;
    eventually("both wait", PATIENCE, async || {
        let lanes = world.lanes().await;
        if lanes.len() == 2 { Ok(()) } else { Err(lanes) }
    })
    .await;
    world.post_orders(&hub, ids("meanwhile", 5)).await;
    world.backend.wait_for(6).await;
    // What was parked is found by whoever takes over, too.
    assert!(hub.terminate().await.0.success());
    postgres.heal();
    let _hub = world.hub().await;
    let ends = Ends {
        forwarded: 7,
        dead_lettered: 1,
        ..Ends::default()
    };
    world.at_end_within(2 * PATIENCE, ends).await;
}

/// The platform adds a branch, or mends its settings, and sends its menu at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_menu_of_a_branch_that_was_just_added() {
    let without_result = CAREEM_POS
        .split("# What became of it comes as a webhook.")
        .next()
        .unwrap();
    let outside = Outside::new(without_result).await;
    outside.world.add_branch(2, "{}").await;
    let hub = outside.hub().await;
    outside.world.post_orders(&hub, ids("loaded", 1)).await;
    outside.world.log.settled().await;
    outside.world.add_branch(3, r#"{"brandId": "brand-3"}"#).await;
    let mended =
        r#"UPDATE branch_delivery_configs SET settings = '{"brandId": "brand-2"}' WHERE branch_id = 'branch-2'"#;
    outside.world.database.run(mended).await.unwrap();
    for branch in ["branch-3", "branch-2"] {
        let answer = send(&hub, Method::PUT, &format!("menus/careem/{branch}"), MENU, &[]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    outside.payloads(EventType::MenuSynced, 2).await;
    let calls = outside.provider.calls();
    let mut told: Vec<_> = calls
        .iter()
        .map(|call| (call.header("brand-id"), call.header("branch-id")))
        .collect();
    told.sort_unstable();
    assert_eq!(told, [("brand-2", "store-2"), ("brand-3", "store-3")]);
    // What stays wrong is given up, and says what.
    outside.world.add_branch(4, "{}").await;
    send(&hub, Method::PUT, "menus/careem/branch-4", MENU, &[]).await;
    let failed = &outside.payloads(EventType::MenuSyncFailed, 1).await[0];
    assert_eq!(
        (&failed["error"]["code"], &failed["givenUp"]),
        (&json!("PROVIDER_SETTING_MISSING"), &json!(true))
    );
    let ends = Ends {
        forwarded: 1,
        dead_lettered: 1,
        ..Ends::default()
    };
    outside.world.at_end(ends).await;
}

/// An instance that cannot read the branches, for its database or its rights are others, has the stage. It leaves the stage to
/// one that can.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_branches_leaves_the_stage_to_others() {
    let world = World::new().await;
    let short = world.settings().set("HUB_TEST_TIMES", "unfit_after=500ms");
    let unfit = Hub::start(&short.clone().set("DATABASE_SCHEMA", "nope")).await;
    eventually("it has the stage", PATIENCE, async || {
        let metrics = world.metrics(&unfit).await;
        let has_it = metrics
            .lines()
            .any(|line| line == "stage_active{stage=\"transform\"} 1");
        if has_it { Ok(()) } else { Err(unfit.log()) }
    })
    .await;
    let fit = Hub::start(&short).await;
    world.post_orders(&unfit, ids("unfit", 2)).await;
    world.log.wait_for(EventType::OrderForwarded, 2).await;
    // What was handed to the first one and not acknowledged.
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2)).await;
    world.metrics_say(&fit, "stage_active{stage=\"transform\"} 1").await;
    world.metrics_say(&unfit, "stage_active{stage=\"transform\"} 0").await;
}

/// The rows are read only if one of them has changed; every kind of change is noticed.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_read_again_only_where_it_has_changed() {
    let world = World::new().await;
    let hub = Hub::start(&world.settings().set("HUB_TEST_TIMES", "branch_refresh=100ms")).await;
    world.post_orders(&hub, ids("known", 1)).await;
    world.log.settled().await;
    // Without this column no row can be read, and no row is another one.
    let rename = |from, to| format!("ALTER TABLE branch_delivery_configs RENAME COLUMN {from} TO {to}");
    world.database.run(&rename("settings", "hidden")).await.unwrap();
    world.post_for(&hub, "nobody", "CR-homeless").await;
    world.log.wait_for(EventType::OrderDeadLettered, 1).await;
    assert!(!hub.logs_contain("cannot read the branches"));
    world.database.run(&rename("hidden", "settings")).await.unwrap();

    // Until it is read again an order may go the old way.
    let noticed = async |what: &str, merchant: &str, expected: EventType| {
        for sent in 0.. {
            assert!(sent < 50, "{what} is not noticed");
            let id = format!("CR-{what}-{sent}");
            world.post_for(&hub, merchant, &id).await;
            let events = world.log.settled().await;
            let ended = |event: &&Arc<Recorded>| event.envelope.event_type == expected;
            if events
                .iter()
                .filter(ended)
                .any(|event| event.envelope.external_order_id == id)
            {
                break;
            }
        }
    };
    world.add_branch(2, "{}").await;
    noticed("added", "merchant-2", EventType::OrderForwarded).await;
    let change = "UPDATE branch_delivery_configs SET merchant_id = 'merchant-3' WHERE branch_id = 'branch-2'";
    world.database.run(change).await.unwrap();
    noticed("changed", "merchant-3", EventType::OrderForwarded).await;
    let switch = "UPDATE delivery_providers SET is_active = NOT is_active";
    world.database.run(switch).await.unwrap();
    noticed("off", "merchant-3", EventType::OrderDeadLettered).await;
    world.database.run(switch).await.unwrap();
    noticed("on", "merchant-3", EventType::OrderForwarded).await;
    let delete = "DELETE FROM branch_delivery_configs WHERE branch_id = 'branch-2'";
    world.database.run(delete).await.unwrap();
    noticed("deleted", "merchant-3", EventType::OrderDeadLettered).await;
    // A view has no versions of rows.
    let view = "ALTER TABLE branch_delivery_configs RENAME TO configs;
        CREATE VIEW branch_delivery_configs AS SELECT * FROM configs";
    world.database.run(view).await.unwrap();
    world.add_branch(2, "{}").await;
    noticed("view", "merchant-2", EventType::OrderForwarded).await;
}

/// A change of the table's definition changes no row's version, and is noticed all the same.
#[tokio::test(flavor = "multi_thread")]
async fn all_rows_are_read_once_in_a_while() {
    let world = World::new().await;
    let times = "branch_refresh=100ms,branch_whole=1s";
    let hub = Hub::start(&world.settings().set("HUB_TEST_TIMES", times)).await;
    world.post_orders(&hub, ids("known", 1)).await;
    world.log.settled().await;
    let rename = |from, to| format!("ALTER TABLE branch_delivery_configs RENAME COLUMN {from} TO {to}");
    world.database.run(&rename("settings", "hidden")).await.unwrap();
    eventually("all rows are read again", PATIENCE, async || {
        if hub.logs_contain("cannot read the branches") {
            Ok(())
        } else {
            Err(())
        }
    })
    .await;
    world.database.run(&rename("hidden", "settings")).await.unwrap();
    world.at_end(Ends::forwarded(1)).await;
}
