//! The accounts of `nats.conf`: no account can exhaust the others' limits, and each receives only what it may. A log of the time
//! before there were accounts moves along.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use async_nats::ConnectOptions;
use futures_util::StreamExt as _;

use crate::harness::{World, at_end::Ends, ids, servers::Nats, wait::PATIENCE};

/// How `nats.conf` was before it had accounts.
const ONE_ACCOUNT: &str = include_str!("fixtures/nats.one-account.conf");
/// The connections that kept a hub out of a server of 1,024.
const MANY: usize = 1021;
/// Users of accounts of their own, with their `max_connections`.
const OTHERS: [(&str, usize); 2] = [("subscriber", 64), ("backup", 8)];
/// The password of the example's user.
const BRANCH_PASSWORD: &str = "password-of-a-branch";

/// A user's connections, as many as it is let have, of so many that it tries to open.
fn connections(server: SocketAddr, user: &str, password: &str, tries: usize) -> Vec<TcpStream> {
    let connect = format!("CONNECT {{\"user\":\"{user}\",\"pass\":\"{password}\",\"verbose\":false}}\r\nPING\r\n");
    let one = |_| {
        let mut wire = TcpStream::connect(server).unwrap();
        wire.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        wire.write_all(connect.as_bytes()).unwrap();
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let read = wire.read(&mut buffer).unwrap_or(0);
            heard.extend_from_slice(&buffer[..read]);
            let heard = String::from_utf8_lossy(&heard);
            if heard.contains("PONG") {
                return Some(wire);
            }
            if read == 0 || heard.contains("-ERR") {
                assert!(heard.contains("maximum"), "{heard}");
                return None;
            }
        }
    };
    (0..tries).filter_map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn other_users_cannot_exhaust_the_hubs_connections() {
    let world = World::new().await;
    let server = SocketAddr::from(([127, 0, 0, 1], world.nats.server.port()));
    let users = OTHERS.map(|(user, _)| (user, world.nats.password(user).to_owned()));
    let open = move || users.map(|(user, password)| connections(server, user, &password, MANY));
    let held = tokio::task::spawn_blocking(open).await.unwrap();
    assert_eq!(held.each_ref().map(Vec::len), OTHERS.map(|(_, most)| most));
    let hub = world.hub().await;
    world.post_orders(&hub, ids("crowd", 2)).await;
    world.at_end(Ends::forwarded(2)).await;
    drop(held);
}

/// The steps of CHANGELOG: the server's configuration is replaced, and the folder of the log gets the account's name.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_accounts_is_served_and_moves_along() {
    let world = World::with_nats(Nats::start_with(|_| ONE_ACCOUNT.to_owned(), None)).await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("before", 3)).await;
    world.at_end(Ends::forwarded(3)).await;
    hub.terminate().await;
    let server = &world.nats.server;
    server.stop().await.unwrap();
    let project = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("nats.conf");
    std::fs::copy(project, server.dir().join("nats.conf")).unwrap();
    let store = server.dir().join("jetstream");
    std::fs::rename(store.join("$G"), store.join("HUB")).unwrap();
    server.restart().await.unwrap();
    let hub = world.hub().await;
    world.post_orders(&hub, ids("after", 3)).await;
    world.at_end(Ends::forwarded(6)).await;
}

/// The example of `nats.conf` for who may hear one branch, switched on.
fn with_a_branch(config: &str) -> String {
    let (mut inside, mut lines) = (false, Vec::new());
    for line in config.lines() {
        let bare = line.trim_start();
        inside |= bare == "# BRANCH {";
        let is_export = bare.starts_with("# { stream:") && bare.contains("accounts: [BRANCH]");
        lines.push(if inside || is_export {
            bare.trim_start_matches("# ")
        } else {
            line
        });
        inside &= line != "  # }";
    }
    let config = lines.join("\n");
    assert!(
        config.contains("\nBRANCH {") && config.matches("BRANCH-ID").count() == 2,
        "{config}"
    );
    let password = format!("\"{BRANCH_PASSWORD}\"");
    config
        .replace("BRANCH-ID", "branch-1")
        .replace("$NATS_BRANCH_PASSWORD", &password)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_of_one_branch_receives_no_other_branch() {
    let nats = Nats::start_with(with_a_branch, None).await;
    let options = ConnectOptions::with_user_and_password("branch".into(), BRANCH_PASSWORD.into());
    let branch = options
        .custom_inbox_prefix("_INBOX_branch")
        .connect(nats.server.url())
        .await
        .unwrap();
    let mut heard = branch.subscribe("orders.>").await.unwrap();
    branch.flush().await.unwrap();
    let hub = nats.connect("hub").await;
    for subject in [
        "orders.forwarded.careem.branch-2.p00",
        "menus.synced.careem.branch-1.p00",
        "webhooks.received.careem.p00",
        "orders.forwarded.careem.branch-1.p00",
    ] {
        hub.publish(subject, "{}".into()).await.unwrap();
    }
    hub.flush().await.unwrap();
    let first = tokio::time::timeout(PATIENCE, heard.next()).await.unwrap().unwrap();
    assert_eq!(first.subject.as_str(), "orders.forwarded.careem.branch-1.p00");
}
