//! The running hub works with the least rights, those of `migrate --print-grants`, and names one that is taken away.

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;
use webhook_hub::{
    config,
    database::{Database, query},
};

use crate::harness::{
    QUICK_TAKEOVER, World,
    at_end::Ends,
    backend::Answer,
    hub::{Hub, Settings, run},
    ids,
    wait::{PATIENCE, eventually},
};

/// Rights, what they are on, and how each is named where it is missing. Those of one group are taken away together.
type Taken = &'static [(&'static str, &'static str, &'static str)];
const TAKEN: [Taken; 3] = [
    &[("USAGE", "SCHEMA public", "lacks USAGE on public")],
    &[("USAGE", "SCHEMA hub", "permission denied for schema hub")],
    &[
        (
            "SELECT (webhook_secret)",
            "public.branch_delivery_configs",
            "SELECT (webhook_secret) on \\\"public\\\".branch_delivery_configs",
        ),
        (
            "SELECT (code)",
            "public.delivery_providers",
            "SELECT (code) on \\\"public\\\".delivery_providers",
        ),
        ("INSERT", "public.webhook_logs", "INSERT on \\\"public\\\".webhook_logs"),
        (
            "UPDATE",
            "public.delivery_error_logs",
            "UPDATE on \\\"public\\\".delivery_error_logs",
        ),
        (
            "SELECT",
            "public.provider_order_logs",
            "SELECT on \\\"public\\\".provider_order_logs",
        ),
        ("UPDATE", "hub.cursors", "UPDATE on hub.cursors"),
        ("DELETE", "hub.skipped_events", "DELETE on hub.skipped_events"),
    ],
];

/// A role with the least rights, and the settings of a hub that goes by it.
async fn least(world: &World, also: &[&str]) -> (String, Settings) {
    let role = format!("least_{}", Uuid::new_v4().simple());
    // Rights of PUBLIC are not the role's own.
    let create = format!("CREATE ROLE {role} LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC");
    world.database.run(&create).await.unwrap();
    grant(world, &role, also).await;
    let url = world.database.url.replace("//admin@", &format!("//{role}@"));
    (role, world.settings_on_fixed_port().set("DATABASE_URL", url))
}

/// What the command prints, as the owner runs it.
async fn grant(world: &World, role: &str, also: &[&str]) {
    let owner = Settings::empty().set("DATABASE_URL", &world.database.url);
    let arguments = [&["migrate", "--print-grants", role], also].concat();
    let printed = run(&owner, &arguments).await.expect_success();
    world.database.run(&printed.stdout).await.unwrap();
}

