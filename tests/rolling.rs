//! Two hubs behind a stock nginx, with the configuration that is shipped, restarted one after the other under load: no request is
//! lost, and none gets a 5xx.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tempfile::TempDir;

use crate::harness::{
    World,
    at_end::Ends,
    careem::{self, MERCHANT, SECRET, order, sign},
    certificates::{Authority, Files},
    hub::{Hub, Settings},
    port::Port,
    wait::{PATIENCE, eventually},
};

/// What comes before the shipped file on a stock machine.
const MAIN: &str = "daemon off;
master_process off;
pid FOLDER/nginx.pid;
error_log FOLDER/error.log info;
events { worker_connections 512; }
http {
    access_log FOLDER/access.log;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    include FOLDER/webhook-hub.conf;
}
";
/// For how long the hubs go on; a second less is what nginx keeps its connections for.
const DELAY: &str = "SHUTDOWN_DELAY";
/// Between the two restarts.
const APART: Duration = Duration::from_secs(4);
const LANES: usize = 4;
/// Pause of a lane after each webhook.
const PAUSE: Duration = Duration::from_millis(20);

/// nginx, killed when dropped.
struct Nginx {
    child: Child,
    folder: TempDir,
}

impl Nginx {
    /// Checks the configuration and starts it; none if there is no nginx.
    fn start(config: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_str().unwrap();
        fs::write(folder.path().join("webhook-hub.conf"), config).unwrap();
        let main = folder.path().join("nginx.conf");
        fs::write(&main, MAIN.replace("FOLDER", place)).unwrap();
        let nginx = |more: &[&str]| {
            // Debian has it where only root looks.
            let path = format!(
                "{}:/usr/sbin:/usr/local/sbin",
                std::env::var("PATH").unwrap_or_default()
            );
            let mut command = Command::new("nginx");
            command
                .args(["-p", place, "-c"])
                .arg(&main)
                .args(more)
                .env("PATH", path);
            command.stdout(Stdio::null());
            command
        };
        let checked = nginx(&["-t"]).output().ok()?;
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success() && !said.contains("[warn]"), "{said}");
        let child = nginx(&[]).stderr(Stdio::null()).spawn().unwrap();
        Some(Self { child, folder })
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The shipped file for these places.
fn config(files: &Files, front: &Port, hubs: &[Port; 2]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nginx/webhook-hub.conf");
    let mut config = fs::read_to_string(file).unwrap();
    let mut replace = |from: &str, to: &str| {
        assert!(config.contains(from), "{from} is not in the file any more");
        config = config.replace(from, to);
    };
    replace("listen 443 ssl;", &format!("listen {} ssl;", front.address()));
    replace("    listen [::]:443 ssl;\n", "");
    replace("/etc/nginx/tls/webhook-hub.crt", files.certificate.to_str().unwrap());
    replace("/etc/nginx/tls/webhook-hub.key", files.key.to_str().unwrap());
    replace("server 127.0.0.1:3002 ", &format!("server {} ", hubs[0].address()));
    replace("server 127.0.0.1:3003 ", &format!("server {} ", hubs[1].address()));
    // In proportion to the shorter delay of these hubs.
    replace("keepalive_timeout 4s;", "keepalive_timeout 1s;");
    // So that nginx makes up for nothing: what a hub cuts off is a 502.
    replace(" non_idempotent;", ";");
    config
}

/// Posts new orders, one after the other, until told to stop.
async fn post(
    url: &str,
    client: &reqwest::Client,
    lane: usize,
    enough: &AtomicBool,
    failures: &Mutex<Vec<String>>,
) -> usize {
    let mut accepted = 0;
    while !enough.load(Ordering::Relaxed) {
        let body = order(&format!("CR-{lane}-{accepted}"));
        let request = client
            .post(format!("{url}/api/webhooks/careem"))
            .header("content-type", "application/json")
            .header("x-merchant-id", MERCHANT)
            .header("x-careem-signature", sign(SECRET, body.as_bytes()))
            .body(body);
        match careem::answer(request).await {
            Ok(answer) if answer.status == 200 => accepted += 1,
            other => {
                failures.lock().unwrap().push(format!("{lane}-{accepted}: {other:?}"));
                break;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    accepted
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_behind_nginx() {
    let (authority, front) = (Authority::new(), Port::reserve());
    let files = authority.server("nginx");
    let ports = [Port::reserve(), Port::reserve()];
    let Some(nginx) = Nginx::start(&config(&files, &front, &ports)) else {
        println!("skipped: there is no nginx on this machine");
        return;
    };
    let world = World::new().await;
    let settings = |port: &Port| -> Settings {
        world
            .settings()
            .set("PORT", port.number())
            .set(DELAY, "2s")
            .set("TRUSTED_PROXIES", "127.0.0.0/8")
            .set("REQUIRE_HTTPS", true)
    };
    let [first, second] = ports.each_ref().map(settings);
    let (one, other) = tokio::join!(Hub::start(&first), Hub::start(&second));
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured((*authority.client()).clone())
        .build()
        .unwrap();
    let url = format!("https://{}", front.address());
    eventually("nginx answers", PATIENCE, async || {
        match client.get(format!("{url}/health/ready")).send().await {
            Ok(answer) if answer.status() == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let (enough, failures) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let posting = join_all((0..LANES).map(|lane| post(&url, &client, lane, &enough, &failures)));
    let restarting = async {
        let restart = async |hub: Hub, settings: &Settings| {
            assert_eq!(hub.terminate().await.0.code(), Some(0));
            Hub::start(settings).await
        };
        let then = async {
            tokio::time::sleep(APART).await;
            restart(other, &second).await
        };
        let hubs = tokio::join!(restart(one, &first), then);
        enough.store(true, Ordering::Relaxed);
        hubs
    };
    let (accepted, _hubs) = tokio::join!(posting, restarting);
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{failures:#?}\n{}", nginx.errors());
    let accepted = accepted.into_iter().sum();
    assert!(accepted > 10 * LANES, "{accepted} are no load");
    world.hand_out_again().await;
    world.at_end(Ends::forwarded(accepted)).await;
}
