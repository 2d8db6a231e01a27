//! docs/deploy.md, from an empty folder to the first order: its commands are run as written.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use webhook_hub::{
    config,
    database::{Database, rights},
};

use crate::harness::{
    backend::Backend,
    hub::{Settings, run},
    port::Port,
    servers::{Cluster, PROGRAMS, postgres_program},
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

/// The roles of docker-compose.yml: made twice, with passwords that changed meanwhile, and the running hub's has the least rights.
#[tokio::test(flavor = "multi_thread")]
async fn the_roles_of_the_compose_file() {
    let Some(psql) = postgres_program("psql") else {
        eprintln!("this PostgreSQL comes without psql: the script is not run");
        return;
    };
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cluster = Cluster::start().await;
    let secrets = tempfile::tempdir().unwrap();
    let path = format!("{}:{}", folder_of(&psql).display(), std::env::var("PATH").unwrap());
    let log_all = Command::new(&psql)
        .args([
            "-q",
            "-c",
            "ALTER SYSTEM SET log_statement = 'all'",
            "-c",
            "SELECT pg_reload_conf()",
        ])
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &cluster.server.port().to_string(),
            "-U",
            "admin",
            "postgres",
        ])
        .env_clear()
        .status()
        .unwrap();
    assert!(log_all.success());
    for round in ["first'", "second"] {
        for name in ["database_password", "database_run_password"] {
            std::fs::write(secrets.path().join(name), format!("{name} {round}")).unwrap();
        }
        let ran = Command::new("sh")
            .arg(project.join("deploy/postgres-roles.sh"))
            .env_clear()
            .env("PATH", &path)
            .env("SECRETS", secrets.path())
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", cluster.server.port().to_string())
            .env("PGUSER", "admin")
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let log = std::fs::read_to_string(cluster.server.dir().join("postgres.log")).unwrap();
        assert!(log.contains("statement: "), "no statement is logged: {log}");
        for name in ["database_password", "database_run_password"] {
            assert!(!log.contains(&format!("{name} ")), "a password is in the log: {log}");
        }
    }
    let url = |role: &str| {
        cluster
            .server
            .url("webhook_hub")
            .replace("//admin@", &format!("//{role}@"))
    };
    let owner = Settings::empty().set("DATABASE_URL", url("webhook_hub"));
    let ran = run(&owner, &["migrate", "--grant", "nobody"]).await;
    assert!(
        ran.code == Some(1) && ran.stderr.contains("cannot grant the role nobody"),
        "{}",
        ran.said()
    );
    for _ in 0..2 {
        run(&owner, &["migrate", "--grant", "webhook_hub_run", "--retention"])
            .await
            .expect_success();
    }
    let settings = Settings::empty().set("DATABASE_URL", url("webhook_hub_run"));
    let settings = config::Database::from_environment(&settings.environment()).unwrap();
    let database = Database::new(&settings).unwrap();
    let connection = database.connect().await.unwrap();
    rights::check(&connection).await.unwrap();
    assert_eq!(
        rights::lacking_to_delete(&connection, "webhook_logs").await.unwrap(),
        None
    );
    for refused in [
        "CREATE TABLE public.x ()",
        "SELECT api_key FROM branch_delivery_configs",
        "DROP TABLE webhook_logs",
    ] {
        let error = connection.batch_execute(refused).await.unwrap_err();
        assert_eq!(error.code(), Some("42501"), "{refused}: {error}");
    }
}

/// What the commands and the servers printed.
fn said(folder: &Path) -> String {
    let read = |name| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    ["out", "err", "hub.log", "nats.log"]
        .map(|name| format!("--- {name}\n{}", read(name)))
        .join("\n")
}
