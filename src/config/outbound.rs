//! Requests to a provider: the tables of its file, and the credentials.

use std::time::Duration;

use super::{Bounds, ClientTls, ConfigError, Environment};
use url::Url;

use crate::provider::outbound::{
    Auth, ClientCredentials, ReconcileSpec, Spec,
    origins::{MAX_HOSTS, Origins},
    reconcile::{EVERY, WINDOW},
};

const RECONCILE_EVERY: Bounds<Duration> = Bounds {
    least: EVERY.0,
    most: EVERY.1,
    why: "providers limit how often their lists are read; an order that is found hours later is of no use to a kitchen",
};
const RECONCILE_WINDOW: Bounds<Duration> = Bounds {
    least: WINDOW.0,
    most: WINDOW.1,
    why: "an order may be on its way for minutes, and no list is known to reach further back than a day",
};

/// The settings for requests to a provider.
#[derive(Debug, Clone)]
pub struct OutboundSettings {
    /// The tables of its file.
    pub spec: Spec,
    /// `<PROVIDER>_API_URL`, without a slash at its end: takes precedence over the URLs of the platform and the file.
    pub api_url: Option<String>,
    /// Allowed origins of URLs from a table or a webhook: `<PROVIDER>_API_HOSTS`, and the hosts of the URLs above.
    pub origins: Origins,
    /// `<PROVIDER>_CLIENT_ID` and `<PROVIDER>_CLIENT_SECRET`.
    pub client: ClientCredentials,
    /// `<PROVIDER>_API_TLS_CA`, `_CERT` and `_KEY`.
    pub tls: ClientTls,
}

/// None if the hub has no credentials: then no requests are sent to this provider.
pub(super) fn of_provider(
    env: &Environment,
    name: &str,
    prefix: &str,
    spec: Option<&Spec>,
) -> Result<Option<OutboundSettings>, ConfigError> {
    let client = ClientCredentials {
        id: env.text(&format!("{prefix}_CLIENT_ID"))?,
        secret: env.secret(&format!("{prefix}_CLIENT_SECRET"))?,
        key_id: env.text(&format!("{prefix}_KEY_ID"))?,
        access_token: env.secret(&format!("{prefix}_ACCESS_TOKEN"))?,
    };
    let token_url = api_url(env, &format!("{prefix}_TOKEN_URL"))?;
    let token_scopes = env.text(&format!("{prefix}_TOKEN_SCOPES"))?;
    let token_scopes = token_scopes.map(|text| {
        let scopes = text.split([',', ' ']).filter(|scope| !scope.is_empty());
        scopes.map(str::to_owned).collect::<Vec<_>>()
    });
    let api_url = api_url(env, &format!("{prefix}_API_URL"))?;
    let hosts = hosts(env, &format!("{prefix}_API_HOSTS"))?;
    let tls = ClientTls::from_environment(env, &format!("{prefix}_API"))?;
    let reconciling = Reconciling::from_environment(env, prefix)?;
    let Some(mut spec) = spec.cloned() else {
        return match client.secret {
            None => Ok(None),
            Some(_) => Err(ConfigError::new(
                format!("{prefix}_CLIENT_SECRET"),
                format_args!(
                    "the file of {name} has no table [outbound], which describes the requests: add it, or unset this variable"
                ),
            )),
        };
    };
    spec.reconcile = spec.reconcile.and_then(|file| reconciling.over(file));
    let no_token = |suffix: &str| {
        let message = format_args!("the file of {name} asks for no token by OAuth 2; take this away");
        ConfigError::new(format!("{prefix}{suffix}"), message)
    };
    match (&mut spec.auth, token_url, token_scopes) {
        (_, None, None) => {}
        (Auth::Oauth2 { token_url, scopes, .. }, other_url, other_scopes) => {
            *token_url = other_url.unwrap_or_else(|| token_url.clone());
            *scopes = other_scopes.unwrap_or_else(|| scopes.clone());
        }
        (_, Some(_), _) => return Err(no_token("_TOKEN_URL")),
        (_, None, Some(_)) => return Err(no_token("_TOKEN_SCOPES")),
    }
    let missing = missing(&spec.auth, &client);
    // Without credentials it remains to check whether they are required.
    let is_unset = client.id.is_none() && client.secret.is_none();
    match missing {
        None => Ok(Some(OutboundSettings {
            origins: origins(&hosts, [Some(&*spec.base_url), api_url.as_deref()]),
            spec,
            api_url,
            client,
            tls,
        })),
        Some(_) if is_unset && spec.fetch.is_none() => Ok(None),
        Some(suffix) => Err(ConfigError::new(
            format!("{prefix}{suffix}"),
            format_args!("missing; {name} is enabled, and requires the hub's credentials"),
        )),
    }
}

