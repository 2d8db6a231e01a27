//! The environment as a map. A file named by `X_FILE` replaces the variable `X`.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use super::{
    ConfigError,
    bounds::{Bounds, DurationText, Size},
};
use crate::text::duration::parse_duration;

/// Largest file that is read for a value; a certificate chain has a few KiB.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Variables by name.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// The names that were read, for the tests that check all of them.
    #[cfg(test)]
    pub(super) asked: std::sync::Arc<std::sync::Mutex<std::collections::BTreeSet<String>>>,
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Environment({} variables)", self.variables.len())
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self {
            variables: variables.collect(),
            #[cfg(test)]
            asked: Default::default(),
        }
    }
}

impl Environment {
    /// The process's environment, without names and values that are not UTF-8.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    /// All variables, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A variable; empty counts as absent.
    fn set(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// `<name>` and `<name>_FILE`, of which one may be set.
    fn set_or_file(&self, name: &str) -> Result<(Option<&str>, Option<&str>), ConfigError> {
        #[cfg(test)]
        self.asked.lock().unwrap().insert(name.to_owned());
        let file_variable = format!("{name}_FILE");
        let both = (self.set(name), self.set(&file_variable));
        if let (Some(_), Some(_)) = both {
            return Err(ConfigError::new(
                name,
                format_args!("set together with {file_variable}; keep one"),
            ));
        }
        Ok(both)
    }

    /// A value, or the content of the file that `<name>_FILE` names; empty counts as absent.
    ///
    /// # Errors
    /// If both are set, or the file cannot be read.
    pub fn text(&self, name: &str) -> Result<Option<String>, ConfigError> {
        match self.set_or_file(name)? {
            (_, Some(path)) => read(&format!("{name}_FILE"), Path::new(path)).map(Some),
            (value, None) => Ok(value.map(str::to_owned)),
        }
    }

    /// A value or its default.
    ///
    /// # Errors
    /// The same as [`Self::text`].
    pub fn text_or(&self, name: &str, default: &str) -> Result<String, ConfigError> {
        Ok(self.text(name)?.unwrap_or_else(|| default.to_owned()))
    }

    /// A secret value, which no log shows.
    ///
    /// # Errors
    /// The same as [`Self::text`].
    pub fn secret(&self, name: &str) -> Result<Option<SecretString>, ConfigError> {
        Ok(self.text(name)?.map(SecretString::from))
    }

    /// The path of a file, from `<name>` or `<name>_FILE`: both hold the path.
    ///
    /// # Errors
    /// If both are set.
    pub fn path(&self, name: &str) -> Result<Option<PathBuf>, ConfigError> {
        let (path, file) = self.set_or_file(name)?;
        Ok(path.or(file).map(PathBuf::from))
    }

    /// Several secrets, comma-separated, newest first.
    ///
    /// # Errors
    /// The same as [`Self::text`], and if one between commas is empty.
    pub fn secrets(&self, name: &str) -> Result<Vec<SecretString>, ConfigError> {
        match self.secret(name)? {
            Some(all) => split_secrets(name, all.expose_secret()),
            None => Ok(Vec::new()),
        }
    }

    /// The file that `<name>_FILE` names.
    pub fn file_of(&self, name: &str) -> Option<PathBuf> {
        self.set(&format!("{name}_FILE")).map(PathBuf::from)
    }

    /// An IP address to listen on.
    ///
    /// # Errors
    /// The same as [`Self::text`], and if it is no IP address.
    pub fn address(&self, name: &str, default: IpAddr) -> Result<IpAddr, ConfigError> {
        let expected = "an IP address such as 0.0.0.0 or ::";
        self.text(name)?
            .map_or(Ok(default), |text| parse(name, &text, expected))
    }

    /// A port from `least` on. Port 0, if allowed, lets the system choose.
    ///
    /// # Errors
    /// The same as [`Self::text`], and if it is no such port.
    pub fn port(&self, name: &str, default: u16, least: u16) -> Result<u16, ConfigError> {
        let Some(text) = self.text(name)? else {
            return Ok(default);
        };
        let expected = format!("a port number from {least} to {}", u16::MAX);
        match parse(name, &text, &expected)? {
            port if port >= least => Ok(port),
            _ => Err(ConfigError::new(
                name,
                format_args!("expected {expected}, found {text:?}"),
            )),
        }
    }

    /// A whole number within bounds.
    ///
    /// # Errors
    /// The same as [`Self::text`], and if it is not a whole number within the bounds; the message gives the reason of the bounds.
    pub fn whole<T>(&self, name: &str, default: T, bounds: &Bounds<T>) -> Result<T, ConfigError>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        let Some(text) = self.text(name)? else {
            return Ok(default);
        };
        match text.parse() {
            Ok(number) if bounds.hold(&number) => Ok(number),
            _ => Err(ConfigError::new(
                name,
                format_args!(
                    "expected a whole number from {} to {}, found {text:?}: {}",
                    bounds.least, bounds.most, bounds.why
                ),
            )),
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// The same as [`Self::whole`].
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, ConfigError> {
        match self.text(name)?.map(|text| text.to_ascii_lowercase()).as_deref() {
            None => Ok(default),
            Some("true" | "1" | "yes" | "on") => Ok(true),
            Some("false" | "0" | "no" | "off") => Ok(false),
            Some(other) => Err(ConfigError::new(
                name,
                format_args!("expected true or false, found {other:?}"),
            )),
        }
    }

    /// A duration with its unit, `30s`, within bounds.
    ///
    /// # Errors
    /// The same as [`Self::text`], and if it has no unit or is out of bounds; the message gives the reason of the bounds.
    pub fn duration(&self, name: &str, default: Duration, bounds: &Bounds<Duration>) -> Result<Duration, ConfigError> {
        let Some(text) = self.text(name)? else {
            return Ok(default);
        };
        if text.parse::<u64>().is_ok() {
            return Err(ConfigError::new(
                name,
                format_args!(
                    "expected a duration with its unit, found {text:?}: write {text}s for seconds, {text}ms for milliseconds"
                ),
            ));
        }
        let duration = parse_duration(&text)
            .map_err(|expected| ConfigError::new(name, format_args!("{expected}, found {text:?}")))?;
        within(name, &text, "", duration, bounds)
    }

    /// The same; a number without a unit is in milliseconds, as in the earlier Node service.
    ///
    /// # Errors
    /// The same as [`Self::duration`].
    pub fn duration_or_ms(
        &self,
        name: &str,
        default: Duration,
        bounds: &Bounds<Duration>,
    ) -> Result<Duration, ConfigError> {
        match self
            .text(name)?
            .and_then(|text| Some((text.parse::<u64>().ok()?, text)))
        {
            Some((ms, text)) => within(
                name,
                &text,
                " (milliseconds if there is no unit; 30s is 30 seconds)",
                Duration::from_millis(ms),
                bounds,
            ),
            None => self.duration(name, default, bounds),
        }
    }

    /// A size in bytes within bounds: `5mb`, `512kb`, `1024`. Units are powers of 1024, as in the earlier Node service.
    ///
    /// # Errors
    /// The same as [`Self::text`], and if it is no size within the bounds; the message gives the reason of the bounds.
    pub fn bytes(&self, name: &str, default: usize, bounds: &Bounds<usize>) -> Result<usize, ConfigError> {
        let Some(text) = self.text(name)? else {
            return Ok(default);
        };
        let lower = text.to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match lower[digits.len()..].trim() {
            "" | "b" => Some(1),
            "kb" | "kib" | "k" => Some(1024),
            "mb" | "mib" | "m" => Some(1024 * 1024),
            _ => None,
        };
        let size = digits
            .trim()
            .parse::<usize>()
            .ok()
            .zip(factor)
            .and_then(|(number, factor)| number.checked_mul(factor));
        size.filter(|size| bounds.hold(size)).ok_or_else(|| {
            ConfigError::new(
                name,
                format_args!(
                    "expected a size from {} to {}, found {text:?}: {}",
                    Size(bounds.least),
                    Size(bounds.most),
                    bounds.why
                ),
            )
        })
    }

    /// Networks in CIDR notation or single addresses, comma-separated.
    ///
    /// # Errors
    /// The same as [`Self::whole`].
    pub fn networks(&self, name: &str) -> Result<Vec<IpNet>, ConfigError> {
        let Some(text) = self.text(name)? else {
            return Ok(Vec::new());
        };
        let network = |part: &str| {
            let single = || part.parse::<IpAddr>().map(IpNet::from);
            part.parse::<IpNet>().or_else(|_| single()).map_err(|_| {
                ConfigError::new(
                    name,
                    format_args!("expected addresses or networks such as 34.204.192.0/20, found {part:?}"),
                )
            })
        };
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(network)
            .collect()
    }
}

fn parse<T: FromStr>(name: &str, text: &str, expected: &str) -> Result<T, ConfigError> {
    text.parse()
        .map_err(|_| ConfigError::new(name, format_args!("expected {expected}, found {text:?}")))
}

fn within(
    name: &str,
    text: &str,
    hint: &str,
    duration: Duration,
    bounds: &Bounds<Duration>,
) -> Result<Duration, ConfigError> {
    if bounds.hold(&duration) {
        return Ok(duration);
    }
    Err(ConfigError::new(
        name,
        format_args!(
            "expected from {} to {}, found {text:?}{hint}: {}",
            DurationText(bounds.least),
            DurationText(bounds.most),
            bounds.why
        ),
    ))
}

/// Secrets between commas, newest first.
pub(super) fn split_secrets(name: &str, all: &str) -> Result<Vec<SecretString>, ConfigError> {
    let secrets: Vec<_> = all.split(',').map(|one| SecretString::from(one.trim())).collect();
    if secrets.iter().any(|one| one.expose_secret().is_empty()) {
        return Err(ConfigError::new(name, "contains an empty secret between commas"));
    }
    Ok(secrets)
}

/// The content of a file, without surrounding white space. Blocks on the disk.
pub(super) fn read(variable: &str, path: &Path) -> Result<String, ConfigError> {
    let fail =
        |reason: std::io::Error| ConfigError::new(variable, format_args!("cannot read {}: {reason}", path.display()));
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > MAX_FILE_BYTES {
        return Err(ConfigError::new(
            variable,
            format_args!("{} is larger than {MAX_FILE_BYTES} bytes", path.display()),
        ));
    }
    let text = std::fs::read_to_string(path).map_err(fail)?;
    let text = text.trim().to_owned();
    if text.is_empty() {
        return Err(ConfigError::new(variable, format_args!("{} is empty", path.display())));
    }
    Ok(text)
}
