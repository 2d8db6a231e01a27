//! `providers observe`: what to set so that a provider's signatures are observed for some days and not insisted on, and what that means.

use std::process::ExitCode;

use anyhow::bail;
use chrono::{SecondsFormat, TimeDelta, Timelike as _, Utc};
use serde::Serialize;

use super::{print, unknown};
use crate::config::{self, Environment, observe};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Advice {
    provider: String,
    variable: String,
    value: String,
    set_now: Option<String>,
    meaning: String,
}

/// Prints the variable.
///
/// # Errors
/// If the provider is unknown, or its signatures cannot be observed.
pub(super) fn run(environment: &Environment, name: &str, days: u32, as_json: bool) -> anyhow::Result<ExitCode> {
    let catalogue = config::catalogue(environment)?;
    let Some(known) = catalogue.get(name) else {
        bail!("{}", unknown(environment, &catalogue, name));
    };
    let prefix = config::prefix(name);
    let scheme = config::scheme(
        environment,
        &prefix,
        known.file(),
        config::public_url(environment)?.as_deref(),
    )?;
    let has_branch_secrets = environment.flag(&format!("{prefix}_BRANCH_SECRETS"), false)?;
    if let Some(why) = observe::why_not(known.file(), &scheme, has_branch_secrets) {
        bail!("the signatures of {name} cannot be observed: {why}");
    }
    let until = Utc::now() + TimeDelta::days(days.into());
    // The whole hour: it is read and said by people.
    let until = until
        .with_minute(0)
        .and_then(|time| time.with_second(0))
        .unwrap_or(until);
    let variable = format!("{prefix}_OBSERVE_UNTIL");
    let advice = Advice {
        set_now: environment.text(&variable)?,
        provider: name.to_owned(),
        value: until.to_rfc3339_opts(SecondsFormat::Secs, true),
        meaning: format!(
            "Until then webhooks of {name} are accepted if nothing is wrong with them but the value of the signature, and counted \
             (webhooks_observed_total). Anyone who knows the form of its webhooks can send orders as {name} meanwhile: set \
             {prefix}_IP_WHITELIST if you know its addresses. Where webhook_secret_used_total rises and webhooks_observed_total does not, \
             the provider signs as the file says: take the variable away. Afterwards such webhooks are refused by themselves."
        ),
        variable,
    };
    let set = match &advice.set_now {
        Some(value) => format!("it is set now: {value}"),
        None => "it is not set".to_owned(),
    };
    let text = format!("{}={}\n{set}\n\n{}", advice.variable, advice.value, advice.meaning);
    print(as_json, &advice, text)?;
    Ok(ExitCode::SUCCESS)
}
