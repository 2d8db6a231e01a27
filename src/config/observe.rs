//! `<PROVIDER>_OBSERVE_UNTIL`: until when signatures of a provider are observed and not insisted on.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::{ConfigError, Environment};
use crate::{
    provider::declarative::{
        clock,
        file::{File, Sure},
    },
    verification::Scheme,
};

/// Longest time ahead: two weeks show a provider's busiest days twice. What is left open for longer is forgotten.
pub const LONGEST: TimeDelta = TimeDelta::days(14);

/// Reads it; none if it is not set. A time that is over is no fault: a restart must not depend on it.
pub(super) fn observe_until(
    env: &Environment,
    prefix: &str,
    (file, scheme): (&File, &Scheme),
    has_branch_secrets: bool,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, ConfigError> {
    let variable = format!("{prefix}_OBSERVE_UNTIL");
    let Some(text) = env.text(&variable)? else {
        return Ok(None);
    };
    let until = Some(&text)
        .filter(|text| text.contains('T'))
        .and_then(|text| clock::moment(text));
    let latest = now + LONGEST;
    let Some(until) = until.filter(|until| *until <= latest) else {
        let (days, latest) = (LONGEST.num_days(), latest.to_rfc3339_opts(SecondsFormat::Secs, true));
        return Err(ConfigError::new(
            variable,
            format_args!(
                "expected a time with its zone, such as 2026-12-01T00:00Z, at most {days} days ahead ({latest}), found {text:?}: signatures are not insisted on until then"
            ),
        ));
    };
    match why_not(file, scheme, has_branch_secrets) {
        Some(why) => Err(ConfigError::new(variable, format_args!("cannot be set: {why}"))),
        None => Ok(Some(until)),
    }
}

/// Why a provider's signatures cannot be observed; none if they can.
pub fn why_not(file: &File, scheme: &Scheme, has_branch_secrets: bool) -> Option<&'static str> {
    let is_documented = matches!(file.identity.sure, Sure::Agreed | Sure::Documented);
    if !scheme.can_be_observed() {
        Some("its webhooks are not signed, so there is no signature to be observed")
    } else if is_documented {
        Some("how it signs is documented; look at the secret and at PUBLIC_URL instead")
    } else if has_branch_secrets {
        Some("with secrets of branches, a webhook with any signature could name any branch")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Catalogue;

    #[test]
    fn only_what_is_not_certain_is_observed_and_never_for_long() {
        let known = Catalogue::shipped();
        let now: DateTime<Utc> = "2026-12-01T00:00:00Z".parse().unwrap();
        let read = |provider: &str, text: &str, branches: bool| {
            let file = known.get(provider).unwrap().file();
            let env: Environment = [("X_OBSERVE_UNTIL", text)].into_iter().collect();
            observe_until(&env, "X", (file, &file.verification), branches, now)
        };
        let until = |text: &str| read("keeta", text, false);
        assert_eq!(until("2026-12-08T03:00+03:00").unwrap(), Some(now + TimeDelta::days(7)));
        assert!(until("2026-12-15T00:00Z").is_ok(), "fourteen days");
        assert!(until("2026-11-01T00:00Z").is_ok(), "it is over");
        assert_eq!(until("").unwrap(), None);
        for bad in [
            "2026-12-15T00:01Z",
            "2027-01-01T00:00Z",
            "2026-12-08T00:00",
            "2026-12-08",
            "1765152000",
            "soon",
        ] {
            let error = until(bad).unwrap_err();
            assert_eq!(error.variable, "X_OBSERVE_UNTIL");
            assert!(error.message.contains("at most 14 days"), "{bad}: {error}");
        }
        for (provider, branches, why) in [
            ("careem", false, "documented"),
            ("uber-eats", false, "documented"),
            ("careem-pos", false, "not signed"),
            ("delivery-hero", false, "not signed"),
            ("keeta", true, "branch"),
        ] {
            let error = read(provider, "2026-12-08T00:00Z", branches).unwrap_err();
            assert!(error.message.contains(why), "{provider}: {error}");
        }
    }
}
