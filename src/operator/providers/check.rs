//! `providers check`: reports all faults of a provider's file.

use std::{path::Path, process::ExitCode};

use serde_json::json;

use super::print;
use crate::order::model::Fulfillment;
use crate::provider::{
    catalogue::{CatalogueError, load_file},
    declarative::{
        file::File,
        pick::{Clock, Time},
    },
};

/// Runs the command; exit status 1 if the file has a fault.
pub(super) fn run(path: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    match load_file(path) {
        Ok(file) => {
            let identity = &file.identity;
            let prefix = crate::config::prefix(&identity.name);
            let Variables { required, credentials } = variables(&file, &prefix);
            let needs = match required.as_slice() {
                [] => String::new(),
                some => format!("; besides {prefix}_ENABLED=true it needs {}", some.join(", ")),
            };
            let mut notes = notes(&file);
            if !credentials.is_empty() {
                notes.push(format!(
                    "[outbound]: no request is sent without {}",
                    credentials.join(" and ")
                ));
            }
            let noted: String = notes.iter().map(|note| format!("\nnote: {note}")).collect();
            print(
                as_json,
                &json!({ "name": identity.name, "faults": [], "variables": required, "notes": notes }),
                format_args!(
                    "{}: {} can be used{needs}{noted}",
                    path.display(),
                    identity.display_name
                ),
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Err(CatalogueError::Faults(faults)) => {
            print(as_json, &json!({ "faults": faults.faults }), &faults)?;
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}

/// The variables of a provider, besides `<PROVIDER>_ENABLED`.
pub(super) struct Variables {
    /// Those without which it cannot be enabled.
    pub(super) required: Vec<String>,
    /// Those without which no request is sent to it.
    pub(super) credentials: Vec<String>,
}

/// What a provider's file needs of the environment.
pub(super) fn variables(file: &File, prefix: &str) -> Variables {
    let secrets = file.verification.secrets().into_iter();
    let mut required: Vec<_> = secrets
        .map(|name| format!("{prefix}_{}", name.to_ascii_uppercase()))
        .collect();
    if file.order.head.currency.is_none() && file.order.head.default_currency.is_none() {
        required.push(format!("{prefix}_CURRENCY"));
    }
    let mut credentials = credentials(file, prefix);
    if file.outbound.as_ref().is_some_and(|spec| spec.fetch.is_some()) {
        required.append(&mut credentials);
    }
    Variables { required, credentials }
}

/// The variables with the hub's credentials at the provider.
fn credentials(file: &File, prefix: &str) -> Vec<String> {
    let auth = file.outbound.as_ref().map(|spec| &spec.auth);
    let (id, secret) = auth.map_or((false, false), |auth| auth.needs());
    let token = auth.is_some_and(|auth| auth.needs_access_token());
    let needed = [(id, "CLIENT_ID"), (secret, "CLIENT_SECRET"), (token, "ACCESS_TOKEN")].into_iter();
    let needed = needed.filter(|(is_needed, _)| *is_needed);
    needed.map(|(_, name)| format!("{prefix}_{name}")).collect()
}

/// Remarks on settings that only samples can confirm.
fn notes(file: &File) -> Vec<String> {
    let head = &file.order.head;
    let times = [
        ("webhook.time", &file.webhook.time),
        ("order.placed_at", &head.placed_at),
        ("order.accept_by", &head.accept_by),
        ("order.confirm_at", &head.confirm_at),
        ("order.ready_by", &head.ready_by),
        ("order.deliver_by", &head.deliver_by),
        ("status.changed_at", &file.status.changed_at),
        (
            "courier.eta",
            file.courier.as_ref().map_or(&None, |courier| &courier.eta),
        ),
        (
            "amendment.changed_at",
            file.amendment.as_ref().map_or(&None, |amendment| &amendment.changed_at),
        ),
    ];
    let is_iso = |time: &Time| time.clock.unwrap_or(head.times) == Clock::Iso;
    let iso = times.into_iter().filter(|(_, time)| time.as_ref().is_some_and(is_iso));
    let names: Vec<_> = iso.map(|(name, _)| name).collect();
    let mut notes = Vec::new();
    if head.fulfillment.other == Some(Fulfillment::PlatformCourier) && !head.fulfillment.from.0.is_empty() {
        notes.push(
            "order.fulfillment: a word that is not in words means the platform's courier, and where none comes the order is stranded; \
             say absent instead of other"
                .to_owned(),
        );
    }
    if names.is_empty() || head.zone.is_some() {
        return notes;
    }
    notes.push(format!(
        "{}: a time that names no zone (Z, +03:00) is left out; where the samples have such, say order.zone",
        names.join(", ")
    ));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Catalogue;

    #[test]
    fn times_without_a_zone_are_noted() {
        let catalogue = Catalogue::shipped();
        let noted = |name: &str| notes(catalogue.get(name).unwrap().file());
        assert!(
            noted("careem")[0].starts_with("order.placed_at"),
            "{:?}",
            noted("careem")
        );
        assert_eq!(
            noted("just-eat").len(),
            1,
            "one of its times is ISO, the others are not"
        );
        assert!(noted("keeta").is_empty(), "its times are numbers");
    }
}
