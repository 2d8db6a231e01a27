//! Output and exit status of the read commands (`orders`, `events`, `status`). They print only through this module.

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use serde::Serialize;

use super::{dead_letters::printable, fail};

/// Exit status of a command that could not be carried out. clap uses the same for wrong usage.
const CANNOT_BE_DONE: u8 = 2;

/// The result of a command, for its exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No person is needed: exit status 0.
    Fine,
    /// A person is needed: exit status 1.
    NeedsAPerson,
}

impl Verdict {
    /// [`Self::NeedsAPerson`] if `needed`.
    pub(super) const fn needs_a_person(needed: bool) -> Self {
        if needed { Self::NeedsAPerson } else { Self::Fine }
    }
}

/// The exit status: 0 fine, 1 a person is needed, 2 impossible. The reason for 2 goes to standard error.
pub(super) fn ended(result: anyhow::Result<Verdict>) -> ExitCode {
    match result {
        Ok(Verdict::Fine) => ExitCode::SUCCESS,
        Ok(Verdict::NeedsAPerson) => ExitCode::FAILURE,
        Err(error) => {
            fail(&error);
            ExitCode::from(CANNOT_BE_DONE)
        }
    }
}

/// Prints a result as JSON, or as text for people.
///
/// # Errors
/// If it cannot be written.
pub(super) fn show(as_json: bool, value: &impl Serialize, text: impl fmt::Display) -> anyhow::Result<()> {
    super::print(as_json, value, text)
}

/// Prints a line at once; returns whether the output still has a reader.
///
/// # Errors
/// If it cannot be written although the output has a reader.
pub(super) fn line(text: impl fmt::Display) -> anyhow::Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Columns under their headings. Control characters are replaced; the last column is not padded.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with these headings.
    pub(super) fn new(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned)],
        }
    }

    /// Adds a row.
    pub(super) fn push(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    /// Prints nothing if there is no row.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.len() < 2 {
            return Ok(());
        }
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                line += &format!("{cell:width$}  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// "1 order", "2 orders".
pub(super) fn counted(count: i64, one: &str, several: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { several })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_with_their_headings() {
        let mut table = Table::new(["A", "LONG", "END"]);
        assert_eq!(table.to_string(), "");
        table.push(["wider\u{1b}".into(), "é".into(), String::new()]);
        assert_eq!(table.to_string(), "A       LONG  END\nwider\u{fffd}  é\n");
    }
}
