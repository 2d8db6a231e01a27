//! One figure: what it came to each time it was taken, its goal, and what it comes to at a CPU of speed 1.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{statistics::Spread, table::figure, yardstick::Yardstick};

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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

/// How a figure goes with the CPU's speed, by its unit. Latencies (ms) are mostly waits for a disk, so they are left as they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scaling {
    /// CPU time: less on a faster CPU.
    Cost,
    /// Work done in a time: more on a faster CPU.
    Rate,
    /// Everything else.
    None,
}

impl Scaling {
    fn of(unit: &str) -> Self {
        match unit {
            "µs" => Self::Cost,
            "orders/s" | "accepts/s" | "events/s" => Self::Rate,
            _ => Self::None,
        }
    }
}

/// One result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Which part of the benchmark it belongs to.
    pub(crate) section: String,
    /// What was measured.
    pub(crate) what: String,
    /// Unit of the figure and of its goal.
    pub(crate) unit: String,
    /// What it came to, each time it was taken.
    pub(crate) taken: Vec<f64>,
    /// Their median, least and largest; `None` where it was not measured.
    pub(crate) spread: Option<Spread>,
    /// The same at a CPU of speed 1, where the figure goes with the CPU.
    pub(crate) normalised: Option<Spread>,
    /// What the median has to be, if anything.
    pub(crate) goal: Option<Goal>,
    /// Why it was not measured.
    pub(crate) not_measured: Option<String>,
    /// Whether it was taken on a single core, so that its speed counts.
    pub(crate) on_one_core: bool,
}

impl Row {
    fn new(section: &str, what: String, unit: &str) -> Self {
        Self {
            section: section.to_owned(),
            what,
            unit: unit.to_owned(),
            taken: Vec::new(),
            spread: None,
            normalised: None,
            goal: None,
            not_measured: None,
            on_one_core: false,
        }
    }

    /// Gives it a goal.
    pub(crate) fn wants(&mut self, goal: Goal) {
        self.goal = Some(goal);
    }

    /// Whether the goal is reached. A figure that is not there never reaches one; one that could not be measured is not judged.
    pub(crate) fn pass(&self) -> Option<bool> {
        if self.not_measured.is_some() {
            return None;
        }
        let median = self.spread.map(|spread| spread.median);
        self.goal.map(|goal| match goal {
            Goal::AtLeast(limit) => median.is_some_and(|median| median >= limit),
            Goal::AtMost(limit) => median.is_some_and(|median| median <= limit),
        })
    }

    /// Notes what it comes to at a CPU of speed 1.
    pub(crate) fn normalise(&mut self, speed: Yardstick) {
        let speed = if self.on_one_core { speed.one } else { speed.all };
        let factor = match Scaling::of(&self.unit) {
            Scaling::Cost => speed,
            Scaling::Rate => 1.0 / speed,
            Scaling::None => return,
        };
        self.normalised = self.spread.map(|spread| spread.times(factor));
    }
}

/// The figures of a section while they are taken, in the order in which each came first.
pub(crate) struct Samples {
    section: String,
    rows: Vec<Row>,
}

impl Samples {
    /// None yet.
    pub(crate) fn new(section: impl Into<String>) -> Self {
        Self {
            section: section.into(),
            rows: Vec::new(),
        }
    }

    /// Adds what a figure came to this time, and shows it while the rest is measured. The figure is known by `what`.
    #[expect(clippy::print_stderr, reason = "progress for whoever waits")]
    pub(crate) fn add(&mut self, what: impl Into<String>, value: f64, unit: &str) -> &mut Row {
        let what = what.into();
        eprintln!("{}: {what} = {value:.2} {unit}", self.section);
        let row = self.row(what, unit);
        row.taken.push(value);
        row.spread = Spread::of(&row.taken);
        row
    }

    /// Notes that a figure could not be measured here, and why.
    pub(crate) fn not_measured(&mut self, what: &str, why: &str, unit: &str) -> &mut Row {
        let row = self.row(what.to_owned(), unit);
        row.not_measured = Some(why.to_owned());
        row
    }

    /// The median of a figure so far.
    pub(crate) fn median(&self, what: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.what == what)?;
        row.spread.map(|spread| spread.median)
    }

    /// The section.
    pub(crate) fn section(&self) -> &str {
        &self.section
    }

    /// Takes in the figures of another round.
    pub(crate) fn take_in(&mut self, round: Self) {
        for of_round in round.rows {
            let row = self.row(of_round.what.clone(), &of_round.unit);
            row.taken.extend(&of_round.taken);
            row.spread = Spread::of(&row.taken);
            row.goal = of_round.goal;
            row.not_measured = of_round.not_measured;
            row.on_one_core = of_round.on_one_core;
        }
    }

    /// All of them.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// All of them.
    pub(crate) fn into_rows(self) -> Vec<Row> {
        self.rows
    }

    fn row(&mut self, what: String, unit: &str) -> &mut Row {
        let at = self.rows.iter().position(|row| row.what == what);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row::new(&self.section, what, unit));
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }
}
