//! `PUT /api/integration/menus/{provider}/{branchId}`: a menu for a provider.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    extract::{ConnectInfo, Path, Request, State},
    http::Response,
};

use super::{AcceptedRequest, Integration, checked_id, refusal::IntegrationRefusal};
use crate::{
    event::{
        EventType,
        push::{MENU_SYNC, menu_subject},
    },
    push::menu::Menu,
};

/// Takes the request.
pub async fn request(
    State(integration): State<Arc<Integration>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((provider, branch)): Path<(String, String)>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let request_info = integration.request_info(MENU_SYNC, &provider, peer, &parts.headers);
    let taken = async {
        integration.check(&parts, &provider, request_info.client)?;
        let branch = checked_id("branchId", branch)?;
        let max_bytes = integration.settings.max_payload_bytes;
        let buffered = integration.read(&request_info, &parts.headers, body, max_bytes).await?;
        Menu::parse(&buffered.bytes).map_err(IntegrationRefusal::Faults)?;
        let about = AcceptedRequest {
            kind: MENU_SYNC,
            webhook_type: MENU_SYNC,
            event_type: EventType::MenuSyncRequested,
            provider,
            subject: menu_subject(&branch),
            branch: Some(branch),
        };
        // The bytes are stored as received, so the provider's request can be built from them again.
        integration.append(about, buffered.bytes.clone(), &parts.headers).await
    };
    let taken = taken.await;
    taken.unwrap_or_else(|reason| reason.answer(&request_info, &parts.headers))
}
