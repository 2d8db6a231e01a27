//! `rebuild`: the tables from the log again, while hubs write.

use async_nats::jetstream::stream;
use serde_json::{Value, json};

use webhook_hub::event::EventType;

use crate::harness::{
    World,
    at_end::Ends,
    backend::Answer,
    hub::{Hub, Ran, Settings, run},
    ids,
    wait::{PATIENCE, eventually},
};

/// Schemas that a run makes.
const SCHEMAS: &str = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'hub\\_%' ORDER BY nspname";

/// The owner of the tables, who may read the log.
pub(super) fn owner(world: &World) -> Settings {
    world.nats.settings("hub").set("DATABASE_URL", &world.database.url)
}

/// What a command found, as a machine gets it.
pub(super) fn found(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.said()))
}

pub(super) async fn rebuild(world: &World, arguments: &[&str]) -> Value {
    let ran = run(&owner(world), &[&["--json", "rebuild"], arguments].concat()).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said());
    found(&ran)
}

/// What is said of a table.
fn of_table<'a>(rebuilt: &'a Value, name: &str) -> &'a Value {
    let mut tables = rebuilt["tables"].as_array().unwrap().iter();
    tables.find(|table| table["name"] == name).unwrap()
}

pub(super) async fn schemas(world: &World) -> Vec<Value> {
    let rows = world.database.rows(SCHEMAS).await.unwrap();
    rows.into_iter().map(|mut row| row["nspname"].take()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_table_is_made_again() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("kept", 3)).await;
    world.at_end(Ends::forwarded(3)).await;
    let damage = "UPDATE hub.orders SET state = 'ignored', flags = '{wrong}' WHERE external_order_id = 'CR-kept-0';
        DELETE FROM hub.orders WHERE external_order_id = 'CR-kept-1';
        INSERT INTO hub.orders SELECT (jsonb_populate_record(o, '{\"external_order_id\": \"CR-planted\"}')).*
            FROM hub.orders o WHERE external_order_id = 'CR-kept-2';";
    world.database.run(damage).await.unwrap();

    let plan = rebuild(&world, &["--dry-run", "hub.orders"]).await;
    assert_eq!(
        (&plan["firstSequence"], &plan["position"], &plan["obstacles"]),
        (&json!(1), &json!(9), &json!([]))
    );
    assert!(schemas(&world).await.is_empty(), "it made something");

    let rebuilt = rebuild(&world, &["hub.orders"]).await;
    let orders = of_table(&rebuilt, "hub.orders");
    assert_eq!(
        (&orders["rows"], &orders["extra"], &rebuilt["events"]),
        // With the event that records the act.
        (&json!(3), &json!(1), &json!(10)),
        "{rebuilt}"
    );
    assert_eq!(schemas(&world).await, ["hub_replaced"]);
    // The hub goes on with the new table.
    world.post_orders(&hub, ids("later", 1)).await;
    world.at_end(Ends::forwarded(4)).await;
    rebuild(&world, &["--forget"]).await;
    assert!(schemas(&world).await.is_empty());
    let acts = run(&owner(&world), &["operator", "audit", "--json"]).await;
    let acts = found(&acts)["acts"].as_array().unwrap().clone();
    let kinds: Vec<_> = acts.iter().map(|act| &act["kind"]).collect();
    assert_eq!(kinds, ["rebuild", "forget-rebuild"]);
    assert_eq!(acts[0]["result"]["counts"]["tables"], json!(["hub.orders"]));
    assert_eq!(acts[1]["result"]["counts"], json!({ "dropped": true }));
}

