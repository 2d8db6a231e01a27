//! The head that all routes of the backend share: authentication, the provider, the id in the path, the body's limits, the event and the answer.
//! Each route is a [`Route`], which says what is its own.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    extract::{ConnectInfo, Path, Request, State},
    http::Response,
    routing::MethodFilter,
};
use bytes::Bytes;
use serde::Serialize;

use super::{Integration, refusal::IntegrationRefusal};
use crate::{event::EventType, provider::admission::MAX_ORDER_ID_BYTES, remote::Remote, text::segment};

/// A route of the backend.
pub(super) struct Route {
    /// Its method.
    pub(super) method: MethodFilter,
    /// Its path, with the provider and one id.
    pub(super) path: &'static str,
    /// The kind of its requests: in metrics, in the log, and in the ids of requests with a key.
    pub(super) kind: &'static str,
    /// What the id in the path identifies.
    pub(super) about: About,
    /// The type of the event that a request becomes.
    pub(super) event_type: EventType,
    /// The `webhookType` of that event.
    pub(super) webhook_type: &'static str,
    /// Most bytes of a body; none: the limit is `MAX_PAYLOAD_SIZE`.
    pub(super) max_bytes: Option<usize>,
    /// Reads a body for a provider.
    pub(super) read: fn(&Bytes, &Remote) -> Result<Payload, IntegrationRefusal>,
}

/// What the id in the path identifies.
pub(super) enum About {
    /// An order, by the provider's number.
    Order,
    /// A branch. The function makes what the event has instead of an order's number.
    Branch(fn(&str) -> String),
}

/// What a body becomes.
pub(super) struct Payload {
    /// The payload of the event.
    pub(super) bytes: Bytes,
    /// The branch of an order, if the body names it.
    pub(super) branch: Option<String>,
}

impl Payload {
    /// What was read, as the event has it.
    pub(super) fn of(wanted: &impl Serialize) -> Result<Self, IntegrationRefusal> {
        let bytes = serde_json::to_vec(wanted).map_err(|_| IntegrationRefusal::Internal)?;
        Ok(Self {
            bytes: bytes.into(),
            branch: None,
        })
    }
}

impl About {
    /// The name of the id, for refusals and descriptions.
    const fn id_name(&self) -> &'static str {
        match self {
            Self::Order => "externalOrderId",
            Self::Branch(_) => "branchId",
        }
    }

    /// The subject and the branch of the event.
    fn of(&self, id: String, named: Option<String>) -> (String, Option<String>) {
        match self {
            Self::Order => (id, named),
            Self::Branch(subject) => (subject(&id), Some(id)),
        }
    }
}

/// Takes a request.
pub(super) async fn take(
    route: &'static Route,
    State(integration): State<Arc<Integration>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((provider, id)): Path<(String, String)>,
    request: Request,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let request_info = integration.request_info(route.kind, &provider, peer, &parts.headers);
    let taken = async {
        let remote = integration.check(&parts, &provider, request_info.client)?;
        let id = checked_id(route.about.id_name(), id)?;
        let max_bytes = route.max_bytes.unwrap_or(integration.settings.max_payload_bytes);
        let buffered = integration.read(&request_info, &parts.headers, body, max_bytes).await?;
        let payload = (route.read)(&buffered.bytes, remote)?;
        let about = route.about.of(id, payload.branch);
        integration
            .append(route, &provider, about, payload.bytes, &parts.headers)
            .await
    };
    let taken = taken.await;
    taken.unwrap_or_else(|reason| reason.answer(&request_info, &parts.headers))
}

/// An id of the path, as it may stand in an event and in other paths.
fn checked_id(name: &str, id: String) -> Result<String, IntegrationRefusal> {
    if id.len() > MAX_ORDER_ID_BYTES {
        return Err(IntegrationRefusal::invalid(format!(
            "{name}: expected 1 to {MAX_ORDER_ID_BYTES} bytes"
        )));
    }
    match segment::check(&id) {
        Ok(()) => Ok(id),
        Err(why) => Err(IntegrationRefusal::invalid(format!("{name}: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use crate::integration::ROUTES;

    #[test]
    fn each_route_has_its_kind_and_names_its_id() {
        for route in ROUTES {
            let id = format!("{{{}}}", route.about.id_name());
            assert!(
                route.path.contains("{provider}") && route.path.contains(&id),
                "{}",
                route.path
            );
            let same_kind = ROUTES.iter().filter(|one| one.kind == route.kind);
            assert_eq!(same_kind.count(), 1, "{}", route.kind);
        }
    }
}
