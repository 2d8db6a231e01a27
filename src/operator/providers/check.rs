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
            let secrets: Vec<_> = file.verification.secrets().into_iter().collect();
            let prefix = crate::config::prefix(&identity.name);
            let mut variables: Vec<_> = secrets
                .iter()
                .map(|name| format!("{prefix}_{}", name.to_ascii_uppercase()))
                .collect();
            if file.order.head.currency.is_none() && file.order.head.default_currency.is_none() {
                variables.push(format!("{prefix}_CURRENCY"));
            }
            let credentials = credentials(&file, &prefix);
            let is_fetched = file.outbound.as_ref().is_some_and(|spec| spec.fetch.is_some());
            if is_fetched {
                variables.extend(credentials.iter().cloned());
            }
            let needs = match variables.as_slice() {
                [] => String::new(),
                some => format!("; besides {prefix}_ENABLED=true it needs {}", some.join(", ")),
            };
            let mut notes = notes(&file);
            if !is_fetched && !credentials.is_empty() {
                notes.push(format!(
                    "[outbound]: no request is sent without {}",
                    credentials.join(" and ")
                ));
            }
            let noted: String = notes.iter().map(|note| format!("\nnote: {note}")).collect();
            print(
                as_json,
                &json!({ "name": identity.name, "faults": [], "variables": variables, "notes": notes }),
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

/// The variables with the hub's credentials at the provider.
fn credentials(file: &File, prefix: &str) -> Vec<String> {
    let (id, secret) = file.outbound.as_ref().map_or((false, false), |spec| spec.auth.needs());
    let needed = [(id, "CLIENT_ID"), (secret, "CLIENT_SECRET")].into_iter();
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
        ("order.ready_by", &head.ready_by),
        ("order.deliver_by", &head.deliver_by),
        ("status.changed_at", &file.status.changed_at),
        (
            "courier.eta",
            file.courier.as_ref().map_or(&None, |courier| &courier.eta),
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
        let noted = |name: &str| notes(&catalogue.get(name).unwrap().file);
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
