//! One server process: start, stop, kill, pause, resume it, and wait for its end.
//!
//! `watcher.sh` runs between this process and the server. Its standard input is a pipe that only this process holds: when the
//! pipe closes, because the handle was dropped or the process ended, the watcher stops the server. The log file is the lock of
//! the server's folder: the server inherits it locked, so the lock lasts until the last process that writes to it ends.
//!
//! Not here: arguments, ports and readiness (`nats`, `postgres`).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::future::{Future, pending};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::account::Account;

const WATCHER: &str = include_str!("watcher.sh");

/// How long a server whose starter is gone may take to stop by itself before it is killed. Both servers survive a kill
/// without loss, so a quick end is worth more than a clean one.
const ORPHAN_GRACE: Duration = Duration::from_millis(1500);

/// How long a graceful stop may take before it becomes a kill: the servers sync their files in it.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a killed process may take to vanish; longer means that the kernel holds it, for example on a dead disk.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for an earlier server of the same folder to end: [`ORPHAN_GRACE`], and time to sync and unlock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to look whether something that can't be awaited has happened.
pub(super) const POLL: Duration = Duration::from_millis(10);

/// A log longer than this (bytes) starts anew with the next start, so that years of `dev` don't fill the disk.
const LOG_LIMIT: u64 = 16 * 1024 * 1024;

/// How much of the log an error quotes: lines, and bytes to search for them.
const QUOTED_LINES: usize = 6;
const QUOTED_BYTES: u64 = 8 * 1024;

/// What to run.
pub(super) struct Invocation {
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(&'static str, OsString)>,
    /// Where it runs; must exist and be reachable by `account`.
    pub(super) current_dir: PathBuf,
    /// The account of the server, if this process is root and the server must not be.
    pub(super) account: Option<Account>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Running,
    /// Stopped by this process; its end is expected.
    Stopping,
    Stopped,
    /// Ended by itself, with the reason.
    Ended(String),
}

/// The handle of one server over all of its starts. Dropping it stops the server, without waiting for it.
pub(super) struct Process {
    name: &'static str,
    stop_signal: &'static str,
    log: PathBuf,
    remove_on_exit: Vec<PathBuf>,
    state: watch::Sender<State>,
    run: Mutex<Run>,
}

#[derive(Default)]
struct Run {
    pid: Option<u32>,
    /// The watcher's pipe: closing it stops the server. Never written to, only held.
    _pipe: Option<ChildStdin>,
    log_start: u64,
}

impl Process {
    /// `remove_on_exit`: at most two folders, removed when the handle is dropped or this process ends.
    pub(super) fn new(
        name: &'static str,
        stop_signal: &'static str,
        log: PathBuf,
        remove_on_exit: Vec<PathBuf>,
    ) -> Self {
        Self {
            name,
            stop_signal,
            log,
            remove_on_exit,
            state: watch::Sender::new(State::Stopped),
            run: Mutex::default(),
        }
    }

    /// Starts the server and returns what `ready` makes of its process id. One that `ready` gives up is killed.
    pub(super) async fn launch<T, F: Future<Output = Result<T>>>(
        &self,
        invocation: &Invocation,
        ready: impl FnOnce(u32) -> F,
    ) -> Result<T> {
        let pid = self.spawn(invocation).await?;
        let ready = tokio::select! {
            ready = ready(pid) => ready,
            () = self.ended() => return Err(self.failure("did not start")),
        };
        if ready.is_err() {
            self.kill().await?;
        }
        ready
    }

