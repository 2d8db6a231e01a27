//! Verifies that a request comes from the provider: by the provider's secrets or, if branches have secrets of their own, by those of the
//! branch that the request names.

use chrono::{DateTime, Utc};

use super::Intake;
use crate::{
    branches::SecretsLookup,
    registry::Enabled,
    serving::{
        body::SenderClass,
        heavy::{AT_ONCE_BYTES, aside},
        refusal::Reason,
    },
    verification::{Keys, Refusal, Scheme, Unverified, Verified, keys::WEBHOOK_SECRET, observe, verify},
};

/// Verifies a request. The names in it only select the secrets to try; the branch that it may act for follows from the
/// secret that matched ([`crate::event::Principal`]).
///
/// # Errors
/// Why it is refused; [`Reason::SecretsUnavailable`] where its branch's secrets cannot be known for now.
pub(super) async fn verified<'a>(
    intake: &Intake,
    enabled: &Enabled,
    request: Unverified<'a>,
    class: SenderClass,
    now: DateTime<Utc>,
) -> Result<Verified<'a>, Reason> {
    let keys = enabled.keys.current();
    let outcome = verify_in_turn(intake, enabled, request, (&keys, verify), class, now).await?;
    let refusal = match outcome {
        Ok(verified) => return Ok(count(enabled, verified)),
        // The signature is valid, so other secrets cannot change the expired time.
        Err(Refusal::SignatureExpired) => return Err(Refusal::SignatureExpired.into()),
        Err(refusal) => refusal,
    };
    if let Some(observation) = enabled
        .observation
        .as_ref()
        .filter(|observation| observation.is_on(now))
    {
        let observed = verify_in_turn(intake, enabled, request, (&keys, observe), class, now).await??;
        observation.note();
        return Ok(observed);
    }
    if !enabled.branch_secrets {
        return Err(refusal.into());
    }
    let store = enabled.provider.store_ref(&request);
    match intake.branches.secrets(&enabled.name, store.as_deref()).await {
        SecretsLookup::Known(None) => Err(refusal.into()),
        SecretsLookup::Known(Some(of_branch)) => {
            let keys = keys.as_ref().clone();
            let keys = keys.with_branch(WEBHOOK_SECRET, &of_branch.branch_id, &of_branch.secrets);
            let outcome = verify_in_turn(intake, enabled, request, (&keys, verify), class, now).await?;
            Ok(count(enabled, outcome?))
        }
        SecretsLookup::Unknown => Err(Reason::SecretsUnavailable),
    }
}

/// [`verify`] or [`observe`].
type Verification<'a> = fn(&Scheme, Unverified<'a>, &Keys, DateTime<Utc>) -> Result<Verified<'a>, Refusal>;

/// Verifies at once what takes next to no time, and the rest in turn and aside: every secret is tried, so a large body costs
/// as many times its length.
async fn verify_in_turn<'a>(
    intake: &Intake,
    enabled: &Enabled,
    request: Unverified<'a>,
    (keys, by): (&Keys, Verification<'a>),
    class: SenderClass,
    now: DateTime<Utc>,
) -> Result<Result<Verified<'a>, Refusal>, Reason> {
    let work = request.body().len().saturating_mul(keys.count().max(1));
    if work <= AT_ONCE_BYTES {
        return Ok(by(&enabled.scheme, request, keys, now));
    }
    let _turn = intake.heavy.permit(class).await?;
    Ok(aside(|| by(&enabled.scheme, request, keys, now)))
}

/// Counts the secrets that matched, so that an unused old one can be removed.
fn count<'a>(enabled: &Enabled, verified: Verified<'a>) -> Verified<'a> {
    for used in verified.proof().secrets() {
        enabled.measured.used(used);
    }
    verified
}
