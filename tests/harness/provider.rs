//! Any provider, played: webhooks signed as its file says, by the same code as `send`.

use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue};
use chrono::Utc;
use secrecy::SecretString;
use webhook_hub::{
    config::prefix,
    provider::{Catalogue, catalogue::KnownProvider, declarative::file::File},
    verification::{
        Keys,
        keys::OwnSecretOrigin,
        sign::{Outgoing, sign},
    },
};

use super::{
    World,
    careem::{Answer, answer, http},
    hub::{Hub, Settings},
    wait::POLL,
};

/// How providers know the hub.
pub(crate) const PUBLIC_URL: &str = "https://hooks.example.com";
/// A secret that every decoding takes, and the one before it.
pub(crate) const SECRETS: [&str; 2] = ["00ff00ff00ff00ff", "11ee11ee11ee11ee"];
/// A secret of no provider.
pub(crate) const STRANGE: &str = "22dd22dd22dd22dd";

/// A provider.
pub(crate) struct Provider {
    pub(crate) name: String,
    file: Arc<File>,
    http: reqwest::Client,
}

/// A webhook that is to be sent.
pub(crate) struct Webhook {
    pub(crate) path: String,
    pub(crate) body: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Webhook {
    pub(crate) fn new(body: impl ToString) -> Self {
        Self {
            path: String::new(),
            body: body.to_string(),
            headers: Vec::new(),
        }
    }

    pub(crate) fn at(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl Provider {
    /// All that this version knows.
    pub(crate) fn all(catalogue: &Catalogue) -> Vec<Self> {
        let http = http();
        let provider = |(name, known): (&str, &KnownProvider)| Self {
            name: name.to_owned(),
            file: Arc::clone(known.file()),
            http: http.clone(),
        };
        catalogue.iter().map(provider).collect()
    }

    /// Whether its webhooks say which currency they mean.
    pub(crate) fn names_currency(&self) -> bool {
        self.file.order.head.currency.is_some()
    }

    /// Switched on, with two secrets.
    pub(crate) fn enable(&self, settings: Settings, currency: &str) -> Settings {
        let prefix = prefix(&self.name);
        let settings = settings.set(&format!("{prefix}_ENABLED"), true);
        let settings = settings.set("PUBLIC_URL", PUBLIC_URL);
        let mut settings = settings.set(&format!("{prefix}_CURRENCY"), currency);
        if self
            .file
            .outbound
            .as_ref()
            .is_some_and(|outbound| outbound.fetch.is_some())
        {
            // Its orders are fetched; what only its webhooks say needs no more than that somebody could.
            settings = settings
                .set(&format!("{prefix}_CLIENT_ID"), "hub")
                .set(&format!("{prefix}_CLIENT_SECRET"), "secret");
        }
        self.file
            .verification
            .secrets()
            .into_iter()
            .fold(settings, |settings, name| {
                settings.set(&format!("{prefix}_{}", name.to_ascii_uppercase()), SECRETS.join(","))
            })
    }

    /// A branch of the restaurant, which this provider knows by this name.
    pub(crate) async fn branch(&self, world: &World, store: &str) {
        let name = &self.name;
        let rows = format!(
            "INSERT INTO delivery_providers (id, code, name) VALUES ('provider-{name}', '{name}', '{name}')
             ON CONFLICT DO NOTHING;
             INSERT INTO branch_delivery_configs (id, branch_id, provider_id, company_id, merchant_id)
             SELECT 'config-{name}-{store}', 'branch-{name}-{store}', id, 'company-uuid', '{store}'
             FROM delivery_providers WHERE code = '{name}'
             ON CONFLICT DO NOTHING"
        );
        world.database.run(&rows).await.unwrap();
    }

    /// The request as the provider signs it with this secret.
    pub(crate) fn signed(&self, webhook: &Webhook, secret: &str) -> Outgoing {
        let url = format!("{PUBLIC_URL}/api/webhooks/{}{}", self.name, webhook.path);
        let mut request = Outgoing::post(url, webhook.body.clone());
        for (name, value) in &webhook.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        let scheme = &self.file.verification;
        let keys = scheme.secrets().into_iter().fold(Keys::new(), |keys, name| {
            keys.with(name, OwnSecretOrigin::Env, &[SecretString::from(secret)])
        });
        sign(scheme, &keys, request, Utc::now()).unwrap()
    }

    /// Posts it, signed with the newest secret.
    pub(crate) async fn post(&self, hub: &Hub, webhook: &Webhook) -> Answer {
        self.send(hub, self.signed(webhook, SECRETS[0])).await
    }

    /// Posts it until one of these hubs accepts it: to the one after, where one does not.
    pub(crate) async fn deliver_to_any(&self, hubs: &[String], first: usize, webhook: &Webhook) {
        let mut again = tokio::time::interval(POLL);
        for hub in first.. {
            again.tick().await;
            match self
                .try_send(&hubs[hub % hubs.len()], self.signed(webhook, SECRETS[0]))
                .await
            {
                Ok(answer) if answer.status == 200 => return,
                Ok(answer) => assert!(answer.status >= 500, "our own faults are 5xx: {answer:?}"),
                // Refused or cut: the hub is away.
                Err(_) => {}
            }
        }
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, hub: &Hub, request: Outgoing) -> Answer {
        self.try_send(&hub.url(), request).await.expect("the hub answers")
    }

    async fn try_send(&self, hub: &str, request: Outgoing) -> reqwest::Result<Answer> {
        let path = request.url.strip_prefix(PUBLIC_URL).unwrap();
        let url = format!("{hub}{path}");
        let request = self
            .http
            .request(request.method, url)
            .headers(request.headers)
            .body(request.body);
        answer(request).await
    }
}
