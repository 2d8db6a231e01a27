//! Two runs of one machine, figure by figure. Runs of two machines are refused: their figures say more about the machines.

use anyhow::{Result, ensure};

use super::{
    Results,
    row::Row,
    statistics::{MAY_MOVE, Spread, Verdict, movement},
    table::{columns, figure, range},
};

/// What is said about a figure of two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Both runs are good for it.
    Judged(Verdict),
    /// The machine was busy in one of the runs.
    NotUsable,
    /// The CPU was faster in one of them by more than a run may move, and the figure cannot be divided by its speed.
    OtherSpeed,
}

impl Said {
    fn text(self) -> &'static str {
        match self {
            Self::Judged(Verdict::Beyond) => "BEYOND the spread",
            Self::Judged(Verdict::Within) => "within the spread",
            Self::Judged(Verdict::TooFew) => "taken too few times to tell",
            Self::NotUsable => "NOT USABLE, the machine was busy",
            Self::OtherSpeed => "not judged, the CPU had another speed",
        }
    }
}

/// A figure of two runs.
#[derive(Debug)]
pub(crate) struct Compared {
    /// Its section, what it is, its unit.
    pub(crate) names: [String; 3],
    /// As it was earlier, and as it is now.
    pub(crate) earlier: Spread,
    pub(crate) now: Spread,
    /// Now divided by earlier.
    pub(crate) ratio: f64,
    /// The same at a CPU of speed 1, where the figure goes with the CPU.
    pub(crate) normalised: Option<f64>,
    /// Whether that is more than chance.
    pub(crate) said: Said,
}

/// Compares the figures that both runs have.
///
/// # Errors
/// If the runs were made on two machines, or in two ways; the message names each difference.
pub(crate) fn compare(earlier: &Results, now: &Results) -> Result<Vec<Compared>> {
    refuse(earlier, now)?;
    let usable = earlier.usable && now.usable;
    let is_same_speed = speeds_apart(earlier, now) <= MAY_MOVE;
    let pairs = now.rows.iter().filter_map(|row| Some((same(earlier, row)?, row)));
    Ok(pairs
        .filter_map(|(before, row)| {
            let (then, now) = (before.spread?, row.spread?);
            let normalised = before.normalised.zip(row.normalised);
            let (from, to) = normalised.unwrap_or((then, now));
            let said = if !usable {
                Said::NotUsable
            } else if normalised.is_none() && !is_same_speed && is_timed(row) {
                Said::OtherSpeed
            } else {
                Said::Judged(Verdict::of(&from, &to))
            };
            Some(Compared {
                names: [row.section.clone(), row.what.clone(), row.unit.clone()],
                earlier: then,
                now,
                ratio: now.median / then.median,
                normalised: normalised.map(|(then, now)| now.median / then.median),
                said,
            })
        })
        .collect())
}

/// Fails where the runs were made on two machines, or in two ways.
///
/// # Errors
/// See [`compare`].
pub(crate) fn refuse(earlier: &Results, now: &Results) -> Result<()> {
    let differences = now.fingerprint.differences(&earlier.fingerprint);
    ensure!(
        differences.is_empty(),
        "the runs cannot be compared, for they were not made on the same machine and in the same way:\n  {}\nTo compare two \
         builds, measure both on one machine: --hub and --against",
        differences.join("\n  ")
    );
    Ok(())
}

/// All of it as text.
pub(crate) fn text(earlier: &Results, now: &Results) -> Result<String> {
    let compared = compare(earlier, now)?;
    let commit = |run: &Results| run.commit.clone().unwrap_or_else(|| "unknown".to_owned());
    let mut text = format!(
        "compared with the run of {} at commit {} (this one: {})\n",
        earlier.date,
        commit(earlier),
        commit(now)
    );
    for (run, which) in [(earlier, "the earlier run"), (now, "this run")] {
        if !run.usable {
            text += &format!("!!! {which} is NOT USABLE: the machine was busy. Nothing is concluded.\n");
        }
    }
    let apart = speeds_apart(earlier, now) * 100.0;
    if apart > MAY_MOVE * 100.0 {
        text += &format!(
            "!!! The CPU's speed differs by {apart:.0} % between the runs: only figures divided by it are judged.\n"
        );
    }
    text += &table(&compared, ["earlier", "now", "now / earlier"]);
    for (run, other, which) in [(now, earlier, "this run"), (earlier, now, "the earlier run")] {
        for row in run.rows.iter().filter(|row| same(other, row).is_none()) {
            text += &format!("only in {which}: {}: {}\n", row.section, row.what);
        }
    }
    Ok(text)
}

/// The table, with names for the two sides and their ratio.
pub(crate) fn table(compared: &[Compared], [earlier, now, ratio]: [&str; 3]) -> String {
    let head = [
        "section",
        "what",
        "unit",
        earlier,
        "least - most",
        now,
        "least - most",
        ratio,
        "at CPU speed 1",
        "",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    for one in compared {
        let [section, what, unit] = one.names.clone();
        lines.push([
            section,
            what,
            unit,
            figure(one.earlier.median),
            range(&one.earlier),
            figure(one.now.median),
            range(&one.now),
            format!("{:.3}", one.ratio),
            one.normalised.map(|ratio| format!("{ratio:.3}")).unwrap_or_default(),
            one.said.text().to_owned(),
        ]);
    }
    columns(&lines, &[3, 5, 7, 8])
}

/// The row of the other run for the same figure.
fn same<'a>(run: &'a Results, row: &Row) -> Option<&'a Row> {
    let is_same = |other: &&Row| other.section == row.section && other.what == row.what && other.unit == row.unit;
    run.rows.iter().find(is_same)
}

/// A share of two figures of one run, which has no unit, does not depend on the CPU's speed, nor does a size.
fn is_timed(row: &Row) -> bool {
    !matches!(row.unit.as_str(), "" | "MB" | "bytes")
}

/// How far the medians of the two runs' CPU speed are apart.
fn speeds_apart(earlier: &Results, now: &Results) -> f64 {
    let median = |run: &Results| {
        let speeds: Vec<f64> = run.yardsticks.iter().map(|look| look.all).collect();
        Spread::of(&speeds).map_or(f64::NAN, |speeds| speeds.median)
    };
    movement(&[median(earlier), median(now)])
}
