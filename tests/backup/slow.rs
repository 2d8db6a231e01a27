//! Tests a restore to a server with a slow disk or processor, which stores message by message and allows each piece a few seconds.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use webhook_hub::dev::servers::NatsServer;

use super::*;

/// Number of batches of small events that compress well: about 512 KiB of the backup hold all of them.
const BATCHES: usize = 30;
/// Longer than NATS allows for a piece of a restore.
const SLOW_FOR: Duration = Duration::from_millis(7000);
/// The server runs for a few thousandths of the time, or some hundredths if the machine is busy.
const STOPPED: Duration = Duration::from_millis(200);
const WORKS: Duration = Duration::from_micros(500);

/// Lets the server run for a small part of the time only. In a thread, because tokio's timers and `NatsServer::pause` take longer than
/// the server is to run.
async fn is_slow(server: &NatsServer, within: Duration) {
    let pid = Pid::from_raw(server.pid().unwrap().cast_signed()).unwrap();
    let slow = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        while began.elapsed() < within {
            kill_process(pid, Signal::STOP).unwrap();
            std::thread::sleep(STOPPED);
            kill_process(pid, Signal::CONT).unwrap();
            std::thread::sleep(WORKS);
        }
    });
    slow.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_stores_it_piece_by_piece() {
    let nats = Nats::start().await;
    let (backup, provision) = (settings(&nats, "backup"), settings(&nats, "provision"));
    run(&provision, &["streams", "apply"]).await.expect_success();
    let body = Bytes::from_static(&[b'x'; 200]);
    fill_in_batches(&nats, BATCHES, || body.clone()).await;
    let before = events(&nats).await.cached_info().state.clone();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("log");
    let place = place.to_str().unwrap();
    run(&backup, &["backup", place]).await.expect_success();
    nats.provision().await.delete_stream("EVENTS").await.unwrap();

    let args = ["restore", place];
    let (ran, ()) = tokio::join!(run(&provision, &args), is_slow(&nats.server, SLOW_FOR));
    ran.expect_success();
    let after = events(&nats).await.cached_info().state.clone();
    assert_eq!(
        (after.messages, after.bytes, after.last_sequence),
        (before.messages, before.bytes, before.last_sequence)
    );
}
