//! `verify`: it names exactly what is not as the log says.

use serde_json::{Value, json};

use super::rebuild::{found, owner, rebuild};
use crate::harness::{World, at_end::Ends, backend::Answer, hub::run, ids};

/// What it found about a table.
fn of_table(found: &Value, name: &str) -> Value {
    let mut tables = found["tables"].as_array().unwrap().iter();
    tables.find(|table| table["name"] == name).unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_corrupted_one_deleted_one_planted() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.backend.always_for("CR-refused-0", Some(Answer::status(422)));
    world.post_orders(&hub, ids("refused", 1)).await;
    world.post_orders(&hub, ids("kept", 4)).await;
    world.at_end(Ends::forwarded(4).dead_lettered(1)).await;
    let owner = owner(&world);
    run(&owner, &["verify"]).await.expect_success();
    let damage = "UPDATE webhook_logs SET status = 'failed', error_message = 'secret-word' WHERE external_order_id = 'CR-kept-0';
        DELETE FROM provider_order_logs WHERE external_order_id = 'CR-kept-1';
        INSERT INTO delivery_error_logs (id, provider_id, error_type, error_message)
            VALUES ('planted', 'provider-careem', 'temporary', 'x');";
    let id_of = async |table: &str, order: &str| {
        let sql = format!("SELECT id FROM {table} WHERE external_order_id = '{order}'");
        world.database.rows(&sql).await.unwrap().remove(0)["id"].take()
    };
    let (corrupted, deleted) = (
        id_of("webhook_logs", "CR-kept-0").await,
        id_of("provider_order_logs", "CR-kept-1").await,
    );
    world.database.run(damage).await.unwrap();

    let ran = run(&owner, &["verify", "--json"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    assert!(!ran.said().contains("secret-word"));
    let found = found(&ran);
    let nothing = json!({ "count": 0, "first": [] });
    let one = |what: Value| json!({ "count": 1, "first": [what] });
    let expected = [
        (
            "webhook_logs",
            &nothing,
            &nothing,
            &one(json!({ "key": corrupted, "columns": ["status", "error_message"] })),
        ),
        ("delivery_error_logs", &nothing, &one(json!("planted")), &nothing),
        ("provider_order_logs", &one(deleted.clone()), &nothing, &nothing),
        ("hub.orders", &nothing, &nothing, &nothing),
    ];
    for (name, missing, extra, different) in expected {
        let table = of_table(&found, name);
        assert_eq!(
            (&table["missing"], &table["extra"], &table["different"]),
            (missing, extra, different),
            "{name}"
        );
    }
    // Where it was, and was not, looked.
    let ran = run(&owner, &["verify", "hub.orders"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said());
    let ran = run(&owner, &["verify", "--provider", "talabat"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.said());
    let text = run(&owner, &["verify", "webhook_logs"]).await;
    let line = format!(
        "webhook_logs: different  {} (status, error_message)\n",
        corrupted.as_str().unwrap()
    );
    assert!(text.stdout.contains(&line), "{}", text.said());

    let rebuilt = rebuild(&world, &[]).await;
    assert_eq!(rebuilt["tables"][1]["extra"], 1, "{rebuilt}");
    run(&owner, &["verify"]).await.expect_success();
    world.at_end(Ends::forwarded(4).dead_lettered(1)).await;
}
