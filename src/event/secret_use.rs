//! Which of a provider's secrets verified a webhook, as the event records it: never its value.

use serde::{Deserialize, Serialize};

/// The source of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretOrigin {
    /// An environment variable.
    Env,
    /// The file that a variable names.
    File,
    /// `branch_delivery_configs.webhook_secret`.
    Branch,
}

impl SecretOrigin {
    /// Its text in events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::File => "file",
            Self::Branch => "branch",
        }
    }
}

/// Which secret matched: never its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SecretUse {
    /// Its name, `webhook_secret`.
    pub name: String,
    /// Its source.
    pub origin: SecretOrigin,
    /// Which of those of the same name and origin, newest = 0.
    pub index: usize,
}
