//! What was measured: the times of single orders on their way through the hub, and the table of all results with
//! their goals, on the terminal and as JSON beside the facts of the machine.
//!
//! Measuring, and deciding what the goals are, is left to others.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::ops::{Deref, Range};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

/// Where the last run's results are kept, from the project's root.
pub(crate) const LATEST: &str = "bench/latest.json";
/// Longest latency that a histogram holds; a longer one is recorded as this.
const LONGEST_MICROS: u64 = 600_000_000;

/// The number of an order of the load generator, from its external id.
pub(crate) fn order_number(external_id: &str) -> Option<u64> {
    external_id.strip_prefix("CR")?.parse().ok()
}

/// A histogram of microseconds, three digits exact.
#[derive(Clone, Debug)]
pub(crate) struct Micros(Histogram<u64>);

impl Micros {
    /// Adds one time.
    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(time.as_micros() as u64);
    }

    /// The time in milliseconds within which this share of them (0 to 1) lies.
    pub(crate) fn milliseconds(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1000.0
    }
}

impl Default for Micros {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_MICROS, 3).expect("1 < the longest, and 3 digits are allowed"))
    }
}

impl Deref for Micros {
    type Target = Histogram<u64>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// When each order was sent, accepted (its 200 read) and seen by the backend. One array slot an order, no locks: it is
/// written for every request while the measurement runs.
pub(crate) struct Times {
    start: Instant,
    first: u64,
    slots: Vec<Slot>,
    repeated: AtomicU64,
}

/// Microseconds since the start + 1; 0: not yet.
#[derive(Default)]
struct Slot {
    sent: AtomicU64,
    accepted: AtomicU64,
    arrived: AtomicU64,
}

/// How a range of orders fared from the load generator to the backend.
pub(crate) struct EndToEnd {
    /// Orders answered 200.
    pub(crate) accepted: u64,
    /// Of these, orders that the backend has seen.
    pub(crate) arrived: u64,
    /// Requests to the backend for an order that it had seen before (of all orders, not only of the range).
    pub(crate) repeated: u64,
    /// Time from sent to arrived; in an open loop from due to arrived.
    pub(crate) from_sent: Micros,
}

impl Times {
    /// Room for the order numbers from `first` on; higher ones than there is room for are not noted.
    pub(crate) fn new(first: u64, room: usize) -> Self {
        let slots = std::iter::repeat_with(Slot::default).take(room).collect();
        Self {
            start: Instant::now(),
            first,
            slots,
            repeated: AtomicU64::new(0),
        }
    }

    /// The order was sent, or in an open loop: was due.
    pub(crate) fn mark_sent(&self, order: u64, at: Instant) {
        if let Some(slot) = self.slot(order) {
            slot.sent.store(self.micros(at), Ordering::Relaxed);
        }
    }

    /// The order's 200 was read.
    pub(crate) fn mark_accepted(&self, order: u64, at: Instant) {
        if let Some(slot) = self.slot(order) {
            slot.accepted.store(self.micros(at), Ordering::Relaxed);
        }
    }

    /// The backend sees the order now. Returns whether it is the first time.
    pub(crate) fn mark_arrived(&self, order: u64) -> bool {
        let Some(slot) = self.slot(order) else { return true };
        let now = self.micros(Instant::now());
        let first = slot
            .arrived
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok();
        self.repeated.fetch_add(u64::from(!first), Ordering::Relaxed);
        first
    }

    /// Sums up the orders of a range, such as [`crate::load::Report::orders`].
    pub(crate) fn summary(&self, orders: Range<u64>) -> EndToEnd {
        let mut accepted_count = 0;
        let mut from_sent = Micros::default();
        for slot in orders.filter_map(|order| self.slot(order)) {
            let [sent, accepted, arrived] =
                [&slot.sent, &slot.accepted, &slot.arrived].map(|time| time.load(Ordering::Relaxed));
            accepted_count += u64::from(accepted > 0);
            // One seen without a 200 having been read for it is not lost, and not in the figures.
            if arrived > 0 && accepted > 0 {
                from_sent.record(Duration::from_micros(arrived.saturating_sub(sent)));
            }
        }
        EndToEnd {
            accepted: accepted_count,
            arrived: from_sent.len(),
            repeated: self.repeated.load(Ordering::Relaxed),
            from_sent,
        }
    }

    fn slot(&self, order: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(order.checked_sub(self.first)?).ok()?)
    }

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_micros() as u64 + 1
    }
}

/// What a figure has to be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl fmt::Display for Goal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(limit) => write!(formatter, ">= {}", figure(*limit)),
            Self::AtMost(limit) => write!(formatter, "<= {}", figure(*limit)),
        }
    }
}

