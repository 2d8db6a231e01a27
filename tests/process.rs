//! What the operating system gives the hub: few descriptors, little memory, a service manager.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{
    World,
    at_end::Ends,
    careem::{SECRET, order, sign},
    hub::{Hub, Settings, begin},
    ids,
    raw::{Raw, request},
    wait::{PATIENCE, eventually},
};

/// A crowd of callers takes all connections of the public port: the backend and the log have their descriptors all the same.
#[tokio::test(flavor = "multi_thread")]
async fn callers_do_not_take_the_last_descriptor() {
    const LIMIT: usize = 330;
    /// Blanks before an order, and how many bytes of it are sent at a time.
    const PADDING: usize = 200_000;
    const PIECE: usize = 200;
    let world = World::new().await;
    // The limit that it starts with is lower, and raised by the hub itself.
    let settings = world
        .settings()
        .set("LOG_LEVEL", "debug")
        .set("REQUEST_TIMEOUT", "300s")
        .through(&format!("ulimit -S -n 64; ulimit -H -n {LIMIT}; exec \"$@\""));
    let hub = Hub::start(&settings).await;
    hub.says("the limit of file descriptors is low").await;
    // One of them is sending an order, and goes on when the crowd is there.
    let (mut early, body) = (Raw::connect(hub.address()).await, order("CR-early"));
    let body = format!("{}{}", " ".repeat(PADDING), body);
    let signature = format!("x-careem-signature: {}", sign(SECRET, body.as_bytes()));
    let headers = [signature.as_str(), "x-merchant-id: merchant-1", "expect: 100-continue"];
    let whole = request("POST", "/api/webhooks/careem", &headers, &body);
    let (first, mut rest) = whole.split_at(whole.len() - PADDING);
    early.write(first).await;
    // Its head was read: until then, the crowd may take its place.
    assert_eq!(early.answer().await.unwrap().status, 100);
    let crowd = join_all((0..LIMIT).map(|_| TcpStream::connect(hub.address()))).await;
    eventually("most of the crowd had to go", PATIENCE, async || {
        // More than the least rate of a body.
        let (piece, later) = rest.split_at(PIECE.min(rest.len() - 1));
        early.write(piece).await;
        rest = later;
        let metrics = world.metrics(&hub).await;
        let refused = metrics
            .lines()
            .filter(|line| line.starts_with("connections_refused_total"));
        let refused = refused.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok());
        if refused.sum::<usize>() > LIMIT / 2 {
            Ok(())
        } else {
            Err(metrics)
        }
    })
    .await;
    early.write(rest).await;
    assert_eq!(early.answer().await.unwrap().status, 200);
    world.backend.wait_for(1).await;
    assert!(!hub.logs_contain("Too many open files") && !hub.logs_contain("no file descriptor left"));
    drop(crowd);
    // Their places are free again.
    world.post_orders(&hub, ids("after", 2)).await;
    world.at_end(Ends::forwarded(3)).await;
}

/// A group of processes that may use so much memory; none if this machine does not let a test make one.
struct Group(PathBuf);

impl Group {
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("webhook-hub-test-{}", uuid::Uuid::new_v4());
        for (mount, file) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let folder = Path::new(mount).join(&name);
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Self(folder);
            if fs::write(group.0.join(file), bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }

