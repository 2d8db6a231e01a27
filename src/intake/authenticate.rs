//! Whether a request is the provider's: by its own secrets, and where branches have theirs, by those of the branch that
//! it names.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{Intake, refusal::Reason};
use crate::{
    provider::Enabled,
    transform::branches::Secrets,
    verification::{Refusal, Unverified, Verified, keys::WEBHOOK_SECRET, verify},
};

/// Verifies a request. What it names is believed no further than that it says whose secret to try: for whom it may act is said by
/// the secret that matched ([`crate::verification::Principal`]).
///
/// # Errors
/// Why it is refused; [`Reason::SecretsUnavailable`] where its branch's secrets cannot be known for now.
pub(super) async fn verified<'a>(
    intake: &Intake,
    enabled: &Enabled,
    request: Unverified<'a>,
    now: DateTime<Utc>,
) -> Result<Verified<'a>, Reason> {
    let keys = enabled.keys.current();
    let outcome = verify(&enabled.scheme, request, &keys, now);
    let refusal = match outcome {
        Ok(verified) => return Ok(count(enabled, verified)),
        // Its signature is right; no other secret makes it younger.
        Err(Refusal::SignatureExpired) => return Err(Refusal::SignatureExpired.into()),
        Err(refusal) => refusal,
    };
    if !enabled.branch_secrets {
        return Err(refusal.into());
    }
    let store = enabled.provider.store_ref(&request);
    match intake.branches.secrets(&enabled.name, store.as_deref()).await {
        Secrets::Known(None) => Err(refusal.into()),
        Secrets::Known(Some(of_branch)) => {
            let keys = keys.as_ref().clone();
            let keys = keys.with_branch(WEBHOOK_SECRET, &of_branch.branch_id, &of_branch.secrets);
            Ok(count(enabled, verify(&enabled.scheme, request, &keys, now)?))
        }
        Secrets::Unknown => Err(Reason::SecretsUnavailable),
    }
}

/// Counts the secrets that matched: an old one that nobody uses any more can be removed.
fn count<'a>(enabled: &Enabled, verified: Verified<'a>) -> Verified<'a> {
    for used in verified.proof().secrets() {
        metrics::counter!(
            "webhook_secret_used_total",
            "provider" => Arc::clone(&enabled.name),
            "secret" => used.name.clone(),
            "origin" => used.origin.as_str(),
            "index" => used.index.to_string(),
        )
        .increment(1);
    }
    verified
}
