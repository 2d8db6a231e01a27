//! `PUT /api/integration/items/{provider}/{branchId}`: which items of a branch can be ordered at a provider.

use std::{collections::HashSet, net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    extract::{ConnectInfo, Path, Request, State},
    http::Response,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{AcceptedRequest, Integration, checked_id, refusal::IntegrationRefusal};
use crate::{
    event::{
        EventType,
        branch::{Availability, ItemsRequested, items_subject},
        push::MENU_SYNC,
    },
    json::fault::{Fault, Faults},
    order::node::Node,
    provider::outbound::branch::ItemsSpec,
};

/// The kind of these requests, in metrics and in the log.
const ITEMS_AVAILABILITY: &str = "items_availability";
/// Most bytes of a request; an honest one has a hundred for each entry.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// Most items and options of a request.
const MAX_ENTRIES: usize = 1000;
/// Longest id, in bytes.
const MAX_ID_BYTES: usize = 128;

/// Takes the request.
pub async fn request(
    State(integration): State<Arc<Integration>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((provider, branch)): Path<(String, String)>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let request_info = integration.request_info(ITEMS_AVAILABILITY, &provider, peer, &parts.headers);
    let taken = async {
        integration.check(&parts, &provider, request_info.client)?;
        let branch = checked_id("branchId", branch)?;
        let buffered = integration
            .read(&request_info, &parts.headers, body, MAX_BODY_BYTES)
            .await?;
        let wanted = read(&buffered.bytes).map_err(IntegrationRefusal::Faults)?;
        let calls = integration.outbound(&provider).map_or(&[][..], |spec| &spec.items);
        supported(calls, &provider, &wanted).map_err(IntegrationRefusal::NotSupported)?;
        let payload = serde_json::to_vec(&wanted).map_err(|_| IntegrationRefusal::Internal)?;
        let about = AcceptedRequest {
            kind: ITEMS_AVAILABILITY,
            webhook_type: MENU_SYNC,
            event_type: EventType::ItemsRequested,
            provider,
            subject: items_subject(&branch),
            branch: Some(branch),
        };
        integration.append(about, Bytes::from(payload), &parts.headers).await
    };
    let taken = taken.await;
    taken.unwrap_or_else(|reason| reason.answer(&request_info, &parts.headers))
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
    let mut faults = Faults::default();
    let Ok(root) = Node::root(body) else {
        faults.add("", "expected JSON");
        return faults.none_or(ItemsRequested::default());
    };
    let object = root.object(&mut faults);
    let mut known = HashSet::new();
    let mut entries = |name: &str| -> Vec<Availability> {
        let nodes = object.get(name).elements(&mut faults);
        let read = |node: &Node<'_>| {
            let entry = entry(node, &mut faults);
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
    faults.none_or(wanted)
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
    let until = time(&object.get("until"), faults);
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

/// A time with its offset. One that is over is taken: a repeat of the request must not be refused because it comes late.
pub(super) fn time(node: &Node<'_>, faults: &mut Faults) -> Option<DateTime<Utc>> {
    let text = node.text(faults)?;
    let time = DateTime::parse_from_rfc3339(&text).ok();
    if time.is_none() {
        faults.add(node.pointer(), "expected a time such as 2026-03-01T18:30:00Z");
    }
    time.map(|time| time.to_utc())
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