/// What others made of a table, and what people wrote in it, is there afterwards; and after `--undo`.
#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_a_table_stays() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.always_for("CR-refused-0", Some(Answer::status(422)));
    world.backend.always_for("CR-refused-1", Some(Answer::status(422)));
    world.post_orders(&hub, ids("refused", 2)).await;
    world.post_orders(&hub, ids("kept", 2)).await;
    world.at_end(Ends::forwarded(2).dead_lettered(2)).await;
    let role = format!("reader_{}", world.database.name());
    let platforms = format!(
        "CREATE ROLE {role}; GRANT SELECT ON webhook_logs TO {role}; GRANT UPDATE (is_resolved) ON delivery_error_logs TO {role};
         CREATE VIEW errors WITH (security_barrier) AS SELECT e.id, w.status FROM delivery_error_logs e JOIN webhook_logs w ON w.id = e.webhook_log_id;
         CREATE TABLE notes (webhook text CONSTRAINT of_webhook REFERENCES webhook_logs (id) ON DELETE CASCADE);
         INSERT INTO notes SELECT id FROM webhook_logs LIMIT 1;
         CREATE INDEX by_address ON webhook_logs (ip_address) WHERE status = 'failed';
         CREATE TABLE heard (id text);
         CREATE FUNCTION heard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO heard VALUES (NEW.id); RETURN NEW; END';
         CREATE TRIGGER hears AFTER INSERT ON webhook_logs FOR EACH ROW EXECUTE FUNCTION heard();
         COMMENT ON TABLE webhook_logs IS 'all of them';
         ALTER TABLE webhook_logs ADD COLUMN reviewed_by text;
         UPDATE webhook_logs SET reviewed_by = 'Rami', error_stack = 'at 1' WHERE external_order_id = 'CR-refused-0';
         UPDATE delivery_error_logs SET is_resolved = true, resolved_by = 'Rami', resolution_notes = 'called them'
             WHERE context->>'orderId' = 'CR-refused-0';
         INSERT INTO delivery_providers (id, code, name) VALUES ('provider-own', 'own', 'Own');
         INSERT INTO webhook_logs (id, provider_id, webhook_type, endpoint, payload) VALUES ('own', 'provider-own', 'x', '/', '{{}}');"
    );
    world.database.run(&platforms).await.unwrap();
    let shape = async || {
        let sql = "SELECT (SELECT jsonb_agg(i.indexdef ORDER BY i.indexdef) FROM pg_indexes i WHERE i.schemaname IN ('public', 'hub')) AS indexes,
            (SELECT jsonb_agg(c.conrelid::regclass || ' ' || c.conname || ' ' || pg_get_constraintdef(c.oid) || c.convalidated
                ORDER BY c.conrelid::regclass::text, c.conname) FROM pg_constraint c WHERE c.connamespace IN ('public'::regnamespace, 'hub'::regnamespace)
                AND c.contype <> 'n') AS constraints,
            (SELECT jsonb_agg(c.oid::regclass || coalesce(c.relacl::text, '') || coalesce(c.reloptions::text, '') || coalesce(obj_description(c.oid, 'pg_class'), '')
                ORDER BY c.oid::regclass::text) FROM pg_class c WHERE c.relnamespace IN ('public'::regnamespace, 'hub'::regnamespace) AND c.relkind IN ('r', 'v')) AS tables,
            (SELECT jsonb_agg(a.attacl::text ORDER BY a.attrelid::regclass::text, a.attname) FROM pg_attribute a WHERE a.attacl IS NOT NULL
                AND a.attrelid::regclass::text = 'delivery_error_logs') AS columns,
            (SELECT jsonb_agg(pg_get_triggerdef(t.oid)) FROM pg_trigger t WHERE NOT t.tgisinternal) AS triggers, pg_get_viewdef('errors'::regclass) AS view";
        world.database.rows(sql).await.unwrap().remove(0)
    };
    let content = async || {
        let sql = "SELECT (SELECT jsonb_agg(w ORDER BY w.id) FROM webhook_logs w) AS webhooks, (SELECT jsonb_agg(e ORDER BY e.id) FROM delivery_error_logs e) AS errors,
            (SELECT jsonb_agg(o ORDER BY o.id) FROM provider_order_logs o) AS orders, (SELECT jsonb_agg(o ORDER BY o.id) FROM hub.orders o) AS own,
            (SELECT jsonb_agg(v ORDER BY v.id) FROM errors v) AS view, (SELECT count(*) FROM heard) AS heard";
        world.database.rows(sql).await.unwrap().remove(0)
    };
    let before = (shape().await, content().await);
    let ran = run(&owner(&world), &["verify"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said());
    for arguments in [&[][..], &["--undo"], &["delivery_error_logs"], &["--undo"]] {
        let rebuilt = rebuild(&world, arguments).await;
        assert_eq!((shape().await, content().await), before, "{arguments:?}: {rebuilt}");
        assert_eq!(rebuilt["unchecked"], json!([]));
    }
    // The trigger is on the table that is written, and the foreign key holds for it.
    world.post_orders(&hub, ids("later", 1)).await;
    eventually("the trigger hears of the new webhook", PATIENCE, async || {
        let heard = world.database.rows("SELECT count(*) FROM heard").await.unwrap();
        let before = before.1["heard"].as_u64().unwrap();
        if heard[0]["count"] == before + 1 {
            Ok(())
        } else {
            Err(heard)
        }
    })
    .await;
    assert!(world.database.run("INSERT INTO notes VALUES ('none')").await.is_err());
}