/// The end of the name of the first variable that the requests need and that is not set.
fn missing(auth: &Auth, client: &ClientCredentials) -> Option<&'static str> {
    let (needs_id, needs_secret) = auth.needs();
    match (needs_id && client.id.is_none(), needs_secret && client.secret.is_none()) {
        (false, false) if auth.needs_key_id() && client.key_id.is_none() => Some("_KEY_ID"),
        (false, false) if auth.needs_access_token() && client.access_token.is_none() => Some("_ACCESS_TOKEN"),
        (false, false) => None,
        (_, true) => Some("_CLIENT_SECRET"),
        (true, false) => Some("_CLIENT_ID"),
    }
}

/// `<PROVIDER>_RECONCILE…`: what of `[reconcile]` is this installation's.
struct Reconciling {
    /// `<PROVIDER>_RECONCILE`.
    is_on: bool,
    /// `<PROVIDER>_RECONCILE_EVERY`.
    every: Option<Duration>,
    /// `<PROVIDER>_RECONCILE_WINDOW`.
    window: Option<Duration>,
}

impl Reconciling {
    fn from_environment(env: &Environment, prefix: &str) -> Result<Self, ConfigError> {
        let duration = |suffix: &str, bounds: &Bounds<Duration>| {
            let duration = env.duration(&format!("{prefix}{suffix}"), Duration::ZERO, bounds)?;
            Ok((!duration.is_zero()).then_some(duration))
        };
        Ok(Self {
            is_on: env.flag(&format!("{prefix}_RECONCILE"), true)?,
            every: duration("_RECONCILE_EVERY", &RECONCILE_EVERY)?,
            window: duration("_RECONCILE_WINDOW", &RECONCILE_WINDOW)?,
        })
    }

    /// The file's table with these values; none if it is switched off.
    fn over(&self, file: ReconcileSpec) -> Option<ReconcileSpec> {
        self.is_on.then(|| ReconcileSpec {
            every: self.every.unwrap_or(file.every),
            window: self.window.unwrap_or(file.window),
            ..file
        })
    }
}

/// `<PROVIDER>_API_HOSTS`: hosts between commas.
fn hosts(env: &Environment, variable: &str) -> Result<Vec<Url>, ConfigError> {
    let text = env.text(variable)?.unwrap_or_default();
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let read = |entry: &str| {
        Origins::entry(entry).ok_or_else(|| {
            let expected =
                "expected hosts separated by commas, each as host, host:port or, for plain HTTP, http://host:port";
            ConfigError::new(variable, expected)
        })
    };
    let hosts: Vec<Url> = entries.map(read).collect::<Result<_, _>>()?;
    if hosts.len() > MAX_HOSTS {
        return Err(ConfigError::new(variable, format_args!("more than {MAX_HOSTS} hosts")));
    }
    Ok(hosts)
}

fn origins(hosts: &[Url], urls: [Option<&str>; 2]) -> Origins {
    let of_urls = urls.into_iter().flatten().filter_map(|url| Url::parse(url).ok());
    hosts
        .iter()
        .cloned()
        .chain(of_urls)
        .fold(Origins::default(), |origins, url| origins.with(&url))
}

