//! `orders list` on many orders: each filter reads an index, pages join without gaps, and counts are exact up to 1,000.

use std::collections::BTreeSet;

use serde_json::Value;
use webhook_hub::database::query;

use crate::harness::{
    hub::{Settings, run},
    servers::{Cluster, Database},
};

/// Orders of the table. Of 100 one is undelivered, one was ignored, and one is of a rare provider; branches have 100 each.
const ORDERS: usize = 100_000;

async fn filled() -> Database {
    let database = Cluster::shared().await.database().await;
    let rows = format!(
        "INSERT INTO hub.orders (
             external_order_id, provider, id, branch_id, company_id, order_number, display_id, order_id, state, first_at, last_at,
             forwarded_at, undelivered_since, given_up_at, attempts, cause_stage, cause_code, deadline, is_test, flags, last_sequence
         )
         SELECT 'CR-' || i, CASE i % 100 WHEN 7 THEN 'rare' ELSE 'careem' END, md5('order' || i)::uuid, 'branch-' || i % 1000,
             'company-1', 'CAREEM-' || i, '#' || i, CASE WHEN i % 100 > 1 THEN 'order-' || i END,
             CASE i % 100 WHEN 0 THEN (ARRAY['waiting', 'given_up'])[1 + i / 100 % 2] WHEN 1 THEN 'ignored' ELSE 'forwarded' END,
             now() - interval '1 s' * ({ORDERS} - i), now(), CASE WHEN i % 100 > 1 THEN now() END,
             CASE WHEN i % 100 = 0 THEN now() - interval '1 s' * ({ORDERS} - i) END,
             CASE WHEN i % 200 = 100 THEN now() END, 1, CASE WHEN i % 100 = 0 THEN 'forward' END,
             CASE i % 100 WHEN 0 THEN 'BACKEND_' || 500 + i / 100 % 4 WHEN 1 THEN 'TEST_ORDER' END,
             now() - interval '1 s' * ({ORDERS} - i) + interval '10 min', false, '{{}}', i
         FROM generate_series(1, {ORDERS}) i;
         INSERT INTO hub.projections (name, version, position, era) VALUES ('orders', 1, {ORDERS}, 0);
         ANALYZE hub.orders;"
    );
    database.run(&rows).await.unwrap();
    database
}

fn settings(database: &Database) -> Settings {
    Settings::empty().set("DATABASE_URL", &database.url)
}

/// A page as JSON, and the exit status.
async fn page(database: &Database, args: &[&str]) -> (Value, Option<i32>) {
    let args = [&["orders", "list", "--json"], args].concat();
    let ran = run(&settings(database), &args).await;
    let page = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.said()));
    (page, ran.code)
}

/// How PostgreSQL answers a statement with these values, in a session without any settings of the hub.
async fn plan(client: &tokio_postgres::Client, sql: &str, values: &str) -> String {
    let prepare = format!("SET plan_cache_mode = force_custom_plan; DEALLOCATE ALL; PREPARE asked AS {sql}");
    client.batch_execute(&prepare).await.unwrap();
    let explain = format!("EXPLAIN EXECUTE asked({values})");
    let rows = client.query(&explain, &[]).await.unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    lines.join("\n")
}