/// The tables come back as they were, with what happened since.
#[tokio::test(flavor = "multi_thread")]
async fn undone() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("before", 2)).await;
    world.at_end(Ends::forwarded(2)).await;
    let wrong = "UPDATE webhook_logs SET endpoint = '/wrong' WHERE external_order_id = 'CR-before-0'";
    world.database.run(wrong).await.unwrap();
    rebuild(&world, &[]).await;
    world.post_orders(&hub, ids("since", 2)).await;
    world.at_end(Ends::forwarded(4)).await;
    let undone = rebuild(&world, &["--undo"]).await;
    // Those of two orders, the result of the first act, and the event before this one.
    assert_eq!(undone["events"], 6 + 2, "{undone}");
    let rows = "SELECT external_order_id FROM webhook_logs WHERE endpoint = '/wrong'";
    assert_eq!(
        world.database.rows(rows).await.unwrap(),
        [json!({ "external_order_id": "CR-before-0" })]
    );
    // Once more: the rebuilt ones are back.
    rebuild(&world, &["--undo"]).await;
    world.post_orders(&hub, ids("last", 1)).await;
    world.at_end(Ends::forwarded(5)).await;
    rebuild(&world, &["--forget"]).await;
    let ran = run(&owner(&world), &["rebuild", "--undo"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.said());
    assert!(ran.stderr.contains("nothing to undo"), "{}", ran.said());
}

/// What began before the log does is carried over, and is not compared.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_forgotten_its_beginning() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("old", 3)).await;
    world.at_end(Ends::forwarded(3)).await;
    // As if it had been long ago.
    let long_ago = "UPDATE webhook_logs SET received_at = received_at - interval '100 days', created_at = created_at - interval '100 days';
        UPDATE provider_order_logs SET created_at = created_at - interval '100 days';
        UPDATE hub.orders SET first_at = first_at - interval '100 days'";
    world.database.run(long_ago).await.unwrap();
    world.post_orders(&hub, ids("new", 2)).await;
    world.log.settled().await;
    let rows = async || {
        let sql = "SELECT (SELECT jsonb_agg(w ORDER BY w.id) FROM webhook_logs w) AS webhooks,
            (SELECT jsonb_agg(o ORDER BY o.id) FROM provider_order_logs o) AS orders, (SELECT jsonb_agg(o ORDER BY o.id) FROM hub.orders o) AS own";
        world.database.rows(sql).await.unwrap().remove(0)
    };
    let position = async || {
        world
            .database
            .rows("SELECT position FROM hub.cursors")
            .await
            .unwrap()
            .remove(0)
    };
    eventually("the tables are at the end of the log", PATIENCE, async || {
        if position().await["position"] == 15 {
            Ok(())
        } else {
            Err(position().await)
        }
    })
    .await;
    let before = rows().await;
    let provision = world.nats.provision().await;
    let log = provision.get_stream("EVENTS").await.unwrap();
    // All of the first two orders, and the webhook of the third, of which later events are left.
    let third = world.log.wait_for(EventType::WebhookReceived, 3).await[2].sequence;
    let config = log.cached_info().config.clone();
    let kept = i64::try_from(15 - third).unwrap();
    // Afterwards it forgets nothing more.
    for max_messages in [kept, -1] {
        let forgetting = stream::Config {
            max_messages,
            discard: stream::DiscardPolicy::Old,
            ..config.clone()
        };
        provision.update_stream(forgetting).await.unwrap();
    }
    let rebuilt = rebuild(&world, &[]).await;
    assert_eq!(rebuilt["firstSequence"], third + 1, "{rebuilt}");
    assert!(
        of_table(&rebuilt, "webhook_logs")["older"].as_u64() >= Some(3),
        "{rebuilt}"
    );
    assert_eq!(rows().await, before);
    for arguments in [
        &["verify"][..],
        &["verify", "--from", "8"],
        &["verify", "--from", "8", "--to", "12"],
    ] {
        let ran = run(&owner(&world), arguments).await;
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.said());
    }
}

