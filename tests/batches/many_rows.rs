//! A batch with many new rows, which are copied into the tables.

use super::*;

/// A batch with many new rows adds them in another way than one with few. Either way each column says the same, whatever text it is given.
#[tokio::test(flavor = "multi_thread")]
async fn many_rows_at_once_are_the_same_rows() {
    /// Text with everything that means something to PostgreSQL in one of its formats.
    const ODD: &str = "a\tb\nc\rd\\e\\N \\. '\"{},\u{1}é🌮";
    let tables = Tables::new().await;
    let mut random = Random::new();
    let roots: Vec<_> = (0..80)
        .flat_map(|number| roots_of(&format!("{ODD}{number}")))
        .map(|root| Envelope {
            webhook_type: root.webhook_type.clone(),
            request: root.request.clone().map(|request| RequestFacts {
                path: format!("/{ODD}"),
                signature: Some(ODD.to_owned()),
                ..request
            }),
            ..root
        })
        .collect();
    let mut events = made_up_log_of(&mut random, &roots, 2400);
    for event in &mut events {
        let json = |text: &str| serde_json::to_string(text).unwrap().trim_matches('"').to_owned();
        let text = String::from_utf8(event.payload.to_vec()).unwrap();
        // The backend knows each order by another id.
        let text = text.replace("\"order-", &format!("\"{}-", json(&event.envelope.external_order_id)));
        event.payload = Bytes::from(text.replace("-1\"", &format!("{}-1\"", json(ODD))));
    }
    let shared: Vec<_> = events.iter().cloned().map(Arc::new).collect();
    let rows = async || {
        let mut all = Vec::new();
        for table in [
            "webhook_logs",
            "delivery_error_logs",
            "provider_order_logs",
            "hub.orders",
        ] {
            let rows = format!("SELECT t::text AS whole FROM {table} t ORDER BY 1");
            let rows = tables.database.rows(&rows).await.unwrap();
            assert!(rows.len() > 15, "{table}: {}", rows.len());
            all.push((table, rows));
        }
        all
    };
    let few_at_a_time: Vec<usize> = (1..events.len()).filter(|at| at % 7 == 0).collect();
    tables.fill(&events, &few_at_a_time).await;
    let inserted = rows().await;
    tables.count_transactions().await;
    for ends in [vec![], vec![events.len() / 2]] {
        tables.fill(&events, &ends).await;
        // PostgreSQL refused none of the many, and took none of them in another way.
        assert_eq!(tables.transactions().await, Some(ends.len() as i64 + 1));
        let differ = disagreement(&tables.database, &shared).await.unwrap();
        assert!(differ.is_empty(), "{differ:#?}\nof the log {:#?}", shown(&events));
        assert_eq!(rows().await, inserted);
    }
}

/// A row that others write while a batch is applied stays as it is, also among many.
#[tokio::test(flavor = "multi_thread")]
async fn others_write_a_row_among_many_new_ones() {
    let tables = Tables::new().await;
    let others = "
        CREATE FUNCTION first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.external_order_id = 'CR-7' AND NEW.endpoint <> '/others' THEN
                INSERT INTO webhook_logs SELECT (jsonb_populate_record(NEW, '{\"endpoint\": \"/others\"}')).*;
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER first BEFORE INSERT ON webhook_logs FOR EACH ROW EXECUTE FUNCTION first();";
    tables.database.run(others).await.unwrap();
    let events: Vec<_> = (1..=40)
        .map(|number| {
            let (order, body) = (format!("CR-{number}"), format!("{{\"n\":{number}}}"));
            let sample = Recorded::sample("careem", &order, "order_created", body.as_bytes(), noon());
            Recorded {
                sequence: number,
                ..sample
            }
        })
        .collect();
    tables.count_transactions().await;
    tables.fill(&events, &[]).await;
    assert_eq!(
        tables.transactions().await,
        Some(1),
        "one row cost the others their transaction"
    );
    let rows = "SELECT count(*) AS rows, count(*) FILTER (WHERE endpoint = '/others') AS of_others FROM webhook_logs";
    assert_eq!(
        tables.database.rows(rows).await.unwrap(),
        [json!({ "rows": 40, "of_others": 1 })]
    );
}