fn api_url(env: &Environment, variable: &str) -> Result<Option<String>, ConfigError> {
    let Some(text) = env.text(variable)? else {
        return Ok(None);
    };
    let fits = Url::parse(&text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    if !fits {
        return Err(ConfigError::new(
            variable,
            "expected an http or https URL without credentials or query",
        ));
    }
    Ok(Some(text.trim_end_matches('/').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Catalogue;

    fn read(name: &str, variables: &[(&str, &str)]) -> Result<Option<OutboundSettings>, ConfigError> {
        let env: Environment = variables.iter().copied().collect();
        let known = Catalogue::shipped();
        of_provider(&env, name, "X", known.get(name).unwrap().file().outbound.as_ref())
    }

    #[test]
    fn reconciliation_is_the_files_with_this_installations_values() {
        let client = [("X_CLIENT_ID", "hub"), ("X_CLIENT_SECRET", "s")];
        let spec = |variables: &[(&str, &str)]| {
            let set = read("uber-eats", &[&client[..], variables].concat()).unwrap();
            set.unwrap().spec.reconcile
        };
        let file = spec(&[]).unwrap();
        assert_eq!(
            (file.every, file.window),
            (Duration::from_secs(600), Duration::from_secs(3 * 3600))
        );
        let own = spec(&[("X_RECONCILE_EVERY", "2m"), ("X_RECONCILE_WINDOW", "5h")]).unwrap();
        assert_eq!(
            (own.every, own.window),
            (Duration::from_secs(120), Duration::from_secs(5 * 3600))
        );
        assert!(spec(&[("X_RECONCILE", "false")]).is_none());
        let error = read("uber-eats", &[&client[..], &[("X_RECONCILE_EVERY", "1s")]].concat());
        assert_eq!(error.unwrap_err().variable, "X_RECONCILE_EVERY");
    }

    #[test]
    fn scopes_and_the_place_of_tokens_may_be_others() {
        let credentials = [("X_CLIENT_ID", "hub"), ("X_CLIENT_SECRET", "s")];
        let of = |more: &[(&str, &str)]| {
            let read = read("uber-eats", &[&credentials[..], more].concat());
            match read.unwrap().unwrap().spec.auth {
                Auth::Oauth2 { token_url, scopes, .. } => (token_url, scopes),
                _ => panic!("Uber gives tokens by OAuth 2"),
            }
        };
        let (url, scopes) = of(&[]);
        assert_eq!(scopes, ["eats.order"]);
        let both = of(&[
            ("X_TOKEN_SCOPES", "eats.order, eats.store"),
            ("X_TOKEN_URL", "https://t.example"),
        ]);
        assert_eq!(both.0, "https://t.example");
        assert_eq!(both.1, ["eats.order", "eats.store"]);
        assert_eq!(of(&[("X_TOKEN_SCOPES", "a")]), (url, vec!["a".to_owned()]));
    }

    #[test]
    fn credentials_are_required_only_for_fetching_orders() {
        assert!(read("careem", &[]).unwrap().is_none());
        let set = read(
            "careem",
            &[
                ("X_CLIENT_ID", "hub"),
                ("X_CLIENT_SECRET", "s"),
                ("X_API_URL", "http://h:1/"),
            ],
        );
        assert_eq!(set.unwrap().unwrap().api_url.as_deref(), Some("http://h:1"));
        for (name, variables, at_fault) in [
            ("careem", &[("X_CLIENT_SECRET", "s")][..], "X_CLIENT_ID"),
            ("careem", &[("X_CLIENT_ID", "hub")], "X_CLIENT_SECRET"),
            ("uber-eats", &[], "X_CLIENT_SECRET"),
            ("generic", &[("X_CLIENT_SECRET", "s")], "X_CLIENT_SECRET"),
            (
                "keeta",
                &[("X_CLIENT_ID", "1"), ("X_CLIENT_SECRET", "s")],
                "X_ACCESS_TOKEN",
            ),
            (
                "doordash",
                &[("X_CLIENT_ID", "hub"), ("X_CLIENT_SECRET", "s")],
                "X_KEY_ID",
            ),
            (
                "jahez",
                &[("X_CLIENT_SECRET", "s"), ("X_TOKEN_URL", "https://t.example")],
                "X_TOKEN_URL",
            ),
            (
                "jahez",
                &[("X_CLIENT_SECRET", "s"), ("X_TOKEN_SCOPES", "a")],
                "X_TOKEN_SCOPES",
            ),
            ("careem", &[("X_API_URL", "careem.example")], "X_API_URL"),
            ("careem", &[("X_API_HOSTS", "a.example,b/c")], "X_API_HOSTS"),
        ] {
            assert_eq!(read(name, variables).unwrap_err().variable, at_fault, "{variables:?}");
        }
    }
}