/// The owner of the tables is no superuser, and the hub runs as the least role: its rights are there afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn as_an_owner_without_more_rights() {
    let world = World::new().await;
    let (owner, least) = (
        format!("owner_{}", world.database.name()),
        format!("least_{}", world.database.name()),
    );
    let roles = format!(
        "CREATE ROLE {owner} LOGIN; CREATE ROLE {least} LOGIN; GRANT CREATE ON DATABASE {0} TO {owner}; GRANT ALL ON SCHEMA public TO {owner};
         ALTER SCHEMA hub OWNER TO {owner};
         DO $$ DECLARE t regclass; BEGIN
             FOR t IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace IN ('public'::regnamespace, 'hub'::regnamespace) LOOP
                 EXECUTE format('ALTER TABLE %s OWNER TO {owner}', t);
             END LOOP;
         END $$;",
        world.database.name()
    );
    world.database.run(&roles).await.unwrap();
    let url_of = |role: &str| world.database.url.replacen("admin@", &format!("{role}@"), 1);
    let settings = world.nats.settings("hub").set("DATABASE_URL", url_of(&owner));
    run(&settings, &["migrate", "--grant", &least]).await.expect_success();
    let hub = Hub::start(&world.settings().set("DATABASE_URL", url_of(&least))).await;
    world.post_orders(&hub, ids("before", 2)).await;
    world.at_end(Ends::forwarded(2)).await;
    run(&settings, &["rebuild"]).await.expect_success();
    run(&settings, &["verify"]).await.expect_success();
    world.post_orders(&hub, ids("after", 2)).await;
    world.at_end(Ends::forwarded(4)).await;
    run(&settings, &["rebuild", "--undo"]).await.expect_success();
    run(&settings, &["rebuild", "--forget"]).await.expect_success();
    // The role of the hub may not, and is told what is missing.
    let ran = run(
        &world.nats.settings("hub").set("DATABASE_URL", url_of(&least)),
        &["rebuild"],
    )
    .await;
    assert_eq!(ran.code, Some(2), "{}", ran.said());
    assert!(
        ran.stderr.contains(&format!("the role {least} is not its owner")),
        "{}",
        ran.said()
    );
    world.post_orders(&hub, ids("last", 1)).await;
    world.at_end(Ends::forwarded(5)).await;
}

/// PostgreSQL vacuums the tables meanwhile, which takes minutes. It gives way.
#[tokio::test(flavor = "multi_thread")]
async fn autovacuum_gives_way() {
    let world = World::with_autovacuum().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("kept", 3)).await;
    world.at_end(Ends::forwarded(3)).await;
    // A thousand pages of deleted rows, and ten pages a second.
    let slow = "
        ALTER TABLE webhook_logs SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 1,
            autovacuum_vacuum_scale_factor = 0);
        INSERT INTO webhook_logs (id, provider_id, webhook_type, external_order_id, endpoint, method, headers, payload, ip_address, received_at, updated_at)
            SELECT 'deleted-' || n, provider_id, webhook_type, external_order_id, repeat(md5(n::text), 60), method, headers, payload, ip_address, received_at, updated_at
            FROM (SELECT * FROM webhook_logs LIMIT 1) AS one, generate_series(1, 1500) n;
        DELETE FROM webhook_logs WHERE id LIKE 'deleted-%';";
    world
        .database
        .run(slow)
        .await
        .unwrap_or_else(|error| panic!("{error:?}"));
    let is_vacuumed = "SELECT pid FROM pg_stat_progress_vacuum WHERE relid = 'webhook_logs'::regclass";
    eventually("the table is vacuumed", PATIENCE, async || {
        let rows = world.database.rows(is_vacuumed).await.unwrap();
        rows.into_iter().next().ok_or("it is not")
    })
    .await;
    let impatient = owner(&world).set("HUB_TEST_TIMES", "rebuild_swap=10s");
    let ran = run(&impatient, &["--json", "rebuild"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said());
    world.post_orders(&hub, ids("later", 1)).await;
    world.at_end(Ends::forwarded(4)).await;
}

/// Two at once, and what cannot be replaced: it says so and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("kept", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    world
        .database
        .run("CREATE MATERIALIZED VIEW seen AS SELECT id FROM webhook_logs")
        .await
        .unwrap();
    for (arguments, code) in [(&["rebuild"][..], 2), (&["rebuild", "--dry-run"], 1)] {
        let ran = run(&owner(&world), arguments).await;
        assert_eq!(ran.code, Some(code), "{}", ran.said());
        assert!(
            ran.said()
                .contains("webhook_logs cannot be replaced: rule _RETURN on materialized view seen refers to it"),
            "{}",
            ran.said()
        );
    }
    rebuild(&world, &["hub.orders", "provider_order_logs"]).await;
    let ran = run(&owner(&world), &["rebuild", "orders"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.said());

    // Another one runs: it has this lock.
    world
        .database
        .run("SELECT pg_advisory_lock(8604232033023192164)")
        .await
        .unwrap();
    let ran = run(&owner(&world), &["verify"]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.said());
    assert!(
        ran.stderr.contains("another `rebuild` or `verify` runs"),
        "{}",
        ran.said()
    );
}
