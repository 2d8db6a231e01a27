//! `rebuild` is killed, and the hub with it: the tables are whole, and the next run leaves nothing behind.

use super::rebuild::{owner, rebuild, schemas};
use crate::harness::{
    QUICK_TAKEOVER, World,
    at_end::Ends,
    backend::Answer,
    hub::{Hub, Settings, begin, run},
    ids,
    wait::PATIENCE,
};

/// A hub that is killed and comes back on the same port, and what was posted to it.
struct Killed {
    world: World,
    hub: Option<Hub>,
    forwarded: usize,
}

impl Killed {
    async fn new() -> Self {
        let world = World::new().await;
        world.backend.always_for("CR-refused-0", Some(Answer::status(422)));
        let mut killed = Self {
            world,
            hub: None,
            forwarded: 0,
        };
        killed.start_hub().await;
        killed
            .world
            .post_orders_to(&killed.world.fixed_url(), ids("refused", 1))
            .await;
        killed
    }

    async fn kill_hub(&mut self) {
        if let Some(hub) = self.hub.take() {
            hub.kill().await;
        }
    }

    fn settings(&self) -> Settings {
        let times = format!("lease=1s,tables_lease=1s,{QUICK_TAKEOVER}");
        self.world.settings_on_fixed_port().set("HUB_TEST_TIMES", times)
    }

    async fn start_hub(&mut self) {
        self.hub = Some(Hub::start(&self.settings()).await);
    }

    async fn post(&mut self, name: &str, count: usize) {
        self.world
            .post_orders_to(&self.world.fixed_url(), ids(name, count))
            .await;
        self.forwarded += count;
    }

    async fn tables_are_whole(&self) {
        let events = self.world.log.settled().await;
        self.world.tables_agree(&events, PATIENCE).await;
    }

    /// The next run ends, and leaves nothing but the replaced tables.
    async fn ends_well(self) {
        rebuild(&self.world, &[]).await;
        assert_eq!(schemas(&self.world).await, ["hub_replaced"]);
        let unchecked = "SELECT conname FROM pg_constraint WHERE contype = 'f' AND NOT convalidated";
        assert!(self.world.database.rows(unchecked).await.unwrap().is_empty());
        self.world.hand_out_again().await;
        self.world
            .at_end(Ends::forwarded(self.forwarded).dead_lettered(1))
            .await;
        run(&owner(&self.world), &["verify"]).await.expect_success();
    }
}

/// Ten runs of some seconds each.
mod long {
    use std::time::Instant;

    use tokio::time::sleep;

    use super::*;
    use crate::harness::random::Random;

    /// Kills at random moments of a run.
    const KILLS: usize = 10;
    /// Orders that are on the log before the first one, so that a run takes a while.
    const ORDERS: usize = 150;
    /// Orders that come during each run.
    const DURING: usize = 5;

    /// SIGKILL at random moments, now before the hub's, now after it, while orders come.
    #[tokio::test(flavor = "multi_thread")]
    async fn at_random_moments() {
        let mut random = Random::new();
        let mut killed = Killed::new().await;
        killed.post("before", ORDERS).await;
        killed.tables_are_whole().await;
        let began = Instant::now();
        rebuild(&killed.world, &[]).await;
        let whole = usize::try_from(began.elapsed().as_millis()).unwrap();
        let mut interrupted = 0;
        for kill in 0..KILLS {
            let (moment, hub_is_first) = (random.millis(0, whole / 2), random.percent(50));
            eprintln!("kill {kill}: after {moment:?} of {whole} ms, the hub first: {hub_is_first}");
            let mut rebuilding = begin(&owner(&killed.world), &["rebuild"]);
            let hub = killed.hub.take().unwrap();
            let killing = async {
                sleep(moment).await;
                let is_running = rebuilding.try_wait().unwrap().is_none();
                if hub_is_first {
                    hub.kill().await;
                    rebuilding.kill().await.unwrap();
                } else {
                    rebuilding.kill().await.unwrap();
                    hub.kill().await;
                }
                (is_running, Hub::start(&killed.settings()).await)
            };
            let url = killed.world.fixed_url();
            let posting = killed
                .world
                .post_orders_to(&url, ids(&format!("during-{kill}"), DURING));
            let ((), (was_running, hub)) = tokio::join!(posting, killing);
            interrupted += usize::from(was_running);
            killed.hub = Some(hub);
            killed.forwarded += DURING;
            killed.tables_are_whole().await;
        }
        // A run may be much quicker than the first one, which found the machine busy.
        assert!(interrupted >= KILLS / 4, "only {interrupted} runs were interrupted");
        killed.ends_well().await;
    }

    /// The process ends at each point, and the hub in the same moment.
    #[tokio::test(flavor = "multi_thread")]
    async fn at_any_point() {
        const POINTS: [&str; 11] = [
            "rebuild_begun",
            "rebuild_made",
            "rebuild_carried_older",
            "rebuild_batch",
            "rebuild_fed",
            "rebuild_indexed",
            "rebuild_carried",
            "rebuild_locked",
            "rebuild_moved",
            "rebuild_exchanged",
            "rebuild_checked",
        ];
        let mut killed = Killed::new().await;
        for point in POINTS {
            killed.post(point, 2).await;
            let ran = run(&owner(&killed.world).set("HUB_TEST_CRASH_AT", point), &["rebuild"]).await;
            killed.kill_hub().await;
            assert_eq!(ran.code, None, "{point}: {}", ran.said());
            killed.start_hub().await;
            killed.tables_are_whole().await;
        }
        killed.ends_well().await;
    }
}
