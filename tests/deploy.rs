//! docs/deploy.md, from an empty folder to the first order: its commands are run as they stand there.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::harness::{
    backend::Backend,
    port::Port,
    servers::{Cluster, PROGRAMS},
    wait::{PATIENCE, eventually},
};

/// The part that is run: of the others no machine here has the means.
const PART: (&str, &str) = ("\n## One machine\n", "\n## Three machines\n");
const PROGRAM: &str = env!("CARGO_BIN_EXE_webhook-hub");

/// The blocks that are marked as shell, one after the other.
fn commands(document: &str) -> String {
    let from = document.find(PART.0).expect("the part begins");
    let up_to = document.find(PART.1).expect("the part ends");
    let blocks = document[from..up_to].split("\n```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split_once("\n```").expect("a block ends").0);
    blocks.collect::<Vec<_>>().join("\n")
}

fn folder_of(program: &Path) -> PathBuf {
    program.parent().expect("a program is in a folder").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_guide() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = commands(&std::fs::read_to_string(project.join("docs/deploy.md")).unwrap());
    // A PostgreSQL of its own, for a role is known to all databases of a server.
    let cluster = Cluster::start().await;
    cluster.server.create_database("platform", None).await.unwrap();
    let backend = Backend::start();
    let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
    let folder = tempfile::tempdir().unwrap();
    let programs = [
        folder_of(Path::new(PROGRAM)),
        folder_of(&PROGRAMS.nats_server),
        PROGRAMS.postgres_bin.clone(),
    ];
    let path = programs.iter().map(|folder| folder.display().to_string());
    let path = path.chain(std::env::var("PATH")).collect::<Vec<_>>().join(":");
    let mut shell = Command::new("bash")
        .args(["-eu", "-o", "pipefail", "-c", &script])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", path)
        .env("RELEASE", project)
        .env("DATABASE", cluster.server.url("platform"))
        .env("DATABASE_PORT", cluster.server.port().to_string())
        .env("BACKEND_URL", backend.url())
        .env("PORT_OF_NATS", ports[0].number().to_string())
        .env("HUB_PORT", ports[1].number().to_string())
        .env("HUB_METRICS_PORT", ports[2].number().to_string())
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(folder.path().join("out")).unwrap())
        .stderr(std::fs::File::create(folder.path().join("err")).unwrap())
        // The servers that it leaves behind are ended with it.
        .process_group(0)
        .spawn()
        .unwrap();
    let group = format!("-{}", shell.id());
    let ended = eventually("the last command has ended", 2 * PATIENCE, async || {
        shell
            .try_wait()
            .map_err(|error| error.to_string())?
            .ok_or_else(|| said(folder.path()))
    })
    .await;
    let said = said(folder.path());
    let requests = backend.requests();
    let killed = Command::new("kill").args(["-KILL", "--", &group]).status().unwrap();
    assert!(ended.success(), "{said}");
    assert!(killed.success(), "the servers ran until the end");
    assert_eq!(requests.len(), 1, "{said}");
    assert_eq!(requests[0].path, crate::harness::backend::ORDERS);
}

/// What the commands and the servers printed.
fn said(folder: &Path) -> String {
    let read = |name| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    ["out", "err", "hub.log", "nats.log"]
        .map(|name| format!("--- {name}\n{}", read(name)))
        .join("\n")
}
