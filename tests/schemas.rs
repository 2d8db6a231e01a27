//! Whose tables the hub writes: those of `DATABASE_SCHEMA`, whatever the role is called and whatever `search_path` says. And which
//! versions of the schema it works with.

use serde_json::{Value, json};

use crate::harness::{
    QUICK_TAKEOVER, World,
    at_end::Ends,
    hub::{Hub, Settings, run},
    ids,
    servers::Database,
};

/// The tables of these names that a schema has, but for the hub's own.
async fn tables_in(database: &Database, schema: &str) -> Vec<Value> {
    let query = format!(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = '{schema}'
         AND (table_schema, table_name) <> ('hub', 'orders')
         AND table_name IN ('webhook_logs', 'orders', 'delivery_error_logs', 'provider_order_logs', 'delivery_providers')"
    );
    database.rows(&query).await.unwrap()
}

/// PostgreSQL looks for a name in the schema of the role's own name first, which for a role `hub` is where the hub keeps its
/// books. It writes the platform's tables all the same; what earlier versions wrote beside them is made up for from the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_named_hub() {
    let world = World::new().await;
    // A new machine, which has no tables yet. Roles are the whole server's.
    let statements = "DO $$ BEGIN CREATE ROLE hub LOGIN SUPERUSER; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
         DROP SCHEMA hub CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public;";
    world.database.run(statements).await.unwrap();
    let url = world.database.url.replace("//admin@", "//hub@");
    let settings = world.settings_on_fixed_port().set("DATABASE_URL", url);
    run(&settings, &["migrate"]).await.expect_success();
    assert_eq!(tables_in(&world.database, "hub").await, Vec::<Value>::new());
    let restaurant = "INSERT INTO delivery_providers (id, code, name) VALUES ('provider-careem', 'careem', 'Careem');
         INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id)
         VALUES ('config-1', 'branch-uuid', 'provider-careem', 'company-uuid', 'merchant-1')";
    world.database.run(restaurant).await.unwrap();
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("named", 3)).await;
    world.at_end(Ends::forwarded(3)).await;
    assert!(hub.terminate().await.0.success());
    // As an earlier version left it: a position that is about tables in hub, and none of the rows in the platform's.
    let earlier = "CREATE TABLE hub.webhook_logs (LIKE public.webhook_logs);
         DROP TABLE hub.platform;
         DELETE FROM hub.migrations WHERE name = '0007_platform_schema';
         DELETE FROM public.provider_order_logs; DELETE FROM public.webhook_logs;";
    world.database.run(earlier).await.unwrap();
    let _hub = Hub::start(&settings).await;
    world.at_end(Ends::forwarded(3)).await;
}

/// The platform's tables are in a schema with another name. Without that setting the hub creates no tables beside them.
#[tokio::test(flavor = "multi_thread")]
async fn the_platforms_tables_are_in_another_schema() {
    let world = World::new().await;
    let moved = "DROP SCHEMA hub CASCADE; ALTER SCHEMA public RENAME TO \"shop.1\"; CREATE SCHEMA public;";
    world.database.run(moved).await.unwrap();
    // What the tests themselves read.
    world.database.run("SET search_path = \"shop.1\"").await.unwrap();
    let url = &world.database.url;
    let ran = run(&Settings::empty().set("DATABASE_URL", url), &["migrate"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert!(
        ran.said().contains("set DATABASE_SCHEMA") && ran.said().contains("in the schema shop.1"),
        "{}",
        ran.said()
    );
    assert_eq!(tables_in(&world.database, "public").await, Vec::<Value>::new());
    let by_variable = world.settings().set("DATABASE_SCHEMA", "shop.1");
    run(&by_variable, &["migrate"]).await.expect_success();
    world.has_tables_by(&by_variable);
    let hub = Hub::start(&by_variable).await;
    world.post_orders(&hub, ids("moved", 2)).await;
    world.at_end(Ends::forwarded(2)).await;
    assert!(hub.terminate().await.0.success());
    // Prisma's parameter is the same thing, and the two must not contradict each other.
    let by_url = world.settings().set("DATABASE_URL", format!("{url}?schema=shop.1"));
    let both = run(&by_url.clone().set("DATABASE_SCHEMA", "public"), &["migrate"]).await;
    assert_eq!(both.code, Some(1), "{}", both.said());
    assert!(both.said().contains("DATABASE_SCHEMA"), "{}", both.said());
    let hub = Hub::start(&by_url).await;
    world.post_orders(&hub, ids("by-url", 2)).await;
    world.at_end(Ends::forwarded(4)).await;
    drop(hub);
    // A second hub on other tables of this database would share the first one's position.
    world
        .database
        .run("DROP SCHEMA public; ALTER SCHEMA \"shop.1\" RENAME TO second")
        .await
        .unwrap();
    let second = Settings::empty()
        .set("DATABASE_URL", url)
        .set("DATABASE_SCHEMA", "second");
    let ran = run(&second, &["migrate"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert!(
        ran.said().contains("keeps the books of the schema shop.1"),
        "{}",
        ran.said()
    );
}

/// A newer version migrates beside a running older one: the older one goes on, unless the migration says that it cannot.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_version_migrates_beside_an_older_one() {
    let world = World::new().await;
    let hub = Hub::start(&world.settings().set("HUB_TEST_TIMES", QUICK_TAKEOVER)).await;
    world.post_orders(&hub, ids("before", 2)).await;
    world.at_end(Ends::forwarded(2)).await;
    let additive = "INSERT INTO hub.migrations (name, checksum, compatible_from, applied_by)
                    VALUES ('9001_additive', 'x', '0004_writer', '9.0.0')";
    world.database.run(additive).await.unwrap();
    world.tables_change_hands().await;
    world.post_orders(&hub, ids("additive", 2)).await;
    // What the writer had pulled when it lost the tables is read from the log, and acknowledged when it is handed out again.
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(4)).await;
    let command = Settings::empty().set("DATABASE_URL", &world.database.url);
    run(&command, &["migrate"]).await.expect_success();
    let breaking = "BEGIN;
                    INSERT INTO hub.migrations (name, checksum, compatible_from, applied_by)
                    VALUES ('9002_breaking', 'x', '9002_breaking', '9.1.0');
                    UPDATE hub.cursors SET holder = 'migration', held_until = clock_timestamp() + interval '500ms';
                    COMMIT";
    world.database.run(breaking).await.unwrap();
    let position = "SELECT position FROM hub.cursors";
    let before = world.database.rows(position).await.unwrap();
    world.post_orders(&hub, ids("breaking", 2)).await;
    world.backend.wait_for(6).await;
    hub.says("9002_breaking is not known").await;
    let ran = run(&command, &["migrate"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert!(ran.said().contains("newer version (9.1.0)"), "{}", ran.said());
    assert_eq!(
        world.database.rows(position).await.unwrap(),
        before,
        "an older version wrote the tables"
    );
    world
        .database
        .run("DELETE FROM hub.migrations WHERE name LIKE '900%'")
        .await
        .unwrap();
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(6)).await;
    assert_eq!(
        world.database.rows("SELECT count(*) FROM hub.platform").await.unwrap(),
        [json!({ "count": 1 })]
    );
}
