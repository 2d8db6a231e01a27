//! Other processes of the benchmark: starting and stopping them, and what they take of memory and CPU.
//!
//! What a child is and how it is configured is left to the caller, who passes a finished `Command`.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// A child says `ready PORT` on its standard output once it listens.
pub(crate) const READY: &str = "ready ";
/// Clock ticks a second in `/proc/PID/stat`: 100 on every Linux that Rust runs on by default (`getconf CLK_TCK`);
/// reading it would take a C call.
const TICKS_PER_SECOND: f64 = 100.0;
/// How often a stopping child is looked at.
const STOP_POLL: Duration = Duration::from_millis(20);

/// A running child process; killed when dropped.
pub(crate) struct Child {
    process: std::process::Child,
    name: String,
    port: u16,
}

impl Child {
    /// Starts `command` and waits for the line of its output in which `port` finds its port (see [`after_ready`]); lines
    /// before it are passed over. Blocks, at most for `within`.
    pub(crate) fn start(mut command: Command, within: Duration, port: fn(&str) -> Option<u16>) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let process = process.with_context(|| format!("starting {name}"))?;
        let mut child = Self { process, name, port: 0 };
        let output = child.process.stdout.take().context("the child's output is piped")?;
        let (ready, found) = mpsc::channel();
        // Reads on after the line, for a child whose pipe is full or closed would stop.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(port) = port(&line) {
                    // The receiver is gone after the first one.
                    let _ = ready.send(port);
                }
            }
        });
        child.port = match found.recv_timeout(within) {
            Ok(port) => port,
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("{} was not ready within {within:?}", child.name),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                bail!("{} ended without getting ready: {}", child.name, child.process.wait()?)
            }
        };
        Ok(child)
    }

    /// The port that it said it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends SIGTERM and waits until it has ended; kills it and fails where that takes longer than `grace`. Blocks.
    pub(crate) fn stop(mut self, grace: Duration) -> Result<()> {
        let sent = Command::new("kill")
            .args(["-TERM", &self.pid().to_string()])
            .status()
            .context("running kill")?;
        ensure!(sent.success(), "kill -TERM of {} failed: {sent}", self.name);
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait()? {
                ensure!(status.success(), "{} ended with {status}", self.name);
                return Ok(());
            }
            std::thread::sleep(STOP_POLL);
        }
        bail!("{} did not stop within {grace:?} of SIGTERM", self.name)
    }
}

/// What came of a program that ended by itself.
pub(crate) struct Ended {
    /// What it wrote on its standard output.
    pub(crate) output: String,
    pub(crate) seconds: f64,
    /// The most memory that it was seen to hold, in bytes.
    pub(crate) largest: u64,
}

/// Runs a program that writes little and ends by itself.
pub(crate) async fn to_its_end(mut command: Command) -> Result<Ended> {
    // Without its environment, which has passwords.
    let name = format!("{:?} {:?}", command.get_program(), command.get_args());
    let (began, mut largest) = (Instant::now(), 0);
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    while process.try_wait()?.is_none() {
        // A process that has just ended holds none.
        largest = largest.max(resident_bytes(process.id()).unwrap_or_default());
        tokio::time::sleep(STOP_POLL).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    let ended = process.wait_with_output()?;
    ensure!(ended.status.success(), "{name} ended with {}", ended.status);
    let output = String::from_utf8(ended.stdout)?;
    Ok(Ended {
        output,
        seconds,
        largest,
    })
}

impl Drop for Child {
    fn drop(&mut self) {
        // Fails only for a child that has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The port of a line `ready PORT`.
pub(crate) fn after_ready(line: &str) -> Option<u16> {
    line.strip_prefix(READY)?.trim().parse().ok()
}

/// Memory that a process holds at the moment.
pub(crate) fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .with_context(|| format!("VmRSS in {path}"))?;
    let kib = line.trim().trim_end_matches("kB").trim_end().parse::<u64>();
    Ok(kib.with_context(|| format!("VmRSS in {path}"))? * 1024)
}

/// CPU time, user and system, that a process has taken since its start, to a hundredth of a second.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let ticks = stat(pid)?;
    Ok((ticks.user + ticks.system) as f64 / TICKS_PER_SECOND)
}

/// The same with what its children took that have ended.
pub(crate) fn cpu_seconds_with_children(pid: u32) -> Result<f64> {
    let ticks = stat(pid)?;
    Ok((ticks.user + ticks.system + ticks.of_children) as f64 / TICKS_PER_SECOND)
}

/// CPU time that the running children of a process have taken.
pub(crate) fn cpu_seconds_of_all(parent: u32) -> Result<f64> {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that ended meanwhile is counted with its parent the next time.
        if let Ok(stat) = stat(pid)
            && stat.parent == u64::from(parent)
        {
            ticks += stat.user + stat.system;
        }
    }
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// Of `/proc/PID/stat`, in clock ticks.
struct Stat {
    parent: u64,
    user: u64,
    system: u64,
    of_children: u64,
}

fn stat(pid: u32) -> Result<Stat> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name before it, in brackets, may hold blanks and brackets. After it come state, parent, 9 numbers, utime, stime, cutime, cstime.
    let (_, fields) = text.rsplit_once(')').with_context(|| format!("the format of {path}"))?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let number = |at: usize| {
        let field = fields.get(at).with_context(|| format!("the format of {path}"))?;
        field.parse::<u64>().with_context(|| format!("the format of {path}"))
    };
    Ok(Stat {
        parent: number(1)?,
        user: number(11)?,
        system: number(12)?,
        of_children: number(13)? + number(14)?,
    })
}

/// CPU time of the calling thread so far; `None` where the kernel does not tell.
pub(crate) fn thread_cpu() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
