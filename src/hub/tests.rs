//! Tasks that end too early, and how the hub reacts.

use super::*;

const GRACE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_task_that_ends_is_noticed_also_while_nats_is_waited_for() {
    let (mut tasks, stop) = (Tasks::default(), CancellationToken::new());
    tasks.spawn("intake", Phase::Intake, |_| async { bail!("the port is gone") });
    let waiting = tasks.while_all_run(&stop, std::future::pending::<()>());
    let failure = tokio::time::timeout(GRACE, waiting).await.unwrap().unwrap_err();
    assert_eq!(format!("{failure:#}"), "intake failed: the port is gone");
    assert_eq!(tasks.while_all_run(&stop, async { 7 }).await.ok(), None, "nothing runs");
    stop.cancel();
    let result = tasks.while_all_run(&stop, std::future::pending::<()>()).await;
    assert!(matches!(result, Ok(None)));
}

#[tokio::test]
async fn failures_while_stopping_are_reported() {
    let mut tasks = Tasks::default();
    let when_told = |stop: CancellationToken, end: anyhow::Result<()>| async move {
        stop.cancelled().await;
        end
    };
    tasks.spawn("intake", Phase::Intake, |stop| when_told(stop, Ok(())));
    tasks.spawn("push", Phase::Stages, |stop| {
        when_told(stop, Err(anyhow::anyhow!("no lanes")))
    });
    tasks.spawn("event log", Phase::Log, |stop| when_told(stop, Ok(())));
    let failure = tasks.drain(GRACE).await.unwrap_err();
    assert_eq!(
        format!("{failure:#}"),
        "while the hub was stopping: push failed: no lanes"
    );
}
