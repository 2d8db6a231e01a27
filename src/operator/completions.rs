//! `completions`: the completions of a shell, made of the command tree.

use std::process::ExitCode;

pub use clap_complete::Shell;

use super::write_line;

/// Prints the completions of `program`.
///
/// # Errors
/// If standard output cannot be written.
pub fn print(shell: Shell, mut program: clap::Command) -> anyhow::Result<ExitCode> {
    let (name, mut script) = (program.get_name().to_owned(), Vec::new());
    clap_complete::generate(shell, &mut program, &name, &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if shell == Shell::Bash {
        // clap_complete 4.6 writes a program's name with a hyphen in two ways, so that no command below it is found.
        script = script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
    }
    write_line(std::io::stdout().lock(), script.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
