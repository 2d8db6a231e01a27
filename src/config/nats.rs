//! The address of NATS, and the hub's credentials there.

use std::{fmt, path::PathBuf};

use secrecy::SecretString;

use super::{ClientTls, ConfigError, Environment};

/// NATS.
#[derive(Clone)]
pub struct Nats {
    /// `NATS_URL`; several, comma-separated, for a cluster.
    pub urls: Vec<String>,
    /// `NATS_USER`.
    pub user: Option<String>,
    /// `NATS_PASSWORD`.
    pub password: Option<SecretString>,
    /// `NATS_CREDS_FILE`.
    pub credentials_file: Option<PathBuf>,
    /// `NATS_TLS_*`.
    pub tls: ClientTls,
    /// `NATS_MONITORING_URL`: the servers' monitoring ports, without a slash at the end; empty if they are not used.
    pub monitoring: Vec<String>,
}

/// Most monitored servers. The largest cluster that makes sense has five.
const MAX_MONITORED: usize = 9;

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Nats {
    /// Reads the settings of the connection to NATS.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn from_environment(env: &Environment) -> Result<Self, ConfigError> {
        let (user, password) = (env.text("NATS_USER")?, env.secret("NATS_PASSWORD")?);
        if user.is_some() != password.is_some() {
            return Err(ConfigError::new("NATS_USER", "must be set together with NATS_PASSWORD"));
        }
        let url = env.text_or("NATS_URL", "nats://localhost:4222")?;
        if url.contains('@') {
            return Err(ConfigError::new(
                "NATS_URL",
                "must not contain credentials; use NATS_USER and NATS_PASSWORD",
            ));
        }
        Ok(Self {
            urls: server_urls(&url)?,
            user,
            password,
            credentials_file: env.text("NATS_CREDS_FILE")?.map(Into::into),
            tls: ClientTls::from_environment(env, "NATS")?,
            monitoring: env
                .text(MONITORING)?
                .map_or_else(|| Ok(Vec::new()), |urls| monitoring_urls(&urls))?,
        })
    }
}

/// The variable's name.
const MONITORING: &str = "NATS_MONITORING_URL";

fn monitoring_urls(text: &str) -> Result<Vec<String>, ConfigError> {
    let url = |part: &str| {
        let part = part.trim();
        let fits = url::Url::parse(part).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.query().is_none()
        });
        if fits {
            Ok(part.trim_end_matches('/').to_owned())
        } else {
            Err(ConfigError::new(
                MONITORING,
                "expected http://HOST:8222 without credentials or query, several of them comma-separated for a cluster",
            ))
        }
    };
    let urls: Vec<_> = text.split(',').map(url).collect::<Result<_, _>>()?;
    if urls.len() > MAX_MONITORED {
        return Err(ConfigError::new(
            MONITORING,
            format_args!("more than {MAX_MONITORED} servers"),
        ));
    }
    Ok(urls)
}

fn server_urls(text: &str) -> Result<Vec<String>, ConfigError> {
    let url = |part: &str| match part.trim().parse::<async_nats::ServerAddr>() {
        Ok(_) => Ok(part.trim().to_owned()),
        Err(error) => Err(ConfigError::new(
            "NATS_URL",
            format_args!("{part:?}: {error}; expected nats://HOST:PORT, several of them comma-separated for a cluster"),
        )),
    };
    text.split(',').map(url).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monitoring_urls_are_read_one_a_server() {
        let read = |text: &str| {
            let env = Environment::from_iter([(MONITORING, text)]);
            Nats::from_environment(&env).map(|nats| nats.monitoring)
        };
        assert_eq!(
            Nats::from_environment(&Environment::default()).unwrap().monitoring,
            [""; 0]
        );
        assert_eq!(
            read("http://a:8222/, https://b:8223").unwrap(),
            ["http://a:8222", "https://b:8223"]
        );
        for wrong in [
            "a:8222",
            "nats://a:8222",
            "http://u:p@a:8222",
            "http://a:8222,",
            "http://a/?x=1",
        ] {
            assert_eq!(read(wrong).unwrap_err().variable, MONITORING, "{wrong}");
        }
        assert!(read(&["http://a:1"; 10].join(",")).is_err());
    }
}
