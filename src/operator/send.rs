//! `send`: signs a payload as the provider would, and posts it.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use chrono::Utc;
use serde_json::Value;

use super::{print, providers, read};
use crate::{
    config::{self, ClientTls, Environment, Secrets},
    http::{self, Answer, MAX_ANSWER_BYTES, Request, Target},
    provider::MERCHANT_HEADER,
    verification::sign::{self, Outgoing},
};

/// Time limit of the request: longer than the hub may take for its answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Signs the payload with the newest of the provider's secrets and posts it. Exit status 0 only for a 2xx.
///
/// # Errors
/// If the payload cannot be read, the secret is missing, or the hub cannot be reached.
pub async fn run(
    environment: &Environment,
    provider: &str,
    file: &Path,
    url: &str,
    merchant: Option<&str>,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let catalogue = config::catalogue(environment)?;
    let Some(known) = catalogue.get(provider) else {
        bail!("{}", providers::unknown(environment, &catalogue, provider));
    };
    let url = url.trim_end_matches('/');
    let known_as = config::public_url(environment)?;
    // The signature covers the URL that the provider knows, which may differ from the address of this request.
    let public_url = known_as.as_deref().unwrap_or(url);
    let prefix = config::prefix(provider);
    let scheme = config::scheme(environment, &prefix, known.file(), Some(public_url))?;
    let secrets = Secrets::from_environment(environment, &prefix, provider, &scheme, false)?;
    let request = Outgoing::post(format!("{public_url}/api/webhooks/{provider}"), read(file)?);
    let request = sign::sign(&scheme, &secrets.keys(), request, Utc::now())?;
    let path = request.url.strip_prefix(public_url).unwrap_or_default();
    let mut post = Request::new(Method::POST, Target::parse(&format!("{url}{path}")))
        .headers(request.headers)
        .body(request.body);
    if let Some(merchant) = merchant {
        let merchant = merchant
            .parse()
            .context("the merchant cannot be sent in an HTTP header")?;
        post = post.header(HeaderName::from_static(MERCHANT_HEADER), merchant);
    }
    let client = http::client(TIMEOUT, 1, HeaderMap::new(), &ClientTls::of_machine("HUB"))?;
    let asked = client.ask(post, MAX_ANSWER_BYTES).await.and_then(Answer::unbroken);
    let response = asked.with_context(|| format!("cannot reach {url}"))?;
    let status = StatusCode::from_u16(response.status)?;
    let answer: Value = serde_json::from_slice(&response.body).unwrap_or(Value::Null);
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
