//! The runbook of `docs/operations.md`: what is down, full, changed or leaked. Each fault is caused, and the commands run as they stand there.

use super::{
    runbook::{shell, steps},
    *,
};
use crate::harness::hub::Hub;

const CAREEM: &str = include_str!("../../providers/careem.toml");
/// The order of the document.
const ORDER: &str = "CR-123456789";
/// Where the format of before has the total, and where the other one has it.
const TOTALS: [&str; 2] = [
    "total = { from = \"/price/total_taxable_price\", required = true }",
    "total = { from = \"/price/subtotal\", required = true }",
];

/// A restaurant in trouble.
struct Trouble {
    world: World,
    shell: Shell,
    hub: Hub,
    settings: Settings,
    /// `PROVIDERS_DIR`.
    files: tempfile::TempDir,
    forwarded: usize,
}

impl Trouble {
    async fn new() -> Self {
        let world = World::with_own_postgres().await;
        let shell = shell(&world, Path::new("/usr/bin"));
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("careem.toml"), CAREEM).unwrap();
        let settings = world.settings().set("PROVIDERS_DIR", files.path().display());
        let hub = Hub::start(&settings).await;
        Self {
            world,
            shell,
            hub,
            settings,
            files,
            forwarded: 0,
        }
    }

    async fn post(&mut self, named: &str, count: usize) {
        self.world.post_orders(&self.hub, ids(named, count)).await;
        self.forwarded += count;
    }

    async fn restart(&mut self, settings: Settings) {
        let before = std::mem::replace(&mut self.hub, Hub::start(&settings).await);
        before.terminate().await;
        self.settings = settings;
    }

    /// A command ends with this exit status before long.
    async fn ends_with(&self, command: &str, code: i32) {
        let settings = self.world.nats.settings("hub");
        let settings = settings.set("DATABASE_URL", &self.world.database.url);
        eventually(&format!("{command} ends with {code}"), PATIENCE, async || {
            let ran = run(&settings, &[command]).await;
            if ran.code == Some(code) {
                Ok(())
            } else {
                Err(ran.said())
            }
        })
        .await;
    }

    async fn all_is_well(&self) {
        self.ends_with("status", 0).await;
        self.world.at_end(Ends::forwarded(self.forwarded)).await;
    }

    async fn the_backend_is_down(&mut self) {
        let [meanwhile, after] = steps("The backend is down")[..] else {
            panic!("other steps")
        };
        let backend = &self.world.backend;
        backend.always_for("CR-refused-0", Some(Answer::status(422)));
        backend.otherwise(Answer::status(503));
        self.post("refused", 1).await;
        self.world.log.wait_for(EventType::OrderDeadLettered, 1).await;
        self.post("down", 12).await;
        self.world.breaker_becomes(&self.hub, "open").await;
        self.shell.runs("webhook-hub status", 1).await;
        self.shell.runs(meanwhile, 0).await;
        self.world.backend.otherwise(Answer::Accept);
        self.world.backend.always_for("CR-refused-0", None);
        self.world.breaker_becomes(&self.hub, "closed").await;
        let listed = self.shell.runs(after, 0).await;
        assert!(listed.contains("CR-refused-0"), "{listed}");
        self.all_is_well().await;
    }

    async fn one_restaurants_orders_fail(&mut self) {
        let [look] = steps("One restaurant's orders fail")[..] else {
            panic!("other steps")
        };
        for id in ids("branch", 6) {
            self.world.backend.always_for(&id, Some(Answer::status(502)));
        }
        self.post("branch", 6).await;
        self.world.breaker_becomes(&self.hub, "open").await;
        let seen = self.shell.runs("webhook-hub status", 1).await;
        assert!(
            seen.contains("the branch branch-uuid since") && seen.contains("BACKEND_502"),
            "{seen}"
        );
        let variables = [("BRANCH_ID", "branch-uuid"), ("ORDER_ID", "CR-branch-0")];
        let variables = variables.map(|(name, value)| (name, value.to_owned()));
        self.shell.variables.extend(variables);
        eventually("the orders are listed", PATIENCE, async || {
            let looked = self.shell.runs(look, 0).await;
            let is_there = looked.contains("CR-branch-5") && looked.contains("BACKEND_502");
            if is_there { Ok(()) } else { Err(looked) }
        })
        .await;
        for id in ids("branch", 6) {
            self.world.backend.always_for(&id, None);
        }
        self.world.breaker_becomes(&self.hub, "closed").await;
        self.all_is_well().await;
    }

    async fn nats_is_down_and_the_log_is_full(&mut self) {
        let [larger] = steps("NATS is down, or the log is full")[..] else {
            panic!("other steps")
        };
        let is_answered = async |trouble: &Self, id: &str, status: u16| {
            eventually(&format!("webhooks are answered {status}"), PATIENCE, async || {
                let answer = trouble.world.careem.post(&trouble.hub, &order(id)).await;
                if answer.status == status { Ok(()) } else { Err(answer) }
            })
            .await;
        };
        self.world.nats.server.kill().await.unwrap();
        is_answered(self, "CR-nats-0", 503).await;
        self.world.nats.server.restart().await.unwrap();
        is_answered(self, "CR-nats-0", 200).await;
        self.forwarded += 1;
        self.world.log.settled().await;
        self.world.limit_log(self.world.log_bytes().await).await;
        is_answered(self, "CR-full-0", 503).await;
        self.shell.runs(larger, 0).await;
        is_answered(self, "CR-full-0", 200).await;
        self.forwarded += 1;
        self.all_is_well().await;
    }

    async fn postgresql_is_down(&mut self) {
        let [verify] = steps("PostgreSQL is down")[..] else {
            panic!("other steps")
        };
        self.world.cluster.server.stop().await.unwrap();
        self.post("tables", 2).await;
        self.world.log.settled().await;
        self.shell.runs("webhook-hub status", 1).await;
        self.world.cluster.server.restart().await.unwrap();
        self.all_is_well().await;
        self.shell.runs(verify, 0).await;
    }

    async fn a_provider_changed_its_format(&mut self) {
        let [see, check, again, over] = steps("A provider changed its format")[..] else {
            panic!("other steps")
        };
        let mut other: Value = serde_json::from_str(&order(ORDER)).unwrap();
        other["price"].as_object_mut().unwrap().remove("total_taxable_price");
        assert_eq!(self.world.careem.post(&self.hub, &other.to_string()).await.status, 200);
        self.world.log.wait_for(EventType::OrderRejected, 1).await;
        self.ends_with("status", 1).await;
        let seen = self.shell.runs(see, 1).await;
        assert!(seen.contains("INVALID_ORDER") && seen.contains("subtotal"), "{seen}");
        let corrected = CAREEM.replacen(TOTALS[0], TOTALS[1], 1);
        assert_ne!(corrected, CAREEM);
        std::fs::create_dir(self.shell.folder.path().join("new")).unwrap();
        for folder in [&self.shell.folder.path().join("new"), self.files.path()] {
            std::fs::write(folder.join("careem.toml"), &corrected).unwrap();
        }
        let checked = self.shell.runs(check, 1).await;
        assert!(checked.contains("order.rejected INVALID_ORDER"), "{checked}");
        self.restart(self.settings.clone()).await;
        self.shell.runs(again, 0).await;
        self.forwarded += 1;
        self.all_is_well().await;
        self.shell.runs(over, 0).await;
    }

    async fn a_secret_leaked(&mut self) {
        let [find_out] = steps("A secret leaked")[..] else {
            panic!("other steps")
        };
        self.restart(
            self.settings
                .clone()
                .set("CAREEM_WEBHOOK_SECRET", "another-secret-of-careem"),
        )
        .await;
        let refused = self.world.careem.post(&self.hub, &order("CR-leaked")).await;
        assert_eq!(refused.status, 401, "{refused:?}");
        eventually("the refusal is shown", PATIENCE, async || {
            let shown = self.shell.runs(find_out, 0).await;
            if shown.contains(ORDER) && shown.contains("127.0.0.1") {
                Ok(())
            } else {
                Err(shown)
            }
        })
        .await;
    }

    async fn the_disk_fills(&mut self) {
        let [shorter, dropped] = steps("The disk fills")[..] else {
            panic!("other steps")
        };
        self.shell.runs(shorter, 0).await;
        self.shell.runs("webhook-hub rebuild", 0).await;
        self.shell.runs(dropped, 0).await;
        self.all_is_well().await;
    }
}

mod long {
    use super::Trouble;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_runbook_of_outages() {
        let mut trouble = Trouble::new().await;
        trouble.the_backend_is_down().await;
        trouble.one_restaurants_orders_fail().await;
        trouble.nats_is_down_and_the_log_is_full().await;
        trouble.postgresql_is_down().await;
        trouble.a_provider_changed_its_format().await;
        trouble.a_secret_leaked().await;
        trouble.the_disk_fills().await;
    }
}