    fn procs(&self) -> String {
        self.0.join("cgroup.procs").display().to_string()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its process has ended, or will soon; an empty group that is left costs nothing.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Many large bodies at once, in a group that may use 96 MiB: some are refused, and the hub lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_does_not_go_beyond_the_memory_limit() {
    let Some(group) = Group::new(96 << 20) else {
        println!("skipped: this machine lets nobody make a control group with a memory limit");
        return;
    };
    let world = World::new().await;
    let through = format!("echo $$ >{} && exec \"$@\"", group.procs());
    let mut hub = Hub::start(&world.settings().through(&through)).await;
    // Heads that never end, as large as they may be, over more connections than there is memory for.
    let head = format!(
        "POST /api/webhooks/careem HTTP/1.1\r\nHost: hub\r\nX-Filler: {}",
        "x".repeat(30_000)
    );
    let heads = join_all((0..3000).map(async |_| {
        let mut connection = Raw::connect(hub.address()).await;
        let _ = tokio::time::timeout(Duration::from_secs(2), connection.write(&head)).await;
        connection
    }))
    .await;
    assert!(hub.runs(), "it was killed for its callers' heads");
    drop(heads);
    // Without a signature: what counts is that they are held, and all but their ends are sent.
    let body = " ".repeat(4 << 20);
    let whole = request("POST", "/api/webhooks/careem", &[], &body);
    let held = join_all((0..24).map(async |_| {
        let mut connection = Raw::connect(hub.address()).await;
        let half = &whole[..whole.len() - 10];
        // One that is refused meanwhile is closed.
        let _ = tokio::time::timeout(Duration::from_secs(3), connection.write(half)).await;
        connection
    }))
    .await;
    assert!(hub.runs(), "it was killed for their bodies");
    hub.says("\"memory_limit_bytes\":100663296").await;
    hub.says("the memory limit is low").await;
    drop(held);
    eventually("it takes orders again", PATIENCE, async || {
        let answer = world.careem.post(&hub, &order("CR-after")).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    assert!(hub.runs());
    world.at_end(Ends::forwarded(1)).await;
    hub.kill().await;
}

/// The next message to the service manager that holds this; what came before it.
async fn told(socket: &UnixDatagram, wanted: &str) -> String {
    let mut all = String::new();
    eventually(&format!("the service manager is told {wanted}"), PATIENCE, async || {
        let mut buffer = [0; 4096];
        while let Ok(count) = socket.recv(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..count]).into_owned();
            all = all.clone() + &message + "\n";
            if message.contains(wanted) {
                return Ok(());
            }
        }
        Err(all.clone())
    })
    .await;
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let settings = world
        .settings()
        .set("NOTIFY_SOCKET", path.display())
        .set("WATCHDOG_USEC", 400_000)
        .set("SHUTDOWN_DELAY", "1s");
    let mut hub = Hub::start(&settings).await;
    let before = told(&socket, "READY=1").await;
    assert_eq!(before.matches("READY=1").count(), 1, "{before}");
    for _ in 0..3 {
        told(&socket, "WATCHDOG=1").await;
    }
    told(&socket, "STATUS=webhooks are accepted").await;
    world.nats.server.stop().await.unwrap();
    told(&socket, "STATUS=webhooks are not accepted: ").await;
    // It is frozen, so nothing is reported, and systemd would end it.
    hub.pause().await;
    let mut buffer = [0; 4096];
    while socket.recv(&mut buffer).is_ok() {}
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(
        socket.recv(&mut buffer).is_err(),
        "a process that stands still tells nothing"
    );
    hub.resume().await;
    told(&socket, "WATCHDOG=1").await;
    hub.tell_to_stop().await;
    told(&socket, "STOPPING=1").await;
    assert_eq!(hub.wait_exit(PATIENCE).await.code(), Some(0));
}

/// The unit that is shipped, with this machine's binary.
#[test]
fn the_unit_is_right() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let unit = fs::read_to_string(project.join("deploy/systemd/webhook-hub.service")).unwrap();
    let installed = "/usr/local/bin/webhook-hub";
    assert!(unit.contains(&format!("ExecStart={installed} serve")));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("webhook-hub.service");
    fs::write(
        &file,
        unit.replace(
            &format!("={installed} "),
            &format!("={} ", env!("CARGO_BIN_EXE_webhook-hub")),
        ),
    )
    .unwrap();
    let analyse = |arguments: &[&str]| Command::new("systemd-analyze").args(arguments).arg(&file).output();
    let Ok(verified) = analyse(&["verify", "--man=no"]) else {
        println!("skipped: there is no systemd-analyze on this machine");
        return;
    };
    assert!(verified.status.success() && verified.stderr.is_empty(), "{verified:?}");
    // Exposure of 2.0 at most, of 10.
    let judged = analyse(&["security", "--offline=true", "--threshold=20"]).unwrap();
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stdout));
}

/// The priority of each thread of a process, as `nice` counts it.
fn nice_of(pid: u32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nice = |stat: String| {
        // The fields behind the name, which may have blanks; the first of them is the third of all.
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        fields.skip(16).map(|field| field.parse().unwrap()).next().unwrap()
    };
    threads
        .map(|thread| nice(fs::read_to_string(thread.unwrap().path().join("stat")).unwrap()))
        .collect()
}

/// What works for long goes behind the hub; what a person waits for does not.
#[tokio::test(flavor = "multi_thread")]
async fn long_work_has_a_lower_priority() {
    // A server that says nothing: the commands wait for it.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings::empty()
        .set("NATS_URL", format!("nats://{}", silent.local_addr().unwrap()))
        .set("NATS_USER", "hub")
        .set("NATS_PASSWORD", "x")
        .set("DATABASE_URL", "postgres://127.0.0.1:1/none");
    // The tests may have a priority of their own; 19 is the lowest.
    let own = nice_of(std::process::id()).into_iter().min().unwrap();
    for (args, lower) in [
        (&["verify"][..], 10),
        (&["rebuild"], 10),
        (&["replay", "--diff"], 10),
        (&["status"], 0),
    ] {
        let command = begin(&settings, args);
        let connected = tokio::time::timeout(PATIENCE, silent.accept()).await;
        let _open = connected.expect("it connects").unwrap();
        let (found, expected) = (nice_of(command.id().unwrap()), (own + lower).min(19));
        assert!(
            !found.is_empty() && found.iter().all(|nice| *nice == expected),
            "{args:?}: {found:?}"
        );
    }
}
