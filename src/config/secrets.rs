//! A provider's secrets with their sources, so that secret files can be read again.

use std::{collections::BTreeSet, path::PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, Environment, environment};
use crate::{
    provider::declarative::{
        file::{Document, File},
        load::signed::{Unsigned, unsigned},
        pick::Source,
    },
    verification::{
        Keys, Scheme,
        keys::{MAX_SECRETS, OwnSecretOrigin, WEBHOOK_SECRET},
    },
};

/// The secrets of one name, newest first.
#[derive(Debug, Clone)]
struct OfName {
    name: String,
    variable: String,
    file: Option<PathBuf>,
    values: Vec<SecretString>,
}

/// All secrets of a provider.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Vec<OfName>);

impl Secrets {
    /// Reads the secrets that a scheme takes. `provider` is for messages; with `branches` the webhook secret may be missing,
    /// because branches have their own.
    ///
    /// # Errors
    /// If one is missing or cannot be used, naming its variable.
    pub fn from_environment(
        env: &Environment,
        prefix: &str,
        provider: &str,
        scheme: &Scheme,
        branches: bool,
    ) -> Result<Self, ConfigError> {
        let mut sources = Vec::new();
        for name in scheme.secrets() {
            let variable = format!("{prefix}_{}", name.to_ascii_uppercase());
            let source = OfName {
                name: name.to_owned(),
                file: env.file_of(&variable),
                values: env.secrets(&variable)?,
                variable,
            };
            if source.values.is_empty() && branches && name == WEBHOOK_SECRET {
                continue;
            }
            if source.values.is_empty() {
                return Err(ConfigError::new(
                    source.variable,
                    format_args!("missing; it proves that a webhook comes from {provider}"),
                ));
            }
            source.check(scheme)?;
            sources.push(source);
        }
        Ok(Self(sources))
    }

    /// The secrets as keys for the verification.
    pub fn keys(&self) -> Keys {
        let with = |keys: Keys, source: &OfName| keys.with(&source.name, source.origin(), &source.values);
        self.0.iter().fold(Keys::new(), with)
    }

    /// The values of a name.
    pub fn values(&self, name: &str) -> &[SecretString] {
        let source = self.0.iter().find(|source| source.name == name);
        source.map_or(&[], |source| &source.values)
    }

    /// Whether any comes from a file.
    pub fn has_files(&self) -> bool {
        self.0.iter().any(|source| source.file.is_some())
    }

    /// Reads the files again; returns the secrets and the variables with changed values. Blocks on the disk.
    ///
    /// # Errors
    /// The first file that cannot be used, naming its variable; then nothing changes.
    pub fn read_again(&self, scheme: &Scheme) -> Result<(Self, BTreeSet<String>), ConfigError> {
        let mut changed = BTreeSet::new();
        let again = |source: &OfName| -> Result<OfName, ConfigError> {
            let mut source = source.clone();
            let Some(file) = &source.file else { return Ok(source) };
            let text = environment::read(&source.file_variable(), file)?;
            let values = environment::split_secrets(&source.variable, &text)?;
            let same = |(one, other): (&SecretString, &SecretString)| one.expose_secret() == other.expose_secret();
            if values.len() != source.values.len() || !values.iter().zip(&source.values).all(same) {
                changed.insert(source.variable.clone());
            }
            source.values = values;
            source.check(scheme)?;
            Ok(source)
        };
        let sources = self.0.iter().map(again).collect::<Result<_, _>>()?;
        Ok((Self(sources), changed))
    }
}

impl OfName {
    const fn origin(&self) -> OwnSecretOrigin {
        if self.file.is_some() {
            OwnSecretOrigin::File
        } else {
            OwnSecretOrigin::Env
        }
    }

    fn file_variable(&self) -> String {
        format!("{}_FILE", self.variable)
    }

    fn check(&self, scheme: &Scheme) -> Result<(), ConfigError> {
        if self.values.len() > MAX_SECRETS {
            return Err(ConfigError::new(
                &self.variable,
                format_args!("more than {MAX_SECRETS} secrets"),
            ));
        }
        for value in &self.values {
            scheme
                .check_secret(&self.name, value)
                .map_err(|fault| ConfigError::new(&self.variable, fault))?;
        }
        Ok(())
    }
}