/// The values of `$1` to `$10`: NULL but for those that are named.
fn values(set: &[(usize, &str)]) -> String {
    let value = |place: usize| {
        let named = set.iter().find(|(at, _)| *at == place);
        named.map_or("NULL", |(_, value)| value)
    };
    (1..=10).map(value).collect::<Vec<_>>().join(", ")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_reads_an_index() {
    let database = filled().await;
    let (client, connection) = tokio_postgres::connect(&database.url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let cursor = "now() - interval '1 h', '00000000-0000-0000-0000-000000000000'";
    let undelivered = (8, "true");
    for (name, filter, index) in [
        ("none", &[][..], "orders_first_at"),
        ("provider", &[(1, "'rare'")], "orders_provider"),
        ("branch", &[(2, "'branch-7'")], "orders_branch"),
        ("forwarded", &[(3, "'{forwarded}'")], "orders_first_at"),
        ("ignored", &[(3, "'{ignored}'")], "orders_ignored"),
        ("cause", &[(4, "'BACKEND_502'")], "orders_cause"),
        ("since", &[(5, "now() - interval '1 min'")], "orders_first_at"),
        ("until", &[(6, "now() - interval '20 h'")], "orders_first_at"),
        ("provider's id", &[(7, "'CR-77'")], "orders_pkey"),
        ("any id", &[(7, "'order-77'")], "orders_order_id"),
        ("undelivered", &[undelivered], "orders_undelivered"),
        ("waiting", &[(3, "'{waiting}'"), undelivered], "orders_undelivered"),
        (
            "older than",
            &[undelivered, (9, "now() - interval '20 h'")],
            "orders_undelivered",
        ),
        ("deadline", &[undelivered, (10, "now()")], "orders_undelivered"),
    ] {
        let which = values(filter);
        let list = if filter.contains(&undelivered) {
            query::ORDERS_WAITING_LONGEST
        } else {
            query::ORDERS_NEWEST
        };
        for (kind, sql, rest) in [
            ("first page", list, "NULL, NULL, 101"),
            ("later page", list, &format!("{cursor}, 101")),
            ("count", query::ORDERS_COUNTED, "1001"),
        ] {
            let plan = plan(&client, sql, &format!("{which}, {rest}")).await;
            // To count up to a thousand of nearly all rows the first ones do.
            let any_rows = kind == "count" && ["none", "forwarded"].contains(&name);
            assert!(any_rows || !plan.contains("Seq Scan"), "{name}, {kind}: {plan}");
            let by_another = kind == "count" || filter.contains(&(7, "'CR-77'"));
            assert!(by_another || plan.contains(index), "{name}, {kind}: {index} in {plan}");
        }
    }
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn pages_join_and_counts_are_exact_up_to_a_thousand() {
        let database = filled().await;
        for (args, expected) in [
            (&["--undelivered"][..], ORDERS / 100),
            (&["--branch", "branch-7"], ORDERS / 1000),
            (&["--state", "given_up"], ORDERS / 200),
            (&["--cause", "backend_502"], ORDERS / 400),
            (&["--id", "order-77"], 1),
            (&["--id", "CAREEM-77"], 1),
            (&["--id", "#77"], 1),
            (&["--id", "CR-77"], 1),
            (&["--id", "CR-none"], 0),
            // All but those of the last ten minutes are past their deadline.
            (&["--deadline-within", "0s"], ORDERS / 100 - 6),
            (&["--older-than", "6h"], (ORDERS - 6 * 3600) / 100),
        ] {
            let (mut ids, mut after) = (Vec::new(), None::<String>);
            loop {
                let cursor = after.iter().flat_map(|after| ["--after", after]);
                let args: Vec<_> = args.iter().copied().chain(["--limit", "170"]).chain(cursor).collect();
                let (page, _) = page(&database, &args).await;
                assert_eq!(page["count"]["orders"], expected, "{args:?}");
                assert_eq!(page["count"]["isMore"], false, "{args:?}");
                let orders = page["orders"].as_array().unwrap();
                ids.extend(orders.iter().map(|order| order["id"].as_str().unwrap().to_owned()));
                match page["next"].as_str() {
                    Some(next) => after = Some(next.to_owned()),
                    None => break,
                }
            }
            assert_eq!(ids.len(), expected, "{args:?}");
            assert_eq!(
                ids.iter().collect::<BTreeSet<_>>().len(),
                expected,
                "{args:?}: none twice"
            );
        }
        let (newest, code) = page(&database, &["--limit", "1"]).await;
        assert_eq!(newest["orders"][0]["externalOrderId"], format!("CR-{ORDERS}"));
        assert_eq!((&newest["count"]["orders"], code), (&1000.into(), Some(0)));
        assert_eq!(newest["count"]["isMore"], true);
        let (oldest, code) = page(&database, &["--undelivered", "--limit", "1"]).await;
        assert_eq!(oldest["orders"][0]["externalOrderId"], "CR-100");
        assert_eq!(code, Some(1), "what is over needs a person");
        assert_eq!(oldest["count"]["givenUp"], ORDERS / 200);
        // The other tables are ahead: this one is still being made.
        assert_eq!(oldest["isIncomplete"], false);
        let ahead =
            format!("INSERT INTO hub.cursors (name, position, moved_at) VALUES ('tables', {ORDERS} + 1, now())");
        database.run(&ahead).await.unwrap();
        let (behind, _) = page(&database, &["--limit", "1"]).await;
        assert_eq!(behind["isIncomplete"], true);
    }
}
