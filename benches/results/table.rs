//! The table of figures as text.

use std::fmt::Write as _;

use super::{row::Row, statistics::Spread};

/// All rows of a run, each with its median, its spread and what it comes to at a CPU of speed 1.
pub(crate) fn of_rows(rows: &[Row], usable: bool) -> String {
    let head = [
        "section",
        "what",
        "median",
        "least - most",
        "unit",
        "at CPU speed 1",
        "goal",
        "",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    for row in rows {
        let (median, range) = match (&row.not_measured, &row.spread) {
            (Some(why), _) => (format!("not measured: {why}"), String::new()),
            (None, None) => ("no number".to_owned(), String::new()),
            (None, Some(spread)) => (figure(spread.median), range(spread)),
        };
        let verdict = match (usable, row.pass()) {
            _ if row.not_measured.is_some() => "",
            (false, _) => "NOT USABLE",
            (true, Some(true)) => "ok",
            (true, Some(false)) => "MISSED",
            (true, None) => "",
        };
        let normalised = row.normalised.map(|spread| figure(spread.median)).unwrap_or_default();
        let goal = row.goal.map(|goal| goal.to_string()).unwrap_or_default();
        let (section, what, unit) = (row.section.clone(), row.what.clone(), row.unit.clone());
        lines.push([section, what, median, range, unit, normalised, goal, verdict.to_owned()]);
    }
    columns(&lines, &[2, 5])
}

/// The least and the largest, and how far they are apart.
pub(crate) fn range(spread: &Spread) -> String {
    if spread.taken == 1 {
        return "taken once".to_owned();
    }
    let (least, most) = (figure(spread.least), figure(spread.most));
    format!("{least} - {most} ({:.0} %)", spread.relative() * 100.0)
}

/// Lines of cells below each other; the columns `right` end where the others begin.
pub(crate) fn columns<const N: usize>(lines: &[[String; N]], right: &[usize]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for line in lines {
        let mut shown = String::new();
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Writing to a string does not fail.
            let _ = if right.contains(&column) {
                write!(shown, "{cell:>width$}  ")
            } else {
                write!(shown, "{cell:width$}  ")
            };
        }
        text += shown.trim_end();
        text.push('\n');
    }
    text
}

/// Two digits for small figures, none for large ones, with thousands apart.
pub(crate) fn figure(value: f64) -> String {
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
