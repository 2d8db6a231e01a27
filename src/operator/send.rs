//! `send`: posts a payload as the provider would.

use std::{io::Read, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use chrono::Utc;
use serde_json::Value;

use super::print;
use crate::{
    config::{ConfigError, Environment},
    provider::{KNOWN, MERCHANT_HEADER},
    verification::{
        Keys, Scheme,
        keys::{Origin, WEBHOOK_SECRET},
        sign::{self, Outgoing},
    },
};

/// Longer than the hub itself may take for an answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Signs with the newest of `<PROVIDER>_WEBHOOK_SECRET` and posts; exit status 0 only for a 2xx.
///
/// # Errors
/// Where the payload cannot be read, the secret is missing or the hub is not there.
pub async fn run(
    environment: &Environment,
    provider: &str,
    file: &Path,
    url: &str,
    merchant: Option<&str>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    if !KNOWN.contains(&provider) {
        bail!("unknown provider {provider:?}; this version knows {}", KNOWN.join(", "));
    }
    let variable = format!("{}_WEBHOOK_SECRET", provider.to_ascii_uppercase());
    let keys = Keys::new().with(WEBHOOK_SECRET, Origin::Env, &environment.secrets(&variable)?);
    let scheme = Scheme::preset(provider).context("the provider has no scheme")?;
    let target = format!("{}/api/webhooks/{provider}", url.trim_end_matches('/'));
    let request = Outgoing::post(target, read(file)?);
    let request = sign::sign(&scheme, &keys, request, Utc::now())
        .map_err(|error| ConfigError::new(variable, format_args!("{error}; the payload must be signed with it")))?;
    let mut post = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .build()?
        .post(request.url)
        .headers(request.headers);
    if let Some(merchant) = merchant {
        post = post.header(MERCHANT_HEADER, merchant);
    }
    let response = post
        .body(request.body)
        .send()
        .await
        .with_context(|| format!("cannot reach {url}"))?;
    let status = response.status();
    let answer: Value = serde_json::from_slice(&response.bytes().await?).unwrap_or(Value::Null);
    print(
        as_json,
        &serde_json::json!({ "status": status.as_u16(), "answer": &answer }),
        format_args!("{status}\n{answer:#}"),
    )?;
    Ok(if status.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut body = Vec::new();
        std::io::stdin().read_to_end(&mut body)?;
        return Ok(body);
    }
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
