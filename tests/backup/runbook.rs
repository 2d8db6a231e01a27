//! The runbook of `docs/operations.md`: the steps marked there, as they stand there.

use super::*;

const RUNBOOK: &str = include_str!("../../docs/operations.md");

/// The steps under a heading.
pub(super) fn steps(heading: &str) -> Vec<&'static str> {
    let (_, section) = RUNBOOK.split_once(&format!("\n### {heading} ✓\n")).expect("a heading");
    let section = section.split("\n## ").next().unwrap().split("\n### ").next().unwrap();
    let blocks = section.split("\n```sh\n").skip(1);
    let steps: Vec<_> = blocks.map(|block| block.split_once("\n```").unwrap().0).collect();
    assert!(!steps.is_empty(), "{heading} has no steps");
    steps
}

/// The shell of an operator with the hub's variables.
pub(super) fn shell(world: &World, programs: &Path) -> Shell {
    let mut shell = Shell::of(world, programs);
    let mut add = |name, value: String| shell.variables.push((name, value));
    add("NATS_USER", "hub".to_owned());
    add("NATS_PASSWORD", world.nats.password("hub").to_owned());
    add("PARTITIONS", PARTITIONS.to_string());
    add("SERVICE_TOKEN", "token".to_owned());
    add("CAREEM_ENABLED", "true".to_owned());
    add("CAREEM_WEBHOOK_SECRET", careem::SECRET.to_owned());
    shell
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runbook() {
    let Some(pg_dump) = postgres_program("pg_dump") else {
        eprintln!("this PostgreSQL comes without pg_dump: the runbook is not run");
        return;
    };
    let mut world = World::new().await;
    let shell = shell(&world, pg_dump.parent().unwrap());
    let hub = world.hub().await;
    world.post_orders(&hub, ids("kept", 3)).await;
    world.at_end(Ends::forwarded(3)).await;

    let [finds, mends, removes] = steps("A table is damaged")[..] else {
        panic!("other steps")
    };
    let damage =
        "DELETE FROM hub.orders WHERE external_order_id = 'CR-kept-0'; UPDATE webhook_logs SET status = 'failed'";
    world.database.run(damage).await.unwrap();
    shell.runs(finds, 1).await;
    shell.runs(mends, 0).await;
    shell.runs(removes, 0).await;
    world.at_end(Ends::forwarded(3)).await;
    for step in steps("An upgrade") {
        shell.runs(step, 0).await;
    }

    shell.does("Making a backup").await;
    world.post_orders(&hub, ids("later", 2)).await;
    world.at_end(Ends::forwarded(5)).await;
    hub.terminate().await;
    shell.does("Restoring the tables").await;
    let hub = world.hub().await;
    world.at_end(Ends::forwarded(5)).await;
    for step in steps("PostgreSQL comes back from yesterday") {
        shell.runs(step, 0).await;
    }

    hub.terminate().await;
    let [restore, list, verify] = steps("NATS comes back from yesterday, PostgreSQL does not")[..] else {
        panic!("other steps")
    };
    shell.runs(restore, 0).await;
    world.log = Log::open(&world.nats).await;
    let hub = world.hub().await;
    let listed = eventually("the lost orders are listed", PATIENCE, async || {
        let listed = shell.runs(list, 0).await;
        if listed.is_empty() { Err(listed) } else { Ok(listed) }
    })
    .await;
    let mut lost: Vec<_> = listed
        .lines()
        .map(|line| line.split(',').take(3).collect::<Vec<_>>())
        .collect();
    // They were forwarded beside each other.
    lost.sort_unstable();
    assert_eq!(
        lost,
        ids("later", 2)
            .iter()
            .map(|id| vec!["careem", id.as_str(), "forwarded"])
            .collect::<Vec<_>>()
    );
    world.post_orders(&hub, ids("later", 2)).await;
    world.hand_out_again().await;
    eventually("all orders came again", PATIENCE, async || {
        let listed = shell.runs(list, 0).await;
        if listed.is_empty() { Ok(()) } else { Err(listed) }
    })
    .await;
    shell.runs(verify, 0).await;

    hub.terminate().await;
    let [keep, restore, verify] = steps("Both come back from yesterday")[..] else {
        panic!("other steps")
    };
    shell.runs(keep, 0).await;
    shell.runs(restore, 0).await;
    world.log = Log::open(&world.nats).await;
    let rows = world.database.rows("SELECT external_order_id FROM hub.orders").await;
    assert_eq!(rows.unwrap().len(), 3, "the orders of the backup");
    let hub = world.hub().await;
    world.post_orders(&hub, ids("later", 2)).await;
    world.hand_out_again().await;
    world.log_and_tables_end(Ends::forwarded(5)).await;
    shell.runs(verify, 0).await;
}
