//! Where NATS is, and who we are there.

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
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Nats {
    /// Reads what is needed to reach NATS.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn from_environment(env: &Environment) -> Result<Self, ConfigError> {
        let (user, password) = (env.text("NATS_USER")?, env.secret("NATS_PASSWORD")?);
        if user.is_some() != password.is_some() {
            return Err(ConfigError::new(
                "NATS_USER",
                "goes together with NATS_PASSWORD: set both or none",
            ));
        }
        let url = env.text_or("NATS_URL", "nats://localhost:4222")?;
        if url.contains('@') {
            return Err(ConfigError::new(
                "NATS_URL",
                "must hold no credentials; use NATS_USER and NATS_PASSWORD",
            ));
        }
        Ok(Self {
            urls: server_urls(&url)?,
            user,
            password,
            credentials_file: env.text("NATS_CREDS_FILE")?.map(Into::into),
            tls: ClientTls::from_environment(env, "NATS")?,
        })
    }
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
