//! `doctor`: what is wrong with an installation, and how to mend it.

use std::{fmt, process::ExitCode};

use super::{
    dead_letters::printable,
    output::{self, Verdict, counted, show},
    queries::doctor::{self, Examination, Grade},
};
use crate::config::Environment;

/// Runs the command, with the hub's own settings.
pub async fn run(environment: &Environment, as_json: bool) -> ExitCode {
    let found = Box::pin(doctor::examine(environment)).await;
    let shown = show(as_json, &found, ExaminationText(&found));
    output::ended(shown.map(|()| Verdict::needs_a_person(!found.is_well)))
}

/// The findings, the problems first.
struct ExaminationText<'a>(&'a Examination);

impl fmt::Display for ExaminationText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let findings = &self.0.findings;
        let problems = findings
            .iter()
            .filter(|finding| finding.grade == Grade::Problem)
            .count();
        match problems {
            0 => write!(f, "all is well")?,
            count => write!(
                f,
                "{}",
                counted(i64::try_from(count).unwrap_or(i64::MAX), "problem", "problems")
            )?,
        }
        for (grade, mark) in [
            (Grade::Problem, "problem"),
            (Grade::Note, "note"),
            (Grade::Fine, "fine"),
        ] {
            for finding in findings.iter().filter(|finding| finding.grade == grade) {
                write!(f, "\n{mark:<9}{:<15}{}", finding.area, printable(&finding.message))?;
                if let Some(remedy) = &finding.remedy {
                    write!(f, "\n{:<24}to mend it: {}", "", printable(remedy))?;
                }
            }
        }
        Ok(())
    }
}
