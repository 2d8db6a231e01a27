//! PgBouncer between the hub and PostgreSQL: in session mode it is like PostgreSQL itself, in transaction mode it is refused in
//! one line that names it.

use std::{path::PathBuf, process::Stdio};

use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::harness::{
    World,
    at_end::Ends,
    careem::order,
    hub::{Hub, run},
    ids,
    port::Port,
    wait::{PATIENCE, eventually},
};

/// Where Debian and others put it.
const PLACES: [&str; 3] = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];

/// A pooler before the world's PostgreSQL.
struct Pooler {
    _process: Child,
    _dir: tempfile::TempDir,
    port: Port,
}

impl Pooler {
    /// None if the program is not installed.
    async fn start(world: &World, mode: &str) -> Option<Self> {
        let Some(program) = PLACES.iter().map(PathBuf::from).find(|place| place.exists()) else {
            eprintln!("SKIPPED: pgbouncer is not installed, so nothing was tried with it (apt-get install pgbouncer)");
            return None;
        };
        let port = Port::reserve();
        let dir = tempfile::Builder::new()
            .prefix("hub-test-pgbouncer-")
            .tempdir()
            .unwrap();
        let file = dir.path().join("pgbouncer.ini");
        let config = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=admin\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = {mode}\n",
            world.cluster.server.port(),
            port.number()
        );
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(program);
        // It does not run as root.
        let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
        if is_root {
            for path in [dir.path(), &file] {
                std::os::unix::fs::chown(path, Some(65534), None).unwrap();
            }
            command.args(["-u", "nobody"]);
        }
        command
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.kill_on_drop(true).spawn().unwrap();
        let pooler = Self {
            _process: process,
            _dir: dir,
            port,
        };
        eventually("pgbouncer listens", PATIENCE, async || {
            TcpStream::connect(pooler.port.address())
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        })
        .await;
        Some(pooler)
    }

    fn url(&self, world: &World) -> String {
        world.database.url_through(self.port.address())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_sessions() {
    let world = World::new().await;
    let Some(pooler) = Pooler::start(&world, "session").await else {
        return;
    };
    let settings = world.settings().set("DATABASE_URL", pooler.url(&world));
    run(&settings, &["migrate"]).await.expect_success();
    let hub = Hub::start(&settings).await;
    world.post_orders(&hub, ids("pooled", 5)).await;
    world.at_end(Ends::forwarded(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_transactions() {
    let world = World::new().await;
    let Some(pooler) = Pooler::start(&world, "transaction").await else {
        return;
    };
    let settings = world.settings().set("DATABASE_URL", pooler.url(&world));
    let ran = run(&settings, &["migrate"]).await;
    assert_eq!(ran.code, Some(1), "{}", ran.said());
    let lines: Vec<_> = ran.stderr.lines().filter(|line| line.contains("pool_mode")).collect();
    assert!(lines.len() == 1 && lines[0].contains("PgBouncer"), "{}", ran.said());
    // Webhooks are accepted all the same, and wait for a database.
    let hub = Hub::start(&settings).await;
    world.careem.post(&hub, &order("CR-pooled")).await.event_id();
    hub.says("pool_mode = session").await;
    assert!(hub.terminate().await.0.success());
    let _hub = world.hub().await;
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(1)).await;
}