/// One result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// Which part of the benchmark it belongs to.
    pub(crate) section: String,
    /// What was measured.
    pub(crate) what: String,
    /// What it came to.
    pub(crate) measured: f64,
    /// Unit of the figure and of its goal.
    pub(crate) unit: String,
    /// What it has to be, if anything.
    pub(crate) goal: Option<Goal>,
    /// Whether it is.
    pub(crate) pass: Option<bool>,
}

impl Row {
    /// A figure without a goal.
    pub(crate) fn number(section: &str, what: impl Into<String>, value: f64, unit: &str) -> Self {
        let (measured, section, unit) = (value, section.to_owned(), unit.to_owned());
        Self {
            section,
            what: what.into(),
            measured,
            unit,
            goal: None,
            pass: None,
        }
    }

    /// Gives it a goal and judges it. A figure that is not a number never reaches one.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.pass = Some(match goal {
            Goal::AtLeast(limit) => self.measured >= limit,
            Goal::AtMost(limit) => self.measured <= limit,
        });
        self.goal = Some(goal);
        self
    }
}

/// Facts without which the figures mean little.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// CPU model.
    pub(crate) cpu: String,
    /// Memory in bytes.
    pub(crate) memory_bytes: u64,
    /// Kernel release.
    pub(crate) kernel: String,
}

impl Machine {
    /// Reads them from `/proc`; what is not there is `unknown` or 0.
    pub(crate) fn read() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib = memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok());
        let kernel = read("/proc/sys/kernel/osrelease").trim().to_owned();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            memory_bytes: kib.unwrap_or(0) * 1024,
            kernel: if kernel.is_empty() {
                "unknown".to_owned()
            } else {
                kernel
            },
        }
    }
}

/// A whole run of the benchmark.
#[derive(Serialize)]
pub(crate) struct Results {
    /// When it ran, as the caller writes dates.
    pub(crate) date: String,
    /// Commit of the source, with `-dirty` where it has changes; `None` outside a repository.
    pub(crate) commit: Option<String>,
    /// Programs and their versions.
    pub(crate) versions: BTreeMap<String, String>,
    /// The machine.
    pub(crate) machine: Machine,
    /// The results.
    pub(crate) rows: Vec<Row>,
}

impl Results {
    /// An empty one, with the facts of here and now.
    pub(crate) fn new(date: String, versions: BTreeMap<String, String>) -> Self {
        Self {
            date,
            commit: commit(),
            versions,
            machine: Machine::read(),
            rows: Vec::new(),
        }
    }

    /// Adds a result.
    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// How many goals there are, and how many were reached.
    pub(crate) fn goals(&self) -> (usize, usize) {
        let judged: Vec<bool> = self.rows.iter().filter_map(|row| row.pass).collect();
        (judged.len(), judged.iter().filter(|pass| **pass).count())
    }

    /// Prints the machine and the table.
    #[expect(clippy::print_stdout, reason = "the table is what the program is run for")]
    pub(crate) fn print(&self) {
        let Machine {
            cores,
            cpu,
            memory_bytes,
            kernel,
        } = &self.machine;
        let gib = *memory_bytes as f64 / f64::from(1 << 30);
        println!("{cores} cores, {cpu}, {gib:.1} GiB, Linux {kernel}, {}", self.date);
        let versions = self
            .versions
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect::<Vec<_>>();
        let commit = self.commit.as_deref().unwrap_or("unknown");
        println!("commit {commit}; {}\n\n{}", versions.join(", "), table(&self.rows));
        let (goals, reached) = self.goals();
        println!("{reached} of {goals} goals reached");
    }

    /// Writes all of it as JSON, making the directory where it is missing.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let shown = path.display();
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        }
        let json = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, json).with_context(|| format!("writing {shown}"))
    }
}

fn commit() -> Option<String> {
    let described = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
        .output();
    let output = described.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}

/// Two digits for small figures, none for large ones, with thousands apart.
fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 1000.0 || value.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let plain = format!("{value:.decimals$}");
    let whole = plain.find('.').unwrap_or(plain.len());
    let mut text = String::new();
    for (place, digit) in plain.char_indices() {
        let left = whole.saturating_sub(place);
        if place > 0 && place < whole && left.is_multiple_of(3) && !text.ends_with('-') {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![["section", "what", "measured", "unit", "goal", ""].map(str::to_owned)];
    for row in rows {
        let measured = figure(row.measured);
        let goal = row.goal.map(|goal| goal.to_string()).unwrap_or_default();
        let verdict = row.pass.map_or("", |pass| if pass { "ok" } else { "MISSED" });
        lines.push([
            row.section.clone(),
            row.what.clone(),
            measured,
            row.unit.clone(),
            goal,
            verdict.to_owned(),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for [section, what, measured, unit, goal, verdict] in &lines {
        let [w0, w1, w2, w3, w4, _] = widths;
        let line = format!("{section:w0$}  {what:w1$}  {measured:>w2$}  {unit:w3$}  {goal:w4$}  {verdict}");
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}
