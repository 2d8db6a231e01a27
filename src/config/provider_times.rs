//! Times of a provider: how old its orders may be, and how long its webhooks wait for their outcome.

use std::{collections::HashMap, time::Duration};

use super::{Bounds, ConfigError, Environment, catalogue, prefix};
use crate::{
    order::model::AmendmentKind,
    provider::{catalogue::KnownProvider, declarative::file::File},
};

const ORDER_TTL: Bounds<Duration> = Bounds {
    least: Duration::from_secs(1),
    most: Duration::from_secs(7 * 24 * 3600),
    why: "with a shorter time no order is young enough, and a longer one has no use for food; unset, orders of any age are forwarded",
};

const RESPONSE_WAIT: Bounds<Duration> = Bounds {
    least: Duration::ZERO,
    most: Duration::from_secs(30),
    why: "0s answers at once; with a longer time providers give up before the answer and repeat the webhook",
};

/// `<PROVIDER>_ORDER_TTL`; none if it is not set.
pub(super) fn order_ttl(env: &Environment, prefix: &str) -> Result<Option<Duration>, ConfigError> {
    let variable = format!("{prefix}_ORDER_TTL");
    let ttl = env.duration(&variable, Duration::ZERO, &ORDER_TTL)?;
    Ok((!ttl.is_zero()).then_some(ttl))
}

/// `<PROVIDER>_ORDER_TTL` of all known providers, where it is set.
///
/// # Errors
/// If it is no duration, or a provider's file is broken.
pub fn order_ttls(env: &Environment) -> Result<HashMap<String, Duration>, ConfigError> {
    let mut all = HashMap::new();
    for name in catalogue(env)?.names() {
        all.extend(order_ttl(env, &prefix(name))?.map(|ttl| (name.to_owned(), ttl)));
    }
    Ok(all)
}

/// What was done to an order that a provider announces again with another content, of all known providers with that rule.
///
/// # Errors
/// If a provider's file is broken.
pub fn announced_again(env: &Environment) -> Result<HashMap<String, AmendmentKind>, ConfigError> {
    let catalogue = catalogue(env)?;
    let of = |(name, known): (&str, &KnownProvider)| Some((name.to_owned(), known.file().events.announced_again?));
    Ok(catalogue.iter().filter_map(of).collect())
}

/// `<PROVIDER>_RESPONSE_WAIT`; none if it is not set, or `0s`.
pub(super) fn response_wait(env: &Environment, prefix: &str, file: &File) -> Result<Option<Duration>, ConfigError> {
    let variable = format!("{prefix}_RESPONSE_WAIT");
    let wait = env.duration(&variable, Duration::ZERO, &RESPONSE_WAIT)?;
    if !wait.is_zero() && file.response.success.is_some() {
        let why = "expected 0s or nothing: the provider's file has an answer of its own ([response] success), which has no room for the outcome";
        return Err(ConfigError::new(variable, why));
    }
    Ok((!wait.is_zero()).then_some(wait))
}
