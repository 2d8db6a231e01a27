//! The hub's real binary as a child process.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    process::{ExitStatus, Stdio},
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
};

use webhook_hub::config::Environment;

use super::{
    port::Port,
    wait::{PATIENCE, eventually},
};

/// The binary that was built with the tests; another one, such as an older version's, where a variable or a setting of this
/// name says so.
const BINARY: &str = env!("CARGO_BIN_EXE_webhook-hub");
const OTHER_BINARY: &str = "HUB_TEST_BINARY";
/// A line of shell through which the binary is started, which stands in `"$@"`.
const THROUGH: &str = "HUB_TEST_THROUGH";
/// How much of its log a failed test shows.
const SHOWN_LINES: usize = 300;

/// The whole environment of a run.
#[derive(Clone, Default)]
pub(crate) struct Settings(BTreeMap<String, String>);

impl Settings {
    pub(crate) fn empty() -> Self {
        Self::default()
    }

    pub(crate) fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.0.insert(name.to_owned(), value.to_string());
        self
    }

    /// With these, too.
    pub(crate) fn extend(&mut self, others: &Self) {
        self.0.extend(others.0.clone());
    }

    /// Has the binary started by a line of shell, which must end with `exec "$@"` and what else it does to it.
    pub(crate) fn through(self, shell: &str) -> Self {
        self.set(THROUGH, shell)
    }

    /// As the library reads it.
    pub(crate) fn environment(&self) -> Environment {
        self.0
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let other = self
            .0
            .get(OTHER_BINARY)
            .cloned()
            .or_else(|| std::env::var(OTHER_BINARY).ok());
        let binary = other.as_deref().unwrap_or(BINARY);
        let mut command = match self.0.get(THROUGH) {
            None => Command::new(binary),
            Some(shell) => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", shell, "sh", binary]);
                command
            }
        };
        command.args(args).env_clear().envs(&self.0).kill_on_drop(true);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// A command that has ended.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn expect_success(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Everything that it said.
    pub(crate) fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a command of the binary to its end.
