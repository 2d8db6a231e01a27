//! What was measured: the figures with their spread and their goals, beside the facts of the machine and its speed at the time; as a table and
//! as JSON, and compared with an earlier run.
//!
//! It stands by itself, so that tests can take it in. Measuring, and deciding what the goals are, is left to others.

pub(crate) mod compare;
pub(crate) mod machine;
pub(crate) mod row;
pub(crate) mod statistics;
pub(crate) mod table;
pub(crate) mod yardstick;

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use self::{
    machine::Fingerprint,
    row::Row,
    statistics::MAY_MOVE,
    yardstick::{Yardstick, movement},
};

/// Where the last run's results are kept, from the project's root.
pub(crate) const LATEST: &str = "bench/latest.json";
/// Counted up when a field changes its meaning or goes.
const FORMAT: u32 = 2;

/// A whole run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Version of this form.
    pub(crate) format: u32,
    /// Day of the run.
    pub(crate) date: String,
    /// Commit of the source, with `-dirty` where it has changes; `None` outside a repository.
    pub(crate) commit: Option<String>,
    /// The machine and how the run was made.
    pub(crate) fingerprint: Fingerprint,
    /// The CPU's speed before, between and after the sections.
    pub(crate) yardsticks: Vec<Yardstick>,
    /// Whether the yardstick stayed within [`MAY_MOVE`]. Figures of a run in which it did not say nothing about the program.
    pub(crate) usable: bool,
    /// The results.
    pub(crate) rows: Vec<Row>,
}

/// Only the version of the form, of a file of any version.
#[derive(Deserialize)]
struct Form {
    #[serde(default)]
    format: u32,
}

impl Results {
    /// An empty one, with the facts of here and now.
    pub(crate) fn new(date: String, fingerprint: Fingerprint) -> Self {
        Self {
            format: FORMAT,
            date,
            commit: commit(),
            fingerprint,
            yardsticks: Vec::new(),
            usable: false,
            rows: Vec::new(),
        }
    }

    /// Takes the yardstick, and judges the run anew by all that were taken. Blocks for 0.8 s.
    pub(crate) fn look_at_the_cpu(&mut self) {
        self.note_yardstick(Yardstick::take());
    }

    /// Adds a look at the CPU's speed, and judges the run anew.
    pub(crate) fn note_yardstick(&mut self, look: Yardstick) {
        self.yardsticks.push(look);
        self.usable = movement(&self.yardsticks) <= MAY_MOVE;
    }

    /// Divides the rows from one on by the CPU's speed, which is the mean of the looks from one on.
    pub(crate) fn normalise(&mut self, from_row: usize, from_look: usize) {
        let speed = Yardstick::mean(&self.yardsticks[from_look..]);
        for row in self.rows.iter_mut().skip(from_row) {
            row.normalise(speed);
        }
    }

    /// How many goals there are, and how many were reached.
    pub(crate) fn goals(&self) -> (usize, usize) {
        let judged: Vec<bool> = self.rows.iter().filter_map(Row::pass).collect();
        (judged.len(), judged.iter().filter(|pass| **pass).count())
    }

    /// What is to be said loudly: that the machine was busy. `None` where it was not.
    pub(crate) fn warning(&self) -> Option<String> {
        let moved = movement(&self.yardsticks) * 100.0;
        (!self.usable).then(|| {
            format!(
                "!!! NOT USABLE: THE MACHINE WAS BUSY. The yardstick of CPU speed moved by {moved:.0} % in this run; more than {:.0} % \
                 means that\n!!! something else took CPU time, or the CPU changed its clock. No figure of this run says anything \
                 about the program. Run it again.",
                MAY_MOVE * 100.0
            )
        })
    }

    /// Prints the machine and the table.
    #[expect(clippy::print_stdout, reason = "the table is what the program is run for")]
    pub(crate) fn print(&self) {
        println!("{}", self.head());
        println!("\n{}", table::of_rows(&self.rows, self.usable));
        match (self.goals(), self.warning()) {
            (_, Some(warning)) => println!("{warning}"),
            ((goals, reached), None) => println!("{reached} of {goals} goals reached"),
        }
    }

    /// Machine, build and the CPU's speed, a line each.
    fn head(&self) -> String {
        let Fingerprint {
            cores,
            cpu,
            memory_bytes,
            kernel,
            store,
            profile,
            ..
        } = &self.fingerprint;
        let gib = *memory_bytes as f64 / f64::from(1 << 30);
        let commit = self.commit.as_deref().unwrap_or("unknown");
        let looks: Vec<_> = self
            .yardsticks
            .iter()
            .map(|look| format!("{:.2}/{:.2}", look.one, look.all))
            .collect();
        format!(
            "{cores} cores, {cpu}, {gib:.1} GiB, Linux {kernel}, store on {store}, {}\ncommit {commit}, profile {profile}\n\
             CPU speed of one core/of each of all: {}; moved by {:.0} %",
            self.date,
            looks.join(" "),
            movement(&self.yardsticks) * 100.0
        )
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

    /// Reads what [`Self::write`] wrote.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {shown}"))?;
        let Form { format } =
            serde_json::from_str(&text).with_context(|| format!("{shown} is not a run of this bench"))?;
        ensure!(
            format == FORMAT,
            "{shown} has form {format}, this bench reads form {FORMAT}: make the earlier run again"
        );
        serde_json::from_str(&text).with_context(|| format!("{shown} is not a run of this bench"))
    }
}

fn commit() -> Option<String> {
    let described = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
        .output();
    let output = described.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}
