//! What was measured: the figures with their spread and their goals, beside the facts of the machine and its speed at the time; as a table and
//! as JSON, and compared with an earlier run.
//!
//! It stands by itself, so that tests can take it in. Measuring, and deciding what the goals are, is left to others.

pub(crate) mod compare;
pub(crate) mod machine;
pub(crate) mod row;
pub(crate) mod statistics;
pub(crate) mod steady;
pub(crate) mod table;
pub(crate) mod yardstick;

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use self::{
    machine::Fingerprint,
    row::Row,
    statistics::MAY_MOVE,
    steady::Rounds,
    yardstick::{Yardstick, movement},
};

/// Where the last run's results are kept, from the project's root.
pub(crate) const LATEST: &str = "bench/latest.json";
/// Counted up when a field changes its meaning or goes.
const FORMAT: u32 = 3;

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
    /// The CPU's speed before and after each part that was measured.
    pub(crate) yardsticks: Vec<Yardstick>,
    /// How far it moved within a part at most, as a share; none where nothing was measured.
    pub(crate) moved: Option<f64>,
    /// How many rounds were left out because it moved too far in them.
    pub(crate) left_out: usize,
    /// Parts of which too few rounds count.
    pub(crate) too_few: Vec<String>,
    /// Whether the CPU kept its speed, within [`MAY_MOVE`], in each part. Figures of a run in which it did not say nothing about the program.
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
            moved: None,
            left_out: 0,
            too_few: Vec::new(),
            usable: false,
            rows: Vec::new(),
        }
    }

    /// A part was measured between these looks at the CPU's speed.
    pub(crate) fn note_part(&mut self, looks: &[Yardstick]) {
        self.yardsticks.extend(looks);
        let moved = movement(looks);
        // A look that failed is no number, and no maximum either.
        self.moved = Some(self.moved.map_or(moved, |before| {
            if moved > before || moved.is_nan() {
                moved
            } else {
                before
            }
        }));
        self.judge();
    }

    /// A part was measured in these rounds.
    pub(crate) fn note_rounds(&mut self, part: &str, rounds: Rounds) {
        self.left_out += rounds.left_out();
        if !rounds.are_enough() {
            self.too_few.push(part.to_owned());
        }
        let looks = rounds.into_looks();
        self.yardsticks.extend(looks);
        self.moved = self.moved.or(Some(0.0));
        self.judge();
    }

    fn judge(&mut self) {
        self.usable = self.too_few.is_empty() && self.moved.is_some_and(|moved| moved <= MAY_MOVE);
    }

    /// Divides the rows from one on by the CPU's speed, which is the mean of the looks from one on; nothing where there are none.
    pub(crate) fn normalise(&mut self, from_row: usize, from_look: usize) {
        let looks = &self.yardsticks[from_look..];
        if looks.is_empty() {
            return;
        }
        let speed = Yardstick::mean(looks);
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
        if self.usable {
            return None;
        }
        let moved = match self.moved {
            Some(moved) if moved > MAY_MOVE || moved.is_nan() => format!(
                "The yardstick of CPU speed moved by {:.0} % while a part was measured; more than {:.0} % means that\n!!! something else \
                 took CPU time, or the CPU changed its clock. ",
                moved * 100.0,
                MAY_MOVE * 100.0
            ),
            _ => String::new(),
        };
        let few = match &self.too_few[..] {
            [] => String::new(),
            parts => format!("It kept its speed in too few rounds of: {}. ", parts.join(", ")),
        };
        Some(format!(
            "!!! NOT USABLE: THE MACHINE WAS BUSY. {moved}{few}No figure of this run says anything about the program. Run it again."
        ))
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
             CPU speed of one core/of each of all: {}; moved by {:.0} % within a part at most; {} rounds left out",
            self.date,
            looks.join(" "),
            self.moved.unwrap_or(f64::NAN) * 100.0,
            self.left_out
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
