//! A process is frozen and does not report it: the instance that writes the tables, or PostgreSQL behind a connection.

use std::{path::Path, time::Duration};

use serde_json::Value;
use tokio::process::Command;
use webhook_hub::{
    config::{self, Environment},
    database,
};

use crate::harness::{
    World,
    at_end::Ends,
    careem::order,
    ids,
    wait::{PATIENCE, eventually},
};

/// Time for a lease to run out, or a deadline to pass, and for another instance to take over, on a busy machine, too.
const REPLACED: Duration = Duration::from_secs(30);

/// For what must not wait until the server hands it out again.
const IN_SECONDS: Duration = Duration::from_secs(10);

impl World {
    /// Waits until the row of an order's webhook says `completed`.
    async fn row_completed(&self, order: &str, within: Duration) {
        eventually(&format!("the row of {order} is completed"), within, async || {
            let query = format!("SELECT status FROM webhook_logs WHERE external_order_id = '{order}'");
            let rows = self.database.rows(&query).await.map_err(|error| error.to_string())?;
            let status = rows.first().map(|row| row["status"].clone());
            if status == Some(Value::from("completed")) {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        })
        .await;
    }
}

/// Its session is inside a transaction then, and holds the position's row.
#[tokio::test(flavor = "multi_thread")]
async fn the_writer_is_frozen_inside_a_transaction() {
    let world = World::new().await;
    let frozen = world.hub().await;
    world.post_orders(&frozen, ids("before", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    let _other = world.hub().await;
    let lock = "BEGIN; LOCK TABLE webhook_logs IN ACCESS EXCLUSIVE MODE";
    world.database.run(lock).await.unwrap();
    world.careem.post(&frozen, &order("CR-unwritten")).await.event_id();
    world.log.settled().await;
    eventually("the hub waits for the table", PATIENCE, async || {
        // Within the transaction that holds the lock, pg_stat_activity stays what it was when it was first read.
        let query = "SELECT pid FROM pg_locks WHERE relation = 'webhook_logs'::regclass AND NOT granted";
        let rows = world.database.rows(query).await.map_err(|error| error.to_string())?;
        if rows.is_empty() { Err("nobody waits") } else { Ok(()) }.map_err(str::to_owned)
    })
    .await;
    frozen.pause().await;
    world.database.run("COMMIT").await.unwrap();
    world.row_completed("CR-unwritten", REPLACED).await;
    frozen.resume().await;
    world.post_orders(&frozen, ids("after", 2)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_is_frozen_while_it_waits_for_work() {
    let world = World::new().await;
    let frozen = world.hub().await;
    world.post_orders(&frozen, ids("before", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    let other = world.hub().await;
    frozen.pause().await;
    world.careem.post(&other, &order("CR-after")).await.event_id();
    world.row_completed("CR-after", REPLACED).await;
    frozen.resume().await;
    world.post_orders(&frozen, ids("thawed", 2)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(4)).await;
}

/// The server goes on handing messages to the request of an instance that is frozen, and hands them out again only after a minute.
/// Nothing else comes that would show the one who writes that something is missing.
#[tokio::test(flavor = "multi_thread")]
async fn events_delivered_to_a_frozen_writer_are_written_within_seconds() {
    let world = World::new().await;
    let frozen = world.hub().await;
    world.post_orders(&frozen, ids("before", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    let other = world.hub().await;
    frozen.pause().await;
    eventually("the other one works and writes", PATIENCE, async || {
        let log = other.log();
        let stages = log.matches("stage taken over").count();
        if stages == 3 && log.contains("writing the tables") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
    // The server hands out in turn, three events an order, so the last one of either goes to the frozen one.
    for id in ["CR-first", "CR-second"] {
        world.careem.post(&other, &order(id)).await.event_id();
        world.log.settled().await;
        world.row_completed(id, IN_SECONDS).await;
    }
    frozen.resume().await;
    world.post_orders(&frozen, ids("thawed", 1)).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(4)).await;
}

/// The connections stay and take what is sent; nothing comes back.
#[tokio::test(flavor = "multi_thread")]
async fn every_backend_of_postgres_that_serves_the_hub_is_frozen() {
    let world = World::new().await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("before", 1)).await;
    world.at_end(Ends::forwarded(1)).await;
    let query =
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'webhook-hub'";
    let rows = world.database.rows(query).await.unwrap();
    let pids: Vec<String> = rows.iter().map(|row| row["pid"].to_string()).collect();
    assert!(!pids.is_empty());
    signal("STOP", &pids).await;
    world.careem.post(&hub, &order("CR-after")).await.event_id();
    world.row_completed("CR-after", REPLACED).await;
    signal("CONT", &pids).await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(2)).await;
}

/// The next statement must not wait behind an abandoned one.
#[tokio::test(flavor = "multi_thread")]
async fn a_timed_out_statement_is_cancelled_and_its_connection_closed() {
    let world = World::new().await;
    let environment = [
        ("DATABASE_URL", world.database.url.as_str()),
        ("DATABASE_POOL_SIZE", "3"),
    ];
    let settings = config::Database::from_environment(&Environment::from_iter(environment)).unwrap();
    let database = database::Database::new(&settings).unwrap();
    // Nothing is left but this one.
    let _others = (database.connect().await.unwrap(), database.connect().await.unwrap());
    let connection = database.connect().await.unwrap();
    let sleep = connection.query_one("SELECT pg_sleep(60)", &[]);
    let given_up = tokio::time::timeout(Duration::from_millis(300), sleep).await;
    assert!(given_up.is_err());
    drop(connection);
    let next = async { database.connect().await.unwrap().query_one("SELECT 1", &[]).await };
    let next = tokio::time::timeout(PATIENCE, next).await;
    next.expect("the next one waits behind what was given up").unwrap();
    eventually("the statement is cancelled", PATIENCE, async || {
        let query = "SELECT query FROM pg_stat_activity
                     WHERE datname = current_database() AND state = 'active' AND query LIKE 'SELECT pg_sleep%'";
        let rows = world.database.rows(query).await.map_err(|error| error.to_string())?;
        if rows.is_empty() {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    })
    .await;
}

/// A connection that the hub closed meanwhile has no process any more.
async fn signal(signal: &str, pids: &[String]) {
    let mut are_there = false;
    for pid in pids {
        let mut kill = Command::new("kill");
        let sent = kill.args(["-s", signal, pid]).status().await.unwrap();
        assert!(sent.success() || !Path::new("/proc").join(pid).exists(), "{pid}");
        are_there |= sent.success();
    }
    assert!(are_there);
}