    /// Returns when it has a process id, not when it is ready.
    async fn spawn(&self, invocation: &Invocation) -> Result<u32> {
        if self.runs() {
            bail!("{} runs already", self.name);
        }
        let log = self.lock_log().await?;
        let log_start = log.metadata()?.len();
        let removed = |index| {
            self.remove_on_exit
                .get(index)
                .map(PathBuf::as_path)
                .unwrap_or(Path::new(""))
        };
        let mut command = Command::new("sh");
        command
            .args(["-c", WATCHER, "watcher", self.stop_signal])
            .arg((ORPHAN_GRACE.as_millis() / 100).to_string())
            .arg(removed(0))
            .arg(removed(1))
            .arg(&invocation.program)
            .args(&invocation.args)
            .envs(invocation.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&invocation.current_dir)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        if let Some(account) = &invocation.account {
            command.uid(account.uid).gid(account.gid);
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run sh to start {}", self.name))?;
        // The command holds a copy of the locked log file's descriptor.
        drop(command);
        let pipe = child.stdin.take();
        let output = child.stdout.take().expect("the output was made a pipe above");
        let mut line = String::new();
        // The watcher writes this before anything else, so there is nothing to wait for.
        BufReader::new(output).read_line(&mut line)?;
        self.state.send_replace(State::Running);
        let state = self.state.clone();
        thread::Builder::new()
            .name(format!("{} watch", self.name))
            .spawn(move || {
                let ended = match child.wait() {
                    Ok(status) => describe(status),
                    Err(error) => error.to_string(),
                };
                state.send_modify(|state| {
                    *state = if *state == State::Running {
                        State::Ended(ended)
                    } else {
                        State::Stopped
                    };
                });
            })?;
        let pid = line
            .trim()
            .parse()
            .with_context(|| format!("{} did not start: {}", self.name, line.trim()))?;
        *self.lock_run() = Run {
            pid: Some(pid),
            _pipe: pipe,
            log_start,
        };
        Ok(pid)
    }

    pub(super) fn pid(&self) -> Option<u32> {
        if self.runs() { self.lock_run().pid } else { None }
    }

    pub(super) fn runs(&self) -> bool {
        matches!(*self.state.borrow(), State::Running | State::Stopping)
    }

    /// Asks the server to end and waits until it has; a server that takes too long is killed.
    pub(super) async fn stop(&self) -> Result<()> {
        let Some(pid) = self.expect_end() else { return Ok(()) };
        // A paused process would not see the other signal.
        signal("CONT", &with_children(pid).await).await;
        signal(self.stop_signal, &[pid]).await;
        if timeout(STOP_TIMEOUT, self.ended()).await.is_err() {
            tracing::warn!(server = self.name, pid, "did not stop in {STOP_TIMEOUT:?}, killing it");
            return self.kill().await;
        }
        Ok(())
    }

    /// SIGKILL to the server and all its children, as the machine's end would do; waits until they are gone.
    pub(super) async fn kill(&self) -> Result<()> {
        let Some(pid) = self.expect_end() else { return Ok(()) };
        // Stopped first, so that no child starts between the listing and the kill.
        signal("STOP", &[pid]).await;
        signal("KILL", &with_children(pid).await).await;
        timeout(KILL_TIMEOUT, self.ended()).await.map_err(|_| {
            anyhow!(
                "{} (process {pid}) is still there {KILL_TIMEOUT:?} after SIGKILL",
                self.name
            )
        })
    }

    /// SIGSTOP to the server and its children: connections stay open and nothing answers, as in a hung machine.
    pub(super) async fn pause(&self) -> Result<()> {
        let pid = self.pid().ok_or_else(|| anyhow!("{} does not run", self.name))?;
        signal("STOP", &[pid]).await;
        signal("STOP", &with_children(pid).await).await;
        Ok(())
    }

    /// SIGCONT to the server and its children; harmless where they are not paused.
    pub(super) async fn resume(&self) -> Result<()> {
        let pid = self.pid().ok_or_else(|| anyhow!("{} does not run", self.name))?;
        signal("CONT", &with_children(pid).await).await;
        Ok(())
    }

    /// Resolves with the reason when the server ends without having been told to by `stop`, `kill` or a drop.
    pub(super) fn exited(&self) -> impl Future<Output = String> + Send + use<> {
        let mut state = self.state.subscribe();
        async move {
            let ended = state
                .wait_for(|state| matches!(state, State::Ended(_)))
                .await
                .map(|state| state.clone());
            match ended {
                Ok(State::Ended(reason)) => reason,
                _ => pending().await,
            }
        }
    }

    /// Resolves when the server doesn't run, for whatever reason.
    async fn ended(&self) {
        let mut state = self.state.subscribe();
        // It cannot fail: `self` holds the sender.
        let _ = state
            .wait_for(|state| matches!(state, State::Stopped | State::Ended(_)))
            .await;
    }

    /// An error that quotes the last lines that the server logged since its start.
    pub(super) fn failure(&self, what: &str) -> anyhow::Error {
        let ended = match &*self.state.borrow() {
            State::Ended(reason) => format!(", it ended with {reason}"),
            _ => String::new(),
        };
        let quoted = last_lines(&self.log, self.lock_run().log_start).unwrap_or_default();
        anyhow!(
            "{} {what}{ended}; the end of {}:\n{quoted}",
            self.name,
            self.log.display()
        )
    }

    /// From here on the server's end is expected. The process id, if it runs.
    fn expect_end(&self) -> Option<u32> {
        let running = self.state.send_if_modified(|state| {
            let running = matches!(state, State::Running | State::Stopping);
            if running {
                *state = State::Stopping;
            }
            running
        });
        if running { self.lock_run().pid } else { None }
    }

    /// Opens the log and locks it. An earlier server of this folder that still is about to end is waited for.
    async fn lock_log(&self) -> Result<File> {
        let name = self.log.display();
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot open {name}"))?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match log.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(POLL).await,
                Err(TryLockError::WouldBlock) => {
                    bail!(
                        "another {} runs in {}",
                        self.name,
                        self.log.parent().unwrap_or(Path::new("/")).display()
                    )
                }
                Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {name}")),
            }
        }
        if log.metadata()?.len() > LOG_LIMIT {
            log.set_len(0)?;
        }
        Ok(log)
    }