pub(crate) async fn run(settings: &Settings, args: &[&str]) -> Ran {
    let output = tokio::time::timeout(PATIENCE, settings.command(args).output()).await;
    let output = output
        .unwrap_or_else(|_| panic!("webhook-hub {args:?} did not end"))
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Begins a command of the binary. Dropped, it is killed.
pub(crate) fn begin(settings: &Settings, args: &[&str]) -> Child {
    settings.command(args).spawn().unwrap()
}

/// A hub that serves. Dropped, it is killed; its log is shown where the test failed.
pub(crate) struct Hub {
    child: Child,
    pid: u32,
    lines: Arc<Lines>,
    address: SocketAddr,
    metrics_address: SocketAddr,
}

impl Hub {
    /// Starts it and waits until it listens.
    pub(crate) async fn start(settings: &Settings) -> Self {
        let mut child = settings.command(&["serve"]).spawn().unwrap();
        let pid = child.id().unwrap();
        guard('+', pid);
        let lines = Arc::new(Lines::default());
        lines.collect(child.stdout.take().unwrap());
        lines.collect(child.stderr.take().unwrap());
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut hub = Self {
            child,
            pid,
            lines,
            address: nowhere,
            metrics_address: nowhere,
        };
        let addresses = eventually("the hub listens", PATIENCE, async || {
            if let Some(status) = hub.child.try_wait().unwrap() {
                panic!("the hub ended with {status} instead of listening");
            }
            hub.lines.addresses().ok_or("no line that says so")
        });
        (hub.address, hub.metrics_address) = addresses.await;
        hub
    }

    /// Starts one with another log output, on these ports, and waits until it accepts webhooks.
    pub(crate) async fn start_unheard(settings: &Settings, port: &Port, metrics_port: &Port) -> Self {
        let settings = settings
            .clone()
            .set("PORT", port.number())
            .set("METRICS_PORT", metrics_port.number());
        let mut child = settings.command(&["serve"]).spawn().unwrap();
        let pid = child.id().unwrap();
        guard('+', pid);
        let lines = Arc::new(Lines::default());
        lines.collect(child.stdout.take().unwrap());
        lines.collect(child.stderr.take().unwrap());
        let mut hub = Self {
            child,
            pid,
            lines,
            address: port.address(),
            metrics_address: metrics_port.address(),
        };
        let ready = format!("{}/health/ready", hub.url());
        eventually("the hub takes webhooks", PATIENCE, async || {
            if let Some(status) = hub.child.try_wait().unwrap() {
                panic!("the hub ended with {status} instead of taking webhooks");
            }
            match reqwest::get(&ready).await {
                Ok(answer) if answer.status() == 200 => Ok(()),
                other => Err(other.map(|answer| answer.status().as_u16()).ok()),
            }
        })
        .await;
        hub
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn metrics_url(&self) -> String {
        format!("{}/metrics", self.private_url())
    }

    /// The port that is not reachable from outside.
    pub(crate) fn private_url(&self) -> String {
        format!("http://{}", self.metrics_address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// SIGKILL: the machine's end as far as the hub can tell.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM; how it ended and how long that took.
    pub(crate) async fn terminate(mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        self.signal("TERM").await;
        let status = self.wait_exit(PATIENCE).await;
        (status, asked.elapsed())
    }

    /// SIGTERM, without waiting for its end.
    pub(crate) async fn tell_to_stop(&self) {
        self.signal("TERM").await;
    }

    /// SIGSTOP: connections stay, nothing moves.
    pub(crate) async fn pause(&self) {
        self.signal("STOP").await;
    }

    pub(crate) async fn resume(&self) {
        self.signal("CONT").await;
    }

    /// SIGHUP: secrets and certificates are read again.
    pub(crate) async fn reload(&self) {
        self.signal("HUP").await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it ends by itself.
    pub(crate) async fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let ended = tokio::time::timeout(within, self.child.wait()).await;
        ended
            .unwrap_or_else(|_| panic!("the hub did not end within {within:?}"))
            .unwrap()
    }

    /// Whether a line of its log holds this text.
    pub(crate) fn logs_contain(&self, text: &str) -> bool {
        self.lines.all().iter().any(|line| line.contains(text))
    }

    /// Waits until a line of its log has this text: a line may be read later than what it tells is seen elsewhere.
    pub(crate) async fn says(&self, text: &str) {
        eventually(&format!("the hub says {text}"), PATIENCE, async || {
            if self.logs_contain(text) {
                Ok(())
            } else {
                Err(self.log())
            }
        })
        .await;
    }

    /// All that it has said and will say.
    pub(crate) fn transcript(&self) -> Transcript {
        Transcript(Arc::clone(&self.lines))
    }

    /// All that it has said so far.
    pub(crate) fn log(&self) -> String {
        self.lines.all().join("\n")
    }

    async fn signal(&self, signal: &str) {
        let kill = format!("kill -s {signal} {}", self.pid);
        assert!(Command::new("sh").args(["-c", &kill]).status().await.unwrap().success());
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // It may have ended already; what counts is that it has.
        let _ = self.child.start_kill();
        guard('-', self.pid);
        if std::thread::panicking() {
            let lines = self.lines.all();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            eprintln!(
                "--- log of hub {} ({} lines) ---\n{}\n---",
                self.pid,
                lines.len(),
                shown.join("\n")
            );
        }
    }
}

/// What a hub has said, which outlives it.
pub(crate) struct Transcript(Arc<Lines>);

impl Transcript {
    pub(crate) fn text(&self) -> String {
        self.0.all().join("\n")
    }
}

/// What a hub has said, line by line, on both of its outputs.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Lines {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn collect(self: &Arc<Self>, from: impl AsyncRead + Send + Unpin + 'static) {
        let lines = Arc::clone(self);
        tokio::spawn(async move {
            let mut from = BufReader::new(from).lines();
            while let Ok(Some(line)) = from.next_line().await {
                lines.0.lock().unwrap().push(line);
            }
        });
    }

    fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        let lines = self.0.lock().unwrap();
        let said = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let listening = said.into_iter().find(|line| line["message"] == "listening")?;
        let address = |name: &str| {
            listening["metadata"][name]
                .as_str()
                .unwrap_or_default()
                .parse()
                .unwrap()
        };
        Some((address("address"), address("metrics_address")))
    }
}

/// Where this process is itself killed, no destructor runs; a shell that then reads the end of its input kills the hubs
/// that are left.
const GUARD: &str = r#"
    while read -r sign pid; do
        if [ "$sign" = + ]; then
            pids="$pids $pid"
        else
            rest=
            for one in $pids; do [ "$one" = "$pid" ] || rest="$rest $one"; done
            pids=$rest
        fi
    done
    [ -z "$pids" ] || kill -s KILL $pids
"#;

fn guard(sign: char, pid: u32) {
    static GUARDIAN: LazyLock<Mutex<std::process::Child>> = LazyLock::new(|| {
        let mut guardian = std::process::Command::new("sh");
        guardian
            .args(["-c", GUARD])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Not in our group, so that Ctrl-C does not end it before us.
        Mutex::new(guardian.process_group(0).spawn().unwrap())
    });
    let mut line = String::new();
    writeln!(line, "{sign} {pid}").unwrap();
    GUARDIAN
        .lock()
        .unwrap()
        .stdin
        .as_mut()
        .unwrap()
        .write_all(line.as_bytes())
        .unwrap();
}