/// Rows, errors that are overcome, a provider that has no row, an event that is kept for later.
#[tokio::test(flavor = "multi_thread")]
async fn the_least_role_does_all_that_a_hub_does() {
    let world = World::new().await;
    let (role, settings) = least(&world, &[]).await;
    let rename = "UPDATE delivery_providers SET code = 'former'";
    world.database.run(rename).await.unwrap();
    let panics = settings.clone().set("HUB_TEST_PANIC_AT", "projection:CR-least-2");
    let hub = Hub::start(&panics).await;
    eventually("the provider has a row", PATIENCE, async || {
        let query = "SELECT id FROM delivery_providers WHERE code = 'careem'";
        let rows = world.database.rows(query).await.map_err(|error| error.to_string())?;
        if rows.is_empty() { Err(hub.log()) } else { Ok(()) }
    })
    .await;
    let branch =
        "UPDATE branch_delivery_configs SET provider_id = (SELECT id FROM delivery_providers WHERE code = 'careem')";
    world.database.run(branch).await.unwrap();
    world.backend.next_for("CR-least-0", [Answer::status(503)]);
    world.post_orders(&hub, ids("least", 3)).await;
    world.log.settled().await;
    eventually("an event is noted", PATIENCE, async || {
        let rows = world.database.rows("SELECT sequence FROM hub.skipped_events").await;
        let rows = rows.map_err(|error| error.to_string())?;
        if rows.len() == 3 {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    })
    .await;
    assert!(hub.terminate().await.0.success());
    let hub = Hub::start(&settings).await;
    world.at_end(Ends::forwarded(3)).await;
    assert!(!hub.logs_contain("permission denied"), "{}", hub.log());
    assert!(hub.terminate().await.0.success());
    grant(&world, &role, &["--retention"]).await;
    every_statement_is_allowed(&settings).await;
    // What is for the migrations' role it leaves to that one, and says so.
    let older = "DROP TABLE hub.platform; DELETE FROM hub.migrations WHERE name = '0007_platform_schema'";
    world.database.run(older).await.unwrap();
    let ran = run(&settings, &["migrate"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert!(
        ran.said().contains("run webhook-hub migrate with one that may"),
        "{}",
        ran.said()
    );
}

/// PostgreSQL checks rights when a statement begins to run, which EXPLAIN makes it do.
async fn every_statement_is_allowed(settings: &Settings) {
    let settings = config::Database::from_environment(&settings.environment()).unwrap();
    let connection = Database::new(&settings).unwrap().own().await.unwrap();
    for (number, sql) in query::all().enumerate() {
        let parameters = connection.prepare(sql).await.unwrap().params().len();
        let prepare = format!("PREPARE one_{number} AS {sql}");
        connection.batch_execute(&prepare).await.unwrap();
        let nulls = vec!["NULL"; parameters].join(", ");
        let arguments = if parameters == 0 {
            String::new()
        } else {
            format!("({nulls})")
        };
        let explain = format!("EXPLAIN EXECUTE one_{number}{arguments}");
        if let Err(error) = connection.batch_execute(&explain).await {
            panic!("{error} for\n{sql}");
        }
    }
}

/// Each right that is taken away is named, the tables wait, and orders go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_is_named() {
    let world = World::new().await;
    let (role, settings) = least(&world, &[]).await;
    let settings = settings.set("HUB_TEST_TIMES", QUICK_TAKEOVER);
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("known", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    for (number, taken) in TAKEN.iter().enumerate() {
        for (right, on, named) in *taken {
            assert!(!hub.logs_contain(named), "{}", hub.log());
            world
                .database
                .run(&format!("REVOKE {right} ON {on} FROM {role}"))
                .await
                .unwrap();
        }
        world.tables_change_hands().await;
        for (_, _, named) in *taken {
            eventually(&format!("the log says {named}"), PATIENCE, async || {
                if hub.logs_contain(named) {
                    Ok(())
                } else {
                    Err(hub.log())
                }
            })
            .await;
        }
        // As what it is, and no trouble with the log.
        for (class, is_met) in [("missing_right", 1), ("log", 0)] {
            let line = format!("database_trouble{{class=\"{class}\"}} {is_met}");
            world.metrics_say(&hub, &line).await;
        }
        // Orders depend on none of this.
        world.post_orders(&hub, ids(&format!("without-{number}"), 1)).await;
        world.backend.wait_for(number + 2).await;
        for (right, on, _) in *taken {
            let grant = format!("GRANT {right} ON {on} TO {role}");
            world.database.run(&grant).await.unwrap();
        }
    }
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(TAKEN.len() + 1)).await;
}

/// A row of each table that is old and has ended.
const OLD: &str = "
    INSERT INTO delivery_error_logs (id, provider_id, error_type, error_message, is_resolved, created_at, updated_at)
    VALUES ('old-error', 'provider-careem', 'temporary', 'x', true, '2024-01-01', '2024-01-01');
    INSERT INTO provider_order_logs (id, order_id, provider_id, branch_id, company_id, external_order_id, provider_status,
        mapped_status, created_at, updated_at)
    VALUES ('old-order', 'o', 'provider-careem', 'b', 'c', 'x', 'x', 'delivered', '2024-01-01', '2024-01-01')";

/// RETENTION_… is set and the role may not delete: the tables are written, what is refused is shown with what grants it, and it ends
/// with the grant, table by table.
#[tokio::test(flavor = "multi_thread")]
async fn retention_without_the_right_to_delete_is_refused_alone() {
    let world = World::new().await;
    world.database.run(OLD).await.unwrap();
    let (role, settings) = least(&world, &[]).await;
    let settings = settings
        .set("RETENTION_DELIVERY_ERROR_LOGS", "360d")
        .set("RETENTION_PROVIDER_ORDER_LOGS", "360d")
        .set("HUB_TEST_TIMES", "look_for_rights=100ms");
    let hub = Hub::start(&settings).await;
    let is_refused = async |table: &str, refused: u8| {
        let line = format!("retention_refused{{table=\"{table}\"}} {refused}");
        world.metrics_say(&hub, &line).await;
    };
    let deleted = async |table: &str| {
        let line = format!("retention_deleted_rows_total{{table=\"{table}\"}} 1");
        world.metrics_say(&hub, &line).await;
    };
    let health = async || {
        let url = format!("{}/health", hub.private_url());
        world.careem.request(Method::GET, &url).await.json()
    };
    for table in ["delivery_error_logs", "provider_order_logs"] {
        is_refused(table, 1).await;
    }
    let shown = health().await;
    assert_eq!(
        (
            &shown["status"],
            &shown["checks"]["retention"],
            &shown["checks"]["tables"]
        ),
        (&"degraded".into(), &"unhealthy".into(), &"healthy".into()),
        "{shown}"
    );
    assert_eq!(shown["tables"]["trouble"], Value::Null, "{shown}");
    let why = shown["tables"]["retentionRefused"]["provider_order_logs"]
        .as_str()
        .unwrap();
    for said in [
        "DELETE on \"public\".provider_order_logs",
        &format!("webhook-hub migrate --print-grants {role} --retention"),
    ] {
        assert!(why.contains(said), "{why}");
    }
    hub.says("old rows stay: RETENTION_… is set, but the role may not delete them")
        .await;
    world.post_orders(&hub, ids("kept", 2)).await;
    let events = world.log.settled().await;
    eventually("the tables are written", PATIENCE, async || {
        let rows = world
            .database
            .rows("SELECT id FROM webhook_logs WHERE status = 'completed'")
            .await;
        let rows = rows.map_err(|error| error.to_string())?;
        if rows.len() == 2 {
            Ok(())
        } else {
            Err(format!("{rows:?} of {} events", events.len()))
        }
    })
    .await;
    let delete = format!("GRANT DELETE ON delivery_error_logs TO {role}");
    world.database.run(&delete).await.unwrap();
    deleted("delivery_error_logs").await;
    is_refused("delivery_error_logs", 0).await;
    is_refused("provider_order_logs", 1).await;
    grant(&world, &role, &["--retention"]).await;
    deleted("provider_order_logs").await;
    is_refused("provider_order_logs", 0).await;
    assert_eq!(health().await["status"], "healthy");
    world.at_end(Ends::forwarded(2)).await;
}
