//! `PUT /api/integration/menus/{provider}/{branchId}`: a menu for a provider.

use axum::routing::MethodFilter;
use bytes::Bytes;

use super::{
    refusal::IntegrationRefusal,
    route::{About, Payload, Route},
};
use crate::{
    event::{
        EventType,
        push::{MENU_SYNC, menu_subject},
    },
    order::node::Node,
    push::menu::Menu,
    remote::Remote,
};

/// The route.
pub(super) static ROUTE: Route = Route {
    method: MethodFilter::PUT,
    path: "/api/integration/menus/{provider}/{branchId}",
    kind: MENU_SYNC,
    about: About::Branch(menu_subject),
    event_type: EventType::MenuSyncRequested,
    webhook_type: MENU_SYNC,
    max_bytes: None,
    read: payload,
};

/// The bytes are stored as received, so the provider's request can be built from them again.
fn payload(body: &Bytes, _: &Remote) -> Result<Payload, IntegrationRefusal> {
    Node::unambiguous(body).map_err(IntegrationRefusal::Faults)?;
    Menu::parse(body).map_err(IntegrationRefusal::Faults)?;
    Ok(Payload {
        bytes: body.clone(),
        branch: None,
    })
}
