//! Commands of the binary at a terminal, where they ask before they act.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    process::Stdio,
};

use rustix::{
    fs::OFlags,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use super::{
    hub::{Ran, Settings},
    wait::PATIENCE,
};

/// A new terminal: the side of the person, and the side of the program.
fn terminal() -> (File, File) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap();
    let program = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NOCTTY.bits().cast_signed())
        .open(OsStr::from_bytes(name.to_bytes()))
        .unwrap();
    (File::from(person), program)
}

/// Runs a command at a terminal to its end. The answer is typed as soon as the question was asked.
pub(crate) async fn run_at_terminal(settings: &Settings, args: &[&str], question: &str, answer: &str) -> Ran {
    let (mut person, program) = terminal();
    let side = || Stdio::from(program.try_clone().unwrap());
    let mut command = settings.command(args);
    command.stdin(side()).stdout(side()).stderr(side());
    let mut child = command.spawn().unwrap();
    // The person's side has an end only when the program's side is open nowhere.
    drop((command, program));
    let (question, answer) = (question.to_owned(), format!("{answer}\n"));
    let conversation = tokio::task::spawn_blocking(move || {
        let (mut said, mut part, mut is_answered) = (Vec::new(), [0; 4096], false);
        // Linux says that the other side was closed with an error.
        while let Ok(length @ 1..) = person.read(&mut part) {
            said.extend_from_slice(&part[..length]);
            if !is_answered && String::from_utf8_lossy(&said).contains(&question) {
                person.write_all(answer.as_bytes()).unwrap();
                is_answered = true;
            }
        }
        String::from_utf8_lossy(&said).into_owned()
    });
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
    let ended = ended.unwrap_or_else(|_| panic!("webhook-hub {args:?} did not end"));
    Ran {
        code: ended.unwrap().code(),
        stdout: conversation.await.unwrap(),
        stderr: String::new(),
    }
}