    fn lock_run(&self) -> MutexGuard<'_, Run> {
        // No code panics while it holds this lock, and its content is always consistent.
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.expect_end().is_some() {
            // The pipe closes with `run`, and the watcher does the rest, the removal included.
            return;
        }
        for dir in &self.remove_on_exit {
            // The watcher ended before. A folder that cannot be removed is a leftover in a temporary folder, and no failure.
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// Sends a signal to each; one that is gone already is passed over. By the shell's own `kill`, which every system has.
async fn signal(signal: &str, pids: &[u32]) {
    let mut command = tokio::process::Command::new("sh");
    command.args([
        "-c",
        r#"signal=$1; shift; for pid; do kill -s "$signal" "$pid"; done"#,
        "kill",
        signal,
    ]);
    command
        .args(pids.iter().map(u32::to_string))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Err(error) = command.status().await {
        tracing::warn!(%error, "cannot run sh to send SIG{signal}");
    }
}

/// The process and its direct children: each of PostgreSQL's is in a session of its own, so no group holds them all.
async fn with_children(pid: u32) -> Vec<u32> {
    let listed = match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(listed) => listed,
        // This system lacks that file.
        Err(_) => match tokio::process::Command::new("pgrep")
            .args(["-P", &pid.to_string()])
            .output()
            .await
        {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(_) => String::new(),
        },
    };
    std::iter::once(pid)
        .chain(listed.split_whitespace().filter_map(|child| child.parse().ok()))
        .collect()
}

/// The watcher passes its server's exit code on; the shell adds 128 to the number of a signal.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) if code > 128 => format!("signal {}", code - 128),
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("its watcher's signal {}", signal.unwrap_or_default()),
    }
}

fn last_lines(log: &Path, start: u64) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(QUOTED_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(QUOTED_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n"))
}
