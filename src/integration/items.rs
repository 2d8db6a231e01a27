//! `PUT /api/integration/items/{provider}/{branchId}`: which items of a branch can be ordered at a provider.

use std::collections::HashSet;

use axum::routing::MethodFilter;
use bytes::Bytes;

use super::{
    fields,
    refusal::IntegrationRefusal,
    route::{About, Payload, Route},
};
use crate::{
    event::{
        EventType,
        branch::{Availability, ItemsRequested, items_subject},
        push::MENU_SYNC,
    },
    json::fault::{Fault, Faults},
    order::node::Node,
    provider::outbound::branch::ItemsSpec,
    remote::Remote,
};

/// The route.
pub(super) static ROUTE: Route = Route {
    method: MethodFilter::PUT,
    path: "/api/integration/items/{provider}/{branchId}",
    kind: "items_availability",
    about: About::Branch(items_subject),
    event_type: EventType::ItemsRequested,
    webhook_type: MENU_SYNC,
    max_bytes: Some(MAX_BODY_BYTES),
    read: payload,
};

/// Most bytes of a request; an honest one has a hundred for each entry.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// Most items and options of a request.
const MAX_ENTRIES: usize = 1000;
/// Longest id, in bytes.
const MAX_ID_BYTES: usize = 128;

fn payload(body: &Bytes, remote: &Remote) -> Result<Payload, IntegrationRefusal> {
    let wanted = read(body).map_err(IntegrationRefusal::Faults)?;
    supported(&remote.spec.items, &remote.name, &wanted).map_err(IntegrationRefusal::NotSupported)?;
    Payload::of(&wanted)
}

/// Whether the provider has a call for everything that is requested.
fn supported(calls: &[ItemsSpec], provider: &str, wanted: &ItemsRequested) -> Result<(), Vec<Fault>> {
    let mut faults = Faults::default();
    if calls.is_empty() {
        faults.add("", format_args!("{provider} takes no availability of items"));
        return faults.none_or(());
    }
    let items = wanted.items.len();
    for (place, (kind, entry)) in wanted.entries().enumerate() {
        if let Err(why) = ItemsSpec::choose(calls, kind, entry) {
            let pointer = match place.checked_sub(items) {
                None => format!("/items/{place}{}", why.pointer),
                Some(place) => format!("/options/{place}{}", why.pointer),
            };
            faults.add(&pointer, why.message);
        }
    }
    faults.none_or(())
}

/// Reads what is requested.
fn read(body: &[u8]) -> Result<ItemsRequested, Vec<Fault>> {
    fields::body(body, |object, faults| {
        let mut known = HashSet::new();
        let mut entries = |name: &str| -> Vec<Availability> {
            let nodes = object.get(name).elements(faults);
            let read = |node: &Node<'_>| {
                let entry = entry(node, faults);
                if !known.insert((name.to_owned(), entry.id.clone(), entry.group_id.clone())) {
                    faults.add(node.pointer(), "expected each one once");
                }
                entry
            };
            nodes.iter().map(read).collect()
        };
        let wanted = ItemsRequested {
            items: entries("items"),
            options: entries("options"),
        };
        if !(1..=MAX_ENTRIES).contains(&wanted.entries().count()) {
            faults.add("", format_args!("expected 1 to {MAX_ENTRIES} items and options"));
        }
        wanted
    })
}

fn entry(node: &Node<'_>, faults: &mut Faults) -> Availability {
    let object = node.object(faults);
    let id = |name: &str, faults: &mut Faults| {
        let node = object.get(name);
        let id = node.verbatim(faults)?;
        if id.len() > MAX_ID_BYTES || id.chars().any(char::is_control) {
            let expected = format_args!("expected at most {MAX_ID_BYTES} bytes, without control characters");
            faults.add(node.pointer(), expected);
        }
        Some(id)
    };
    let (own, group_id) = (id("id", faults), id("groupId", faults));
    let available = object.get("available").flag(faults);
    for (name, is_missing) in [("id", own.is_none()), ("available", available.is_none())] {
        if is_missing {
            faults.add(object.get(name).pointer(), "missing");
        }
    }
    let until = fields::time(&object.get("until"), faults);
    if until.is_some() && available == Some(true) {
        faults.add(object.get("until").pointer(), "expected only where available is false");
    }
    Availability {
        id: own.unwrap_or_default(),
        group_id,
        available: available.unwrap_or_default(),
        until,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_its_faults_are_named() {
        let good = br#"{"items":[{"id":17,"available":false,"until":"2026-03-01T18:30:00+03:00"},{"id":"b","available":true}],
            "options":[{"id":"17","groupId":"g","available":true,"more":1},{"id":"17","groupId":"h","available":true}]}"#;
        let wanted = read(good).unwrap();
        assert_eq!((wanted.items.len(), wanted.options.len()), (2, 2));
        let until = wanted.items[0].until.unwrap().to_rfc3339();
        assert_eq!((&*wanted.items[0].id, &*until), ("17", "2026-03-01T15:30:00+00:00"));
        assert_eq!(wanted.options[0].group_id.as_deref(), Some("g"));
        for (body, pointer) in [
            ("{}", ""),
            ("[]", ""),
            ("items", ""),
            (r#"{"items":{}}"#, "/items"),
            (r#"{"items":[{"available":true}]}"#, "/items/0/id"),
            (r#"{"items":[{"id":"a"}]}"#, "/items/0/available"),
            (r#"{"items":[{"id":"a","available":"no"}]}"#, "/items/0/available"),
            (
                r#"{"items":[{"id":"a","available":false,"until":"soon"}]}"#,
                "/items/0/until",
            ),
            (
                r#"{"options":[{"id":"a","available":true,"until":"2026-03-01T18:30:00Z"}]}"#,
                "/options/0/until",
            ),
            (
                r#"{"items":[{"id":"a","available":true},{"id":"a","available":false}]}"#,
                "/items/1",
            ),
            (r#"{"items":[{"id":"a","available":true,"available":false}]}"#, ""),
            (
                r#"{"items":[{"id":"a","available":true}],"items":[{"id":"b","available":true}]}"#,
                "",
            ),
            (r#"{"items":[{"id":"a","available":true}],"it\u0065ms":[]}"#, ""),
        ] {
            let faults = read(body.as_bytes()).unwrap_err();
            assert_eq!(faults[0].pointer, pointer, "{body}");
        }
        let many = |count: usize| {
            let entries: Vec<_> = (0..count)
                .map(|id| format!(r#"{{"id":"{id}","available":true}}"#))
                .collect();
            format!(r#"{{"items":[{}]}}"#, entries.join(","))
        };
        assert!(read(many(MAX_ENTRIES).as_bytes()).is_ok());
        assert!(read(many(MAX_ENTRIES + 1).as_bytes()).is_err());
        let long = format!(
            r#"{{"items":[{{"id":"{}","available":true}}]}}"#,
            "x".repeat(MAX_ID_BYTES + 1)
        );
        assert_eq!(read(long.as_bytes()).unwrap_err()[0].pointer, "/items/0/id");
    }
}