/// `<PROVIDER>_BRANCH_SECRETS`: whether branches have secrets of their own.
///
/// # Errors
/// If nothing is verified, because every sender could then act for every branch. Also if orders are fetched and the file does not
/// name the store's location in the document, because no order could be proven to be the branch's own.
pub(super) fn branch_secrets(
    env: &Environment,
    prefix: &str,
    scheme: &Scheme,
    file: &File,
) -> Result<bool, ConfigError> {
    let variable = format!("{prefix}_BRANCH_SECRETS");
    if !env.flag(&variable, false)? {
        return Ok(false);
    }
    if scheme.is_none() {
        let message = "expected false: the scheme none verifies nothing, so it cannot separate branches";
        return Err(ConfigError::new(variable, message));
    }
    let is_fetched = matches!(file.webhook.document, Some(Document::Fetched(..)));
    let is_of_document = |source: &Source| matches!(source, Source::Here(_) | Source::Document(_));
    let store = file.webhook.store.as_ref();
    if is_fetched && !store.is_some_and(|store| store.from.iter().any(is_of_document)) {
        let message = "expected false: webhook.store of the provider's file does not say where a fetched order names its store, \
             so none could be shown to be the branch's";
        return Err(ConfigError::new(variable, message));
    }
    Ok(true)
}

/// The scheme that verifies a provider's webhooks: its own, unless `<PROVIDER>_VERIFICATION` names another one.
///
/// # Errors
/// If the named scheme does not exist, it does not sign what identifies a webhook, or it signs the URL and `PUBLIC_URL` is not
/// set.
pub fn scheme(env: &Environment, prefix: &str, file: &File, public_url: Option<&str>) -> Result<Scheme, ConfigError> {
    let variable = format!("{prefix}_VERIFICATION");
    let scheme = match env.text(&variable)?.as_deref() {
        None => file.verification.clone(),
        Some("none") => Scheme::None,
        Some(name) => Scheme::preset(name).ok_or_else(|| {
            let names: Vec<_> = crate::verification::preset::names().collect();
            let names = names.join(", ");
            ConfigError::new(
                &variable,
                format_args!("expected none or one of {names}, found {name:?}"),
            )
        })?,
    };
    let faults = scheme.check();
    if !faults.is_empty() {
        return Err(ConfigError::new(variable, faults.join("; ")));
    }
    if let Some(Unsigned { place, key }) = unsigned(file, &scheme).first() {
        let message = format_args!(
            "this scheme does not sign {place:?}, from which the provider's file reads {key}: one captured webhook could be sent as several"
        );
        return Err(ConfigError::new(variable, message));
    }
    if scheme.needs_url() && public_url.is_none() {
        let message = format_args!(
            "missing; with {variable} the URL is signed, so set the URL that {prefix} calls: https://HOST"
        );
        return Err(ConfigError::new("PUBLIC_URL", message));
    }
    Ok(scheme)
}

/// `PUBLIC_URL`.
///
/// # Errors
/// If it is no http or https URL without a path.
pub fn public_url(env: &Environment) -> Result<Option<String>, ConfigError> {
    let Some(url) = env.text("PUBLIC_URL")? else {
        return Ok(None);
    };
    let url = url.trim_end_matches('/');
    let fits = url::Url::parse(url).is_ok_and(|parsed| {
        let is_web = matches!(parsed.scheme(), "http" | "https");
        is_web && parsed.username().is_empty() && parsed.query().is_none() && parsed.fragment().is_none()
    });
    if !fits {
        return Err(ConfigError::new(
            "PUBLIC_URL",
            "expected the URL that providers call, up to the path: https://HOST",
        ));
    }
    Ok(Some(url.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::declarative::load::load;

    #[test]
    fn branches_need_documents_that_name_their_store() {
        const UBER: &str = include_str!("../../providers/uber-eats.toml");
        let env: Environment = [("UBER_EATS_BRANCH_SECRETS", "true")].into_iter().collect();
        let read = |text: &str| {
            let file = load("uber-eats.toml", text).unwrap();
            branch_secrets(&env, "UBER_EATS", &file.verification, &file).map_err(|error| error.to_string())
        };
        assert_eq!(read(UBER), Ok(true));
        let refused = read(&UBER.replace(", \"/store/id\"]", "]")).unwrap_err();
        assert!(
            refused.starts_with("UBER_EATS_BRANCH_SECRETS: expected false: webhook.store"),
            "{refused}"
        );
    }
}
