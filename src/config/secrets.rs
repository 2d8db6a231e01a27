//! A provider's secrets and where they come from, so that those of files can be read again.

use std::{collections::BTreeSet, path::PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, Environment, environment};
use crate::{
    provider::declarative::{
        file::File,
        load::signed::{Unsigned, unsigned},
    },
    verification::{
        Keys, Scheme,
        keys::{MAX_SECRETS, Origin, WEBHOOK_SECRET},
    },
};

/// The secrets of one name, newest first.
#[derive(Debug, Clone)]
struct Source {
    name: String,
    variable: String,
    file: Option<PathBuf>,
    values: Vec<SecretString>,
}

/// All secrets of a provider.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Vec<Source>);

impl Secrets {
    /// Reads those that a scheme takes. `provider` is for messages; `branches` says that the webhook secret may be
    /// missing because branches have their own.
    ///
    /// # Errors
    /// Where one is missing or cannot be used, naming its variable.
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
            let source = Source {
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
                    format_args!("missing; it proves that a webhook is from {provider}"),
                ));
            }
            source.check(scheme)?;
            sources.push(source);
        }
        Ok(Self(sources))
    }

    /// As the verification takes them.
    pub fn keys(&self) -> Keys {
        let with = |keys: Keys, source: &Source| keys.with(&source.name, source.origin(), &source.values);
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

    /// The same with the files of now, and the variables whose values changed. Blocks on the disk.
    ///
    /// # Errors
    /// The first file that cannot be used, naming its variable; then nothing changes.
    pub fn read_again(&self, scheme: &Scheme) -> Result<(Self, BTreeSet<String>), ConfigError> {
        let mut changed = BTreeSet::new();
        let again = |source: &Source| -> Result<Source, ConfigError> {
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

impl Source {
    const fn origin(&self) -> Origin {
        if self.file.is_some() { Origin::File } else { Origin::Env }
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

/// How a provider's webhooks are verified: its own scheme, unless `<PROVIDER>_VERIFICATION` names another one.
///
/// # Errors
/// Where it names none that there is, it does not sign what identifies a webhook, or it signs the URL and the hub does not know
/// its own.
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
            "this scheme does not sign {place:?}, where the provider's file reads {key}: one captured webhook could be sent as several"
        );
        return Err(ConfigError::new(variable, message));
    }
    if scheme.needs_url() && public_url.is_none() {
        let message = format_args!(
            "missing; with {variable} the URL is signed, so the hub must know it as {prefix} calls it: https://HOST"
        );
        return Err(ConfigError::new("PUBLIC_URL", message));
    }
    Ok(scheme)
}

/// `PUBLIC_URL`.
///
/// # Errors
/// Where it is no such URL.
pub fn public_url(env: &Environment) -> Result<Option<String>, ConfigError> {
    let Some(url) = env.text("PUBLIC_URL")? else {
        return Ok(None);
    };
    let url = url.trim_end_matches('/');
    let fits = reqwest::Url::parse(url).is_ok_and(|parsed| {
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
