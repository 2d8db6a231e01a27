//! A world with a provider that receives requests.

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use webhook_hub::event::EventType;

use super::{
    SERVICE_TOKEN, World,
    careem::{Answer, answer, http},
    hub::{Hub, Settings},
    platform::{CLIENT_ID, CLIENT_SECRET, Provider, TOKEN},
};

/// How Careem is spoken to.
pub(crate) const CAREEM_POS: &str = include_str!("../../providers/careem-pos.toml");
/// How Delivery Hero is.
pub(crate) const DELIVERY_HERO: &str = include_str!("../../providers/delivery-hero.toml");
/// How orders of Uber Eats are fetched.
pub(crate) const UBER_EATS: &str = include_str!("../../providers/uber-eats.toml");
/// The provider that the tests play.
pub(crate) const CAREEM: &str = include_str!("../../providers/careem.toml");

/// The file with its tokens from the played platform, not from the real host.
fn at_the_platform(file: &str) -> String {
    [
        "https://identity.careem.com/token",
        "https://auth.uber.com/oauth/v2/token",
        "https://auth.developers.deliveroo.com/oauth2/token",
        "https://api.rappi.com.co/restaurants/auth/v1/token/login/integrations",
        "/oauth/token",
    ]
    .iter()
    .fold(file.to_owned(), |file, host| file.replace(host, TOKEN))
}

/// A world, and a platform outside of it.
pub(crate) struct Outside {
    pub(crate) world: World,
    pub(crate) provider: Provider,
    /// `PROVIDERS_DIR`.
    files: TempDir,
}

impl Outside {
    /// Careem's webhooks; spoken to as this file says.
    pub(crate) async fn new(file: &str) -> Self {
        let of = |file: &str| file.find("\n[outbound]\n").expect("a table [outbound]");
        let careem = format!("{}{}", &CAREEM[..of(CAREEM)], &file[of(file)..]);
        Self::with_file("careem.toml", &careem).await
    }

    /// With this file in place of the one that is shipped.
    pub(crate) async fn with_file(name: &str, file: &str) -> Self {
        let world = World::new().await;
        let branch = r#"UPDATE branch_delivery_configs
            SET store_id = 'store-9', settings = '{"brandId": "brand-7", "chainCode": "chain-1"}'"#;
        world.database.run(branch).await.unwrap();
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join(name), at_the_platform(file)).unwrap();
        Self {
            world,
            provider: Provider::start(),
            files,
        }
    }

    /// The provider's file is another one for every hub that starts from now on.
    pub(crate) fn rewrite(&self, name: &str, file: &str) {
        std::fs::write(self.files.path().join(name), at_the_platform(file)).unwrap();
    }

    /// The environment of a hub that speaks to the platform, with delays that a test can wait for.
    pub(crate) fn settings(&self) -> Settings {
        self.settings_for("CAREEM")
    }

    /// The same, of another provider.
    pub(crate) fn settings_for(&self, prefix: &str) -> Settings {
        self.world
            .settings()
            .set("PROVIDERS_DIR", self.files.path().display())
            .set(&format!("{prefix}_API_URL"), self.provider.url())
            .set(&format!("{prefix}_CLIENT_ID"), CLIENT_ID)
            .set(&format!("{prefix}_CLIENT_SECRET"), CLIENT_SECRET)
            .set("RETRY_DELAYS", "300ms,500ms")
            .set("RETRY_MAX_ATTEMPTS", 3)
    }

    pub(crate) async fn hub(&self) -> Hub {
        Hub::start(&self.settings()).await
    }

    /// The backend asks for a status of the branch's order.
    pub(crate) async fn ask(&self, hub: &Hub, order: &str, status: &str) -> Answer {
        let body = json!({ "status": status, "branchId": "branch-uuid" });
        let path = format!("orders/careem/{order}/status");
        let answer = send(hub, Method::POST, &path, &body.to_string(), &[]).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer
    }

    /// Payloads of so many events of a type.
    pub(crate) async fn payloads(&self, event_type: EventType, count: usize) -> Vec<Value> {
        self.world.log.payloads(event_type, count).await
    }
}

/// A request of the backend, with its token.
pub(crate) async fn send(hub: &Hub, method: Method, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
    let all: Vec<_> = [("x-service-token", SERVICE_TOKEN)]
        .iter()
        .chain(headers)
        .copied()
        .collect();
    send_raw(hub, method, path, body, &all).await
}

/// A request with exactly these headers.
pub(crate) async fn send_raw(hub: &Hub, method: Method, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
    let url = format!("{}/api/integration/{path}", hub.url());
    let request = headers.iter().fold(
        http().request(method, url).body(body.to_owned()),
        |request, (name, value)| request.header(*name, *value),
    );
    answer(request).await.expect("the hub answers")
}
