//! NATS publishes an answer on the subject that the request names for it, past all rights, and a snapshot where the request says.
//! So each right of each user is used with subjects that delete a stream. With an earlier `nats.conf` the stream is gone; with
//! the present one it stays.

use std::{path::Path, time::Duration};

use async_nats::jetstream::{self, stream};
use futures_util::TryStreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    harness::{
        World,
        at_end::Ends,
        hub::run,
        ids,
        servers::Nats,
        wait::{PATIENCE, eventually},
    },
    permissions::documented::rights_of_the_server,
};

/// How `nats.conf` was while the users `hub` and `provision` shared an account.
const SHARED_ACCOUNT: &str = include_str!("fixtures/nats.shared-account.conf");
/// The stream that is to be deleted; nothing here needs it.
const VICTIM: &str = "KEYS";
/// By what name JetStream's interface may be reached in the account of the log.
const INTERFACES: [&[u8]; 2] = [b"$JS.API.", b"_R_.\xff."];
const USERS: [&str; 3] = ["backup", "hub", "subscriber"];
/// Requests with answers that can be empty, and a meaningless one.
const REQUESTS: [&str; 4] = [
    "",
    r#"{"seq":999999}"#,
    r#"{"no_wait":true}"#,
    r#"{"last_by_subj":"orders.none"}"#,
];
/// The first message of a batch that has no end: it is answered without a body.
const IN_BATCH: &str = "NATS/1.0\r\nNats-Batch-Id: x\r\nNats-Batch-Sequence: 1\r\n\r\n";
/// NATS waits so long for a listener where a snapshot goes, and some more for its end.
const SNAPSHOT: Duration = Duration::from_secs(10);

/// A connection that may send what no client library would.
struct Wire(TcpStream);

impl Wire {
    async fn by(nats: &Nats, user: &str) -> Self {
        let mut wire = Self(TcpStream::connect(("127.0.0.1", nats.server.port())).await.unwrap());
        let password = nats.password(user);
        let connect = format!(
            "CONNECT {{\"user\":\"{user}\",\"pass\":\"{password}\",\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\n"
        );
        wire.0.write_all(connect.as_bytes()).await.unwrap();
        wire.until_pong().await;
        wire
    }

    /// Sends a ping; returns what the server said up to its answer.
    async fn until_pong(&mut self) -> String {
        self.0.write_all(b"PING\r\n").await.unwrap();
        let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
        while !heard.windows(6).any(|six| six == b"PONG\r\n") {
            let read = tokio::time::timeout(PATIENCE, self.0.read(&mut buffer)).await;
            let read = read.unwrap().unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&heard));
            heard.extend_from_slice(&buffer[..read]);
        }
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// Publishes with a reply subject, which may be no text.
    async fn publish(&mut self, subject: &str, reply: &[u8], headers: &str, body: &[u8]) {
        let (head, all) = (headers.len(), headers.len() + body.len());
        let (verb, sizes) = match head {
            0 => ("PUB", format!("{all}")),
            _ => ("HPUB", format!("{head} {all}")),
        };
        let mut parts = format!("{verb} {subject} ").into_bytes();
        parts.extend_from_slice(reply);
        parts.extend_from_slice(format!(" {sizes}\r\n{headers}").as_bytes());
        parts.extend_from_slice(body);
        parts.extend_from_slice(b"\r\n");
        self.0.write_all(&parts).await.unwrap();
    }
}

/// The subject of a right as a client of the user names it, about something that is there.
fn concrete(right: &str) -> String {
    let named = right.replace("HUB.API.", "$JS.API.");
    let consumer = if named.contains(".LANES.") {
        "read-forward"
    } else {
        "forward"
    };
    let tail = match named.as_str() {
        "webhooks.>" => "received.careem.p00",
        "$JS.ACK.EVENTS.>" | "$JS.ACK.LANES.>" => "forward.1.1.1.1.1",
        _ => "x.x",
    };
    named.replace('*', consumer).replace('>', tail)
}

