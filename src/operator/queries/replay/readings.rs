//! The providers by which a replay reads: their files and settings, and neither a secret nor a client.

use std::{collections::HashMap, path::Path, time::Duration};

use bytes::Bytes;

use crate::{
    config::{ConfigError, Environment, ReplayedProvider},
    event::Recorded,
    order::model::AmendmentKind,
    provider::declarative::Declarative,
    transform::reading::Reading,
};

/// All that this installation knows, by name.
pub struct Readings(HashMap<String, Known>);

/// A provider.
pub(super) struct Known {
    provider: Declarative,
    settings: ReplayedProvider,
}

impl Readings {
    /// By the configuration, with the files of `folder`, or of `PROVIDERS_DIR` if none is given.
    ///
    /// # Errors
    /// If a file or a variable cannot be used.
    pub fn from_environment(env: &Environment, folder: Option<&Path>) -> Result<Self, ConfigError> {
        let known = ReplayedProvider::all(env, folder)?.into_iter().map(|settings| {
            let currency = settings.currency.as_ref().ok().copied().flatten();
            let provider = Declarative::new(settings.file.clone(), currency);
            (settings.file.identity.name.clone(), Known { provider, settings })
        });
        Ok(Self(known.collect()))
    }

    /// Whether a provider of this name is known.
    pub fn knows(&self, provider: &str) -> bool {
        self.0.contains_key(provider)
    }

    /// How old a new order of a provider may be when it is forwarded; none: of any age.
    pub(in crate::operator) fn order_ttl(&self, provider: &str) -> Option<Duration> {
        self.0.get(provider)?.settings.order_ttl
    }

    /// What was done to an order that a provider announces again, by the provider's name.
    pub(in crate::operator) fn announced_again(&self) -> HashMap<String, AmendmentKind> {
        let all = self.0.iter();
        all.filter_map(|(name, known)| Some((name.clone(), known.settings.file.events.announced_again?)))
            .collect()
    }

    /// A provider; none if it is not known.
    ///
    /// # Errors
    /// If a variable is missing without which its webhooks cannot be read.
    pub(super) fn get(&self, provider: &str) -> Result<Option<&Known>, ConfigError> {
        let Some(known) = self.0.get(provider) else {
            return Ok(None);
        };
        match &known.settings.currency {
            Ok(_) => Ok(Some(known)),
            Err(missing) => Err(missing.clone()),
        }
    }
}

impl Known {
    /// How its webhooks are read.
    pub(super) fn reading(&self) -> Reading<'_> {
        Reading {
            provider: &self.provider,
            spec: self.settings.spec.as_ref(),
            forward_test_orders: self.settings.forward_test_orders,
            zone: None,
        }
    }

    /// The event as the intake would record it today: the file says of which type the webhook is, and which order it is about.
    ///
    /// # Errors
    /// Why the intake would refuse it.
    pub(super) fn received_again(&self, event: &Recorded, webhook: Option<&Bytes>) -> Result<Recorded, String> {
        let mut again = event.clone();
        let body = match (webhook, self.reading().is_document(event)) {
            (Some(webhook), _) => webhook,
            (None, false) => &event.payload,
            // The webhook has left the log.
            (None, true) => return Ok(again),
        };
        let (webhook_type, order) = self.provider.read_again(&event.envelope, body)?;
        webhook_type.clone_into(&mut again.envelope.webhook_type);
        again.envelope.external_order_id = order;
        Ok(again)
    }
}
