//! Observation: for a limited time a signature that does not match is counted and not refused, where it is not certain what a
//! provider signs. [`crate::config`] limits the time.
//!
//! Only the value of a signature is not insisted on. A request without a signature in its form is refused as always. So is one with a
//! wrong token, with a time of signing that is too old, or with a content that the scheme could not sign in exactly one way.

use chrono::{DateTime, Utc};

use super::{
    Keys, Refusal,
    request::{Covers, Proof, Unverified, Verified},
    scheme::{Scheme, Signed},
};

impl Scheme {
    /// Whether there is a signature to be observed.
    pub fn can_be_observed(&self) -> bool {
        let mut can = false;
        self.each(&mut |step| can |= matches!(step, Self::Hmac(_) | Self::HashConcat(_)));
        can
    }

    fn observed(&self, request: &Unverified<'_>, keys: &Keys, now: DateTime<Utc>) -> Result<Proof, Refusal> {
        match self {
            Self::Hmac(one) | Self::HashConcat(one) => match self.prove(request, keys, now) {
                Err(Refusal::InvalidSignature) => {
                    one.in_its_form(request, now)?;
                    Ok(Proof {
                        // A repeat is one by its bytes.
                        covers: Covers::Body,
                        is_observed: true,
                        ..Proof::of(self)
                    })
                }
                proven => proven,
            },
            Self::AnyOf(steps) => {
                let proven = self.prove(request, keys, now);
                match proven {
                    Err(Refusal::InvalidSignature) => {
                        let mut observed = steps.iter().map(|step| step.observed(request, keys, now));
                        observed.find(Result::is_ok).unwrap_or(proven)
                    }
                    proven => proven,
                }
            }
            Self::AllOf(steps) => {
                let mut whole = Proof::of(self);
                for step in steps {
                    whole = whole.and(step.observed(request, keys, now)?)?;
                }
                Ok(whole)
            }
            Self::Static(_) | Self::Basic(_) | Self::Jwt(_) | Self::None => self.prove(request, keys, now),
        }
    }
}

impl Signed {
    /// Whether all is as it should be but the value of the signature: its length, the time of signing, and what is signed.
    fn in_its_form(&self, request: &Unverified<'_>, now: DateTime<Utc>) -> Result<(), Refusal> {
        let (headers, body) = (request.headers(), request.body());
        let length = self.algorithm.hash(&[[0_u8; 0]]).len();
        let is_one = |text: &String| self.encoding.decode(text).is_some_and(|given| given.len() == length);
        let signatures = self.signature.all(headers, body).unwrap_or_default();
        if !signatures.iter().any(is_one) {
            return Err(Refusal::InvalidSignature);
        }
        let time_text = self.time_text(request)?;
        self.pieces(request, time_text.as_deref())?;
        self.is_whole(request)?;
        self.signed_at(time_text.as_deref(), now).map(|_| ())
    }
}

/// Verifies a request, and lets it in where nothing is wrong with it but the value of a signature. It is the provider's then: no
/// branch is proven.
///
/// # Errors
/// Why it is refused all the same.
pub fn observe<'a>(
    scheme: &Scheme,
    request: Unverified<'a>,
    keys: &Keys,
    now: DateTime<Utc>,
) -> Result<Verified<'a>, Refusal> {
    let proof = scheme.observed(&request, keys, now)?;
    if proof.is_observed && proof.principal.branch().is_some() {
        return Err(Refusal::InvalidSignature);
    }
    Ok(Verified::new(request, proof))
}