/// All that a user can ask by one right with the answer sent to this subject.
async fn attack(nats: &Nats, user: &str, right: &str, target: &[u8]) {
    let mut wire = Wire::by(nats, user).await;
    let subject = concrete(right);
    for request in REQUESTS {
        wire.publish(&subject, target, "", request.as_bytes()).await;
    }
    wire.publish(&subject, target, IN_BATCH, b"{}").await;
    wire.until_pong().await;
    if !subject.contains(".SNAPSHOT.EVENTS") {
        return;
    }
    // The log of NATS says when a snapshot has ended, wherever it went.
    let log = nats.server.dir().join("nats.log");
    let ended = || {
        let log = std::fs::read_to_string(&log).unwrap();
        log.matches("Completed snapshot").count() + log.matches("Snapshot for stream").count()
    };
    let before = ended();
    let request = [br#"{"deliver_subject":""#, target, br#"","chunk_size":1024}"#].concat();
    let inbox = format!("_INBOX_{user}.x");
    wire.publish(&subject, inbox.as_bytes(), "", &request).await;
    wire.until_pong().await;
    eventually("the snapshot has ended", SNAPSHOT, async || {
        if ended() > before { Ok(()) } else { Err(before) }
    })
    .await;
}

/// Whether the victim is gone. JetStream does one thing after the other, so what it was asked before is done when it has made and
/// deleted some other streams.
async fn deleted(provision: &jetstream::Context) -> bool {
    for number in 0..3 {
        let name = format!("FENCE-{number}");
        let config = stream::Config {
            subjects: vec![format!("fence.{number}")],
            name: name.clone(),
            ..stream::Config::default()
        };
        provision.create_stream(config).await.unwrap();
        provision.delete_stream(&name).await.unwrap();
    }
    let names: Vec<String> = provision.stream_names().try_collect().await.unwrap();
    assert!(names.len() > 4, "{names:?}");
    !names.contains(&VICTIM.to_owned())
}

/// The rights by which a stream can be deleted: the user and the subject.
async fn deleting(nats: &Nats) -> Vec<(String, String)> {
    run(&nats.settings("provision"), &["streams", "apply"])
        .await
        .expect_success();
    let provision = nats.provision().await;
    let victim: stream::Config = serde_json::from_str(include_str!("../streams/KEYS.json")).unwrap();
    let hub = jetstream::new(nats.connect("hub").await);
    let sent = hub.publish("webhooks.received.careem.p00", "{}".into()).await.unwrap();
    sent.await.unwrap();
    let (mut found, mut tried) = (Vec::new(), 0);
    for (user, listens, right) in rights_of_the_server() {
        if listens || !USERS.contains(&user.as_str()) {
            continue;
        }
        for interface in INTERFACES {
            let target = [interface, b"STREAM.DELETE.", VICTIM.as_bytes()].concat();
            attack(nats, &user, &right, &target).await;
            tried += 1;
            if deleted(&provision).await {
                found.push((user.clone(), right.clone()));
                provision.create_stream(victim.clone()).await.unwrap();
            }
        }
    }
    assert!(tried > 50, "{tried}");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_deletes_no_stream() {
    let nats = Nats::start().await;
    assert_eq!(deleting(&nats).await, []);
}

/// What the other test looks for can be found.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_deleted_streams_while_users_shared_an_account() {
    let nats = Nats::start_with(|_| SHARED_ACCOUNT.to_owned(), None).await;
    let found = deleting(&nats).await;
    for (user, right) in [
        ("hub", "webhooks.>"),
        ("hub", "lane.>"),
        ("hub", "$JS.API.DIRECT.GET.EVENTS"),
        ("hub", "$JS.API.CONSUMER.MSG.NEXT.EVENTS.*"),
        ("backup", "HUB.API.STREAM.SNAPSHOT.EVENTS"),
    ] {
        assert!(
            found.contains(&(user.to_owned(), right.to_owned())),
            "{right}: {found:?}"
        );
    }
}

/// The steps of CHANGELOG: the file is replaced and the server restarted. Streams, consumers and positions stay where they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_the_shared_account_is_served_as_it_is() {
    let world = World::with_nats(Nats::start_with(|_| SHARED_ACCOUNT.to_owned(), None)).await;
    let hub = world.hub().await;
    world.post_orders(&hub, ids("before", 3)).await;
    world.at_end(Ends::forwarded(3)).await;
    let server = &world.nats.server;
    server.stop().await.unwrap();
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("nats.conf");
    std::fs::copy(project, server.dir().join("nats.conf")).unwrap();
    server.restart().await.unwrap();
    // The hub of before is still there.
    world.post_orders(&hub, ids("after", 3)).await;
    run(&world.nats.settings("provision"), &["streams", "diff"])
        .await
        .expect_success();
    // An acknowledgement that was under way when the connection changed is lost.
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(6)).await;
    assert_eq!(world.backend.count(), 6, "nothing is done again");
}
