//! Log level and format: `LOG_LEVEL`, `LOG_FORMAT`.

use super::{ConfigError, Environment};

/// Logs.
#[derive(Debug, Clone)]
pub struct Logs {
    /// `LOG_LEVEL`.
    pub level: String,
    /// `LOG_FORMAT=json`, else text.
    pub json: bool,
}

impl Logs {
    /// Reads these settings.
    ///
    /// # Errors
    /// The first value that cannot be used.
    pub fn from_environment(env: &Environment) -> Result<Self, ConfigError> {
        let level = env.text_or("LOG_LEVEL", "info")?.to_ascii_lowercase();
        if !["error", "warn", "info", "debug", "trace"].contains(&level.as_str()) {
            return Err(ConfigError::new(
                "LOG_LEVEL",
                "expected error, warn, info, debug or trace",
            ));
        }
        let json = match env.text_or("LOG_FORMAT", "json")?.as_str() {
            "json" => true,
            "text" | "pretty" => false,
            _ => return Err(ConfigError::new("LOG_FORMAT", "expected json or text")),
        };
        Ok(Self { level, json })
    }
}
